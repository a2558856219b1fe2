//! Old files go: what is left in them is carried over into new ones.
//!
//! A pass reads files from the oldest on, asks the streams record by record what is left
//! ([`Carrying`]), and writes that down; a whole new file takes the name of the first that it stands
//! for, then the others are removed. A process that ends in between leaves files behind that the
//! next start knows by their places. The streams are locked for [`AT_ONCE`] records at a time.
//!
//! A pass begins when there is twice as much on disk as in memory, and [`SLACK_FILES`] files more,
//! and ends when there is no more than in memory and half of those: so on the whole nothing is
//! written more than twice. A file in which something cannot be read is carried over like others;
//! the new one says that something was lost.

use std::io;
use std::os::unix::fs::FileExt;

use fanfare_core::position::Offset;
use fanfare_core::stream::app::restore::Carrying;
use fanfare_core::stream::record::{self, Record};

use super::file::{self, Frames, Head, Met};
use super::{Disk, SLACK_FILES, Sealed, create, kept_bytes, sync_folder};
use crate::engine::journal::Look;
use crate::random::random;

/// Records that the streams are asked for at once.
const AT_ONCE: usize = 64;

/// What a new file will have.
struct Draft {
    head: Head,
    frames: Vec<u8>,
    records: u64,
    /// The files that it stands for.
    old: Vec<Sealed>,
}

impl Disk {
    /// One pass, if it is time for one.
    pub(super) fn carry(&self, streams: Look<'_>) -> io::Result<()> {
        let counts = self.shared.counts();
        let kept = kept_bytes(counts.history_bytes, counts.channels);
        let (files, bytes) = {
            let sealed = self.sealed.lock();
            (
                sealed.len() as u64,
                sealed.iter().map(|file| file.bytes).sum::<u64>(),
            )
        };
        if files > 2 * (bytes / self.file_bytes + SLACK_FILES) {
            return self.pass(streams, 0);
        }
        if bytes
            > kept
                .saturating_mul(2)
                .saturating_add(SLACK_FILES * self.file_bytes)
        {
            return self.pass(streams, kept.saturating_add(SLACK_FILES / 2 * self.file_bytes));
        }
        Ok(())
    }

    /// Goes from the oldest file on until there are no more than `enough` bytes.
    pub(super) fn pass(&self, streams: Look<'_>, enough: u64) -> io::Result<()> {
        let files = self.sealed.lock().clone();
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let mut carrying = Carrying::default();
        let mut draft = self.draft()?;
        let mut place = 0;
        for file in files {
            if bytes <= enough {
                break;
            }
            let before = draft.frames.len();
            bytes = bytes.saturating_sub(file.bytes);
            self.look_through(&file, &mut carrying, &mut draft, streams)?;
            bytes = bytes.saturating_add((draft.frames.len() - before) as u64);
            draft.old.push(file);
            if draft.frames.len() as u64 >= self.file_bytes {
                self.replace(place, draft, &carrying)?;
                draft = self.draft()?;
                place += 1;
            }
        }
        self.replace(place, draft, &carrying)
    }

    fn draft(&self) -> io::Result<Draft> {
        Ok(Draft {
            head: Head {
                is_carried: true,
                salt: u32::from_ne_bytes(random()?),
                ..self.head
            },
            frames: Vec::new(),
            records: 0,
            old: Vec::new(),
        })
    }

    /// Adds what is left in a file.
    fn look_through(
        &self,
        old: &Sealed,
        carrying: &mut Carrying,
        draft: &mut Draft,
        streams: Look<'_>,
    ) -> io::Result<()> {
        let bytes = std::fs::read(&old.path)?;
        let mut unreadable = 0;
        // Every place before this file is behind us.
        if let Some(before) = Offset::new(old.first.saturating_sub(1)) {
            carrying.cover(before, None);
        }
        if let Ok(head) = Head::read(&bytes) {
            draft.head.is_lossy |= head.is_lossy;
            if let Some(covered) = Offset::new(head.covered) {
                carrying.cover(covered, Offset::new(head.announced));
            }
            let mut frames = Frames::new(&bytes, &head);
            loop {
                let mut records: Vec<Record> = Vec::with_capacity(AT_ONCE);
                for met in frames.by_ref() {
                    match met {
                        Met::End => {}
                        Met::Unreadable => unreadable += 1,
                        Met::Record(bytes) => match record::read(self.app, bytes) {
                            Ok(record) => records.push(record),
                            Err(_) => unreadable += 1,
                        },
                    }
                    if records.len() == AT_ONCE {
                        break;
                    }
                }
                if records.is_empty() {
                    break;
                }
                let mut left = Vec::with_capacity(records.len());
                streams(&mut |streams| {
                    left.extend(records.iter().map(|record| carrying.take(streams, record)));
                });
                for (record, left) in records.iter().zip(left) {
                    if let (Record::Publication(written), Some(left)) = (record, left) {
                        draft.records += 1;
                        file::frame(&mut draft.frames, draft.head.salt, |out| {
                            file::record(out, |out| record::write_carried(out, written, &left));
                        })?;
                    }
                }
            }
        } else {
            unreadable += 1;
        }
        if unreadable > 0 {
            draft.head.is_lossy = true;
            self.counters
                .unreadable
                .fetch_add(unreadable, std::sync::atomic::Ordering::Relaxed);
            tracing::warn!(file = %old.path.display(), places = unreadable, "damaged places in a file of the history");
        }
        Ok(())
    }

    /// Puts a new file in the place of the old ones, of which the first is the one at `place`.
    fn replace(&self, place: usize, mut draft: Draft, carrying: &Carrying) -> io::Result<()> {
        let Some(first) = draft.old.first().cloned() else {
            return Ok(());
        };
        let (covered, announced) = carrying.covered();
        let Some(covered) = covered else {
            return Ok(());
        };
        draft.head.first = first.first;
        draft.head.covered = covered.get();
        draft.head.announced = announced.map_or(0, Offset::get);
        let mut bytes = draft.head.write().to_vec();
        bytes.append(&mut draft.frames);
        file::end(&mut bytes, draft.head.salt);
        create(&first.path, |file| {
            file.write_all_at(&bytes, 0)?;
            file.sync_all()
        })?;
        sync_folder(&self.folder)?;
        {
            let mut sealed = self.sealed.lock();
            let new = Sealed {
                bytes: bytes.len() as u64,
                records: draft.records,
                ..first
            };
            sealed.splice(place..place + draft.old.len(), [new]);
        }
        for old in draft.old.iter().skip(1) {
            std::fs::remove_file(&old.path)?;
        }
        tracing::debug!(
            files = draft.old.len(),
            bytes = bytes.len(),
            records = draft.records,
            "old files were carried over"
        );
        Ok(())
    }
}
