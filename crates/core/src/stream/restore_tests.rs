//! A life of an app, its end without a word, and the next one: what readers get before and after.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::app::AppId;
use crate::channel::ChannelPattern;
use crate::position::{Epoch, Position, Since};
use crate::publication::{DataKind, Draft, Reader};
use crate::stream::app::Shared;
use crate::stream::{HistoryLimits, HistoryRules, Replay, Resume, record};

const EPOCH: Epoch = Epoch(7);
const APP: AppId = AppId::DEFAULT;
const CHANNELS: [&str; 4] = ["a", "b", "none/c", "brief/d"];

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(1_000 + seconds))
}

/// Three are kept for 100 s, of `brief/*` for 10 s, of `none/*` nothing.
fn empty(channels_max: usize, entries_max: usize) -> AppStreams {
    let limits = |publications, seconds| HistoryLimits {
        publications,
        age: Duration::from_secs(seconds),
        bytes: usize::MAX,
    };
    let pattern = |text| ChannelPattern::new(text).unwrap();
    let rules = HistoryRules {
        default: limits(3, 100),
        by_pattern: vec![
            (pattern("brief/*"), limits(3, 10)),
            (pattern("none/*"), HistoryLimits::NOTHING),
        ],
    };
    let bytes_max = entries_max.saturating_mul(crate::stream::ENTRY_OVERHEAD_BYTES + 5);
    AppStreams::new(
        EPOCH,
        1,
        rules,
        Arc::new(Shared::new(channels_max, bytes_max, 100_000)),
    )
}

/// What is on the disk: files, each with records as they were written; the first may have what was
/// carried over of several.
#[derive(Default)]
struct Paper(Vec<File>);

#[derive(Default)]
struct File {
    /// The last place that this stands for, and the last announcement in it that has gone.
    carried: Option<(Option<Offset>, Option<Offset>)>,
    records: Vec<Vec<u8>>,
}

fn parse(bytes: &[u8]) -> Record {
    record::read(APP, bytes).unwrap()
}

impl Paper {
    /// Writes into the newest file.
    fn write(&mut self, bytes: Vec<u8>) {
        if self
            .0
            .last()
            .is_none_or(|file| file.carried.is_some() || file.records.len() == 4)
        {
            self.0.push(File::default());
        }
        if let Some(file) = self.0.last_mut() {
            file.records.push(bytes);
        }
    }

    /// The records as they were written, by number.
    fn written(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.0
            .iter()
            .filter(|file| file.carried.is_none())
            .flat_map(|file| &file.records)
    }

    /// The next life, without the record of this number.
    fn restore(&self, streams: AppStreams, now: Moment, lost: Option<usize>) -> AppStreams {
        let mut restoring = Restoring::new(streams, now);
        let mut number = 0;
        for file in &self.0 {
            for bytes in &file.records {
                let record = parse(bytes);
                let is_lost = file.carried.is_none() && Some(number) == lost;
                number += usize::from(file.carried.is_none());
                if is_lost {
                    // As a reader of files does it: it sees the hole when it meets what comes behind.
                    let last = restoring.last().map_or(0, Offset::get);
                    restoring.doubt(Offset::new(last + 1).unwrap());
                } else {
                    restoring.take(record);
                }
            }
            if let Some((Some(covered), announced)) = file.carried {
                restoring.cover(covered, announced);
            }
        }
        restoring.finish()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<usize>),
    Announce,
    Subscribe(usize),
    Unsubscribe,
    Clear(usize),
    Wait(u64),
    /// So many files, with something happening in the midst.
    Compact(usize, Vec<Step>),
    Restart,
}

