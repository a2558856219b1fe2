//! Who listens to the channels of an app, and what happens there that somebody may want to be told.
//!
//! Whoever watches ([`AppStreams::watch`]) fetches what has happened after each call that changes
//! something ([`AppStreams::take_happenings`]), so that what waits is what one call has caused. In the
//! order in which it happened, and nothing of a call that was refused.

use std::sync::Arc;

use super::{AppStreams, Channel};
use crate::channel::ChannelName;
use crate::disconnect::Refusal;
use crate::moment::Moment;
use crate::publication::{Entry, Reader};
use crate::stream::{Replay, Resume};
use crate::sync::Ordering;

/// Places of the table that are looked at in one go, whether somebody listens there.
const LOOKED_THROUGH_MAX: usize = 4_096;

/// Something that has happened to a channel.
#[derive(Clone, Debug)]
pub enum Happening {
    /// Another number of sessions listens to it, over all doors.
    Listeners {
        /// The channel.
        channel: ChannelName,
        /// How many did,
        before: usize,
        /// and do.
        after: usize,
    },
    /// Somebody listens to this cache channel who wants something of its past, and nothing is kept of it.
    NothingCached(ChannelName),
    /// Something was published that is kept of a cache channel, or was said by a client of the Pusher
    /// door.
    Published(Arc<Entry>),
}

impl AppStreams {
    /// From now on somebody fetches what happens, or nobody does.
    pub fn watch(&mut self, is_watched: bool) {
        self.happenings = is_watched.then(Vec::new);
    }

    /// What has happened since the last call.
    pub fn take_happenings(&mut self) -> Vec<Happening> {
        self.happenings.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn tell(&mut self, happening: impl FnOnce() -> Happening) {
        if let Some(happenings) = &mut self.happenings {
            happenings.push(happening());
        }
    }

    fn tell_listeners(&mut self, channel: &ChannelName, before: usize, after: usize) {
        self.tell(|| Happening::Listeners {
            channel: channel.clone(),
            before,
            after,
        });
    }

    /// Whether anything is kept of a channel, whoever it is for.
    fn has_any(&self, name: &ChannelName, now: Moment) -> bool {
        let channel = self.channel(name);
        channel.is_some_and(|channel| channel.stream.last(1).any(|entry| now < entry.expires_at()))
    }

    /// Something was published.
    pub(super) fn tell_published(&mut self, entry: &Arc<Entry>) {
        if self.happenings.is_none() {
            return;
        }
        let draft = &entry.draft;
        let is_cached = || draft.audience.channels().iter().any(ChannelName::is_cache);
        if draft.is_client_event || (!draft.is_passing() && is_cached()) {
            self.tell(|| Happening::Published(Arc::clone(entry)));
        }
    }

    /// Listeners of a channel.
    pub fn listeners(&self, name: &ChannelName) -> usize {
        self.channel(name).map_or(0, Channel::count)
    }

    /// Adds channels that somebody listens to and whose names begin so, looking at some of the table from
    /// this place on. Returns where to go on, if that was not all.
    pub fn occupied(
        &self,
        from: usize,
        prefix: &str,
        found: &mut Vec<(ChannelName, usize)>,
    ) -> Option<usize> {
        let end = from.saturating_add(LOOKED_THROUGH_MAX);
        for index in from..end.min(self.table.named.capacity()) {
            if let Some(channel) = self.table.named.get(index)
                && let Some(name) = channel.name.as_ref()
                && name.as_str().starts_with(prefix)
                && channel.has_listeners()
            {
                found.push((name.clone(), channel.count()));
            }
        }
        (end < self.table.named.capacity()).then_some(end)
    }

    /// One more listener of each of `names` on `shard`, all at one point of the order, and what it
    /// is given of the past. `reader` does not get what is not for it. On refusal nothing
    /// has changed.
    pub fn subscribe(
        &mut self,
        shard: usize,
        names: &[ChannelName],
        resume: Resume,
        reader: Reader<'_>,
        now: Moment,
    ) -> Result<Replay, Refusal> {
        let told = self.happenings.as_ref().map_or(0, Vec::len);
        for (done, name) in names.iter().enumerate() {
            let index = match self.names.get(name) {
                Some(index) => *index,
                None => match self.enter(name, self.rules.rule_of(name)) {
                    Ok(index) => index,
                    Err(refusal) => {
                        let entered = names.get(..done).unwrap_or_default();
                        entered.iter().for_each(|name| self.unsubscribe(shard, name, now));
                        self.happenings.iter_mut().for_each(|list| list.truncate(told));
                        return Err(refusal);
                    }
                },
            };
            if let Some(channel) = self.table.named.get_mut(index) {
                let before = channel.count();
                if before == 0 {
                    self.shared.listened.fetch_add(1, Ordering::Relaxed);
                }
                channel.quiet_since = Moment::NEVER;
                if let Some(count) = channel.listeners.get_mut(shard) {
                    *count += 1;
                }
                let after = channel.count();
                self.tell_listeners(name, before, after);
            }
        }
        // Who wants nothing of the past does not miss it.
        if resume != Resume::Now {
            for name in names.iter().filter(|name| name.is_cache()) {
                if !self.has_any(name, now) {
                    self.tell(|| Happening::NothingCached(name.clone()));
                }
            }
        }
        Ok(self.read(names, resume, reader, now))
    }

    /// One listener fewer.
    pub fn unsubscribe(&mut self, shard: usize, name: &ChannelName, now: Moment) {
        let Some(index) = self.names.get(name).copied() else {
            return;
        };
        let Some(channel) = self.table.named.get_mut(index) else {
            return;
        };
        let before = channel.count();
        if let Some(count) = channel.listeners.get_mut(shard) {
            *count = count.saturating_sub(1);
        }
        let after = channel.count();
        if before > 0 && after == 0 {
            self.shared.listened.fetch_sub(1, Ordering::Relaxed);
            self.note_if_quiet(index, now);
        }
        if before != after {
            self.tell_listeners(name, before, after);
        }
    }

    /// One more session on `shard`, whatever it listens to: it hears announcements.
    pub fn join(&mut self, shard: usize) {
        if let Some(count) = self.table.everyone.listeners.get_mut(shard) {
            *count += 1;
        }
    }

    /// One session fewer.
    pub fn leave(&mut self, shard: usize) {
        if let Some(count) = self.table.everyone.listeners.get_mut(shard) {
            *count = count.saturating_sub(1);
        }
    }
}
