//! Engines: where publications get their place in the order of their app.
//!
//! # The contract
//!
//! * [`Engine::publish`] is one atomic step per app: is there room in the mailbox of every shard
//!   that listens; the next offset; the tie to the previous publication of each channel; push to
//!   those shards. Either all of it happens or nothing does, so a refused publication has no
//!   offset and makes no gap.
//! * Every mailbox receives the publications of an app in the order of their offsets.
//! * [`Engine::subscribe`] takes effect at one point of that order and answers with it: what is
//!   published later reaches the shard's mailbox, and [`Subscribed::missed`] says whether
//!   anything was published to the channel between the position asked about and that point.
//!
//! `tests.rs` holds the suite that every engine must pass. This version has the memory engine.

use std::sync::Arc;

use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use fanfare_core::position::Position;
use fanfare_core::publication::Draft;
use fanfare_core::wire::plain::request::Since;
use smallvec::SmallVec;

use crate::shard::mailbox::Mailbox;

mod memory;
#[cfg(test)]
mod tests;

pub use memory::MemoryEngine;

/// One draft in the usual case, several in a batch.
pub type Drafts = SmallVec<[Draft; 1]>;

/// What a publisher is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Receipt {
    /// The publication's id.
    pub position: Position,
    /// Listeners at that moment, over all its channels. A hint, not a receipt of delivery.
    pub listeners: usize,
}

/// What a new subscription is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subscribed {
    /// Everything up to here was published before this subscription.
    pub position: Position,
    /// Whether something was published to the channel after the position asked about.
    pub missed: bool,
}

/// Orders publications and hands them to the shards. See the module's head for what an
/// implementation must guarantee.
pub trait Engine: Send + Sync {
    /// Orders `drafts`, all of one app, one after the other: all or none.
    fn publish(&self, app: AppId, drafts: Drafts) -> Result<SmallVec<[Receipt; 1]>, Refusal>;

    /// One more listener of `channel` on `shard`; `since` is the last id it has seen, if any.
    fn subscribe(
        &self,
        app: AppId,
        shard: usize,
        channel: &ChannelName,
        since: Option<Since>,
    ) -> Result<Subscribed, Refusal>;

    /// One listener fewer.
    fn unsubscribe(&self, app: AppId, shard: usize, channel: &ChannelName);

    /// One more session on `shard`, whatever it listens to: it hears announcements.
    fn join(&self, app: AppId, shard: usize);

    /// One session fewer.
    fn leave(&self, app: AppId, shard: usize);

    /// Listeners of a channel now, and the app's position now.
    fn look(&self, app: AppId, channel: &ChannelName) -> (usize, Position);

    /// Channels with listeners, over all apps.
    fn channels(&self) -> usize;
}

/// The mailboxes of all shards, by shard number.
pub type Mailboxes = Arc<[Arc<Mailbox>]>;
