//! What an engine writes down, so that the next life of the node goes on where this one ended.
//!
//! The engine calls it under the lock of the app, before it orders: what a journal has taken, a
//! later life will know, and what it refuses has not happened. It never reads: the streams stay in
//! memory. The journal that ships is `disk`; this module knows no files.

use std::io;

use fanfare_core::channel::ChannelName;
use fanfare_core::moment::Moment;
use fanfare_core::position::Offset;
use fanfare_core::publication::Draft;
use fanfare_core::stream::app::AppStreams;

/// A publication that is about to get its place.
#[derive(Clone, Copy, Debug)]
pub struct Fresh<'a> {
    /// The place.
    pub offset: Offset,
    /// What was asked for.
    pub draft: &'a Draft,
    /// Whether anything of it is kept; if not, its data need not be written down.
    pub is_kept: bool,
}

/// Lets somebody look at the streams of an app, and locks them for that long.
pub type Look<'a> = &'a dyn Fn(&mut dyn FnMut(&AppStreams));

/// What a journal counts, for metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct JournalCounts {
    /// Bytes on disk now.
    pub bytes: u64,
    /// Most bytes that there may be.
    pub bytes_max: u64,
    /// Records on disk now.
    pub records: u64,
    /// Writes since the start; a batch is one.
    pub writes: u64,
    /// Writes that failed.
    pub writes_failed: u64,
    /// Times at which the disk was asked to make it last.
    pub syncs: u64,
    /// Of these, the ones that failed.
    pub syncs_failed: u64,
    /// Time that took, in nanoseconds.
    pub sync_nanos: u64,
    /// Places in the files that could not be read at the start or later.
    pub unreadable: u64,
}

impl JournalCounts {
    /// Those of two journals together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            bytes_max: self.bytes_max.saturating_add(other.bytes_max),
            records: self.records + other.records,
            writes: self.writes + other.writes,
            writes_failed: self.writes_failed + other.writes_failed,
            syncs: self.syncs + other.syncs,
            syncs_failed: self.syncs_failed + other.syncs_failed,
            sync_nanos: self.sync_nanos + other.sync_nanos,
            unreadable: self.unreadable + other.unreadable,
        }
    }
}

/// See the module's head.
pub trait Journal: Send + Sync {
    /// Writes them all or none. An error means that the next life will not know of any.
    fn publications(&self, fresh: &[Fresh<'_>], now: Moment) -> io::Result<()>;

    /// Writes that a channel was emptied when `last` was the last place.
    fn cleared(&self, channel: &ChannelName, last: Offset) -> io::Result<()>;

    /// Does what can wait, and may block for it: makes what was written last, removes what is kept
    /// no longer, tries again after a failure. Locks the streams for moments only.
    fn tend(&self, streams: Look<'_>);

    /// Whether the last thing that was tried has failed.
    fn is_failing(&self) -> bool;

    /// Makes all of it last, and takes nothing more.
    fn close(&self);

    /// Figures.
    fn counts(&self) -> JournalCounts;
}
