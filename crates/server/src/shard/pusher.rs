//! Sessions of the Pusher door: what they want of channels, carried out on their shard.
//!
//! Who may do what is decided in core ([`fanfare_core::auth::subscription`]); here it is done, in an order
//! that keeps the protocol's promises:
//!
//! * A subscriber is told that it is one before anything of the channel, then what is cached or was
//!   missed, then what is live.
//! * Members: under the lock of an app's people, somebody new is announced to the others, then subscribes,
//!   then gets the roster. Whoever is announced before that is in the roster, whoever comes later is
//!   announced to her, and nobody twice. That somebody has gone is announced behind her last subscription.
//! * What is announced goes the way of all publications, so it has its place in the channel's order; it
//!   is only for who is here and is not kept.
//!
//! A refused wish is answered to who wished and changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_core::auth::Grant;
use fanfare_core::auth::subscription::{self, NotAdmitted, Signatory, Wish};
use fanfare_core::channel::{ChannelName, Kind};
use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::hub::Topic;
use fanfare_core::moment::Moment;
use fanfare_core::people::People;
use fanfare_core::position::{Position, Since};
use fanfare_core::publication::{Audience, DataKind, Draft, EventName, Reader, WireForm};
use fanfare_core::rate::Bucket;
use fanfare_core::returning::{Past as Returned, RecordKey};
use fanfare_core::session::{Pusher, Session, SessionId};
use fanfare_core::stream::{Replay, Resume};
use fanfare_core::user::UserId;
use fanfare_core::wire::pusher::frame::{ClientFrame, Data};
use fanfare_core::wire::pusher::presence::{self, Profile};
use fanfare_core::wire::pusher::{self, SubscriptionErrorKind, name, sign};
use fanfare_core::wire::websocket::extension::Agreement;
use fanfare_core::wire::{self, websocket};
use smallvec::SmallVec;

use super::connection::{Open, Stage};
use super::open::Past;
use super::{Key, Shard, State};
use crate::address::Source;
use crate::apps::{App, Seat, World, announcement};
use crate::config::{ClientEvents, ReplayRule};
use crate::engine::Listening;
use crate::gate::Ticket;
use crate::node::{Node, Place};

/// A handshake of the Pusher door that was answered.
pub(crate) struct Knock {
    /// Whose channels it wants, or why it is sent away.
    pub(crate) app: Result<Arc<App>, Refusal>,
    /// What the page has drawn for itself, to be known again.
    pub(crate) hint: Option<Box<str>>,
    /// A number for the browser or program.
    pub(crate) device: u64,
    /// Compression, if both sides want it.
    pub(crate) deflate: Option<Agreement>,
    pub(crate) peer: Source,
    /// See [`crate::door::Listen::ticket`].
    pub(crate) ticket: Option<Ticket>,
}

/// What a session of this door has besides what every session has.
pub(super) struct Insider {
    socket_id: Box<str>,
    /// Who has signed in.
    profile: Option<Profile>,
    /// As whom it is a member of which channels.
    members: SmallVec<[(ChannelName, UserId); 1]>,
    /// Client events that it may say.
    events: Bucket,
    /// What the page has drawn for itself.
    has_hint: bool,
    device: u64,
    /// Where it is remembered what it has received.
    pub(super) record: Option<RecordKey>,
    /// The answer that is under way, and what it will say.
    pub(super) asked: Option<(u64, Position)>,
    /// There is more to ask for when that has come.
    pub(super) is_unasked: bool,
    _seat: Seat,
}

/// A subscription that is refused.
struct Denied {
    kind: SubscriptionErrorKind,
    status: u16,
    message: String,
}

impl Denied {
    fn new(kind: SubscriptionErrorKind, status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            kind,
            status,
            message,
        }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::new(
            SubscriptionErrorKind::Server,
            refusal.status(),
            refusal.to_string(),
        )
    }
}

