//! The journal on disk: what makes the memory engine the disk engine.
//!
//! One folder per app, with files (`file`) that are only appended to, one behind the other in the
//! order of offsets. The newest is the active one; a write is one `pwrite` into it, so a process that
//! is killed has lost nothing that it answered. `open` reads all of them at the start. What is kept
//! no longer goes in `carry`, from the oldest file on.
//!
//! # What lasts
//!
//! What [`Sync`] says the operating system is asked for. Who comes back after a power cut is never
//! told less than the truth: `open` knows by the machine's start number that the newest file may
//! have lost its end, and then everyone has a gap.
//!
//! # When the disk fails
//!
//! A file has its full size from the beginning, so a full disk shows when a file is begun. What
//! cannot be written is refused ([`fanfare_core::disconnect::Refusal::Storage`]), [`Journal::is_failing`] says so, and
//! [`Journal::tend`] tries again every second. A frame that was begun in vain is written over by the
//! next.
//!
//! # Bounds
//!
//! * Bytes on disk: [`bytes_max`]. At the bound publications are refused.
//! * Files are passed through (`carry`) as soon as there are twice as many bytes as the memory
//!   holds, and [`SLACK_FILES`] files more.
//! * Memory: one frame; and two files while passing through.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::limits::seconds;
use fanfare_core::moment::Moment;
use fanfare_core::position::Offset;
use fanfare_core::stream::app::Shared;
use fanfare_core::stream::record;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::file::{FRAME_BYTES, HEAD_BYTES, Head};
use crate::engine::journal::{Fresh, Look};
use crate::engine::{Journal, JournalCounts};
use crate::random::random;

mod carry;
mod file;
mod open;
#[cfg(test)]
mod tests;

pub(crate) use open::{Folder, Wanted};

/// Size of a file, in bytes, unless one frame needs more.
pub const FILE_BYTES: u64 = 4 << 20;

/// Files that there may be besides those with something in them that is kept.
pub const SLACK_FILES: u64 = 4;

/// Files beyond that, for what is published while files are passed through.
const SPARE_FILES: u64 = 12;

/// What is counted for a channel that is remembered: its name and its last place.
const PLACE_BYTES: u64 = 256;

/// Longest time between two looks at what can wait.
pub const TEND_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two tries to begin a file.
const RETRY: Duration = Duration::from_millis(100);

/// Shortest time between two log lines about a failing disk.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// A buffer that has grown beyond this is given back.
const BUFFER_KEPT_BYTES: usize = 256 << 10;

/// Most bytes on disk: twice what the memory may hold of entries and channels, and
/// [`SLACK_FILES`] and some spare files.
pub fn bytes_max(history_bytes_max: usize, channels_max: usize) -> u64 {
    kept_bytes(history_bytes_max, channels_max)
        .saturating_mul(2)
        .saturating_add((SLACK_FILES + SPARE_FILES) * FILE_BYTES)
}

fn kept_bytes(history_bytes: usize, channels: usize) -> u64 {
    (channels as u64)
        .saturating_mul(PLACE_BYTES)
        .saturating_add(history_bytes as u64)
}

/// Section `[disk]`: for `engine = "disk"`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSettings {
    /// When the disk is asked to make last what was written: `always` before each answer, `never`,
    /// or a time: in the background, so often. Default 1s.
    pub sync: Sync,
}

/// When the disk is asked to make last what was written: `disk.sync`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sync {
    /// Before each answer.
    Always,
    /// In the background, at this interval.
    Every(Duration),
    /// When the operating system likes, and at the end.
    Never,
}

impl Default for Sync {
    fn default() -> Self {
        Self::Every(Duration::from_secs(1))
    }
}

impl Sync {
    /// Reads `always`, `never` or a time.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            text => seconds::parse(text)
                .filter(|time| !time.is_zero())
                .map(Self::Every),
        }
    }

    /// Time between two looks at what can wait.
    pub fn interval(self) -> Duration {
        match self {
            Self::Every(time) => time.min(TEND_INTERVAL),
            Self::Always | Self::Never => TEND_INTERVAL,
        }
    }
}

impl<'de> Deserialize<'de> for Sync {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is not \"always\", \"never\" or a time such as \"1s\""
            ))
        })
    }
}

impl Serialize for Sync {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Always => serializer.serialize_str("always"),
            Self::Never => serializer.serialize_str("never"),
            Self::Every(time) => serializer.serialize_str(&seconds::format(*time)),
        }
    }
}

