//! What happens before a request is served, the same in both lanes: may this host and origin ask,
//! who asks, for what, and is that allowed.
//!
//! The shard calls this for a connection's first request, the HTTP server for all others. Both
//! make an [`Asked`] of their own kind of request, so there is one place that decides.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::app::AppId;
use fanfare_core::auth::{Grant, HostRules, Identity, Operation, OriginRules, Policy, SentTo};
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use fanfare_core::position::Since;
use fanfare_core::publication::WireForm;
use fanfare_core::session_id::SessionId;
use fanfare_core::stream::Resume;
use fanfare_core::user::UserId;
use fanfare_core::wire::http1::Upgrade;
use fanfare_core::wire::plain::credential::Carried;
use fanfare_core::wire::plain::request::PlainRequest;
use fanfare_core::wire::websocket::extension::{self, Agreement};
use smallvec::SmallVec;

use crate::address::{Source, Way};
use crate::gate::{Admission, Ticket};
use crate::hooks;
use crate::hooks::connect::{Stranger, Told, Wish};
use crate::node::Node;
use crate::tokens;

pub(crate) mod pusher;

/// The parts of a request that decide.
#[derive(Debug, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
    pub(crate) origins: SmallVec<[&'a [u8]; 1]>,
    pub(crate) authorization: Option<&'a [u8]>,
    /// All `Cookie` fields.
    pub(crate) cookies: SmallVec<[&'a [u8]; 1]>,
    /// `Sec-Fetch-Site`: what a browser says of the page that asks, and no page can change.
    pub(crate) fetch_site: Option<&'a [u8]>,
    pub(crate) accept: Option<&'a [u8]>,
    pub(crate) user_agent: Option<&'a [u8]>,
    pub(crate) last_event_id: Option<&'a str>,
    /// All `Sec-WebSocket-Extensions` fields.
    pub(crate) extensions: SmallVec<[&'a [u8]; 1]>,
    /// All `X-Forwarded-For` fields, and all `X-Forwarded-Proto`: see [`Source::of_request`].
    pub(crate) forwarded_for: SmallVec<[&'a [u8]; 1]>,
    pub(crate) forwarded_proto: SmallVec<[&'a [u8]; 1]>,
    /// Who asks.
    pub(crate) source: Source,
}

/// Rules of a node, made from its configuration.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) policy: Policy,
    pub(crate) origins: OriginRules,
    pub(crate) hosts: HostRules,
    /// The same on the Unix socket.
    pub(crate) unix_hosts: HostRules,
}

/// A request to listen that was allowed.
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches of a request, each on or off"
)]
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    pub(crate) app: AppId,
    pub(crate) channels: SmallVec<[ChannelName; 1]>,
    pub(crate) form: WireForm,
    /// Compression, if both sides want it.
    pub(crate) deflate: Option<Agreement>,
    pub(crate) echo: bool,
    /// Where listening begins.
    pub(crate) resume: Resume,
    /// The name that the listener gives itself, to be the same over its connections.
    pub(crate) session: Option<SessionId>,
    /// Whether it wants to be told where its subscription begins.
    pub(crate) wants_open: bool,
    /// Time for which a long poll waits, if it says so.
    pub(crate) wait: Option<Duration>,
    pub(crate) may_speak: bool,
    /// What a token or the back end granted, or nothing if there is no key to check a token with; `None`
    /// for who is not known.
    pub(crate) grant: Option<Grant>,
    /// If the back end has said who it is: [`Told::known_since`].
    pub(crate) known_since: Option<u64>,
    /// Whether the users who listen are to be named, which is permitted.
    pub(crate) wants_users: bool,
    /// Its place among the connections of its address, where the connection itself stands for many.
    pub(crate) ticket: Option<Ticket>,
}

impl Listen {
    /// Whose session it will be, if that is known.
    pub(crate) fn user(&self) -> Option<&UserId> {
        self.grant.as_ref()?.user.as_ref()
    }

    /// What it hears: its channels, and her own if she is known.
    pub(crate) fn heard(&self) -> SmallVec<[ChannelName; 1]> {
        let mut heard = self.channels.clone();
        if let Some(own) = self.user().map(UserId::channel)
            && !heard.contains(&own)
        {
            heard.push(own);
        }
        heard
    }
}

