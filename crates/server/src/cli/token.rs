//! `fanfare token`: makes a token, for trying things out. The back end of a site makes its own.
//!
//! The key comes from the environment, never from a flag: flags are visible to every user of the
//! machine. What the server would refuse is refused here already.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fanfare_core::auth::Secret;
use fanfare_core::auth::token::{TokenRules, Verifier, VerifyingKey, sign};
use fanfare_core::limits::seconds;

use super::ServerArgs;
use crate::clock::unix_now;

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  FANFARE_KEY=… fanfare token --sub 42 --listen 'room/*' --speak room/7 --ttl 1h\n\nThe token goes into ?token=…, the cookie fanfare_token, or Authorization: Bearer …"
)]
pub(super) struct Args {
    /// The user's id.
    #[arg(long, value_name = "ID")]
    sub: Option<String>,
    /// A channel to listen to, or a beginning of names and *; may be given more than once.
    #[arg(long, value_name = "CHANNEL")]
    listen: Vec<String>,
    /// A channel to speak on, likewise.
    #[arg(long, value_name = "CHANNEL")]
    speak: Vec<String>,
    /// How long it is good: 90s, 15m, 1h.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl)]
    ttl: Duration,
}

fn ttl(text: &str) -> Result<Duration, &'static str> {
    seconds::parse(text)
        .filter(|ttl| ttl.as_secs() > 0)
        .ok_or("a time such as 90s, 15m or 1h")
}

pub(super) fn run(args: &Args) -> Result<()> {
    let Some(key) = ServerArgs::key().map(Secret::new) else {
        bail!("FANFARE_KEY is not set; it must be the key of the server");
    };
    let token = make(args, &key, unix_now().as_secs())?;
    super::print(&format!("{token}\n"))
}

fn make(args: &Args, key: &Secret, now: u64) -> Result<String> {
    let end = now.checked_add(args.ttl.as_secs()).context("--ttl is too long")?;
    let mut claims = serde_json::Map::new();
    claims.extend(
        args.sub
            .as_ref()
            .map(|sub| ("sub".to_owned(), sub.as_str().into())),
    );
    for (name, list) in [("listen", &args.listen), ("speak", &args.speak)] {
        if !list.is_empty() {
            claims.insert(name.to_owned(), list.as_slice().into());
        }
    }
    claims.insert("exp".to_owned(), end.into());
    let token = sign(&serde_json::Value::from(claims).to_string(), key)?;
    let own = VerifyingKey::from_secret(key);
    ensure!(own.is_some(), "the key is empty");
    Verifier::new(own.into_iter().collect(), TokenRules::default()).verify(&token, now)?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "a key of at least thirty-two bytes";

    fn args(sub: &str, listen: &str) -> Args {
        Args {
            sub: Some(sub.to_owned()),
            listen: vec![listen.to_owned()],
            speak: vec!["room/7".to_owned()],
            ttl: Duration::from_secs(100),
        }
    }

    #[test]
    fn it_is_what_the_server_accepts() {
        let key = Secret::new(KEY);
        let verifier = Verifier::new(
            VerifyingKey::from_secret(&key).into_iter().collect(),
            TokenRules::default(),
        );
        let grant = make(&args("42", "room/*"), &key, 1_000)
            .ok()
            .and_then(|token| verifier.verify(&token, 1_000).ok());
        let seen = grant.map(|grant| {
            (
                grant.user.map(|user| user.to_string()),
                grant.listen.len(),
                grant.expires,
            )
        });
        assert_eq!(seen, Some((Some("42".to_owned()), 1, Some(1_100))));
    }

    #[test]
    fn what_the_server_would_refuse_is_refused() {
        let key = Secret::new(KEY);
        assert!(make(&args("", "a"), &key, 0).is_err());
        assert!(make(&args("42", ""), &key, 0).is_err());
        assert!(make(&args("42", &"x".repeat(201)), &key, 0).is_err());
        assert!(make(&args("42", "a"), &Secret::new(""), 0).is_err());
        assert!(ttl("0s").is_err() && ttl("soon").is_err() && ttl("2h").is_ok());
    }
}
