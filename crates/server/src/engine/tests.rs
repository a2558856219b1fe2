//! What every engine must guarantee: each test is put to [`each`] of them.

use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::position::{Epoch, Offset, Since};
use fanfare_core::publication::{Audience, DataKind, Draft, Publication};
use fanfare_core::stream::HistoryRules;
use fanfare_core::stream::app::{AppStreams, Shared};

use super::journal::{Fresh, Look};
use super::*;
use crate::disk::{Folder, Sync, Wanted};

const APP: AppId = AppId::DEFAULT;

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn draft(channels: &[&str]) -> Draft {
    let mut draft = Draft::new(APP, name("x"), DataKind::Text, Bytes::from_static(b"12345"));
    draft.audience = match channels {
        ["*"] => Audience::Everyone,
        _ => Audience::Channels(channels.iter().map(|text| name(text)).collect()),
    };
    draft
}

const ONCE: Once = Once {
    age: std::time::Duration::from_secs(1),
    keys_max: 100,
};

fn mailboxes(publications_max: usize) -> Mailboxes {
    (0..2)
        .map(|_| Arc::new(Mailbox::new(publications_max, 1 << 20)))
        .collect()
}

/// An engine with this journal.
fn engine_with(journal: Option<Box<dyn Journal>>, publications_max: usize) -> (MemoryEngine, Mailboxes) {
    let (mailboxes, shared) = (mailboxes(publications_max), shared());
    let streams = AppStreams::new(Epoch(7), 2, HistoryRules::default(), Arc::clone(&shared));
    let apps = vec![App::new(APP, streams, ONCE, journal)];
    (MemoryEngine::of(apps, Arc::clone(&mailboxes), shared), mailboxes)
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared::new(3, usize::MAX, 100))
}

/// The disk engine, on what is in the folder.
fn disk_engine(folder: &std::path::Path, publications_max: usize) -> (MemoryEngine, Mailboxes) {
    let (mailboxes, shared) = (mailboxes(publications_max), shared());
    let opened = Folder::take(folder).unwrap().open(Wanted {
        app: APP,
        epoch: Epoch(7),
        rules: HistoryRules::default(),
        shards: 2,
        shared: Arc::clone(&shared),
        sync: Sync::default(),
        now: now(),
        file_bytes: 8 << 10,
    });
    let opened = opened.unwrap();
    let apps = vec![App::new(
        APP,
        opened.streams,
        ONCE,
        Some(Box::new(opened.journal)),
    )];
    (MemoryEngine::of(apps, Arc::clone(&mailboxes), shared), mailboxes)
}

/// Checks every engine, each of them new.
fn each(publications_max: usize, check: impl Fn(&MemoryEngine, &Mailboxes)) {
    let (engine, mailboxes) = engine_with(None, publications_max);
    check(&engine, &mailboxes);
    let folder = tempfile::tempdir().unwrap();
    let (engine, mailboxes) = disk_engine(folder.path(), publications_max);
    check(&engine, &mailboxes);
}

fn arrived(mailboxes: &Mailboxes, shard: usize) -> Vec<Arc<Publication>> {
    let mut taken = Vec::new();
    mailboxes[shard].take(&mut taken);
    taken
}

/// Time stands still here; what time does is tested in core.
fn now() -> Moment {
    Moment::default()
}

fn subscribe(engine: &impl Engine, shard: usize, channel: &str, resume: Resume) -> Result<Replay, Refusal> {
    listen(engine, shard, &[name(channel)], resume, false)
}

fn listen(
    engine: &impl Engine,
    shard: usize,
    channels: &[ChannelName],
    resume: Resume,
    is_new: bool,
) -> Result<Replay, Refusal> {
    let listening = Listening {
        shard,
        channels,
        resume,
        reader: Reader::default(),
        is_new,
    };
    engine.subscribe(APP, &listening, now())
}

fn publish(engine: &impl Engine, channels: &[&str]) -> Result<Receipt, Refusal> {
    engine
        .publish(APP, Drafts::from_iter([draft(channels)]), None, now())
        .map(|receipts| receipts[0])
}

#[test]
fn offsets_rise_over_the_app_and_are_tied_within_a_channel() {
    each(100, |engine, mailboxes| {
        subscribe(engine, 0, "a", Resume::Now).unwrap();
        subscribe(engine, 0, "b", Resume::Now).unwrap();
        for channels in [&["a"][..], &["b"], &["a"], &["a", "b"], &["b"]] {
            publish(engine, channels).unwrap();
        }
        let ties: Vec<(u64, Vec<u64>)> = arrived(mailboxes, 0)
            .iter()
            .map(|p| {
                (
                    p.offset.get(),
                    p.places()
                        .iter()
                        .map(|place| place.previous.map_or(0, Offset::get))
                        .collect(),
                )
            })
            .collect();
        assert_eq!(
            ties,
            [
                (1, vec![0]),
                (2, vec![0]),
                (3, vec![1]),
                (4, vec![3, 2]),
                (5, vec![4])
            ]
        );
    });
}

