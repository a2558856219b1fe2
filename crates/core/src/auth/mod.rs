//! Who may do what: one function on (channel, action, identity), for every door.
//!
//! | action          | the server | a client                                                                |
//! |-----------------|------------|-------------------------------------------------------------------------|
//! | listen, history | everywhere | public channels; private ones that her grant's `listen` holds; her own, |
//! |                 |            | `user/{id}`                                                             |
//! | speak           | everywhere | where she may listen, and: it is open to talk and not private, or her   |
//! |                 |            | grant's `speak` holds it                                                |
//! | presence, count | everywhere | where she may listen, and presence is on                                |
//! | terminate       | everywhere | nowhere                                                                 |
//!
//! The server is who shows the key. Without a key on the node (development) it is everyone who
//! makes a request, but for those who speak over an open connection. Such a node only listens on
//! loopback; that rule is the configuration's, since it must hold before a socket opens. The table
//! is `plain.md` section 6.
//!
//! This module reads no header, and gets the time as an argument.

mod grant;
pub mod hook;
mod origin;
pub mod subscription;
pub mod token;

pub use grant::Grant;
pub use origin::{HostRules, OriginError, OriginRules, SentTo, is_loopback_host};

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use thiserror::Error;
use token::{TokenError, Verifier};

use crate::channel::{ChannelName, ChannelPattern, Kind};
use crate::disconnect::Refusal;
use crate::user::UserId;

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

    /// Compares in the same time whatever `candidate` is: alike from the start, or of any length.
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let mut same = own.len().ct_eq(&candidate.len());
        for (at, byte) in own.iter().enumerate() {
            // Where the candidate has ended the lengths differ already, whatever stands here.
            same &= byte.ct_eq(candidate.get(at).unwrap_or(&0));
        }
        same.into()
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
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Identity {
    /// The back end: it showed the key, or nobody needs one here.
    Server,
    /// Anyone else: a browser, a phone, a program without the key; with what she was granted.
    Client(Grant),
}

impl Identity {
    /// A client of whom nothing is known.
    pub fn anonymous() -> Self {
        Self::Client(Grant::default())
    }

    /// The user, if it is a client that is known.
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::Server => None,
            Self::Client(grant) => grant.user.as_ref(),
        }
    }

    /// What whoever opened a connection may do over it. A frame is always a client speaking: the
    /// server speaks by POST.
    pub fn over_a_connection(&self) -> &Grant {
        match self {
            Self::Server => Grant::NOTHING,
            Self::Client(grant) => grant,
        }
    }
}

/// What a request brings along to show who makes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Credential<'a> {
    /// Nothing.
    None,
    /// The token of an `Authorization: Bearer` field: the key itself, or a JWT.
    Bearer(&'a [u8]),
    /// A JWT from a place where the key must not be.
    Token(&'a str),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Hear what is published to a channel.
    Listen,
    /// Publish to a channel.
    Speak,
    /// Read what was published to a channel.
    History,
    /// See who listens to a channel.
    Presence,
    /// See how many listen to a channel, where that is not told with [`Self::Listen`].
    Count,
    /// Empty a channel and send its listeners away.
    Terminate,
}

/// The rules of an app.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// What proves to be the server. `None`: development, no key is needed, unless [`Self::is_closed`].
    pub key: Option<Secret>,
    /// The key of before, which still counts, so that keys can be changed without a gap.
    pub key_previous: Option<Secret>,
    /// Without a key, nobody is the server: it has another way to show who it is.
    pub is_closed: bool,
    /// Channels that clients may not listen to without being invited.
    pub private: Vec<ChannelPattern>,
    /// Channels that clients may speak on.
    pub talk: Vec<ChannelPattern>,
    /// Channels of which clients may see who listens.
    pub presence: Vec<ChannelPattern>,
}

