//! The plain door: what a request means, and what a publication looks like.
//!
//! [`request`] reads a method, a path and a query; both the shard, which sees a connection's
//! first request, and the HTTP server, which sees all later ones, use it, so the two lanes
//! cannot disagree. [`credential`] finds what shows who asks. [`batch`] reads many messages from one body. This file makes the frames.
//!
//! Forms (`plain.md` section 2): raw is the message itself; meta is one JSON object with id,
//! channel, event, user, and `data` for text or `base64` for binary. An event stream cannot
//! carry binary, so there it arrives as `event: binary` with base64 data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use crate::channel::ChannelName;
use crate::disconnect::Refusal;
use crate::position::Position;
use crate::publication::{DataKind, Entry, EventName, WireForm};
use crate::wire::{sse, websocket};

pub mod batch;
pub mod credential;
pub mod person;
pub mod request;

/// The `channel` of an announcement to everyone, in meta form.
pub const EVERYONE: &str = "*";

#[derive(Serialize)]
struct Meta<'a> {
    id: &'a str,
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// The bytes of an entry for a subscriber of `channel` (`None`: an announcement) in a form of this
/// door, never compressed.
pub(super) fn encode_entry(entry: &Entry, channel: Option<&ChannelName>, form: WireForm) -> Bytes {
    // Not for the raw WebSocket form, which shows no id and is the most frequent.
    let id = || entry.position().to_string();
    match form {
        WireForm::WebSocketRaw | WireForm::WebSocketRawDeflate => match entry.draft.kind {
            DataKind::Text | DataKind::Json => websocket::text(&entry.draft.data),
            DataKind::Binary => websocket::binary(&entry.draft.data),
        },
        WireForm::WebSocketMeta | WireForm::WebSocketMetaDeflate => {
            websocket::text(meta(entry, channel, &id()).as_bytes())
        }
        WireForm::EventStreamMeta => {
            let id = id();
            stream_event(&id, None, meta(entry, channel, &id).as_bytes())
        }
        WireForm::EventStreamRaw => {
            let event = entry.draft.event.as_ref().map(EventName::as_str);
            match entry.draft.kind {
                DataKind::Text | DataKind::Json => stream_event(&id(), event, &entry.draft.data),
                DataKind::Binary => stream_event(
                    &id(),
                    Some("binary"),
                    STANDARD.encode(&entry.draft.data).as_bytes(),
                ),
            }
        }
        WireForm::Notice => Bytes::from_static(b"."),
        WireForm::Pusher | WireForm::PusherDeflate => Bytes::new(),
    }
}

/// An entry as one JSON object: the meta form, as documents have it too.
pub fn meta(entry: &Entry, channel: Option<&ChannelName>, id: &str) -> String {
    let text = match entry.draft.kind {
        DataKind::Text | DataKind::Json => std::str::from_utf8(&entry.draft.data).ok(),
        DataKind::Binary => None,
    };
    let meta = Meta {
        id,
        channel: channel.map_or(EVERYONE, ChannelName::as_str),
        event: entry.draft.event.as_ref().map(EventName::as_str),
        user: entry.draft.speaker.as_deref(),
        data: text,
        base64: text.is_none().then(|| STANDARD.encode(&entry.draft.data)),
    };
    serde_json::to_string(&meta).unwrap_or_default()
}

fn stream_event(id: &str, event: Option<&str>, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + 64);
    // Ids are ours and event names were checked when the publication was made, so the encoder
    // has nothing to refuse; were it otherwise, nothing would be sent rather than a broken line.
    match sse::event(&mut out, Some(id), event, data) {
        Ok(()) => out.into(),
        Err(_) => Bytes::new(),
    }
}

