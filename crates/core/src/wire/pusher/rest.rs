//! The HTTP API: what a back end asks for, and whether it has signed that (`pusher.md` section 12).
//!
//! A request is read in three steps, so that nobody's body is read who has not signed: [`route`] looks
//! at method and path, [`Signed::check`] at the query, [`Signed::check_body`] and the parsers of bodies
//! at the rest. Statuses are true ones, since libraries look at nothing else.
//!
//! Libraries disagree in what they sign: some the path as it is sent and some the decoded one, some
//! write `info[0]=a&info[1]=b` and sign `info=a,b`. [`Signed::check`] tries what they do; each try is a
//! text of which the sender must have known the secret.

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use subtle::ConstantTimeEq;

use super::{is_reserved, name, sign};
use crate::auth::Secret;
use crate::channel::{ChannelName, Kind, SERVER_TO_USER};
use crate::disconnect::Refusal;
use crate::publication::{DataKind, EventName};
use crate::session_id::SessionId;
use crate::user::UserId;

/// Seconds that the time of a request may differ from ours.
pub const TIME_WINDOW_SECONDS: u64 = 600;

const INVALID_SIGNATURE: &str = "invalid signature";

/// Most parameters in a query.
const PARAMETERS_MAX: usize = 64;

/// What a path asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route {
    /// `POST events`.
    Events,
    /// `POST batch_events`.
    BatchEvents,
    /// `GET channels`.
    Channels,
    /// `GET channels/{name}`.
    Channel(String),
    /// `GET channels/{name}/users`.
    Users(String),
    /// `POST channels/{name}/events`, of old libraries.
    ChannelEvents(String),
    /// `POST users/{id}/terminate_connections`.
    Terminate(String),
    /// `POST users/{id}/events`.
    UserEvents(String),
    /// `GET connections`.
    Connections,
}

/// A request of a back end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RestRequest<'a> {
    /// The app, by its id; `None` where one library forgets it, then the key says it.
    pub app: Option<Cow<'a, str>>,
    /// What it asks for.
    pub route: Route,
    /// The path as it was signed, if it was signed as it was sent.
    path: &'a str,
}

/// Reads method and path; the path is the one behind the prefix of the door, as it was sent. `None`:
/// nothing of this API.
pub fn route<'a>(method: &str, path: &'a str) -> Option<Result<RestRequest<'a>, Refusal>> {
    let decoded = |part: &'a str| percent_decode_str(part).decode_utf8().ok();
    let mut parts = path.strip_prefix('/')?.split('/');
    let first = parts.next()?;
    let (app, mut rest): (_, SmallVec<[&str; 4]>) = match first {
        "apps" => (Some(decoded(parts.next()?)?), parts.collect()),
        // One library's request to send a user's connections away lacks its beginning.
        "users" => (None, std::iter::once("users").chain(parts).collect()),
        _ => return None,
    };
    // A name may hold a slash.
    let last = rest.last().copied();
    if rest.len() > 3 {
        let name = rest.get(1..rest.len() - 1)?.join("/");
        return finish(app, path, method, rest.first()?, Some(name), last);
    }
    let (kind, name, verb) = match rest.as_mut_slice() {
        [kind] => (*kind, None, None),
        [kind, name] => (*kind, Some((*name).to_owned()), None),
        [kind, name, verb] => (*kind, Some((*name).to_owned()), Some(*verb)),
        _ => {
            return if first == "apps" {
                Some(Err(not_found()))
            } else {
                None
            };
        }
    };
    finish(app, path, method, kind, name, verb)
}

fn not_found() -> Refusal {
    Refusal::NotFound("nothing of the HTTP API lives here".into())
}

