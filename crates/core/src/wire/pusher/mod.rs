//! The Pusher protocol, version 7: what the server says over a WebSocket.
//!
//! [`frame`] reads what a client says, [`rest`] what a back end asks for, [`sign`] knows what either
//! signs; [`webhook`] is what a back end is told. This file makes frames: one JSON object each, in which
//! `data` is a JSON text inside a string wherever the protocol has it so (`pusher.md` section 3), for typed
//! readers insist on it.
//!
//! # What a publication looks like
//!
//! | Said through | `event` | `data` |
//! |---|---|---|
//! | this door's REST | its name | the publisher's string, byte for byte |
//! | this door's WebSocket | `client-…` | the value as it was said |
//! | the plain door, text | its event, else `message` | the text, a string |
//! | the plain door, binary | the same | `data:application/octet-stream;base64,…` |
//! | the plain door, to everyone | the same, without `channel` | the same |
//!
//! This module knows no session, and does not decide who may hear what.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::channel::{ChannelName, Kind, OWN_CHANNEL, SERVER_TO_USER};
use crate::publication::{DataKind, Entry, EventName};
use crate::user::UserId;
use crate::wire::websocket;

pub mod frame;
pub mod name;
pub mod path;
pub mod presence;
pub mod rest;
pub mod sign;
pub mod webhook;

/// The event of a publication that has none.
pub const EVENT_DEFAULT: &str = "message";

/// The event that tells listeners that something they had not seen of a channel is gone. Not of the
/// protocol: who does not listen to it is not disturbed.
pub const GAP: &str = "fanfare:gap";

/// What the events of the protocol itself begin with. Nobody may publish such.
const RESERVED: [&str; 2] = ["pusher:", "pusher_internal:"];

/// A channel's new member, to the others.
pub const MEMBER_ADDED: &str = "pusher_internal:member_added";
/// A channel's member who has gone, to the others.
pub const MEMBER_REMOVED: &str = "pusher_internal:member_removed";
/// How many listen to a channel.
pub const SUBSCRIPTION_COUNT: &str = "pusher_internal:subscription_count";

/// Listeners of a channel up to which they are told at once that they are another number; beyond, every
/// [`COUNT_INTERVAL`] (section 8).
pub const COUNT_AT_ONCE_MAX: usize = 100;
/// See [`COUNT_AT_ONCE_MAX`].
pub const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// Whether an event is the protocol's own.
pub fn is_reserved(event: &str) -> bool {
    RESERVED.iter().any(|prefix| event.starts_with(prefix))
}

/// The name of a channel as this protocol has it.
pub fn shown(channel: &ChannelName) -> String {
    match channel.as_str().strip_prefix(OWN_CHANNEL) {
        Some(user) => format!("{SERVER_TO_USER}{user}"),
        None => channel.as_str().to_owned(),
    }
}