/// Tells a listener that something it had not seen of these channels is gone (of announcements, if
/// there are none). `now` becomes its position. One frame for all of them: who has read it knows
/// everything, and who has not still has its old position.
///
/// `None` for forms that cannot say it.
pub(super) fn gap(form: WireForm, channels: &[ChannelName], now: Position) -> Option<Bytes> {
    let name = |name: &str| serde_json::Value::from(name).to_string();
    let channels = match channels {
        [] => format!(r#""channel":{}"#, name(EVERYONE)),
        [one] => format!(r#""channel":{}"#, name(one.as_str())),
        several => {
            let names: Vec<String> = several.iter().map(|one| name(one.as_str())).collect();
            format!(r#""channels":[{}]"#, names.join(","))
        }
    };
    let meta = format!(r#"{{"event":"gap",{channels},"id":"{now}"}}"#);
    notice(form, "gap", now, &meta, &format!("{{{channels}}}"))
}

/// Tells a slow listener that waiting messages of a channel were dropped: a gap without an id, since
/// messages of other channels that are older may still come behind it.
pub(super) fn dropped(form: WireForm, channel: &ChannelName) -> Option<Bytes> {
    let channel = serde_json::Value::from(channel.as_str());
    let meta = format!(r#"{{"event":"gap","channel":{channel}}}"#);
    let event = |name: Option<&str>, data: &str| {
        let mut out = Vec::new();
        sse::event(&mut out, None, name, data.as_bytes())
            .ok()
            .map(|()| out.into())
    };
    match form {
        WireForm::WebSocketRaw
        | WireForm::WebSocketRawDeflate
        | WireForm::Notice
        | WireForm::Pusher
        | WireForm::PusherDeflate => None,
        WireForm::WebSocketMeta | WireForm::WebSocketMetaDeflate => Some(websocket::text(meta.as_bytes())),
        WireForm::EventStreamMeta => event(None, &meta),
        WireForm::EventStreamRaw => event(Some("gap"), &format!(r#"{{"channel":{channel}}}"#)),
    }
}

/// Tells whoever speaks over a WebSocket in meta form that something it said was refused, without the
/// end of the session.
pub fn error(refusal: &Refusal) -> Bytes {
    let message = serde_json::Value::from(refusal.to_string());
    let meta = format!(
        r#"{{"event":"error","error":"{}","message":{message}}}"#,
        refusal.word()
    );
    websocket::text(meta.as_bytes())
}

/// Tells a listener the position that its subscription begins at, before anything else.
pub fn opened(form: WireForm, now: Position) -> Option<Bytes> {
    let data = format!(r#"{{"event":"open","id":"{now}"}}"#);
    notice(form, "open", now, &data, "{}")
}

fn notice(form: WireForm, event: &str, now: Position, meta: &str, data: &str) -> Option<Bytes> {
    match form {
        WireForm::WebSocketRaw
        | WireForm::WebSocketRawDeflate
        | WireForm::Notice
        | WireForm::Pusher
        | WireForm::PusherDeflate => None,
        // Far too short to be compressed.
        WireForm::WebSocketMeta | WireForm::WebSocketMetaDeflate => Some(websocket::text(meta.as_bytes())),
        WireForm::EventStreamMeta => Some(stream_event(&now.to_string(), None, meta.as_bytes())),
        WireForm::EventStreamRaw => Some(stream_event(&now.to_string(), Some(event), data.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::AppId;
    use crate::moment::Moment;
    use crate::position::{Epoch, Link, Offset};
    use crate::publication::{Audience, Draft, Publication};

    fn publication(event: Option<&str>, kind: DataKind, data: &'static [u8], everyone: bool) -> Publication {
        let mut draft = Draft::new(
            AppId::DEFAULT,
            ChannelName::new("orders").unwrap(),
            kind,
            Bytes::from_static(data),
        );
        draft.event = event.map(|text| EventName::new(text).unwrap());
        if everyone {
            draft.audience = Audience::Everyone;
        }
        let link = Link {
            epoch: Epoch(299_468),
            previous: None,
            offset: Offset::new(42).unwrap(),
        };
        Publication::new(draft, Moment::default(), |_| link)
    }

    #[track_caller]
    fn check(publication: &Publication, expected: [&[u8]; 4]) {
        for (form, expected) in WireForm::ALL.into_iter().zip(expected) {
            let got = publication.encoded(&publication.places()[0], form);
            assert_eq!(got, expected, "{form:?}: {:?}", String::from_utf8_lossy(&got));
            assert!(shared(publication, form), "too short for {:?}", form.deflate());
        }
    }

    /// Whether a form's compressed one is the very same bytes.
    fn shared(publication: &Publication, form: WireForm) -> bool {
        let [one, other] =
            [form, form.deflate()].map(|form| publication.encoded(&publication.places()[0], form));
        one.as_ptr() == other.as_ptr()
    }

    #[test]
    fn the_compressed_forms_are_made_once_and_only_where_it_is_worth_it() {
        const LONG: &[u8] = &[b'x'; 700];
        let long = publication(None, DataKind::Text, LONG, false);
        assert!(!shared(&long, WireForm::WebSocketRaw) && !shared(&long, WireForm::WebSocketMeta));
        assert!(shared(&long, WireForm::EventStreamRaw) && shared(&long, WireForm::EventStreamMeta));
        for form in [WireForm::WebSocketRawDeflate, WireForm::WebSocketMetaDeflate] {
            let [one, other] = [(); 2].map(|()| long.encoded(&long.places()[0], form));
            assert_eq!(one.as_ptr(), other.as_ptr());
            assert_eq!(one[0], 0xc1, "a whole text message with RSV1");
        }
    }

    #[test]
    fn text_and_its_event_in_each_form() {
        check(
            &publication(Some("paid"), DataKind::Text, b"order 7 paid", false),
            [
                b"\x81\x0corder 7 paid",
                b"\x81\x48{\"id\":\"6f2k-42\",\"channel\":\"orders\",\"event\":\"paid\",\"data\":\"order 7 paid\"}",
                b"id: 6f2k-42\nevent: paid\ndata: order 7 paid\n\n",
                b"id: 6f2k-42\ndata: {\"id\":\"6f2k-42\",\"channel\":\"orders\",\"event\":\"paid\",\"data\":\"order 7 paid\"}\n\n",
            ],
        );
    }

    #[test]
    fn binary_stays_binary_or_becomes_base64() {
        check(
            &publication(None, DataKind::Binary, b"\xff\0", false),
            [
                b"\x82\x02\xff\0",
                b"\x81\x33{\"id\":\"6f2k-42\",\"channel\":\"orders\",\"base64\":\"/wA=\"}",
                b"id: 6f2k-42\nevent: binary\ndata: /wA=\n\n",
                b"id: 6f2k-42\ndata: {\"id\":\"6f2k-42\",\"channel\":\"orders\",\"base64\":\"/wA=\"}\n\n",
            ],
        );
    }

    #[test]
    fn an_empty_announcement_is_still_a_message() {
        check(
            &publication(None, DataKind::Text, b"", true),
            [
                b"\x81\x00",
                b"\x81\x28{\"id\":\"6f2k-42\",\"channel\":\"*\",\"data\":\"\"}",
                b"id: 6f2k-42\ndata: \n\n",
                b"id: 6f2k-42\ndata: {\"id\":\"6f2k-42\",\"channel\":\"*\",\"data\":\"\"}\n\n",
            ],
        );
    }
}