fn finish<'a>(
    app: Option<Cow<'a, str>>,
    path: &'a str,
    method: &str,
    kind: &str,
    name: Option<String>,
    verb: Option<&str>,
) -> Option<Result<RestRequest<'a>, Refusal>> {
    let name = match name {
        None => None,
        Some(name) => Some(percent_decode_str(&name).decode_utf8().ok()?.into_owned()),
    };
    let is_user = kind == "users" && verb == Some("terminate_connections");
    if app.is_none() && !is_user {
        return None;
    }
    let (allow, route) = match (kind, name, verb) {
        ("events", None, None) => ("POST", Route::Events),
        ("batch_events", None, None) => ("POST", Route::BatchEvents),
        ("channels", None, None) => ("GET", Route::Channels),
        ("channels", Some(name), None) => ("GET", Route::Channel(name)),
        ("channels", Some(name), Some("users")) => ("GET", Route::Users(name)),
        ("channels", Some(name), Some("events")) => ("POST", Route::ChannelEvents(name)),
        ("users", Some(user), Some("terminate_connections")) => ("POST", Route::Terminate(user)),
        ("users", Some(user), Some("events")) => ("POST", Route::UserEvents(user)),
        ("connections", None, None) => ("GET", Route::Connections),
        _ => return Some(Err(not_found())),
    };
    if method != allow {
        return Some(Err(Refusal::MethodNotAllowed { allow }));
    }
    Some(Ok(RestRequest { app, route, path }))
}

/// The query of a request, by its parameters.
#[derive(Clone, Debug, Default)]
pub struct Signed<'a> {
    /// Decoded, keys in lower case, `a[0]` and `a[1]` folded into `a`; in the order of their keys.
    parameters: Vec<(String, String)>,
    /// The same where `+` stands for a space, if there is one.
    with_spaces: Option<Vec<(String, String)>>,
    raw: Option<&'a str>,
}

impl<'a> Signed<'a> {
    /// Reads a query.
    pub fn new(query: Option<&'a str>) -> Result<Self, Refusal> {
        let raw = query.unwrap_or_default();
        Ok(Self {
            parameters: parameters(raw)?,
            with_spaces: raw
                .contains('+')
                .then(|| parameters(&raw.replace('+', " ")))
                .transpose()?,
            raw: query,
        })
    }

    /// A parameter, decoded.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(own, _)| own == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The key that the request names.
    pub fn key(&self) -> Result<&str, Refusal> {
        self.get("auth_key")
            .ok_or_else(|| unauthorized("auth_key is missing in the query"))
    }

    /// Whether this request was signed with an app's secret, at about `now` (Unix seconds).
    ///
    /// # Errors
    ///
    /// 401 with what should have been signed, but never with the signature.
    pub fn check(
        &self,
        method: &str,
        request: &RestRequest<'_>,
        key: &str,
        secret: &Secret,
        now: u64,
    ) -> Result<(), Refusal> {
        if self.key()? != key {
            return Err(unauthorized("auth_key is not the key of this app"));
        }
        if self.get("auth_version").is_some_and(|version| version != "1.0") {
            return Err(unauthorized("auth_version must be 1.0"));
        }
        let time = self
            .get("auth_timestamp")
            .and_then(|time| time.parse::<u64>().ok());
        let time = time.ok_or_else(|| unauthorized("auth_timestamp must be the time in Unix seconds"))?;
        if time.abs_diff(now) > TIME_WINDOW_SECONDS {
            return Err(unauthorized(format!(
                "auth_timestamp is {} s away from this server's time, {TIME_WINDOW_SECONDS} are allowed",
                time.abs_diff(now)
            )));
        }
        let signature = self
            .get("auth_signature")
            .ok_or_else(|| unauthorized("auth_signature is missing in the query"))?;
        let decoded = percent_decode_str(request.path).decode_utf8().ok();
        let decoded = decoded.filter(|decoded| *decoded != request.path);
        let paths = decoded.into_iter().chain([Cow::Borrowed(request.path)]);
        let queries = [Some(&self.parameters), self.with_spaces.as_ref()];
        for path in paths {
            for query in queries.into_iter().flatten() {
                if sign::is_good(secret, to_sign(method, &path, query).as_bytes(), signature) {
                    return Ok(());
                }
            }
        }
        let wanted = to_sign(method, request.path, &self.parameters).replace('\n', "\\n");
        Err(unauthorized(format!(
            "{INVALID_SIGNATURE}: expected the HMAC SHA256 hex digest of {wanted}"
        )))
    }

    /// Whether `body` is the one that was signed, of a request that [`Self::check`] has found good.
    pub fn check_body(&self, body: &[u8]) -> Result<(), Refusal> {
        match self.get("body_md5") {
            None if body.is_empty() => Ok(()),
            None => Err(unauthorized(
                "body_md5 is missing in the query, and there is a body",
            )),
            Some(md5) if sign::body_md5(body).as_bytes().ct_eq(md5.as_bytes()).into() => Ok(()),
            Some(_) => Err(unauthorized("body_md5 is not the MD5 of this body")),
        }
    }

