//! The streams of one app and their one order: where a publication gets its place.
//!
//! [`AppStreams`] is what an engine of this process keeps behind one lock. It knows who listens by
//! shard, gives offsets, ties each publication to the one before it in its channels, keeps entries
//! within their limits, and answers a new subscription with what it missed, all at one point of
//! the order: what is published later reaches the subscriber's shard, what was published before is
//! in the answer or in a gap.
//!
//! # How long a channel is remembered
//!
//! A channel has an entry in the table as long as it has listeners or kept entries, and for
//! [`LINGER`] after that, so that listeners who come back to a quiet channel are not told of a gap
//! that is none. All that is forgotten is covered by one offset, `floor`: an upper bound of what
//! was ever published to channels that are not in the table. It may say "you may have missed
//! something" once too often and never once too seldom.
//!
//! # Bounds
//!
//! * Channels in the table, over all apps: [`Shared::channels_max`]. At the bound those that nobody
//!   listens to are forgotten, oldest first; if there is none, a subscription is refused, and a
//!   publication to a new channel is delivered but not kept.
//! * Bytes of kept entries, over all apps: [`Shared::history_bytes_max`]. At the bound the oldest
//!   entries of the app that publishes go, whatever their channel.
//! * Keys with a version, over all apps: [`Shared::versions_max`]; see [`super::versions`].
//! * The queues that find the oldest entry hold at most twice as many places as there are entries.
//!
//! This module has no lock and no mailbox, and reserves nothing: an engine asks for the audience,
//! reserves room, and only then appends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use smallvec::SmallVec;

use super::versions::Versions;
use super::{HistoryLimits, HistoryRules, Replay, Resume, Stream, cost};
use crate::channel::ChannelName;
use crate::disconnect::Refusal;
use crate::moment::Moment;
use crate::position::{Epoch, Link, Offset, Position, Since};
use crate::publication::{Audience, Draft, Entry, Publication, PublicationKey, Reader};
use crate::sync::{AtomicUsize, Ordering};

#[path = "before.rs"]
mod before;
#[path = "listening.rs"]
mod listening;
#[path = "restore.rs"]
pub mod restore;

pub use listening::Happening;

/// Time for which a channel without listeners and entries is remembered.
pub const LINGER: Duration = Duration::from_mins(2);

/// Entries that one publication or tick removes at most because of their age, so that the lock is
/// never held for long.
pub const EXPIRED_PER_STEP: usize = 256;

/// Entries that are looked at, under each rule, to find a channel that can be forgotten.
const LOOKED_AT_MAX: usize = 64;

/// What all apps of a node share: counters, and what bounds them.
#[derive(Debug)]
pub struct Shared {
    /// Channels in the tables.
    channels: AtomicUsize,
    /// Channels with listeners.
    listened: AtomicUsize,
    /// Bytes of kept entries.
    history_bytes: AtomicUsize,
    /// Kept entries, counted once per channel.
    history_entries: AtomicUsize,
    /// Keys whose newest version is remembered.
    versions: AtomicUsize,
    /// Entries that went because of the node's ceiling and not of their channel's limits.
    evicted: AtomicUsize,
    /// Publications that were not kept because there was no place for their channel.
    unkept: AtomicUsize,
    /// Most channels in the tables.
    pub channels_max: usize,
    /// Most bytes of kept entries.
    pub history_bytes_max: usize,
    /// Most keys whose newest version is remembered.
    pub versions_max: usize,
}

/// What [`Shared`] counts, for metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Channels with listeners.
    pub listened: usize,
    /// Channels that are remembered, with listeners or without.
    pub channels: usize,
    /// Bytes of kept entries.
    pub history_bytes: usize,
    /// Kept entries, counted once per channel.
    pub history_entries: usize,
    /// Keys whose newest version is remembered.
    pub versions: usize,
    /// Entries that went because of the node's ceiling, since the start.
    pub evicted: usize,
    /// Publications that were not kept for want of a place for their channel, since the start.
    pub unkept: usize,
}

impl Shared {
    /// Nothing kept yet.
    pub fn new(channels_max: usize, history_bytes_max: usize, versions_max: usize) -> Self {
        let zero = || AtomicUsize::new(0);
        Self {
            channels: zero(),
            listened: zero(),
            history_bytes: zero(),
            history_entries: zero(),
            versions: zero(),
            evicted: zero(),
            unkept: zero(),
            channels_max,
            history_bytes_max,
            versions_max,
        }
    }

