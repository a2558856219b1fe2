//! Engines: where publications get their place in the order of their app.
//!
//! # The contract
//!
//! * [`Engine::publish`] is one atomic step per app: is there room in the mailbox of every shard
//!   that listens; the next offset; the tie to the previous publication of each channel; push to
//!   those shards. Either all of it happens or nothing does, so a refused publication has no
//!   offset and makes no gap.
//! * Every mailbox receives the publications of an app in the order of their offsets.
//! * [`Engine::subscribe`] takes effect at one point of that order and answers with it, and with
//!   what was missed up to there: what is published later reaches the shard's mailbox. So nothing
//!   falls between the two, and nothing comes twice.
//! * What [`Engine::settled`] says is in the mailboxes: whoever reads it first, then empties its
//!   mailbox, has had everything up to there.
//! * A [`Witness`] is told of listeners that come and go, and of some publications, in that order.
//! * Time is an argument; it is the engine's own ([`crate::clock`]) and must not
//!   run backwards.
//!
//! `tests.rs` holds the suite that every engine must pass. This version has the memory engine, which
//! with a [`Journal`] is the disk engine.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use fanfare_core::moment::Moment;
use fanfare_core::position::Position;
use fanfare_core::publication::{Draft, Reader};
use fanfare_core::stream::app::{Counts, Happening};
use fanfare_core::stream::{Replay, Resume};
use smallvec::SmallVec;

use crate::shard::mailbox::Mailbox;

pub mod journal;
mod memory;
#[cfg(test)]
mod tests;

pub use journal::{Journal, JournalCounts};
pub use memory::{App, MemoryEngine};

/// One draft in the usual case, several in a batch.
pub type Drafts = SmallVec<[Draft; 1]>;

/// Is told what happens to the channels of an app, in the order in which it happens: under the app's
/// lock, so it must be quick, and must not ask the engine for anything.
pub trait Witness: Send + Sync {
    /// This has just happened.
    fn happened(&self, happenings: Vec<Happening>, now: Moment);
}

/// What a publisher is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Receipt {
    /// The publication's id.
    pub position: Position,
    /// Listeners at that moment, over all its channels. A hint, not a receipt of delivery.
    pub listeners: usize,
    /// It came too late and was not published: see [`fanfare_core::stream::versions`]. The position
    /// is that of the last publication of its channel.
    pub is_stale: bool,
    /// It was published before under the same key, and this is the answer of then.
    pub is_repeat: bool,
}

/// One receipt in the usual case, several for a batch.
pub type Receipts = SmallVec<[Receipt; 1]>;

/// How long, and how many, answers to an `Idempotency-Key` are remembered by each app.
#[derive(Clone, Copy, Debug)]
pub struct Once {
    /// Time.
    pub age: Duration,
    /// Keys.
    pub keys_max: usize,
}

/// A new listener.
#[derive(Clone, Copy, Debug)]
pub struct Listening<'a> {
    /// The shard that it lives on.
    pub shard: usize,
    /// What it listens to.
    pub channels: &'a [ChannelName],
    /// Where it begins.
    pub resume: Resume,
    /// Who it is: what is not for it is not given to it.
    pub reader: Reader<'a>,
    /// Whether it is a new session, which from the same point on hears announcements too.
    pub is_new: bool,
}

/// Orders publications and hands them to the shards. See the module's head for what an
/// implementation must guarantee.
pub trait Engine: Send + Sync {
    /// Orders `drafts`, all of one app, one after the other: all or none. What was answered to the
    /// same key `once` before is answered again, and nothing is ordered.
    fn publish(
        &self,
        app: AppId,
        drafts: Drafts,
        once: Option<&str>,
        now: Moment,
    ) -> Result<Receipts, Refusal>;

    /// Whether something was published under this key before, and is remembered.
    fn is_repeat(&self, app: AppId, once: &str, now: Moment) -> bool;

    /// One more listener of each of its channels: all or none.
    fn subscribe(&self, app: AppId, listening: &Listening<'_>, now: Moment) -> Result<Replay, Refusal>;

    /// One listener fewer.
    fn unsubscribe(&self, app: AppId, shard: usize, channel: &ChannelName, now: Moment);

    /// One session fewer, with all that it listened to.
    fn leave(&self, app: AppId, shard: usize, channels: &[ChannelName], now: Moment);

    /// What is kept of channels (of announcements, if there are none), for someone who does not
    /// listen.
    fn read(
        &self,
        app: AppId,
        channels: &[ChannelName],
        resume: Resume,
        reader: Reader<'_>,
        now: Moment,
    ) -> Result<Replay, Refusal>;

    /// How many listen to channels.
    fn listeners(&self, app: AppId, channels: &[ChannelName]) -> usize;

    /// Some of the channels that somebody listens to whose names begin so, with how many do, and where to go
    /// on, if those were not all. Begins at 0. Not at one point of the order: a channel that comes or goes
    /// meanwhile may be in it or not.
    fn occupied(&self, app: AppId, prefix: &str, from: usize) -> (Vec<(ChannelName, usize)>, Option<usize>);

    /// Removes all that is kept of a channel.
    fn clear(&self, app: AppId, channel: &ChannelName, now: Moment) -> Result<(), Refusal>;

    /// The place up to which everything is in the mailboxes, if the engine can say so cheaply.
    fn settled(&self, app: AppId) -> Option<Position>;

    /// Removes what is too old: not much at once. Says whether there may be more.
    fn expire(&self, now: Moment) -> bool;

    /// What there is, for metrics.
    fn counts(&self) -> Counts;

    /// Does what can wait, and may block: called again and again by a thread of its own.
    fn tend(&self);

    /// Whether publications cannot be stored, as far as is known.
    fn is_failing(&self) -> bool;

    /// Makes everything last that should outlive the process. Nothing is published afterwards.
    fn close(&self);

    /// What is stored, for metrics; `None` if nothing is.
    fn journal_counts(&self) -> Option<JournalCounts>;
}

/// The mailboxes of all shards, by shard number.
pub type Mailboxes = Arc<[Arc<Mailbox>]>;