impl Policy {
    /// Who makes a request at `now` (Unix seconds) that brings `shown`.
    ///
    /// # Errors
    ///
    /// A wrong key or token is refused rather than taken for a client: whoever shows one means to
    /// be somebody, and would otherwise wonder why only some channels work.
    pub fn identify(
        &self,
        shown: Credential<'_>,
        verifier: &Verifier,
        now: u64,
    ) -> Result<Identity, BadCredential> {
        let token = match shown {
            // Nothing to check it with, and nothing that it would be needed for.
            _ if self.is_open() && verifier.is_empty() => return Ok(Identity::Server),
            Credential::None if self.is_open() => return Ok(Identity::Server),
            Credential::None => return Ok(Identity::anonymous()),
            Credential::Bearer(bearer) if self.is_key(bearer) => return Ok(Identity::Server),
            Credential::Bearer(bearer) => match std::str::from_utf8(bearer) {
                Ok(token) if token.contains('.') => token,
                _ => return Err(BadCredential::Key),
            },
            Credential::Token(token) => token,
        };
        let grant = verifier.verify(token, now).map_err(BadCredential::Token)?;
        Ok(Identity::Client(grant))
    }

    /// Whether whoever asks is the server.
    pub fn is_open(&self) -> bool {
        self.key.is_none() && !self.is_closed
    }

    /// Whether this is one of the keys. Takes the same time whichever it is.
    pub fn is_key(&self, shown: &[u8]) -> bool {
        let is = |key: &Option<Secret>| key.as_ref().is_some_and(|key| key.matches(shown));
        is(&self.key) | is(&self.key_previous)
    }

    /// Whether a channel is one that clients may not listen to without being invited.
    pub fn is_private(&self, channel: &ChannelName) -> bool {
        channel.kind() != Kind::Public || is_in(&self.private, channel)
    }

    /// Whether `identity` may do this. The only function that decides it.
    pub fn permit(
        &self,
        channel: &ChannelName,
        operation: Operation,
        identity: &Identity,
    ) -> Result<(), Refusal> {
        match identity {
            Identity::Server => Ok(()),
            Identity::Client(grant) => self.permit_client(channel, operation, grant),
        }
    }

    /// [`Self::permit`] for a client with this grant.
    pub fn permit_client(
        &self,
        channel: &ChannelName,
        operation: Operation,
        grant: &Grant,
    ) -> Result<(), Refusal> {
        let name = channel.as_str();
        let is_private = self.is_private(channel);
        // Whoever may not hear a channel may do nothing else with it either.
        let may_listen = !is_private || grant.listens_to(channel);
        match operation {
            Operation::Listen | Operation::History if may_listen => Ok(()),
            // 401 for who has shown nothing yet, 403 for whom showing more does not help.
            Operation::Listen | Operation::History if grant.is_anonymous() => Err(Refusal::Unauthorized(
                format!("channel {name:?} is private: it needs a token whose listen list matches it").into(),
            )),
            Operation::Listen | Operation::History => forbidden(format!(
                "channel {name:?} needs a token whose listen list matches it"
            )),
            Operation::Speak if !may_listen => forbidden(format!(
                "channel {name:?} is private: publishing needs the key (Authorization: Bearer …), or a token whose \
                 listen and speak lists both match it"
            )),
            Operation::Speak if grant.speaks_on(channel) || (is_in(&self.talk, channel) && !is_private) => {
                Ok(())
            }
            Operation::Speak => forbidden(format!(
                "channel {name:?} is not open to talk: publishing needs the key (Authorization: Bearer …), or a \
                 token whose speak list matches it"
            )),
            Operation::Presence | Operation::Count if may_listen && is_in(&self.presence, channel) => Ok(()),
            Operation::Presence | Operation::Count => forbidden(format!(
                "who listens to channel {name:?} is only told to the server (setting channels.presence)"
            )),
            Operation::Terminate => forbidden("this needs the key (Authorization: Bearer …)".to_owned()),
        }
    }

    /// Whether `identity` may address everyone (`/ch/*`). No grant holds that.
    pub fn permit_everyone(&self, identity: &Identity) -> Result<(), Refusal> {
        match identity {
            Identity::Server => Ok(()),
            Identity::Client(_) => forbidden("an announcement to everyone needs the key".to_owned()),
        }
    }
}

/// Why a credential is not accepted.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum BadCredential {
    /// Neither the key nor a token.
    #[error("the key in the Authorization header is not this server's")]
    Key,
    /// A token that is not good.
    #[error("{0}")]
    Token(TokenError),
}

