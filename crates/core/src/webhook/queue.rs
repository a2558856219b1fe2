//! Events that wait to be sent: a queue for each URL of an app. The events themselves are shared.
//!
//! # Invariants
//!
//! * A URL is sent the events that it wants in the order in which they happened, and none is passed before it
//!   was answered with yes, was tried for too long, or had to make room.
//! * At most one batch of a URL is under way.
//! * What one URL does has no effect on what another is sent: each has the limit for itself.
//! * A URL that fails is sent one event at a time, so that one that is never taken costs none of those
//!   behind it, and is given up alone.
//!
//! Times are arguments, and nothing is sent here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::event::{Event, EventKind, Filter, What};
use super::{HookId, PAUSE_MAX, Settings};
use crate::channel::ChannelName;
use crate::moment::Moment;

/// What the events of one batch may cost, unless one alone costs more: a receiver's limit of a body is
/// usually 1 MiB, and in a body what clients have said is longer.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Queue {
    hooks: Vec<Hook>,
    lost: Lost,
}

/// What some URL will never hear.
#[derive(Debug, Default)]
struct Lost {
    dropped: Dropped,
    /// Channels of which it will not hear that nothing is cached.
    missed: Vec<ChannelName>,
}

impl Lost {
    /// Too much waited.
    fn at_limit(&mut self, event: &Event) {
        self.dropped.limit += 1;
        self.note(event);
    }

    /// It is a URL no more.
    fn removed(&mut self, event: &Event) {
        self.dropped.removed += 1;
        self.note(event);
    }

    fn note(&mut self, event: &Event) {
        if matches!(event.what, What::Missed) {
            self.missed.push(event.channel.clone());
        }
    }
}

/// How often an event was lost to a URL.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Dropped {
    /// Too many waited.
    pub limit: usize,
    /// It is a URL no more.
    pub removed: usize,
}

#[derive(Debug)]
struct Hook {
    id: HookId,
    filter: Filter,
    /// Oldest first.
    waiting: VecDeque<Arc<Event>>,
    /// So many of the first of these are under way.
    sending: usize,
    /// What the others cost.
    bytes: usize,
    /// When the first of those was tried for the first time, if it was.
    tried_since: Option<Moment>,
    /// When to try again; in the past if nothing has failed.
    again_at: Moment,
    /// Time between the last two tries; zero if nothing has failed.
    pause: Duration,
}

/// What became of a failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Time until the next try.
    pub pause: Duration,
    /// Events that are not tried again.
    pub given_up: usize,
}

impl Hook {
    fn new(id: HookId, filter: Filter) -> Self {
        Self {
            id,
            filter,
            waiting: VecDeque::new(),
            sending: 0,
            bytes: 0,
            tried_since: None,
            again_at: Moment::default(),
            pause: Duration::ZERO,
        }
    }

    /// Lets the oldest go that are not under way, until what waits is within the limit; the newest stays
    /// whatever it costs.
    fn make_room(&mut self, settings: &Settings, lost: &mut Lost) {
        loop {
            let count = self.waiting.len().saturating_sub(self.sending);
            let is_too_much = count > settings.queue_max || self.bytes > settings.queue_bytes_max;
            if !is_too_much || count <= 1 {
                return;
            }
            if let Some(event) = self.waiting.remove(self.sending) {
                self.bytes = self.bytes.saturating_sub(event.cost());
                lost.at_limit(&event);
            }
            if self.sending == 0 {
                self.tried_since = None;
            }
        }
    }
}

impl Queue {
    /// From now on it is for these URLs. Those that there were before stay where they are.
    pub(super) fn configure(&mut self, hooks: Vec<(HookId, Filter)>) {
        let mut before = std::mem::take(&mut self.hooks);
        for (id, filter) in hooks {
            let known = before.iter().position(|hook| hook.id == id);
            self.hooks.push(match known.map(|at| before.swap_remove(at)) {
                Some(hook) => Hook { filter, ..hook },
                None => Hook::new(id, filter),
            });
        }
        for event in before.iter().flat_map(|hook| &hook.waiting) {
            self.lost.removed(event);
        }
    }

    fn hook(&mut self, id: HookId) -> Option<&mut Hook> {
        self.hooks.iter_mut().find(|hook| hook.id == id)
    }