    /// The counters as they are.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        Counts {
            listened: get(&self.listened),
            channels: get(&self.channels),
            history_bytes: get(&self.history_bytes),
            history_entries: get(&self.history_entries),
            versions: get(&self.versions),
            evicted: get(&self.evicted),
            unkept: get(&self.unkept),
        }
    }
}

/// Listeners per shard.
type PerShard = SmallVec<[u32; 4]>;

/// Whom a draft would reach now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reach {
    /// Listeners over all its channels.
    pub listeners: usize,
    /// The shards that have any, as a set of bits.
    pub shards: u64,
}

/// See the module's head.
#[derive(Debug)]
pub struct AppStreams {
    epoch: Epoch,
    shared: Arc<Shared>,
    last: Option<Offset>,
    /// At least the offset of every publication to a channel that is not in the table.
    floor: Option<Offset>,
    names: HashMap<ChannelName, usize>,
    table: Table,
    rules: HistoryRules,
    by_rule: Vec<Aging>,
    /// Channels that had neither listeners nor entries at the time noted, oldest first; at most one
    /// note per channel.
    quiet: VecDeque<(Moment, usize)>,
    /// What was not fetched yet by whoever watches; `None`: nobody does.
    happenings: Option<Vec<Happening>>,
}

/// The channels that are remembered, by their places.
#[derive(Debug)]
struct Table {
    named: Slab<Channel>,
    /// Announcements to everyone: a stream like others, and the sessions that hear them. Its place is
    /// [`EVERYONE`].
    everyone: Channel,
}

impl Table {
    fn get_mut(&mut self, index: usize) -> Option<&mut Channel> {
        if index == EVERYONE {
            Some(&mut self.everyone)
        } else {
            self.named.get_mut(index)
        }
    }

    fn get(&self, index: usize) -> Option<&Channel> {
        if index == EVERYONE {
            Some(&self.everyone)
        } else {
            self.named.get(index)
        }
    }
}

#[derive(Debug)]
struct Channel {
    /// `None` for announcements.
    name: Option<ChannelName>,
    last: Option<Offset>,
    listeners: PerShard,
    stream: Stream,
    rule: usize,
    versions: Versions,
    quiet_since: Moment,
    is_noted: bool,
}

/// The kept entries under one rule, in the order in which they come of age.
#[derive(Debug)]
struct Aging {
    limits: HistoryLimits,
    /// Offset and channel; places of entries that have gone already are skipped.
    queue: VecDeque<(Offset, usize)>,
    alive: usize,
}

/// Stands for the announcements where a channel's place in the table is meant.
const EVERYONE: usize = usize::MAX;

impl Channel {
    fn new(name: Option<ChannelName>, floor: Option<Offset>, rule: usize, shards: usize) -> Self {
        Self {
            name,
            last: floor,
            listeners: SmallVec::from_elem(0, shards),
            stream: Stream::new(floor),
            rule,
            versions: Versions::default(),
            quiet_since: Moment::NEVER,
            is_noted: false,
        }
    }

    fn count(&self) -> usize {
        self.listeners.iter().map(|count| *count as usize).sum()
    }

    fn has_listeners(&self) -> bool {
        self.listeners.iter().any(|count| *count > 0)
    }
}

impl AppStreams {
    /// An app without a publication. `epoch` must differ from that of every earlier life of its
    /// order: a random number does.
    pub fn new(epoch: Epoch, shards: usize, rules: HistoryRules, shared: Arc<Shared>) -> Self {
        let aging = |limits| Aging {
            limits,
            queue: VecDeque::new(),
            alive: 0,
        };
        Self {
            epoch,
            shared,
            last: None,
            floor: None,
            names: HashMap::new(),
            table: Table {
                named: Slab::new(),
                everyone: Channel::new(None, None, rules.by_pattern.len(), shards),
            },
            by_rule: rules.limits().map(aging).collect(),
            rules,
            quiet: VecDeque::new(),
            happenings: None,
        }
    }