impl BadCredential {
    /// Whether it may be an attempt to guess: nothing in it shows that its bearer was ever given it by
    /// somebody with a key. What was signed with one of ours and has run out, or is for somebody else, is
    /// no guess; nor is a key that may be known in a moment.
    pub fn is_guess(self) -> bool {
        match self {
            Self::Key => true,
            Self::Token(error) => matches!(
                error,
                TokenError::TooLarge
                    | TokenError::Malformed
                    | TokenError::Header
                    | TokenError::HeaderParameter(_)
                    | TokenError::Algorithm
                    | TokenError::Signature
            ),
        }
    }
}

impl From<BadCredential> for Refusal {
    fn from(bad: BadCredential) -> Self {
        Self::Unauthorized(bad.to_string().into())
    }
}

fn forbidden(cause: String) -> Result<(), Refusal> {
    Err(Refusal::Forbidden(cause.into()))
}

fn is_in(patterns: &[ChannelPattern], channel: &ChannelName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(channel.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<ChannelPattern> {
        texts
            .iter()
            .map(|text| ChannelPattern::new(text).unwrap())
            .collect()
    }

    fn policy(key: Option<&str>) -> Policy {
        Policy {
            key: key.map(Secret::new),
            key_previous: key.map(|_| Secret::new(OLD_KEY)),
            is_closed: false,
            private: patterns(&["private/*", "user/*"]),
            talk: patterns(&["main", "talk/*", "private/odd"]),
            presence: patterns(&["main", "private/7"]),
        }
    }

    const KEY: &str = "correct horse battery staple";
    const OLD_KEY: &str = "incorrect horse battery staple";

    fn status(result: Result<(), Refusal>) -> u16 {
        result.err().map_or(200, |refusal| refusal.status())
    }

    /// (key of the node, bearer shown, channel) -> statuses of listen, speak by POST, speak by frame.
    #[track_caller]
    fn check(key: Option<&str>, bearer: Option<&str>, channel: &str, expected: [u16; 3]) {
        let policy = policy(key);
        let channel = ChannelName::new(channel).unwrap();
        let shown = bearer.map_or(Credential::None, |bearer| Credential::Bearer(bearer.as_bytes()));
        let identity = policy.identify(shown, &Verifier::default(), 0);
        let ask = |operation, over_a_connection: bool| {
            let identity = identity.clone().map_err(Refusal::from);
            status(identity.and_then(|identity| {
                if over_a_connection {
                    policy.permit_client(&channel, operation, identity.over_a_connection())
                } else {
                    policy.permit(&channel, operation, &identity)
                }
            }))
        };
        let got = [
            ask(Operation::Listen, false),
            ask(Operation::Speak, false),
            ask(Operation::Speak, true),
        ];
        assert_eq!(got, expected, "key {key:?}, bearer {bearer:?}, channel {channel}");
    }

    #[test]
    fn the_table_of_who_may_do_what() {
        check(None, None, "main", [200, 200, 200]);
        check(None, None, "orders", [200, 200, 403]);
        check(None, None, "private/7", [200, 200, 403]);
        check(None, Some("anything"), "orders", [200, 200, 403]);
        check(None, Some("any.thing.else"), "orders", [200, 200, 403]);
        check(Some(KEY), None, "main", [200, 200, 200]);
        check(Some(KEY), None, "talk/7", [200, 200, 200]);
        check(Some(KEY), None, "orders", [200, 403, 403]);
        check(Some(KEY), None, "private/7", [401, 403, 403]);
        check(Some(KEY), None, "private/odd", [401, 403, 403]);
        check(Some(KEY), None, "user/42", [401, 403, 403]);
        check(Some(KEY), Some(KEY), "orders", [200, 200, 403]);
        check(Some(KEY), Some(KEY), "private/7", [200, 200, 403]);
        check(Some(KEY), Some(OLD_KEY), "private/7", [200, 200, 403]);
        check(Some(KEY), Some("wrong"), "main", [401, 401, 401]);
        check(Some(KEY), Some(""), "main", [401, 401, 401]);
        check(
            Some(KEY),
            Some("correct horse battery stapl"),
            "main",
            [401, 401, 401],
        );
        check(
            Some(KEY),
            Some("correct horse battery staple\0"),
            "main",
            [401, 401, 401],
        );
    }

    /// What a client with this user, `listen` and `speak` may do on a channel: statuses of listen,
    /// history, speak, presence, count, terminate.
    #[track_caller]
    fn check_grant(user: &str, listen: &[&str], speak: &[&str], channel: &str, expected: [u16; 6]) {
        let grant = Grant {
            user: UserId::new(user).ok(),
            listen: patterns(listen),
            speak: patterns(speak),
            expires: None,
        };
        let (policy, identity) = (policy(Some(KEY)), Identity::Client(grant));
        let channel = ChannelName::new(channel).unwrap();
        let got = [
            Operation::Listen,
            Operation::History,
            Operation::Speak,
            Operation::Presence,
            Operation::Count,
            Operation::Terminate,
        ]
        .map(|operation| status(policy.permit(&channel, operation, &identity)));
        assert_eq!(
            got, expected,
            "user {user:?}, listen {listen:?}, speak {speak:?}, channel {channel}"
        );
    }

    #[test]
    fn what_a_grant_adds() {
        // Nothing is taken away, and anonymous is who grants nothing.
        check_grant("", &[], &[], "main", [200, 200, 200, 200, 200, 403]);
        check_grant("", &[], &[], "orders", [200, 200, 403, 403, 403, 403]);
        check_grant("", &[], &[], "private/7", [401, 401, 403, 403, 403, 403]);
        check_grant("42", &[], &[], "private/7", [403, 403, 403, 403, 403, 403]);
        check_grant("42", &[], &[], "main", [200, 200, 200, 200, 200, 403]);
        // To hear.
        check_grant(
            "",
            &["private/7"],
            &[],
            "private/7",
            [200, 200, 403, 200, 200, 403],
        );
        check_grant(
            "",
            &["private/*"],
            &[],
            "private/8",
            [200, 200, 403, 403, 403, 403],
        );
        check_grant(
            "",
            &["private/7"],
            &[],
            "private/71",
            [403, 403, 403, 403, 403, 403],
        );
        check_grant("", &["*"], &[], "user/42", [200, 200, 403, 403, 403, 403]);
        // To speak: never where she may not hear.
        check_grant("", &[], &["orders"], "orders", [200, 200, 200, 403, 403, 403]);
        check_grant("", &[], &["*"], "orders", [200, 200, 200, 403, 403, 403]);
        check_grant(
            "",
            &[],
            &["private/7"],
            "private/7",
            [403, 403, 403, 403, 403, 403],
        );
        check_grant(
            "",
            &["*"],
            &["private/7"],
            "private/7",
            [200, 200, 200, 200, 200, 403],
        );
        // A private channel is not open to talk, even for who may hear it.
        check_grant("", &["*"], &[], "private/odd", [200, 200, 403, 403, 403, 403]);
        // Her own channel, exactly.
        check_grant("42", &[], &[], "user/42", [200, 200, 403, 403, 403, 403]);
        check_grant("42", &[], &["user/42"], "user/42", [200, 200, 200, 403, 403, 403]);
        check_grant("42", &[], &[], "user/421", [403, 403, 403, 403, 403, 403]);
        check_grant("4", &[], &["*"], "user/42", [403, 403, 403, 403, 403, 403]);
    }

    #[test]
    fn only_the_server_addresses_everyone() {
        let all = Grant {
            speak: patterns(&["*"]),
            listen: patterns(&["*"]),
            ..Grant::default()
        };
        let policy = policy(Some(KEY));
        assert!(policy.permit_everyone(&Identity::anonymous()).is_err());
        assert!(policy.permit_everyone(&Identity::Client(all)).is_err());
        assert!(policy.permit_everyone(&Identity::Server).is_ok());
    }

    #[test]
    fn what_was_signed_is_no_guess() {
        let guesses = [
            BadCredential::Key,
            BadCredential::Token(TokenError::Malformed),
            BadCredential::Token(TokenError::HeaderParameter("jku")),
            BadCredential::Token(TokenError::Algorithm),
            BadCredential::Token(TokenError::Signature),
        ];
        assert!(guesses.into_iter().all(BadCredential::is_guess));
        let others = [
            TokenError::UnknownKey,
            TokenError::Expired,
            TokenError::NotYet,
            TokenError::NoExpiry,
            TokenError::Audience,
            TokenError::Issuer,
            TokenError::Claims,
            TokenError::TooMany("listen"),
        ];
        assert!(
            !others
                .map(BadCredential::Token)
                .into_iter()
                .any(BadCredential::is_guess)
        );
    }

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret::new("canary");
        let shown = format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }
}
