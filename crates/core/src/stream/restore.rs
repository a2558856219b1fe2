//! An app's streams from what an earlier life of the node wrote down.
//!
//! Records are taken in the order of their offsets and put through the same limits as when they
//! were published; what is too old by now goes at once. Afterwards a reader gets from any place
//! what it would have got before, or a gap where one was before or where something was lost:
//!
//! * **Records as they were written** have every offset once. One that is missing is a loss
//!   ([`Restoring::doubt`]): nobody knows in which channel, so whoever has not seen what comes
//!   behind it is told of a gap, in every channel.
//! * **Records that were carried over** ([`Carrying`]) stand for all from the beginning up to some
//!   offset ([`Restoring::cover`]), of which most have gone. They say themselves what is missing
//!   before them. Channels of which nothing is left there share one bound, as forgotten channels do.
//!
//! Every channel that is met is remembered, also if nothing of it is kept, until [`LINGER`] after
//! the start: listeners who come back to a quiet channel are not told of a gap that is none.
//!
//! This module reads no files and checks no sums.

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;

use super::super::record::{Left, Record, Written};
use super::{AppStreams, EVERYONE, Table, note_version};
use crate::channel::ChannelName;
use crate::moment::Moment;
use crate::position::Offset;
use crate::publication::Audience;
use crate::stream::Stream;

#[cfg(doc)]
use super::LINGER;

/// See the module's head.
#[derive(Debug)]
pub struct Restoring {
    streams: AppStreams,
    now: Moment,
    doubtful: Option<Offset>,
}

impl Restoring {
    /// Begins with the streams of an app without a publication.
    pub fn new(streams: AppStreams, now: Moment) -> Self {
        Self {
            streams,
            now,
            doubtful: None,
        }
    }

    /// The last place that was met.
    pub fn last(&self) -> Option<Offset> {
        self.streams.last
    }

    /// Takes the next record. One that is at or before the last place is known already, unless it
    /// was carried over.
    pub fn take(&mut self, record: Record) {
        match record {
            Record::Cleared { channel, .. } => self.streams.clear(&channel, self.now),
            Record::Publication(written) => match written.left.clone() {
                None if Some(written.offset) <= self.streams.last => {}
                None => {
                    self.streams.last = Some(written.offset);
                    self.place(*written, None);
                }
                Some(left) => self.place(*written, Some(&left)),
            },
        }
    }

    /// All up to `covered` is told by the records that were carried over and have been taken, the
    /// last announcement that has gone was at `announced`.
    pub fn cover(&mut self, covered: Offset, announced: Option<Offset>) {
        let streams = &mut self.streams;
        streams.last = streams.last.max(Some(covered));
        streams.floor = streams.floor.max(Some(covered));
        if let Some(announced) = announced {
            streams.table.everyone.stream.skip(announced);
            streams.table.everyone.last = streams.table.everyone.last.max(Some(announced));
        }
    }

    /// Something up to `top` may be missing, whatever its channel.
    pub fn doubt(&mut self, top: Offset) {
        self.doubtful = self.doubtful.max(Some(top));
        self.streams.floor = self.streams.floor.max(Some(top));
    }

    /// The streams as they go on. The next publication stands behind all that was met or doubted.
    pub fn finish(mut self) -> AppStreams {
        let Self {
            streams, doubtful, ..
        } = &mut self;
        if let Some(top) = *doubtful {
            let Table { named, everyone } = &mut streams.table;
            let named = named.iter_mut().map(|(_, channel)| channel);
            for channel in named.chain([everyone]) {
                if channel.last < Some(top) {
                    channel.stream.skip(top);
                    channel.last = Some(top);
                }
            }
            streams.last = streams.last.max(Some(top));
        }
        self.streams
    }

