//! A shard: one thread, one `current_thread` runtime, and the connections it owns for life.
//!
//! # A turn
//!
//! 1. take what is in the mailbox and *deliver* it: append shared frames to outboxes, mark
//!    sessions dirty; no system call;
//! 2. read from sockets that have something, through one buffer for all; carry out what the
//!    sessions want;
//! 3. look at connections whose timers are due;
//! 4. *flush* dirty sessions: one system call for all that each has.
//!
//! Delivering and flushing each stop when their time budget is spent and go on in the next turn,
//! where they stopped, after the runtime has had a chance to run everything else. Batches so grow
//! by themselves under load, and no timer is needed for it. Sessions of small channels are
//! flushed before those of big ones, so a channel with 15,000 listeners does not make the
//! listener of another wait.
//!
//! # Invariants
//!
//! * Nothing of a connection is shared with another thread; only the [`mailbox`] is.
//! * No queue and no task per connection: sockets are in an epoll set of the shard's own, which
//!   the runtime watches as one descriptor.
//! * An idle connection owns no buffer. What a peer left unfinished is kept in its decoder.
//! * A connection leaves the hub and the engine exactly once, in [`Shard::end`].
//!
//! Requests that are not streams leave the shard's tables for the HTTP server on the same thread
//! ([`crate::api`]); WebSockets and event streams that are asked for there come back
//! ([`Shard::adopt_websocket`], [`Shard::adopt_stream`]).
//!
//! A connection with TLS is like any other: what it reads is decrypted on the way in, and outboxes
//! hold plain frames, which are encrypted when they leave ([`tls`], [`crate::line`]).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::hub::{Hub, Slot};
use fanfare_core::moment::Moment;
use fanfare_core::position::Position;
use fanfare_core::publication::Publication;
use fanfare_core::session::Action;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use slab::Slab;
use tokio::sync::Notify;

use crate::line::Line;
use crate::node::{Node, Place};
use crate::random::random;

mod accept;
mod answers;
mod asking;
pub(crate) mod command;
mod connection;
mod dirty;
mod hear;
pub mod mailbox;
mod members;
mod open;
mod pusher;
mod receipts;
mod refresh;
mod replays;
mod timers;
mod tls;
mod turn;

pub(crate) use command::What;
use connection::Connection;
pub(crate) use connection::Poll;
pub use connection::StreamBody;
use dirty::Dirty;
pub(crate) use members::{Owed, settle};
pub(crate) use open::{DISMISSED, Facts};
pub(crate) use pusher::Knock;
use timers::Timers;

/// Time that delivering, or flushing, may take in one turn.
const BUDGET: Duration = Duration::from_millis(1);

/// Time for flushing in the first turn after nothing waited; it doubles from turn to turn up to
/// [`BUDGET`]. Publications rarely come alone, and those that arrive a moment after the first leave
/// together with it to everybody who was not yet flushed: a short first turn finds them early.
const FLUSH_BUDGET_FIRST: Duration = Duration::from_micros(60);

/// Bytes read from one connection at a time, into the buffer that all share.
const SCRATCH_BYTES: usize = 64 << 10;

/// Connections accepted in one turn, so that a storm of them does not hold up delivery.
const ACCEPTS_PER_TURN: usize = 64;

/// A publication with more listeners here than this is flushed behind those with fewer.
const URGENT_MAX: usize = 256;

/// Time between looking whether descriptors are free again, after there were none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// What the events of the listeners carry instead of a connection's key: this, and one less for
/// each further one.
const LISTENER: u64 = u64::MAX;

/// Most listeners of a shard.
const LISTENERS_MAX: usize = 3;

/// A listening socket of the doors.
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) kind: ListenerKind,
}

/// What those who connect there speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ListenerKind {
    /// HTTP, over TCP.
    Plain,
    /// The same over TLS.
    Tls,
    /// HTTP, on this machine.
    Unix,
}

/// Names a connection in a way that outlives it: the slot may be reused, the pair is not.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    pub(crate) slot: Slot,
    pub(crate) generation: u32,
}

impl Key {
    fn pack(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.slot)
    }

    fn unpack(data: u64) -> Self {
        // Both halves are 32 bits wide by construction.
        Self {
            slot: (data & 0xffff_ffff) as u32,
            generation: (data >> 32) as u32,
        }
    }
}

/// One shard. Lives on its own thread; see the module's head.
pub struct Shard {
    /// The node that this shard is one of.
    pub(crate) node: Arc<Node>,
    /// Which one.
    pub(crate) index: usize,
    pub(crate) state: RefCell<State>,
    /// This one, for tasks that outlive a call.
    me: Weak<Self>,
    /// Messages that the back end is asked about.
    saying: Cell<usize>,
    /// There is work that no descriptor tells of: a session of the slow lane, a new adoption.
    pub(crate) work: Notify,
}

