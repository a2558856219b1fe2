//! What an app remembers, what it says to those who come back, and what bounds it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::app::AppId;
use crate::channel::ChannelPattern;
use crate::publication::DataKind;
use crate::session_id::SessionId;

const EPOCH: Epoch = Epoch(7);
const OTHER: Epoch = Epoch(8);

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn names(texts: &[&str]) -> Vec<ChannelName> {
    texts.iter().map(|text| name(text)).collect()
}

fn at(seconds: u64) -> Moment {
    Moment::after_start(Duration::from_secs(seconds))
}

fn draft(channels: &[&str]) -> Draft {
    let audience = match channels {
        ["*"] => Audience::Everyone,
        _ => Audience::Channels(names(channels).into()),
    };
    Draft::to(AppId::DEFAULT, audience, DataKind::Text, "12345".into())
}

fn limits(publications: usize, age_s: u64) -> HistoryLimits {
    HistoryLimits {
        publications,
        age: Duration::from_secs(age_s),
        bytes: usize::MAX,
    }
}

/// Two shards; three are kept for 100 s, of `brief/*` for 10 s, of `none/*` nothing.
fn streams(channels_max: usize, entries_max: usize) -> AppStreams {
    let pattern = |text| ChannelPattern::new(text).unwrap();
    let rules = HistoryRules {
        default: limits(3, 100),
        by_pattern: vec![
            (pattern("brief/*"), limits(3, 10)),
            (pattern("none/*"), HistoryLimits::NOTHING),
        ],
    };
    let bytes_max = entries_max * (super::super::ENTRY_OVERHEAD_BYTES + 5);
    AppStreams::new(
        EPOCH,
        2,
        rules,
        Arc::new(Shared::new(channels_max, bytes_max, 100_000)),
    )
}

fn publish(streams: &mut AppStreams, channels: &[&str], seconds: u64) -> u64 {
    let publication = streams.append(draft(channels), at(seconds)).unwrap();
    publication.offset.get()
}

fn since(offset: u64) -> Resume {
    Resume::Since(Since::Position(Position {
        epoch: EPOCH,
        offset: Offset::new(offset),
    }))
}

/// Offsets, or a gap.
fn outline(replay: &Replay) -> String {
    let mut parts: Vec<String> = replay
        .entries
        .iter()
        .map(|entry| entry.offset.get().to_string())
        .collect();
    parts.extend(replay.is_gap.then(|| "gap".to_owned()));
    parts.join(" ")
}

#[track_caller]
fn check(streams: &AppStreams, channels: &[&str], resume: Resume, expected: &str) {
    let replay = streams.read(&names(channels), resume, Reader::default(), at(0));
    assert_eq!(outline(&replay), expected, "{channels:?} {resume:?}");
    assert_eq!(replay.position, streams.position());
}

#[test]
fn a_subscriber_gets_what_it_missed_of_its_channels_in_the_order_of_the_app() {
    let mut streams = streams(9, 99);
    for channels in [&["a"][..], &["b"], &["a", "b"], &["*"], &["a"], &["c"]] {
        publish(&mut streams, channels, 1);
    }
    check(&streams, &["a"], Resume::Now, "");
    check(&streams, &["a"], since(0), "1 3 4 5");
    check(&streams, &["a"], since(3), "4 5");
    check(&streams, &["a"], since(6), "");
    check(&streams, &["b"], since(0), "2 3 4");
    check(&streams, &["a", "b"], since(0), "1 2 3 4 5");
    check(&streams, &["never"], since(0), "4");
    // Announcements belong to what was missed, not to the newest of a channel.
    check(&streams, &["a"], Resume::Last(2), "3 5");
    check(&streams, &["a", "b"], Resume::Last(3), "2 3 5");
    check(&streams, &["a", "b"], Resume::Last(99), "1 2 3 5");
    // Another life of the order, a place that does not exist yet, an id of something else.
    let foreign = Resume::Since(Since::Position(Position {
        epoch: OTHER,
        offset: None,
    }));
    check(&streams, &["a", "b"], foreign, "gap");
    check(&streams, &["a"], since(7), "gap");
    check(&streams, &["a"], Resume::Since(Since::Unknown), "gap");
    check(&streams, &[], Resume::Since(Since::Unknown), "gap");
}

