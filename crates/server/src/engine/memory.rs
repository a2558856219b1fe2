//! The embedded engine: the order of each app in this process's memory, one lock per app.
//!
//! Nothing is kept: a publication is ordered, handed to the shards that listen, and gone. What
//! remains is one offset per channel *with listeners*, so that a listener who comes back can be
//! told whether it missed something. A channel without listeners costs nothing; what was
//! published there is covered by `floor`, an upper bound, which can say "you may have missed
//! something" once too often but never once too seldom.
//!
//! The locked section is a few map look-ups and one push per listening shard, about a
//! microsecond; encoding and delivery happen in the shards.

use std::collections::HashMap;
use std::sync::Arc;

use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use fanfare_core::position::{Epoch, Link, Offset, Position};
use fanfare_core::publication::{Audience, Draft, Publication};
use fanfare_core::sync::{AtomicUsize, Mutex, Ordering};
use fanfare_core::wire::plain::request::Since;
use smallvec::SmallVec;

use super::{Drafts, Engine, Mailboxes, Receipt, Subscribed};

/// See the module's head.
pub struct MemoryEngine {
    apps: Vec<(AppId, Mutex<AppOrder>)>,
    mailboxes: Mailboxes,
    channels: AtomicUsize,
    channels_max: usize,
}

/// Listeners per shard.
type Counts = SmallVec<[u32; 4]>;

struct AppOrder {
    epoch: Epoch,
    last: Option<Offset>,
    /// At least the offset of every publication to a channel that is not in `channels`.
    floor: Option<Offset>,
    channels: HashMap<ChannelName, ChannelOrder>,
    sessions: Counts,
}

struct ChannelOrder {
    last: Option<Offset>,
    listeners: Counts,
}

impl MemoryEngine {
    /// An engine for these apps. `epoch` must differ from that of every earlier life of the node:
    /// a random number does.
    pub fn new(apps: &[AppId], epoch: Epoch, mailboxes: Mailboxes, channels_max: usize) -> Self {
        let shards = mailboxes.len();
        let order = || AppOrder {
            epoch,
            last: None,
            floor: None,
            channels: HashMap::new(),
            sessions: SmallVec::from_elem(0, shards),
        };
        let apps = apps.iter().map(|app| (*app, Mutex::new(order()))).collect();
        Self {
            apps,
            mailboxes,
            channels: AtomicUsize::new(0),
            channels_max,
        }
    }

    fn app(&self, app: AppId) -> Option<&Mutex<AppOrder>> {
        self.apps
            .iter()
            .find(|(known, _)| *known == app)
            .map(|(_, order)| order)
    }
}

fn unknown_app() -> Refusal {
    Refusal::NotFound("no such app".into())
}

impl AppOrder {
    fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: self.last,
        }
    }

    /// Listeners of a draft by shard: the sum, and the shards that have any.
    fn audience(&self, draft: &Draft) -> (usize, u64) {
        let (mut listeners, mut shards) = (0, 0_u64);
        let mut add = |counts: &Counts| {
            for (shard, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                listeners += *count as usize;
                shards |= 1 << shard;
            }
        };
        match &draft.audience {
            Audience::Everyone => add(&self.sessions),
            Audience::Channels(channels) => {
                channels
                    .iter()
                    .filter_map(|name| self.channels.get(name))
                    .for_each(|channel| add(&channel.listeners));
            }
        }
        (listeners, shards)
    }

    fn place(&mut self, draft: Draft) -> Option<Publication> {
        let offset = match self.last {
            None => Offset::FIRST,
            Some(last) => Offset::new(last.get().checked_add(1)?)?,
        };
        self.last = Some(offset);
        let (epoch, floor) = (self.epoch, self.floor);
        let mut unheard = false;
        let publication = Publication::new(draft, |channel| {
            let known = channel.and_then(|name| self.channels.get_mut(name));
            let previous = if let Some(channel) = known {
                channel.last.replace(offset)
            } else {
                unheard = channel.is_some();
                floor
            };
            Link {
                epoch,
                previous,
                offset,
            }
        });
        if unheard {
            self.floor = Some(offset);
        }
        Some(publication)
    }
}

