//! Who may subscribe to what through the Pusher door, and as whom (`pusher.md` sections 5, 6 and 10).
//!
//! | Channel | Needs |
//! |---|---|
//! | public | nothing |
//! | a user's own | that this user has signed in on the connection, whatever is signed |
//! | any other that is private, by its name or the settings | a signature of the app |
//!
//! A signature names the connection and the channel in the very words that the client sends, so it is
//! worth nothing for another one. Who becomes a member of a presence channel is in what was signed, or is
//! the user who has signed in.

use thiserror::Error;

use super::{Grant, Operation, Policy, Secret};
use crate::channel::{ChannelName, Kind};
use crate::wire::pusher::presence::{self, Profile, ProfileError};
use crate::wire::pusher::sign;

/// What somebody sends who wants to subscribe.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The connection, as it was told.
    pub socket_id: &'a str,
    /// The channel, in the words of the client.
    pub text: &'a str,
    /// The same, checked.
    pub channel: &'a ChannelName,
    /// `key:signature`; empty if there is none.
    pub auth: &'a str,
    /// Who subscribes, in the very words that were signed.
    pub channel_data: Option<&'a str>,
}

/// An app, as far as it decides.
#[derive(Clone, Copy, Debug)]
pub struct Signatory<'a> {
    /// Its key.
    pub key: &'a str,
    /// Its secret.
    pub secret: &'a Secret,
    /// Bytes of what is shown of a member.
    pub user_info_bytes_max: usize,
}

/// Why somebody may not: a sentence for the client, without any signature that would have been good.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum NotAdmitted {
    /// It is not allowed.
    #[error("{0}")]
    Auth(String),
    /// What is to be shown of a member is too large.
    #[error("{0}")]
    TooLarge(String),
}

impl From<ProfileError> for NotAdmitted {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::TooLarge(_) => Self::TooLarge(error.to_string()),
            ProfileError::Malformed(_) => Self::Auth(error.to_string()),
        }
    }
}