/// A user's connection listens to a channel no more, and does not hear what comes now. The others hear that
/// she has gone, if she has: later, where that cannot be published at once.
pub(super) fn leave_members(node: &Node, world: &World, channel: &ChannelName, user: &UserId) {
    let mut people = world.people.lock();
    let was_last = people.leave(channel, user);
    if was_last && channel.kind() == Kind::Presence {
        let data = presence::removed(user);
        owe(
            node,
            world,
            announcement(world.id, channel, pusher::MEMBER_REMOVED, data),
        );
    }
}

/// Publishes what must be published, in order, now or as soon as that is possible. The caller holds the lock
/// of the people, so that order is theirs.
fn owe(node: &Node, world: &World, draft: Draft) {
    world.owed.lock().push_back(draft);
    settle(node, world);
}

/// Publishes what is owed. Says whether all of it is out.
pub(crate) fn settle(node: &Node, world: &World) -> bool {
    let mut owed = world.owed.lock();
    while let Some(draft) = owed.front() {
        if node.publisher.announce(draft.clone()).is_err() {
            return false;
        }
        owed.pop_front();
    }
    true
}

/// A user's connection listens to a channel, in a way that has no roster.
pub(super) fn join_members(node: &Node, world: &World, channel: &ChannelName, user: &UserId) {
    let mut people = world.people.lock();
    if people.enter(channel, user, None) && channel.kind() == Kind::Presence {
        let data = presence::added(user, None);
        owe(
            node,
            world,
            announcement(world.id, channel, pusher::MEMBER_ADDED, data),
        );
    }
}

/// A user's connection will listen to a channel. The others hear that she has come, if she was not there.
/// The caller subscribes under the same lock.
pub(super) fn enter_members(
    node: &Node,
    world: &World,
    people: &mut People<Place>,
    channel: &ChannelName,
    user: &UserId,
    info: Option<&str>,
) -> Result<(), Refusal> {
    if channel.kind() == Kind::Presence && !people.is_member(channel, user) {
        if !settle(node, world) {
            return Err(Refusal::Overloaded);
        }
        let data = presence::added(user, info);
        node.publisher
            .announce(announcement(world.id, channel, pusher::MEMBER_ADDED, data))?;
    }
    people.enter(channel, user, info);
    Ok(())
}

impl State {
    /// The handshake is answered: open the session, or say why not.
    pub(super) fn open_pusher(&mut self, shard: &Shard, key: Key, knock: Knock, now: Moment) {
        if let Err(refusal) = self.enter_pusher(shard, key, knock, now) {
            shard.node.refused(&refusal);
            let (code, reason) = (refusal.pusher_code(), refusal.to_string());
            self.send_last(key, pusher::error(Some(code), &reason, None));
            self.send_last(key, websocket::close(code, &reason));
            self.close_without_session(shard, key);
        }
    }

    fn enter_pusher(&mut self, shard: &Shard, key: Key, knock: Knock, now: Moment) -> Result<(), Refusal> {
        let app = knock.app?;
        let node = &shard.node;
        if node.is_draining() {
            return Err(Refusal::Draining);
        }
        let seat = app.enter()?;
        let id = super::open::random_id()?.for_socket();
        let settings = if knock.deflate.is_some() {
            &app.session_deflate
        } else {
            &app.session
        };
        let session = Pusher::new(Arc::clone(settings), now);
        let listening = Listening {
            shard: shard.index,
            channels: &[],
            resume: Resume::Now,
            reader: Reader::default(),
            is_new: true,
        };
        node.engine.subscribe(app.id, &listening, node.clock.now())?;
        let form = WireForm::Pusher;
        let form = if knock.deflate.is_some() {
            form.deflate()
        } else {
            form
        };
        self.hub.join(key.slot, id, app.id, form);
        let socket_id = id.socket();
        let established = session.established(&socket_id);
        let insider = Insider {
            socket_id: socket_id.into(),
            profile: None,
            members: SmallVec::new(),
            events: Bucket::default(),
            has_hint: knock.hint.is_some(),
            device: knock.device,
            record: None,
            asked: None,
            is_unasked: false,
            _seat: seat,
        };
        let open = Open {
            session: Session::Pusher(session),
            id,
            world: Arc::clone(&app.world),
            channels: SmallVec::new(),
            unsaid: None,
            echo: false,
            grant: None,
            insider: Some(Box::new(insider)),
            peer: knock.peer,
            opened: now,
            bytes: Bucket::default(),
            paused_until: Moment::NEVER,
            _ticket: knock.ticket,
        };
        self.seat(shard, key, open, "pusher", knock.deflate.is_some(), now);
        if let Some(hint) = &knock.hint {
            self.remember(shard, key, Some(hint));
        }
        self.send(shard, key, established);
        Ok(())
    }

