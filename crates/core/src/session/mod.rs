//! Sessions: one state machine per protocol, and the contract between them and a shard.
//!
//! A session is deterministic: bytes and times in, [`Action`]s out; no socket, no clock, no
//! runtime, and no knowledge of who else listens.
//!
//! # How to drive one
//!
//! * `on_*` methods take what happened and append actions. Carry out all of them, in order,
//!   before calling the session again.
//! * [`Session::poll_timeout`] says when [`Session::on_timeout`] wants to be called; early calls
//!   do nothing. Coarse timers are fine: a second late changes nothing but comfort.
//! * After [`Action::Close`] the session is over: it takes no more input and wants no timeouts.
//!
//! Publications do not pass through the session. They are encoded once for all and queued
//! straight into the outbox by the shard; that is why fan-out costs nothing per protocol.
//!
//! # Permission that ends
//!
//! Who came with a token has a deadline, and the session ends there with [`Disconnect::Expired`].
//! A session does not know what a token says: it hands a fresh one on as [`Action::Refresh`].
//! Until the answer it hands on what the peer says as well, so whoever carries out
//! [`Action::Publish`] for a session with a token looks at its permission again.
//!
//! # Subscribing
//!
//! Announce interest to the engine, enter the hub with the position that it answers, queue what was
//! missed up to there, then go live. The engine answers at one point of the order: what was
//! published before is in its answer or in a gap that the peer is told of, what is published later
//! reaches the hub. In between nothing is lost, since the shard does nothing else; what waits in
//! its mailbox from before is not for the new session, and the hub knows that by the position.

use std::time::Duration;

use bytes::Bytes;

use crate::auth::Secret;
use crate::disconnect::Disconnect;
use crate::moment::Moment;
use crate::publication::DataKind;
use crate::wire::pusher::frame::ClientFrame;

mod event_stream;
mod long_poll;
mod plain_websocket;
mod pusher;
#[cfg(test)]
mod speech;

pub use event_stream::{EventStream, StreamSettings};
pub use long_poll::LongPoll;
pub use plain_websocket::{PlainWebSocket, SpeakRates, WebSocketSettings};
pub use pusher::{Pusher, PusherSettings};

pub use crate::session_id::SessionId;

/// What a session wants done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Queue these bytes for the peer, behind what waits already.
    Send(Bytes),
    /// Queue a sign of life for an event stream: with the position up to which all that concerns it
    /// is queued, if the shard can tell, so that a reader of a quiet channel does not fall behind.
    SendPosition,
    /// The peer speaks: publish this to the channels it is connected to, to everyone but itself
    /// (unless it asked for its echo). A refusal closes the session.
    Publish {
        /// Text or binary, as the peer sent it.
        kind: DataKind,
        /// The message.
        data: Bytes,
    },
    /// The peer brings a fresh token in place of the one that let it in. If it is good and of the
    /// same user, [`Session::on_refreshed`] follows; else the session is closed with the refusal.
    Refresh(Secret),
    /// The peer of the Pusher door wants something of the channels, or says who it is. It is answered over
    /// the session, and never ends it.
    Frame(Box<ClientFrame>),
    /// All that was sent before the [`Session::ask_receipt`] with this number has arrived.
    Received(u64),
    /// The peer did more than this limit allows, and it was not done: for the metrics.
    Limited(&'static str),
    /// The session is over. Queue `farewell`, if any, then end the connection.
    Close {
        /// The last bytes for the peer: a close frame, the end of a stream.
        farewell: Option<Bytes>,
        /// For log and metrics.
        why: Disconnect,
    },
}

/// A session of any protocol.
#[derive(Debug)]
pub enum Session {
    /// The plain door over WebSocket.
    PlainWebSocket(PlainWebSocket),
    /// The plain door over an event stream.
    EventStream(EventStream),
    /// One request of the plain door that waits for something new.
    LongPoll(LongPoll),
    /// The Pusher door.
    Pusher(Pusher),
}

impl Session {
    /// Whether it stays: a long poll ends with each answer, and the next one comes at once.
    pub fn is_steady(&self) -> bool {
        !matches!(self, Self::LongPoll(_))
    }

