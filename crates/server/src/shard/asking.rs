//! Connections that wait for what the back end says ([`crate::hooks`]): of who connects, and of what
//! she says. Nobody else waits; a connection that does is not read from.
//!
//! # Invariants
//!
//! * A connection that goes takes its question along: nobody is asked about who is not there.
//! * Of a session at most one message is asked about. What came behind it is kept as it came, at most
//!   what one read gives, and read on from there.
//! * Who is sent away, or loses a channel, while she is asked about is not heard. Who goes by herself,
//!   or because the node goes, is.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::hub::Topic;
use fanfare_core::moment::Moment;
use fanfare_core::publication::Draft;
use fanfare_core::wire::http1;
use tokio::task::AbortHandle;

use super::connection::{Open, Stage};
use super::open::route;
use super::{Key, Shard, State};
use crate::gate::Admission;
use crate::hooks;
use crate::hooks::connect::{Stranger, Told};

/// Bytes that may come behind a request head before it is known who sends them.
pub(super) const EARLY_BYTES_MAX: usize = 16 << 10;

/// Time that an answer may take longer than [`hooks::time_max`] says, before something is wrong here.
const SLACK: Duration = Duration::from_secs(1);

/// A task that ends with its connection.
pub(super) struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is kept of a session while the back end is asked about a message of hers.
pub(super) struct Unsaid {
    /// What came behind it.
    pub(super) rest: Vec<u8>,
    /// It is not to be published any more.
    is_revoked: Rc<Cell<bool>>,
}

impl Open {
    /// The session has ended: whether what the back end is asked about is still to be said.
    pub(super) fn revoke(&self, why: &Disconnect) {
        let goes_by_itself = matches!(
            why,
            Disconnect::ByPeer(_) | Disconnect::Lost | Disconnect::Draining
        );
        if let Some(unsaid) = self.unsaid.as_ref().filter(|_| !goes_by_itself) {
            unsaid.is_revoked.set(true);
        }
    }
}

impl State {
    /// Asks the back end who a connection is; `bytes` are what has arrived of it.
    pub(super) fn ask(&mut self, shard: &Rc<Shard>, key: Key, stranger: Stranger, bytes: Vec<u8>) {
        let deadline = shard.now() + hooks::time_max(&shard.node.config.hooks) + SLACK;
        let Some(connection) = self.get(key) else { return };
        if !matches!(connection.stage, Stage::Head { .. }) {
            return;
        }
        let waiting = Rc::clone(shard);
        let task = tokio::task::spawn_local(async move {
            let shard = waiting;
            let told = hooks::connect::ask(&shard.node, stranger).await;
            shard.state.borrow_mut().told(&shard, key, told);
            shard.work.notify_one();
        });
        connection.stage = Stage::Asking {
            bytes,
            deadline,
            _task: Task(task.abort_handle()),
        };
        self.heads_open -= 1;
        self.watch(key);
        self.arm(key, deadline);
    }

    /// The back end has said who a connection is.
    pub(super) fn told(&mut self, shard: &Rc<Shard>, key: Key, told: Result<Told, Refusal>) {
        let now = shard.now();
        let deadline = now + shard.node.config.limits.head_time_max;
        let source = self.peer(key);
        let Some(connection) = self.get(key) else { return };
        let Stage::Asking { bytes, .. } = &mut connection.stage else {
            return;
        };
        let input = std::mem::take(bytes);
        connection.stage = Stage::Head {
            bytes: Vec::new(),
            deadline,
            // What there was to say was said before the back end was asked.
            admission: Admission::Welcome,
        };
        self.heads_open += 1;
        match http1::parse(&input, &shard.node.head_limits()) {
            Ok(Some(head)) => {
                let (route, len) = (
                    route(shard, &head, source, Admission::Welcome, Some(told)),
                    head.len,
                );
                self.follow(shard, key, route, &input, len, now);
            }
            // It was whole before.
            Ok(None) | Err(_) => self.end(shard, key, Disconnect::Internal),
        }
        self.watch(key);
    }

    /// Asks the back end about what a session's peer says. Nothing of hers is asked about yet.
    pub(super) fn ask_about(&mut self, shard: &Shard, key: Key, draft: Draft) {
        let Some(Stage::Open(open)) = self.get(key).map(|connection| &mut connection.stage) else {
            return;
        };
        let Some(shard) = shard.me.upgrade() else { return };
        let is_revoked = Rc::new(Cell::new(false));
        open.unsaid = Some(Box::new(Unsaid {
            rest: Vec::new(),
            is_revoked: Rc::clone(&is_revoked),
        }));
        open.session.on_paused();
        let address = open.peer.ip;
        let spoken_on = draft.audience.channels().first().cloned();
        self.watch(key);
        shard.saying.set(shard.saying.get() + 1);
        tokio::task::spawn_local(async move {
            let said = hooks::message::ask(&shard.node, draft, address).await;
            let mut state = shard.state.borrow_mut();
            let said = said.and_then(|kept| match kept {
                Some(draft) if !is_revoked.get() && state.may_still_say(key, &draft) => {
                    shard.node.publisher.publish(draft).map(drop)
                }
                _ => Ok(()),
            });
            match said {
                Ok(()) => state.read_on(&shard, key, shard.now()),
                // In that protocol what one says is refused, and one goes on.
                Err(refusal) if state.tell_unsaid(&shard, key, &refusal, spoken_on.as_ref()) => {
                    state.read_on(&shard, key, shard.now());
                }
                Err(refusal) => state.close_session(&shard, key, Disconnect::Refused(refusal)),
            }
            shard.saying.set(shard.saying.get() - 1);
            shard.work.notify_one();
        });
    }

    /// Whether a session that is still there still has the channels that it spoke to.
    fn may_still_say(&mut self, key: Key, draft: &Draft) -> bool {
        let Some(Stage::Open(open)) = self.get(key).map(|connection| &connection.stage) else {
            return true;
        };
        let is_insider = open.insider.is_some();
        let own = open.channels.clone();
        draft.audience.channels().iter().all(|channel| {
            let listens = || self.hub.listens(key.slot, &Topic::Channel(channel.clone()));
            own.contains(channel) || (is_insider && listens())
        })
    }

    /// What a session said is dealt with: what came behind it is next.
    fn read_on(&mut self, shard: &Rc<Shard>, key: Key, now: Moment) {
        let Some(Stage::Open(open)) = self.get(key).map(|connection| &mut connection.stage) else {
            return;
        };
        let Some(unsaid) = open.unsaid.take() else { return };
        if open.paused_until == Moment::NEVER {
            open.session.on_resumed(now);
        }
        self.watch(key);
        let mut rest = unsaid.rest;
        if rest.is_empty() {
            self.rearm(key);
        } else {
            self.take_bytes(shard, key, &mut rest, now);
        }
    }
}
