//! TLS on the shard: what a connection's bytes are before they are a session's.
//!
//! A handshake is a part of the request head: it has the same time and counts among the same
//! unfinished ones. What costs is answering it, some hundred microseconds of arithmetic; so a turn
//! answers [`HANDSHAKES_PER_TURN`], and the others wait in a queue, their sockets unwatched, while
//! publications are delivered.
//!
//! Who speaks plain HTTP to a port with TLS is told so in plain HTTP. Who speaks TLS to a port
//! without it is told so where heads are read ([`http1::parse`](fanfare_core::wire::http1::parse)).

use std::rc::Rc;

use fanfare_core::disconnect::Disconnect;
use fanfare_core::moment::Moment;
use fanfare_core::outbox::Outbox;
use fanfare_core::wire::http1::HeadError;

use super::connection::{Connection, Stage};
use super::{ACCEPTS_PER_TURN, Key, Shard, State};
use crate::line::{Cause, Ended, Tls};
use crate::log_gate::Kind;
use crate::node::Node;

/// Handshakes answered in one turn. One takes about as long as flushing forty sessions.
const HANDSHAKES_PER_TURN: usize = 4;

/// What plain HTTP is answered here.
const SPEAK_TLS: &str = "this port speaks TLS: use https:// or wss:// here";

/// The server's end of TLS for a connection that was just accepted.
pub(super) fn begin(node: &Node) -> Result<Box<Tls>, rustls::Error> {
    let acceptor = node.tls.as_ref();
    let acceptor = acceptor.ok_or(rustls::Error::General("no certificates".to_owned()))?;
    let connection = acceptor.accept()?;
    Ok(Box::new(Tls::new(
        connection,
        std::sync::Arc::clone(&node.metrics.tls),
    )))
}

impl State {
    fn tls(&mut self, key: Key) -> Option<&mut Tls> {
        self.get(key)?.line()?.tls.as_deref_mut()
    }

    /// Whether the peer must wait for its handshake, since enough were answered in this turn.
    pub(super) fn must_wait(&mut self, shard: &Shard, key: Key) -> bool {
        let is_enough = self.handshakes_done >= HANDSHAKES_PER_TURN;
        let Some(tls) = self.tls(key).filter(|tls| tls.is_shaking()) else {
            return false;
        };
        if tls.is_waiting {
            // Its socket is not watched; that it is heard of means that it has gone.
            self.peer_gone(shard, key);
            return true;
        }
        if !is_enough {
            return false;
        }
        tls.is_waiting = true;
        shard.node.metrics.tls.put_off.add(1);
        self.handshakes.push_back(key);
        self.watch(key);
        true
    }

    /// Answers handshakes that have waited. Some may turn out not to be whole yet, or gone.
    pub(super) fn answer_handshakes(&mut self, shard: &Rc<Shard>, now: Moment) {
        self.handshakes_done = 0;
        for _ in 0..ACCEPTS_PER_TURN {
            if self.handshakes_done >= HANDSHAKES_PER_TURN {
                return;
            }
            let Some(key) = self.handshakes.pop_front() else {
                return;
            };
            if let Some(tls) = self.tls(key) {
                tls.is_waiting = false;
                self.watch(key);
                self.read(shard, key, now);
            }
        }
    }

    /// Bytes of a peer with TLS.
    pub(super) fn take_encrypted(&mut self, shard: &Rc<Shard>, key: Key, bytes: &[u8], now: Moment) {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let ended = self.decrypt(shard, key, bytes, &mut plain);
        if !plain.is_empty() {
            self.take_bytes(shard, key, &mut plain, now);
        }
        // It holds no more than was read, and a record that began before.
        self.plain = plain;
        match ended {
            Ended::No => {}
            Ended::Closed => self.peer_closed(shard, key, now),
            Ended::Fault(error) => self.fault(shard, key, &error),
        }
    }

    fn decrypt(&mut self, shard: &Shard, key: Key, bytes: &[u8], plain: &mut Vec<u8>) -> Ended {
        // After the farewell nothing counts; the socket's own end is what is waited for.
        let connection = self.get(key);
        let connection = connection.filter(|connection| !matches!(connection.stage, Stage::Closing { .. }));
        let Some(line) = connection.and_then(Connection::line) else {
            return Ended::No;
        };
        let Some(tls) = &mut line.tls else {
            return Ended::No;
        };
        if tls.is_silent() && bytes.first().is_some_and(u8::is_ascii_alphabetic) {
            tls.gave_up(Cause::PlainHttp);
            line.tls = None;
            self.bad_head(shard, key, HeadError::Bad(SPEAK_TLS));
            return Ended::No;
        }
        let was_shaking = tls.is_shaking();
        let ended = tls.decrypt(bytes, plain);
        if tls.connection.wants_write() {
            self.handshakes_done += usize::from(was_shaking);
            self.mark(key, true);
        }
        ended
    }

    /// The peer sends no more. Like a socket's end, which also is seen only when the answer to what
    /// came before it has left.
    fn peer_closed(&mut self, shard: &Shard, key: Key, now: Moment) {
        self.flush_one(shard, key, now);
        let Some(connection) = self.get(key) else { return };
        if matches!(connection.stage, Stage::Closing { .. }) {
            return;
        }
        if let Some(line) = connection.line() {
            // The peer waits for the same from us; the socket is closed in any case.
            let _ = line.say_end();
        }
        self.peer_gone(shard, key);
    }

    /// What came is no TLS. The peer is sent an alert, and that is the end.
    fn fault(&mut self, shard: &Shard, key: Key, error: &rustls::Error) {
        let peer = self.peer(key);
        let Some(connection) = self.get(key) else { return };
        // Nothing can be encrypted any more.
        connection.outbox = Outbox::default();
        let Some(tls) = connection.line().and_then(|line| line.tls.as_deref_mut()) else {
            return;
        };
        if let Some(cause) = tls.failed(error) {
            shard.node.log.say(Kind::Handshake, || {
                tracing::info!(%peer, cause = cause.label(), %error, "a TLS handshake failed");
            });
        }
        if matches!(connection.stage, Stage::Head { .. }) {
            self.close_without_session(shard, key);
        } else {
            self.begin_closing(shard, key, &Disconnect::Lost);
        }
    }

    /// A handshake that is not done has failed for this cause. Says whether it was one.
    pub(super) fn gave_up_handshake(&mut self, key: Key, cause: Cause) -> bool {
        let tls = self.tls(key).filter(|tls| tls.is_shaking());
        tls.is_some_and(|tls| tls.gave_up(cause).is_some())
    }
}
