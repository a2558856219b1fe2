//! Webhooks of the Pusher door: what the back end of an app is told, in which order, and when
//! (`pusher.md` section 13).
//!
//! An [`Agenda`] is told what happens to the channels of an app, decides which events that makes, and
//! keeps them until each URL that wants them was sent them. Whoever drives it sends
//! ([`Agenda::take`]) and says what came of it.
//!
//! # What always holds
//!
//! * Events of a channel are told in the order in which the agenda was told what happened. That a
//!   channel has no listeners, or that a member has gone, happens when [`Settings::delay`] is over; who
//!   comes back before has never been away, and neither is told.
//! * Occupied and vacated of a channel alternate, and so do added and removed of a member of it; the
//!   last one says how it is, but for who has just gone.
//! * That nothing is cached is told once, until something is or the channel is vacated, or that event is lost.
//! * How many listen is told at once where few do, else after a time, as subscribers are told.
//!
//! Bounds: [`Settings::queue_max`] and [`Settings::queue_bytes_max`] for what waits for one URL, where the oldest
//! go, besides what is under way; `queue_max` also for those who may come back, where the one who is to be told of
//! first is told of at once. What is remembered of channels is bounded by those that somebody listens to.
//!
//! This module has no lock and no clock, knows no URL, and sends nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::channel::{ChannelName, Kind};
use crate::moment::Moment;
use crate::stream::app::Happening;
use crate::user::UserId;
use crate::wire::pusher::{COUNT_AT_ONCE_MAX, COUNT_INTERVAL};

mod event;
mod gone;
mod queue;

pub use event::{EVENT_OVERHEAD_BYTES, Event, EventKind, Filter, What};
use gone::{Gone, Who};
use queue::Queue;
pub use queue::{Dropped, Failure};

/// Longest time between two tries, unless the first pause is longer.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Events that become due and are looked at in one step, so that a lock is never held for long.
const STEP: usize = 256;

const OCCUPANCY: [EventKind; 3] = [
    EventKind::ChannelOccupied,
    EventKind::ChannelVacated,
    // Is told again after the channel was vacated.
    EventKind::CacheMiss,
];
const MEMBERS: [EventKind; 2] = [EventKind::MemberAdded, EventKind::MemberRemoved];

/// Names one URL of an app for as long as it is configured.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct HookId(pub u64);

/// How an agenda behaves.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time for which who has gone may come back.
    pub delay: Duration,
    /// Events that may wait for one URL.
    pub queue_max: usize,
    /// What they may cost together, in bytes.
    pub queue_bytes_max: usize,
    /// Events of one batch.
    pub batch_max: usize,
    /// Time after its first try at which an event that is not taken is given up.
    pub retry_for: Duration,
    /// Time between the first failure and the next try; it doubles up to [`PAUSE_MAX`].
    pub retry_pause: Duration,
}

/// See the module's head.
#[derive(Debug)]
pub struct Agenda {
    settings: Settings,
    queue: Queue,
    gone: Gone,
    /// Channels of which it was told that nothing is cached.
    missed: HashSet<ChannelName>,
    /// Channels with another number of listeners than was told, with that.
    counts: BTreeMap<ChannelName, usize>,
    /// When those are told.
    counts_due: Moment,
    now: Moment,
}

