//! The start: what earlier lives of the node have written becomes the streams of this one.
//!
//! Files are read in the order of their first places. Whether something is missing shows in the
//! offsets, of which every one must be there once, but for those that a file carried over stands
//! for. Only of the end of the newest file the offsets say nothing. It is believed to be whole
//!
//! * if it was closed, or
//! * if it has its full size with nothing but zeros behind the last frame, and either this is the
//!   same start of the machine (a process that is killed loses nothing that it wrote) or each write
//!   was synced.
//!
//! Else the order goes on [`JUMP`] places further, so that no place is given twice, and everyone who
//! comes back is told of a gap. So it is with every loss: what is told is never less than the truth.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use fanfare_core::app::AppId;
use fanfare_core::moment::Moment;
use fanfare_core::position::{Epoch, Offset};
use fanfare_core::stream::HistoryRules;
use fanfare_core::stream::app::restore::Restoring;
use fanfare_core::stream::app::{AppStreams, Shared};
use fanfare_core::stream::record::{self, Record};
use parking_lot::Mutex;

use super::file::{self, Frames, Head, HeadError, Met};
use super::{Active, Counters, Disk, Sealed, Sync, Synced, bytes_max};

/// Where the files are in an app's folder. Not by the app's number, which is its place in a configuration.
const STREAMS: &str = "default";

/// Places that are left out where it is not known how many there were.
const JUMP: u64 = 1 << 32;

/// The data folder: one process has it at a time.
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked by the operating system as long as it is open; not longer than the process lives.
    lock: Arc<File>,
}

impl Folder {
    /// Takes the folder, and makes it if it is not there.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let shown = path.display();
        make(path)?;
        let lock = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .with_context(|| {
                format!(
                    "data_dir: cannot write to {shown}; give its user the right to, or name another folder"
                )
            })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => bail!(
                "data_dir: {shown} is in use by another fanfare; stop it, or give this one a folder of its own"
            ),
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("data_dir: cannot lock {shown}"));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            lock: Arc::new(lock),
        })
    }
}

fn make(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| {
        format!(
            "data_dir: cannot make the folder {}; name another one, or engine = \"memory\"",
            path.display()
        )
    })
}

/// An app as it goes on.
pub(crate) struct Opened {
    /// Its streams.
    pub(crate) streams: AppStreams,
    /// Where it writes what comes.
    pub(crate) journal: Disk,
}

/// What an app is opened with.
pub(crate) struct Wanted {
    pub(crate) app: AppId,
    /// If there is nothing yet.
    pub(crate) epoch: Epoch,
    pub(crate) rules: HistoryRules,
    pub(crate) shards: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) sync: Sync,
    pub(crate) now: Moment,
    /// [`super::FILE_BYTES`], but for tests.
    pub(crate) file_bytes: u64,
}

/// What was met while reading.
#[derive(Debug, Default)]
struct Tally {
    records: u64,
    unreadable: u64,
    losses: u64,
}

