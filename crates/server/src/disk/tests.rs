//! Lives of a journal, its files as they are, damaged and cut, and what readers get afterwards.

use std::path::Path;

use fanfare_core::app::AppId;
use fanfare_core::position::{Epoch, Position, Since};
use fanfare_core::publication::{Audience, DataKind, Draft, Reader};
use fanfare_core::stream::app::AppStreams;
use fanfare_core::stream::{HistoryLimits, HistoryRules, Resume};
use fanfare_core::sync::Mutex as Lock;
use proptest::prelude::*;

use super::*;

const APP: AppId = AppId::DEFAULT;
const EPOCH: Epoch = Epoch(7);
const CHANNELS: [&str; 3] = ["a", "b", "rare"];
const FILE: u64 = 1_024;

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

/// A node with one app, from this folder.
struct Life {
    streams: Lock<AppStreams>,
    journal: Disk,
}

fn open(folder: &Path, kept: usize, sync: Sync) -> anyhow::Result<Life> {
    let default = HistoryLimits {
        publications: kept,
        ..HistoryLimits::default()
    };
    let opened = Folder::take(folder)?.open(Wanted {
        app: APP,
        epoch: EPOCH,
        rules: HistoryRules {
            default,
            by_pattern: Vec::new(),
        },
        shards: 1,
        shared: Arc::new(Shared::new(99, 1 << 20, 100)),
        sync,
        now: Moment::default(),
        file_bytes: FILE,
    })?;
    Ok(Life {
        streams: Lock::new(opened.streams),
        journal: opened.journal,
    })
}

impl Life {
    /// Publishes all in one batch; returns their places.
    fn publish(&self, batch: &[(&str, usize)]) -> io::Result<Vec<u64>> {
        let mut streams = self.streams.lock();
        let next = streams.next().unwrap().get();
        let draft = |(place, (channel, bytes)): (u64, &(&str, usize))| {
            let text = format!("{} {channel} {}", next + place, "x".repeat(*bytes));
            let audience = match *channel {
                "*" => Audience::Everyone,
                channel => Audience::Channels([name(channel)].into_iter().collect()),
            };
            Draft::to(APP, audience, DataKind::Text, text.into())
        };
        let drafts: Vec<Draft> = (0..).zip(batch).map(draft).collect();
        let fresh = |(offset, draft)| Fresh {
            offset: Offset::new(offset).unwrap(),
            draft,
            is_kept: streams.keeps(&draft.audience),
        };
        let fresh: Vec<Fresh<'_>> = (next..).zip(&drafts).map(fresh).collect();
        self.journal.publications(&fresh, Moment::default())?;
        let places = drafts.into_iter();
        let places = places.map(|draft| streams.append(draft, Moment::default()).unwrap().offset.get());
        Ok(places.collect())
    }

    fn tend(&self) {
        self.journal.tend(&|look| look(&self.streams.lock()));
    }

    fn pass(&self, enough: u64) -> io::Result<()> {
        self.journal.pass(&|look| look(&self.streams.lock()), enough)
    }

    /// What a reader gets: places, and whether it is told of a gap.
    fn read(&self, channel: &str, seen: u64) -> (Vec<u64>, bool) {
        let since = Resume::Since(Since::Position(Position {
            epoch: EPOCH,
            offset: Offset::new(seen),
        }));
        let replay = self
            .streams
            .lock()
            .read(&[name(channel)], since, Reader::default(), Moment::default());
        for entry in &replay.entries {
            let text = std::str::from_utf8(&entry.draft.data).unwrap();
            let to = entry
                .draft
                .audience
                .channels()
                .first()
                .map_or("*", ChannelName::as_str);
            assert!(
                text.starts_with(&format!("{} {to} ", entry.offset.get())),
                "{text}"
            );
        }
        let places = replay.entries.iter().map(|entry| entry.offset.get()).collect();
        (places, replay.is_gap)
    }
}