#[test]
fn only_listening_shards_are_told() {
    each(100, |engine, mailboxes| {
        subscribe(engine, 0, "a", Resume::Now).unwrap();
        listen(engine, 1, &[name("b")], Resume::Now, true).unwrap();
        assert_eq!(publish(engine, &["a"]).unwrap().listeners, 1);
        assert_eq!(publish(engine, &["c"]).unwrap().listeners, 0);
        assert_eq!(publish(engine, &["a", "b"]).unwrap().listeners, 2);
        assert_eq!(publish(engine, &["*"]).unwrap().listeners, 1);
        assert_eq!((arrived(mailboxes, 0).len(), arrived(mailboxes, 1).len()), (2, 2));
        engine.unsubscribe(APP, 0, &name("a"), now());
        engine.leave(APP, 1, &[name("b")], now());
        publish(engine, &["a", "b"]).unwrap();
        publish(engine, &["*"]).unwrap();
        assert!(arrived(mailboxes, 0).is_empty() && arrived(mailboxes, 1).is_empty());
    });
}

#[test]
fn a_session_that_is_refused_does_not_count() {
    each(100, |engine, mailboxes| {
        let too_many: Vec<ChannelName> = ["a", "b", "c", "d"].map(name).into();
        let refused = listen(engine, 0, &too_many, Resume::Now, true);
        assert_eq!(refused.unwrap_err(), Refusal::Full);
        assert_eq!(publish(engine, &["*"]).unwrap().listeners, 0);
        assert!(arrived(mailboxes, 0).is_empty());
    });
}

#[test]
fn a_full_mailbox_refuses_before_ordering_and_leaves_no_trace() {
    each(2, |engine, mailboxes| {
        for shard in [0, 1] {
            subscribe(engine, shard, "a", Resume::Now).unwrap();
        }
        subscribe(engine, 1, "b", Resume::Now).unwrap();
        publish(engine, &["b"]).unwrap();
        publish(engine, &["a"]).unwrap();
        // Shard 1 is full, shard 0 has one place left; a batch that needs both gets neither.
        let batch = Drafts::from_iter([draft(&["c"]), draft(&["a"])]);
        assert_eq!(engine.publish(APP, batch, None, now()), Err(Refusal::Overloaded));
        assert_eq!(publish(engine, &["a"]), Err(Refusal::Overloaded));
        assert_eq!(arrived(mailboxes, 0).len(), 1);
        assert_eq!(arrived(mailboxes, 1).len(), 2);
        mailboxes[0].release(1, 5);
        mailboxes[1].release(2, 10);
        // The next one is offset 3: the refused ones were given no place.
        assert_eq!(publish(engine, &["a"]).unwrap().position.to_string(), "7-3");
        assert_eq!(arrived(mailboxes, 0).len(), 1);
    });
}

/// Publishes to the channels in `before`, then asks for `a` with the last id `seen`.
#[track_caller]
fn check_resume(before: &[&str], seen: &str, expected: &[u64], is_gap: bool) {
    each(100, |engine, mailboxes| {
        for channel in before {
            publish(engine, &[channel]).unwrap();
        }
        let replay = subscribe(engine, 1, "a", Resume::Since(Since::parse(seen))).unwrap();
        let got: Vec<u64> = replay.entries.iter().map(|entry| entry.offset.get()).collect();
        assert_eq!(
            (&got[..], replay.is_gap),
            (expected, is_gap),
            "{before:?} since {seen}"
        );
        let position = replay.position.offset.map_or(0, Offset::get);
        assert_eq!(position, before.len() as u64);
        // What comes next is in the mailbox, and nothing else.
        publish(engine, &["a"]).unwrap();
        let live: Vec<u64> = arrived(mailboxes, 1).iter().map(|one| one.offset.get()).collect();
        assert_eq!(live, [position + 1]);
    });
}

#[test]
fn who_comes_back_gets_what_was_missed_and_then_what_comes() {
    check_resume(&[], "7-0", &[], false);
    check_resume(&["a", "a"], "7-2", &[], false);
    check_resume(&["a", "a"], "7-1", &[2], false);
    check_resume(&["a", "b", "a"], "7-1", &[3], false);
    check_resume(&["a"], "8-1", &[], true);
    check_resume(&["a"], "7-9", &[], true);
    check_resume(&["a"], "nonsense", &[], true);
}

