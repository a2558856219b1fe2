//! From a request head to a session: the shard's side of the two lanes.
//!
//! WebSockets and event streams become sessions on the raw socket. Anything else leaves, bytes
//! included, for the HTTP server on the same thread. A refused WebSocket is accepted and then
//! closed with a code and reason, since a browser shows nothing of a failed handshake; only a
//! wrong host or origin, and heads that are no HTTP, are refused before (`plain.md` section 8).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::hub::Topic;
use fanfare_core::moment::Moment;
use fanfare_core::people;
use fanfare_core::publication::{Reader, WireForm};
use fanfare_core::rate::Bucket;
use fanfare_core::session::{EventStream, LongPoll, PlainWebSocket, Session, SessionId};
use fanfare_core::stream::Replay;
use fanfare_core::user::UserId;
use fanfare_core::wire::http1::{self, HeadError, RequestHead, Upgrade};
use fanfare_core::wire::websocket::extension::Agreement;
use fanfare_core::wire::{self, plain, sse, websocket};
use smallvec::SmallVec;

use super::asking::EARLY_BYTES_MAX;
use super::connection::{Connection, Open, Place, Stage, Transport};
use super::members;
use super::pusher::Knock;
use super::refresh::deadline;
use super::turn::CLOSING_MAX;
use super::{Key, Shard, State};
use crate::address::Source;
use crate::api;
use crate::apps::World;
use crate::door::{self, Asked, Listen, Verdict};
use crate::engine::Listening;
use crate::gate::Admission;
use crate::hooks::connect::{Stranger, Told};
use crate::line::Line;
use crate::log_gate::Kind;
use crate::node::{self, Node};
use crate::random::random;

/// What a browser is told to wait before it connects a stream again, at least and in addition at
/// most.
const RETRY_MS: (u64, u64) = (1_000, 2_000);

/// The same when this node has no room: long enough that the storm thins out.
const RETRY_FULL_MS: (u64, u64) = (5_000, 10_000);

/// What the slower lane knows of a request that becomes a session.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) listen: Result<Listen, Refusal>,
    pub(crate) peer: Source,
}

/// Fields of a refusal.
const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// What somebody is told whom the back end sends away.
pub(crate) const DISMISSED: &str = "disconnected by the back end";

/// What a complete head asks for.
pub(super) enum Route {
    /// The back end must say first who it is.
    Ask(Stranger),
    WebSocket {
        accept: String,
        facts: Facts,
    },
    /// A WebSocket of the Pusher door.
    Pusher {
        accept: String,
        knock: Knock,
    },
    Stream {
        origin: Option<String>,
        listen: Listen,
        peer: Source,
    },
    Refused {
        refusal: Refusal,
        origin: Option<String>,
        field: Option<(&'static str, &'static str)>,
    },
    /// Not now: an event stream is told so in a way that browsers come back from.
    StreamLater {
        refusal: Refusal,
        origin: Option<String>,
    },
    Http,
}

impl State {
    /// More of a request head has arrived.
    pub(super) fn take_head(&mut self, shard: &Rc<Shard>, key: Key, bytes: &[u8], now: Moment) {
        let limits = shard.node.head_limits();
        let source = self.peer(key);
        let Some(Stage::Head {
            bytes: kept,
            admission,
            ..
        }) = self.get(key).map(|connection| &mut connection.stage)
        else {
            return;
        };
        let admission = *admission;
        // Usually the whole head is here at once and nothing needs to be kept.
        let joined;
        let input = if kept.is_empty() {
            bytes
        } else {
            kept.extend_from_slice(bytes);
            joined = std::mem::take(kept);
            &joined
        };
        match http1::parse(input, &limits) {
            Ok(Some(head)) => {
                let (route, len) = (route(shard, &head, source, admission, None), head.len);
                self.follow(shard, key, route, input, len, now);
            }
            Ok(None) => {
                let input = input.to_vec();
                if let Some(Stage::Head { bytes: kept, .. }) = self.get(key).map(|c| &mut c.stage) {
                    *kept = input;
                }
            }
            Err(error) => self.bad_head(shard, key, error),
        }
    }