/// The journal of one app. See the module's head.
pub struct Disk {
    app: AppId,
    folder: PathBuf,
    _lock: Arc<File>,
    sync: Sync,
    shared: Arc<Shared>,
    /// The head that the next file is made with, but for its first place and its salt.
    head: Head,
    active: Mutex<Active>,
    sealed: Mutex<Vec<Sealed>>,
    synced: Mutex<Synced>,
    complaint: Mutex<Option<Instant>>,
    cannot_write: AtomicBool,
    cannot_sync: AtomicBool,
    counters: Counters,
    /// The thread that tends; it is woken when a file is full.
    tender: OnceLock<std::thread::Thread>,
    /// [`FILE_BYTES`], but for tests.
    file_bytes: u64,
    bytes_max: u64,
}

/// The file that is written to.
struct Active {
    file: Arc<File>,
    path: PathBuf,
    head: Head,
    at: u64,
    last: Option<Offset>,
    records: u64,
    buffer: Vec<u8>,
    is_unsynced: bool,
    is_closed: bool,
    /// A file of so many bytes could not be begun, and the earliest time of the next try.
    wanted: Option<(u64, Instant)>,
}

impl Active {
    /// Before the first file has begun: nothing can be written here.
    fn nowhere() -> io::Result<Self> {
        Ok(Self {
            file: Arc::new(File::open("/dev/null")?),
            path: PathBuf::new(),
            head: Head::default(),
            at: 0,
            last: None,
            records: 0,
            buffer: Vec::new(),
            is_unsynced: false,
            is_closed: true,
            wanted: None,
        })
    }
}

/// A file that is not written to any more.
#[derive(Clone, Debug)]
struct Sealed {
    path: PathBuf,
    first: u64,
    bytes: u64,
    records: u64,
}

/// What has to be synced, and when that was done last.
struct Synced {
    files: Vec<PathBuf>,
    at: Instant,
}

#[derive(Default)]
struct Counters {
    writes: AtomicU64,
    writes_failed: AtomicU64,
    syncs: AtomicU64,
    syncs_failed: AtomicU64,
    sync_nanos: AtomicU64,
    unreadable: AtomicU64,
}

impl Disk {
    /// Writes one frame, or nothing.
    fn write(&self, last: Option<Offset>, records: u64, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut active = self.active.lock();
        let written = self.write_to(&mut active, last, records, fill);
        if active.buffer.capacity() > BUFFER_KEPT_BYTES {
            active.buffer = Vec::new();
        }
        // What is small may still find room at the end of a file when no other can be begun.
        let has_room = active.wanted.is_none();
        drop(active);
        match &written {
            Ok(()) => {
                self.counters.writes.fetch_add(1, Ordering::Relaxed);
                if has_room && self.cannot_write.swap(false, Ordering::Relaxed) {
                    tracing::info!(folder = %self.folder.display(), "the history can be written again");
                }
            }
            Err(error) => {
                self.counters.writes_failed.fetch_add(1, Ordering::Relaxed);
                self.cannot_write.store(true, Ordering::Relaxed);
                self.complain("publications are refused: the history cannot be written", error);
            }
        }
        written
    }

    /// Tries what has failed, without a publication: nobody may publish to a node that is not ready.
    fn try_again(&self) {
        {
            let mut active = self.active.lock();
            if let Some((needed, _)) = active.wanted
                && let Err(error) = self.begin_next(&mut active, needed)
            {
                drop(active);
                return self.complain("publications are refused: the history cannot be written", &error);
            }
        }
        // A frame without records does no harm.
        let _ = self.write(None, 0, |_| ());
    }

    fn write_to(
        &self,
        active: &mut Active,
        last: Option<Offset>,
        records: u64,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        if active.is_closed {
            return Err(io::Error::other("it is closed"));
        }
        let mut buffer = std::mem::take(&mut active.buffer);
        buffer.clear();
        let framed = file::frame(&mut buffer, active.head.salt, fill);
        let mut needed = (buffer.len() + FRAME_BYTES) as u64;
        if framed.is_ok() && active.at + needed > active.head.capacity {
            needed += HEAD_BYTES as u64;
            self.begin_next(active, needed)?;
            // Its checksums begin with another salt.
            file::resalt(&mut buffer, active.head.salt);
        }
        let written = framed.and_then(|()| active.file.write_all_at(&buffer, active.at));
        let written = written.and_then(|()| match self.sync {
            Sync::Always => self.timed(|| active.file.sync_data()),
            Sync::Every(_) | Sync::Never => Ok(()),
        });
        if written.is_err() {
            // So that it is not met after all by the next life.
            let _ = active.file.write_all_at(&[0; FRAME_BYTES], active.at);
        } else {
            active.at += buffer.len() as u64;
            active.last = active.last.max(last);
            active.records += records;
            active.is_unsynced = true;
        }
        active.buffer = buffer;
        written
    }

