//! Who may do what: one function on (channel, action, identity), for every door.
//!
//! | node                    | listen                        | a client speaks        | the server speaks |
//! |-------------------------|-------------------------------|------------------------|-------------------|
//! | development: no key     | everyone, everywhere          | channels open to talk  | everyone's POST   |
//! | with a key              | public channels; key: all     | channels open to talk  | key               |
//!
//! A node without a key only listens on loopback; that rule is the configuration's, since it
//! must hold before a socket opens. The table is `plain.md` section 6.
//!
//! This module reads no header and knows no time.

mod origin;

pub use origin::{HostRules, OriginError, OriginRules, is_loopback_host};

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;

use crate::channel::{ChannelName, ChannelPattern};
use crate::disconnect::Refusal;

/// A text that must not show up in logs, errors or printed configurations.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Every call is a place to look at in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in constant time for texts of equal length.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(candidate).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Who makes a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Identity {
    /// The back end: it showed the key, or nobody needs one here.
    Server,
    /// Anyone else: a browser, a phone, a program without the key.
    Client,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Hear what is published to a channel.
    Listen,
    /// Publish to a channel.
    Speak,
}

/// The rules of an app.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What proves to be the server. `None`: development, no key is needed.
    pub key: Option<Secret>,
    /// Channels that clients may not listen to without being invited.
    pub private: Vec<ChannelPattern>,
    /// Channels that clients may speak on.
    pub talk: Vec<ChannelPattern>,
}

impl Policy {
    /// Who shows `bearer`, the token of an `Authorization: Bearer` field.
    ///
    /// # Errors
    ///
    /// A wrong key is refused rather than taken for a client: whoever shows a key means to be
    /// the server, and would otherwise wonder why only some channels work.
    pub fn identify(&self, bearer: Option<&[u8]>) -> Result<Identity, Refusal> {
        match (&self.key, bearer) {
            (None, _) => Ok(Identity::Server),
            (Some(_), None) => Ok(Identity::Client),
            (Some(key), Some(shown)) if key.matches(shown) => Ok(Identity::Server),
            (Some(_), Some(_)) => Err(Refusal::Unauthorized(
                "the key in the Authorization header is not this server's".into(),
            )),
        }
    }

    /// Whether a channel is one that clients may not listen to without being invited.
    pub fn is_private(&self, channel: &ChannelName) -> bool {
        is_in(&self.private, channel)
    }

    /// Whether `identity` may do this. The only function that decides it.
    pub fn permit(
        &self,
        channel: &ChannelName,
        operation: Operation,
        identity: Identity,
    ) -> Result<(), Refusal> {
        if identity == Identity::Server {
            return Ok(());
        }
        match operation {
            Operation::Listen if self.is_private(channel) => Err(Refusal::Unauthorized(
                format!("channel {:?} is private", channel.as_str()).into(),
            )),
            Operation::Listen => Ok(()),
            // Who may not hear a channel may not speak on it either, whatever `talk` says.
            Operation::Speak if is_in(&self.talk, channel) && !self.is_private(channel) => Ok(()),
            Operation::Speak => Err(Refusal::Forbidden(
                format!(
                    "channel {:?} is not open to talk: publishing needs the key (Authorization: Bearer …)",
                    channel.as_str()
                )
                .into(),
            )),
        }
    }

    /// The identity of someone who speaks over an open connection: in development everyone may
    /// *post* as the server, but a frame on a WebSocket is always a client speaking.
    pub fn permit_frame(&self, channel: &ChannelName) -> Result<(), Refusal> {
        self.permit(channel, Operation::Speak, Identity::Client)
    }

    /// Whether `identity` may address everyone (`/ch/*`).
    pub fn permit_everyone(&self, identity: Identity) -> Result<(), Refusal> {
        match identity {
            Identity::Server => Ok(()),
            Identity::Client => Err(Refusal::Forbidden(
                "an announcement to everyone needs the key".into(),
            )),
        }
    }
}

fn is_in(patterns: &[ChannelPattern], channel: &ChannelName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(channel.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(key: Option<&str>) -> Policy {
        let patterns = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| ChannelPattern::new(text).unwrap())
                .collect()
        };
        Policy {
            key: key.map(Secret::new),
            private: patterns(&["private/*", "user/*"]),
            talk: patterns(&["main", "talk/*", "private/odd"]),
        }
    }

    const KEY: &str = "correct horse battery staple";

    /// (key of the node, bearer shown, channel) -> statuses of listen, speak by POST, speak by frame.
    #[track_caller]
    fn check(key: Option<&str>, bearer: Option<&str>, channel: &str, expected: [u16; 3]) {
        let policy = policy(key);
        let channel = ChannelName::new(channel).unwrap();
        let status = |result: Result<(), Refusal>| result.err().map_or(200, |refusal| refusal.status());
        let identity = policy.identify(bearer.map(str::as_bytes));
        let ask = |operation| {
            status(
                identity
                    .clone()
                    .and_then(|identity| policy.permit(&channel, operation, identity)),
            )
        };
        let got = [
            ask(Operation::Listen),
            ask(Operation::Speak),
            status(policy.permit_frame(&channel)),
        ];
        assert_eq!(got, expected, "key {key:?}, bearer {bearer:?}, channel {channel}");
    }

    #[test]
    fn the_table_of_who_may_do_what() {
        check(None, None, "main", [200, 200, 200]);
        check(None, None, "orders", [200, 200, 403]);
        check(None, None, "private/7", [200, 200, 403]);
        check(None, Some("anything"), "orders", [200, 200, 403]);
        check(Some(KEY), None, "main", [200, 200, 200]);
        check(Some(KEY), None, "talk/7", [200, 200, 200]);
        check(Some(KEY), None, "orders", [200, 403, 403]);
        check(Some(KEY), None, "private/7", [401, 403, 403]);
        check(Some(KEY), None, "private/odd", [401, 403, 403]);
        check(Some(KEY), None, "user/42", [401, 403, 403]);
        check(Some(KEY), Some(KEY), "orders", [200, 200, 403]);
        check(Some(KEY), Some(KEY), "private/7", [200, 200, 403]);
        check(Some(KEY), Some("wrong"), "main", [401, 401, 200]);
        check(Some(KEY), Some(""), "main", [401, 401, 200]);
        check(
            Some(KEY),
            Some("correct horse battery stapl"),
            "main",
            [401, 401, 200],
        );
    }

    #[test]
    fn only_the_server_addresses_everyone() {
        assert!(policy(Some(KEY)).permit_everyone(Identity::Client).is_err());
        assert!(policy(Some(KEY)).permit_everyone(Identity::Server).is_ok());
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::new("canary");
        let shown = format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }
}
