//! The loop of a shard, and what a turn of it does. The order is explained in the parent module.

use std::io::{ErrorKind, Read};
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::hub::{Hub, Missing, Parcel, Slot, Topic};
use fanfare_core::moment::Moment;
use fanfare_core::outbox::{Flushed, Tag};
use fanfare_core::position::Since;
use fanfare_core::publication::Reader;
use fanfare_core::stream::{Replay, Resume};
use fanfare_core::wire;
use rustix::event::epoll;
use rustix::net::{Shutdown, shutdown};
use smallvec::SmallVec;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::connection::{Connection, Place, Stage, Transport};
use super::timers::tick_of;
use super::{BUDGET, FLUSH_BUDGET_FIRST, Key, LISTENER, LISTENERS_MAX, Shard, State, URGENT_MAX};
use crate::line::Line;
use crate::log_gate::Kind;
use crate::node::Node;

/// Time for a peer to take its last bytes and close, before the socket is closed anyway.
pub(super) const CLOSING_MAX: Duration = Duration::from_secs(1);

/// Events taken from the kernel at a time.
const EVENTS_PER_WAIT: usize = 256;

/// Time between looking at the timers.
const TICK: Duration = super::timers::TICK;

impl Shard {
    /// Runs until `stop` turns true and the last connection has gone.
    pub(crate) async fn run(self: Rc<Self>, mut stop: watch::Receiver<bool>) -> std::io::Result<()> {
        // Its successor is `unsafe` because a type could close its descriptor early; `OwnedFd` cannot.
        #[expect(deprecated)]
        let events = AsyncFd::new(self.events()?)?;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = self.node.mailboxes[self.index].arrived.notified() => {}
                () = self.work.notified() => {}
                () = self.node.commands[self.index].arrived.notified() => {}
                // Cleared before the set is emptied, so that no edge is lost in between.
                ready = events.readable() => ready?.clear_ready(),
                _ = ticks.tick() => self.node.metrics.shards[self.index].beat(),
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
            while self.turn() {
                // Behind everything else that is ready on this thread, and a look at the sockets.
                tokio::task::yield_now().await;
            }
        }
    }

    /// One turn; says whether something is left to do at once.
    fn turn(self: &Rc<Self>) -> bool {
        let begun = Instant::now();
        let mut state = self.state.borrow_mut();
        let now = self.now();
        if state.dirty.is_empty() {
            state.flush_budget = FLUSH_BUDGET_FIRST;
        }
        let undelivered = state.deliver(self);
        let commands = state.carry_out_commands(self);
        let events = state.handle_events(self, now);
        state.handle_timers(self, now);
        let unflushed = state.flush(self, now);
        self.node.metrics.shards[self.index].turn(begun.elapsed());
        undelivered || commands || events || unflushed
    }

    /// Stops accepting. Connections live on.
    pub(crate) fn stop_accepting(&self) {
        let mut state = self.state.borrow_mut();
        for listener in std::mem::take(&mut state.listeners) {
            let _ = epoll::delete(&state.epoll, &listener.socket);
        }
    }

    /// Ends some sessions because the node goes away: at most `count`. Says how many are left.
    pub(crate) fn drain(&self, count: usize) -> usize {
        let mut state = self.state.borrow_mut();
        // What was accepted before is still heard by those who must go.
        while state.deliver(self) {}
        let open: Vec<Key> = state
            .connections
            .iter()
            .filter(|(_, connection)| !matches!(connection.stage, Stage::Closing { .. }))
            .map(|(slot, connection)| Key {
                slot: u32::try_from(slot).unwrap_or(u32::MAX),
                generation: connection.generation,
            })
            .collect();
        for key in open.iter().take(count) {
            let stage = state.get(*key).map(|connection| &connection.stage);
            match (stage, self.me.upgrade()) {
                (Some(Stage::Asking { .. }), Some(shard)) => state.told(&shard, *key, Err(Refusal::Draining)),
                _ => state.close_session(self, *key, Disconnect::Draining),
            }
        }
        self.work.notify_one();
        open.len().saturating_sub(count)
    }
}

