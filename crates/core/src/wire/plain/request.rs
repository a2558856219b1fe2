//! What a request to the plain door asks for: paths and switches.
//!
//! Names are percent-decoded once; what is then in them is a name like any other and never a
//! path. In a query `+` is a space, as forms and PHP's `http_build_query` write it.
//!
//! This module does not decide whether the answer is yes; see [`crate::auth`]. Who asks is
//! [`super::credential`]'s.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use crate::channel::ChannelName;
use crate::disconnect::Refusal;
use crate::position::Since;
use crate::publication::{CHANNELS_PER_PUBLICATION_MAX, Draft, EventName, PublicationKey, WireForm};
use crate::session_id::SessionId;
use crate::stream::Resume;
use crate::user::UserId;

/// The channel of `/`: the one that a page hears which names none.
pub const MAIN: &str = "main";

/// What the path and query of a request name, whatever the method.
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a query, each on or off"
)]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlainRequest {
    /// Whom it concerns.
    pub target: Target,
    /// `meta=1`, or more than one channel: messages arrive with their id and channel.
    pub meta: bool,
    /// `echo=1`: also hear what one says oneself.
    pub echo: bool,
    /// `event=`: the name of what happened, on a POST.
    pub event: Option<EventName>,
    /// `since=`: the last id seen. Text that is no id of this server counts as one long gone.
    pub since: Option<Since>,
    /// `last=`: begin with so many of the newest kept messages, if there is no `since`.
    pub last: Option<usize>,
    /// `session=`: who listens, over all connections; or, on a POST, who shall not hear it.
    pub session: Option<SessionId>,
    /// `open=1`: say the position at which listening begins.
    pub open: bool,
    /// `key=`, `version=`, `ttl=`: on a POST, what it is about, of which version, and for how many
    /// seconds it may be given to those who come back.
    pub kept: Kept,
    /// `users=1`: name the users who listen, in the channel's document.
    pub users: bool,
    /// `except=`: on a POST, a user who shall not hear it.
    pub except: Option<UserId>,
    /// `wait=`: seconds for which a long poll waits, instead of the usual time.
    pub wait_seconds: Option<u32>,
}

/// What a publisher may say about how a message replaces others and how long it is worth something.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Kept {
    /// What it is about, within its channel.
    pub key: Option<PublicationKey>,
    /// The version of that.
    pub version: Option<u64>,
    /// Seconds.
    pub ttl_seconds: Option<u32>,
}

impl Kept {
    /// Writes it into a draft, if that can be.
    pub fn apply(self, draft: &mut Draft) -> Result<(), Refusal> {
        if self.version.is_some() && draft.audience.channels().len() != 1 {
            return Err(Refusal::bad_request("version is for a message to one channel"));
        }
        draft.key = self.key;
        draft.version = self.version;
        draft.ttl = self
            .ttl_seconds
            .map(|seconds| Duration::from_secs(seconds.into()));
        Ok(())
    }
}

/// The channels of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// One or several, in the order given, without repetition.
    Channels(SmallVec<[ChannelName; 1]>),
    /// `*`: everyone.
    Everyone,
    /// `/ch` without a name: each message of the body says where it goes.
    PerMessage,
}

impl PlainRequest {
    /// Reads a path and a query. `None`: the path is not the plain door's.
    pub fn parse(path: &str, query: Option<&str>, subscriptions_max: usize) -> Option<Result<Self, Refusal>> {
        let name = match path {
            "/" => Some(Cow::Borrowed(MAIN)),
            "/ch" | "/ch/" => None,
            _ => match decode(path.strip_prefix("/ch/")?) {
                Ok(name) => Some(name),
                Err(refusal) => return Some(Err(refusal)),
            },
        };
        Some(Self::read(name, query.unwrap_or_default(), subscriptions_max))
    }

