//! The hook `on_message`: the back end looks at what clients say before anybody hears it.
//!
//! Asked for every message of a client, over a WebSocket or by POST; never for what the server says.
//! The messages of one WebSocket are asked for one after the other, and it is not read from
//! meanwhile, so their order stays.
//!
//! ```json
//! {"channels":["main"],"user":"42","address":"203.0.113.7","data":"hello"}
//! ```
//!
//! | answer          | means                                                            |
//! |-----------------|------------------------------------------------------------------|
//! | 202             | relay it as it was sent                                          |
//! | 200             | relay the answer's body instead                                  |
//! | 204             | drop it; the sender is not told                                  |
//! | 4xx but 408,429 | refuse it: a POST gets 403, a WebSocket is closed with 4403      |
//! | others          | refuse it, for now                                               |

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use fanfare_core::publication::{DataKind, Draft, EventName};
use http::{HeaderMap, Response, header};
use serde::Serialize;
use serde::de::IgnoredAny;

use super::{Question, unusable};
use crate::node::Node;

/// The hook's name.
pub(super) const NAME: &str = "on_message";

#[derive(Serialize)]
struct Body<'a> {
    /// The app, if it is not the one that all doors share.
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    channels: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// What becomes of a message.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Verdict {
    AsSent,
    Instead(DataKind, Bytes),
    Drop,
    Refuse,
}

/// Asks about a client's draft; `None`: it is dropped.
///
/// # Errors
///
/// The refusal that its sender gets.
pub(crate) async fn ask(
    node: &Arc<Node>,
    mut draft: Draft,
    address: Option<IpAddr>,
) -> Result<Option<Draft>, Refusal> {
    let Some(hook) = &node.hooks.message else {
        return Ok(Some(draft));
    };
    // Users and channels of different apps may have the same names.
    let app = node.apps.get(draft.app).filter(|app| app.id != AppId::DEFAULT);
    let app = app.as_ref().map(|app| app.settings.id.as_str());
    let question = question(app, &draft, address, node.config.limits.message_bytes_max);
    match hook.ask(node, question, read).await? {
        Verdict::AsSent => Ok(Some(draft)),
        Verdict::Instead(kind, data) => {
            // A value stays one, if it is one.
            let is_value =
                draft.kind == DataKind::Json && serde_json::from_slice::<IgnoredAny>(&data).is_ok();
            let kind = if is_value { DataKind::Json } else { kind };
            (draft.kind, draft.data) = (kind, data);
            Ok(Some(draft))
        }
        Verdict::Drop => Ok(None),
        Verdict::Refuse => Err(Refusal::Forbidden("the back end refused this message".into())),
    }
}

fn question(app: Option<&str>, draft: &Draft, address: Option<IpAddr>, answer_bytes_max: usize) -> Question {
    let text = match draft.kind {
        DataKind::Text | DataKind::Json => std::str::from_utf8(&draft.data).ok(),
        DataKind::Binary => None,
    };
    let body = Body {
        app,
        channels: draft
            .audience
            .channels()
            .iter()
            .map(ChannelName::as_str)
            .collect(),
        event: draft.event.as_ref().map(EventName::as_str),
        user: draft.speaker.as_deref(),
        address,
        data: text,
        base64: text.is_none().then(|| STANDARD.encode(&draft.data)),
    };
    Question {
        // Strings and addresses: there is nothing that JSON could not say.
        body: serde_json::to_vec(&body).unwrap_or_default().into(),
        fields: HeaderMap::new(),
        answer_bytes_max,
    }
}

fn read(answer: Response<Bytes>) -> anyhow::Result<Verdict> {
    match answer.status().as_u16() {
        200 => {
            let kind = answer.headers().get(header::CONTENT_TYPE);
            let is_binary = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/octet-stream"));
            let data = answer.into_body();
            let kind = DataKind::of(&data, is_binary);
            Ok(Verdict::Instead(kind, data))
        }
        202 => Ok(Verdict::AsSent),
        204 => Ok(Verdict::Drop),
        408 | 429 => unusable(&answer),
        400..=499 => Ok(Verdict::Refuse),
        _ => unusable(&answer),
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::publication::Audience;

    use super::*;

    #[track_caller]
    fn check(status: u16, kind: &str, body: &'static [u8], expected: Option<Verdict>) {
        let answer = Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, kind)
            .body(Bytes::from_static(body));
        assert_eq!(read(answer.unwrap()).ok(), expected, "{status} {kind}");
    }

    #[test]
    fn what_answers_mean() {
        let instead = |kind, data: &'static [u8]| Some(Verdict::Instead(kind, data.into()));
        check(200, "text/html", b"h*llo", instead(DataKind::Text, b"h*llo"));
        check(200, "text/html", b"\xff", instead(DataKind::Binary, b"\xff"));
        check(
            200,
            "application/octet-stream",
            b"x",
            instead(DataKind::Binary, b"x"),
        );
        check(202, "text/html", b"", Some(Verdict::AsSent));
        check(204, "text/html", b"", Some(Verdict::Drop));
        for refused in [400, 401, 403, 422] {
            check(refused, "text/html", b"", Some(Verdict::Refuse));
        }
        for failed in [201, 302, 408, 429, 500] {
            check(failed, "text/html", b"", None);
        }
    }

    #[test]
    fn the_back_end_is_told_what_would_be_heard() {
        let main = ChannelName::new("main").unwrap();
        let mut draft = Draft::to(
            AppId::DEFAULT,
            Audience::Channels([main].into_iter().collect()),
            DataKind::Text,
            Bytes::from_static("\u{e9} \"x\"".as_bytes()),
        );
        draft.speaker = fanfare_core::user::UserId::new("42").ok();
        let asked = question(None, &draft, Some("::1".parse().unwrap()), 9);
        assert_eq!(
            asked.body,
            "{\"channels\":[\"main\"],\"user\":\"42\",\"address\":\"::1\",\"data\":\"\u{e9} \\\"x\\\"\"}"
        );
        draft.kind = DataKind::Binary;
        draft.data = Bytes::from_static(b"\xff");
        draft.speaker = None;
        let asked = question(Some("4712"), &draft, None, 9);
        assert_eq!(
            asked.body,
            r#"{"app":"4712","channels":["main"],"base64":"/w=="}"#
        );
    }
}