impl State {
    /// Phase 1: frames to outboxes. Says whether publications are left.
    fn deliver(&mut self, shard: &Shard) -> bool {
        let mailbox = &shard.node.mailboxes[shard.index];
        // Read before the mailbox is emptied: then all up to there is in what is taken, or was before.
        let settled = shard.node.engine.settled(AppId::DEFAULT);
        mailbox.take(&mut self.spare);
        self.inbox.extend(self.spare.drain(..));
        let begun = Instant::now();
        let metrics = &shard.node.metrics.shards[shard.index];
        let limit = shard.node.config.limits.outbox_bytes_max;
        let mut slow = std::mem::take(&mut self.slow);
        loop {
            let run = Hub::run_len(self.inbox.iter().map(|publication| &**publication));
            let Some(run) = self
                .inbox
                .make_contiguous()
                .get(..run)
                .filter(|run| !run.is_empty())
            else {
                break;
            };
            let Some(first) = run.first() else { break };
            let urgent = self.hub.reach(first) <= URGENT_MAX;
            let (connections, queues) = (&mut self.connections, &mut self.dirty);
            let scratch = &mut self.scratch;
            let mut queue = |slot: Slot, parcel: Parcel<'_>| {
                let Some(connection) = connections.get_mut(slot as usize) else {
                    return;
                };
                let frame = parcel.frame.clone();
                let pushed = if parcel.tag == Tag::MUST {
                    let pushed = connection.outbox.push(frame, limit);
                    pushed.or_else(|full| {
                        // It may have had no chance to leave: so much was published since the last flush.
                        let Transport::Line(line) = &mut connection.transport else {
                            return Err(full);
                        };
                        if line.flush(&mut connection.outbox, scratch).is_err() {
                            return Err(full);
                        }
                        connection.outbox.push(parcel.frame.clone(), limit)
                    })
                } else {
                    let marker = || wire::dropped(parcel.form, parcel.channel?);
                    let pushed = connection.outbox.push_tagged(frame, parcel.tag, limit, marker);
                    pushed.map(|dropped| {
                        metrics.conflated.add(dropped.conflated);
                        metrics.dropped.add(dropped.oldest);
                    })
                };
                match pushed {
                    Ok(()) => queues.mark(connection, slot, urgent),
                    Err(full) => slow.push((connection.key(slot), full.pending_bytes)),
                }
            };
            let delivered = self.hub.deliver(run, &mut queue);
            let run = run.get(..delivered.taken).unwrap_or_default();
            let mut deliveries = delivered.count;
            let mut untold = Vec::new();
            if let Some(missing) = delivered.missing {
                let replay = read_missing(&shard.node, &missing);
                deliveries += self
                    .hub
                    .catch_up(&missing, &replay, &mut queue, |slot| untold.push(slot));
                metrics.repairs.add(1);
            }
            if first.draft.app != AppId::PROBE {
                metrics
                    .deliveries
                    .add(deliveries.saturating_sub(slow.len() * run.len()));
            }
            if let Some(last) = run.last() {
                self.delivered.insert(last.draft.app, last.position());
            }
            let (count, bytes) = (
                run.len(),
                run.iter().map(|publication| publication.draft.data.len()).sum(),
            );
            self.inbox.drain(..count);
            for slot in untold {
                if let Some(key) = self.connections.get(slot as usize).map(|one| one.key(slot)) {
                    self.close_session(shard, key, Disconnect::Gap);
                }
            }
            for (key, pending_bytes) in slow.drain(..) {
                let limit_bytes = limit;
                let why = Disconnect::SlowConsumer {
                    pending_bytes,
                    limit_bytes,
                };
                self.close_session(shard, key, why);
            }
            mailbox.release(count, bytes);
            if begun.elapsed() >= BUDGET {
                break;
            }
        }
        self.slow = slow;
        self.is_settled = self.inbox.is_empty();
        if let Some(settled) = settled
            && self.is_settled
            && self
                .delivered
                .get(&AppId::DEFAULT)
                .is_none_or(|delivered| delivered.epoch != settled.epoch || delivered.offset < settled.offset)
        {
            self.delivered.insert(AppId::DEFAULT, settled);
        }
        !self.inbox.is_empty()
    }

    /// Remembers that a connection has something to flush.
    pub(super) fn mark(&mut self, key: Key, urgent: bool) {
        let connection = self.connections.get_mut(key.slot as usize);
        if let Some(connection) = connection.filter(|connection| connection.generation == key.generation) {
            self.dirty.mark(connection, key.slot, urgent);
        }
    }

    /// Phase 2: what the kernel has to say. Says whether there may be more.
    fn handle_events(&mut self, shard: &Rc<Shard>, now: Moment) -> bool {
        let mut buffer = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_PER_WAIT];
        let zero = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        self.answer_handshakes(shard, now);
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut buffer, Some(&zero)) else {
            return false;
        };
        let more = !events.is_empty();
        for event in events {
            let (data, flags) = (event.data.u64(), event.flags);
            if let Ok(index @ 0..LISTENERS_MAX) = usize::try_from(LISTENER - data) {
                self.accept(shard, index, now);
                continue;
            }
            let key = Key::unpack(data);
            if flags.contains(epoll::EventFlags::OUT)
                && let Some(connection) = self.get(key)
            {
                connection.watches_writable = false;
                self.watch(key);
                self.mark(key, true);
            }
            let readable = epoll::EventFlags::IN
                | epoll::EventFlags::HUP
                | epoll::EventFlags::ERR
                | epoll::EventFlags::RDHUP;
            if flags.intersects(readable) {
                // Of a connection that is not read from only its end is heard of.
                match self.get(key) {
                    Some(connection) if connection.is_paused() && !connection.is_throttled() => {
                        self.peer_gone(shard, key);
                    }
                    // Of whoever is throttled and has gone, what came before is read to its end.
                    Some(_) => self.read(shard, key, now),
                    None => {}
                }
            }
        }
        more || !self.handshakes.is_empty()
    }

    /// Tells the epoll set what to watch for.
    pub(super) fn watch(&mut self, key: Key) {
        let connection = self.connections.get(key.slot as usize);
        let Some(connection) = connection.filter(|connection| connection.generation == key.generation) else {
            return;
        };
        let Transport::Line(line) = &connection.transport else {
            return;
        };
        let mut flags = match &connection.stage {
            // Whoever hangs up now wants no answer.
            Stage::Asking { .. } => epoll::EventFlags::RDHUP,
            _ if connection.is_paused() => epoll::EventFlags::empty(),
            _ => epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
        };
        if connection.watches_writable {
            flags |= epoll::EventFlags::OUT;
        }
        let _ = epoll::modify(
            &self.epoll,
            &line.socket,
            epoll::EventData::new_u64(key.pack()),
            flags,
        );
    }

    pub(super) fn read(&mut self, shard: &Rc<Shard>, key: Key, now: Moment) {
        if self.must_wait(shard, key) {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let awaits_proxy = self.get(key).is_some_and(|connection| connection.awaits_proxy);
        let line = self.get(key).and_then(Connection::line);
        let is_tls = line.as_ref().is_some_and(|line| line.tls.is_some());
        let got = line.map_or(Err(ErrorKind::WouldBlock.into()), |line| {
            line.socket.read(&mut scratch)
        });
        match got {
            Ok(0) => self.peer_gone(shard, key),
            Ok(count) => {
                let bytes = scratch.get_mut(..count).unwrap_or_default();
                self.count_bytes(shard, key, count, now);
                let mut rest =
                    awaits_proxy.then(|| self.take_proxy_header(shard, key, bytes, now).unwrap_or_default());
                let bytes = rest.as_deref_mut().unwrap_or(bytes);
                if bytes.is_empty() {
                    // Nothing but a header of the PROXY protocol, or a part of it.
                } else if is_tls {
                    self.take_encrypted(shard, key, bytes, now);
                } else {
                    self.take_bytes(shard, key, bytes, now);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.peer_gone(shard, key),
        }
        self.scratch = scratch;
    }

    pub(super) fn peer_gone(&mut self, shard: &Shard, key: Key) {
        self.end(shard, key, Disconnect::Lost);
    }

    /// Queues bytes for one connection. Over the limit it is a slow consumer like any other.
    pub(super) fn send(&mut self, shard: &Shard, key: Key, bytes: Bytes) {
        let limit_bytes = shard.node.config.limits.outbox_bytes_max;
        let Some(connection) = self.get(key) else { return };
        // Nothing comes behind the farewell.
        if matches!(connection.stage, Stage::Closing { .. }) {
            return;
        }
        match connection.outbox.push(bytes, limit_bytes) {
            Ok(()) => self.mark(key, true),
            Err(full) => {
                let why = Disconnect::SlowConsumer {
                    pending_bytes: full.pending_bytes,
                    limit_bytes,
                };
                self.close_session(shard, key, why);
            }
        }
    }

    /// Queues a roster, whose size is bounded by its members: one at a time may be more than what a peer may
    /// have waiting.
    pub(super) fn send_roster(&mut self, shard: &Shard, key: Key, bytes: Bytes) {
        match self.get(key) {
            Some(connection)
                if !connection.outbox.is_beyond() && matches!(connection.stage, Stage::Open(_)) =>
            {
                connection.outbox.push_beyond(bytes);
                self.mark(key, true);
            }
            _ => self.send(shard, key, bytes),
        }
    }

    /// Queues a connection's last bytes. They always fit: what had not begun to leave is dropped
    /// for them when the peer was too slow.
    pub(super) fn send_last(&mut self, key: Key, bytes: Bytes) {
        if let Some(connection) = self.get(key) {
            let _ = connection.outbox.push(bytes, usize::MAX);
            self.mark(key, true);
        }
    }

    /// The server ends a session.
    pub(super) fn close_session(&mut self, shard: &Shard, key: Key, why: Disconnect) {
        let slow = matches!(why, Disconnect::SlowConsumer { .. } | Disconnect::Stalled(_));
        let Some(connection) = self.get(key) else { return };
        let Stage::Open(open) = &mut connection.stage else {
            if matches!(connection.stage, Stage::Head { .. } | Stage::Asking { .. }) {
                self.end(shard, key, why);
            }
            return;
        };
        let mut actions = Vec::new();
        open.session.close(why, &mut actions);
        if slow {
            connection.outbox.keep_only_started();
            // The kernel holds back what it has no room for; for the last frame it shall take it.
            if let Transport::Line(line) = &connection.transport {
                let _ = socket2::SockRef::from(&line.socket).set_tcp_notsent_lowat(u32::MAX);
            }
            connection.watches_writable = false;
        }
        self.carry_out(shard, key, &mut actions);
        if slow {
            self.watch(key);
        }
    }

    /// Phase 3: connections whose time has come.
    fn handle_timers(&mut self, shard: &Rc<Shard>, now: Moment) {
        self.resume_accept(now);
        let mut due = Vec::new();
        self.timers.advance(now, &mut due);
        let stall_max = shard.node.config.limits.outbox_stall_max;
        for (key, tick) in due {
            let Some(connection) = self.get(key) else { continue };
            if connection.armed != tick {
                continue;
            }
            connection.armed = u64::MAX;
            let stalled = connection
                .blocked_since
                .is_some_and(|since| now >= since + stall_max);
            match &mut connection.stage {
                Stage::Head { deadline, .. } if now >= *deadline => self.head_too_slow(shard, key),
                Stage::Asking { deadline, .. } if now >= *deadline => {
                    self.told(shard, key, Err(Refusal::HookFailed));
                }
                Stage::Closing { deadline } if now >= *deadline => self.end(shard, key, Disconnect::Lost),
                Stage::Open(_) if stalled => self.close_session(shard, key, Disconnect::Stalled(stall_max)),
                Stage::Open(open) => {
                    let mut actions = Vec::new();
                    open.session.on_timeout(now, &mut actions);
                    self.carry_out(shard, key, &mut actions);
                    self.resume_reading(key, now);
                }
                Stage::Head { .. } | Stage::Asking { .. } | Stage::Closing { .. } => {}
            }
            self.rearm_after(key, stall_max);
        }
    }

    pub(super) fn arm(&mut self, key: Key, at: Moment) {
        if at == Moment::NEVER {
            return;
        }
        let tick = tick_of(at);
        let Some(connection) = self.get(key) else { return };
        if tick < connection.armed {
            let tick = self.timers.arm(key, tick);
            if let Some(connection) = self.get(key) {
                connection.armed = tick;
            }
        }
    }

    pub(super) fn rearm(&mut self, key: Key) {
        let at = match self.get(key).map(|connection| &connection.stage) {
            Some(Stage::Open(open)) => open.session.poll_timeout().min(open.paused_until),
            Some(
                Stage::Head { deadline, .. } | Stage::Asking { deadline, .. } | Stage::Closing { deadline },
            ) => *deadline,
            None => return,
        };
        self.arm(key, at);
    }

    fn rearm_after(&mut self, key: Key, stall_max: Duration) {
        self.rearm(key);
        if let Some(since) = self.get(key).and_then(|connection| connection.blocked_since) {
            self.arm(key, since + stall_max);
        }
    }

    /// Phase 4: one system call per dirty connection. Says whether some are left.
    fn flush(&mut self, shard: &Shard, now: Moment) -> bool {
        let begun = Instant::now();
        // Looking at the clock costs as much as some deliveries.
        for count in 1_usize.. {
            let Some(key) = self.dirty.pop(&mut self.connections) else {
                return false;
            };
            self.flush_one(shard, key, now);
            if count.is_multiple_of(16) && begun.elapsed() >= self.flush_budget {
                break;
            }
        }
        self.flush_budget = BUDGET.min(self.flush_budget * 2);
        !self.dirty.is_empty()
    }

    pub(super) fn flush_one(&mut self, shard: &Shard, key: Key, now: Moment) {
        if self.get(key).is_some_and(|connection| connection.wants_receipts) {
            self.ask_receipt(key, now);
        }
        let stall_max = shard.node.config.limits.outbox_stall_max;
        let metrics = &shard.node.metrics.shards[shard.index];
        let connection = self.connections.get_mut(key.slot as usize);
        let Some(connection) = connection.filter(|connection| connection.generation == key.generation) else {
            return;
        };
        let line = match &mut connection.transport {
            Transport::Line(line) => line,
            Transport::Body(waker) => {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
                if !connection.outbox.is_empty() && connection.blocked_since.is_none() {
                    connection.blocked_since = Some(now);
                    self.arm(key, now + stall_max);
                }
                return;
            }
        };
        let has_answers = connection.has_answers;
        let before = connection.outbox.pending_bytes();
        let mut flushed = line.flush(&mut connection.outbox, &mut self.scratch);
        let written = before - connection.outbox.pending_bytes();
        metrics.bytes_out.add(written);
        let is_last = matches!(connection.stage, Stage::Closing { .. });
        if is_last && matches!(flushed, Ok(Flushed::All)) {
            let said = line.say_end();
            flushed = said.map(|all| if all { Flushed::All } else { Flushed::Blocked });
        }
        match flushed {
            Ok(Flushed::All) => {
                connection.blocked_since = None;
                if is_last {
                    let _ = shutdown(&line.socket, Shutdown::Write);
                }
            }
            Ok(Flushed::Blocked) => {
                if written > 0 || connection.blocked_since.is_none() {
                    connection.blocked_since = Some(now);
                }
                connection.watches_writable = true;
                self.watch(key);
                self.arm(key, now + stall_max);
            }
            Err(_) => self.end(shard, key, Disconnect::Lost),
        }
        if has_answers {
            self.answers_left(shard, key, written);
        }
    }

    /// The session is over: it hears nothing more, and the connection ends when its last bytes
    /// are out.
    pub(super) fn begin_closing(&mut self, shard: &Shard, key: Key, why: &Disconnect) {
        let deadline = shard.now() + CLOSING_MAX;
        let Some(connection) = self.get(key) else { return };
        let stage = std::mem::replace(&mut connection.stage, Stage::Closing { deadline });
        if let Stage::Open(open) = stage {
            self.leave(shard, key, &open, why);
            if open.paused_until != Moment::NEVER || open.unsaid.is_some() {
                // What has come is read and dropped, or the system would drop our last bytes with it.
                self.watch(key);
            }
        }
        self.arm(key, deadline);
        self.mark(key, true);
    }

    /// Removes a connection, whatever it was doing. The socket closes with it.
    pub(super) fn end(&mut self, shard: &Shard, key: Key, why: Disconnect) {
        if self.get(key).is_none() {
            return;
        }
        let connection = self.connections.remove(key.slot as usize);
        match connection.stage {
            Stage::Open(open) => self.leave(shard, key, &open, &why),
            Stage::Head { .. } => self.heads_open -= 1,
            Stage::Asking { .. } | Stage::Closing { .. } => {}
        }
        match connection.transport {
            Transport::Line(_) if connection.place == Place::Taken => shard.node.connection_closed(),
            Transport::Body(Some(waker)) => waker.wake(),
            Transport::Line(_) | Transport::Body(None) => {}
        }
    }

    /// A connection leaves for the HTTP server; its socket lives on there, and is counted there.
    pub(super) fn release(&mut self, key: Key) -> Option<Line> {
        self.get(key)?;
        let connection = self.connections.remove(key.slot as usize);
        if matches!(connection.stage, Stage::Head { .. }) {
            self.heads_open -= 1;
        }
        match connection.transport {
            Transport::Line(line) => {
                let _ = epoll::delete(&self.epoll, &line.socket);
                Some(line)
            }
            Transport::Body(_) => None,
        }
    }

    fn leave(&mut self, shard: &Shard, key: Key, open: &super::connection::Open, why: &Disconnect) {
        let node = &shard.node;
        open.revoke(why);
        let mut channels: SmallVec<[ChannelName; 1]> = SmallVec::new();
        self.hub.leave(key.slot, |topic| {
            if let Topic::Channel(channel) = topic {
                channels.push(channel.clone());
            }
        });
        let now = node.clock.now();
        node.engine.leave(open.world.id, shard.index, &channels, now);
        let is_insider = open.insider.is_some();
        if is_insider {
            Self::leave_pusher(node, open, why);
        }
        if let Some(user) = open.user() {
            if !is_insider {
                super::members::leave_all(node, open, &channels, user);
            }
            let mut people = open.world.people.lock();
            people.depart(user, shard.place(key), now);
            if is_insider {
                people.unwatch(shard.place(key));
            }
        }
        if open.world.id == AppId::PROBE {
            return;
        }
        if open.session.is_steady() {
            open.world.count_changed(node, &channels);
        }
        let metrics = &node.metrics.shards[shard.index];
        metrics.closed(&open.session, why);
        let lived = shard.now() - open.opened;
        let kind = if why.is_fault() { Kind::Error } else { Kind::Close };
        node.log.say(kind, || {
            let (session, peer, reason) = (open.id, open.peer, why.to_string());
            if why.is_fault() {
                tracing::warn!(%session, %peer, seconds = lived.as_secs(), %reason, "session ended with an error");
            } else {
                tracing::info!(%session, %peer, seconds = lived.as_secs(), %reason, "session closed");
            }
        });
    }
}

/// What is missing, from its stream; a gap if it cannot be read.
fn read_missing(node: &Node, missing: &Missing) -> Replay {
    let channels: Vec<ChannelName> = missing.channel.iter().cloned().collect();
    let resume = Resume::Since(Since::Position(missing.seen));
    match node.engine.read(
        missing.app,
        &channels,
        resume,
        Reader::default(),
        node.clock.now(),
    ) {
        Ok(replay) => replay,
        Err(_) => Replay {
            entries: Vec::new(),
            is_gap: true,
            position: missing.before,
        },
    }
}