    fn read(path_name: Option<Cow<'_, str>>, query: &str, subscriptions_max: usize) -> Result<Self, Refusal> {
        let mut names: SmallVec<[Cow<'_, str>; 4]> = path_name.into_iter().collect();
        let named_by_path = !names.is_empty();
        let mut request = Self {
            target: Target::PerMessage,
            meta: false,
            echo: false,
            event: None,
            since: None,
            last: None,
            session: None,
            open: false,
            kept: Kept::default(),
            users: false,
            except: None,
            wait_seconds: None,
        };
        for pair in pairs(query) {
            let (key, value) = pair?;
            match key.as_ref() {
                "name" if named_by_path => {
                    return Err(Refusal::bad_request(
                        "give channels either in the path or as /ch?name=…&name=…",
                    ));
                }
                "name" => names.push(value),
                "meta" => request.meta = switch("meta", &value)?,
                "echo" => request.echo = switch("echo", &value)?,
                "event" => {
                    let event =
                        EventName::new(&value).map_err(|error| Refusal::bad_request(error.to_string()))?;
                    request.event = Some(event);
                }
                "since" => request.since = Some(Since::parse(&value)),
                "last" => request.last = Some(number("last", &value)?),
                "session" => {
                    let id = SessionId::parse(&value);
                    request.session = Some(id.ok_or_else(|| {
                        Refusal::bad_request("session is 32 hexadecimal digits, drawn at random")
                    })?);
                }
                "users" => request.users = switch("users", &value)?,
                "except" => {
                    let user = UserId::new(&value);
                    request.except = Some(user.map_err(|error| Refusal::bad_request(error.to_string()))?);
                }
                "open" => request.open = switch("open", &value)?,
                "key" => request.kept.key = Some(read_key(&value)?),
                "version" => request.kept.version = Some(number("version", &value)?),
                "ttl" => request.kept.ttl_seconds = Some(number("ttl", &value)?),
                "wait" => request.wait_seconds = Some(number("wait", &value)?),
                // Proxies and cache-busters add parameters of their own.
                _ => {}
            }
        }
        if names.is_empty() {
            return Ok(request);
        }
        if names.len() == 1 && names.first().is_some_and(|name| name == "*") {
            request.target = Target::Everyone;
            return Ok(request);
        }
        let mut channels: SmallVec<[ChannelName; 1]> = SmallVec::new();
        for name in names {
            let channel = ChannelName::new(&name).map_err(|error| Refusal::bad_request(error.to_string()))?;
            if !channels.contains(&channel) {
                channels.push(channel);
            }
            if channels.len() > subscriptions_max {
                return Err(Refusal::bad_request(format!(
                    "at most {subscriptions_max} channels at once"
                )));
            }
        }
        // One could not tell raw messages of several channels apart.
        request.meta |= channels.len() > 1;
        request.target = Target::Channels(channels);
        Ok(request)
    }

    /// The channels to listen to, or why this cannot be listened to.
    pub fn listen_channels(&self) -> Result<&[ChannelName], Refusal> {
        match &self.target {
            Target::Channels(channels) => Ok(channels),
            Target::Everyone => Err(Refusal::bad_request(
                "\"*\" can only be published to; name the channels to listen to",
            )),
            Target::PerMessage => Err(Refusal::bad_request(
                "name a channel: /ch/{name}, or /ch?name=…&name=… for several",
            )),
        }
    }

    /// Where listening begins: an id counts more than a number of messages.
    pub fn resume(&self) -> Resume {
        match (self.since, self.last) {
            (Some(since), _) => Resume::Since(since),
            (None, Some(count)) => Resume::Last(count),
            (None, None) => Resume::Now,
        }
    }

    /// The channels to speak to, checked for how many one publication may have. Empty: everyone.
    pub fn speak_channels(&self) -> Result<&[ChannelName], Refusal> {
        match &self.target {
            Target::Channels(channels) if channels.len() > CHANNELS_PER_PUBLICATION_MAX => {
                Err(Refusal::bad_request(format!(
                    "at most {CHANNELS_PER_PUBLICATION_MAX} channels per message"
                )))
            }
            Target::Channels(channels) => Ok(channels),
            Target::Everyone => Ok(&[]),
            Target::PerMessage => Err(Refusal::bad_request(
                "name a channel: POST /ch/{name}; many messages at once go to /ch as application/x-ndjson",
            )),
        }
    }

    /// The wire form of a listener that made this request over a WebSocket, or else an event stream.
    pub fn form(&self, websocket: bool) -> WireForm {
        match (websocket, self.meta) {
            (true, false) => WireForm::WebSocketRaw,
            (true, true) => WireForm::WebSocketMeta,
            (false, false) => WireForm::EventStreamRaw,
            (false, true) => WireForm::EventStreamMeta,
        }
    }
}

/// Percent-decodes a part of a path.
pub(super) fn decode(text: &str) -> Result<Cow<'_, str>, Refusal> {
    if has_broken_escape(text) {
        return Err(Refusal::bad_request(
            "a % in a URL must be followed by two hexadecimal digits",
        ));
    }
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| Refusal::bad_request("a name or parameter is not UTF-8 after percent-decoding"))
}

/// The parameters of a query, decoded.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = Result<(Cow<'_, str>, Cow<'_, str>), Refusal>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode_form(key)?, decode_form(value)?))
    })
}

pub(super) fn decode_form(text: &str) -> Result<Cow<'_, str>, Refusal> {
    if !text.contains('+') {
        return decode(text);
    }
    let spaced = text.replace('+', " ");
    decode(&spaced).map(|decoded| Cow::Owned(decoded.into_owned()))
}

/// The decoder passes a lone `%` through; then one name would have two spellings.
fn has_broken_escape(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().any(|(at, &b)| {
        b == b'%'
            && !bytes
                .get(at + 1..at + 3)
                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    })
}

fn switch(name: &'static str, value: &str) -> Result<bool, Refusal> {
    match value {
        "1" | "true" | "" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Refusal::bad_request(format!("{name} is 1 or 0"))),
    }
}

/// Reads a publication's key.
pub(super) fn read_key(text: &str) -> Result<PublicationKey, Refusal> {
    PublicationKey::new(text).map_err(|error| Refusal::bad_request(error.to_string()))
}