impl Folder {
    /// Reads an app's files, and begins a new one.
    pub(crate) fn open(&self, wanted: Wanted) -> Result<Opened> {
        let folder = self.path.join(STREAMS);
        make(&folder)?;
        let start = Instant::now();
        let boot = boot();
        let files = list(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let heads = heads(&folder, &files)?;
        let epoch = heads.iter().flatten().map(|head| head.epoch).next();
        let epoch = epoch.map_or(wanted.epoch, Epoch);
        let streams = AppStreams::new(epoch, wanted.shards, wanted.rules, Arc::clone(&wanted.shared));
        let mut reading = Reading {
            app: wanted.app,
            restoring: Restoring::new(streams, wanted.now),
            met: Tally::default(),
            sealed: Vec::new(),
            boot,
            next: 1,
        };
        let newest = files.len().saturating_sub(1);
        for (place, (path, head)) in files.iter().zip(&heads).enumerate() {
            reading
                .file(path, head.as_ref(), place == newest)
                .with_context(|| format!("cannot read {}", path.display()))?;
        }
        let Reading {
            restoring,
            met,
            mut sealed,
            ..
        } = reading;
        let streams = restoring.finish();
        let last = streams.position().offset;
        if !files.is_empty() {
            tracing::info!(
                folder = %folder.display(), records = met.records, took = ?start.elapsed(), "the history is restored"
            );
        }
        if met.losses > 0 || met.unreadable > 0 {
            tracing::warn!(
                folder = %folder.display(), unreadable = met.unreadable,
                "some of the history is lost: who comes back from before that is told of a gap"
            );
        }
        let journal = Disk {
            app: wanted.app,
            sync: wanted.sync,
            file_bytes: wanted.file_bytes,
            bytes_max: bytes_max(wanted.shared.history_bytes_max, wanted.shared.channels_max),
            shared: wanted.shared,
            head: Head {
                epoch: epoch.0,
                boot,
                is_synced: wanted.sync == Sync::Always,
                ..Head::default()
            },
            active: Mutex::new(Active::nowhere()?),
            sealed: Mutex::default(),
            synced: Mutex::new(Synced {
                files: sealed.iter().map(|file| file.path.clone()).collect(),
                at: Instant::now(),
            }),
            complaint: Mutex::default(),
            cannot_write: AtomicBool::new(false),
            cannot_sync: AtomicBool::new(false),
            counters: Counters::default(),
            tender: OnceLock::new(),
            _lock: Arc::clone(&self.lock),
            folder,
        };
        let counter = &journal.counters.unreadable;
        counter.store(met.unreadable, std::sync::atomic::Ordering::Relaxed);
        let active = journal.begin(last, 0).with_context(|| {
            format!(
                "cannot write to {}: free some space there or give the right to, or name another data_dir",
                journal.folder.display()
            )
        })?;
        // A file in which nothing was written yet has the same name, and has been replaced.
        sealed.retain(|file| file.path != active.path);
        *journal.sealed.lock() = sealed;
        *journal.active.lock() = active;
        Ok(Opened { streams, journal })
    }
}

struct Reading {
    app: AppId,
    restoring: Restoring,
    met: Tally,
    sealed: Vec<Sealed>,
    boot: u128,
    /// The place that must come next.
    next: u64,
}

impl Reading {
    fn file(&mut self, path: &Path, head: Option<&Head>, is_newest: bool) -> io::Result<()> {
        let bytes = std::fs::read(path)?;
        let mut sealed = Sealed {
            path: path.to_owned(),
            first: file::number_of(path).unwrap_or(0),
            bytes: bytes.len() as u64,
            records: 0,
        };
        let Some(head) = head else {
            tracing::warn!(file = %path.display(), "this file of the history cannot be read");
            self.met.unreadable += 1;
            if is_newest {
                self.jump();
            }
            self.sealed.push(sealed);
            return Ok(());
        };
        if head.first < self.next && !self.sealed.is_empty() {
            // It was carried over, and the process ended before it could be removed.
            return std::fs::remove_file(path);
        }
        self.expect(head.first);
        let mut frames = Frames::new(&bytes, head);
        let (mut unreadable, mut is_closed) = (0, false);
        for met in frames.by_ref() {
            is_closed = met == Met::End;
            let record = match met {
                Met::End => continue,
                Met::Unreadable => None,
                Met::Record(bytes) => record::read(self.app, bytes).ok(),
            };
            let Some(record) = record else {
                unreadable += 1;
                continue;
            };
            sealed.records += 1;
            if let (false, Record::Publication(written)) = (head.is_carried, &record) {
                self.expect(written.offset.get());
                self.next = written.offset.get().saturating_add(1);
            }
            self.restoring.take(record);
        }
        let good = frames.good;
        self.met.records += sealed.records;
        self.met.unreadable += unreadable;
        if unreadable > 0 {
            tracing::warn!(file = %path.display(), places = unreadable, "damaged places in a file of the history");
        }
        if let (true, Some(covered)) = (head.is_carried, Offset::new(head.covered)) {
            self.restoring.cover(covered, Offset::new(head.announced));
            self.next = self.next.max(head.covered.saturating_add(1));
            if unreadable > 0 || !is_closed || head.is_lossy {
                self.lose(covered);
            }
        }
        let rest = bytes.get(good..).unwrap_or_default();
        let is_full = bytes.len() as u64 == head.capacity && rest.iter().all(|byte| *byte == 0);
        let is_whole = is_closed || is_full && (head.boot == self.boot && self.boot != 0 || head.is_synced);
        // A file that was carried over is never the newest: there was an active one behind it.
        if is_newest && (!is_whole || unreadable > 0 || head.is_carried) {
            self.jump();
        }
        if !is_closed {
            sealed.bytes = end(path, head, good)?;
        }
        self.sealed.push(sealed);
        Ok(())
    }

    /// This place comes next; what lies between is lost.
    fn expect(&mut self, place: u64) {
        if let (true, Some(before)) = (place > self.next, Offset::new(place.saturating_sub(1))) {
            self.lose(before);
            self.next = place;
        }
    }

    fn lose(&mut self, top: Offset) {
        self.met.losses += 1;
        self.restoring.doubt(top);
    }

    fn jump(&mut self) {
        if let Some(top) = Offset::new(self.next.saturating_add(JUMP)) {
            self.lose(top);
            self.next = top.get().saturating_add(1);
        }
    }
}

/// Ends a file that was not closed, behind its last whole frame. Returns its size.
fn end(path: &Path, head: &Head, good: usize) -> io::Result<u64> {
    let file = File::options().write(true).open(path)?;
    let mut end = Vec::new();
    file::end(&mut end, head.salt);
    file.write_all_at(&end, good as u64)?;
    let bytes = (good + end.len()) as u64;
    file.set_len(bytes)?;
    Ok(bytes)
}

/// The files of a folder, in the order of their first places. Those that were never finished go.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if file::number_of(&path).is_some() {
            files.push(path);
        } else if path.extension().is_some_and(|end| end == "tmp") {
            std::fs::remove_file(path)?;
        }
    }
    files.sort_by_key(|path| file::number_of(path));
    Ok(files)
}

/// The heads of these files, all of one epoch; `None` where one cannot be read.
fn heads(folder: &Path, files: &[PathBuf]) -> Result<Vec<Option<Head>>> {
    let shown = folder.display();
    let mut heads: Vec<Option<Head>> = Vec::new();
    for path in files {
        let mut bytes = [0; file::HEAD_BYTES];
        let read = File::open(path)
            .with_context(|| format!("data_dir: cannot read {}", path.display()))?
            .read_exact_at(&mut bytes, 0);
        heads.push(match read.map(|()| Head::read(&bytes)) {
            Ok(Ok(head)) => Some(head),
            Ok(Err(HeadError::Version(version))) => bail!(
                "data_dir: {} is of version {version}, which this fanfare does not know: start the newer one again, or move {shown} away to begin anew",
                path.display()
            ),
            Ok(Err(HeadError::Unreadable)) | Err(_) => None,
        });
    }
    let mut readable = heads.iter().flatten();
    let first = readable.next();
    ensure!(
        first.is_some() || files.is_empty(),
        "data_dir: no file in {shown} can be read; move it away to begin anew"
    );
    ensure!(
        readable.all(|head| first.is_some_and(|first| first.epoch == head.epoch)),
        "data_dir: the files in {shown} are of different histories; keep those of one, or move all away to begin anew"
    );
    Ok(heads)
}

/// Which start of the machine this is; 0 if it does not say.
fn boot() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}