fn simple() -> impl Strategy<Value = Step> + Clone {
    let set = prop::collection::btree_set(0..CHANNELS.len(), 1..3);
    prop_oneof![
        8 => set.prop_map(|set| Step::Publish(set.into_iter().collect())),
        2 => Just(Step::Announce),
        3 => (0..CHANNELS.len()).prop_map(Step::Subscribe),
        2 => Just(Step::Unsubscribe),
        1 => (0..CHANNELS.len()).prop_map(Step::Clear),
        3 => (0_u64..60).prop_map(Step::Wait),
        1 => Just(Step::Wait(150)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let middle = prop::collection::vec(simple(), 0..12);
    prop_oneof![
        20 => simple(),
        2 => (1_usize..5, middle).prop_map(|(count, middle)| Step::Compact(count, middle)),
        1 => Just(Step::Restart),
    ]
}

/// One life after the other.
struct Life {
    streams: AppStreams,
    paper: Paper,
    /// Channels and `*`, by offset.
    published: Vec<(u64, Vec<&'static str>)>,
    listening: Vec<ChannelName>,
    seconds: u64,
    channels_max: usize,
    entries_max: usize,
}

impl Life {
    fn publish(&mut self, channels: Vec<&'static str>) {
        let audience = match channels[..] {
            ["*"] => Audience::Everyone,
            _ => Audience::Channels(channels.iter().map(|text| name(text)).collect()),
        };
        let draft = Draft::to(APP, audience, DataKind::Text, "12345".into());
        let offset = self.streams.next().unwrap();
        let mut bytes = Vec::new();
        let has_data = self.streams.keeps(&draft.audience);
        record::write_publication(&mut bytes, offset, at(self.seconds), &draft, has_data);
        self.paper.write(bytes);
        let publication = self.streams.append(draft, at(self.seconds)).unwrap();
        assert_eq!(publication.offset, offset);
        self.published.push((offset.get(), channels));
    }

    fn step(&mut self, step: Step) {
        let now = at(self.seconds);
        match step {
            Step::Publish(set) => self.publish(set.into_iter().map(|index| CHANNELS[index]).collect()),
            Step::Announce => self.publish(vec!["*"]),
            Step::Subscribe(index) => {
                let name = name(CHANNELS[index]);
                if self
                    .streams
                    .subscribe(
                        0,
                        std::slice::from_ref(&name),
                        Resume::Now,
                        Reader::default(),
                        now,
                    )
                    .is_ok()
                {
                    self.listening.push(name);
                }
            }
            Step::Unsubscribe => {
                if let Some(name) = self.listening.pop() {
                    self.streams.unsubscribe(0, &name, now);
                }
            }
            Step::Clear(index) => {
                if let Some(offset) = self.streams.position().offset {
                    let mut bytes = Vec::new();
                    record::write_cleared(&mut bytes, &name(CHANNELS[index]), offset);
                    self.paper.write(bytes);
                }
                self.streams.clear(&name(CHANNELS[index]), now);
            }
            Step::Wait(seconds) => {
                self.seconds += seconds;
                self.streams.expire(at(self.seconds));
            }
            Step::Compact(count, middle) => self.compact(count, middle),
            Step::Restart => {
                self.streams = self.next_life(None);
                self.listening.clear();
            }
        }
    }

    /// Makes one file of the first ones, with what is left in them.
    fn compact(&mut self, count: usize, middle: Vec<Step>) {
        let count = count.min(self.paper.0.len());
        let mut carrying = Carrying::default();
        let files = self.paper.0.iter().take(count);
        files
            .clone()
            .filter_map(|file| file.carried)
            .for_each(|(covered, announced)| {
                covered
                    .into_iter()
                    .for_each(|covered| carrying.cover(covered, announced));
            });
        let old: Vec<Vec<u8>> = files.flat_map(|file| file.records.clone()).collect();
        let mut records = Vec::new();
        let mut take = |streams: &AppStreams, bytes: &Vec<u8>| {
            let record = parse(bytes);
            if let (Some(left), Record::Publication(written)) = (carrying.take(streams, &record), record) {
                let mut bytes = Vec::new();
                record::write_carried(&mut bytes, &written, &left);
                records.push(bytes);
            }
        };
        let (first, second) = old.split_at(old.len() / 2);
        first.iter().for_each(|bytes| take(&self.streams, bytes));
        // The files that are looked through are not written into any more.
        self.paper.0.push(File::default());
        middle.into_iter().for_each(|step| self.step(step));
        second.iter().for_each(|bytes| take(&self.streams, bytes));
        if count > 0 {
            let carried = Some(carrying.covered());
            self.paper.0.splice(..count, [File { carried, records }]);
        }
    }

    fn next_life(&self, lost: Option<usize>) -> AppStreams {
        let streams = empty(self.channels_max, self.entries_max);
        self.paper.restore(streams, at(self.seconds), lost)
    }

    fn end(&self) -> u64 {
        self.published.last().map_or(0, |(offset, _)| *offset)
    }

    /// What was published behind `seen` to any of these.
    fn behind(&self, seen: u64, wanted: &[&str]) -> Vec<u64> {
        let behind = self.published.iter().filter(|(offset, _)| *offset > seen);
        behind
            .filter(|(_, to)| to.iter().any(|to| wanted.contains(to)))
            .map(|(offset, _)| *offset)
            .collect()
    }
}

fn read(streams: &AppStreams, channel: &str, seen: u64) -> (Vec<u64>, bool) {
    let since = Resume::Since(Since::Position(Position {
        epoch: EPOCH,
        offset: Offset::new(seen),
    }));
    let Replay { entries, is_gap, .. } =
        streams.read(&[name(channel)], since, Reader::default(), Moment::default());
    let entries = entries.iter().map(|entry| entry.offset.get()).collect();
    (entries, is_gap)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(3_000)))]

    /// With room for every channel: the same answers as before, but that more may be kept than had
    /// been by then; with little room: all that was missed, or a gap.
    #[test]
    fn a_reader_gets_the_same_as_before(
        steps in prop::collection::vec(step(), 1..60),
        channels_max in prop_oneof![1_usize..6, Just(99)],
        entries_max in prop_oneof![0_usize..12, Just(99)],
        lost in any::<prop::sample::Index>(),
    ) {
        let mut life = Life {
            streams: empty(channels_max, entries_max),
            paper: Paper::default(),
            published: Vec::new(),
            listening: Vec::new(),
            seconds: 0,
            channels_max,
            entries_max,
        };
        steps.into_iter().for_each(|step| life.step(step));
        let next = life.next_life(None);
        prop_assert_eq!(next.position(), life.streams.position());
        let covered = life.paper.0.iter().filter_map(|file| file.carried?.0).max();
        for channel in CHANNELS {
            // Positions before the table of channels knew this one are not remembered.
            let is_known = life.published.iter().any(|(_, to)| to.contains(&channel));
            for seen in 0..=life.end() {
                let (got, is_gap) = read(&next, channel, seen);
                if !is_gap {
                    prop_assert_eq!(&got, &life.behind(seen, &[channel, "*"]), "{} since {}", channel, seen);
                }
                let before = read(&life.streams, channel, seen);
                let covered = covered.map_or(0, Offset::get);
                if !before.1 && channels_max == 99 && entries_max == 99 && (is_known && seen >= covered) {
                    prop_assert_eq!((got, is_gap), before, "{} since {} (covered {})", channel, seen, covered);
                }
            }
        }
        // The next publication does not stand on an old place, and one record that is lost is a gap
        // for everyone who has not seen what comes behind it.
        let mut places: BTreeSet<u64> = life.published.iter().map(|(offset, _)| *offset).collect();
        prop_assert!(places.insert(next.next().unwrap().get()));
        let publications: Vec<usize> = life.paper.written().enumerate()
            .filter(|(_, bytes)| matches!(parse(bytes), Record::Publication(_)))
            .map(|(number, _)| number)
            .collect();
        if !publications.is_empty() {
            let lost = publications[lost.index(publications.len())];
            let next = life.next_life(Some(lost));
            for channel in CHANNELS {
                for seen in 0..=life.end() {
                    let (got, is_gap) = read(&next, channel, seen);
                    let missed = life.behind(seen, &[channel, "*"]);
                    prop_assert!(is_gap || got == missed, "{} since {}: {:?} of {:?}", channel, seen, got, missed);
                }
            }
        }
    }
}