impl Agenda {
    /// For no URL yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            queue: Queue::default(),
            gone: Gone::default(),
            missed: HashSet::new(),
            counts: BTreeMap::new(),
            counts_due: Moment::NEVER,
            now: Moment::default(),
        }
    }

    /// From now on it is for these URLs. Those that there were before, by their ids, stay where they are; what
    /// waits for others is lost.
    pub fn configure(&mut self, hooks: Vec<(HookId, Filter)>) {
        self.queue.configure(hooks);
        self.forget_missed();
        // What nobody wants to be told of is not looked at any more, so it would not stay true.
        let queue = &self.queue;
        self.missed
            .retain(|channel| queue.wants(&[EventKind::CacheMiss], channel));
        self.counts
            .retain(|channel, _| queue.wants(&[EventKind::SubscriptionCount], channel));
        self.gone.retain(|(channel, user)| {
            let kinds = if user.is_some() { &MEMBERS[..] } else { &OCCUPANCY };
            queue.wants(kinds, channel)
        });
    }

    /// An engine tells of its channels.
    pub fn happened(&mut self, happening: Happening, now: Moment) {
        self.expire(now);
        match happening {
            // What is said to one user is no channel that a back end asks for.
            Happening::Listeners { channel, .. } if channel.kind() == Kind::Own => {}
            Happening::Listeners {
                channel,
                before,
                after,
            } => {
                if self.queue.wants(&OCCUPANCY, &channel) {
                    match (before, after) {
                        (0, 1..) => self.is_here((channel.clone(), None)),
                        (1.., 0) => self.has_gone((channel.clone(), None)),
                        _ => {}
                    }
                }
                if channel.kind() != Kind::Presence {
                    self.count(channel, after);
                }
            }
            Happening::NothingCached(channel) => {
                let is_wanted = self.queue.wants(&[EventKind::CacheMiss], &channel);
                if is_wanted && self.missed.insert(channel.clone()) {
                    self.tell(channel, What::Missed);
                }
            }
            Happening::Published(entry) => {
                if !entry.draft.is_passing() {
                    for channel in entry.draft.audience.channels() {
                        self.missed.remove(channel);
                    }
                }
                if let ([channel], true) = (entry.draft.audience.channels(), entry.draft.is_client_event) {
                    self.tell(channel.clone(), What::Said(entry));
                }
            }
        }
    }

    /// A user is there on a presence channel, or has gone from there: for her first connection and her
    /// last one.
    pub fn member(&mut self, channel: &ChannelName, user: &UserId, is_here: bool, now: Moment) {
        self.expire(now);
        if !self.queue.wants(&MEMBERS, channel) {
            return;
        }
        let who = (channel.clone(), Some(user.clone()));
        if is_here {
            self.is_here(who);
        } else {
            self.has_gone(who);
        }
    }

    fn is_here(&mut self, who: Who) {
        if let Some(until) = self.gone.until(&who) {
            if self.now < until {
                // As if never gone.
                return self.gone.forget(&who);
            }
            // Her time is over, and only nobody had looked.
            let events = self.gone.tell_of(&who);
            self.tell_all(events);
        }
        let (channel, user) = who;
        self.tell(channel, user.map_or(What::Occupied, What::Added));
    }

    fn has_gone(&mut self, who: Who) {
        self.gone.add(who, self.now + self.settings.delay);
        while self.gone.len() > self.settings.queue_max {
            self.tell_next(|_| true);
        }
    }

    /// Tells of the first of those who have gone, if their time is such. Says whether there was one.
    fn tell_next(&mut self, due: impl FnOnce(Moment) -> bool) -> bool {
        let events = self.gone.tell(due);
        let is_one = !events.is_empty();
        self.tell_all(events);
        is_one
    }

    fn tell_all(&mut self, events: Vec<Event>) {
        for Event { channel, what } in events {
            if matches!(what, What::Vacated) {
                self.missed.remove(&channel);
            }
            self.tell(channel, what);
        }
    }

    fn count(&mut self, channel: ChannelName, count: usize) {
        if !self.queue.wants(&[EventKind::SubscriptionCount], &channel) {
            return;
        }
        if count <= COUNT_AT_ONCE_MAX {
            self.counts.remove(&channel);
            return self.tell(channel, What::Count(count));
        }
        if self.counts.is_empty() {
            self.counts_due = self.now + COUNT_INTERVAL;
        }
        self.counts.insert(channel, count);
    }

    fn tell(&mut self, channel: ChannelName, what: What) {
        self.queue.push(Event { channel, what }, &self.settings);
        self.forget_missed();
    }

    /// Who never heard of it is told when it happens again.
    fn forget_missed(&mut self) {
        for channel in self.queue.take_missed() {
            self.missed.remove(&channel);
        }
    }

    /// Makes events of what has become due: not too many at once. Says whether there may be more.
    pub fn expire(&mut self, now: Moment) -> bool {
        self.now = self.now.max(now);
        let now = self.now;
        for _ in 0..STEP {
            if self.tell_next(|until| until <= now) {
                continue;
            }
            if now < self.counts_due || !self.tell_count() {
                return false;
            }
        }
        true
    }

    fn tell_count(&mut self) -> bool {
        let first = self.counts.pop_first();
        let is_one = first.is_some();
        if let Some((channel, count)) = first {
            self.tell(channel, What::Count(count));
        }
        is_one
    }

    /// The end: nobody comes back any more, and what has failed is tried once more at once.
    pub fn finish(&mut self) {
        while self.tell_next(|_| true) || self.tell_count() {}
        self.queue.hurry();
    }

    /// The next events for a URL; `None`: there are none now, or it has some, or is not to be tried yet.
    /// Whoever takes them says [`Self::delivered`] or [`Self::failed`].
    pub fn take(&mut self, hook: HookId, now: Moment) -> Option<Vec<Arc<Event>>> {
        self.queue.take(hook, self.settings.batch_max, now)
    }

    /// A URL has taken what it was sent.
    pub fn delivered(&mut self, hook: HookId) {
        self.queue.delivered(hook);
    }

    /// A URL has not. `None`: it is a URL no more, and nothing is tried again.
    pub fn failed(&mut self, hook: HookId, now: Moment) -> Option<Failure> {
        let failure = self.queue.failed(hook, &self.settings, now);
        self.forget_missed();
        failure
    }

    /// Whether the last try of a URL failed.
    pub fn is_failing(&self, hook: HookId) -> bool {
        self.queue.is_failing(hook)
    }

    /// Events that wait to be sent, or are under way, of all URLs together.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Those who have gone and may come back.
    pub fn leaving(&self) -> usize {
        self.gone.len()
    }

    /// How often an event was lost to a URL, but for those that were given up, since the last call.
    pub fn take_dropped(&mut self) -> Dropped {
        self.queue.take_dropped()
    }
}

#[cfg(test)]
mod tests;