    /// Does what the peer of a session of this door wants.
    pub(super) fn do_frame(&mut self, shard: &Shard, key: Key, frame: ClientFrame) {
        let Some(open) = self.insider(key) else { return };
        let Some(app) = shard.node.apps.get(open.world.id) else {
            return self.close_session(shard, key, Disconnect::Refused(Refusal::NoApp));
        };
        match frame {
            ClientFrame::Subscribe {
                channel,
                auth,
                channel_data,
            } => {
                let subscribed = self.subscribe(shard, key, &app, &channel, &auth, channel_data.as_deref());
                if let Err(denied) = subscribed {
                    shard.node.metrics.denied();
                    let Denied {
                        kind,
                        status,
                        message,
                    } = denied;
                    let frame = pusher::subscription_error(&channel, kind, status, &message);
                    self.send(shard, key, frame);
                }
            }
            ClientFrame::Unsubscribe { channel } => {
                // What is no name is nothing that anybody listens to.
                if let Ok(channel) = name::parse(&channel, name::NAME_BYTES_MAX) {
                    self.unsubscribe(shard, key, &app, &channel);
                }
            }
            ClientFrame::SignIn { auth, user_data } => {
                if let Err(refusal) = self.sign_in(shard, key, &app, &auth, &user_data) {
                    shard.node.refused(&refusal);
                    self.close_session(shard, key, Disconnect::Refused(refusal));
                }
            }
            ClientFrame::Event { event, channel, data } => {
                let said = self.client_event(shard, key, &app, &event, &channel, data);
                if let Err((code, message)) = said {
                    shard.node.metrics.limited("client_events");
                    self.send(shard, key, pusher::error(code, &message, Some(&channel)));
                }
            }
            // Answered by the session itself.
            ClientFrame::Ping | ClientFrame::Pong => {}
        }
    }

    /// The session of a connection, if it is one of this door.
    fn insider(&mut self, key: Key) -> Option<&mut Open> {
        match self.get(key).map(|connection| &mut connection.stage) {
            Some(Stage::Open(open)) if open.insider.is_some() => Some(open),
            _ => None,
        }
    }