#[test]
fn a_channel_that_was_quiet_while_the_node_was_away_has_no_gap() {
    let mut life = Life {
        streams: empty(99, 99),
        paper: Paper::default(),
        published: Vec::new(),
        listening: Vec::new(),
        seconds: 0,
        channels_max: 99,
        entries_max: 99,
    };
    // Of this one nothing is kept; it is known as long as somebody listens.
    life.step(Step::Subscribe(2));
    life.publish(vec!["a"]);
    life.publish(vec!["none/c"]);
    life.step(Step::Wait(50));
    (0..5).for_each(|_| life.publish(vec!["b"]));
    life.compact(1, Vec::new());
    life.step(Step::Wait(9_000));
    let mut next = life.next_life(None);
    for (channel, last) in [("a", 1), ("none/c", 2)] {
        assert_eq!(read(&next, channel, last), (vec![], false), "{channel}");
        assert_eq!(read(&next, channel, last - 1), (vec![], true), "{channel}");
    }
    // And it is forgotten as any other.
    next.expire(at(life.seconds) + super::super::LINGER);
    assert_eq!(next.shared.counts().channels, 0);
}

#[test]
fn what_came_too_late_before_comes_too_late_afterwards() {
    for channel in ["a", "none/c"] {
        let draft = |version| Draft {
            version: Some(version),
            ..Draft::new(APP, name(channel), DataKind::Text, "12345".into())
        };
        let mut bytes = Vec::new();
        let has_data = channel == "a";
        record::write_publication(&mut bytes, Offset::FIRST, at(0), &draft(5), has_data);
        let mut restoring = Restoring::new(empty(99, 99), at(0));
        restoring.take(parse(&bytes));
        let streams = restoring.finish();
        let late = streams.are_stale(&[draft(5), draft(6), draft(6), draft(7)]);
        assert_eq!(late[..], [true, false, true, false], "{channel}");
    }
}
