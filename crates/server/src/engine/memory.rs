//! The embedded engine: the streams of each app in this process's memory, one lock per app.
//!
//! What the order is and what is kept is decided by [`AppStreams`]; here are the lock around it and
//! the way to the shards. The locked section is a few map look-ups and one push per listening
//! shard, about a microsecond; encoding and delivery happen in the shards.
//!
//! With a [`Journal`] it is the disk engine: what is published, or emptied, is written down first,
//! under the same lock, and refused if that fails.
//!
//! Invariant: what an app's `settled` says is in the mailboxes, since it is written behind the
//! pushes and under the same lock.

use std::sync::{Arc, PoisonError, RwLock};

use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use fanfare_core::idempotency::Answers;
use fanfare_core::moment::Moment;
use fanfare_core::position::{Epoch, Offset, Position};
use fanfare_core::publication::Reader;
use fanfare_core::stream::app::{AppStreams, Counts, Reach, Shared};
use fanfare_core::stream::{HistoryRules, Replay, Resume};
use fanfare_core::sync::{AtomicU64, Mutex, Ordering};
use smallvec::SmallVec;

use super::journal::{Fresh, Journal, JournalCounts};
use super::{Drafts, Engine, Listening, Mailboxes, Once, Receipt, Receipts, Witness};

/// See the module's head.
pub struct MemoryEngine {
    /// Never held for longer than a look, nor while another lock is taken: no order of events depends on it.
    apps: RwLock<Vec<Arc<App>>>,
    mailboxes: Mailboxes,
    shared: Arc<Shared>,
}

/// An app of the engine.
pub struct App {
    id: AppId,
    epoch: Epoch,
    ordered: Mutex<Ordered>,
    /// The number of the last offset whose publication is in the mailboxes; 0: none.
    settled: AtomicU64,
    journal: Option<Box<dyn Journal>>,
}

impl App {
    /// An app that begins with these streams, and writes down what comes if there is a journal.
    pub fn new(id: AppId, streams: AppStreams, once: Once, journal: Option<Box<dyn Journal>>) -> Self {
        let position = streams.position();
        let answers = Answers::new(once.age, once.keys_max);
        Self {
            id,
            epoch: position.epoch,
            ordered: Mutex::new(Ordered {
                streams,
                answers,
                witness: None,
            }),
            settled: AtomicU64::new(position.offset.map_or(0, Offset::get)),
            journal,
        }
    }
}

/// What is behind one app's lock.
struct Ordered {
    streams: AppStreams,
    answers: Answers<Receipts>,
    /// Is told what happens, if anybody wants to know.
    witness: Option<Arc<dyn Witness>>,
}

impl Ordered {
    /// Tells of what has just happened.
    fn tell(&mut self, now: Moment) {
        if let Some(witness) = &self.witness {
            let happenings = self.streams.take_happenings();
            if !happenings.is_empty() {
                witness.happened(happenings, now);
            }
        }
    }

    fn expire(&mut self, now: Moment) -> bool {
        self.answers.expire(now);
        self.streams.expire(now)
    }
}

impl MemoryEngine {
    /// An engine for these apps, each with what is kept of its channels. `epoch` must differ from
    /// that of every earlier life of the node: a random number does.
    pub fn new(
        apps: Vec<(AppId, HistoryRules)>,
        epoch: Epoch,
        mailboxes: Mailboxes,
        shared: Shared,
        once: Once,
    ) -> Self {
        let (shared, shards) = (Arc::new(shared), mailboxes.len());
        let app = |(id, rules)| {
            let streams = AppStreams::new(epoch, shards, rules, Arc::clone(&shared));
            App::new(id, streams, once, None)
        };
        let apps = apps.into_iter().map(app).collect();
        Self::of(apps, mailboxes, shared)
    }

    /// An engine of apps that have begun already, and share `shared`.
    pub fn of(apps: Vec<App>, mailboxes: Mailboxes, shared: Arc<Shared>) -> Self {
        Self {
            apps: RwLock::new(apps.into_iter().map(Arc::new).collect()),
            mailboxes,
            shared,
        }
    }

    /// From now on a witness is told what happens to the channels of an app; or nobody is.
    pub fn watch(&self, app: AppId, witness: Option<Arc<dyn Witness>>) {
        if let Ok(app) = self.app(app) {
            let mut ordered = app.ordered.lock();
            ordered.streams.watch(witness.is_some());
            ordered.witness = witness;
        }
    }

    /// One more app.
    pub fn add(&self, app: App) {
        let mut apps = self.apps.write().unwrap_or_else(PoisonError::into_inner);
        apps.push(Arc::new(app));
    }

