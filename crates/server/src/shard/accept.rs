//! New connections: from the listener to the first byte of a request head.
//!
//! The cheapest look comes first. Whose network may not connect is closed at once, and so is who comes so
//! fast that an answer would cost too much; who may connect and is too fast, or has too many connections,
//! is told when it has asked for something ([`crate::gate::Admission`]).

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::moment::Moment;
use fanfare_core::wire::proxy::{self, Proxied};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::connection::{Connection, Stage, Transport};
use super::{ACCEPT_PAUSE, ACCEPTS_PER_TURN, Key, LISTENER, Listener, ListenerKind, Shard, State};
use crate::address::{Source, Way};
use crate::gate::Flood;
use crate::line::Line;
use crate::log_gate::Kind;

/// Puts a listener into the epoll set.
fn watch_listener(set: &OwnedFd, data: u64, listener: &Listener) -> Result<(), Errno> {
    // Shards share the Unix socket: one of them is woken for a connection, not all.
    let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
    epoll::add(set, &listener.socket, epoll::EventData::new_u64(data), flags)
}

/// Puts listeners into the epoll set.
pub(super) fn watch_listeners(set: &OwnedFd, listeners: &[Listener]) -> std::io::Result<()> {
    for (data, listener) in (0..=LISTENER).rev().zip(listeners) {
        watch_listener(set, data, listener)?;
    }
    Ok(())
}

