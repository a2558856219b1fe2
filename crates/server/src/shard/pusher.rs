//! Sessions of the Pusher door: what they want of channels, carried out on their shard.
//!
//! Who may do what is decided in core ([`fanfare_core::auth::subscription`]); here it is done, in an order
//! that keeps the protocol's promises:
//!
//! * A subscriber is told that it is one before anything of the channel, then what is cached or was
//!   missed, then what is live.
//! * What is told of members ([`members`]) agrees with the roster.
//!
//! A refused wish is answered to who wished and changes nothing.

use std::sync::Arc;

use fanfare_core::auth::Grant;
use fanfare_core::auth::subscription::{self, NotAdmitted, Signatory, Wish};
use fanfare_core::channel::{ChannelName, Kind};
use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::hub::Topic;
use fanfare_core::moment::Moment;
use fanfare_core::position::Position;
use fanfare_core::publication::{Audience, DataKind, Draft, EventName, Reader, WireForm};
use fanfare_core::rate::Bucket;
use fanfare_core::returning::RecordKey;
use fanfare_core::session::{Pusher, Session};
use fanfare_core::stream::Resume;
use fanfare_core::user::UserId;
use fanfare_core::wire::pusher::frame::{ClientFrame, Data};
use fanfare_core::wire::pusher::presence::{self, Profile};
use fanfare_core::wire::pusher::{self, SubscriptionErrorKind, name, sign};
use fanfare_core::wire::websocket;
use fanfare_core::wire::websocket::extension::Agreement;
use smallvec::SmallVec;