    /// What is asked for of channels: the words of `info`.
    pub fn info(&self) -> Result<Info, Refusal> {
        Info::parse(self.get("info").unwrap_or_default())
    }

    /// The query as it was sent.
    pub fn raw(&self) -> Option<&'a str> {
        self.raw
    }
}

fn unauthorized(cause: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::Unauthorized(cause.into())
}

fn parameters(raw: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut found: Vec<(String, String)> = Vec::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        if found.len() >= PARAMETERS_MAX {
            return Err(Refusal::bad_request("too many parameters in the query"));
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |part: &str| {
            let decoded = percent_decode_str(part).decode_utf8();
            decoded
                .map(Cow::into_owned)
                .map_err(|_| Refusal::bad_request("the query is not UTF-8"))
        };
        let (mut key, value) = (text(key)?.to_lowercase(), text(value)?);
        let is_list = key.ends_with(']') && key.contains('[');
        if is_list && let Some(at) = key.find('[') {
            key.truncate(at);
        }
        match found.iter_mut().find(|(own, _)| *own == key) {
            Some((_, list)) if is_list => {
                list.push(',');
                list.push_str(&value);
            }
            Some(_) => return Err(Refusal::bad_request(format!("{key} is twice in the query"))),
            None => found.push((key, value)),
        }
    }
    found.sort();
    Ok(found)
}

fn to_sign(method: &str, path: &str, parameters: &[(String, String)]) -> String {
    let pairs = parameters
        .iter()
        .filter(|(key, _)| key != "auth_signature")
        .map(|(key, value)| format!("{key}={value}"));
    format!("{method}\n{path}\n{}", pairs.collect::<Vec<_>>().join("&"))
}

/// Whether a request that was refused may be an attempt to guess a secret. Clocks that disagree, and
/// libraries that do, are none; what was signed with another secret cannot be told from a guess.
pub fn is_guess(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Unauthorized(cause) if cause.starts_with(INVALID_SIGNATURE))
}

/// What is asked for of a channel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Info {
    /// Users who are there.
    pub user_count: bool,
    /// Connections that listen.
    pub subscription_count: bool,
    /// The last publication of a cache channel.
    pub cache: bool,
}

impl Info {
    /// Reads a list of words, with commas between them.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let mut info = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "user_count" => info.user_count = true,
                "subscription_count" => info.subscription_count = true,
                "cache" => info.cache = true,
                _ => {
                    return Err(Refusal::bad_request(
                        "info holds user_count, subscription_count and cache only",
                    ));
                }
            }
        }
        Ok(info)
    }

    /// Whether nothing is asked for.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// How much a trigger may hold.
#[derive(Clone, Copy, Debug)]
pub struct TriggerLimits {
    /// Bytes of `data`.
    pub data_bytes_max: usize,
    /// Channels of one event.
    pub channels_max: usize,
    /// Events of a batch.
    pub batch_max: usize,
    /// Bytes of a channel's name.
    pub name_bytes_max: usize,
}

/// One event for one or more channels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trigger {
    /// Its name.
    pub event: EventName,
    /// Where to; each once, never empty.
    pub channels: SmallVec<[ChannelName; 1]>,
    /// Always text, or what somebody sent who does not keep to that: the text of a JSON value.
    pub kind: DataKind,
    /// What it says.
    pub data: Bytes,
    /// Who must not hear it.
    pub socket_id: Option<SessionId>,
    /// What the answer is to say of the channels.
    pub info: Info,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    channels: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    socket_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    info: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    batch: Vec<Event<'a>>,
}

/// Reads the body of `events`.
pub fn trigger(body: &[u8], limits: &TriggerLimits) -> Result<Trigger, Refusal> {
    let event: Event<'_> = json(body)?;
    one(event, limits)
}

/// Reads the body of `users/{id}/events`: an event without channels.
pub fn user_event(body: &[u8], user: &UserId, limits: &TriggerLimits) -> Result<Trigger, Refusal> {
    let event: Event<'_> = json(body)?;
    let channel = Some(format!("{SERVER_TO_USER}{user}").into());
    let limits = TriggerLimits {
        name_bytes_max: name::NAME_BYTES_MAX,
        ..*limits
    };
    one(
        Event {
            channel,
            channels: None,
            ..event
        },
        &limits,
    )
}