impl State {
    pub(super) fn accept(&mut self, shard: &Rc<Shard>, index: usize, now: Moment) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(index) else {
                return;
            };
            let kind = listener.kind;
            if kind != ListenerKind::Unix {
                let wait = shard.node.gate.accept_wait(now);
                if !wait.is_zero() {
                    shard.node.metrics.limited("connects");
                    return self.pause_accept(now + wait, |kind| kind != ListenerKind::Unix);
                }
            }
            match acceptfrom_with(&listener.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, address)) => {
                    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
                    self.accepted(shard, TcpStream::from(socket), address, kind, now);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    // No descriptor left, or no memory: a pause, never a spin and never an end.
                    shard.node.log.say(
                        Kind::Accept,
                        || tracing::warn!(%error, "cannot accept connections for now"),
                    );
                    return self.pause_accept(now + ACCEPT_PAUSE, |_| true);
                }
            }
        }
    }

    /// Lets connections wait in the queue of the kernel.
    fn pause_accept(&mut self, until: Moment, which: impl Fn(ListenerKind) -> bool) {
        for listener in self.listeners.iter().filter(|listener| which(listener.kind)) {
            let _ = epoll::delete(&self.epoll, &listener.socket);
        }
        self.accept_paused_until = Some(until);
    }

    /// Goes on where it was paused. A listener that was not is in the set already.
    pub(super) fn resume_accept(&mut self, now: Moment) {
        if self.accept_paused_until.is_some_and(|until| now >= until) {
            self.accept_paused_until = None;
            for (data, listener) in (0..=LISTENER).rev().zip(&self.listeners) {
                let _ = watch_listener(&self.epoll, data, listener);
            }
        }
    }

    fn accepted(
        &mut self,
        shard: &Rc<Shard>,
        socket: TcpStream,
        address: Option<SocketAddr>,
        kind: ListenerKind,
        now: Moment,
    ) {
        let gate = &shard.node.gate;
        let source = match (kind, address) {
            (ListenerKind::Unix, _) => Source::unix(&gate.network),
            (_, Some(address)) => gate.source(address),
            // A peer that is gone already.
            (_, None) => return,
        };
        let is_tcp = kind != ListenerKind::Unix;
        let awaits_proxy = is_tcp && gate.proxy_protocol;
        let is_known = !awaits_proxy || matches!(source.way, Way::Proxy | Way::Own);
        if !is_known || !gate.network.admits(&source) {
            return not_let_in(shard, &source);
        }
        // With the header of the PROXY protocol it is somebody else who comes in.
        let (admission, ticket) = match gate.enter(&source, now) {
            Ok(entered) => entered,
            Err(Flood) => return shard.node.metrics.limited("connects_per_address"),
        };
        let tls = (kind == ListenerKind::Tls).then(|| super::tls::begin(&shard.node));
        let tls = match tls.transpose() {
            Ok(tls) => tls,
            // Never seen: it would be a fault of the configuration, which was checked at the start.
            Err(error) => {
                let say = || tracing::error!(%error, "no TLS for a connection");
                return shard.node.log.say(Kind::Accept, say);
            }
        };
        let line = Line {
            socket,
            tls,
            source,
            ticket,
        };
        shard.node.metrics.shards[shard.index].accepted.add(1);
        shard.node.connection_opened();
        self.forget_finished_heads();
        if self.heads_open >= shard.node.handshakes_max {
            self.close_oldest_head(shard);
        }
        let deadline = now + shard.node.config.limits.head_time_max;
        let key = self.insert(|key| {
            let bytes = Vec::new();
            let stage = Stage::Head {
                bytes,
                deadline,
                admission,
            };
            let mut connection = Connection::new(key, Transport::Line(line), stage);
            connection.awaits_proxy = awaits_proxy;
            connection
        });
        self.heads_open += 1;
        self.heads.push_back(key);
        if !self.register(key) {
            return self.end(shard, key, Disconnect::Internal);
        }
        self.arm(key, deadline);
        // The request is usually there already.
        self.read(shard, key, now);
    }

    /// Puts a connection's socket into the epoll set.
    pub(super) fn register(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get(key.slot as usize) else {
            return false;
        };
        let Transport::Line(line) = &connection.transport else {
            return true;
        };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        let data = epoll::EventData::new_u64(key.pack());
        epoll::add(&self.epoll, &line.socket, data, flags).is_ok()
    }

    /// The list of unfinished heads must not grow with every connection that there ever was.
    fn forget_finished_heads(&mut self) {
        while let Some(&key) = self.heads.front() {
            if self
                .get(key)
                .is_some_and(|connection| matches!(connection.stage, Stage::Head { .. }))
            {
                return;
            }
            self.heads.pop_front();
        }
    }

    fn close_oldest_head(&mut self, shard: &Shard) {
        self.forget_finished_heads();
        if let Some(key) = self.heads.pop_front() {
            self.gave_up_handshake(key, crate::line::Cause::Full);
            self.end(shard, key, Disconnect::Refused(Refusal::Full));
        }
    }

    /// Bytes of a connection that begins with a header of the PROXY protocol. Says where they go on once
    /// it is there. It comes before TLS, and within the time for a request head.
    pub(super) fn take_proxy_header(
        &mut self,
        shard: &Shard,
        key: Key,
        bytes: &[u8],
        now: Moment,
    ) -> Option<Vec<u8>> {
        let connection = self.get(key)?;
        let Stage::Head { bytes: kept, .. } = &mut connection.stage else {
            return None;
        };
        kept.extend_from_slice(bytes);
        let (proxied, len) = match proxy::parse(kept) {
            Ok(Some(header)) => header,
            Ok(None) => return None,
            Err(error) => {
                shard.node.metrics.limited("proxy_protocol");
                let peer = self.peer(key);
                let say = || tracing::warn!(%peer, %error, "a connection was closed");
                shard.node.log.say(Kind::Refused, say);
                self.end(shard, key, Disconnect::Lost);
                return None;
            }
        };
        let rest = kept.split_off(len.min(kept.len()));
        kept.clear();
        connection.awaits_proxy = false;
        if let Proxied::For(address) = proxied
            && !self.is_for(shard, key, Source::at(address, &shard.node.gate.network), now)
        {
            self.end(shard, key, Disconnect::Lost);
            return None;
        }
        Some(rest)
    }

    /// A proxy has said for whom a connection is. Says whether that one may connect.
    fn is_for(&mut self, shard: &Shard, key: Key, source: Source, now: Moment) -> bool {
        let gate = &shard.node.gate;
        if !gate.network.admits(&source) {
            not_let_in(shard, &source);
            return false;
        }
        let Ok((found, ticket)) = gate.enter(&source, now) else {
            shard.node.metrics.limited("connects_per_address");
            return false;
        };
        let Some(connection) = self.get(key) else {
            return false;
        };
        if let Stage::Head { admission, .. } = &mut connection.stage {
            *admission = found;
        }
        if let Some(line) = connection.line() {
            (line.source, line.ticket) = (source, ticket);
        }
        true
    }

    /// Counts what was read from a session. If it was too much, nothing more is read for a while: what is
    /// sent meanwhile waits with the peer.
    pub(super) fn count_bytes(&mut self, shard: &Shard, key: Key, count: usize, now: Moment) {
        let rate = shard.node.config.limits.bytes_per_connection;
        let Some(connection) = self.get(key) else { return };
        let Stage::Open(open) = &mut connection.stage else {
            return;
        };
        open.bytes.charge(rate, count as u64, now);
        let wait = open.bytes.wait_for(rate, 1, now);
        if wait.is_zero() {
            return;
        }
        let until = now + wait.max(Duration::from_millis(1));
        open.paused_until = until;
        open.session.on_paused();
        shard.node.metrics.limited("bytes_per_connection");
        self.watch(key);
        self.arm(key, until);
    }

    /// Reads on from a session that has waited for long enough.
    pub(super) fn resume_reading(&mut self, key: Key, now: Moment) {
        let Some(connection) = self.get(key) else { return };
        if let Stage::Open(open) = &mut connection.stage
            && now >= open.paused_until
        {
            open.paused_until = Moment::NEVER;
            if open.unsaid.is_none() {
                open.session.on_resumed(now);
            }
            // Whatever has come meanwhile shows up at once.
            self.watch(key);
        }
    }
}

fn not_let_in(shard: &Shard, source: &Source) {
    shard.node.metrics.limited("network");
    let say = || tracing::info!(peer = %source, "a connection was closed: its address is not let in");
    shard.node.log.say(Kind::Refused, say);
}