impl<'a> Asked<'a> {
    /// The same, asked over a connection from `source`.
    pub(crate) fn over(self, source: Source, node: &Node) -> Result<Self, Refusal> {
        let source = source.of_request(&self, &node.gate.network)?;
        Ok(Self { source, ..self })
    }

    /// Where it was sent to, for the rules for origins.
    fn sent_to(&self) -> SentTo<'a> {
        SentTo {
            host: self.host,
            is_https: self.source.is_https,
        }
    }

    /// Whether the answer may be an event stream.
    pub(crate) fn wants_stream(&self) -> bool {
        self.accept.is_some_and(|accept| {
            accept
                .split(|&b| b == b',')
                .filter_map(|item| item.split(|&b| b == b';').next())
                .any(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
        })
    }

    /// Whether a person's browser asks for a page.
    pub(crate) fn wants_page(&self) -> bool {
        self.accept.is_some_and(|accept| {
            accept
                .windows(9)
                .any(|part| part.eq_ignore_ascii_case(b"text/html"))
        })
    }
}

impl Rules {
    /// Host and origin, for every request. Returns the origin to name in CORS fields.
    pub(crate) fn gate<'a>(&self, asked: &Asked<'a>) -> Result<Option<&'a str>, Refusal> {
        self.hosts_of(asked.source).check(asked.host)?;
        self.origins.check(asked.origins.iter().copied(), asked.sent_to())
    }

    /// No page can make a browser open a Unix socket, so there any name will do unless some are listed; but
    /// not without a key, since behind a proxy the socket would be everybody's.
    fn hosts_of(&self, source: Source) -> &HostRules {
        if source.is_unix {
            &self.unix_hosts
        } else {
            &self.hosts
        }
    }

    /// Whether the cookies of a request that has passed [`Self::gate`] were sent by will of a page
    /// that may. Browsers send them along from any page, and do not always say from which.
    fn trusts_cookies(&self, asked: &Asked<'_>) -> bool {
        match asked.origins.first() {
            Some(origin) => self.origins.is_named(origin, asked.sent_to()),
            None => asked.fetch_site == Some(b"same-origin"),
        }
    }
}

/// Who asks, if that can be told from the request.
#[derive(Clone, Debug)]
pub(crate) enum Who {
    Known(Identity),
    /// Only the back end knows: see [`crate::hooks::connect`].
    Stranger(Stranger),
}

/// Who asks, to do this with these channels. The request has passed [`Rules::gate`].
pub(crate) fn identify(
    node: &Node,
    asked: &Asked<'_>,
    wish: Wish,
    channels: &[ChannelName],
) -> Result<Who, Refusal> {
    let with_cookie = wish != Wish::Post || node.config.tokens.cookie_post;
    let cookies = asked.cookies.as_slice();
    let cookies = if with_cookie && !cookies.is_empty() && node.rules.trusts_cookies(asked) {
        cookies
    } else {
        &[]
    };
    let carried = Carried::find(asked.authorization, asked.query, cookies.iter().copied())?;
    // Who speaks by POST is the server where there is no key, and anybody who brings no cookie else.
    let may_be_asked = wish != Wish::Post || (!node.config.is_open() && !cookies.is_empty());
    // Where there is no key at all, a token says nothing.
    let is_stranger = carried == Carried::Nothing || !node.tokens.are_checked(&node.rules.policy);
    if is_stranger && node.hooks.connect.is_some() && may_be_asked {
        return Ok(Who::Stranger(Stranger {
            path: asked.path.to_owned(),
            channels: channels.to_vec(),
            wish,
            cookies: cookies.iter().map(|field| field.to_vec()).collect(),
            origin: asked.origins.first().map(|origin| origin.to_vec()),
            address: asked.source.ip,
        }));
    }
    let (shown, now) = (carried.credential(), node.clock.now());
    node.gate.may_show(&asked.source, &shown, now)?;
    let identity = node.tokens.identify(&node.rules.policy, shown).map_err(|bad| {
        node.gate.failed(&asked.source, bad, now);
        Refusal::from(bad)
    })?;
    Ok(Who::Known(identity))
}