pub(crate) struct State {
    epoll: OwnedFd,
    listeners: Vec<Listener>,
    accept_paused_until: Option<Moment>,
    connections: Slab<Connection>,
    generation: u32,
    hub: Hub,
    timers: Timers,
    inbox: VecDeque<Arc<Publication>>,
    /// Everything up to here was delivered, of each app.
    delivered: HashMap<AppId, Position>,
    /// Whether that is all that there was when this turn began.
    is_settled: bool,
    spare: Vec<Arc<Publication>>,
    dirty: Dirty,
    /// Time for flushing in this turn: see [`FLUSH_BUDGET_FIRST`].
    flush_budget: Duration,
    /// Sessions that had no room in the run that is being delivered; empty in between.
    slow: Vec<(Key, usize)>,
    /// Commands that are not carried out yet, and the one that is.
    commands: VecDeque<command::Command>,
    ending: Option<command::Ending>,
    /// Connections that still have to send a request head, oldest first; may hold stale keys.
    heads: VecDeque<Key>,
    heads_open: usize,
    /// Handshakes of TLS that wait for a later turn, oldest first; may hold stale keys.
    handshakes: VecDeque<Key>,
    /// Handshakes of TLS answered in this turn.
    handshakes_done: usize,
    scratch: Vec<u8>,
    /// What the bytes of one peer with TLS said.
    plain: Vec<u8>,
    actions: Vec<Action>,
    random: u64,
}

impl Shard {
    /// A shard that is not running yet.
    pub(crate) fn new(node: Arc<Node>, index: usize, listeners: Vec<Listener>) -> std::io::Result<Rc<Self>> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        accept::watch_listeners(&set, &listeners)?;
        let seed = random()?;
        let state = State {
            epoll: set,
            listeners,
            accept_paused_until: None,
            connections: Slab::new(),
            generation: 0,
            hub: Hub::new(node.config.slow_consumer_rules()),
            timers: Timers::new(node.clock.now()),
            inbox: VecDeque::new(),
            delivered: HashMap::new(),
            is_settled: false,
            spare: Vec::new(),
            dirty: Dirty::default(),
            flush_budget: FLUSH_BUDGET_FIRST,
            slow: Vec::new(),
            commands: VecDeque::new(),
            ending: None,
            heads: VecDeque::new(),
            heads_open: 0,
            handshakes: VecDeque::new(),
            handshakes_done: 0,
            scratch: vec![0; SCRATCH_BYTES],
            plain: Vec::new(),
            actions: Vec::new(),
            random: u64::from_ne_bytes(seed) | 1,
        };
        Ok(Rc::new_cyclic(|me| Self {
            node,
            index,
            state: RefCell::new(state),
            me: Weak::clone(me),
            saying: Cell::new(0),
            work: Notify::new(),
        }))
    }

    /// Where a connection of this shard is.
    fn place(&self, key: Key) -> Place {
        Place {
            shard: self.index,
            key,
        }
    }

    /// Now, in the time that sessions know.
    pub(crate) fn now(&self) -> Moment {
        self.node.clock.now()
    }

    /// The epoll set, for the runtime to watch.
    pub(crate) fn events(&self) -> std::io::Result<OwnedFd> {
        self.state.borrow().epoll.as_fd().try_clone_to_owned()
    }

    /// Takes over a connection whose WebSocket handshake the HTTP server has answered. `early` are
    /// bytes that had arrived behind the request.
    pub(crate) fn adopt_websocket(self: &Rc<Self>, line: Line, early: Vec<u8>, facts: Facts) {
        self.state
            .borrow_mut()
            .adopt_websocket(self, line, early, |state, key, now| {
                state.open_websocket(self, key, facts, now);
            });
        self.work.notify_one();
    }

    /// The same through the Pusher door.
    pub(crate) fn adopt_pusher(self: &Rc<Self>, line: Line, early: Vec<u8>, knock: Knock) {
        self.state
            .borrow_mut()
            .adopt_websocket(self, line, early, |state, key, now| {
                state.open_pusher(self, key, knock, now);
            });
        self.work.notify_one();
    }

    /// Opens an event stream whose bytes leave as the body of an HTTP answer.
    pub(crate) fn adopt_stream(self: &Rc<Self>, facts: Facts, prologue: Bytes) -> StreamBody {
        let key = self.state.borrow_mut().adopt_stream(self, facts, prologue);
        self.work.notify_one();
        StreamBody::new(Rc::clone(self), key)
    }

    /// Lets a request wait until something is published to one of its channels.
    pub(crate) fn adopt_poll(self: &Rc<Self>, facts: Facts, ends_at: Moment) -> Poll {
        let key = self.state.borrow_mut().adopt_poll(self, facts, ends_at);
        self.work.notify_one();
        Poll::new(Rc::clone(self), key)
    }

    /// What there is to wait for before this shard may end: open connections of its tables, and messages
    /// that the back end is asked about.
    pub(crate) fn unfinished(&self) -> usize {
        self.state.borrow().connections.len() + self.saying.get()
    }
}

impl State {
    /// A number for jitter. Not for secrets.
    fn jitter(&mut self, range: u64) -> u64 {
        // xorshift64: Marsaglia, Journal of Statistical Software 8 (14), 2003.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if range == 0 { 0 } else { self.random % range }
    }

    fn get(&mut self, key: Key) -> Option<&mut Connection> {
        self.connections
            .get_mut(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
    }

    fn insert(&mut self, make: impl FnOnce(Key) -> Connection) -> Key {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let entry = self.connections.vacant_entry();
        let key = Key {
            slot: u32::try_from(entry.key()).unwrap_or(u32::MAX),
            generation,
        };
        entry.insert(make(key));
        key
    }
}