    fn subscribe(
        &mut self,
        shard: &Shard,
        key: Key,
        app: &App,
        text: &str,
        auth: &str,
        channel_data: Option<&str>,
    ) -> Result<(), Denied> {
        let node = &shard.node;
        let settings = &app.settings;
        let bytes_max = app.trigger_limits.name_bytes_max;
        let channel = name::parse(text, bytes_max).map_err(|message| {
            let (kind, status) = if text.len() > bytes_max {
                (SubscriptionErrorKind::Limit, 4009)
            } else {
                (SubscriptionErrorKind::Auth, 400)
            };
            Denied::new(kind, status, message)
        })?;
        let channel = self.hub.intern(app.id, &channel);
        let Some(open) = self.insider(key) else {
            return Ok(());
        };
        let (id, user) = (open.id, open.user().cloned());
        let Some(insider) = &open.insider else {
            return Ok(());
        };
        let wish = Wish {
            socket_id: &insider.socket_id,
            text,
            channel: &channel,
            auth,
            channel_data,
        };
        let signatory = Signatory {
            key: &settings.key,
            secret: &settings.secret,
            user_info_bytes_max: settings.user_info_bytes_max(),
        };
        let member = subscription::admit(&wish, &signatory, &node.rules.policy, insider.profile.as_ref());
        let member = member.map_err(|error| match error {
            NotAdmitted::Auth(message) => Denied::new(SubscriptionErrorKind::Auth, 401, message),
            NotAdmitted::TooLarge(message) => Denied::new(SubscriptionErrorKind::Limit, 4301, message),
        })?;
        let topic = Topic::Channel(channel.clone());
        if self.hub.listens(key.slot, &topic) {
            // Said once more, without any effect.
            let data = match channel.kind() {
                Kind::Presence => presence::roster(app.world.people.lock().roster(&channel)),
                _ => "{}".to_owned(),
            };
            self.send_beyond(key, pusher::subscribed(&channel, &data));
            return Ok(());
        }
        if self.hub.subscriptions(key.slot) >= settings.subscriptions_max {
            let message = "too many subscriptions over one connection (subscriptions_max)";
            return Err(Denied::new(SubscriptionErrorKind::Limit, 4100, message));
        }
        let is_cache = channel.is_cache();
        let back = self.comes_back(shard, key, &channel, member.as_ref());
        let listening = Listening {
            shard: shard.index,
            channels: std::slice::from_ref(&channel),
            resume: match &back.past {
                Some(past) => Resume::Since(Since::Position(past.position)),
                None if is_cache => Resume::Last(1),
                None => Resume::Now,
            },
            reader: Reader {
                session: Some(id),
                user: user.as_ref(),
            },
            is_new: false,
        };
        let (mut replay, data) = match &member {
            None => (
                node.engine.subscribe(app.id, &listening, node.clock.now())?,
                "{}".to_owned(),
            ),
            Some(profile) => enter_presence(node, app, &listening, &channel, profile)?,
        };
        self.hub.subscribe_after(key.slot, &topic, Some(replay.position));
        let is_private = channel.kind() != Kind::Public;
        if let Some(open) = self.insider(key) {
            if is_private {
                open.session.on_authorized();
            }
            if let (Some(insider), Some(profile)) = (&mut open.insider, member) {
                insider.members.push((channel.clone(), profile.user));
            }
        }
        if let (Some(insider), Some(record)) = (
            self.insider(key).and_then(|open| open.insider.as_mut()),
            back.record,
        ) {
            insider.record = Some(record);
            let from = replay.position;
            app.world
                .returning
                .lock()
                .listens(record, &channel, back.user.as_ref(), from);
            if let Some(connection) = self.get(key) {
                connection.wants_receipts = true;
            }
        }
        self.send_beyond(key, pusher::subscribed(&channel, &data));
        let mut is_told = false;
        if let Some(past) = &back.past {
            let is_own = |session: Option<SessionId>| session.is_some_and(|id| past.sessions.contains(&id));
            replay.entries.retain(|entry| !is_own(entry.draft.excluded));
            is_told = self.give_past(shard, key, &replay, &channel);
        } else if back.is_doubtful {
            self.send(
                shard,
                key,
                wire::gap(WireForm::Pusher, std::slice::from_ref(&channel), replay.position)
                    .unwrap_or_default(),
            );
        }
        if is_cache && !is_told {
            let cached = self.cached(node, app, &back, &replay, &channel);
            if cached.is_none() {
                node.metrics.cache_misses.add(1);
            }
            let frame = cached.unwrap_or_else(|| pusher::cache_miss(&channel));
            self.send(shard, key, frame);
        }
        Self::count_changed(node, app, &channel);
        Ok(())
    }

    /// What a session that subscribes goes on for, if anything.
    fn comes_back(
        &mut self,
        shard: &Shard,
        key: Key,
        channel: &ChannelName,
        member: Option<&Profile>,
    ) -> Back {
        let (node, now) = (&shard.node, shard.now());
        let rule = node
            .replay_rules
            .iter()
            .find(|(pattern, _)| pattern.matches(channel.as_str()));
        let rule = rule.map_or(ReplayRule::default(), |(_, rule)| *rule);
        let mut back = Back::default();
        let Some(open) = self.insider(key) else {
            return back;
        };
        let signed_in = open.user().cloned();
        let Some(insider) = &open.insider else { return back };
        back.user = match rule {
            ReplayRule::Off => return back,
            _ if insider.has_hint => None,
            ReplayRule::Hint => return back,
            ReplayRule::User => match member.map(|member| member.user.clone()).or(signed_in) {
                Some(user) => Some(user),
                None => return back,
            },
        };
        if insider.record.is_none() {
            self.remember(shard, key, None);
        }
        let Some(open) = self.insider(key) else {
            return back;
        };
        back.record = open.insider.as_ref().and_then(|insider| insider.record);
        let Some(record) = back.record else { return back };
        back.past = open
            .world
            .returning
            .lock()
            .past(record, channel, back.user.as_ref(), now);
        // An earlier life of the node may have known it: better one question too many.
        let is_young = now < node.started + node.config.pusher.replay_age;
        back.is_doubtful = back.past.is_none() && is_young;
        back
    }