#[test]
fn what_is_no_longer_kept_is_a_gap_for_who_has_not_seen_it() {
    let mut streams = streams(9, 99);
    for channels in ["a", "a", "b", "a", "a", "none/x"] {
        publish(&mut streams, &[channels], 1);
    }
    // Three of a: 2, 4, 5.
    check(&streams, &["a"], since(0), "gap");
    check(&streams, &["a"], since(1), "2 4 5");
    check(&streams, &["a", "b"], since(0), "gap");
    check(&streams, &["none/x"], since(5), "gap");
    check(&streams, &["none/x"], since(6), "");
    // A channel that was never heard of shares the bound of those that nothing is kept of.
    check(&streams, &["never"], since(5), "gap");
    check(&streams, &["never"], since(6), "");
}

#[test]
fn each_rule_has_its_own_age() {
    let mut streams = streams(9, 99);
    publish(&mut streams, &["a"], 0);
    publish(&mut streams, &["brief/b"], 1);
    publish(&mut streams, &["brief/b"], 2);
    streams.expire(at(11));
    check(&streams, &["a", "brief/b"], since(1), "gap");
    check(&streams, &["a", "brief/b"], since(2), "3");
    streams.expire(at(12));
    check(&streams, &["a", "brief/b"], since(2), "gap");
    check(&streams, &["a", "brief/b"], since(3), "");
    streams.expire(at(99));
    check(&streams, &["a"], since(0), "1");
    streams.expire(at(100));
    check(&streams, &["a"], since(0), "gap");
}

#[test]
fn at_the_ceiling_the_oldest_of_all_channels_go() {
    let mut streams = streams(9, 3);
    for channels in ["a", "b", "brief/c", "b"] {
        publish(&mut streams, &[channels], 1);
    }
    check(&streams, &["a"], since(0), "gap");
    check(&streams, &["b"], since(0), "2 4");
    check(&streams, &["brief/c"], since(0), "3");
    publish(&mut streams, &["a"], 1);
    check(&streams, &["b"], since(0), "gap");
    check(&streams, &["b"], since(2), "4");
    let counts = streams.shared.counts();
    assert_eq!((counts.history_entries, counts.evicted), (3, 2));
    assert_eq!(counts.history_bytes, streams.shared.history_bytes_max);
}

#[test]
fn a_quiet_channel_is_remembered_for_a_while() {
    let mut streams = streams(9, 99);
    streams
        .subscribe(0, &names(&["a"]), Resume::Now, Reader::default(), at(0))
        .unwrap();
    publish(&mut streams, &["a"], 0);
    streams.expire(at(100));
    streams.unsubscribe(0, &name("a"), at(200));
    // Others come and go for good, which raises the common bound.
    publish(&mut streams, &["none/x"], 210);
    streams.expire(at(319));
    check(&streams, &["a"], since(1), "");
    assert_eq!(streams.shared.counts().channels, 1);
    streams.expire(at(320));
    check(&streams, &["a"], since(1), "gap");
    assert_eq!(streams.shared.counts().channels, 0);
    // Who comes back within the time keeps it alive.
    streams
        .subscribe(0, &names(&["b"]), Resume::Now, Reader::default(), at(400))
        .unwrap();
    streams.unsubscribe(0, &name("b"), at(401));
    streams
        .subscribe(1, &names(&["b"]), Resume::Now, Reader::default(), at(450))
        .unwrap();
    streams.expire(at(9_000));
    assert_eq!(streams.shared.counts().channels, 1);
    streams.unsubscribe(1, &name("b"), at(9_000));
    streams.expire(at(9_120));
    streams.expire(at(9_120));
    assert_eq!(streams.shared.counts().channels, 0);
}