/// Every channel's publications; who has seen a place must get all behind it, or a gap.
type Published = Vec<(u64, &'static str)>;

#[track_caller]
fn check(life: &Life, published: &Published, what: &str) {
    let end = published.last().map_or(0, |(offset, _)| *offset);
    for channel in CHANNELS {
        for seen in (0..=end + 1).filter(|seen| *seen == 0 || *seen > end.saturating_sub(300)) {
            let (got, is_gap) = life.read(channel, seen);
            let missed = published
                .iter()
                .filter(|(offset, to)| *offset > seen && (*to == channel || *to == "*"));
            let missed: Vec<u64> = missed.map(|(offset, _)| *offset).collect();
            assert!(
                is_gap || got == missed,
                "{what}: {channel} since {seen}: {got:?}, not {missed:?}"
            );
        }
    }
}

/// Some hundred publications over many files, in a process that was killed, or not.
fn written(folder: &Path, kept: usize, closes: bool) -> Published {
    let life = open(folder, kept, Sync::default()).unwrap();
    let mut published = Vec::new();
    for round in 0..60_usize {
        let channel = if round % 25 == 3 {
            "rare"
        } else {
            CHANNELS[round % 2]
        };
        let batch = [(channel, round % 40), ("*", 1)];
        let batch = if round % 9 == 0 { &batch[..] } else { &batch[..1] };
        let places = life.publish(batch).unwrap();
        published.extend(places.into_iter().zip(batch.iter().map(|(channel, _)| *channel)));
        if round == 40 {
            life.pass(FILE).unwrap();
        }
    }
    if closes {
        life.journal.close();
    }
    published
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("default")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The last place that a file carried over stands for.
fn covered(folder: &Path) -> u64 {
    let files = files(folder).into_iter();
    let heads = files.map(|file| Head::read(&std::fs::read(file).unwrap()).unwrap());
    heads.map(|head| head.covered).max().unwrap_or(0)
}

fn copy(folder: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    std::fs::create_dir(to.path().join("default")).unwrap();
    for file in files(folder) {
        let name = file.file_name().unwrap();
        std::fs::copy(&file, to.path().join("default").join(name)).unwrap();
    }
    to
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<(usize, usize)>),
    Tend,
    Pass(u64),
    Restart(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let one = (0..4_usize, 0_usize..400);
    prop_oneof![
        20 => prop::collection::vec(one, 1..4).prop_map(Step::Publish),
        1 => Just(Step::Tend),
        2 => (0..4 * FILE).prop_map(Step::Pass),
        2 => any::<bool>().prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// What a reader gets from any place after a kill is what it got before, or, from before what was
    /// carried over, perhaps a gap; never less than all, and no gap.
    #[test]
    fn the_next_life_says_what_this_one_said(
        steps in prop::collection::vec(step(), 1..80),
        kept in 1_usize..6,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut life = open(folder.path(), kept, Sync::Never).unwrap();
        let mut published: Published = Vec::new();
        for step in steps {
            match step {
                Step::Publish(batch) => {
                    let to = |index: usize| CHANNELS.get(index).copied().unwrap_or("*");
                    let batch: Vec<(&'static str, usize)> = batch.into_iter().map(|(index, bytes)| (to(index), bytes)).collect();
                    let places = life.publish(&batch).unwrap();
                    published.extend(places.into_iter().zip(batch.iter().map(|(channel, _)| *channel)));
                }
                Step::Tend => life.tend(),
                Step::Pass(enough) => life.pass(enough).unwrap(),
                Step::Restart(closes) => {
                    if closes {
                        life.journal.close();
                    }
                    let before = life;
                    let bytes = before.journal.counts();
                    prop_assert!(bytes.bytes <= bytes.bytes_max);
                    let Life { streams, journal } = before;
                    drop(journal);
                    life = open(folder.path(), kept, Sync::Never).unwrap();
                    prop_assert_eq!(life.journal.counts().unreadable, 0);
                    let before = streams.lock();
                    let end = published.last().map_or(0, |(offset, _)| *offset);
                    prop_assert_eq!(life.streams.lock().position(), before.position());
                    for channel in CHANNELS {
                        if published.iter().all(|(_, to)| *to != channel) {
                            continue;
                        }
                        // What came before the oldest record of a channel is not known more exactly.
                        for seen in covered(folder.path())..=end {
                            let since = Resume::Since(Since::Position(Position { epoch: EPOCH, offset: Offset::new(seen) }));
                            let old = before.read(&[name(channel)], since, Reader::default(), Moment::default());
                            let old: (Vec<u64>, bool) = (
                                old.entries.iter().map(|entry| entry.offset.get()).collect(),
                                old.is_gap,
                            );
                            prop_assert_eq!(life.read(channel, seen), old, "{} since {}", channel, seen);
                        }
                    }
                }
            }
            check(&life, &published, "always");
        }
    }
}

#[test]
fn damage_is_told_and_never_served() {
    for closes in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let published = written(folder.path(), 5, closes);
        let count = files(folder.path()).len();
        assert!(count > 3, "{count} files");
        let mut refused = 0;
        let mut damaged = |which: usize, what: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let copy = copy(folder.path());
            let path = &files(copy.path())[which];
            let mut bytes = std::fs::read(path).unwrap();
            change(&mut bytes);
            std::fs::write(path, bytes).unwrap();
            let what = format!("{what} of file {which}, closed: {closes}");
            match open(copy.path(), 5, Sync::default()) {
                Ok(life) => {
                    check(&life, &published, &what);
                    let next = life.streams.lock().next().unwrap().get();
                    assert!(
                        published.iter().all(|(offset, _)| *offset < next),
                        "{what}: a place twice"
                    );
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    assert!(text.contains("move") && text.contains("begin anew"), "{text}");
                    refused += 1;
                }
            }
        };
        for which in 0..count {
            let size = std::fs::metadata(&files(folder.path())[which]).unwrap().len();
            for at in (0..size).step_by(if which + 1 == count { 5 } else { 17 }) {
                let at = usize::try_from(at).unwrap();
                damaged(which, &format!("byte {at}"), &|bytes| bytes[at] ^= 0x40);
                damaged(which, &format!("cut at {at}"), &|bytes| bytes.truncate(at));
            }
            damaged(which, "zeros", &|bytes| bytes.fill(0));
        }
        assert_eq!(refused, 0, "there is always another file");
    }
}

#[test]
fn a_file_that_is_missing_is_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let published = written(folder.path(), 5, true);
    for which in 0..files(folder.path()).len() - 1 {
        let copy = copy(folder.path());
        std::fs::remove_file(&files(copy.path())[which]).unwrap();
        let life = open(copy.path(), 5, Sync::default()).unwrap();
        check(&life, &published, &format!("without file {which}"));
    }
}

/// A machine that lost its power: the newest file is of another start of it, and was not closed.
#[test]
fn after_a_power_cut_everyone_has_a_gap_unless_each_write_was_synced() {
    for (sync, is_gap) in [
        (Sync::default(), true),
        (Sync::Never, true),
        (Sync::Always, false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let life = open(folder.path(), 5, sync).unwrap();
        life.publish(&[("a", 1)]).unwrap();
        drop(life);
        let path = &files(folder.path())[0];
        let mut bytes = std::fs::read(path).unwrap();
        let mut head = Head::read(&bytes).unwrap();
        head.boot ^= 1;
        bytes[..HEAD_BYTES].copy_from_slice(&head.write());
        std::fs::write(path, bytes).unwrap();
        let life = open(folder.path(), 5, sync).unwrap();
        assert_eq!(
            life.read("a", 0),
            (if is_gap { vec![] } else { vec![1] }, is_gap),
            "{sync:?}"
        );
        assert_eq!(life.read("a", 1).1, is_gap, "{sync:?}");
        // What is there is still there for who asks for the newest.
        let newest = life.streams.lock().read(
            &[name("a")],
            Resume::Last(9),
            Reader::default(),
            Moment::default(),
        );
        assert_eq!(newest.entries.len(), 1);
        let next = life.publish(&[("a", 1)]).unwrap()[0];
        assert_eq!(next > 2, is_gap);
        assert_eq!(
            life.read("a", 2).1,
            is_gap,
            "a place that somebody may have seen before the cut"
        );
        drop(life);
        let life = open(folder.path(), 5, sync).unwrap();
        assert_eq!(life.read("a", 1).1, is_gap, "and the life after that");
        assert_eq!(life.read("a", next), (vec![], false));
    }
}

#[test]
fn other_files_are_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 5, true);
    let first = files(folder.path())[0].clone();
    let good = std::fs::read(&first).unwrap();
    let refused = |change: &dyn Fn(&mut Head), part: &str| {
        let mut head = Head::read(&good).unwrap();
        change(&mut head);
        let mut bytes = good.clone();
        bytes[..HEAD_BYTES].copy_from_slice(&head.write());
        if part.contains("version") {
            bytes[7] = 9;
            let sum = crc32fast::hash(&bytes[..HEAD_BYTES - 4]).to_be_bytes();
            bytes[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&sum);
        }
        std::fs::write(&first, bytes).unwrap();
        let Err(error) = open(folder.path(), 5, Sync::default()) else {
            panic!("{part}")
        };
        assert!(format!("{error:#}").contains(part), "{error:#}");
    };
    refused(&|head| head.epoch += 1, "different histories");
    refused(&|_| (), "of version 9");
    for file in files(folder.path()) {
        std::fs::write(file, b"nonsense").unwrap();
    }
    let Err(error) = open(folder.path(), 5, Sync::default()) else {
        panic!("it starts")
    };
    assert!(format!("{error:#}").contains("no file in"), "{error:#}");
}