    fn place(&mut self, written: Written, left: Option<&[Left]>) {
        let offset = written.offset;
        let left_in = |place: usize| match left {
            Some(left) => left.get(place).copied().unwrap_or(Left::Nothing),
            None if written.has_data => Left::Kept { behind: None },
            None => Left::Place,
        };
        let names: SmallVec<[Option<&ChannelName>; 1]> = match &written.draft.audience {
            Audience::Everyone => SmallVec::from_iter([None]),
            Audience::Channels(channels) => channels.iter().map(Some).collect(),
        };
        // All enter before the first is placed: to make room for one, another may go.
        let mut new: SmallVec<[bool; 1]> = SmallVec::new();
        for (place, name) in names.iter().enumerate() {
            let enters = left_in(place) != Left::Nothing
                && name.is_some_and(|name| !self.streams.names.contains_key(name));
            new.push(enters);
            if let (true, Some(name)) = (enters, name) {
                let rule = self.streams.rules.rule_of(name);
                let _ = self.streams.enter(name, rule);
            }
        }
        let mut kept: SmallVec<[usize; 1]> = SmallVec::new();
        for (place, name) in names.iter().enumerate() {
            let this = left_in(place);
            if this == Left::Nothing {
                continue;
            }
            let index = match name {
                None => EVERYONE,
                Some(name) => {
                    let Some(index) = self.streams.names.get(*name) else {
                        // There was no room for it, or no longer.
                        self.streams.floor = self.streams.floor.max(Some(offset));
                        continue;
                    };
                    *index
                }
            };
            let streams = &mut self.streams;
            let Some(channel) = streams.table.get_mut(index) else {
                continue;
            };
            if let (Left::Kept { behind }, Some(_)) = (this, left)
                && new.get(place).is_some_and(|new| *new)
            {
                channel.stream = Stream::new(behind);
                channel.last = behind;
            }
            if let (Some(top), true) = (self.doubtful, channel.last < self.doubtful) {
                channel.stream.skip(top);
            }
            channel.last = channel.last.max(Some(offset));
            if matches!(this, Left::Kept { .. }) {
                kept.push(index);
            } else {
                let (key, version) = (written.draft.key.as_ref(), written.draft.version);
                note_version(channel, &streams.shared, key, version);
                if !written.draft.is_passing() {
                    channel.stream.skip(offset);
                }
                streams.note_if_quiet(index, self.now);
            }
        }
        drop(names);
        if kept.is_empty() {
            return;
        }
        let entry = Arc::new(written.into_entry(self.streams.epoch));
        for index in kept {
            self.streams.keep(index, &entry, self.now);
            self.streams.note_if_quiet(index, self.now);
        }
    }
}

impl AppStreams {
    fn left_in(&self, name: Option<&ChannelName>, offset: Offset) -> Left {
        let channel = match name {
            None => &self.table.everyone,
            Some(name) => match self.channel(name) {
                Some(channel) => channel,
                None => return Left::Nothing,
            },
        };
        let stream = &channel.stream;
        if stream.front().is_some_and(|front| front.offset <= offset) {
            let behind = stream.complete_after();
            Left::Kept { behind }
        } else if name.is_some() && stream.complete_after() == Some(offset) {
            Left::Place
        } else {
            Left::Nothing
        }
    }
}

/// Looks through old records, from the oldest on, for what is left of them. The app goes on
/// meanwhile: of a channel that something was carried over of, each later record is, or else its
/// listeners would not be told that it has gone in between.
#[derive(Debug, Default)]
pub struct Carrying {
    told: HashSet<ChannelName>,
    covered: Option<Offset>,
    announced: Option<Offset>,
}

impl Carrying {
    /// What is left of a record in each of its channels, in the order of its audience; `None` if
    /// that is nothing. Records must come in order.
    pub fn take(&mut self, streams: &AppStreams, record: &Record) -> Option<SmallVec<[Left; 1]>> {
        let Record::Publication(written) = record else {
            // What was emptied is not kept.
            return None;
        };
        let offset = written.offset;
        self.covered = self.covered.max(Some(offset));
        let left: SmallVec<[Left; 1]> = match &written.draft.audience {
            Audience::Everyone => {
                let left = streams.left_in(None, offset);
                if left == Left::Nothing {
                    self.announced = self.announced.max(Some(offset));
                }
                SmallVec::from_iter([left])
            }
            Audience::Channels(names) => {
                let left = names
                    .iter()
                    .map(|name| match streams.left_in(Some(name), offset) {
                        Left::Nothing if self.told.contains(name) => Left::Place,
                        Left::Nothing => Left::Nothing,
                        left => {
                            self.told.insert(name.clone());
                            left
                        }
                    });
                left.collect()
            }
        };
        left.iter().any(|left| *left != Left::Nothing).then_some(left)
    }

    /// What was carried over before stands for this.
    pub fn cover(&mut self, covered: Offset, announced: Option<Offset>) {
        self.covered = self.covered.max(Some(covered));
        self.announced = self.announced.max(announced);
    }

    /// The last place that was met, and the last announcement that has gone.
    pub fn covered(&self) -> (Option<Offset>, Option<Offset>) {
        (self.covered, self.announced)
    }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