    /// Does what the head of a request asks for: the first `len` bytes of what has arrived.
    pub(super) fn follow(
        &mut self,
        shard: &Rc<Shard>,
        key: Key,
        route: Route,
        input: &[u8],
        len: usize,
        now: Moment,
    ) {
        let mut early = input.get(len..).unwrap_or_default().to_vec();
        match route {
            Route::Ask(_) if early.len() > EARLY_BYTES_MAX => {
                let refusal = Refusal::bad_request("wait for the answer before you say more");
                let answer = http1::response(refusal.status(), &JSON, &api::refusal_body(&refusal));
                self.farewell(shard, key, answer, refusal);
            }
            Route::Ask(stranger) => self.ask(shard, key, stranger, input.to_vec()),
            Route::Http => {
                if let Some(line) = self.release(key) {
                    api::serve(Rc::clone(shard), line, input.to_vec());
                }
            }
            Route::WebSocket { accept, facts } => {
                let extensions = facts.listen.as_ref().ok().and_then(|listen| listen.deflate);
                let extensions = extensions.map(Agreement::field);
                let answer = http1::switching_protocols(&accept, extensions.as_deref());
                self.send_last(key, answer.into());
                self.open_websocket(shard, key, facts, now);
                if !early.is_empty() {
                    self.take_bytes(shard, key, &mut early, now);
                }
            }
            Route::Pusher { accept, knock } => {
                let extensions = knock.deflate.map(Agreement::field);
                let answer = http1::switching_protocols(&accept, extensions.as_deref());
                self.send_last(key, answer.into());
                self.open_pusher(shard, key, knock, now);
                if !early.is_empty() {
                    self.take_bytes(shard, key, &mut early, now);
                }
            }
            Route::Stream { origin, listen, peer } => {
                let mut answer = stream_head(origin.as_deref());
                answer.extend_from_slice(&self.stream_prologue(RETRY_MS));
                self.send_last(key, answer.into());
                self.open_stream(shard, key, listen, peer, now);
            }
            Route::StreamLater { origin, refusal } => {
                let mut answer = stream_head(origin.as_deref());
                answer.extend_from_slice(&self.stream_prologue(RETRY_FULL_MS));
                self.farewell(shard, key, answer, refusal);
            }
            Route::Refused {
                refusal,
                origin,
                field,
            } => {
                let mut fields = api::cors_fields(origin.as_deref()).to_vec();
                fields.push(("Content-Type", "application/json"));
                fields.extend(field);
                let own = refusal.field();
                fields.extend(own.iter().map(|(name, value)| (*name, value.as_ref())));
                let answer = http1::response(refusal.status(), &fields, &api::refusal_body(&refusal));
                self.farewell(shard, key, answer, refusal);
            }
        }
    }

    pub(super) fn bad_head(&mut self, shard: &Shard, key: Key, error: HeadError) {
        let refusal = Refusal::bad_request(error.to_string());
        let answer = http1::response(error.status(), &JSON, &api::refusal_body(&refusal));
        self.farewell(shard, key, answer, refusal);
    }

    pub(super) fn head_too_slow(&mut self, shard: &Shard, key: Key) {
        if self.gave_up_handshake(key, crate::line::Cause::TooSlow) {
            return self.end(shard, key, Disconnect::Lost);
        }
        self.farewell(shard, key, http1::response(408, &[], b""), Refusal::TooSlow);
    }

    /// A last answer on a connection that has no session.
    fn farewell(&mut self, shard: &Shard, key: Key, answer: Vec<u8>, refusal: Refusal) {
        shard.node.refused(&refusal);
        self.send_last(key, answer.into());
        self.close_without_session(shard, key);
    }

    pub(super) fn close_without_session(&mut self, shard: &Shard, key: Key) {
        let deadline = shard.now() + CLOSING_MAX;
        let Some(connection) = self.get(key) else { return };
        // From now on it costs a descriptor for a second at most; a storm of those who must go
        // again must not take the places of those who publish.
        let place = std::mem::replace(&mut connection.place, Place::GivenBack);
        if matches!(connection.transport, Transport::Line(_)) && place == Place::Taken {
            shard.node.connection_closed();
        }
        if matches!(connection.stage, Stage::Head { .. }) {
            connection.stage = Stage::Closing { deadline };
            self.heads_open -= 1;
        }
        self.arm(key, deadline);
        self.mark(key, true);
    }

