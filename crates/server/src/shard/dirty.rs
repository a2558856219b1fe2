//! The sessions that have something to flush, in two queues: those of small channels go first, so
//! that a channel with 15,000 subscribers does not make the subscriber of another wait.
//!
//! Invariant: a connection stands at most once in each queue, and its flags say in which. A
//! connection whose socket is full stands in none: it is marked again when the socket has room.

use std::collections::VecDeque;

use fanfare_core::hub::Slot;
use slab::Slab;

use super::Key;
use super::connection::Connection;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    urgent: VecDeque<Key>,
    bulk: VecDeque<Key>,
}

impl Dirty {
    /// Enters the connection at `slot`, unless it is entered already or its socket is full.
    pub(super) fn mark(&mut self, connection: &mut Connection, slot: Slot, urgent: bool) {
        if connection.watches_writable {
            return;
        }
        let (flag, queue) = if urgent {
            (&mut connection.in_urgent, &mut self.urgent)
        } else {
            (&mut connection.in_bulk, &mut self.bulk)
        };
        if !std::mem::replace(flag, true) {
            let generation = connection.generation;
            queue.push_back(Key { slot, generation });
        }
    }

    /// The next one to flush. It may be gone, or have nothing left to send.
    pub(super) fn pop(&mut self, connections: &mut Slab<Connection>) -> Option<Key> {
        let (key, urgent) = match self.urgent.pop_front() {
            Some(key) => (key, true),
            None => (self.bulk.pop_front()?, false),
        };
        if let Some(connection) = connections
            .get_mut(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
        {
            if urgent {
                connection.in_urgent = false;
            } else {
                connection.in_bulk = false;
            }
        }
        Some(key)
    }

    /// Whether nobody has anything to flush.
    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.bulk.is_empty()
    }
}