fn number<N: std::str::FromStr>(name: &'static str, value: &str) -> Result<N, Refusal> {
    // `parse` alone would also take a sign.
    let digits = Some(value).filter(|value| value.bytes().all(|b| b.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| Refusal::bad_request(format!("{name} is a whole number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a target asks for: channels joined by commas (`ALL` for everyone, `EACH` for per
    /// message) with the switches that are on, or the status of the refusal.
    fn outline(target: &str) -> Option<Result<String, u16>> {
        let (path, query) = target
            .split_once('?')
            .map_or((target, None), |(path, query)| (path, Some(query)));
        let request = PlainRequest::parse(path, query, 3)?;
        Some(request.map_err(|refusal| refusal.status()).map(|request| {
            let names = match &request.target {
                Target::Channels(channels) => channels
                    .iter()
                    .map(ChannelName::as_str)
                    .collect::<Vec<_>>()
                    .join(","),
                Target::Everyone => "ALL".to_owned(),
                Target::PerMessage => "EACH".to_owned(),
            };
            let event = request
                .event
                .as_ref()
                .map_or(String::new(), |event| format!(" event={}", event.as_str()));
            let since = match request.since {
                None => String::new(),
                Some(Since::Unknown) => " since=?".to_owned(),
                Some(Since::Position(position)) => format!(" since={position}"),
            };
            let begin = match request.resume() {
                Resume::Last(count) => format!(" last={count}"),
                Resume::Now | Resume::Since(_) => String::new(),
            };
            let session = request
                .session
                .map_or(String::new(), |id| format!(" session={}", { id.0 }));
            let open = if request.open { " open" } else { "" };
            let wait = request
                .wait_seconds
                .map_or(String::new(), |wait| format!(" wait={wait}"));
            let since = format!("{since}{begin}{session}{open}{wait}");
            let meta = if request.meta { " meta" } else { "" };
            let echo = if request.echo { " echo" } else { "" };
            format!("{names}{meta}{echo}{event}{since}")
        }))
    }

    #[track_caller]
    fn check(target: &str, expected: &str) {
        assert_eq!(outline(target), Some(Ok(expected.to_owned())), "{target}");
    }

    #[track_caller]
    fn check_refused(target: &str, status: u16) {
        assert_eq!(outline(target), Some(Err(status)), "{target}");
    }

    #[test]
    fn a_channel_is_a_url() {
        check("/", "main");
        check("/?meta=1", "main meta");
        check("/ch/orders", "orders");
        check("/ch/room/7", "room/7");
        check("/ch/room%2F7", "room/7");
        check("/ch/a%20b", "a b");
        check("/ch/a+b", "a+b");
        check("/ch/%C3%BC", "ü");
        check("/ch/%25", "%");
        check("/ch/%2A%2A", "**");
        check("/ch/..%2F..", "../..");
        check("/ch/*", "ALL");
        check("/ch/%2A", "ALL");
        check("/ch", "EACH");
        check("/ch?name=a", "a");
        check("/ch?name=a&name=b", "a,b meta");
        check("/ch?name=a&name=a", "a");
        check("/ch?name=a+b", "a b");
        check(
            "/ch/orders?echo=1&event=order+paid",
            "orders echo event=order paid",
        );
        check("/ch/orders?since=6f2k-42", "orders since=6f2k-42");
        check("/ch/orders?since=urn:uuid:1", "orders since=?");
        check("/ch/orders?meta=0&utm_source=x&&t", "orders");
        check("/ch/orders?last=20", "orders last=20");
        check("/ch/orders?last=20&since=6f2k-42", "orders since=6f2k-42");
        check(
            "/ch/orders?since=6f2k-42&wait=0&open=1",
            "orders since=6f2k-42 open wait=0",
        );
        check(
            "/ch/orders?session=00000000-0000-0000-0000-0000000000ff",
            "orders session=255",
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        check_refused("/ch/%", 400);
        check_refused("/ch/%2", 400);
        check_refused("/ch/%ff", 400);
        check_refused("/ch/%c0%af", 400);
        check_refused("/ch/a%00b", 400);
        check_refused("/ch/a%0Ab", 400);
        check_refused("/ch?name=", 400);
        check_refused("/ch?name=a&name=*", 400);
        check_refused("/ch?name=a&name=b&name=c&name=d", 400);
        check_refused("/ch/a?name=b", 400);
        check_refused("/ch/a?meta=yes", 400);
        check_refused("/ch/a?event=", 400);
        check_refused("/ch/a?last=", 400);
        check_refused("/ch/a?last=-1", 400);
        check_refused("/ch/a?last=%2B1", 400);
        check_refused("/ch/a?last=99999999999999999999", 400);
        check_refused("/ch/a?session=7", 400);
        check_refused("/ch/a?wait=soon", 400);
        check_refused("/ch/a?key=", 400);
        check_refused("/ch/a?key=a%0Ab", 400);
        check_refused("/ch/a?version=1.5", 400);
        check_refused("/ch/a?ttl=-1", 400);
        check_refused("/ch/a?event=x%0Adata:%20y", 400);
        check_refused(&format!("/ch/{}", "x".repeat(201)), 400);
        assert_eq!(outline("/chat"), None);
        assert_eq!(outline("/health"), None);
        assert_eq!(outline("//"), None);
    }
}