    /// Who is at the other end of a connection.
    pub(super) fn peer(&mut self, key: Key) -> Source {
        let line = self.get(key).and_then(Connection::line);
        line.map_or_else(Source::default, |line| line.source)
    }

    /// Takes over a connection whose WebSocket handshake was answered elsewhere, and opens its session.
    pub(super) fn adopt_websocket(
        &mut self,
        shard: &Rc<Shard>,
        line: Line,
        mut early: Vec<u8>,
        open: impl FnOnce(&mut Self, Key, Moment),
    ) {
        let now = shard.now();
        if line.socket.set_nonblocking(true).is_err() {
            return;
        }
        shard.node.connection_opened();
        let deadline = now + CLOSING_MAX;
        let key = self.insert(|key| Connection::new(key, Transport::Line(line), Stage::Closing { deadline }));
        if !self.register(key) {
            return self.end(shard, key, Disconnect::Internal);
        }
        // TLS may still hold a part of the answer to the handshake.
        self.mark(key, true);
        open(self, key, now);
        if !early.is_empty() {
            self.take_bytes(shard, key, &mut early, now);
        }
    }

    pub(super) fn adopt_stream(&mut self, shard: &Rc<Shard>, facts: Facts, prologue: Bytes) -> Key {
        let now = shard.now();
        let deadline = now + CLOSING_MAX;
        let key = self.insert(|key| Connection::new(key, Transport::Body(None), Stage::Closing { deadline }));
        self.send_last(key, prologue);
        if let Ok(listen) = facts.listen {
            self.open_stream(shard, key, listen, facts.peer, now);
        }
        key
    }

    pub(super) fn adopt_poll(&mut self, shard: &Rc<Shard>, facts: Facts, ends_at: Moment) -> Key {
        let now = shard.now();
        let deadline = now + CLOSING_MAX;
        let key = self.insert(|key| Connection::new(key, Transport::Body(None), Stage::Closing { deadline }));
        if let Ok(mut listen) = facts.listen {
            listen.form = WireForm::Notice;
            listen.wants_open = false;
            let session = Session::LongPoll(LongPoll::new(ends_at));
            if let Err(refusal) = self.open(shard, key, session, listen, facts.peer, now) {
                shard.node.refused(&refusal);
            }
        }
        key
    }

    /// The handshake is answered: open the session, or say why not.
    pub(super) fn open_websocket(&mut self, shard: &Shard, key: Key, facts: Facts, now: Moment) {
        let node = &shard.node;
        let result = facts.listen.and_then(|listen| {
            let first_ping = now + self.first_after(node.config.sessions.ping_interval);
            let settings = if listen.deflate.is_some() {
                &node.deflate_settings
            } else {
                &node.websocket_settings
            };
            let settings = std::sync::Arc::clone(settings);
            let session = PlainWebSocket::new(settings, now, first_ping, listen.may_speak);
            let mut session = session.meta(listen.form.is_meta());
            if let Some(grant) = &listen.grant {
                session = session.until(deadline(now, grant)?);
            }
            self.open(
                shard,
                key,
                Session::PlainWebSocket(session),
                listen,
                facts.peer,
                now,
            )
        });
        if let Err(refusal) = result {
            node.refused(&refusal);
            self.send_last(key, websocket::close(refusal.close_code(), &refusal.to_string()));
            self.close_without_session(shard, key);
        }
    }

    fn open_stream(&mut self, shard: &Shard, key: Key, listen: Listen, peer: Source, now: Moment) {
        let sessions = &shard.node.config.sessions;
        let age = sessions.stream_age_max;
        // ± 20 %, so that streams which came together do not end together.
        let fifth = u64::try_from(age.as_millis() / 5).unwrap_or(0);
        let ends_at = now
            + (age.saturating_sub(Duration::from_millis(fifth))
                + Duration::from_millis(self.jitter(2 * fifth + 1)));
        let first = now + self.first_after(sessions.ping_interval);
        let retry = self.retry(RETRY_MS);
        let settings = std::sync::Arc::clone(&shard.node.stream_settings);
        let mut session = EventStream::new(settings, first, ends_at, retry);
        if let Some(grant) = &listen.grant {
            session = session.until(deadline(now, grant).unwrap_or(now));
        }
        let session = Session::EventStream(session);
        if let Err(refusal) = self.open(shard, key, session, listen, peer, now) {
            shard.node.refused(&refusal);
            self.close_without_session(shard, key);
        }
    }