#[test]
fn a_frame_larger_than_a_file_has_one_of_its_own_and_files_do_not_pile_up() {
    let folder = tempfile::tempdir().unwrap();
    let life = open(folder.path(), 3, Sync::Always).unwrap();
    let mut published: Published = Vec::new();
    for round in 0..400 {
        let bytes = if round % 100 == 50 { 5_000 } else { 300 };
        published.push((life.publish(&[("a", bytes)]).unwrap()[0], "a"));
        if round == 1 {
            published.push((life.publish(&[("rare", 3)]).unwrap()[0], "rare"));
        }
        life.tend();
        let counts = life.journal.counts();
        let kept = kept_bytes(life.journal.shared.counts().history_bytes, 2);
        assert!(counts.bytes <= 2 * kept + (SLACK_FILES + 8) * FILE, "{counts:?}");
    }
    let counts = life.journal.counts();
    assert_eq!((counts.writes, counts.writes_failed), (401, 0));
    assert!(counts.syncs >= 401 && counts.records < 60, "{counts:?}");
    drop(life);
    let life = open(folder.path(), 3, Sync::Always).unwrap();
    check(&life, &published, "carried over many times");
    let rare = published.iter().find(|(_, to)| *to == "rare").unwrap().0;
    assert_eq!(life.read("rare", rare - 1), (vec![rare], false));
    assert_eq!(life.read("a", 401), (vec![], false));
}