impl Engine for MemoryEngine {
    fn publish(&self, app: AppId, drafts: Drafts) -> Result<SmallVec<[Receipt; 1]>, Refusal> {
        let mut order = self.app(app).ok_or_else(unknown_app)?.lock();
        // Refuse before ordering: room for all of them, everywhere, or nothing happens.
        let mut reserved: SmallVec<[(usize, u64, usize); 1]> = SmallVec::new();
        for draft in &drafts {
            let (listeners, shards) = order.audience(draft);
            let bytes = draft.data.len();
            let full = set_bits(shards).find(|shard| !self.mailboxes[*shard].reserve(bytes));
            if let Some(full) = full {
                for (_, shards, bytes) in reserved {
                    set_bits(shards).for_each(|shard| self.mailboxes[shard].release(1, bytes));
                }
                set_bits(shards)
                    .take_while(|shard| *shard != full)
                    .for_each(|shard| self.mailboxes[shard].release(1, bytes));
                return Err(Refusal::Overloaded);
            }
            reserved.push((listeners, shards, bytes));
        }
        let mut receipts = SmallVec::new();
        for (draft, (listeners, shards, bytes)) in drafts.into_iter().zip(reserved) {
            let Some(publication) = order.place(draft) else {
                // The order of one epoch has 2^64 places.
                set_bits(shards).for_each(|shard| self.mailboxes[shard].release(1, bytes));
                return Err(Refusal::Overloaded);
            };
            receipts.push(Receipt {
                position: publication.position,
                listeners,
            });
            if shards != 0 {
                let publication = Arc::new(publication);
                set_bits(shards).for_each(|shard| self.mailboxes[shard].push(Arc::clone(&publication)));
            }
        }
        Ok(receipts)
    }

    fn subscribe(
        &self,
        app: AppId,
        shard: usize,
        channel: &ChannelName,
        since: Option<Since>,
    ) -> Result<Subscribed, Refusal> {
        let mut order = self.app(app).ok_or_else(unknown_app)?.lock();
        let position = order.position();
        let floor = order.floor;
        if !order.channels.contains_key(channel) {
            if self.channels.fetch_add(1, Ordering::Relaxed) >= self.channels_max {
                self.channels.fetch_sub(1, Ordering::Relaxed);
                return Err(Refusal::Full);
            }
            let listeners = SmallVec::from_elem(0, self.mailboxes.len());
            order.channels.insert(
                channel.clone(),
                ChannelOrder {
                    last: floor,
                    listeners,
                },
            );
        }
        let Some(known) = order.channels.get_mut(channel) else {
            return Err(Refusal::Full);
        };
        known.listeners[shard] += 1;
        let missed = match since {
            None => false,
            Some(Since::Unknown) => true,
            Some(Since::Position(seen)) => {
                seen.epoch != position.epoch || seen.offset < known.last || seen.offset > position.offset
            }
        };
        Ok(Subscribed { position, missed })
    }

    fn unsubscribe(&self, app: AppId, shard: usize, channel: &ChannelName) {
        let Some(order) = self.app(app) else { return };
        let mut order = order.lock();
        let Some(known) = order.channels.get_mut(channel) else {
            return;
        };
        known.listeners[shard] = known.listeners[shard].saturating_sub(1);
        if known.listeners.iter().all(|count| *count == 0) {
            let last = known.last;
            order.floor = order.floor.max(last);
            order.channels.remove(channel);
            self.channels.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn join(&self, app: AppId, shard: usize) {
        if let Some(order) = self.app(app) {
            order.lock().sessions[shard] += 1;
        }
    }

    fn leave(&self, app: AppId, shard: usize) {
        if let Some(order) = self.app(app) {
            let sessions = &mut order.lock().sessions[shard];
            *sessions = sessions.saturating_sub(1);
        }
    }

    fn look(&self, app: AppId, channel: &ChannelName) -> (usize, Position) {
        let Some(order) = self.app(app) else {
            return (
                0,
                Position {
                    epoch: Epoch(0),
                    offset: None,
                },
            );
        };
        let order = order.lock();
        let listeners = order.channels.get(channel).map_or(0, |known| {
            known.listeners.iter().map(|count| *count as usize).sum()
        });
        (listeners, order.position())
    }

    fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }
}

/// The places of the ones in a set of shards. There are at most [`crate::config::SHARDS_MAX`].
fn set_bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let shard = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (shard < 64).then_some(shard as usize)
    })
}