    /// Enters a session everywhere: interest first, then the hub, then live.
    fn open(
        &mut self,
        shard: &Shard,
        key: Key,
        session: Session,
        listen: Listen,
        peer: Source,
        now: Moment,
    ) -> Result<(), Refusal> {
        let node = &shard.node;
        if node.is_draining() {
            return Err(Refusal::Draining);
        }
        let id = match listen.session {
            Some(id) => id,
            None => random_id()?,
        };
        // Who wants its echo is never left out, live or in a replay: nothing is excluded from this name.
        let name = if listen.echo { random_id()? } else { id };
        let heard = listen.heard();
        let listening = Listening {
            shard: shard.index,
            channels: &heard,
            resume: listen.resume,
            reader: Reader {
                session: Some(name),
                user: listen.user(),
            },
            is_new: true,
        };
        let world = node.apps.world(listen.app);
        let world = world.ok_or_else(|| Refusal::NotFound("no such app".into()))?;
        let replay = node.engine.subscribe(listen.app, &listening, node.clock.now())?;
        self.hub.join(key.slot, name, listen.app, listen.form);
        let channels: SmallVec<[ChannelName; 1]> = listen
            .channels
            .iter()
            .map(|channel| self.hub.intern(listen.app, channel))
            .collect();
        for channel in &heard {
            self.hub
                .subscribe_after(key.slot, &Topic::Channel(channel.clone()), Some(replay.position));
        }
        if let Some(user) = listen.user() {
            self.hub.name(key.slot, user.clone());
            for channel in heard.iter().filter(|channel| members::counts(&session, channel)) {
                members::join(node, &world, channel, user);
            }
            arrive(node, &world, shard.place(key), id, user, listen.known_since);
        }
        let past = Past::of(&replay, &heard, listen.form, node.config.limits.outbox_bytes_max);
        let open = Open {
            session,
            id,
            world,
            channels,
            unsaid: None,
            echo: listen.echo,
            grant: listen.grant.map(Box::new),
            insider: None,
            peer,
            opened: now,
            bytes: Bucket::default(),
            paused_until: Moment::NEVER,
            _ticket: listen.ticket,
        };
        let form = match listen.form {
            WireForm::EventStreamRaw | WireForm::EventStreamMeta => "event stream",
            WireForm::Notice => "long poll",
            _ => "websocket",
        };
        self.seat(shard, key, open, form, listen.deflate.is_some(), now);
        if !past.bytes.is_empty() {
            self.send(shard, key, past.bytes.into());
        }
        if let Some(Stage::Open(open)) = self.get(key).map(|connection| &connection.stage)
            && open.session.is_steady()
        {
            open.world.count_changed(node, &heard);
        }
        let metrics = &node.metrics.shards[shard.index];
        metrics.replayed.add(past.replayed);
        metrics.gaps.add(usize::from(past.is_gap));
        if listen.wants_open {
            let opened = plain::opened(listen.form, replay.position);
            opened.into_iter().for_each(|frame| self.send(shard, key, frame));
        }
        if past.is_untold {
            self.close_session(shard, key, Disconnect::Gap);
        }
        Ok(())
    }

    /// A session has entered everywhere: from now on the connection is one.
    pub(super) fn seat(
        &mut self,
        shard: &Shard,
        key: Key,
        open: Open,
        form: &'static str,
        deflate: bool,
        now: Moment,
    ) {
        let node = &shard.node;
        let timeout = open.session.poll_timeout();
        if open.world.id != AppId::PROBE {
            if !open.peer.is_unix && !matches!(open.session, Session::LongPoll(_)) {
                node.gate.opened(now);
            }
            node.metrics.shards[shard.index].opened(&open.session);
            node.log.say(Kind::Open, || {
                let channels: Vec<&str> = open.channels.iter().take(8).map(ChannelName::as_str).collect();
                let (session, peer) = (open.id, open.peer);
                tracing::info!(%session, %peer, form, deflate, channels = ?channels, "session opened");
            });
        }
        if let Some(connection) = self.get(key) {
            if matches!(connection.stage, Stage::Head { .. }) {
                connection.stage = Stage::Open(Box::new(open));
                self.heads_open -= 1;
            } else {
                connection.stage = Stage::Open(Box::new(open));
            }
        }
        // Before anything that may close it, which arms for sooner.
        if let Some(connection) = self.get(key) {
            connection.armed = u64::MAX;
        }
        self.arm(key, timeout);
    }