#[test]
fn channels_that_nobody_listens_to_make_room() {
    let mut streams = streams(2, 99);
    publish(&mut streams, &["a"], 0);
    streams
        .subscribe(0, &names(&["b"]), Resume::Now, Reader::default(), at(1))
        .unwrap();
    // The oldest that can go is a; its reader is told.
    let replay = streams
        .subscribe(0, &names(&["c"]), Resume::Now, Reader::default(), at(1))
        .unwrap();
    assert_eq!(outline(&replay), "");
    check(&streams, &["a"], since(0), "gap");
    // Now all are listened to: a subscription is refused and leaves nothing behind.
    let refused = streams.subscribe(1, &names(&["b", "d"]), Resume::Now, Reader::default(), at(1));
    assert_eq!(refused.unwrap_err(), Refusal::Full);
    assert_eq!(streams.listeners(&name("b")), 1);
    // A publication goes on, but is not kept.
    publish(&mut streams, &["d"], 1);
    check(&streams, &["d"], since(1), "gap");
    assert_eq!(streams.shared.counts().unkept, 1);
    // Quiet ones go first.
    streams.unsubscribe(0, &name("b"), at(2));
    publish(&mut streams, &["d"], 2);
    check(&streams, &["d"], since(2), "3");
    assert_eq!(streams.shared.counts().channels, 2);
}

#[test]
fn a_cleared_channel_is_a_gap() {
    let mut streams = streams(9, 99);
    publish(&mut streams, &["a"], 0);
    publish(&mut streams, &["a"], 0);
    streams.clear(&name("a"), at(1));
    check(&streams, &["a"], since(1), "gap");
    check(&streams, &["a"], since(2), "");
    assert_eq!(streams.shared.counts().history_entries, 0);
    assert_eq!(streams.shared.counts().history_bytes, 0);
}

#[test]
fn who_is_excluded_does_not_get_it_when_it_comes_back_either() {
    let mut streams = streams(9, 99);
    let mut said = draft(&["a"]);
    said.excluded = Some(SessionId(1));
    streams.append(said, at(0)).unwrap();
    publish(&mut streams, &["a"], 0);
    let read = |session| {
        let user = None;
        outline(&streams.read(&names(&["a"]), since(0), Reader { session, user }, at(0)))
    };
    assert_eq!(read(Some(SessionId(1))), "2");
    assert_eq!(read(Some(SessionId(2))), "1 2");
    assert_eq!(read(None), "1 2");
}

#[test]
fn what_has_expired_is_not_given_and_is_no_gap() {
    let mut streams = streams(9, 99);
    for (ttl, seconds) in [(None, 0), (Some(10), 0), (None, 5)] {
        let mut draft = draft(&["a"]);
        draft.ttl = ttl.map(Duration::from_secs);
        streams.append(draft, at(seconds)).unwrap();
    }
    let read = |seconds| outline(&streams.read(&names(&["a"]), since(0), Reader::default(), at(seconds)));
    assert_eq!([read(9), read(10)], ["1 2 3", "1 3"]);
}

#[test]
fn a_version_that_comes_late_is_stale_as_long_as_the_channel_is_remembered() {
    let mut streams = streams(9, 99);
    let of_version = |version| {
        let mut draft = draft(&["a"]);
        draft.version = Some(version);
        draft
    };
    assert!(!streams.is_stale(&of_version(1)));
    let publication = streams.append(of_version(2), at(0)).unwrap();
    publish(&mut streams, &["b"], 0);
    assert!(streams.is_stale(&of_version(2)) && !streams.is_stale(&of_version(3)));
    assert!(!streams.is_stale(&draft(&["a"])));
    assert_eq!(streams.last_of(&draft(&["a"]).audience), publication.position());
}

/// What is done to an app, of channels `0` to `3`, of which the last is kept briefly.
#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<usize>),
    Announce,
    Subscribe(usize),
    Unsubscribe,
    Clear(usize),
    Wait(u64),
}

