//! Many messages in one body: NDJSON, one JSON object per line (`plain.md` section 4).
//!
//! `{"channel":"orders","data":"…","event":"paid"}`; `base64` instead of `data` for binary,
//! `channels` instead of `channel` for several, `"*"` for everyone, `user` for a person;
//! `except` for whom it is not; `key`, `version` and `ttl` as on a
//! single message. All or nothing: one line
//! that cannot be used refuses the whole body and names the line, so a publisher never has to
//! find out which half went through.
//!
//! An unknown key is refused, since it is a misspelt one: `{"chanel":…}` would otherwise be a
//! message to nowhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use smallvec::SmallVec;

use crate::app::AppId;
use crate::channel::ChannelName;
use crate::disconnect::Refusal;
use crate::publication::{Audience, CHANNELS_PER_PUBLICATION_MAX, DataKind, Draft, EventName};
use crate::user::UserId;
use crate::wire::plain::EVERYONE;
use crate::wire::plain::request::{self, Kept};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    channel: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
    user: Option<String>,
    except: Option<String>,
    event: Option<String>,
    data: Option<String>,
    base64: Option<String>,
    key: Option<String>,
    version: Option<u64>,
    ttl: Option<u32>,
}

/// Bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Most lines.
    pub lines_max: usize,
    /// Largest message, in bytes.
    pub message_bytes_max: usize,
}

/// Reads a body into drafts, one per line, in order. Blank lines are skipped.
pub fn parse(app: AppId, body: &[u8], limits: &BatchLimits) -> Result<Vec<Draft>, Refusal> {
    let mut drafts = Vec::new();
    for (number, line) in (1_usize..).zip(body.split(|&b| b == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        if drafts.len() == limits.lines_max {
            return Err(Refusal::TooLarge {
                what: "the batch, counted in lines,",
                limit_bytes: limits.lines_max,
            });
        }
        drafts.push(parse_line(app, line, limits).map_err(|refusal| at_line(number, refusal))?);
    }
    if drafts.is_empty() {
        return Err(Refusal::bad_request("the batch holds no message"));
    }
    Ok(drafts)
}

fn at_line(number: usize, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::BadRequest(cause) => Refusal::bad_request(format!("line {number}: {cause}")),
        other => other,
    }
}