/// Reads the body of `batch_events`.
pub fn batch(body: &[u8], limits: &TriggerLimits) -> Result<Vec<Trigger>, Refusal> {
    let batch: Batch<'_> = json(body)?;
    if batch.batch.len() > limits.batch_max {
        return Err(Refusal::bad_request(format!(
            "Batch too large: {} events, {} are allowed",
            batch.batch.len(),
            limits.batch_max
        )));
    }
    let events = batch.batch.into_iter().map(|event| one(event, limits));
    events.collect()
}

fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let what = without_words(&error.to_string());
        Refusal::bad_request(format!("the body is not JSON of the expected form: {what}"))
    })
}

/// What is wrong with a text and where, without the text itself: that may be long, and nobody's business.
fn without_words(error: &str) -> String {
    match (error.split_once('"'), error.rsplit_once('"')) {
        (Some((before, _)), Some((_, behind))) => format!("{before}\"…\"{behind}"),
        _ => error.to_owned(),
    }
}

fn one(event: Event<'_>, limits: &TriggerLimits) -> Result<Trigger, Refusal> {
    let name = event
        .name
        .ok_or_else(|| Refusal::bad_request("name is missing"))?;
    let data = event
        .data
        .ok_or_else(|| Refusal::bad_request("data is missing"))?;
    let texts = match (&event.channels, &event.channel) {
        (Some(channels), _) => channels.as_slice(),
        (None, Some(channel)) => std::slice::from_ref(channel),
        (None, None) => &[],
    };
    if texts.is_empty() {
        return Err(Refusal::bad_request("channels is missing or empty"));
    }
    if texts.len() > limits.channels_max {
        return Err(Refusal::bad_request(format!(
            "{} channels: one event has at most {}",
            texts.len(),
            limits.channels_max
        )));
    }
    let mut channels: SmallVec<[ChannelName; 1]> = SmallVec::new();
    for text in texts {
        let channel = name::parse(text, limits.name_bytes_max).map_err(Refusal::bad_request)?;
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    if channels.len() > 1 && channels.iter().any(|channel| channel.kind() == Kind::Encrypted) {
        return Err(Refusal::bad_request(
            "an event of an encrypted channel goes to this channel only, since each has a key of its own",
        ));
    }
    let (kind, data) = match serde_json::from_str::<Cow<'_, str>>(data.get()) {
        Ok(text) => (DataKind::Text, Bytes::copy_from_slice(text.as_bytes())),
        Err(_) if data.get().starts_with('"') => {
            return Err(Refusal::bad_request("data is not valid text"));
        }
        // Not documented, but taken by other servers: clients get the value's text.
        Err(_) => (DataKind::Text, Bytes::copy_from_slice(data.get().as_bytes())),
    };
    if data.len() > limits.data_bytes_max {
        return Err(Refusal::TooLarge {
            what: "the data content of this event",
            limit_bytes: limits.data_bytes_max,
        });
    }
    Ok(Trigger {
        event: event_name(&name)?,
        channels,
        kind,
        data,
        socket_id: match event.socket_id.as_deref() {
            None | Some("") => None,
            Some(text) => Some(socket_id(text)?),
        },
        info: Info::parse(event.info.as_deref().unwrap_or_default())?,
    })
}

/// The name of an event that somebody wants to publish.
pub fn event_name(text: &str) -> Result<EventName, Refusal> {
    if is_reserved(text) {
        return Err(Refusal::bad_request(
            "names that begin with pusher: or pusher_internal: are the protocol's own",
        ));
    }
    EventName::new(text).map_err(|error| Refusal::bad_request(error.to_string()))
}

/// Two numbers with a dot between them. One that no connection has is good too: it was another
/// server's, or has gone.
pub fn socket_id(text: &str) -> Result<SessionId, Refusal> {
    SessionId::parse_socket(text)
        .ok_or_else(|| Refusal::bad_request("socket_id is two numbers with a dot between them"))
}

/// The user that a path names.
pub fn user(text: &str) -> Result<UserId, Refusal> {
    UserId::new(text).map_err(|error| Refusal::bad_request(error.to_string()))
}

#[cfg(test)]
#[path = "rest_tests.rs"]
mod tests;
