//! The hook `on_connect`: the back end says who connects.
//!
//! Asked for everybody who wants to listen and shows neither key nor token; and for a POST, if
//! cookies count there (`tokens.cookie_post`). The back end sees what the browser would show it:
//! its cookies, if the page that connects may use them, and its origin. The body says the rest:
//!
//! ```json
//! {"path":"/ch/orders","channels":["orders"],"transport":"websocket","address":"203.0.113.7"}
//! ```
//!
//! | answer   | means                                                                  |
//! |----------|------------------------------------------------------------------------|
//! | 2xx      | yes; the body says who she is and what she may do: [`Grant::told`]     |
//! | 401, 403 | no                                                                     |
//! | others   | no, for now                                                            |
//!
//! A yes grants what its body names, besides what everyone may do: a private channel needs to be
//! in its `listen`.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use fanfare_core::auth::Grant;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use serde::Serialize;

use super::{Question, unusable};
use crate::node::Node;
use crate::shard::DISMISSED;
use crate::tokens;

/// The hook's name.
pub(super) const NAME: &str = "on_connect";

/// Largest answer, in bytes: two full lists of long names.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What somebody wants who is not known yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wish {
    /// To open a WebSocket.
    Websocket,
    /// To open an event stream.
    EventStream,
    /// To look at a channel, once or until something comes (long poll).
    Get,
    /// To speak.
    Post,
}

/// Somebody of whom only the back end knows who it is.
#[derive(Clone, Debug)]
pub(crate) struct Stranger {
    pub(crate) path: String,
    pub(crate) channels: Vec<ChannelName>,
    pub(crate) wish: Wish,
    /// The `Cookie` fields, if they may be looked at.
    pub(crate) cookies: Vec<Vec<u8>>,
    pub(crate) origin: Option<Vec<u8>>,
    pub(crate) address: Option<IpAddr>,
}

/// What the back end has said of somebody.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) grant: Grant,
    /// Who was sent away when it was asked (`People::dismissals`): what happened later it may not have
    /// known.
    pub(crate) known_since: u64,
}

#[derive(Serialize)]
struct Body<'a> {
    path: &'a str,
    channels: Vec<&'a str>,
    transport: Wish,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
}

/// Asks who it is.
///
/// # Errors
///
/// The refusal that the stranger gets.
pub(crate) async fn ask(node: &Arc<Node>, stranger: Stranger) -> Result<Told, Refusal> {
    let known_since = node.apps.default.people.lock().dismissals();
    let Some(hook) = &node.hooks.connect else {
        return Err(Refusal::HookFailed);
    };
    let grant = hook.ask(node, question(&stranger), read).await??;
    if tokens::time_left_with_leeway(&grant).is_some_and(|left| left.is_zero()) {
        let why = "what the back end said of you has run out already (exp)";
        return Err(Refusal::Unauthorized(why.into()));
    }
    let user = grant.user.as_ref();
    if user.is_some_and(|user| {
        node.apps
            .default
            .people
            .lock()
            .was_dismissed_since(user, known_since)
    }) {
        return Err(Refusal::Unauthorized(DISMISSED.into()));
    }
    Ok(Told { grant, known_since })
}

fn question(stranger: &Stranger) -> Question {
    let address = stranger.address;
    let body = Body {
        path: &stranger.path,
        channels: stranger.channels.iter().map(ChannelName::as_str).collect(),
        transport: stranger.wish,
        address,
    };
    let mut fields = HeaderMap::new();
    let mut add = |name: HeaderName, value: &[u8]| {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.insert(name, value);
        }
    };
    if !stranger.cookies.is_empty() {
        add(header::COOKIE, &stranger.cookies.join(&b"; "[..]));
    }
    if let Some(origin) = &stranger.origin {
        add(header::ORIGIN, origin);
    }
    if let Some(address) = address {
        add(
            HeaderName::from_static("x-forwarded-for"),
            address.to_string().as_bytes(),
        );
    }
    Question {
        // Strings and addresses: there is nothing that JSON could not say.
        body: serde_json::to_vec(&body).unwrap_or_default().into(),
        fields,
        answer_bytes_max: ANSWER_BYTES_MAX,
    }
}

fn read(answer: Response<Bytes>) -> anyhow::Result<Result<Grant, Refusal>> {
    match answer.status().as_u16() {
        200..=299 => Grant::told(answer.body())
            .context("cannot use the answer")
            .map(Ok),
        401 => Ok(Err(Refusal::Unauthorized(
            "the back end does not know who this is; log in first".into(),
        ))),
        403 => Ok(Err(Refusal::Forbidden("the back end does not allow this".into()))),
        _ => unusable(&answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, body: &'static str, expected: Result<Result<Option<&str>, u16>, &str>) {
        let answer = Response::builder()
            .status(status)
            .body(Bytes::from_static(body.as_bytes()));
        let got = match read(answer.unwrap()) {
            Ok(Ok(grant)) => Ok(Ok(grant.user.map(|user| user.to_string()))),
            Ok(Err(refusal)) => Ok(Err(refusal.status())),
            Err(error) => Err(format!("{error:#}")),
        };
        let expected = expected.map(|told| told.map(|user| user.map(str::to_owned)));
        assert_eq!(got, expected.map_err(str::to_owned), "{status} {body}");
    }

    #[test]
    fn what_answers_mean() {
        check(200, r#"{"user":"42"}"#, Ok(Ok(Some("42"))));
        check(204, "", Ok(Ok(None)));
        check(401, "anything", Ok(Err(401)));
        check(403, "", Ok(Err(403)));
        let html = "cannot use the answer: the answer's body is neither empty nor a JSON object in which each \
                    name stands once";
        check(200, "<b>Warning</b>: Undefined variable", Err(html));
        // A login page that a framework sends people to is no yes.
        check(302, "", Err("the answer was 302 Found"));
        check(404, "", Err("the answer was 404 Not Found"));
        check(419, "", Err("the answer was 419 <unknown status code>"));
        check(500, "", Err("the answer was 500 Internal Server Error"));
    }

    #[test]
    fn the_back_end_sees_what_the_browser_would_show_it() {
        let stranger = Stranger {
            path: "/ch/a%20b".to_owned(),
            channels: vec![ChannelName::new("a b").unwrap()],
            wish: Wish::EventStream,
            cookies: vec![b"PHPSESSID=1".to_vec(), b"x=\xff".to_vec()],
            origin: Some(b"https://shop.example".to_vec()),
            address: Some("203.0.113.7".parse().unwrap()),
        };
        let question = question(&stranger);
        assert_eq!(
            question.body,
            r#"{"path":"/ch/a%20b","channels":["a b"],"transport":"event_stream","address":"203.0.113.7"}"#
        );
        let field = |name| question.fields.get(name).map(HeaderValue::as_bytes);
        assert_eq!(field("cookie"), Some(&b"PHPSESSID=1; x=\xff"[..]));
        assert_eq!(field("origin"), Some(&b"https://shop.example"[..]));
        assert_eq!(field("x-forwarded-for"), Some(&b"203.0.113.7"[..]));
        assert_eq!(question.fields.len(), 3);
    }
}
