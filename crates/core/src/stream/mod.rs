//! What is kept of one channel, and what a subscriber that comes back is given of it.
//!
//! A [`Stream`] keeps the newest entries of a channel within the bounds of its [`HistoryLimits`]:
//! number, bytes, age. Whatever leaves it leaves at the front, and [`Stream::complete_after`] then
//! says what a reader must have seen for the rest to be all that it missed. That one offset is the
//! whole rule of "no silent loss": a reader that has seen it, or anything later, gets exactly what
//! came after; any other is told of a gap. Keeping *n* entries makes *n* recoverable.
//!
//! Invariants: offsets rise from front to back; `complete_after` is below the front's offset,
//! unless something behind the front was lost by an earlier life of the node; `bytes` is the sum of
//! [`cost`] over the entries.
//!
//! [`app`] ties the streams of an app together: one order, one memory ceiling. Neither knows a
//! lock, a mailbox or a clock; `now` is an argument.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::channel::{ChannelName, ChannelPattern};
use crate::moment::Moment;
use crate::position::{Offset, Position, Since};
use crate::publication::Entry;

pub mod app;
pub mod record;
pub mod versions;

/// What an entry costs besides its own bytes: its fields, its place in the stream and in the app's
/// queue, and what the allocator adds. An upper bound for one channel.
pub const ENTRY_OVERHEAD_BYTES: usize = 384;

/// How much of a channel is kept. What exceeds any of the three goes, oldest first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HistoryLimits {
    /// Publications. 0: nothing is kept. Default 100.
    pub publications: usize,
    /// Time since it was published. Default 2 minutes.
    pub age: Duration,
    /// Bytes, with [`ENTRY_OVERHEAD_BYTES`] per publication on top of its data. Default 1,048,576.
    pub bytes: usize,
}

impl HistoryLimits {
    /// Keeps nothing.
    pub const NOTHING: Self = Self {
        publications: 0,
        age: Duration::ZERO,
        bytes: 0,
    };

    /// Whether anything is kept at all.
    pub fn keeps(&self) -> bool {
        self.publications > 0 && self.bytes > 0 && !self.age.is_zero()
    }
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            publications: 100,
            age: Duration::from_mins(2),
            bytes: 1 << 20,
        }
    }
}

/// How much is kept of which channels: the first pattern that matches decides.
#[derive(Clone, Debug, Default)]
pub struct HistoryRules {
    /// For channels that no pattern matches, and for announcements.
    pub default: HistoryLimits,
    /// In the order in which they are asked.
    pub by_pattern: Vec<(ChannelPattern, HistoryLimits)>,
}

impl HistoryRules {
    /// Nothing is kept of any channel.
    pub fn nothing() -> Self {
        Self {
            default: HistoryLimits::NOTHING,
            by_pattern: Vec::new(),
        }
    }

    /// The rules, each with its number; the default is the last.
    fn limits(&self) -> impl Iterator<Item = HistoryLimits> + '_ {
        let by_pattern = self.by_pattern.iter().map(|(_, limits)| *limits);
        by_pattern.chain([self.default])
    }

    /// What holds for a channel.
    pub fn limits_of(&self, channel: &ChannelName) -> HistoryLimits {
        self.limits().nth(self.rule_of(channel)).unwrap_or(self.default)
    }

    /// The number of the rule for a channel.
    fn rule_of(&self, channel: &ChannelName) -> usize {
        let mut rules = self.by_pattern.iter();
        rules
            .position(|(pattern, _)| pattern.matches(channel.as_str()))
            .unwrap_or(self.by_pattern.len())
    }
}

/// What happens to a reader of a channel who does not read fast enough.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowConsumer {
    /// It is closed, and comes back for what it missed.
    #[default]
    Close,
    /// Of what waits for it, only the newest of each key stays.
    Newest,
    /// The oldest of what waits for it goes, and it is told so.
    DropOldest,
}

/// Where a new subscription begins.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Resume {
    /// With what is published from now on.
    #[default]
    Now,
    /// Behind what the subscriber saw last.
    Since(Since),
    /// With so many of the newest entries of its channels together.
    Last(usize),
}

/// What a new subscription is given of the past: all that it missed, or nothing and a gap.
///
/// A subscriber of several channels has one position for all of them. Where one of them has a gap it
/// is told of a gap of all: were it given what is whole, its position would pass what is not, and a
/// connection that is cut in between would have lost that silently.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The entries, in order, each once. None if there is a gap.
    pub entries: Vec<Arc<Entry>>,
    /// Something of what was missed is not kept.
    pub is_gap: bool,
    /// The subscription begins behind this place.
    pub position: Position,
}

/// The newest entries of one channel. See the module's head.
#[derive(Debug)]
pub struct Stream {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    complete_after: Option<Offset>,
}

/// What keeping an entry counts for, in bytes.
pub fn cost(entry: &Entry) -> usize {
    entry.bytes().saturating_add(ENTRY_OVERHEAD_BYTES)
}

impl Stream {
    /// An empty stream of a channel whose last publication was at `complete_after` or before.
    pub fn new(complete_after: Option<Offset>) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            complete_after,
        }
    }

    /// Who has seen this place, or any behind it, lacks nothing but what is here.
    pub fn complete_after(&self) -> Option<Offset> {
        self.complete_after
    }

    /// The oldest entry.
    pub fn front(&self) -> Option<&Arc<Entry>> {
        self.entries.front()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the entries cost, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the newest entry.
    pub fn push(&mut self, entry: Arc<Entry>) {
        debug_assert!(self.entries.back().is_none_or(|last| last.offset < entry.offset));
        self.bytes = self.bytes.saturating_add(cost(&entry));
        self.entries.push_back(entry);
    }

    /// Removes the oldest entry.
    pub fn pop(&mut self) -> Option<Arc<Entry>> {
        let entry = self.entries.pop_front()?;
        self.bytes = self.bytes.saturating_sub(cost(&entry));
        self.skip(entry.offset);
        if self.entries.is_empty() {
            // A channel that was busy once does not keep the memory for it.
            self.entries = VecDeque::new();
        }
        Some(entry)
    }

    /// Says that what was published at this place is not here.
    pub fn skip(&mut self, offset: Offset) {
        self.complete_after = self.complete_after.max(Some(offset));
    }

    /// Whether one entry has to go.
    pub fn exceeds(&self, limits: &HistoryLimits, now: Moment) -> bool {
        let Some(front) = self.entries.front() else {
            return false;
        };
        self.entries.len() > limits.publications
            || self.bytes > limits.bytes
            || now >= front.ordered_at + limits.age
    }

    /// What came behind `seen`, or `None` if some of it is gone.
    pub fn since(&self, seen: Option<Offset>) -> Option<impl Iterator<Item = &Arc<Entry>>> {
        if seen < self.complete_after {
            return None;
        }
        let from = self.entries.partition_point(|entry| Some(entry.offset) <= seen);
        Some(self.entries.range(from..))
    }

    /// The newest `count` entries, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.range(self.entries.len().saturating_sub(count)..)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