fn parse_line(app: AppId, line: &[u8], limits: &BatchLimits) -> Result<Draft, Refusal> {
    let line: Line = serde_json::from_slice(line)
        .map_err(|error| Refusal::bad_request(format!("not a JSON object as expected ({error})")))?;
    let user = |text: &str| UserId::new(text).map_err(|error| Refusal::bad_request(error.to_string()));
    let names = match (line.channel, line.channels, line.user) {
        (Some(one), several, None) if several.is_empty() => vec![one],
        (None, several, None) if !several.is_empty() => several,
        (None, several, Some(id)) if several.is_empty() => vec![user(&id)?.channel().to_string()],
        _ => return Err(Refusal::bad_request("give one of channel, channels and user")),
    };
    let audience = if names == [EVERYONE] {
        Audience::Everyone
    } else if names.len() > CHANNELS_PER_PUBLICATION_MAX {
        return Err(Refusal::bad_request(format!(
            "at most {CHANNELS_PER_PUBLICATION_MAX} channels per message"
        )));
    } else {
        let mut channels: SmallVec<[ChannelName; 1]> = SmallVec::new();
        for name in &names {
            let channel = ChannelName::new(name).map_err(|error| Refusal::bad_request(error.to_string()))?;
            if !channels.contains(&channel) {
                channels.push(channel);
            }
        }
        Audience::Channels(channels)
    };
    let (kind, data) = match (line.data, line.base64) {
        (Some(text), None) => (DataKind::Text, Bytes::from(text)),
        (None, Some(text)) => {
            let bytes = STANDARD
                .decode(text)
                .map_err(|_| Refusal::bad_request("base64 cannot be decoded"))?;
            (DataKind::Binary, Bytes::from(bytes))
        }
        _ => return Err(Refusal::bad_request("give either data (a string) or base64")),
    };
    if data.len() > limits.message_bytes_max {
        return Err(Refusal::TooLarge {
            what: "a message of the batch",
            limit_bytes: limits.message_bytes_max,
        });
    }
    let event = match line.event {
        Some(text) => Some(EventName::new(&text).map_err(|error| Refusal::bad_request(error.to_string()))?),
        None => None,
    };
    let mut draft = Draft::to(app, audience, kind, data);
    draft.event = event;
    draft.except = line.except.as_deref().map(user).transpose()?;
    let kept = Kept {
        key: line.key.as_deref().map(request::read_key).transpose()?,
        version: line.version,
        ttl_seconds: line.ttl,
    };
    kept.apply(&mut draft)?;
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits {
        lines_max: 3,
        message_bytes_max: 5,
    };

    /// Per message: audience, event, kind and data; or the refusal's status and a part of its text.
    #[track_caller]
    fn check(body: &str, expected: Result<&[&str], (u16, &str)>) {
        let got = parse(AppId::DEFAULT, body.as_bytes(), &LIMITS);
        match (got, expected) {
            (Ok(drafts), Ok(expected)) => {
                let outlines: Vec<String> = drafts.iter().map(outline).collect();
                assert_eq!(outlines, expected, "{body}");
            }
            (Err(refusal), Err((status, part))) => {
                assert_eq!(refusal.status(), status, "{body}");
                assert!(
                    refusal.to_string().contains(part),
                    "{refusal} does not say {part}"
                );
            }
            (got, expected) => panic!("{body}: {got:?} instead of {expected:?}"),
        }
    }

    fn outline(draft: &Draft) -> String {
        let names = match &draft.audience {
            Audience::Everyone => "ALL".to_owned(),
            Audience::Channels(channels) => channels
                .iter()
                .map(ChannelName::as_str)
                .collect::<Vec<_>>()
                .join(","),
        };
        let event = draft.event.as_ref().map_or("-", |event| event.as_str());
        format!("{names} {event} {:?} {:?}", draft.kind, draft.data)
    }

    #[test]
    fn one_message_per_line() {
        check(r#"{"channel":"a","data":"x"}"#, Ok(&["a - Text b\"x\""]));
        check(
            "{\"channel\":\"a\",\"data\":\"\",\"event\":\"e\"}\r\n\n{\"channels\":[\"a\",\"b\",\"a\"],\"base64\":\"/w==\"}\n",
            Ok(&["a e Text b\"\"", "a,b - Binary b\"\\xff\""]),
        );
        check(r#"{"channel":"*","data":"x"}"#, Ok(&["ALL - Text b\"x\""]));
    }

    #[test]
    fn one_bad_line_refuses_all() {
        let good = r#"{"channel":"a","data":"x"}"#;
        check("", Err((400, "no message")));
        check("\n \n", Err((400, "no message")));
        check(&format!("{good}\nnonsense"), Err((400, "line 2")));
        check(
            &format!("{good}\n{{\"channel\":\"a\"}}"),
            Err((400, "line 2: give either data")),
        );
        check(r#"{"chanel":"a","data":"x"}"#, Err((400, "chanel")));
        check(r#"{"channel":"","data":"x"}"#, Err((400, "empty")));
        check(
            r#"{"channel":"a","channels":["b"],"data":"x"}"#,
            Err((400, "one of channel, channels and user")),
        );
        check(
            r#"{"channel":"a","user":"42","data":"x"}"#,
            Err((400, "one of channel")),
        );
        check(r#"{"user":"","data":"x"}"#, Err((400, "user id")));
        check(r#"{"channel":"a","except":"","data":"x"}"#, Err((400, "user id")));
        check(r#"{"channel":"a","key":"","data":"x"}"#, Err((400, "key")));
        check(
            r#"{"channels":["a","b"],"version":1,"data":"x"}"#,
            Err((400, "version")),
        );
        check(r#"{"channels":["*","b"],"data":"x"}"#, Err((400, "everyone")));
        check(r#"{"channel":"a","data":7}"#, Err((400, "line 1")));
        check(
            r#"{"channel":"a","data":"x","data":"y"}"#,
            Err((400, "duplicate")),
        );
        check(r#"{"channel":"a","base64":"%"}"#, Err((400, "base64")));
        check(
            r#"{"channel":"a","data":"x","event":""}"#,
            Err((400, "event name")),
        );
        check(r"[1]", Err((400, "line 1")));
    }

    #[test]
    fn limits_hold_at_the_limit_and_one_beyond() {
        check(r#"{"channel":"a","data":"12345"}"#, Ok(&["a - Text b\"12345\""]));
        check(r#"{"channel":"a","data":"123456"}"#, Err((413, "5 bytes")));
        let line = "{\"channel\":\"a\",\"data\":\"x\"}\n";
        check(&line.repeat(3), Ok(&["a - Text b\"x\""; 3]));
        check(&line.repeat(4), Err((413, "lines")));
    }
}