    /// From now on it is remembered what a session receives.
    fn remember(&mut self, shard: &Shard, key: Key, hint: Option<&str>) {
        let (place, now) = (shard.place(key), shard.now());
        let Some(open) = self.insider(key) else { return };
        let (id, world) = (open.id, Arc::clone(&open.world));
        let Some(insider) = &mut open.insider else { return };
        let mut returning = world.returning.lock();
        let (record, superseded) = returning.begin(hint, insider.device, id, place, now);
        insider.record = record;
        drop(returning);
        let Some(superseded) = superseded else { return };
        let why = "another connection with the same resume hint has taken this one's place";
        let why = Disconnect::Refused(Refusal::Forbidden(why.into()));
        if let Some(commands) = shard.node.commands.get(superseded.shard) {
            // With too many commands waiting it ends when its silence is noticed.
            let _ = commands.send(super::What::Close(vec![superseded.key], why));
        }
    }

    /// Gives a session what it missed of a channel, or tells it of the gap. Says whether that was anything.
    fn give_past(&mut self, shard: &Shard, key: Key, replay: &Replay, channel: &ChannelName) -> bool {
        let limit = shard.node.config.limits.outbox_bytes_max;
        let past = Past::of(replay, std::slice::from_ref(channel), WireForm::Pusher, limit);
        let metrics = &shard.node.metrics.shards[shard.index];
        metrics.replayed.add(past.replayed);
        metrics.gaps.add(usize::from(past.is_gap));
        let is_any = !past.bytes.is_empty();
        if is_any {
            self.send(shard, key, past.bytes.into());
        }
        is_any && !past.is_gap
    }

    /// The last publication of a cache channel, as an event.
    fn cached(
        &self,
        node: &Node,
        app: &App,
        back: &Back,
        replay: &Replay,
        channel: &ChannelName,
    ) -> Option<Bytes> {
        let last;
        let entries = if back.past.is_some() {
            // What was asked for then was something else.
            let channels = std::slice::from_ref(channel);
            let now = node.clock.now();
            last = node
                .engine
                .read(app.id, channels, Resume::Last(1), Reader::default(), now)
                .ok()?;
            &last.entries
        } else {
            &replay.entries
        };
        let entry = entries.last()?;
        Some(wire::encode_entry(entry, Some(channel), WireForm::Pusher))
    }

    fn unsubscribe(&mut self, shard: &Shard, key: Key, app: &App, channel: &ChannelName) {
        let node = &shard.node;
        if !self.hub.unsubscribe(key.slot, &Topic::Channel(channel.clone())) {
            return;
        }
        node.engine
            .unsubscribe(app.id, shard.index, channel, node.clock.now());
        let Some(open) = self.insider(key) else { return };
        let Some(insider) = &mut open.insider else { return };
        if let Some(record) = insider.record {
            app.world.returning.lock().forgets(record, channel);
        }
        let user = insider.forget(channel);
        if let Some(user) = user {
            leave_members(node, &app.world, channel, &user);
        }
        Self::count_changed(node, app, channel);
    }

    /// How many listen to a channel is another number now: says so, if the app wants it.
    fn count_changed(node: &Node, app: &App, channel: &ChannelName) {
        if app.settings.subscription_counts && channel.kind() != Kind::Presence {
            app.world.count_changed(node, channel);
        }
    }

