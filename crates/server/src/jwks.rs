//! Fetches the keys of an identity provider (a JWK set, RFC 7517), beside everything else.
//!
//! Asks the one address that the configuration names ([`crate::outgoing`] says how): at the start, when a token names a key that is not here, and before the keys are older than
//! `tokens.jwks_age_max`; but never sooner than `tokens.jwks_pause` after the time before. While
//! the other side fails, the keys of before stay good.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use fanfare_core::auth::token::VerifyingKey;
use http::{Request, StatusCode, header};

use crate::node::Node;
use crate::outgoing::Caller;

/// Time for one fetch in all.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Starts fetching, if there is anything to fetch. It ends with the process.
pub(crate) fn start(node: &Arc<Node>) -> Result<()> {
    let (Some(source), Some(outgoing)) = (&node.tokens.source, &node.outgoing) else {
        return Ok(());
    };
    let caller = Caller::new(source).context("tokens.jwks_url")?;
    let node = Arc::clone(node);
    outgoing.spawn(async move { keep_fresh(&node, &caller).await });
    Ok(())
}

async fn keep_fresh(node: &Node, caller: &Caller) {
    let settings = &node.config.tokens;
    loop {
        let begun = Instant::now();
        let well = renew(node, caller).await;
        node.metrics.jwks_fetched(well);
        tokio::time::sleep(settings.jwks_pause.saturating_sub(begun.elapsed())).await;
        // What has failed is tried again at once, that is after the pause.
        if well {
            let rest = settings.jwks_age_max.saturating_sub(begun.elapsed());
            let _ = tokio::time::timeout(rest, node.tokens.wanted.notified()).await;
        }
    }
}

/// The keys that are there now.
async fn fetch(caller: &Caller) -> Result<Vec<VerifyingKey>> {
    let request = Request::get("/").header(header::ACCEPT, "application/json, application/jwk-set+json");
    let answer = caller
        .call(request, Bytes::new(), FETCH_TIME_MAX, ANSWER_BYTES_MAX)
        .await?;
    ensure!(
        answer.status() == StatusCode::OK,
        "the answer was {}",
        answer.status()
    );
    Ok(VerifyingKey::from_jwks(answer.body())?)
}

/// One fetch; says whether it went well.
async fn renew(node: &Node, caller: &Caller) -> bool {
    match fetch(caller).await {
        Ok(keys) => {
            tracing::info!(keys = keys.len(), "fetched the keys of tokens.jwks_url");
            if keys.is_empty() {
                tracing::warn!("tokens.jwks_url holds no key of an algorithm that is accepted here");
            }
            node.tokens.replace_fetched(keys);
            true
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(%error, "cannot fetch the keys of tokens.jwks_url; those of before stay");
            false
        }
    }
}
