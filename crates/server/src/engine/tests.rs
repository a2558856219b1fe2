//! What every engine must guarantee. `check_*` take an engine and its mailboxes; one test per
//! engine calls them all.

use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::position::{Epoch, Offset};
use fanfare_core::publication::{Audience, DataKind, Draft, Publication};

use super::*;

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

fn engine(publications_max: usize) -> (MemoryEngine, Mailboxes) {
    let mailboxes: Mailboxes = (0..2)
        .map(|_| Arc::new(Mailbox::new(publications_max, 1 << 20)))
        .collect();
    (
        MemoryEngine::new(&[APP], Epoch(7), Arc::clone(&mailboxes), 3),
        mailboxes,
    )
}

fn arrived(mailboxes: &Mailboxes, shard: usize) -> Vec<Arc<Publication>> {
    let mut taken = Vec::new();
    mailboxes[shard].take(&mut taken);
    taken
}

fn publish(engine: &impl Engine, channels: &[&str]) -> Result<Receipt, Refusal> {
    engine
        .publish(APP, Drafts::from_iter([draft(channels)]))
        .map(|receipts| receipts[0])
}

#[test]
fn offsets_rise_over_the_app_and_are_tied_within_a_channel() {
    let (engine, mailboxes) = engine(100);
    engine.subscribe(APP, 0, &name("a"), None).unwrap();
    engine.subscribe(APP, 0, &name("b"), None).unwrap();
    for channels in [&["a"][..], &["b"], &["a"], &["a", "b"], &["b"]] {
        publish(&engine, channels).unwrap();
    }
    let ties: Vec<(u64, Vec<u64>)> = arrived(&mailboxes, 0)
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
}

#[test]
fn only_listening_shards_are_told() {
    let (engine, mailboxes) = engine(100);
    engine.subscribe(APP, 0, &name("a"), None).unwrap();
    engine.subscribe(APP, 1, &name("b"), None).unwrap();
    engine.join(APP, 1);
    assert_eq!(publish(&engine, &["a"]).unwrap().listeners, 1);
    assert_eq!(publish(&engine, &["c"]).unwrap().listeners, 0);
    assert_eq!(publish(&engine, &["a", "b"]).unwrap().listeners, 2);
    assert_eq!(publish(&engine, &["*"]).unwrap().listeners, 1);
    assert_eq!(
        (arrived(&mailboxes, 0).len(), arrived(&mailboxes, 1).len()),
        (2, 2)
    );
    engine.unsubscribe(APP, 0, &name("a"));
    engine.leave(APP, 1);
    publish(&engine, &["a"]).unwrap();
    publish(&engine, &["*"]).unwrap();
    assert!(arrived(&mailboxes, 0).is_empty() && arrived(&mailboxes, 1).is_empty());
}

#[test]
fn a_full_mailbox_refuses_before_ordering_and_leaves_no_trace() {
    let (engine, mailboxes) = engine(2);
    for shard in [0, 1] {
        engine.subscribe(APP, shard, &name("a"), None).unwrap();
    }
    engine.subscribe(APP, 1, &name("b"), None).unwrap();
    publish(&engine, &["b"]).unwrap();
    publish(&engine, &["a"]).unwrap();
    // Shard 1 is full, shard 0 has one place left; a batch that needs both gets neither.
    let batch = Drafts::from_iter([draft(&["c"]), draft(&["a"])]);
    assert_eq!(engine.publish(APP, batch), Err(Refusal::Overloaded));
    assert_eq!(publish(&engine, &["a"]), Err(Refusal::Overloaded));
    assert_eq!(arrived(&mailboxes, 0).len(), 1);
    assert_eq!(arrived(&mailboxes, 1).len(), 2);
    mailboxes[0].release(1, 5);
    mailboxes[1].release(2, 10);
    // The next one is offset 3: the refused ones were given no place.
    assert_eq!(publish(&engine, &["a"]).unwrap().position.to_string(), "7-3");
    assert_eq!(arrived(&mailboxes, 0).len(), 1);
}

/// Publishes to the channels in `before`, then asks for `a` with the last id `seen`.
#[track_caller]
fn check_missed(before: &[&str], listened: bool, seen: &str, expected: bool) {
    let (engine, _mailboxes) = engine(100);
    if listened {
        engine.subscribe(APP, 0, &name("a"), None).unwrap();
    }
    for channel in before {
        publish(&engine, &[channel]).unwrap();
    }
    let subscribed = engine
        .subscribe(APP, 1, &name("a"), Some(Since::parse(seen)))
        .unwrap();
    assert_eq!(
        subscribed.missed, expected,
        "{before:?} listened {listened} since {seen}"
    );
    assert_eq!(
        subscribed.position.offset.map_or(0, Offset::get),
        before.len() as u64
    );
}

#[test]
fn who_comes_back_is_told_what_was_missed() {
    check_missed(&[], true, "7-0", false);
    check_missed(&["a", "a"], true, "7-2", false);
    check_missed(&["a", "a"], true, "7-1", true);
    check_missed(&["a", "b", "b"], true, "7-1", false);
    check_missed(&["a", "b", "a"], true, "7-2", true);
    check_missed(&["a", "a"], false, "7-1", true);
    check_missed(&["a", "a"], false, "7-2", false);
    check_missed(&["a"], true, "8-1", true);
    check_missed(&["a"], true, "7-9", true);
    check_missed(&["a"], true, "nonsense", true);
}

#[test]
fn channels_are_counted_and_bounded() {
    let (engine, _mailboxes) = engine(100);
    for text in ["a", "b", "c", "a"] {
        engine.subscribe(APP, 0, &name(text), None).unwrap();
    }
    assert_eq!(engine.subscribe(APP, 0, &name("d"), None), Err(Refusal::Full));
    engine.unsubscribe(APP, 0, &name("a"));
    assert_eq!((engine.channels(), engine.look(APP, &name("a")).0), (3, 1));
    engine.unsubscribe(APP, 0, &name("a"));
    assert_eq!(engine.channels(), 2);
    engine.subscribe(APP, 0, &name("d"), None).unwrap();
}

#[test]
fn four_publishers_and_both_shards_see_one_order() {
    let (engine, mailboxes) = engine(10_000);
    engine.subscribe(APP, 0, &name("a"), None).unwrap();
    engine.subscribe(APP, 1, &name("a"), None).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..500).for_each(|_| {
                    publish(&engine, &["a"]).unwrap();
                });
            });
        }
    });
    let order = |shard| -> Vec<u64> {
        arrived(&mailboxes, shard)
            .iter()
            .map(|p| p.offset.get())
            .collect()
    };
    let expected: Vec<u64> = (1..=2_000).collect();
    assert!(order(0) == expected && order(1) == expected);
}