    fn sign_in(
        &mut self,
        shard: &Shard,
        key: Key,
        app: &App,
        auth: &str,
        user_data: &str,
    ) -> Result<(), Refusal> {
        let node = &shard.node;
        let place = shard.place(key);
        let settings = &app.settings;
        let Some(open) = self.insider(key) else {
            return Ok(());
        };
        let id = open.id;
        let Some(insider) = &mut open.insider else {
            return Ok(());
        };
        let signed = sign::user(&insider.socket_id, user_data);
        sign::check_auth(auth, &settings.key, &settings.secret, &signed)
            .map_err(|message| Refusal::Unauthorized(message.into()))?;
        let profile = presence::user_data(user_data, settings.user_info_bytes_max())
            .map_err(|error| Refusal::Unauthorized(error.to_string().into()))?;
        let is_new = match &insider.profile {
            Some(before) if before.user != profile.user => {
                return Err(Refusal::Forbidden(
                    "another user has signed in on this connection before".into(),
                ));
            }
            before => before.is_none(),
        };
        let user = profile.user.clone();
        let watched = profile.watchlist.clone();
        insider.profile = Some(profile);
        open.grant = Some(Box::new(Grant {
            user: Some(user.clone()),
            ..Grant::default()
        }));
        open.session.on_authorized();
        self.send(shard, key, pusher::signed_in(user_data));
        if is_new {
            self.hub.name(key.slot, user.clone());
            super::open::arrive(node, &app.world, place, id, &user, None);
        }
        if settings.watchlist && !watched.is_empty() {
            self.watch_users(shard, key, app, &watched);
        }
        Ok(())
    }

    /// Tells a session which of these users are online, and will say so when that changes.
    fn watch_users(&mut self, shard: &Shard, key: Key, app: &App, watched: &[String]) {
        let max = app.settings.watchlist_max;
        if watched.len() > max {
            shard.node.metrics.limited("watchlist_max");
            let message = format!("only the first {max} users of a watchlist are watched");
            self.send(shard, key, pusher::error(Some(4302), &message, None));
        }
        let users: Vec<UserId> = watched
            .iter()
            .take(max)
            .filter_map(|user| UserId::new(user).ok())
            .collect();
        let mut people = app.world.people.lock();
        people.watch(shard.place(key), &users);
        let is_online = |user: &&UserId| people.presence(user).is_some();
        let (online, offline): (Vec<&UserId>, Vec<&UserId>) = users.iter().partition(is_online);
        drop(people);
        self.send(shard, key, pusher::watchlist(&online, &offline));
    }

    /// Publishes what the peer says to the others. On refusal: a code for the error, and a sentence.
    fn client_event(
        &mut self,
        shard: &Shard,
        key: Key,
        app: &App,
        event: &str,
        text: &str,
        data: Data,
    ) -> Result<(), (Option<u16>, String)> {
        let (node, now) = (&shard.node, shard.now());
        let no = |message: &str| Err((None, format!("Client event rejected - {message}")));
        let settings = &app.settings;
        let Ok(channel) = name::parse(text, app.trigger_limits.name_bytes_max) else {
            return no("this is no name of a channel");
        };
        let kind = channel.kind();
        match settings.client_events {
            ClientEvents::Off => return no("client events are not enabled for this app"),
            ClientEvents::Private if !matches!(kind, Kind::Private | Kind::Presence) => {
                return no("only supported on private and presence channels");
            }
            ClientEvents::Private | ClientEvents::Any => {}
        }
        if !self.hub.listens(key.slot, &Topic::Channel(channel.clone())) {
            return no("you are not subscribed to this channel");
        }
        let Ok(event) = EventName::new(event) else {
            return no("the name of an event has at most 200 bytes and is printable");
        };
        let (data_kind, data) = match data {
            Data::Text(text) => (DataKind::Text, text),
            Data::Json(json) => (DataKind::Json, json),
        };
        let bytes_max = settings.data_bytes_max();
        if data.len() > bytes_max {
            return no(&format!("larger than {bytes_max} bytes"));
        }
        let Some(open) = self.insider(key) else {
            return Ok(());
        };
        let (id, peer, user) = (open.id, open.peer, open.user().cloned());
        let Some(insider) = &mut open.insider else {
            return Ok(());
        };
        let rate = settings.client_events_per_connection();
        let too_fast = |_| {
            (
                Some(4301),
                "Client event rejected - too fast (client_events_per_connection)".to_owned(),
            )
        };
        insider.events.take(rate, 1, now).map_err(too_fast)?;
        let member = insider.members.iter().find(|(own, _)| *own == channel);
        let speaker = member.map(|(_, user)| user.clone()).or(user);
        if speaker.is_some() {
            let spoken = node.gate.speak(speaker.as_ref(), &peer, 1, now);
            spoken.map_err(|refusal| (Some(4301), refusal.to_string()))?;
        }
        let mut draft = Draft::to(
            app.id,
            Audience::Channels(SmallVec::from_iter([channel])),
            data_kind,
            data.into(),
        );
        draft.event = Some(event);
        draft.speaker = speaker;
        draft.excluded = Some(id);
        // What somebody is typing is nothing for who comes back.
        draft.ttl = Some(std::time::Duration::ZERO);
        if node.hooks.message.is_some() {
            self.ask_about(shard, key, draft);
            return Ok(());
        }
        let published = node.publisher.publish(draft);
        published.map(drop).map_err(|refusal| (None, refusal.to_string()))
    }