#[test]
fn a_full_journal_refuses_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut life = open(folder.path(), 3, Sync::Never).unwrap();
    life.journal.bytes_max = 4 * FILE;
    let mut accepted = 0;
    let refused = loop {
        match life.publish(&[("a", 300)]) {
            Ok(places) => accepted = places[0],
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("as many bytes as it may have"));
    assert!(life.journal.is_failing() && accepted > 5);
    assert_eq!(life.journal.counts().writes_failed, 1);
    let wait_is_over = |journal: &Disk| {
        if let Some((_, at)) = &mut journal.active.lock().wanted {
            *at = Instant::now();
        }
    };
    // A small one still finds room, and does not make believe that others would.
    assert_eq!(life.publish(&[("b", 1)]).unwrap(), [accepted + 1]);
    wait_is_over(&life.journal);
    life.tend();
    assert!(life.journal.is_failing());
    life.journal.bytes_max = 99 * FILE;
    wait_is_over(&life.journal);
    life.tend();
    assert!(!life.journal.is_failing());
    assert_eq!(life.publish(&[("a", 300)]).unwrap(), [accepted + 2]);
    assert_eq!(life.read("a", accepted), (vec![accepted + 2], false));
}

#[test]
fn a_folder_belongs_to_one() {
    let folder = tempfile::tempdir().unwrap();
    let life = open(folder.path(), 3, Sync::Never).unwrap();
    let Err(error) = Folder::take(folder.path()) else {
        panic!("two have it")
    };
    assert!(error.to_string().contains("in use by another fanfare"), "{error}");
    drop(life);
    assert!(Folder::take(folder.path()).is_ok());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let Err(error) = Folder::take(&file) else {
        panic!("a file is no folder")
    };
    assert!(error.to_string().contains("cannot make the folder"), "{error}");
}