    /// Goes on in a new file. On failure the old one stays as it is.
    fn begin_next(&self, active: &mut Active, needed: u64) -> io::Result<()> {
        let now = Instant::now();
        if active.wanted.is_some_and(|(_, at)| now < at) {
            return Err(io::Error::other("no file could be begun a moment ago"));
        }
        let next = self
            .begin(active.last, needed)
            .inspect_err(|_| active.wanted = Some((needed, now + RETRY)))?;
        let old = std::mem::replace(active, next);
        if old.path == active.path {
            // Nothing was written into it, and what comes is too large for it: it has been replaced.
            return Ok(());
        }
        let sealed = seal(&old.file, &old.head, old.at, old.path.clone(), old.records);
        if !matches!(self.sync, Sync::Always) {
            self.synced.lock().files.push(old.path);
        }
        self.sealed.lock().push(sealed);
        if let Some(tender) = self.tender.get() {
            tender.unpark();
        }
        Ok(())
    }

    /// A new file, for what comes behind `last`.
    fn begin(&self, last: Option<Offset>, needed: u64) -> io::Result<Active> {
        let capacity = self.file_bytes.max(needed);
        let sealed: u64 = self.sealed.lock().iter().map(|file| file.bytes).sum();
        if sealed.saturating_add(self.file_bytes).saturating_add(capacity) > self.bytes_max {
            return Err(io::Error::other(
                "it has as many bytes as it may have, and cannot be made smaller",
            ));
        }
        let head = Head {
            first: last.map_or(0, Offset::get).saturating_add(1),
            capacity,
            salt: u32::from_ne_bytes(random()?),
            ..self.head
        };
        let path = self.folder.join(file::name_of(head.first));
        let file = create(&path, |file| {
            reserve(file, capacity)?;
            file.write_all_at(&head.write(), 0)?;
            if matches!(self.sync, Sync::Always) {
                file.sync_all()
            } else {
                Ok(())
            }
        })?;
        if !matches!(self.sync, Sync::Never) {
            sync_folder(&self.folder)?;
        }
        Ok(Active {
            file: Arc::new(file),
            path,
            head,
            at: HEAD_BYTES as u64,
            last,
            records: 0,
            buffer: Vec::new(),
            is_unsynced: true,
            is_closed: false,
            wanted: None,
        })
    }

    /// Syncs what was written since the last time, if it is due.
    fn sync_if_due(&self) {
        let Sync::Every(interval) = self.sync else {
            return;
        };
        let is_due = {
            let mut synced = self.synced.lock();
            let is_due = synced.at.elapsed() >= interval;
            if is_due {
                synced.at = Instant::now();
            }
            is_due
        };
        if is_due {
            let synced = self.sync_all();
            self.cannot_sync.store(synced.is_err(), Ordering::Relaxed);
            if let Err(error) = synced {
                self.complain("what was published last may not outlive a power cut", &error);
            }
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        let files = std::mem::take(&mut self.synced.lock().files);
        for (done, path) in files.iter().enumerate() {
            let synced = match File::open(path) {
                // It has been carried over meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                opened => opened.and_then(|file| self.timed(|| file.sync_data())),
            };
            if let Err(error) = synced {
                self.synced.lock().files.extend(files.iter().skip(done).cloned());
                return Err(error);
            }
        }
        let active = {
            let mut active = self.active.lock();
            std::mem::take(&mut active.is_unsynced).then(|| Arc::clone(&active.file))
        };
        let Some(file) = active else { return Ok(()) };
        let synced = self.timed(|| file.sync_data());
        if synced.is_err() {
            self.active.lock().is_unsynced = true;
        }
        synced
    }

    fn timed(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let start = Instant::now();
        let synced = sync();
        let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.counters.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        if synced.is_err() {
            self.counters.syncs_failed.fetch_add(1, Ordering::Relaxed);
        }
        synced
    }

    /// Tells the operator, now and then.
    fn complain(&self, what: &str, error: &io::Error) {
        let mut last = self.complaint.lock();
        if last.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            *last = Some(Instant::now());
            tracing::error!(folder = %self.folder.display(), %error, "{what}");
        }
    }
}