/// Writes down what a witness is told.
#[derive(Default)]
struct Diary(parking_lot::Mutex<Vec<String>>);

impl Witness for Diary {
    fn happened(&self, happenings: Vec<Happening>, _: Moment) {
        let lines = happenings.iter().map(|happening| match happening {
            Happening::Listeners {
                channel,
                before,
                after,
            } => format!("{channel}:{before}>{after}"),
            Happening::NothingCached(channel) => format!("{channel}?"),
            Happening::Published(entry) => format!("{}!", entry.draft.audience.channels()[0]),
        });
        self.0.lock().extend(lines);
    }
}

#[test]
fn a_witness_is_told_what_happens_in_its_order() {
    each(100, |engine, _| {
        let diary = Arc::new(Diary::default());
        subscribe(engine, 0, "before", Resume::Now).unwrap();
        engine.watch(APP, Some(Arc::clone(&diary) as _));
        listen(engine, 0, &["a", "cache-b"].map(name), Resume::Last(1), true).unwrap();
        subscribe(engine, 1, "a", Resume::Now).unwrap();
        // What is refused has not happened.
        listen(engine, 0, &["a", "one too many"].map(name), Resume::Now, true).unwrap_err();
        publish(engine, &["a"]).unwrap();
        publish(engine, &["cache-b"]).unwrap();
        engine.unsubscribe(APP, 1, &name("a"), now());
        engine.leave(APP, 0, &["a", "cache-b"].map(name), now());
        engine.watch(APP, None);
        engine.unsubscribe(APP, 0, &name("before"), now());
        assert_eq!(
            diary.0.lock().join(" "),
            "a:0>1 cache-b:0>1 cache-b? a:1>2 cache-b! a:2>1 a:1>0 cache-b:1>0"
        );
    });
}

#[test]
fn what_is_settled_is_in_the_mailboxes() {
    each(10_000, |engine, mailboxes| {
        subscribe(engine, 0, "a", Resume::Now).unwrap();
        std::thread::scope(|scope| {
            let publisher = scope.spawn(|| (0..2_000).for_each(|_| drop(publish(engine, &["a"]))));
            let mut had = 0;
            while had < 2_000 {
                let settled = engine.settled(APP).unwrap().offset.map_or(0, Offset::get);
                had = arrived(mailboxes, 0).last().map_or(had, |last| last.offset.get());
                assert!(settled <= had, "{settled} was said, {had} had come");
            }
            publisher.join().unwrap();
        });
        assert_eq!(engine.settled(AppId::PROBE), None);
    });
}

#[test]
fn a_key_publishes_once_and_answers_the_same_again() {
    each(1, |engine, mailboxes| {
        subscribe(engine, 0, "a", Resume::Now).unwrap();
        let publish = |channels: &[&[&str]], once| {
            let drafts = channels.iter().map(|channels| draft(channels)).collect();
            engine.publish(APP, drafts, Some(once), now())
        };
        let first = publish(&[&["b"], &["a"]], "k").unwrap();
        let again = publish(&[&["b"], &["a"]], "k").unwrap();
        assert!(again.iter().all(|receipt| receipt.is_repeat));
        let positions = |receipts: &Receipts| receipts.iter().map(|one| one.position).collect::<Vec<_>>();
        assert_eq!(positions(&again), positions(&first));
        // Refused is not answered: the same key may be tried again.
        assert_eq!(publish(&[&["a"]], "l"), Err(Refusal::Overloaded));
        assert_eq!(arrived(mailboxes, 0).len(), 1);
        mailboxes[0].release(1, 5);
        assert_eq!(publish(&[&["a"]], "l").unwrap()[0].position.to_string(), "7-3");
    });
}

#[test]
fn a_stale_version_has_no_place_also_within_a_batch() {
    each(100, |engine, mailboxes| {
        subscribe(engine, 0, "a", Resume::Now).unwrap();
        let drafts = [2, 1, 3, 3].map(|version| Draft {
            version: Some(version),
            ..draft(&["a"])
        });
        let receipts = engine
            .publish(APP, Drafts::from_iter(drafts), None, now())
            .unwrap();
        let got: Vec<(String, bool)> = receipts
            .iter()
            .map(|receipt| (receipt.position.to_string(), receipt.is_stale))
            .collect();
        let id = |offset: &str, is_stale| (format!("7-{offset}"), is_stale);
        assert_eq!(
            got,
            [id("1", false), id("1", true), id("2", false), id("2", true)]
        );
        assert_eq!(arrived(mailboxes, 0).len(), 2);
        assert_eq!((mailboxes[0].len(), mailboxes[0].bytes()), (2, 10));
    });
}

