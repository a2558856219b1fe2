//! The embedded engine: the streams of each app in this process's memory, one lock per app.
//!
//! What the order is and what is kept is decided by [`AppStreams`]; here are the lock around it and
//! the way to the shards. The locked section is a few map look-ups and one push per listening
//! shard, about a microsecond; encoding and delivery happen in the shards.
//!
//! Invariant: what an app's `settled` says is in the mailboxes, since it is written behind the
//! pushes and under the same lock.

use std::sync::Arc;

use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use fanfare_core::moment::Moment;
use fanfare_core::position::{Epoch, Offset, Position};
use fanfare_core::session::SessionId;
use fanfare_core::stream::app::{AppStreams, Counts, Shared};
use fanfare_core::stream::{HistoryRules, Replay, Resume};
use fanfare_core::sync::{AtomicU64, Mutex, Ordering};
use smallvec::SmallVec;

use super::{Drafts, Engine, Listening, Mailboxes, Receipt};

/// See the module's head.
pub struct MemoryEngine {
    apps: Vec<App>,
    mailboxes: Mailboxes,
    shared: Arc<Shared>,
}

struct App {
    id: AppId,
    epoch: Epoch,
    streams: Mutex<AppStreams>,
    /// The number of the last offset whose publication is in the mailboxes; 0: none.
    settled: AtomicU64,
}

impl MemoryEngine {
    /// An engine for these apps, each with what is kept of its channels. `epoch` must differ from
    /// that of every earlier life of the node: a random number does.
    pub fn new(apps: Vec<(AppId, HistoryRules)>, epoch: Epoch, mailboxes: Mailboxes, shared: Shared) -> Self {
        let (shared, shards) = (Arc::new(shared), mailboxes.len());
        let app = |(id, rules)| App {
            id,
            epoch,
            streams: Mutex::new(AppStreams::new(epoch, shards, rules, Arc::clone(&shared))),
            settled: AtomicU64::new(0),
        };
        Self {
            apps: apps.into_iter().map(app).collect(),
            mailboxes,
            shared: Arc::clone(&shared),
        }
    }

    fn app(&self, id: AppId) -> Result<&App, Refusal> {
        self.apps
            .iter()
            .find(|app| app.id == id)
            .ok_or_else(|| Refusal::NotFound("no such app".into()))
    }
}

impl Engine for MemoryEngine {
    fn publish(&self, app: AppId, drafts: Drafts, now: Moment) -> Result<SmallVec<[Receipt; 1]>, Refusal> {
        let app = self.app(app)?;
        let mut streams = app.streams.lock();
        // Refuse before ordering: room for all of them, everywhere, or nothing happens.
        let mut reserved: SmallVec<[(usize, u64, usize); 1]> = SmallVec::new();
        for draft in &drafts {
            let reach = streams.reach(&draft.audience);
            let bytes = draft.data.len();
            let full = set_bits(reach.shards).find(|shard| !self.mailboxes[*shard].reserve(bytes));
            if let Some(full) = full {
                for (_, shards, bytes) in reserved {
                    set_bits(shards).for_each(|shard| self.mailboxes[shard].release(1, bytes));
                }
                set_bits(reach.shards)
                    .take_while(|shard| *shard != full)
                    .for_each(|shard| self.mailboxes[shard].release(1, bytes));
                return Err(Refusal::Overloaded);
            }
            reserved.push((reach.listeners, reach.shards, bytes));
        }
        let mut receipts = SmallVec::new();
        for (draft, (listeners, shards, bytes)) in drafts.into_iter().zip(reserved) {
            let Some(publication) = streams.append(draft, now) else {
                // The order of one epoch has 2^64 places.
                set_bits(shards).for_each(|shard| self.mailboxes[shard].release(1, bytes));
                return Err(Refusal::Overloaded);
            };
            let position = publication.position;
            receipts.push(Receipt { position, listeners });
            if shards != 0 {
                let publication = Arc::new(publication);
                set_bits(shards).for_each(|shard| self.mailboxes[shard].push(Arc::clone(&publication)));
            }
        }
        let last = streams.position().offset.map_or(0, Offset::get);
        app.settled.store(last, Ordering::Release);
        Ok(receipts)
    }

    fn subscribe(&self, app: AppId, listening: &Listening<'_>, now: Moment) -> Result<Replay, Refusal> {
        let mut streams = self.app(app)?.streams.lock();
        let Listening {
            shard,
            channels,
            resume,
            session,
        } = *listening;
        streams.subscribe(shard, channels, resume, session, now)
    }

    fn unsubscribe(&self, app: AppId, shard: usize, channel: &ChannelName, now: Moment) {
        if let Ok(app) = self.app(app) {
            app.streams.lock().unsubscribe(shard, channel, now);
        }
    }

    fn join(&self, app: AppId, shard: usize) {
        if let Ok(app) = self.app(app) {
            app.streams.lock().join(shard);
        }
    }

    fn leave(&self, app: AppId, shard: usize) {
        if let Ok(app) = self.app(app) {
            app.streams.lock().leave(shard);
        }
    }

    fn read(
        &self,
        app: AppId,
        channels: &[ChannelName],
        resume: Resume,
        session: Option<SessionId>,
    ) -> Result<(Replay, usize), Refusal> {
        let streams = self.app(app)?.streams.lock();
        let listeners = channels.iter().map(|channel| streams.listeners(channel)).sum();
        Ok((streams.read(channels, resume, session), listeners))
    }

    fn clear(&self, app: AppId, channel: &ChannelName, now: Moment) {
        if let Ok(app) = self.app(app) {
            app.streams.lock().clear(channel, now);
        }
    }

    fn settled(&self, app: AppId) -> Option<Position> {
        let app = self.app(app).ok()?;
        Some(Position {
            epoch: app.epoch,
            offset: Offset::new(app.settled.load(Ordering::Acquire)),
        })
    }

    fn expire(&self, now: Moment) -> bool {
        let expired = self.apps.iter().map(|app| app.streams.lock().expire(now));
        expired.fold(false, |more, here| more | here)
    }

    fn counts(&self) -> Counts {
        self.shared.counts()
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
