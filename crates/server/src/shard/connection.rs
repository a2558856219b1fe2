//! One connection of a shard: its transport, what waits for it, and what it is doing.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Context, Waker};

use bytes::Bytes;
use fanfare_core::auth::Grant;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Disconnect;
use fanfare_core::hub::Slot;
use fanfare_core::moment::Moment;
use fanfare_core::outbox::Outbox;
use fanfare_core::rate::Bucket;
use fanfare_core::session::{Session, SessionId};
use fanfare_core::user::UserId;
use http_body::Frame;
use smallvec::SmallVec;

use super::asking::{Task, Unsaid};
use super::pusher::Insider;
use super::{Key, Shard};
use crate::address::Source;
use crate::apps::World;
use crate::gate::{Admission, Ticket};
use crate::line::Line;

/// See the module's head.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says one thing about a queue or the socket, and they take a byte each"
)]
pub(crate) struct Connection {
    pub(super) generation: u32,
    pub(super) transport: Transport,
    pub(super) outbox: Outbox,
    pub(super) stage: Stage,
    /// In the urgent queue, in the bulk queue: so that no session is queued twice.
    pub(super) in_urgent: bool,
    pub(super) in_bulk: bool,
    /// The epoll set watches for room to write.
    pub(super) watches_writable: bool,
    /// Since when the socket takes nothing although something waits.
    pub(super) blocked_since: Option<Moment>,
    /// The peer is asked whether it has what it was sent: see [`super::receipts`].
    pub(super) wants_receipts: bool,
    /// Answers to what it asked for wait: see [`super::answers`].
    pub(super) has_answers: bool,
    /// A header of the PROXY protocol must come first.
    pub(super) awaits_proxy: bool,
    /// The tick for which the timer wheel has an entry that counts.
    pub(super) armed: u64,
    pub(super) place: Place,
}

/// Whether a connection counts among those that the node has room for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// It does.
    Taken,
    /// It was refused and only waits to go.
    GivenBack,
}

/// Where the bytes go.
pub(super) enum Transport {
    /// The raw socket, with TLS or without: the fast lane.
    Line(Line),
    /// The body of an HTTP answer, on a connection that the HTTP server owns: the slower lane.
    /// The outbox itself is the queue; the waker is that of the task which reads the body.
    Body(Option<Waker>),
}

/// What a connection is doing.
pub(super) enum Stage {
    /// Sending its request head; what has arrived so far, and when it must be complete.
    Head {
        bytes: Vec<u8>,
        deadline: Moment,
        /// What there is to say to its address.
        admission: Admission,
    },
    /// Has sent its request head, and the back end is asked who it is. Not read from meanwhile; what
    /// has arrived so far, when there must be an answer, and the task that waits for it.
    Asking {
        bytes: Vec<u8>,
        deadline: Moment,
        _task: Task,
    },
    /// A session.
    Open(Box<Open>),
    /// Has got its last bytes, or will have by the deadline.
    Closing { deadline: Moment },
}

/// An open session and what the shard must know of it.
pub(super) struct Open {
    pub(super) session: Session,
    pub(super) id: SessionId,
    /// Whose channels it hears.
    pub(super) world: Arc<World>,
    /// What it is connected to, and so speaks to.
    pub(super) channels: SmallVec<[ChannelName; 1]>,
    /// The back end is asked about what the peer has said. Not read from meanwhile.
    pub(super) unsaid: Option<Box<Unsaid>>,
    pub(super) echo: bool,
    /// What the peer's token granted, or who has signed in; `None` for who came without one.
    pub(super) grant: Option<Box<Grant>>,
    /// What only sessions of the Pusher door have.
    pub(super) insider: Option<Box<Insider>>,
    pub(super) peer: Source,
    pub(super) opened: Moment,
    /// Bytes that may be read.
    pub(super) bytes: Bucket,
    /// Nothing is read before; `NEVER`: reading goes on.
    pub(super) paused_until: Moment,
    /// See [`crate::door::Listen::ticket`].
    pub(super) _ticket: Option<Ticket>,
}

