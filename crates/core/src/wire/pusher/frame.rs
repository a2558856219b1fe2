//! What a client says: one JSON object per WebSocket message (`pusher.md` section 3).
//!
//! `data` is an object, but some libraries send it as JSON inside a string; both are taken. Every
//! field is hostile until it has been looked at, and a wrong one is an error with a sentence, never the
//! end of anything. What a client event carries is passed on as it was written.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Deepest nesting of what a client event carries. It is passed on as it is, to readers that may go down
/// into it one call per level.
pub const DEPTH_MAX: usize = 32;

/// What the name of a client event begins with.
pub const CLIENT_EVENT: &str = "client-";

/// One message of a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientFrame {
    /// Wants to listen to a channel.
    Subscribe {
        /// Its name, not looked at yet.
        channel: String,
        /// `key:signature`; empty if there is none.
        auth: String,
        /// Who subscribes, in the very words that were signed.
        channel_data: Option<String>,
    },
    /// Wants to listen no more.
    Unsubscribe {
        /// The channel.
        channel: String,
    },
    /// Says who it is.
    SignIn {
        /// `key:signature`.
        auth: String,
        /// Who, in the very words that were signed.
        user_data: String,
    },
    /// Asks for a sign of life.
    Ping,
    /// Gives one.
    Pong,
    /// Speaks to the others who listen to a channel.
    Event {
        /// Begins with [`CLIENT_EVENT`].
        event: String,
        /// The channel.
        channel: String,
        /// What it says.
        data: Data,
    },
}

/// What a client event carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Data {
    /// A string: its text.
    Text(String),
    /// Any other JSON value, as it was written. `null` if there was none.
    Json(String),
}

/// Why a message cannot be used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FrameError {
    /// A sentence for whoever sent it.
    pub message: Cow<'static, str>,
    /// The channel that it was about, if it said one.
    pub channel: Option<String>,
    /// Whether it was meant as a subscription, which is answered in another way.
    pub is_subscribe: bool,
}

impl FrameError {
    fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
            channel: None,
            is_subscribe: false,
        }
    }
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Inner<'a> {
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    auth: Option<&'a RawValue>,
    #[serde(borrow)]
    channel_data: Option<&'a RawValue>,
    #[serde(borrow)]
    user_data: Option<&'a RawValue>,
}

/// Reads one message.
pub fn parse(text: &str) -> Result<ClientFrame, FrameError> {
    let outer: Outer<'_> = serde_json::from_str(text)
        .map_err(|_| FrameError::new("a message is one JSON object with a name of an event"))?;
    let event = outer.event.and_then(string);
    let event = event.ok_or_else(|| FrameError::new("event must be a string"))?;
    match event.as_str() {
        "pusher:subscribe" => subscribe(outer.data),
        "pusher:unsubscribe" => {
            let read = inner(outer.data, &mut String::new(), |inner| {
                inner.channel.and_then(string)
            });
            let channel = read.map_err(FrameError::new)?;
            let channel = channel.ok_or_else(|| FrameError::new("data.channel must be a string"))?;
            Ok(ClientFrame::Unsubscribe { channel })
        }
        "pusher:signin" => {
            let read = inner(outer.data, &mut String::new(), |inner| {
                // What is no string signs nothing.
                let text = |raw: Option<&RawValue>| raw.and_then(string).unwrap_or_default();
                (text(inner.auth), text(inner.user_data))
            });
            let (auth, user_data) = read.map_err(FrameError::new)?;
            Ok(ClientFrame::SignIn { auth, user_data })
        }
        "pusher:ping" => Ok(ClientFrame::Ping),
        "pusher:pong" => Ok(ClientFrame::Pong),
        name if name.starts_with(CLIENT_EVENT) => {
            let channel = outer.channel.and_then(string);
            let channel =
                channel.ok_or_else(|| FrameError::new("a client event needs a channel, a string"))?;
            let data = match outer.data {
                None => Data::Json("null".to_owned()),
                Some(raw) => match string(raw) {
                    Some(text) => Data::Text(text),
                    // Half of a surrogate pair is no text.
                    None if raw.get().starts_with('"') => {
                        return Err(FrameError {
                            channel: Some(channel),
                            ..FrameError::new("data is not valid text")
                        });
                    }
                    None if !is_tame(raw.get()) => {
                        return Err(FrameError {
                            channel: Some(channel),
                            ..FrameError::new("data is nested too deeply, or holds what is not valid text")
                        });
                    }
                    None => Data::Json(raw.get().to_owned()),
                },
            };
            Ok(ClientFrame::Event { event, channel, data })
        }
        _ => Err(FrameError {
            channel: outer.channel.and_then(string),
            ..FrameError::new("unknown event: clients may say pusher:… of this protocol, and client-…")
        }),
    }
}