const CHANNELS: [&str; 4] = ["a", "b", "none/c", "brief/d"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::btree_set(0..CHANNELS.len(), 1..3).prop_map(|set| Step::Publish(set.into_iter().collect())),
        1 => Just(Step::Announce),
        2 => (0..CHANNELS.len()).prop_map(Step::Subscribe),
        2 => Just(Step::Unsubscribe),
        1 => (0..CHANNELS.len()).prop_map(Step::Clear),
        2 => (0_u64..60).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2_000)))]

    /// Whatever happened: a reader of any channel, from any place, gets exactly what was published
    /// behind it, or is told of a gap; and with nothing published behind it there is a gap only if
    /// the channel may have been forgotten. The counters are the sums.
    #[test]
    fn never_a_silent_gap_and_never_a_double(
        steps in prop::collection::vec(step(), 1..60),
        channels_max in 1_usize..6,
        entries_max in 0_usize..12,
    ) {
        let mut streams = streams(channels_max, entries_max);
        let mut published: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        let mut listening: Vec<(usize, ChannelName)> = Vec::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Publish(set) => {
                    let channels: Vec<&str> = set.into_iter().map(|index| CHANNELS[index]).collect();
                    let offset = publish(&mut streams, &channels, now);
                    published.insert(offset, channels);
                }
                Step::Announce => {
                    let offset = publish(&mut streams, &["*"], now);
                    published.insert(offset, vec!["*"]);
                }
                Step::Subscribe(index) => {
                    let (shard, channel) = (index % 2, name(CHANNELS[index]));
                    if streams.subscribe(shard, std::slice::from_ref(&channel), Resume::Now, Reader::default(), at(now)).is_ok() {
                        listening.push((shard, channel));
                    }
                }
                Step::Unsubscribe => {
                    if let Some((shard, channel)) = listening.pop() {
                        streams.unsubscribe(shard, &channel, at(now));
                    }
                }
                Step::Clear(index) => streams.clear(&name(CHANNELS[index]), at(now)),
                Step::Wait(seconds) => {
                    now += seconds;
                    streams.expire(at(now));
                }
            }
            let counts = streams.shared.counts();
            prop_assert!(counts.channels <= channels_max);
            prop_assert!(counts.history_entries <= entries_max);
            prop_assert_eq!(counts.history_bytes, counts.history_entries * (super::super::ENTRY_OVERHEAD_BYTES + 5));
            let mut listened: Vec<&ChannelName> = listening.iter().map(|(_, name)| name).collect();
            listened.sort();
            listened.dedup();
            prop_assert_eq!(counts.listened, listened.len());
            for aging in &streams.by_rule {
                prop_assert!(aging.queue.len() <= 2 * aging.alive + 65);
            }
        }
        let end = streams.position().offset.map_or(0, Offset::get);
        for channel in CHANNELS {
            for seen in 0..=end {
                let replay = streams.read(&names(&[channel]), since(seen), Reader::default(), at(now));
                let heard = |wanted: &[&str]| -> Vec<u64> {
                    let behind = published.range(seen + 1..);
                    behind.filter(|(_, to)| to.iter().any(|to| wanted.contains(to))).map(|(at, _)| *at).collect()
                };
                let got: Vec<u64> = replay.entries.iter().map(|entry| entry.offset.get()).collect();
                let missed = heard(&[channel, "*"]);
                if replay.is_gap {
                    prop_assert!(got.is_empty());
                    let is_listened = listening.iter().any(|(_, name)| name.as_str() == channel);
                    prop_assert!(!is_listened || !missed.is_empty() || seen < end, "a needless gap");
                } else {
                    prop_assert_eq!(got, missed, "{} since {}", channel, seen);
                }
            }
        }
    }
}

/// What is only for who is here: a client's event, or that somebody has come.
fn pass(streams: &mut AppStreams, channels: &[&str], seconds: u64) -> u64 {
    let mut draft = draft(channels);
    draft.ttl = Some(Duration::ZERO);
    streams.append(draft, at(seconds)).unwrap().offset.get()
}

#[test]
fn what_is_only_for_who_is_here_is_not_kept_and_makes_no_gap() {
    let mut streams = streams(9, 99);
    publish(&mut streams, &["a"], 1);
    assert_eq!(pass(&mut streams, &["a"], 1), 2);
    publish(&mut streams, &["a"], 1);
    for _ in 0..10 {
        pass(&mut streams, &["a"], 1);
    }
    check(&streams, &["a"], since(0), "1 3");
    check(&streams, &["a"], since(1), "3");
    check(&streams, &["a"], since(2), "3");
    check(&streams, &["a"], since(8), "");
    check(&streams, &["a"], Resume::Last(1), "3");
    // It ties what comes next to itself, so that who was here has no hole.
    let next = streams.append(draft(&["a"]), at(2)).unwrap();
    assert_eq!(next.places()[0].previous, Offset::new(13));
    // A channel that nobody knows is not remembered for it, and nobody misses anything of it.
    let channels = streams.counts().channels;
    pass(&mut streams, &["unknown"], 2);
    assert_eq!(streams.counts().channels, channels);
    check(&streams, &["unknown"], since(14), "");
}