    /// Whether some URL wants any of these kinds, of this channel.
    pub(super) fn wants(&self, kinds: &[EventKind], channel: &ChannelName) -> bool {
        self.hooks.iter().any(|hook| hook.filter.wants(kinds, channel))
    }

    /// Adds an event for those who want it.
    pub(super) fn push(&mut self, event: Event, settings: &Settings) {
        let (kind, event) = ([event.kind()], Arc::new(event));
        for hook in &mut self.hooks {
            if hook.filter.wants(&kind, &event.channel) {
                hook.waiting.push_back(Arc::clone(&event));
                hook.bytes = hook.bytes.saturating_add(event.cost());
                hook.make_room(settings, &mut self.lost);
            }
        }
    }

    /// The next events for a URL, at most so many; `None`: not now.
    pub(super) fn take(&mut self, id: HookId, count: usize, now: Moment) -> Option<Vec<Arc<Event>>> {
        let hook = self.hook(id)?;
        if hook.sending > 0 || now < hook.again_at {
            return None;
        }
        let count = if hook.pause.is_zero() { count } else { count.min(1) };
        let mut bytes = 0;
        let fits = |event: &&Arc<Event>| {
            let is_first = bytes == 0;
            bytes += event.cost();
            is_first || bytes <= BATCH_BYTES_MAX
        };
        let events: Vec<Arc<Event>> = hook
            .waiting
            .iter()
            .take(count)
            .take_while(fits)
            .cloned()
            .collect();
        let cost = events.iter().map(|event| event.cost()).sum();
        hook.sending = events.len();
        hook.bytes = hook.bytes.saturating_sub(cost);
        if !events.is_empty() {
            hook.tried_since = hook.tried_since.or(Some(now));
        }
        (!events.is_empty()).then_some(events)
    }

    /// What was under way to a URL has arrived.
    pub(super) fn delivered(&mut self, id: HookId) {
        if let Some(hook) = self.hook(id) {
            hook.waiting.drain(..hook.sending.min(hook.waiting.len()));
            hook.sending = 0;
            hook.tried_since = None;
            hook.pause = Duration::ZERO;
        }
    }

    /// It has not. `None`: it is a URL no more.
    pub(super) fn failed(&mut self, id: HookId, settings: &Settings, now: Moment) -> Option<Failure> {
        let hook = self.hooks.iter_mut().find(|hook| hook.id == id)?;
        let longest = PAUSE_MAX.max(settings.retry_pause);
        hook.pause = (hook.pause * 2).clamp(settings.retry_pause, longest);
        hook.again_at = now + hook.pause;
        let sent = hook.waiting.iter().take(hook.sending);
        let cost: usize = sent.map(|event| event.cost()).sum();
        hook.bytes = hook.bytes.saturating_add(cost);
        // Of several nobody knows which one is not taken.
        let is_alone = std::mem::take(&mut hook.sending) == 1;
        let mut given_up = 0;
        let is_over = hook
            .tried_since
            .is_some_and(|since| now >= since + settings.retry_for);
        if is_alone
            && is_over
            && let Some(event) = hook.waiting.pop_front()
        {
            hook.bytes = hook.bytes.saturating_sub(event.cost());
            hook.tried_since = None;
            self.lost.note(&event);
            given_up = 1;
        }
        hook.make_room(settings, &mut self.lost);
        Some(Failure {
            pause: hook.pause,
            given_up,
        })
    }

    /// Tries again at once what has failed.
    pub(super) fn hurry(&mut self) {
        for hook in &mut self.hooks {
            hook.again_at = Moment::default();
        }
    }

    /// Whether the last try of a URL failed.
    pub(super) fn is_failing(&self, id: HookId) -> bool {
        let hook = self.hooks.iter().find(|hook| hook.id == id);
        hook.is_some_and(|hook| !hook.pause.is_zero())
    }

    /// How many events wait, those under way included, of all URLs together.
    pub(super) fn len(&self) -> usize {
        self.hooks.iter().map(|hook| hook.waiting.len()).sum()
    }

    /// How often an event was lost to a URL, since the last call.
    pub(super) fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.lost.dropped)
    }

    /// Channels of which some URL will never hear that nothing is cached, since the last call.
    pub(super) fn take_missed(&mut self) -> Vec<ChannelName> {
        std::mem::take(&mut self.lost.missed)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