use super::answers::{Answers, Wanted};
use super::connection::{Open, Stage};
use super::{Key, Shard, State, members};
use crate::address::Source;
use crate::apps::{App, Seat};
use crate::config::ClientEvents;
use crate::engine::Listening;
use crate::gate::Ticket;
use crate::node::Node;

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
    pub(super) answers: Answers,
    /// The page has drawn a text for itself.
    pub(super) has_hint: bool,
    pub(super) device: u64,
    /// Nobody knows whether it missed something.
    pub(super) is_doubtful: bool,
    /// Where it is remembered what it has received.
    pub(super) record: Option<RecordKey>,
    /// The answer that is under way, and what it will say.
    pub(super) asked: Option<(u64, Option<Position>)>,
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
        // It may have changed between the handshake and now.
        let app = node.apps.get(app.id).ok_or(Refusal::NoApp)?;
        if !app.settings.enabled {
            return Err(Refusal::AppDisabled);
        }
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
            answers: Answers::default(),
            has_hint: knock.hint.is_some(),
            device: knock.device,
            is_doubtful: false,
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
        // It may just have become so, and the command that ends its sessions waits.
        if !app.settings.enabled {
            return self.close_session(shard, key, Disconnect::Refused(Refusal::AppDisabled));
        }
        match frame {
            ClientFrame::Subscribe {
                channel,
                auth,
                channel_data,
            } => {
                let wanted = Wanted {
                    channel,
                    auth,
                    channel_data,
                };
                self.want(shard, key, &app, wanted);
            }
            ClientFrame::Unsubscribe { channel } => {
                if let Some(insider) = self.insider(key).and_then(|open| open.insider.as_mut()) {
                    insider.answers.forget(&channel);
                }
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

    /// Lets a session listen to a channel, or tells it why not.
    pub(super) fn subscribe_or_say_why(&mut self, shard: &Shard, key: Key, app: &App, wanted: &Wanted) {
        let Wanted {
            channel,
            auth,
            channel_data,
        } = wanted;
        let subscribed = self.subscribe(shard, key, app, channel, auth, channel_data.as_deref());
        if let Err(denied) = subscribed {
            shard.node.metrics.denied();
            let Denied {
                kind,
                status,
                message,
            } = denied;
            let frame = pusher::subscription_error(channel, kind, status, &message);
            self.send(shard, key, frame);
        }
    }

    /// The session of a connection, if it is one of this door.
    pub(super) fn insider(&mut self, key: Key) -> Option<&mut Open> {
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
            self.send_roster(shard, key, pusher::subscribed(&channel, &data));
            return Ok(());
        }
        if self.hub.subscriptions(key.slot) >= settings.subscriptions_max {
            let message = "too many subscriptions over one connection (subscriptions_max)";
            return Err(Denied::new(SubscriptionErrorKind::Limit, 4100, message));
        }
        if let Some(profile) = &member {
            let max = settings.members_max();
            let people = app.world.people.lock();
            if people.roster(&channel).len() >= max && !people.is_member(&channel, &profile.user) {
                let message =
                    format!("this channel has {max} members, which is all that it may have (members_max)");
                return Err(Denied::new(SubscriptionErrorKind::Limit, 4100, message));
            }
        }
        let is_cache = channel.is_cache();
        let back = self.comes_back(shard, key, &channel, member.as_ref());
        let listening = Listening {
            shard: shard.index,
            channels: std::slice::from_ref(&channel),
            resume: back.resume(is_cache),
            reader: Reader {
                // What is cached is the state of a channel, also for who has said it.
                session: Some(id).filter(|_| !is_cache),
                user: user.as_ref(),
            },
            is_new: false,
        };
        let (replay, data) = match &member {
            None => (
                node.engine.subscribe(app.id, &listening, node.clock.now())?,
                "{}".to_owned(),
            ),
            Some(profile) => members::enter(node, app, &listening, &channel, profile)?,
        };
        self.hub.subscribe_after(key.slot, &topic, Some(replay.position));
        let is_private = node.rules.policy.is_private(&channel);
        if let Some(open) = self.insider(key) {
            if is_private {
                open.session.on_authorized();
            }
            if let (Some(insider), Some(profile)) = (&mut open.insider, member) {
                insider.members.push((channel.clone(), profile.user));
            }
        }
        self.note_subscribed(key, app, &back, &channel, replay.position);
        self.send_roster(shard, key, pusher::subscribed(&channel, &data));
        let cached = if is_cache {
            self.cached(node, key, &back, &replay, &channel)
        } else {
            None
        };
        let is_newest = self.give_past(shard, key, app, &back, replay, &channel);
        if is_cache && !is_newest {
            if cached.is_none() {
                node.metrics.cache_misses.add(1);
            }
            let frame = cached.unwrap_or_else(|| pusher::cache_miss(&channel));
            self.send(shard, key, frame);
        }
        app.world.count_changed(node, std::slice::from_ref(&channel));
        Ok(())
    }

    /// Says whether it was subscribed.
    pub(super) fn unsubscribe(&mut self, shard: &Shard, key: Key, app: &App, channel: &ChannelName) -> bool {
        let node = &shard.node;
        if !self.hub.unsubscribe(key.slot, &Topic::Channel(channel.clone())) {
            return false;
        }
        node.engine
            .unsubscribe(app.id, shard.index, channel, node.clock.now());
        let Some(insider) = self.insider(key).and_then(|open| open.insider.as_mut()) else {
            return true;
        };
        if let Some(record) = insider.record {
            app.world.returning.lock().forgets(record, channel);
        }
        let user = insider.forget(channel);
        if let Some(user) = user {
            members::leave(node, &app.world, channel, &user);
        }
        app.world.count_changed(node, std::slice::from_ref(channel));
        true
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
        // Not with the words themselves: they tell of a person, and this is logged.
        sign::check_auth(auth, &settings.key, &settings.secret, &signed).map_err(|_| {
            let wanted = "the sign-in is not signed with this app's key and secret: expected key:signature, the HMAC \
                          SHA256 hex digest of SOCKET_ID::user::USER_DATA";
            Refusal::Unauthorized(wanted.into())
        })?;
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
        // Whatever is said may be more than the peer may have waiting, and end the session: only while it is
        // there may anybody be told that she is.
        if is_new {
            self.hub.name(key.slot, user.clone());
            super::open::arrive(node, &app.world, place, id, &user, None);
        }
        self.send(shard, key, pusher::signed_in(user_data));
        if is_new {
            self.note_signed_in(shard, key, app);
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
        if self.insider(key).is_none() {
            return;
        }
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
            let spoken = node.gate.speak(app.id, speaker.as_ref(), &peer, 1, now);
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
        draft.is_client_event = true;
        if node.hooks.message.is_some() {
            self.ask_about(shard, key, draft);
            return Ok(());
        }
        let published = node.publisher.publish(draft);
        published.map(drop).map_err(|refusal| (None, refusal.to_string()))
    }

    /// Tells a session of this door that the back end does not want what it said. Says whether it is one.
    pub(super) fn tell_unsaid(
        &mut self,
        shard: &Shard,
        key: Key,
        refusal: &Refusal,
        channel: Option<&ChannelName>,
    ) -> bool {
        if self.insider(key).is_none() {
            return false;
        }
        let channel = channel.map(pusher::shown);
        let message = format!("Client event rejected - {refusal}");
        self.send(shard, key, pusher::error(None, &message, channel.as_deref()));
        true
    }

    /// A session of this door has ended: it is a member no more.
    pub(super) fn leave_pusher(node: &Node, open: &Open, why: &Disconnect) {
        let Some(insider) = &open.insider else { return };
        if let Some(record) = insider.record {
            let may_return = Insider::may_return(why);
            open.world
                .returning
                .lock()
                .end(record, may_return, node.clock.now());
        }
        for (channel, user) in &insider.members {
            members::leave(node, &open.world, channel, user);
        }
    }
}

impl Insider {
    /// The member that the connection was there.
    pub(super) fn forget(&mut self, channel: &ChannelName) -> Option<UserId> {
        let place = self.members.iter().position(|(own, _)| own == channel)?;
        Some(self.members.swap_remove(place).1)
    }
}