#[test]
fn channels_that_somebody_listens_to_are_found_by_the_beginning_of_their_names() {
    let mut streams = streams(9, 99);
    for (shard, channel) in [
        (0, "presence-a"),
        (1, "presence-a"),
        (0, "presence-b"),
        (1, "other"),
    ] {
        let resume = Resume::Now;
        streams
            .subscribe(shard, &names(&[channel]), resume, Reader::default(), at(0))
            .unwrap();
    }
    publish(&mut streams, &["presence-quiet"], 1);
    let found = |prefix: &str| {
        let (mut found, mut place) = (Vec::new(), Some(0));
        while let Some(from) = place {
            place = streams.occupied(from, prefix, &mut found);
        }
        let mut texts: Vec<String> = found
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        texts.sort();
        texts.join(", ")
    };
    assert_eq!(found("presence-"), "presence-a 2, presence-b 1");
    assert_eq!(found(""), "other 1, presence-a 2, presence-b 1");
    assert_eq!(found("nothing"), "");
}

/// `+a`: one listener more of channel a, `+a,b` of both at once; `?`: the same who wants the newest; `-`: one fewer;
/// `!`: something is published there, `.`: for who is here only, `"`: said by a client.
#[track_caller]
fn check_happenings(channels_max: usize, steps: &str, expected: &str) {
    let mut streams = streams(channels_max, 99);
    streams.watch(true);
    let mut seen = Vec::new();
    for step in steps.split_whitespace() {
        let (op, channel) = step.split_at(1);
        let list = names(&channel.split(',').collect::<Vec<_>>());
        let mut listen = |resume| drop(streams.subscribe(0, &list, resume, Reader::default(), at(1)));
        match op {
            "+" => listen(Resume::Now),
            "?" => listen(Resume::Last(1)),
            "-" => streams.unsubscribe(0, &list[0], at(1)),
            _ => {
                let mut draft = draft(&[channel]);
                draft.is_client_event = op == "\"";
                draft.ttl = (op != "!").then_some(Duration::ZERO);
                streams.append(draft, at(1));
            }
        }
        seen.extend(streams.take_happenings().iter().map(|happening| match happening {
            Happening::Listeners {
                channel,
                before,
                after,
            } => format!("{channel}:{before}>{after}"),
            Happening::NothingCached(channel) => format!("{channel}?"),
            Happening::Published(entry) => format!("{}!", entry.draft.audience.channels()[0]),
        }));
    }
    assert_eq!(seen.join(" "), expected, "{steps}");
}

#[test]
fn who_watches_is_told_what_happens() {
    check_happenings(9, "+a +a -a -a -a", "a:0>1 a:1>2 a:2>1 a:1>0");
    check_happenings(9, "+a,b -b", "a:0>1 b:0>1 b:1>0");
    check_happenings(9, "-a", "");
    // A subscription that is refused has not happened.
    check_happenings(1, "+a,b +a", "a:0>1");
    check_happenings(
        9,
        "?cache-a !cache-a ?cache-a",
        "cache-a:0>1 cache-a? cache-a! cache-a:1>2",
    );
    check_happenings(
        9,
        "?cache-a .cache-a ?cache-a",
        "cache-a:0>1 cache-a? cache-a:1>2 cache-a?",
    );
    check_happenings(
        9,
        "+cache-a ?a ?cache-a,b",
        "cache-a:0>1 a:0>1 cache-a:1>2 b:0>1 cache-a?",
    );
    check_happenings(9, "!a .a \"a", "a!");
}

#[test]
fn who_does_not_watch_costs_nothing() {
    let mut streams = streams(9, 99);
    let listening = streams.subscribe(0, &names(&["a"]), Resume::Now, Reader::default(), at(1));
    assert!(listening.is_ok() && streams.take_happenings().is_empty() && streams.happenings.is_none());
}