    fn apps(&self) -> Vec<Arc<App>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does something with each journal there is.
    fn each_journal(&self, mut look: impl FnMut(&App, &dyn Journal)) {
        for app in self.apps() {
            if let Some(journal) = app.journal.as_deref() {
                look(&app, journal);
            }
        }
    }

    /// A place in the mailbox of every shard that a publication reaches, or none.
    fn reserve(&self, reach: Reach, bytes: usize) -> bool {
        let full = set_bits(reach.shards).find(|shard| !self.mailboxes[*shard].reserve(bytes));
        let Some(full) = full else { return true };
        set_bits(reach.shards)
            .take_while(|shard| *shard != full)
            .for_each(|shard| self.mailboxes[shard].release(1, bytes));
        false
    }

    fn release(&self, reach: Reach, bytes: usize) {
        set_bits(reach.shards).for_each(|shard| self.mailboxes[shard].release(1, bytes));
    }

    fn app(&self, id: AppId) -> Result<Arc<App>, Refusal> {
        let apps = self.apps.read().unwrap_or_else(PoisonError::into_inner);
        // Behind the probe's, in the order of their numbers; a proof has its own.
        let app = apps
            .get(usize::from(id.0).wrapping_add(1))
            .filter(|app| app.id == id);
        let app = app.or_else(|| apps.iter().find(|app| app.id == id));
        app.cloned()
            .ok_or_else(|| Refusal::NotFound("no such app".into()))
    }
}