impl Journal for Disk {
    fn publications(&self, fresh: &[Fresh<'_>], now: Moment) -> io::Result<()> {
        let last = fresh.last().map(|fresh| fresh.offset);
        self.write(last, fresh.len() as u64, |out| {
            for Fresh {
                offset,
                draft,
                is_kept,
            } in fresh
            {
                file::record(out, |out| {
                    record::write_publication(out, *offset, now, draft, *is_kept);
                });
            }
        })
    }

    fn cleared(&self, channel: &ChannelName, last: Offset) -> io::Result<()> {
        self.write(None, 1, |out| {
            file::record(out, |out| record::write_cleared(out, channel, last));
        })
    }

    fn tend(&self, streams: Look<'_>) {
        self.tender.get_or_init(std::thread::current);
        if self.cannot_write.load(Ordering::Relaxed) {
            self.try_again();
        }
        self.sync_if_due();
        if let Err(error) = self.carry(streams) {
            self.complain("old publications could not be removed", &error);
        }
    }

    fn is_failing(&self) -> bool {
        self.cannot_write.load(Ordering::Relaxed) || self.cannot_sync.load(Ordering::Relaxed)
    }

    fn close(&self) {
        let path = {
            let mut active = self.active.lock();
            if std::mem::replace(&mut active.is_closed, true) {
                return;
            }
            seal(&active.file, &active.head, active.at, active.path.clone(), 0);
            active.is_unsynced = true;
            active.path.clone()
        };
        if matches!(self.sync, Sync::Never) {
            let sealed = self.sealed.lock().iter().map(|file| file.path.clone()).collect();
            self.synced.lock().files = sealed;
        }
        let synced = self.sync_all().and_then(|()| sync_folder(&self.folder));
        match synced {
            Ok(()) => tracing::info!(file = %path.display(), "the history is on disk"),
            Err(error) => self.complain("what was published last may not outlive a power cut", &error),
        }
    }

    fn counts(&self) -> JournalCounts {
        let (bytes, records) = {
            let active = self.active.lock();
            (active.head.capacity, active.records)
        };
        let sealed = self.sealed.lock();
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        JournalCounts {
            bytes: bytes + sealed.iter().map(|file| file.bytes).sum::<u64>(),
            bytes_max: self.bytes_max,
            records: records + sealed.iter().map(|file| file.records).sum::<u64>(),
            writes: get(&self.counters.writes),
            writes_failed: get(&self.counters.writes_failed),
            syncs: get(&self.counters.syncs),
            syncs_failed: get(&self.counters.syncs_failed),
            sync_nanos: get(&self.counters.sync_nanos),
            unreadable: get(&self.counters.unreadable),
        }
    }
}

/// Ends a file, and gives back what it does not need. That fails without harm: a file without an end
/// that is not the newest says all that it has to.
fn seal(file: &File, head: &Head, at: u64, path: PathBuf, records: u64) -> Sealed {
    let mut end = Vec::new();
    file::end(&mut end, head.salt);
    let ended = file
        .write_all_at(&end, at)
        .and_then(|()| file.set_len(at + end.len() as u64));
    let bytes = if ended.is_ok() {
        at + end.len() as u64
    } else {
        head.capacity
    };
    Sealed {
        path,
        first: head.first,
        bytes,
        records,
    }
}

/// Makes a file under another name, and gives it its own when it is whole.
fn create(path: &Path, fill: impl FnOnce(&File) -> io::Result<()>) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let draft = path.with_extension("tmp");
    let made = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|file| {
            fill(&file)?;
            std::fs::rename(&draft, path)?;
            Ok(file)
        });
    made.inspect_err(|_| drop(std::fs::remove_file(&draft)))
}

/// Gives a file its size, with room on the disk for all of it.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        // A file system without that.
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let mut at = 0;
            while at < bytes {
                let step = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(ZEROS.len());
                file.write_all_at(ZEROS.get(..step).unwrap_or_default(), at)?;
                at += step as u64;
            }
            Ok(())
        }
        reserved => Ok(reserved?),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
