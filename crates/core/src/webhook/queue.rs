//! Events that wait to be sent: one sequence for all URLs of an app, of which each is somewhere.
//!
//! # Invariants
//!
//! * A URL is sent the events that it wants in the order of the sequence, and none is passed before it
//!   was answered with yes, was too old, or had to make room.
//! * At most one batch of a URL is under way.
//! * What one URL does has no effect on what another is sent. The sequence is as long as what the
//!   slowest one still needs, and at its limit it loses its beginning: that one loses it.
//!
//! Times are arguments, and nothing is sent here.

use std::collections::VecDeque;
use std::time::Duration;

use super::event::{Event, EventKind, Filter};
use super::{HookId, PAUSE_MAX, Settings};
use crate::channel::ChannelName;
use crate::moment::Moment;

/// Bytes of the events of one batch, unless one alone has more.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Queue {
    hooks: Vec<Hook>,
    /// What some URL may still need, oldest first.
    waiting: VecDeque<Waiting>,
    /// The number in the sequence of the first of these.
    first: u64,
    /// What they cost together.
    bytes: usize,
    /// Events that some URL will never hear because of the limit, since [`Queue::take_dropped`].
    dropped: usize,
}

#[derive(Debug)]
struct Waiting {
    event: Event,
    since: Moment,
}

/// Where a URL is.
#[derive(Debug)]
struct Hook {
    id: HookId,
    filter: Filter,
    /// The number of the next event that it may need.
    next: u64,
    /// The numbers of what is under way.
    sending: Vec<u64>,
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

impl Queue {
    /// From now on it is for these URLs. Those that there were before stay where they are. New ones begin
    /// with what still waits, so that nothing is lost where one takes another's place.
    pub(super) fn configure(&mut self, hooks: Vec<(HookId, Filter)>) {
        let first = self.first;
        let mut before = std::mem::take(&mut self.hooks);
        for (id, filter) in hooks {
            let known = before.iter().position(|hook| hook.id == id);
            self.hooks.push(match known.map(|at| before.swap_remove(at)) {
                Some(hook) => Hook { filter, ..hook },
                None => Hook {
                    id,
                    filter,
                    next: first,
                    sending: Vec::new(),
                    again_at: Moment::default(),
                    pause: Duration::ZERO,
                },
            });
        }
        self.forget_heard();
    }

    fn hook(&mut self, id: HookId) -> Option<&mut Hook> {
        self.hooks.iter_mut().find(|hook| hook.id == id)
    }

    /// Whether some URL wants any of these kinds, of this channel.
    pub(super) fn wants(&self, kinds: &[EventKind], channel: &ChannelName) -> bool {
        self.hooks.iter().any(|hook| hook.filter.wants(kinds, channel))
    }

    /// Adds an event, if anybody wants it.
    pub(super) fn push(&mut self, event: Event, settings: &Settings, now: Moment) {
        if !self.wants(&[event.kind()], &event.channel) {
            return;
        }
        self.bytes = self.bytes.saturating_add(event.cost());
        self.waiting.push_back(Waiting { event, since: now });
        while self.waiting.len() > settings.queue_max
            || (self.bytes > settings.queue_bytes_max && self.waiting.len() > 1)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(Waiting { event, .. }) = self.waiting.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(event.cost());
        let number = self.first;
        self.first += 1;
        for hook in &mut self.hooks {
            if hook.next > number {
                continue;
            }
            hook.next = self.first;
            // What is under way may arrive yet.
            let is_lost = hook.filter.wants(&[event.kind()], &event.channel);
            if is_lost && !hook.sending.contains(&number) {
                self.dropped += 1;
            }
        }
    }

    /// The next events for a URL, at most so many; `None`: not now.
    pub(super) fn take(&mut self, id: HookId, count: usize, now: Moment) -> Option<Vec<Event>> {
        let hook = self.hooks.iter_mut().find(|hook| hook.id == id)?;
        if !hook.sending.is_empty() || now < hook.again_at {
            return None;
        }
        let (mut events, mut bytes) = (Vec::new(), 0);
        let skipped = usize::try_from(hook.next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let behind = (self.first..).zip(&self.waiting).skip(skipped);
        for (number, Waiting { event, .. }) in behind {
            if !hook.filter.wants(&[event.kind()], &event.channel) {
                if events.is_empty() {
                    hook.next = number + 1;
                }
                continue;
            }
            bytes += event.cost();
            if events.len() >= count || (bytes > BATCH_BYTES_MAX && !events.is_empty()) {
                break;
            }
            hook.sending.push(number);
            events.push(event.clone());
        }
        self.forget_heard();
        (!events.is_empty()).then_some(events)
    }

    /// What was under way to a URL has arrived.
    pub(super) fn delivered(&mut self, id: HookId) {
        if let Some(hook) = self.hook(id) {
            let sent = std::mem::take(&mut hook.sending);
            hook.next = sent.last().map_or(hook.next, |last| hook.next.max(last + 1));
            hook.pause = Duration::ZERO;
        }
        self.forget_heard();
    }

    /// It has not. `None`: it is a URL no more.
    pub(super) fn failed(&mut self, id: HookId, settings: &Settings, now: Moment) -> Option<Failure> {
        let first = self.first;
        let hook = self.hooks.iter_mut().find(|hook| hook.id == id)?;
        let longest = PAUSE_MAX.max(settings.retry_pause);
        hook.pause = (hook.pause * 2).clamp(settings.retry_pause, longest);
        hook.again_at = now + hook.pause;
        let sent = std::mem::take(&mut hook.sending);
        // Those that had to make room meanwhile.
        let mut given_up = sent.iter().filter(|number| **number < first).count();
        let skipped = usize::try_from(hook.next.saturating_sub(first)).unwrap_or(usize::MAX);
        for (number, Waiting { event, since }) in (first..).zip(&self.waiting).skip(skipped) {
            if now < *since + settings.retry_for {
                break;
            }
            hook.next = number + 1;
            given_up += usize::from(hook.filter.wants(&[event.kind()], &event.channel));
        }
        let pause = hook.pause;
        self.forget_heard();
        Some(Failure { pause, given_up })
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

    /// Lets go what no URL needs any more.
    fn forget_heard(&mut self) {
        let end = self.first + self.waiting.len() as u64;
        let needed = self.hooks.iter().map(|hook| hook.next).min().unwrap_or(end);
        while self.first < needed
            && let Some(Waiting { event, .. }) = self.waiting.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(event.cost());
            self.first += 1;
        }
    }

    /// How many events wait, those under way included.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How often an event was lost to a URL because too much waited, since the last call.
    pub(super) fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