    /// A first interval of random length between half and whole, so that sessions which came
    /// together are not pinged together for ever.
    fn first_after(&mut self, interval: Duration) -> Duration {
        let half = u64::try_from(interval.as_millis() / 2).unwrap_or(0);
        Duration::from_millis(half + self.jitter(half + 1))
    }

    fn retry(&mut self, (least, more): (u64, u64)) -> Duration {
        Duration::from_millis(least + self.jitter(more))
    }

    fn stream_prologue(&mut self, range: (u64, u64)) -> Bytes {
        sse::prologue(self.retry(range))
    }
}

impl Shard {
    /// The first bytes of an event stream of the slower lane, where `full` says that it will end
    /// at once.
    pub(crate) fn stream_prologue(&self, full: bool) -> Bytes {
        self.state
            .borrow_mut()
            .stream_prologue(if full { RETRY_FULL_MS } else { RETRY_MS })
    }
}

/// What a new session is given of the past, in its wire form.
pub(super) struct Past {
    pub(super) bytes: Vec<u8>,
    pub(super) replayed: usize,
    pub(super) is_gap: bool,
    /// There is a gap, and the wire form has no way to say so.
    is_untold: bool,
}

impl Past {
    /// What is more than half of an outbox is a gap too: there must be room for what comes next.
    pub(super) fn of(
        replay: &Replay,
        channels: &[ChannelName],
        form: WireForm,
        outbox_bytes_max: usize,
    ) -> Self {
        let mut past = Self {
            bytes: Vec::new(),
            replayed: 0,
            is_gap: replay.is_gap,
            is_untold: false,
        };
        for entry in &replay.entries {
            // Of several channels it is told the one that a live publication would name.
            let channel = entry.channel_among(channels);
            past.bytes
                .extend_from_slice(&wire::encode_entry(entry, channel, form));
            past.replayed += 1;
            if past.bytes.len() > outbox_bytes_max / 2 {
                past.bytes.clear();
                past.replayed = 0;
                past.is_gap = true;
                break;
            }
        }
        if past.is_gap {
            match wire::gap(form, channels, replay.position) {
                Some(frame) => past.bytes.extend_from_slice(&frame),
                // Whoever was woken reads the stream, and so finds out.
                None if form == WireForm::Notice => past.bytes.push(b'.'),
                None => past.is_untold = true,
            }
        }
        // An event stream begins at its position even before the first event.
        if matches!(form, WireForm::EventStreamRaw | WireForm::EventStreamMeta) {
            past.bytes.extend_from_slice(&sse::position(replay.position));
        }
        past
    }
}

/// A user's connection is here. If she has too many, her oldest one is closed, wherever that is; and this
/// one if she was sent away after the back end was asked who she is.
pub(super) fn arrive(
    node: &Node,
    world: &World,
    place: node::Place,
    session: SessionId,
    user: &UserId,
    known_since: Option<u64>,
) {
    let mut people = world.people.lock();
    let connection = people::Connection { place, session };
    let surplus = people.arrive(user, connection, node.clock.now());
    let was_dismissed = known_since.is_some_and(|since| people.was_dismissed_since(user, since));
    let notices = people.take_notices();
    drop(people);
    node.tell_watchers(notices);
    let newer = "a newer connection of the same user has taken its place (limits.connections_per_user)";
    let surplus = surplus.map(|surplus| (surplus.place, newer));
    let dismissed = was_dismissed.then_some((place, DISMISSED));
    for (place, why) in surplus.into_iter().chain(dismissed) {
        let why = Disconnect::Refused(Refusal::Forbidden(why.into()));
        if let Some(commands) = node.commands.get(place.shard) {
            // With too many commands waiting she keeps one more for the moment.
            let _ = commands.send(super::What::Close(vec![place.key], why));
        }
    }
}

pub(super) fn random_id() -> Result<SessionId, Refusal> {
    // Without randomness ids could be guessed.
    let id = random().map_err(|_| Refusal::Full)?;
    Ok(SessionId(u128::from_ne_bytes(id)))
}