/// A text as a JSON string, quotes included.
fn quoted(text: &str) -> String {
    // Serialising a string cannot fail.
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

/// One frame: `data` is JSON as it goes out, `more` what comes behind it.
fn event(event: &str, channel: Option<&ChannelName>, data: Option<&str>, more: &str) -> Bytes {
    let mut text = format!("{{\"event\":{}", quoted(event));
    // Writing to a string cannot fail.
    if let Some(channel) = channel {
        let _ = write!(text, ",\"channel\":{}", quoted(&shown(channel)));
    }
    if let Some(data) = data {
        let _ = write!(text, ",\"data\":{data}");
    }
    let _ = write!(text, "{more}}}");
    websocket::text(text.as_bytes())
}

/// The bytes of an entry for a subscriber of `channel`; `None`: an announcement.
pub(super) fn encode_entry(entry: &Entry, channel: Option<&ChannelName>) -> Bytes {
    let draft = &entry.draft;
    let name = draft.event.as_ref().map_or(EVENT_DEFAULT, EventName::as_str);
    let text = || std::str::from_utf8(&draft.data).unwrap_or_default();
    let data = match draft.kind {
        DataKind::Text => quoted(text()),
        DataKind::Json => text().to_owned(),
        DataKind::Binary => format!(
            "\"data:application/octet-stream;base64,{}\"",
            STANDARD.encode(&draft.data)
        ),
    };
    let is_presence = channel.is_some_and(|channel| channel.kind() == Kind::Presence);
    let speaker = draft.speaker.as_ref().filter(|_| is_presence);
    let more = speaker.map_or(String::new(), |user| format!(",\"user_id\":{}", quoted(user)));
    event(name, channel, Some(&data), &more)
}

/// The first frame of a connection. `activity_timeout` in seconds, at least 1.
pub fn established(socket_id: &str, activity_timeout: u64) -> Bytes {
    let data = format!(
        "{{\"socket_id\":\"{socket_id}\",\"activity_timeout\":{}}}",
        activity_timeout.max(1)
    );
    event("pusher:connection_established", None, Some(&quoted(&data)), "")
}

/// An error: of a channel, if it was about one; without a code unless it has an effect.
pub fn error(code: Option<u16>, message: &str, channel: Option<&str>) -> Bytes {
    let channel = channel.map_or(String::new(), |name| format!(",\"channel\":{}", quoted(name)));
    let code = code.map_or_else(|| "null".to_owned(), |code| code.to_string());
    let data = format!("{{\"code\":{code},\"message\":{}}}", quoted(message));
    event("pusher:error", None, Some(&data), &channel)
}

/// Answers a ping of the protocol.
pub fn pong() -> Bytes {
    event("pusher:pong", None, Some("{}"), "")
}

/// Asks for a sign of life.
pub fn ping() -> Bytes {
    event("pusher:ping", None, Some("{}"), "")
}

/// A subscription holds. `data`: the roster of a presence channel ([`presence::roster`]), else `{}`.
pub fn subscribed(channel: &ChannelName, data: &str) -> Bytes {
    event(
        "pusher_internal:subscription_succeeded",
        Some(channel),
        Some(&quoted(data)),
        "",
    )
}

/// Why a subscription is refused, as libraries know it (`pusher.md` section 5.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SubscriptionErrorKind {
    /// Not allowed.
    Auth,
    /// More than may be.
    Limit,
    /// Not now.
    Server,
}

/// A refused subscription: it reaches `channel.bind("pusher:subscription_error")`, and `.error()` of
/// Laravel Echo. The name is the one that was asked for, whatever it was.
pub fn subscription_error(channel: &str, kind: SubscriptionErrorKind, status: u16, message: &str) -> Bytes {
    let kind = match kind {
        SubscriptionErrorKind::Auth => "AuthError",
        SubscriptionErrorKind::Limit => "LimitReached",
        SubscriptionErrorKind::Server => "ServerError",
    };
    let data = format!(
        "{{\"type\":\"{kind}\",\"error\":{},\"status\":{status}}}",
        quoted(message)
    );
    let more = format!(",\"channel\":{}", quoted(channel));
    event("pusher:subscription_error", None, Some(&data), &more)
}

/// Nothing is cached of a cache channel.
pub fn cache_miss(channel: &ChannelName) -> Bytes {
    event("pusher:cache_miss", Some(channel), None, "")
}

/// A signed-in user: the very text that was signed.
pub fn signed_in(user_data: &str) -> Bytes {
    let data = format!("{{\"user_data\":{}}}", quoted(user_data));
    event("pusher:signin_success", None, Some(&data), "")
}

/// Which of the users that somebody watches are online, or have come or gone.
pub fn watchlist(online: &[&UserId], offline: &[&UserId]) -> Bytes {
    let list = |name: &str, users: &[&UserId]| {
        let users: Vec<String> = users.iter().map(|user| quoted(user)).collect();
        format!("{{\"name\":\"{name}\",\"user_ids\":[{}]}}", users.join(","))
    };
    let lists = [("online", online), ("offline", offline)];
    let lists: Vec<String> = lists
        .into_iter()
        .filter(|(_, users)| !users.is_empty())
        .map(|(name, users)| list(name, users))
        .collect();
    let data = format!("{{\"events\":[{}]}}", lists.join(","));
    event("pusher_internal:watchlist_events", None, Some(&data), "")
}