    /// Bytes have arrived. They are used up, and what was unfinished is kept inside; but where messages
    /// are taken one by one, the bytes behind the first are left: says how many. The buffer is
    /// unmasked in place, hence mutable.
    pub fn on_bytes(&mut self, now: Moment, bytes: &mut [u8], actions: &mut Vec<Action>) -> usize {
        match self {
            Self::PlainWebSocket(session) => session.on_bytes(now, bytes, actions),
            Self::Pusher(session) => session.on_bytes(now, bytes, actions),
            // Such a listener has nothing to say; what it sends is ignored.
            Self::EventStream(_) | Self::LongPoll(_) => 0,
        }
    }

    /// Nothing is read from the peer for now, so its silence is not its own.
    pub fn on_paused(&mut self) {
        match self {
            Self::PlainWebSocket(session) => session.on_paused(),
            Self::Pusher(session) => session.on_paused(),
            Self::EventStream(_) | Self::LongPoll(_) => {}
        }
    }

    /// It is read from again.
    pub fn on_resumed(&mut self, now: Moment) {
        match self {
            Self::PlainWebSocket(session) => session.on_resumed(now),
            Self::Pusher(session) => session.on_resumed(now),
            Self::EventStream(_) | Self::LongPoll(_) => {}
        }
    }

    /// The token of an [`Action::Refresh`] was good: what it grants ends at `deadline`.
    pub fn on_refreshed(&mut self, deadline: Moment, may_speak: bool) {
        match self {
            Self::PlainWebSocket(session) => session.on_refreshed(deadline, may_speak),
            // Nothing can be said over these: who listens comes back with the new token. Nobody has one there.
            Self::EventStream(_) | Self::LongPoll(_) | Self::Pusher(_) => {}
        }
    }

    /// What an [`Action::Publish`] asked for was not done, since it was more than this limit allows.
    pub fn on_too_fast(
        &mut self,
        now: Moment,
        limit: &'static str,
        wait: Duration,
        actions: &mut Vec<Action>,
    ) {
        match self {
            Self::PlainWebSocket(session) => session.on_too_fast(now, limit, wait, actions),
            Self::Pusher(session) => session.on_too_fast(now, limit, wait, actions),
            // Nothing can be said over these.
            Self::EventStream(_) | Self::LongPoll(_) => {}
        }
    }

    /// The peer has shown who it is, where the app wants to know of everybody.
    pub fn on_authorized(&mut self) {
        if let Self::Pusher(session) = self {
            session.on_authorized();
        }
    }

    /// Bytes after which the peer says by itself that it has everything before them, with a number
    /// that comes back in [`Action::Received`]. `None` as long as the answer before is missing, and of
    /// sessions that know no such thing.
    pub fn ask_receipt(&mut self) -> Option<(u64, Bytes)> {
        match self {
            Self::Pusher(session) => session.ask_receipt(),
            Self::PlainWebSocket(_) | Self::EventStream(_) | Self::LongPoll(_) => None,
        }
    }

    /// The time given by [`Self::poll_timeout`] has come.
    pub fn on_timeout(&mut self, now: Moment, actions: &mut Vec<Action>) {
        match self {
            Self::PlainWebSocket(session) => session.on_timeout(now, actions),
            Self::EventStream(session) => session.on_timeout(now, actions),
            Self::LongPoll(session) => session.on_timeout(now, actions),
            Self::Pusher(session) => session.on_timeout(now, actions),
        }
    }

    /// When [`Self::on_timeout`] should be called.
    pub fn poll_timeout(&self) -> Moment {
        match self {
            Self::PlainWebSocket(session) => session.poll_timeout(),
            Self::EventStream(session) => session.poll_timeout(),
            Self::LongPoll(session) => session.poll_timeout(),
            Self::Pusher(session) => session.poll_timeout(),
        }
    }

    /// The server ends the session.
    pub fn close(&mut self, why: Disconnect, actions: &mut Vec<Action>) {
        match self {
            Self::PlainWebSocket(session) => session.close(why, actions),
            Self::EventStream(session) => session.close(why, actions),
            Self::LongPoll(session) => session.close(why, actions),
            Self::Pusher(session) => session.close(why, actions),
        }
    }
}