/// Whether there is room for one more session of whoever asks. `admission` is what was found when the
/// connection came; `is_new`: this was not looked at before.
fn room(
    node: &Node,
    asked: &Asked<'_>,
    admission: Admission,
    is_new: bool,
) -> Result<Option<Ticket>, Refusal> {
    node.room_for_one()?;
    admission.check()?;
    if asked.source.way != Way::Forwarded {
        return Ok(None);
    }
    let now = node.clock.now();
    if !is_new {
        return node.gate.wait(&asked.source, now);
    }
    let entered = node.gate.enter(&asked.source, now);
    let (admission, ticket) = entered.unwrap_or((Admission::TooFast(Duration::from_secs(1)), None));
    admission.check().map(|()| ticket)
}

/// The same, where there is time to ask the back end.
pub(crate) async fn identify_or_ask(
    node: &Arc<Node>,
    asked: &Asked<'_>,
    wish: Wish,
    channels: &[ChannelName],
) -> Result<Identity, Refusal> {
    match identify(node, asked, wish, channels)? {
        Who::Known(identity) => Ok(identity),
        Who::Stranger(stranger) => {
            let told = hooks::connect::ask(node, stranger).await?;
            Ok(Identity::Client(told.grant))
        }
    }
}

/// What a handshake gets that asks in the wrong way, and a field that says what would be right.
pub(crate) fn bad_handshake(upgrade: &Upgrade) -> (Refusal, Option<(&'static str, &'static str)>) {
    match upgrade {
        Upgrade::OtherVersion => (Refusal::LostUpgrade, Some(("Sec-WebSocket-Version", "13"))),
        Upgrade::Bad(cause) => (Refusal::bad_request(*cause), None),
        Upgrade::Lost | Upgrade::No | Upgrade::Yes { .. } => {
            (Refusal::LostUpgrade, Some(("Upgrade", "websocket")))
        }
    }
}

/// Whether an event stream that is refused so is told to come back. EventSource would not do so from
/// an error status.
pub(crate) fn may_come_back(refusal: &Refusal) -> bool {
    matches!(refusal.status(), 429 | 503)
}

/// What a request for an event stream gets behind which a body comes.
pub(crate) fn stream_with_body() -> Refusal {
    Refusal::bad_request("a GET for an event stream has no body")
}

/// What a request to listen gets.
pub(crate) enum Verdict {
    Listen(Listen),
    /// It depends on what the back end says of her; then this is to be asked again, with her grant.
    Ask(Stranger),
}

/// What a request to open a session gets: [`listen`], if there is room. `told` is what the back end has
/// said of who asks.
pub(crate) fn enter(
    node: &Node,
    asked: &Asked<'_>,
    admission: Admission,
    websocket: bool,
    told: Option<Result<Told, Refusal>>,
) -> Result<Verdict, Refusal> {
    let ticket = room(node, asked, admission, told.is_none())?;
    Ok(match listen(node, asked, websocket, told.transpose()?)? {
        Verdict::Listen(listen) => Verdict::Listen(Listen { ticket, ..listen }),
        ask @ Verdict::Ask(_) => ask,
    })
}

/// The same, where there is time to ask the back end.
pub(crate) async fn enter_or_ask(
    node: &Arc<Node>,
    asked: &Asked<'_>,
    websocket: bool,
) -> Result<Listen, Refusal> {
    let ticket = room(node, asked, Admission::Welcome, true)?;
    let listen = listen_or_ask(node, asked, websocket).await?;
    Ok(Listen { ticket, ..listen })
}

/// The same as [`listen`], where there is time to ask the back end.
pub(crate) async fn listen_or_ask(
    node: &Arc<Node>,
    asked: &Asked<'_>,
    websocket: bool,
) -> Result<Listen, Refusal> {
    let stranger = match listen(node, asked, websocket, None)? {
        Verdict::Listen(listen) => return Ok(listen),
        Verdict::Ask(stranger) => stranger,
    };
    let told = hooks::connect::ask(node, stranger).await?;
    match listen(node, asked, websocket, Some(told))? {
        Verdict::Listen(listen) => Ok(listen),
        Verdict::Ask(_) => Err(Refusal::HookFailed),
    }
}