    /// What there is of this app and all that share its bounds.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// The place of the last publication.
    pub fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: self.last,
        }
    }

    /// Whom a draft would reach now.
    pub fn reach(&self, audience: &Audience) -> Reach {
        let mut reach = Reach::default();
        let mut add = |listeners: &PerShard| {
            for (shard, count) in listeners.iter().enumerate().filter(|(_, count)| **count > 0) {
                reach.listeners += *count as usize;
                reach.shards |= 1 << shard;
            }
        };
        match audience {
            Audience::Everyone => add(&self.table.everyone.listeners),
            Audience::Channels(channels) => channels
                .iter()
                .filter_map(|name| self.channel(name))
                .for_each(|channel| add(&channel.listeners)),
        }
        reach
    }

    /// The last place of a channel, as far as it is known.
    pub fn last_of(&self, audience: &Audience) -> Position {
        let last = match audience {
            Audience::Channels(names) => names
                .iter()
                .map(|name| self.channel(name).map_or(self.floor, |channel| channel.last))
                .max()
                .flatten(),
            Audience::Everyone => self.table.everyone.last,
        };
        Position {
            epoch: self.epoch,
            offset: last,
        }
    }

    /// Gives a draft its place, [`Self::next`], and keeps it. `None` when there is no place left.
    pub fn append(&mut self, draft: Draft, now: Moment) -> Option<Publication> {
        let offset = self.next()?;
        self.last = Some(offset);
        let epoch = self.epoch;
        // All channels enter before the first is placed: to make room for one, another may go.
        let names = draft.audience.channels();
        let is_passing = draft.is_passing();
        if !is_passing {
            names.iter().for_each(|name| self.enter_to_keep(name));
        }
        let mut kept: SmallVec<[usize; 1]> = SmallVec::new();
        let publication = Publication::new(draft, now, |name| {
            let previous = match self.place(name) {
                Some((index, previous)) => {
                    kept.push(index);
                    previous
                }
                None => self.floor,
            };
            Link {
                epoch,
                previous,
                offset,
            }
        });
        if kept.len() < publication.places().len() && !is_passing {
            self.floor = Some(offset);
        }
        for index in kept {
            self.keep(index, publication.entry(), now);
        }
        self.expire(now);
        self.tell_published(publication.entry());
        Some(publication)
    }

    /// The table's place of a channel that is published to, and what came before in it. `None`: it
    /// has no place and nothing of it is kept.
    fn place(&mut self, name: Option<&ChannelName>) -> Option<(usize, Option<Offset>)> {
        let last = self.last;
        let Some(name) = name else {
            return Some((EVERYONE, std::mem::replace(&mut self.table.everyone.last, last)));
        };
        let index = *self.names.get(name)?;
        let channel = self.table.named.get_mut(index)?;
        Some((index, std::mem::replace(&mut channel.last, last)))
    }

    fn enter_to_keep(&mut self, name: &ChannelName) {
        if self.names.contains_key(name) {
            return;
        }
        let rule = self.rules.rule_of(name);
        if self.keeps_by(rule) && self.enter(name, rule).is_err() {
            self.shared.unkept.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a rule keeps anything.
    fn keeps_by(&self, rule: usize) -> bool {
        self.by_rule.get(rule).is_some_and(|rule| rule.limits.keeps())
    }

    fn keep(&mut self, index: usize, entry: &Arc<Entry>, now: Moment) {
        let shared = &*self.shared;
        let Some(channel) = self.table.get_mut(index) else {
            return;
        };
        let Some(aging) = self.by_rule.get_mut(channel.rule) else {
            return;
        };
        note_version(channel, shared, entry.draft.key.as_ref(), entry.draft.version);
        if entry.draft.is_passing() {
            return self.note_if_quiet(index, now);
        }
        if !aging.limits.keeps() {
            return channel.stream.skip(entry.offset);
        }
        shared.history_bytes.fetch_add(cost(entry), Ordering::Relaxed);
        shared.history_entries.fetch_add(1, Ordering::Relaxed);
        channel.quiet_since = Moment::NEVER;
        channel.stream.push(Arc::clone(entry));
        aging.queue.push_back((entry.offset, index));
        aging.alive += 1;
        while channel.stream.exceeds(&aging.limits, now) {
            drop_front(channel, aging, shared);
        }
        // An entry that is larger than all that the channel may keep.
        let is_empty = channel.stream.is_empty();
        self.thin_out(index);
        if is_empty {
            self.note_if_quiet(index, now);
        }
        while self.shared.history_bytes.load(Ordering::Relaxed) > self.shared.history_bytes_max {
            if !self.evict_oldest(now) {
                break;
            }
            self.shared.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Drops the places of entries that have gone, once they are more than half.
    fn thin_out(&mut self, index: usize) {
        let table = &self.table;
        let rule = table.get(index).map(|channel| channel.rule);
        let Some(aging) = rule.and_then(|rule| self.by_rule.get_mut(rule)) else {
            return;
        };
        if aging.queue.len() > 2 * aging.alive + 64 {
            aging.queue.retain(|(offset, index)| {
                table
                    .get(*index)
                    .is_some_and(|channel| is_alive(channel, *offset))
            });
        }
    }

    /// Removes the oldest entry of all; says whether there was one.
    fn evict_oldest(&mut self, now: Moment) -> bool {
        let fronts = (0..self.by_rule.len()).filter_map(|rule| Some((self.front(rule)?.0, rule)));
        let Some((_, rule)) = fronts.collect::<SmallVec<[_; 4]>>().into_iter().min() else {
            return false;
        };
        self.drop_front_of(rule, now);
        true
    }

    /// Removes entries that are too old, and forgets channels that were quiet for long: a bounded
    /// number of each. Says whether there may be more. Called with every publication, and now and
    /// then.
    pub fn expire(&mut self, now: Moment) -> bool {
        let mut steps = 0;
        for rule in 0..self.by_rule.len() {
            for _ in 0..EXPIRED_PER_STEP {
                let Some((_, ordered_at)) = self.front(rule) else {
                    break;
                };
                let age = self
                    .by_rule
                    .get(rule)
                    .map_or(Duration::MAX, |aging| aging.limits.age);
                if now < ordered_at + age {
                    break;
                }
                self.drop_front_of(rule, now);
                steps += 1;
            }
        }
        for _ in 0..EXPIRED_PER_STEP {
            let Some((noted, index)) = self.quiet.front().copied() else {
                break;
            };
            if now < noted + LINGER {
                break;
            }
            self.quiet.pop_front();
            self.reconsider(index, now, LINGER);
            steps += 1;
        }
        steps >= EXPIRED_PER_STEP
    }

    /// A note about a quiet channel has come up.
    fn reconsider(&mut self, index: usize, now: Moment, linger: Duration) {
        let Some(channel) = self.table.named.get_mut(index) else {
            return;
        };
        channel.is_noted = false;
        if channel.quiet_since == Moment::NEVER {
            return;
        }
        if now < channel.quiet_since + linger {
            channel.is_noted = true;
            let since = channel.quiet_since;
            return self.quiet.push_back((since, index));
        }
        self.forget(index);
    }

    fn forget(&mut self, index: usize) {
        let Some(channel) = self.table.named.try_remove(index) else {
            return;
        };
        if let Some(name) = &channel.name {
            self.names.remove(name);
        }
        self.floor = self.floor.max(channel.last);
        self.shared
            .versions
            .fetch_sub(channel.versions.len(), Ordering::Relaxed);
        self.shared.channels.fetch_sub(1, Ordering::Relaxed);
    }

    /// The oldest entry under a rule: its offset, and when it was published.
    fn front(&mut self, rule: usize) -> Option<(Offset, Moment)> {
        let aging = self.by_rule.get_mut(rule)?;
        while let Some((offset, index)) = aging.queue.front().copied() {
            let channel = self.table.get(index);
            let front = channel.and_then(|channel| channel.stream.front());
            match front.filter(|front| front.offset == offset) {
                Some(front) => return Some((offset, front.ordered_at)),
                None => drop(aging.queue.pop_front()),
            }
        }
        None
    }

    /// Removes the entry that [`Self::front`] has found.
    fn drop_front_of(&mut self, rule: usize, now: Moment) {
        let Some(aging) = self.by_rule.get_mut(rule) else {
            return;
        };
        let Some((_, index)) = aging.queue.pop_front() else {
            return;
        };
        if let Some(channel) = self.table.get_mut(index) {
            drop_front(channel, aging, &self.shared);
        }
        self.note_if_quiet(index, now);
    }

    fn note_if_quiet(&mut self, index: usize, now: Moment) {
        let Some(channel) = self.table.named.get_mut(index) else {
            return;
        };
        if channel.has_listeners() || !channel.stream.is_empty() {
            return;
        }
        channel.quiet_since = now;
        if !std::mem::replace(&mut channel.is_noted, true) {
            self.quiet.push_back((now, index));
        }
    }

    /// Makes a place under this rule for a channel that has none.
    fn enter(&mut self, name: &ChannelName, rule: usize) -> Result<usize, Refusal> {
        while self.shared.channels.fetch_add(1, Ordering::Relaxed) >= self.shared.channels_max {
            self.shared.channels.fetch_sub(1, Ordering::Relaxed);
            if !self.forget_one() {
                return Err(Refusal::Full);
            }
        }
        let shards = self.table.everyone.listeners.len();
        let channel = Channel::new(Some(name.clone()), self.floor, rule, shards);
        let index = self.table.named.insert(channel);
        self.names.insert(name.clone(), index);
        Ok(index)
    }

    /// Forgets one channel that nobody listens to: one that is quiet, else the one with the oldest
    /// entry.
    fn forget_one(&mut self) -> bool {
        while let Some((_, index)) = self.quiet.pop_front() {
            let before = self.names.len();
            self.reconsider(index, Moment::NEVER, Duration::ZERO);
            if self.names.len() < before {
                return true;
            }
        }
        let oldest = self
            .by_rule
            .iter()
            .flat_map(|aging| aging.queue.iter().take(LOOKED_AT_MAX))
            .filter(|(offset, index)| {
                let channel = self.table.named.get(*index);
                channel.is_some_and(|channel| !channel.has_listeners() && is_alive(channel, *offset))
            })
            .min();
        let Some((_, index)) = oldest.copied() else {
            return false;
        };
        self.empty(index);
        self.forget(index);
        true
    }

    /// Removes all that is kept of a channel.
    fn empty(&mut self, index: usize) {
        if let Some(channel) = self.table.get_mut(index)
            && let Some(aging) = self.by_rule.get_mut(channel.rule)
        {
            while !channel.stream.is_empty() {
                drop_front(channel, aging, &self.shared);
            }
        }
    }

    /// Removes all that is kept of a channel. Who comes back to it is told of a gap.
    pub fn clear(&mut self, name: &ChannelName, now: Moment) {
        if let Some(index) = self.names.get(name).copied() {
            self.empty(index);
            self.note_if_quiet(index, now);
        }
    }

    /// What a subscriber of `names` is given who resumes so, but for what is not for
    /// `reader`. Announcements belong to what it missed, and not to the newest entries.
    pub fn read(&self, names: &[ChannelName], resume: Resume, reader: Reader<'_>, now: Moment) -> Replay {
        let mut entries = match resume {
            Resume::Now => Some(Vec::new()),
            Resume::Last(count) => Some(self.newest(names, count)),
            Resume::Since(since) => self.seen(since).and_then(|seen| self.missed(names, seen.offset)),
        };
        if let Some(entries) = &mut entries {
            entries.retain(|entry| now < entry.expires_at() && entry.is_for(reader));
        }
        Replay {
            is_gap: entries.is_none(),
            entries: entries.unwrap_or_default(),
            position: self.position(),
        }
    }

    fn newest(&self, names: &[ChannelName], count: usize) -> Vec<Arc<Entry>> {
        let streams = names.iter().filter_map(|name| self.channel(name));
        let mut entries: Vec<_> = streams
            .flat_map(|channel| channel.stream.last(count))
            .cloned()
            .collect();
        sort(&mut entries);
        entries.split_off(entries.len().saturating_sub(count))
    }

    /// All that came behind a place, or `None` if some of it is gone.
    fn missed(&self, names: &[ChannelName], seen: Option<Offset>) -> Option<Vec<Arc<Entry>>> {
        let mut entries: Vec<_> = self.table.everyone.stream.since(seen)?.cloned().collect();
        for name in names {
            match self.channel(name) {
                Some(channel) => entries.extend(channel.stream.since(seen)?.cloned()),
                None if seen >= self.floor => {}
                None => return None,
            }
        }
        sort(&mut entries);
        Some(entries)
    }

    /// What a subscriber has seen, in this life of the order; `None` if that cannot be said.
    fn seen(&self, since: Since) -> Option<Position> {
        match since {
            Since::Position(seen) if seen.epoch == self.epoch && seen.offset <= self.last => Some(seen),
            Since::Position(_) | Since::Unknown => None,
        }
    }

    fn channel(&self, name: &ChannelName) -> Option<&Channel> {
        self.table.named.get(*self.names.get(name)?)
    }
}

/// Remembers the version of a publication.
fn note_version(channel: &mut Channel, shared: &Shared, key: Option<&PublicationKey>, version: Option<u64>) {
    let Some(version) = version else { return };
    let before = channel.versions.len();
    let has_room = shared.versions.load(Ordering::Relaxed) < shared.versions_max;
    channel.versions.note(key.cloned(), version, has_room);
    shared
        .versions
        .fetch_add(channel.versions.len().saturating_sub(before), Ordering::Relaxed);
}

/// By offset; a publication to several channels of one subscriber is one entry.
fn sort(entries: &mut Vec<Arc<Entry>>) {
    entries.sort_by_key(|entry| entry.offset);
    entries.dedup_by_key(|entry| entry.offset);
}

/// Whether the entry at this place is still kept. Entries go from the front only, and a table's
/// place that went to another channel has only later ones.
fn is_alive(channel: &Channel, offset: Offset) -> bool {
    channel.stream.front().is_some_and(|front| front.offset <= offset)
}

fn drop_front(channel: &mut Channel, aging: &mut Aging, shared: &Shared) {
    if let Some(entry) = channel.stream.pop() {
        aging.alive = aging.alive.saturating_sub(1);
        shared.history_bytes.fetch_sub(cost(&entry), Ordering::Relaxed);
        shared.history_entries.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