/// Whether somebody may subscribe. Returns the member that the connection becomes, of a presence channel.
pub fn admit(
    wish: &Wish<'_>,
    app: &Signatory<'_>,
    policy: &Policy,
    signed_in: Option<&Profile>,
) -> Result<Option<Profile>, NotAdmitted> {
    let kind = wish.channel.kind();
    if kind == Kind::Own {
        let grant = Grant {
            user: signed_in.map(|profile| profile.user.clone()),
            ..Grant::default()
        };
        let permitted = policy.permit_client(wish.channel, Operation::Listen, &grant);
        return permitted.map(|()| None).map_err(|_| {
            NotAdmitted::Auth("only a connection that this user has signed in on may listen to it".to_owned())
        });
    }
    if !policy.is_private(wish.channel) {
        return Ok(None);
    }
    let signed = sign::subscription(wish.socket_id, wish.text, wish.channel_data);
    sign::check_auth(wish.auth, app.key, app.secret, &signed).map_err(NotAdmitted::Auth)?;
    if kind != Kind::Presence {
        return Ok(None);
    }
    match (wish.channel_data, signed_in) {
        (Some(data), _) => Ok(Some(presence::channel_data(data, app.user_info_bytes_max)?)),
        (None, Some(profile)) => Ok(Some(profile.clone())),
        (None, None) => Err(NotAdmitted::Auth(
            "a presence channel needs channel_data with a user_id, or a user who has signed in".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::ChannelPattern;
    use crate::user::UserId;

    const KEY: &str = "demo-key-7f3a";
    const SECRET: &str = "demo-secret-b91c";
    const SOCKET: &str = "81923.4471";
    const MEI: &str = r#"{"user_id":"u-17","user_info":{"name":"Mei"}}"#;

    /// The signature of these words, as a back end makes it.
    fn auth(words: &str) -> String {
        format!("{KEY}:{}", sign::sign(&Secret::new(SECRET), words.as_bytes()))
    }

    /// The member that one becomes, `-` for none, or a part of the refusal.
    #[track_caller]
    fn check(
        text: &str,
        auth: &str,
        data: Option<&str>,
        signed_in: Option<&str>,
        expected: Result<&str, &str>,
    ) {
        let channel = ChannelName::new(text).unwrap();
        let policy = Policy {
            private: vec![ChannelPattern::new("private/*").unwrap()],
            ..Policy::default()
        };
        let wish = Wish {
            socket_id: SOCKET,
            text,
            channel: &channel,
            auth,
            channel_data: data,
        };
        let app = Signatory {
            key: KEY,
            secret: &Secret::new(SECRET),
            user_info_bytes_max: 20,
        };
        let profile = signed_in.map(|id| Profile {
            user: UserId::new(id).unwrap(),
            info: None,
            watchlist: Vec::new(),
        });
        match (admit(&wish, &app, &policy, profile.as_ref()), expected) {
            (Ok(member), Ok(expected)) => {
                let member = member.map_or("-".to_owned(), |member| member.user.to_string());
                assert_eq!(member, expected, "{text} {auth}");
            }
            (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{text} {auth}: {error}"),
            (got, _) => panic!("{text} {auth}: {got:?}"),
        }
    }

    #[test]
    fn a_public_channel_needs_nothing() {
        check("orders", "", None, None, Ok("-"));
        check("cache-orders", "nonsense", Some(MEI), None, Ok("-"));
    }

    #[test]
    fn a_private_channel_needs_its_own_signature() {
        let good = auth("81923.4471:private-orders.42");
        check("private-orders.42", &good, None, None, Ok("-"));
        check("private-orders.42", "", None, None, Err("needs a signature"));
        check(
            "private-orders.42",
            "",
            None,
            Some("u-17"),
            Err("needs a signature"),
        );
        check("private-orders.43", &good, None, None, Err("invalid signature"));
        check(
            "private-encrypted-orders.42",
            &good,
            None,
            None,
            Err("invalid signature"),
        );
        let others = auth("81923.4472:private-orders.42");
        check("private-orders.42", &others, None, None, Err("invalid signature"));
        // What was signed with data is good with this data only.
        let with_data = auth(&format!("81923.4471:private-orders.42:{MEI}"));
        check("private-orders.42", &with_data, Some(MEI), None, Ok("-"));
        check(
            "private-orders.42",
            &with_data,
            None,
            None,
            Err("invalid signature"),
        );
        check(
            "private-orders.42",
            &good,
            Some(MEI),
            None,
            Err("invalid signature"),
        );
        // Private by the settings, for all doors.
        check("private/orders", "", None, None, Err("needs a signature"));
        check(
            "private/orders",
            &auth("81923.4471:private/orders"),
            None,
            None,
            Ok("-"),
        );
    }

    #[test]
    fn a_member_is_the_one_that_was_signed() {
        let presence = |data: &str| auth(&format!("81923.4471:presence-room.3:{data}"));
        check("presence-room.3", &presence(MEI), Some(MEI), None, Ok("u-17"));
        check(
            "presence-room.3",
            &presence(MEI),
            Some(MEI),
            Some("u-2"),
            Ok("u-17"),
        );
        let alone = auth("81923.4471:presence-room.3");
        check("presence-room.3", &alone, None, Some("u-2"), Ok("u-2"));
        check("presence-room.3", &alone, None, None, Err("needs channel_data"));
        check("presence-room.3", "", None, Some("u-2"), Err("needs a signature"));
        let other = MEI.replace("17", "18");
        check(
            "presence-room.3",
            &presence(MEI),
            Some(&other),
            None,
            Err("invalid signature"),
        );
        check(
            "presence-room.3",
            &presence("{}"),
            Some("{}"),
            None,
            Err("no user_id"),
        );
        let large = r#"{"user_id":"u","user_info":"xxxxxxxxxxxxxxxxxxxx"}"#;
        check(
            "presence-room.3",
            &presence(large),
            Some(large),
            None,
            Err("larger than 20"),
        );
    }

    #[test]
    fn a_users_own_channel_is_for_who_has_signed_in() {
        check("#server-to-user-42", "", None, Some("42"), Ok("-"));
        check("user/42", "", None, Some("42"), Ok("-"));
        check("#server-to-user-42", "", None, Some("421"), Err("signed in on"));
        check("#server-to-user-42", "", None, None, Err("signed in on"));
        let signed = auth("81923.4471:#server-to-user-42");
        check("#server-to-user-42", &signed, None, None, Err("signed in on"));
    }
}
