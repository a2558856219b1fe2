//! The body of a webhook: `{"time_ms":…,"events":[…]}` (`pusher.md` section 13).
//!
//! Every event names its channel, since one library reads that without looking whether it is there. What
//! a client has said is always a string, as typed libraries expect it: a value that is none is its JSON
//! text in one.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::{quoted, shown};
use crate::channel::Kind;
use crate::publication::{Entry, EventName};
use crate::webhook::{Event, What};

/// The body of a request that is made at `now`, since 1970.
pub fn body(now: Duration, events: &[Arc<Event>]) -> String {
    let events: Vec<String> = events.iter().map(|one| event(one)).collect();
    format!(
        "{{\"time_ms\":{},\"events\":[{}]}}",
        now.as_millis(),
        events.join(",")
    )
}

fn event(event: &Event) -> String {
    let mut text = format!(
        "{{\"name\":\"{}\",\"channel\":{}",
        event.kind().name(),
        quoted(&shown(&event.channel))
    );
    // Writing to a string cannot fail.
    let _ = match &event.what {
        What::Occupied | What::Vacated | What::Missed => Ok(()),
        What::Added(user) | What::Removed(user) => write!(text, ",\"user_id\":{}", quoted(user)),
        What::Count(count) => write!(text, ",\"subscription_count\":{count}"),
        What::Said(entry) => {
            said(entry, event.channel.kind() == Kind::Presence, &mut text);
            Ok(())
        }
    };
    text.push('}');
    text
}

fn said(entry: &Entry, is_presence: bool, text: &mut String) {
    let draft = &entry.draft;
    let name = draft.event.as_ref().map_or("", EventName::as_str);
    let data = String::from_utf8_lossy(&draft.data);
    // Writing to a string cannot fail.
    let _ = write!(text, ",\"event\":{},\"data\":{}", quoted(name), quoted(&data));
    if let Some(session) = draft.excluded {
        let _ = write!(text, ",\"socket_id\":\"{}\"", session.socket());
    }
    if let Some(user) = draft.speaker.as_ref().filter(|_| is_presence) {
        let _ = write!(text, ",\"user_id\":{}", quoted(user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::AppId;
    use crate::channel::ChannelName;
    use crate::moment::Moment;
    use crate::position::{Epoch, Offset};
    use crate::publication::{DataKind, Draft};
    use crate::session_id::SessionId;
    use crate::user::UserId;

    #[track_caller]
    fn check(channel: &str, what: What, expected: &str) {
        let channel = ChannelName::new(channel).unwrap();
        let body = body(
            Duration::from_millis(1_795_400_000_123),
            &[Arc::new(Event { channel, what })],
        );
        assert_eq!(
            body,
            format!("{{\"time_ms\":1795400000123,\"events\":[{expected}]}}")
        );
    }

    fn user(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    fn client_event(channel: &str, kind: DataKind, data: &'static str) -> What {
        let channel = ChannelName::new(channel).unwrap();
        let mut draft = Draft::new(AppId::DEFAULT, channel, kind, data.into());
        draft.event = EventName::new("client-typing").ok();
        draft.speaker = Some(user("u-17"));
        draft.excluded = SessionId::parse_socket("81923.4471");
        What::Said(Arc::new(Entry {
            draft,
            epoch: Epoch(1),
            offset: Offset::FIRST,
            ordered_at: Moment::default(),
        }))
    }

    #[test]
    fn events_as_libraries_read_them() {
        check(
            "orders",
            What::Occupied,
            r#"{"name":"channel_occupied","channel":"orders"}"#,
        );
        check(
            "orders",
            What::Vacated,
            r#"{"name":"channel_vacated","channel":"orders"}"#,
        );
        check(
            "presence-room",
            What::Added(user("a\"b")),
            r#"{"name":"member_added","channel":"presence-room","user_id":"a\"b"}"#,
        );
        check(
            "presence-room",
            What::Removed(user("5")),
            r#"{"name":"member_removed","channel":"presence-room","user_id":"5"}"#,
        );
        check(
            "cache-price",
            What::Missed,
            r#"{"name":"cache_miss","channel":"cache-price"}"#,
        );
        check(
            "orders",
            What::Count(7),
            r#"{"name":"subscription_count","channel":"orders","subscription_count":7}"#,
        );
        check(
            "presence-room",
            client_event("presence-room", DataKind::Json, r#"{ "a" : "é" }"#),
            r#"{"name":"client_event","channel":"presence-room","event":"client-typing","data":"{ \"a\" : \"é\" }","socket_id":"81923.4471","user_id":"u-17"}"#,
        );
        check(
            "private-room",
            client_event("private-room", DataKind::Text, "hello"),
            r#"{"name":"client_event","channel":"private-room","event":"client-typing","data":"hello","socket_id":"81923.4471"}"#,
        );
    }

    #[test]
    fn several_events_are_one_body() {
        let event = |text: &str| {
            Arc::new(Event {
                channel: ChannelName::new(text).unwrap(),
                what: What::Occupied,
            })
        };
        assert_eq!(
            body(Duration::ZERO, &[event("a"), event("b")]),
            r#"{"time_ms":0,"events":[{"name":"channel_occupied","channel":"a"},{"name":"channel_occupied","channel":"b"}]}"#
        );
    }
}