/// Something that had not been seen of these channels is gone (of announcements, if there are none).
/// One event per channel.
pub(super) fn gap(channels: &[ChannelName]) -> Bytes {
    let data = Some("\"{}\"");
    match channels {
        [] => event(GAP, None, data, ""),
        [one] => event(GAP, Some(one), data, ""),
        several => {
            let frames = several.iter().map(|channel| event(GAP, Some(channel), data, ""));
            frames.collect::<Vec<_>>().concat().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::AppId;
    use crate::moment::Moment;
    use crate::position::{Epoch, Offset};
    use crate::publication::{Audience, Draft};

    fn user(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    /// The text of a frame.
    fn text(frame: &Bytes) -> String {
        let head = if frame[1] < 126 { 2 } else { 4 };
        String::from_utf8(frame[head..].to_vec()).unwrap()
    }

    struct Said {
        channel: Option<&'static str>,
        event: Option<&'static str>,
        kind: DataKind,
        data: &'static [u8],
        speaker: Option<&'static str>,
    }

    #[track_caller]
    fn check(said: Said, expected: &str) {
        let channel = said.channel.map(|name| ChannelName::new(name).unwrap());
        let audience = Audience::Channels(channel.iter().cloned().collect());
        let mut draft = Draft::to(AppId::DEFAULT, audience, said.kind, said.data.into());
        draft.event = said.event.map(|event| EventName::new(event).unwrap());
        draft.speaker = said.speaker.map(user);
        let entry = Entry {
            draft,
            epoch: Epoch(1),
            offset: Offset::FIRST,
            ordered_at: Moment::default(),
        };
        assert_eq!(text(&encode_entry(&entry, channel.as_ref())), expected);
    }

    #[test]
    fn a_publication_as_an_event() {
        let said = |channel, event, kind, data| Said {
            channel,
            event,
            kind,
            data,
            speaker: Some("u-1"),
        };
        check(
            said(
                Some("orders"),
                Some("App\\Events\\OrderPaid"),
                DataKind::Text,
                br#"{"id":4.20,"a":"\u00e9/"}"#,
            ),
            r#"{"event":"App\\Events\\OrderPaid","channel":"orders","data":"{\"id\":4.20,\"a\":\"\\u00e9/\"}"}"#,
        );
        check(
            said(Some("user/42"), None, DataKind::Text, b"hello"),
            r##"{"event":"message","channel":"#server-to-user-42","data":"hello"}"##,
        );
        check(
            said(
                Some("presence-room"),
                Some("client-typing"),
                DataKind::Json,
                br#"{ "a" : 1 }"#,
            ),
            r#"{"event":"client-typing","channel":"presence-room","data":{ "a" : 1 },"user_id":"u-1"}"#,
        );
        check(
            said(Some("orders"), None, DataKind::Binary, b"\xff\0"),
            r#"{"event":"message","channel":"orders","data":"data:application/octet-stream;base64,/wA="}"#,
        );
        check(
            said(None, Some("news"), DataKind::Text, b"to all"),
            r#"{"event":"news","data":"to all"}"#,
        );
    }

    #[test]
    fn frames_of_the_protocol() {
        let orders = ChannelName::new("orders").unwrap();
        let check = |frame: Bytes, expected: &str| assert_eq!(text(&frame), expected);
        check(
            established("81923.4471", 120),
            r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"81923.4471\",\"activity_timeout\":120}"}"#,
        );
        check(
            error(Some(4009), "no", None),
            r#"{"event":"pusher:error","data":{"code":4009,"message":"no"}}"#,
        );
        check(
            error(None, "say \"x\"", Some("a\nb")),
            r#"{"event":"pusher:error","data":{"code":null,"message":"say \"x\""},"channel":"a\nb"}"#,
        );
        check(pong(), r#"{"event":"pusher:pong","data":{}}"#);
        check(ping(), r#"{"event":"pusher:ping","data":{}}"#);
        check(
            subscribed(&orders, "{}"),
            r#"{"event":"pusher_internal:subscription_succeeded","channel":"orders","data":"{}"}"#,
        );
        check(
            subscription_error("private-x", SubscriptionErrorKind::Auth, 401, "no auth"),
            r#"{"event":"pusher:subscription_error","data":{"type":"AuthError","error":"no auth","status":401},"channel":"private-x"}"#,
        );
        check(
            cache_miss(&orders),
            r#"{"event":"pusher:cache_miss","channel":"orders"}"#,
        );
        check(
            signed_in(r#"{"id":"42"}"#),
            r#"{"event":"pusher:signin_success","data":{"user_data":"{\"id\":\"42\"}"}}"#,
        );
        check(
            watchlist(&[&user("u-2")], &[&user("u-9"), &user("u-1")]),
            r#"{"event":"pusher_internal:watchlist_events","data":{"events":[{"name":"online","user_ids":["u-2"]},{"name":"offline","user_ids":["u-9","u-1"]}]}}"#,
        );
        check(
            gap(std::slice::from_ref(&orders)),
            r#"{"event":"fanfare:gap","channel":"orders","data":"{}"}"#,
        );
    }
}