    /// A session of this door has ended: it is a member no more.
    pub(super) fn leave_pusher(node: &Node, open: &Open, channels: &[ChannelName], why: &Disconnect) {
        let Some(insider) = &open.insider else { return };
        if let Some(record) = insider.record {
            let may_return = insider.may_return(why);
            open.world
                .returning
                .lock()
                .end(record, may_return, node.clock.now());
        }
        for (channel, user) in &insider.members {
            leave_members(node, &open.world, channel, user);
        }
        if let Some(app) = node.apps.get(open.world.id) {
            for channel in channels {
                Self::count_changed(node, &app, channel);
            }
        }
    }
}

/// What a session that subscribes to a channel goes on for.
#[derive(Default)]
struct Back {
    /// Where it is remembered what it receives, if it is.
    record: Option<RecordKey>,
    /// As whom, where that counts.
    user: Option<UserId>,
    past: Option<Returned>,
    /// It may have missed something that nobody knows of.
    is_doubtful: bool,
}

impl Insider {
    /// Whether a session that ends so may be gone on for. Who says goodbye does not come back for more; a
    /// library that gives a dead connection up says it without a code.
    fn may_return(&self, why: &Disconnect) -> bool {
        match why {
            Disconnect::Refused(_) | Disconnect::Unauthorized => false,
            Disconnect::ByPeer(Some(1000 | 1001)) => false,
            Disconnect::ByPeer(_) => self.has_hint,
            _ => true,
        }
    }

    /// The member that the connection was there.
    fn forget(&mut self, channel: &ChannelName) -> Option<UserId> {
        let place = self.members.iter().position(|(own, _)| own == channel)?;
        Some(self.members.swap_remove(place).1)
    }
}

/// Somebody becomes a member of a presence channel: what she is given of the past, and the roster.
fn enter_presence(
    node: &Node,
    app: &App,
    listening: &Listening<'_>,
    channel: &ChannelName,
    profile: &Profile,
) -> Result<(Replay, String), Denied> {
    let world = &app.world;
    let mut people = world.people.lock();
    let (user, info) = (&profile.user, profile.info.as_deref());
    let max = app.settings.members_max();
    if people.roster(channel).len() >= max && !people.is_member(channel, user) {
        let message = format!("this channel has {max} members, which is all that it may have (members_max)");
        return Err(Denied::new(SubscriptionErrorKind::Limit, 4100, message));
    }
    enter_members(node, world, &mut people, channel, user, info)?;
    match node.engine.subscribe(app.id, listening, node.clock.now()) {
        Ok(replay) => Ok((replay, presence::roster(people.roster(channel)))),
        Err(refusal) => {
            drop(people);
            leave_members(node, world, channel, user);
            Err(refusal.into())
        }
    }
}
