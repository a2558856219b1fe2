//! What one channel keeps, and for whom that is whole.

use bytes::Bytes;

use super::*;
use crate::app::AppId;
use crate::position::{Epoch, Link};
use crate::publication::{DataKind, Draft, Publication};

fn entry(offset: u64, bytes: usize) -> Arc<Entry> {
    let channel = ChannelName::new("a").unwrap();
    let draft = Draft::new(AppId::DEFAULT, channel, DataKind::Text, vec![b'x'; bytes].into());
    let link = Link {
        epoch: Epoch(7),
        previous: None,
        offset: Offset::new(offset).unwrap(),
    };
    let at = Moment::after_start(Duration::from_secs(offset));
    Arc::clone(Publication::new(draft, at, |_| link).entry())
}

fn stream(offsets: &[u64]) -> Stream {
    let mut stream = Stream::new(Offset::new(3));
    offsets.iter().for_each(|offset| stream.push(entry(*offset, 10)));
    stream
}

fn numbers<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> Vec<u64> {
    entries.map(|entry| entry.offset.get()).collect()
}

/// After `popped` entries of 5, 8, 9 have gone: what a reader gets that has seen `seen`.
#[track_caller]
fn check(popped: usize, seen: u64, expected: Option<&[u64]>) {
    let mut stream = stream(&[5, 8, 9]);
    (0..popped).for_each(|_| drop(stream.pop()));
    let got = stream.since(Offset::new(seen)).map(numbers);
    assert_eq!(got.as_deref(), expected, "{popped} gone, seen {seen}");
}

#[test]
fn a_reader_gets_what_it_missed_or_is_told() {
    check(0, 0, None);
    check(0, 2, None);
    check(0, 3, Some(&[5, 8, 9]));
    check(0, 4, Some(&[5, 8, 9]));
    check(0, 5, Some(&[8, 9]));
    check(0, 9, Some(&[]));
    check(0, 99, Some(&[]));
    check(1, 4, None);
    check(1, 5, Some(&[8, 9]));
    check(3, 8, None);
    check(3, 9, Some(&[]));
}

#[test]
fn a_skipped_publication_is_a_gap_for_who_has_not_seen_it() {
    let mut stream = Stream::new(None);
    stream.skip(Offset::FIRST);
    assert!(stream.since(None).is_none());
    assert_eq!(stream.since(Some(Offset::FIRST)).map(numbers), Some(vec![]));
}

#[test]
fn the_newest_come_oldest_first() {
    let stream = stream(&[5, 8, 9]);
    assert!(numbers(stream.last(0)).is_empty());
    assert_eq!(numbers(stream.last(2)), [8, 9]);
    assert_eq!(numbers(stream.last(99)), [5, 8, 9]);
}

/// How many of three entries with 10 bytes of data, published at 5, 8 and 9 s, stay.
#[track_caller]
fn check_limits(publications: usize, bytes: usize, age_s: u64, now_s: u64, expected: usize) {
    let limits = HistoryLimits {
        publications,
        age: Duration::from_secs(age_s),
        bytes,
    };
    let mut stream = stream(&[5, 8, 9]);
    while stream.exceeds(&limits, Moment::after_start(Duration::from_secs(now_s))) {
        stream.pop();
    }
    assert_eq!(stream.len(), expected, "{limits:?} at {now_s} s");
    assert_eq!(stream.bytes(), expected * (10 + ENTRY_OVERHEAD_BYTES));
}

#[test]
fn each_of_the_three_limits_holds_by_itself() {
    const EACH: usize = 10 + ENTRY_OVERHEAD_BYTES;
    check_limits(3, usize::MAX, 100, 9, 3);
    check_limits(2, usize::MAX, 100, 9, 2);
    check_limits(0, usize::MAX, 100, 9, 0);
    check_limits(9, 3 * EACH, 100, 9, 3);
    check_limits(9, 3 * EACH - 1, 100, 9, 2);
    check_limits(9, EACH - 1, 100, 9, 0);
    check_limits(9, usize::MAX, 5, 9, 3);
    check_limits(9, usize::MAX, 5, 10, 2);
    check_limits(9, usize::MAX, 5, 14, 0);
}

#[test]
fn an_entry_costs_no_more_than_it_is_charged() {
    // Its own allocation with counters, its places in the stream and in the app's queue (which may
    // be half empty each), and the allocation of its data.
    let fields = size_of::<Entry>() + 16;
    let places = 2 * size_of::<Arc<Entry>>() + 4 * size_of::<(Offset, usize)>();
    let allocators = 2 * 16 + size_of::<Bytes>();
    assert!(
        fields + places + allocators <= ENTRY_OVERHEAD_BYTES,
        "{fields} + {places} + {allocators}"
    );
}

#[test]
fn the_first_rule_that_matches_decides() {
    let limits = |publications| HistoryLimits {
        publications,
        ..HistoryLimits::default()
    };
    let rules = HistoryRules {
        default: limits(1),
        by_pattern: vec![
            (ChannelPattern::new("room/7").unwrap(), limits(2)),
            (ChannelPattern::new("room/*").unwrap(), limits(3)),
        ],
    };
    let kept = |name: &str| {
        let rule = rules.rule_of(&ChannelName::new(name).unwrap());
        rules.limits().nth(rule).unwrap().publications
    };
    assert_eq!([kept("room/7"), kept("room/8"), kept("orders")], [2, 3, 1]);
}