fn subscribe(data: Option<&RawValue>) -> Result<ClientFrame, FrameError> {
    let read = inner(data, &mut String::new(), |inner| {
        let auth = inner.auth.map(|raw| (string(raw), raw.get() == "null"));
        let channel_data = inner.channel_data.map(|raw| (string(raw), raw.get() == "null"));
        (inner.channel.and_then(string), auth, channel_data)
    });
    let (channel, auth, channel_data) = read.map_err(FrameError::new)?;
    let channel = channel.ok_or_else(|| FrameError::new("data.channel must be a string"))?;
    let optional = |read: Option<(Option<String>, bool)>, what: &'static str| match read {
        None | Some((None, true)) => Ok(None),
        Some((Some(text), _)) => Ok(Some(text)),
        Some((None, false)) => Err(FrameError {
            message: format!("data.{what} must be a string").into(),
            channel: Some(channel.clone()),
            is_subscribe: true,
        }),
    };
    let auth = optional(auth, "auth")?.unwrap_or_default();
    let channel_data = optional(channel_data, "channel_data")?;
    Ok(ClientFrame::Subscribe {
        channel,
        auth,
        channel_data,
    })
}

/// Reads the `data` of a message: an object, or a string with one in it, for which `text` is the place.
fn inner<T>(
    data: Option<&RawValue>,
    text: &mut String,
    look: impl FnOnce(&Inner<'_>) -> T,
) -> Result<T, &'static str> {
    let wrong = "data must be an object";
    let raw = data.ok_or(wrong)?;
    let json = match string(raw) {
        Some(inside) => {
            *text = inside;
            text.as_str()
        }
        None => raw.get(),
    };
    let inner: Inner<'_> = serde_json::from_str(json).map_err(|_| wrong)?;
    Ok(look(&inner))
}

