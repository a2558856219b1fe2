//! Fetches the keys of an identity provider (a JWK set, RFC 7517), beside everything else.
//!
//! One thread with a runtime of its own asks the one address that the configuration names: at the
//! start, when a token names a key that is not here, and before the keys are older than
//! `tokens.jwks_age_max`; but never sooner than `tokens.jwks_pause` after the time before. While
//! the other side fails, the keys of before stay good.
//!
//! One request on a connection of its own: no redirects, no cookies, no proxy, nothing kept.
//! Certificates are checked against the system's list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use fanfare_core::auth::is_loopback_host;
use fanfare_core::auth::token::VerifyingKey;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::node::Node;
use crate::tls;

/// Time for one fetch in all.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where keys are fetched from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Source {
    secure: bool,
    host: String,
    port: u16,
    target: String,
}

impl Source {
    /// Reads an address; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address such as https://id.example/keys.json");
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if is_loopback_host(host) => false,
            Some("http") => return Err(format!("{text:?} must be https; http is only for loopback")),
            _ => return Err(wrong()),
        };
        Ok(Self {
            secure,
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            target: uri
                .path_and_query()
                .map_or("/", |target| target.as_str())
                .to_owned(),
        })
    }

    /// The keys that are there now, over `tls` if the address is https.
    async fn fetch(&self, tls: Option<&TlsConnector>) -> Result<Vec<VerifyingKey>> {
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let body = match tls {
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())?;
                self.ask(tls.connect(name, socket).await?).await?
            }
            None => self.ask(socket).await?,
        };
        Ok(VerifyingKey::from_jwks(&body)?)
    }

    async fn ask<S>(&self, stream: S) -> Result<Bytes>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender, whatever the other side does.
        let connection = tokio::spawn(connection);
        let host = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let request = http::Request::get(&self.target)
            .header(http::header::HOST, host)
            .header(http::header::ACCEPT, "application/json, application/jwk-set+json")
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        ensure!(
            answer.status() == http::StatusCode::OK,
            "the answer was {}",
            answer.status()
        );
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        connection.abort();
        match body {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => bail!("the answer could not be read: {error}"),
        }
    }
}

/// Starts the thread, if there is anything to fetch. It ends with the process.
pub(crate) fn start(node: &Arc<Node>) -> Result<()> {
    let Some(source) = node.tokens.source.clone() else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tls = source.secure.then(|| tls::client::connector(None)).transpose();
    let tls = tls.context("tokens.jwks_url")?;
    let node = Arc::clone(node);
    std::thread::Builder::new()
        .name("jwks".to_owned())
        .spawn(move || runtime.block_on(keep_fresh(&node, &source, tls.as_ref())))?;
    Ok(())
}

async fn keep_fresh(node: &Node, source: &Source, tls: Option<&TlsConnector>) {
    let settings = &node.config.tokens;
    loop {
        let begun = Instant::now();
        let well = renew(node, source, tls).await;
        node.metrics.jwks_fetched(well);
        tokio::time::sleep(settings.jwks_pause.saturating_sub(begun.elapsed())).await;
        // What has failed is tried again at once, that is after the pause.
        if well {
            let rest = settings.jwks_age_max.saturating_sub(begun.elapsed());
            let _ = tokio::time::timeout(rest, node.tokens.wanted.notified()).await;
        }
    }
}

/// One fetch; says whether it went well.
async fn renew(node: &Node, source: &Source, tls: Option<&TlsConnector>) -> bool {
    let fetched = tokio::time::timeout(FETCH_TIME_MAX, source.fetch(tls)).await;
    match fetched.map_err(anyhow::Error::from).flatten() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(bool, &str, u16, &str)>) {
        let expected = expected.map(|(secure, host, port, target)| Source {
            secure,
            host: host.to_owned(),
            port,
            target: target.to_owned(),
        });
        assert_eq!(Source::parse(text).ok(), expected, "{text}");
    }

    #[test]
    fn addresses() {
        check("https://id.example/a?b", Some((true, "id.example", 443, "/a?b")));
        check("https://id.example", Some((true, "id.example", 443, "/")));
        check("https://[::1]:8443/a", Some((true, "::1", 8443, "/a")));
        check("http://127.0.0.1:81/a", Some((false, "127.0.0.1", 81, "/a")));
        check("http://localhost/a", Some((false, "localhost", 80, "/a")));
        check("http://id.example/a", None);
        check("http://127.0.0.1.id.example/a", None);
        check("http://127.0.0.1@id.example/a", None);
        check("https://ann@id.example/a", None);
        check("ftp://id.example/a", None);
        check("file:///etc/passwd", None);
        check("/a", None);
        check("", None);
    }
}