/// Writes drafts down that are about to get their places: those that do not come too late.
fn write_down(
    journal: &dyn Journal,
    streams: &AppStreams,
    drafts: &Drafts,
    stale: &[bool],
    now: Moment,
) -> Result<(), Refusal> {
    let first = streams.next().ok_or(Refusal::Overloaded)?;
    let placed = drafts.iter().zip(stale).filter(|(_, stale)| !**stale);
    let mut fresh: SmallVec<[Fresh<'_>; 1]> = SmallVec::new();
    for (place, (draft, _)) in (0_u64..).zip(placed) {
        let offset = first.get().checked_add(place).and_then(Offset::new);
        fresh.push(Fresh {
            offset: offset.ok_or(Refusal::Overloaded)?,
            draft,
            is_kept: streams.keeps(&draft.audience) && !draft.is_passing(),
        });
    }
    if fresh.is_empty() {
        return Ok(());
    }
    journal.publications(&fresh, now).map_err(|_| Refusal::Storage)
}

impl Engine for MemoryEngine {
    fn is_repeat(&self, app: AppId, once: &str, now: Moment) -> bool {
        let app = self.app(app);
        app.is_ok_and(|app| app.ordered.lock().answers.get(once, now).is_some())
    }

    fn publish(
        &self,
        app: AppId,
        drafts: Drafts,
        once: Option<&str>,
        now: Moment,
    ) -> Result<Receipts, Refusal> {
        let app = self.app(app)?;
        let mut ordered = app.ordered.lock();
        let Ordered { streams, answers, .. } = &mut *ordered;
        if let Some(mut answer) = once.and_then(|once| answers.get(once, now)) {
            answer.iter_mut().for_each(|receipt| receipt.is_repeat = true);
            return Ok(answer);
        }
        // Refuse before ordering: room for all of them, everywhere, or nothing happens.
        let mut reserved: SmallVec<[(Reach, usize); 1]> = SmallVec::new();
        for draft in &drafts {
            let (reach, bytes) = (streams.reach(&draft.audience), draft.data.len());
            if !self.reserve(reach, bytes) {
                for (reach, bytes) in reserved {
                    self.release(reach, bytes);
                }
                return Err(Refusal::Overloaded);
            }
            reserved.push((reach, bytes));
        }
        let stale = streams.are_stale(&drafts);
        if let Some(journal) = app.journal.as_deref()
            && let Err(refusal) = write_down(journal, streams, &drafts, &stale, now)
        {
            for (reach, bytes) in reserved {
                self.release(reach, bytes);
            }
            return Err(refusal);
        }
        let mut receipts = Receipts::new();
        for ((draft, (reach, bytes)), is_stale) in drafts.into_iter().zip(reserved).zip(stale) {
            let listeners = reach.listeners;
            if is_stale {
                self.release(reach, bytes);
                receipts.push(Receipt {
                    position: streams.last_of(&draft.audience),
                    listeners,
                    is_stale: true,
                    is_repeat: false,
                });
                continue;
            }
            let Some(publication) = streams.append(draft, now) else {
                // The order of one epoch has 2^64 places.
                self.release(reach, bytes);
                return Err(Refusal::Overloaded);
            };
            receipts.push(Receipt {
                position: publication.position(),
                listeners,
                is_stale: false,
                is_repeat: false,
            });
            if reach.shards != 0 {
                let publication = Arc::new(publication);
                set_bits(reach.shards).for_each(|shard| self.mailboxes[shard].push(Arc::clone(&publication)));
            }
        }
        if let Some(once) = once {
            answers.note(once, receipts.clone(), now);
        }
        let last = streams.position().offset.map_or(0, Offset::get);
        app.settled.store(last, Ordering::Release);
        ordered.tell(now);
        Ok(receipts)
    }

    fn subscribe(&self, app: AppId, listening: &Listening<'_>, now: Moment) -> Result<Replay, Refusal> {
        let app = self.app(app)?;
        let mut ordered = app.ordered.lock();
        let Listening {
            shard,
            channels,
            resume,
            reader,
            is_new,
        } = *listening;
        let replay = ordered.streams.subscribe(shard, channels, resume, reader, now)?;
        if is_new {
            ordered.streams.join(shard);
        }
        ordered.tell(now);
        Ok(replay)
    }

    fn unsubscribe(&self, app: AppId, shard: usize, channel: &ChannelName, now: Moment) {
        if let Ok(app) = self.app(app) {
            let mut ordered = app.ordered.lock();
            ordered.streams.unsubscribe(shard, channel, now);
            ordered.tell(now);
        }
    }

    fn leave(&self, app: AppId, shard: usize, channels: &[ChannelName], now: Moment) {
        let Ok(app) = self.app(app) else { return };
        let mut ordered = app.ordered.lock();
        for channel in channels {
            ordered.streams.unsubscribe(shard, channel, now);
        }
        ordered.streams.leave(shard);
        ordered.tell(now);
    }

    fn read(
        &self,
        app: AppId,
        channels: &[ChannelName],
        resume: Resume,
        reader: Reader<'_>,
        now: Moment,
    ) -> Result<Replay, Refusal> {
        let app = self.app(app)?;
        let ordered = app.ordered.lock();
        Ok(ordered.streams.read(channels, resume, reader, now))
    }

    fn listeners(&self, app: AppId, channels: &[ChannelName]) -> usize {
        let Ok(app) = self.app(app) else { return 0 };
        let streams = &app.ordered.lock().streams;
        channels.iter().map(|channel| streams.listeners(channel)).sum()
    }

    fn occupied(&self, app: AppId, prefix: &str, from: usize) -> (Vec<(ChannelName, usize)>, Option<usize>) {
        let Ok(app) = self.app(app) else {
            return (Vec::new(), None);
        };
        let mut found = Vec::new();
        let next = app.ordered.lock().streams.occupied(from, prefix, &mut found);
        (found, next)
    }

    fn clear(&self, app: AppId, channel: &ChannelName, now: Moment) -> Result<(), Refusal> {
        let app = self.app(app)?;
        let streams = &mut app.ordered.lock().streams;
        if let (Some(journal), Some(last)) = (app.journal.as_deref(), streams.position().offset) {
            journal.cleared(channel, last).map_err(|_| Refusal::Storage)?;
        }
        streams.clear(channel, now);
        Ok(())
    }

    fn settled(&self, app: AppId) -> Option<Position> {
        let app = self.app(app).ok()?;
        Some(Position {
            epoch: app.epoch,
            offset: Offset::new(app.settled.load(Ordering::Acquire)),
        })
    }

    fn expire(&self, now: Moment) -> bool {
        let apps = self.apps();
        let expired = apps.iter().map(|app| app.ordered.lock().expire(now));
        expired.fold(false, |more, here| more | here)
    }

    fn counts(&self) -> Counts {
        self.shared.counts()
    }

    fn tend(&self) {
        self.each_journal(|app, journal| journal.tend(&|look| look(&app.ordered.lock().streams)));
    }

    fn is_failing(&self) -> bool {
        let mut is_failing = false;
        self.each_journal(|_, journal| is_failing |= journal.is_failing());
        is_failing
    }

    fn close(&self) {
        self.each_journal(|_, journal| journal.close());
    }

    fn journal_counts(&self) -> Option<JournalCounts> {
        let mut all: Option<JournalCounts> = None;
        self.each_journal(|_, journal| {
            let counts = journal.counts();
            all = Some(all.map_or(counts, |all| all.plus(counts)));
        });
        all
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