/// What a request to listen gets; `told` is what the back end has said of who asks.
pub(crate) fn listen(
    node: &Node,
    asked: &Asked<'_>,
    websocket: bool,
    told: Option<Told>,
) -> Result<Verdict, Refusal> {
    if node.is_probe(asked.path) {
        return Ok(Verdict::Listen(Node::probe_listen()));
    }
    let parsed = PlainRequest::parse(asked.path, asked.query, node.config.limits.subscriptions_max);
    let parsed = parsed
        .ok_or_else(|| Refusal::NotFound("nothing lives here; channels are at /ch/{name}".into()))??;
    let channels = parsed.listen_channels()?;
    let wish = match (websocket, asked.wants_stream()) {
        (true, _) => Wish::Websocket,
        (false, true) => Wish::EventStream,
        (false, false) => Wish::Get,
    };
    let known_since = told.as_ref().map(|told| told.known_since);
    let who = match told {
        Some(told) => Who::Known(Identity::Client(told.grant)),
        None => identify(node, asked, wish, channels)?,
    };
    let identity = match who {
        Who::Known(identity) => identity,
        Who::Stranger(stranger) => return Ok(Verdict::Ask(stranger)),
    };
    let policy = &node.rules.policy;
    // A browser comes back to the URL it was given, with what it has seen since in the field.
    let resume = match asked.last_event_id.filter(|id| !id.is_empty()) {
        Some(id) => Resume::Since(Since::parse(id)),
        None => parsed.resume(),
    };
    let wanted = [
        Some(Operation::Listen),
        (resume != Resume::Now).then_some(Operation::History),
        parsed.users.then_some(Operation::Presence),
    ];
    for operation in wanted.into_iter().flatten() {
        for channel in channels {
            policy.permit(channel, operation, &identity)?;
        }
    }
    let may_speak = websocket && may_speak(policy, channels, identity.over_a_connection());
    let grant = match identity {
        Identity::Client(grant) if !grant.is_anonymous() => Some(grant),
        // There is no key, so tokens are not looked at; but the next one that this peer sends is no
        // message either.
        Identity::Server if shows_token(asked) => Some(Grant::default()),
        Identity::Client(_) | Identity::Server => None,
    };
    if let Some(grant) = grant.as_ref().filter(|_| websocket || asked.wants_stream()) {
        tokens::time_left(grant)?;
    }
    // What private channels say is sent uncompressed nevertheless: see `Draft::is_secret`.
    let may_deflate = websocket && node.config.compression.enabled;
    let offers = asked.extensions.iter().copied();
    let deflate = may_deflate.then(|| extension::negotiate(offers)).flatten();
    let form = parsed.form(websocket);
    Ok(Verdict::Listen(Listen {
        app: AppId::DEFAULT,
        channels: channels.into(),
        form: if deflate.is_some() { form.deflate() } else { form },
        deflate,
        echo: parsed.echo,
        resume,
        session: parsed.session,
        wants_open: parsed.open,
        wait: parsed
            .wait_seconds
            .map(|seconds| Duration::from_secs(seconds.into())),
        may_speak,
        grant,
        wants_users: parsed.users,
        known_since,
        ticket: None,
    }))
}

/// Whether the key is shown, or a request is signed by an app.
pub(crate) fn shows_key(node: &Node, method: &str, asked: &Asked<'_>) -> bool {
    if let Some(order) = pusher::order(node, method, asked) {
        return order.is_ok();
    }
    let carried = Carried::find(asked.authorization, None, std::iter::empty());
    matches!(carried, Ok(Carried::Bearer(bearer)) if node.rules.policy.is_key(bearer))
}

/// Whether `?token=` is what shows who asks.
fn shows_token(asked: &Asked<'_>) -> bool {
    let carried = Carried::find(asked.authorization, asked.query, std::iter::empty());
    matches!(carried, Ok(Carried::Token(_)))
}

/// Whether a client with this grant may speak on all the channels of a connection: one message
/// goes to all.
pub(crate) fn may_speak(policy: &Policy, channels: &[ChannelName], grant: &Grant) -> bool {
    channels
        .iter()
        .all(|channel| policy.permit_client(channel, Operation::Speak, grant).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(accept: &str, stream: bool, page: bool) {
        let asked = Asked {
            accept: Some(accept.as_bytes()),
            ..Asked::default()
        };
        assert_eq!(
            (asked.wants_stream(), asked.wants_page()),
            (stream, page),
            "{accept}"
        );
    }

    #[test]
    fn accept_chooses_the_form_of_the_answer() {
        check("text/event-stream", true, false);
        check("application/json, Text/Event-Stream;q=0.9", true, false);
        check("text/html,application/xhtml+xml,*/*;q=0.8", false, true);
        check("*/*", false, false);
        check("text/event-streams", false, false);
        check("", false, false);
    }
}