/// Whether a JSON value may be given to readers of any kind: not too deep, and without half of a surrogate
/// pair, which is no character (RFC 8259 section 8.2). `json` is valid JSON otherwise.
fn is_tame(json: &str) -> bool {
    let (mut depth, mut is_text, mut half) = (0_usize, false, false);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if is_text => {
                let escape = bytes.next();
                let unit = (escape == Some(b'u')).then(|| {
                    let digits = bytes.by_ref().take(4);
                    digits.fold(0, |unit, digit| {
                        unit * 16 + char::from(digit).to_digit(16).unwrap_or(0)
                    })
                });
                let (begins, ends) = match unit {
                    Some(0xd800..=0xdbff) => (true, false),
                    Some(0xdc00..=0xdfff) => (false, true),
                    _ => (false, false),
                };
                if half != ends {
                    return false;
                }
                half = begins;
            }
            _ if half => return false,
            b'"' => is_text = !is_text,
            b'{' | b'[' if !is_text => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return false;
                }
            }
            b'}' | b']' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: ClientFrame) {
        assert_eq!(parse(text), Ok(expected), "{text}");
    }

    #[track_caller]
    fn check_error(text: &str, message: &str, channel: Option<&str>) {
        let error = parse(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error:?}");
        assert_eq!(error.channel.as_deref(), channel, "{text}");
    }

    #[test]
    fn what_libraries_send() {
        let subscribe = |channel: &str, auth: &str, data: Option<&str>| ClientFrame::Subscribe {
            channel: channel.into(),
            auth: auth.into(),
            channel_data: data.map(Into::into),
        };
        check(
            r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"orders"}}"#,
            subscribe("orders", "", None),
        );
        check(
            r#"{"event":"pusher:subscribe","data":{"channel":"orders","auth":null,"channel_data":null,"more":[]}}"#,
            subscribe("orders", "", None),
        );
        check(
            r#"{"event":"pusher:subscribe","data":{"auth":"KEY:SIG","channel_data":"{\"user_id\":\"\u00e9\"}","channel":"presence-room"}}"#,
            subscribe("presence-room", "KEY:SIG", Some("{\"user_id\":\"é\"}")),
        );
        check(
            r#"{"event":"pusher:subscribe","data":"{\"channel\":\"orders\"}"}"#,
            subscribe("orders", "", None),
        );
        check(
            r#"{"event":"pusher:unsubscribe","data":{"channel":"orders"}}"#,
            ClientFrame::Unsubscribe {
                channel: "orders".into(),
            },
        );
        check(
            r#"{"event":"pusher:signin","data":{"auth":"KEY:SIG","user_data":"{\"id\":\"42\"}"}}"#,
            ClientFrame::SignIn {
                auth: "KEY:SIG".into(),
                user_data: "{\"id\":\"42\"}".into(),
            },
        );
        check(r#"{"event":"pusher:ping","data":{}}"#, ClientFrame::Ping);
        check(r#"{"event":"pusher:ping"}"#, ClientFrame::Ping);
        check(r#" {"data":"","event":"pusher:pong"} "#, ClientFrame::Pong);
        let said = |data| ClientFrame::Event {
            event: "client-typing".into(),
            channel: "private-a".into(),
            data,
        };
        check(
            r#"{"event":"client-typing","data":{ "a" : 1.0 },"channel":"private-a"}"#,
            said(Data::Json(r#"{ "a" : 1.0 }"#.into())),
        );
        check(
            r#"{"event":"client-typing","data":"h\u00e9","channel":"private-a"}"#,
            said(Data::Text("hé".into())),
        );
        check(
            r#"{"event":"client-typing","channel":"private-a"}"#,
            said(Data::Json("null".into())),
        );
    }

    #[test]
    fn what_a_client_event_carries_is_tame() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for (json, tame) in [
            (deep(32).as_str(), true),
            (deep(33).as_str(), false),
            (r#"{"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}"#, true),
            (r#"{"a":"\\\""}"#, true),
            (r#"["\ud83d\ude00", "\u00e9\n"]"#, true),
            (r#"["\ud83d"]"#, false),
            (r#"["\ud83dx\ude00"]"#, false),
            (r#"["\ude00"]"#, false),
            (r#"{"\ud83d":1}"#, false),
            (r#"["\ud83d\ud83d\ude00"]"#, false),
        ] {
            assert_eq!(is_tame(json), tame, "{json}");
        }
        let event = r#"{"event":"client-a","channel":"a","data":["\ud800"]}"#;
        check_error(event, "nested too deeply", Some("a"));
    }

    #[test]
    fn whatever_is_wrong_has_a_sentence() {
        for text in [
            "",
            "x",
            "5",
            "null",
            "[]",
            "\"a\"",
            "{",
            "{}}",
            "{\"event\":\"pusher:ping\"} x",
            &"[".repeat(10_000),
            &format!(
                "{{\"event\":\"pusher:ping\",\"event\":{}",
                "{\"a\":".repeat(10_000)
            ),
        ] {
            check_error(text, "one JSON object", None);
        }
        for text in ["{}", "{\"event\":5}", "{\"event\":null}", "{\"event\":{}}"] {
            check_error(text, "event must be a string", None);
        }
        for event in ["subscribe", "unsubscribe", "signin"] {
            for data in ["5", "null", "[]", "\"\"", "\"x\"", "\"[]\"", "true"] {
                let text = format!("{{\"event\":\"pusher:{event}\",\"data\":{data}}}");
                check_error(&text, "data must be an object", None);
            }
            let text = format!("{{\"event\":\"pusher:{event}\"}}");
            check_error(&text, "data must be an object", None);
        }
        for event in ["subscribe", "unsubscribe"] {
            let text = format!("{{\"event\":\"pusher:{event}\",\"data\":{{\"channel\":5}}}}");
            check_error(&text, "must be", None);
        }
        check(
            r#"{"event":"pusher:signin","data":{"auth":5}}"#,
            ClientFrame::SignIn {
                auth: String::new(),
                user_data: String::new(),
            },
        );
        check_error(
            r#"{"event":"pusher:subscribe","data":{"channel":"private-a","auth":{}}}"#,
            "data.auth must be a string",
            Some("private-a"),
        );
        check_error(
            r#"{"event":"pusher:subscribe","data":{"channel":"private-a","channel_data":{}}}"#,
            "data.channel_data must be a string",
            Some("private-a"),
        );
        check_error(r#"{"event":"client-a","data":{}}"#, "needs a channel", None);
        check_error(
            r#"{"event":"client-a","channel":"a","data":"\ud800"}"#,
            "not valid text",
            Some("a"),
        );
        check_error(r#"{"event":"orders","channel":"a"}"#, "unknown event", Some("a"));
    }
}
