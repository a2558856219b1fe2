//! One coarse timer wheel per shard.
//!
//! An entry says "look at this connection at that tick"; the connection itself knows what for.
//! Entries are never removed: whoever looks at one that is out of date does nothing. So arming is
//! one push, and an idle connection costs one entry of eight bytes.

use std::time::Duration;

use fanfare_core::moment::Moment;

use super::Key;

/// Precision of all timeouts of connections.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// More than the longest timeout (a stream's age with its jitter) in ticks; later ones go round.
const SLOTS: usize = 4_096;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Timers {
    slots: Vec<Vec<(Key, u64)>>,
    /// The next tick to look at.
    next: u64,
}

/// The first tick that is not before `moment`.
pub(crate) fn tick_of(moment: Moment) -> u64 {
    moment.as_millis().div_ceil(250)
}

impl Timers {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            slots: vec![Vec::new(); SLOTS],
            next: tick_of(now),
        }
    }

    /// Asks for a look at `key` at `tick`, or at the next tick if that has passed. Returns which it
    /// will be: the entry carries that one.
    pub(crate) fn arm(&mut self, key: Key, tick: u64) -> u64 {
        let tick = tick.max(self.next);
        self.slots[slot_of(tick)].push((key, tick));
        tick
    }

    /// Calls `due` for each entry whose tick has come.
    pub(crate) fn advance(&mut self, now: Moment, due: &mut Vec<(Key, u64)>) {
        let now_tick = now.as_millis() / 250;
        while self.next <= now_tick {
            let slot = slot_of(self.next);
            let entries = std::mem::take(&mut self.slots[slot]);
            for entry in entries {
                if entry.1 <= self.next {
                    due.push(entry);
                } else {
                    self.slots[slot].push(entry);
                }
            }
            self.next += 1;
        }
    }
}

fn slot_of(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_due_once_and_never_early() {
        let at = |ms| Moment::after_start(Duration::from_millis(ms));
        let key = |slot| Key { slot, generation: 1 };
        let mut timers = Timers::new(at(1_000));
        timers.arm(key(1), tick_of(at(1_001)));
        timers.arm(key(2), tick_of(at(2_000)));
        timers.arm(key(3), tick_of(at(2_000)) + SLOTS as u64);
        assert_eq!(
            timers.arm(key(4), 0),
            4,
            "a tick that has passed is looked at with the next"
        );
        let mut seen = Vec::new();
        for ms in (1_000..2_000_000).step_by(250) {
            let mut due = Vec::new();
            timers.advance(at(ms), &mut due);
            seen.extend(due.into_iter().map(|(key, _)| (key.slot, ms)));
        }
        assert_eq!(
            seen,
            [
                (4, 1_000),
                (1, 1_250),
                (2, 2_000),
                (3, 2_000 + SLOTS as u64 * 250)
            ]
        );
    }
}