impl Open {
    /// Whose session it is, if that is known.
    pub(super) fn user(&self) -> Option<&UserId> {
        self.grant.as_ref()?.user.as_ref()
    }
}

impl Connection {
    /// The key of this connection, which stands at `slot`.
    pub(super) fn key(&self, slot: Slot) -> Key {
        Key {
            slot,
            generation: self.generation,
        }
    }

    /// Whether what a peer sent before it went is still read: it only was too much at once.
    pub(super) fn is_throttled(&self) -> bool {
        matches!(&self.stage, Stage::Open(open) if open.unsaid.is_none() && open.paused_until != Moment::NEVER)
    }

    /// Whether nothing is read from the peer for now.
    pub(super) fn is_paused(&self) -> bool {
        let handshake_waits = match &self.transport {
            Transport::Line(line) => line.tls.as_ref().is_some_and(|tls| tls.is_waiting),
            Transport::Body(_) => false,
        };
        let must_wait = match &self.stage {
            Stage::Asking { .. } => true,
            Stage::Open(open) => open.unsaid.is_some() || open.paused_until != Moment::NEVER,
            Stage::Head { .. } | Stage::Closing { .. } => false,
        };
        handshake_waits || must_wait
    }

    /// The socket and its TLS, if this is the fast lane.
    pub(super) fn line(&mut self) -> Option<&mut Line> {
        match &mut self.transport {
            Transport::Line(line) => Some(line),
            Transport::Body(_) => None,
        }
    }

    pub(super) fn new(key: Key, transport: Transport, stage: Stage) -> Self {
        Self {
            generation: key.generation,
            transport,
            outbox: Outbox::default(),
            stage,
            in_urgent: false,
            in_bulk: false,
            watches_writable: false,
            wants_receipts: false,
            has_answers: false,
            awaits_proxy: false,
            blocked_since: None,
            armed: u64::MAX,
            place: Place::Taken,
        }
    }
}

/// An event stream as the body of an HTTP answer. Dropping it ends the session.
pub struct StreamBody {
    shard: Rc<Shard>,
    key: Key,
}

impl StreamBody {
    pub(super) fn new(shard: Rc<Shard>, key: Key) -> Self {
        Self { shard, key }
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut state = self.shard.state.borrow_mut();
        let Some(connection) = state.get(self.key) else {
            return task::Poll::Ready(None);
        };
        if let Some(bytes) = connection.outbox.pop() {
            connection.blocked_since = None;
            return task::Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if matches!(connection.stage, Stage::Closing { .. }) {
            return task::Poll::Ready(None);
        }
        connection.transport = Transport::Body(Some(cx.waker().clone()));
        task::Poll::Pending
    }
}

/// A request that waits. Resolves when there is something to read, or when it has waited for long
/// enough or must not wait any more; says whether there is. Dropping it ends the session.
pub(crate) struct Poll {
    shard: Rc<Shard>,
    key: Key,
}

impl Poll {
    pub(super) fn new(shard: Rc<Shard>, key: Key) -> Self {
        Self { shard, key }
    }
}

impl Future for Poll {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> task::Poll<bool> {
        let mut state = self.shard.state.borrow_mut();
        let Some(connection) = state.get(self.key) else {
            return task::Poll::Ready(false);
        };
        if !connection.outbox.is_empty() {
            return task::Poll::Ready(true);
        }
        if matches!(connection.stage, Stage::Closing { .. }) {
            return task::Poll::Ready(false);
        }
        connection.transport = Transport::Body(Some(cx.waker().clone()));
        task::Poll::Pending
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        let shard = &self.shard;
        shard
            .state
            .borrow_mut()
            .end(shard, self.key, Disconnect::Answered);
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let shard = &self.shard;
        shard.state.borrow_mut().end(shard, self.key, Disconnect::Lost);
    }
}