/// What a head asks for, over a connection from `source`; `told` is what the back end has said of who asks.
pub(super) fn route(
    shard: &Shard,
    head: &RequestHead<'_>,
    source: Source,
    admission: Admission,
    told: Option<Result<Told, Refusal>>,
) -> Route {
    let node = &shard.node;
    let upgrade = http1::websocket_upgrade(head);
    let refused = |refusal| Route::Refused {
        refusal,
        origin: None,
        field: None,
    };
    let asked = match asked(head).over(source, node) {
        Ok(asked) => asked,
        Err(refusal) => return refused(refusal),
    };
    if upgrade == Upgrade::No && !(head.method == "GET" && asked.wants_stream()) {
        // Who shows the key is not held to what an address may do: PHP connects anew for each POST.
        let admission = if door::shows_key(node, head.method, &asked) {
            Admission::Welcome
        } else {
            admission
        };
        let room = node.room_for_request().and_then(|()| admission.check());
        return room.map_or_else(refused, |()| Route::Http);
    }
    if let (Upgrade::Yes { accept }, Some(knocking)) = (&upgrade, door::pusher::knocking(node, asked.path)) {
        let knock = door::pusher::knock(node, &asked, &knocking, admission, true);
        return match knock.app {
            // Where cost matters nothing is accepted only to be closed.
            Err(refusal @ Refusal::TooFast { .. }) => refused(refusal),
            _ => Route::Pusher {
                accept: accept.clone(),
                knock,
            },
        };
    }
    let origin = match node.rules.gate(&asked) {
        Ok(origin) => origin.map(str::to_owned),
        Err(refusal) => return refused(refusal),
    };
    let peer = asked.source;
    match upgrade {
        Upgrade::Yes { accept } => {
            // The server's own probe is let in always: a full house is not a sick one.
            let listen = if node.is_probe(asked.path) {
                door::listen(node, &asked, true, None)
            } else {
                door::enter(node, &asked, admission, true, told)
            };
            let listen = match listen {
                Ok(Verdict::Ask(stranger)) => return Route::Ask(stranger),
                // Where cost matters nothing is accepted only to be closed.
                Err(refusal @ Refusal::TooFast { .. }) => {
                    return Route::Refused {
                        refusal,
                        origin,
                        field: None,
                    };
                }
                Ok(Verdict::Listen(listen)) => Ok(listen),
                Err(refusal) => Err(refusal),
            };
            let facts = Facts { listen, peer };
            Route::WebSocket { accept, facts }
        }
        Upgrade::Lost | Upgrade::OtherVersion | Upgrade::Bad(_) => {
            let (refusal, field) = door::bad_handshake(&upgrade);
            Route::Refused {
                refusal,
                origin,
                field,
            }
        }
        Upgrade::No if head.has_body() => Route::Refused {
            refusal: door::stream_with_body(),
            origin,
            field: None,
        },
        Upgrade::No => match door::enter(node, &asked, admission, false, told) {
            Ok(Verdict::Ask(stranger)) => Route::Ask(stranger),
            Ok(Verdict::Listen(listen)) => Route::Stream { origin, listen, peer },
            Err(refusal) if door::may_come_back(&refusal) => Route::StreamLater { refusal, origin },
            Err(refusal) => Route::Refused {
                refusal,
                origin,
                field: None,
            },
        },
    }
}

fn asked<'a>(head: &RequestHead<'a>) -> Asked<'a> {
    Asked {
        path: head.path().unwrap_or_default(),
        query: head.query(),
        host: head.field_str("host"),
        origins: head.fields_named("origin").collect(),
        authorization: head.field("authorization"),
        cookies: head.fields_named("cookie").collect(),
        fetch_site: head.field("sec-fetch-site"),
        accept: head.field("accept"),
        user_agent: head.fields_named("user-agent").next(),
        last_event_id: head.field_str("last-event-id"),
        extensions: head.fields_named("sec-websocket-extensions").collect(),
        forwarded_for: head.fields_named("x-forwarded-for").collect(),
        forwarded_proto: head.fields_named("x-forwarded-proto").collect(),
        source: Source::default(),
    }
}

/// The head of an event stream that ends with its connection.
fn stream_head(origin: Option<&str>) -> Vec<u8> {
    let mut head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
        X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
        Connection: close\r\n"
        .to_vec();
    for (name, value) in api::cors_fields(origin) {
        head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}