#[test]
fn channels_are_counted_and_bounded() {
    each(100, |engine, _mailboxes| {
        for text in ["a", "b", "c", "a"] {
            subscribe(engine, 0, text, Resume::Now).unwrap();
        }
        assert_eq!(subscribe(engine, 0, "d", Resume::Now).unwrap_err(), Refusal::Full);
        engine.unsubscribe(APP, 0, &name("a"), now());
        let listeners = |text| engine.listeners(APP, &[name(text)]);
        assert_eq!((engine.counts().listened, listeners("a")), (3, 1));
        engine.unsubscribe(APP, 0, &name("a"), now());
        assert_eq!((engine.counts().listened, listeners("a")), (2, 0));
        subscribe(engine, 0, "d", Resume::Now).unwrap();
    });
}

#[test]
fn four_publishers_and_both_shards_see_one_order() {
    each(10_000, |engine, mailboxes| {
        subscribe(engine, 0, "a", Resume::Now).unwrap();
        subscribe(engine, 1, "a", Resume::Now).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..500).for_each(|_| {
                        publish(engine, &["a"]).unwrap();
                    });
                });
            }
        });
        let order =
            |shard| -> Vec<u64> { arrived(mailboxes, shard).iter().map(|p| p.offset.get()).collect() };
        let expected: Vec<u64> = (1..=2_000).collect();
        assert!(order(0) == expected && order(1) == expected);
    });
}

/// A journal that fails when it is told to.
#[derive(Default)]
struct Failing(std::sync::atomic::AtomicBool);

impl Journal for Arc<Failing> {
    fn publications(&self, _fresh: &[Fresh<'_>], _now: Moment) -> std::io::Result<()> {
        if self.is_failing() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
    fn cleared(&self, _channel: &ChannelName, _last: Offset) -> std::io::Result<()> {
        self.publications(&[], now())
    }
    fn tend(&self, _streams: Look<'_>) {}
    fn is_failing(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
    fn close(&self) {}
    fn counts(&self) -> JournalCounts {
        JournalCounts::default()
    }
}

#[test]
fn what_cannot_be_written_is_refused_before_ordering_and_leaves_no_trace() {
    let journal = Arc::new(Failing::default());
    let (engine, mailboxes) = engine_with(Some(Box::new(Arc::clone(&journal))), 2);
    subscribe(&engine, 0, "a", Resume::Now).unwrap();
    publish(&engine, &["a"]).unwrap();
    let fail = |fails| journal.0.store(fails, std::sync::atomic::Ordering::Relaxed);
    fail(true);
    assert!(engine.is_failing());
    for _ in 0..5 {
        assert_eq!(publish(&engine, &["a"]), Err(Refusal::Storage));
    }
    assert_eq!(engine.clear(APP, &name("a"), now()), Err(Refusal::Storage));
    fail(false);
    // The place in the mailbox is free again, the next is offset 2, and what was kept is still there.
    assert_eq!(publish(&engine, &["a"]).unwrap().position.to_string(), "7-2");
    assert_eq!(arrived(&mailboxes, 0).len(), 2);
    let replay = engine
        .read(APP, &[name("a")], Resume::Last(9), Reader::default(), now())
        .unwrap();
    assert_eq!(replay.entries.len(), 2);
    engine.clear(APP, &name("a"), now()).unwrap();
    let replay = engine
        .read(APP, &[name("a")], Resume::Last(9), Reader::default(), now())
        .unwrap();
    assert_eq!(replay.entries.len(), 0);
}

#[test]
fn the_next_life_of_the_disk_engine_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    for life in 0..3_u64 {
        let (engine, mailboxes) = disk_engine(folder.path(), 100);
        assert_eq!(engine.settled(APP).unwrap().offset, Offset::new(3 * life));
        let replay = subscribe(&engine, 0, "a", Resume::Last(99)).unwrap();
        assert_eq!(replay.entries.len() as u64, 2 * life);
        for channels in [&["a"][..], &["*"], &["b", "a"]] {
            publish(&engine, channels).unwrap();
        }
        let since = Resume::Since(Since::parse(&format!("7-{}", 3 * life)));
        let replay = engine
            .read(APP, &[name("a")], since, Reader::default(), now())
            .unwrap();
        assert_eq!((replay.entries.len(), replay.is_gap), (3, false));
        assert_eq!(arrived(&mailboxes, 0).len(), 2);
        if life == 1 {
            engine.close();
            assert_eq!(publish(&engine, &["a"]), Err(Refusal::Storage));
        }
    }
}
