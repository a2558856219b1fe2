//! Conversations with a hub: who joins, what is published, who hears it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::moment::Moment;
use crate::position::{Epoch, Link};
use crate::publication::{Audience, DataKind, Draft};
use crate::stream::Replay;

const APP: AppId = AppId::DEFAULT;

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

fn topic(text: &str) -> Topic {
    match text {
        "ALL" => Topic::All,
        _ if text.ends_with('*') => Topic::Pattern(ChannelPattern::new(text).unwrap()),
        _ => Topic::Channel(name(text)),
    }
}

fn id(slot: Slot) -> SessionId {
    SessionId(u128::from(slot) + 1)
}

fn position(offset: u64) -> Position {
    Position {
        epoch: Epoch(1),
        offset: Offset::new(offset),
    }
}

fn link(previous: Option<u64>, offset: u64) -> Link {
    Link {
        epoch: Epoch(1),
        previous: previous.and_then(Offset::new),
        offset: Offset::new(offset).unwrap(),
    }
}

fn draft(channels: &[&str], excluded: Option<Slot>) -> Draft {
    let audience = match channels {
        ["*"] => Audience::Everyone,
        _ => Audience::Channels(channels.iter().map(|text| name(text)).collect()),
    };
    Draft {
        excluded: excluded.map(id),
        ..Draft::to(APP, audience, DataKind::Text, "hello".into())
    }
}

fn publication(channels: &[&str], offset: u64, excluded: Option<Slot>) -> Arc<Publication> {
    tied(channels, &[], offset, excluded)
}

/// What came before it in each of its channels; nothing where that is not given.
fn tied(channels: &[&str], previous: &[u64], offset: u64, excluded: Option<Slot>) -> Arc<Publication> {
    let mut draft = draft(channels, excluded);
    draft.data = format!("hello {offset}").into();
    let mut previous = previous.iter().copied();
    Arc::new(Publication::new(draft, Moment::default(), |_| {
        link(previous.next(), offset)
    }))
}

fn heard(hub: &mut Hub, publication: &Arc<Publication>) -> Vec<Slot> {
    let mut slots = Vec::new();
    let delivered = hub.deliver(std::slice::from_ref(publication), |slot, _| slots.push(slot));
    assert!(delivered.count <= hub.reach(publication));
    assert_eq!((delivered.count, delivered.taken), (slots.len(), 1));
    slots.sort_unstable();
    slots
}

/// Sessions 0, 1, 2 … listen to the topics given for each; then one publication is heard by `expected`.
#[track_caller]
fn check(sessions: &[&[&str]], channels: &[&str], excluded: Option<Slot>, expected: &[Slot]) {
    let mut hub = Hub::default();
    for (slot, topics) in sessions.iter().enumerate() {
        let slot = to_u32(slot);
        hub.join(
            slot,
            id(slot),
            APP,
            WireForm::ALL[slot as usize % WireForm::COUNT],
        );
        for text in *topics {
            assert!(hub.subscribe(slot, &topic(text)));
        }
    }
    assert_eq!(heard(&mut hub, &publication(channels, 7, excluded)), expected);
    for slot in 0..to_u32(sessions.len()) {
        hub.leave(slot, |_| {});
    }
    assert_eq!(hub.topics_len(), 0);
    assert!(hub.apps.is_empty());
}

#[test]
fn each_session_hears_a_publication_once() {
    check(&[&["a"], &["b"], &["a", "b"]], &["a"], None, &[0, 2]);
    check(&[&["a"], &["b"], &["a", "b"]], &["a", "b"], None, &[0, 1, 2]);
    check(
        &[&["room/*"], &["room/7"], &["ALL"], &["room/*", "room/7", "ALL"]],
        &["room/7"],
        None,
        &[0, 1, 2, 3],
    );
    check(&[&["room/*"], &["x*"]], &["room/7", "room/8"], None, &[0]);
    check(&[&["a"]], &["b"], None, &[]);
    check(&[], &["a"], None, &[]);
}

#[test]
fn the_excluded_session_does_not_hear() {
    check(&[&["a"], &["a"]], &["a"], Some(1), &[0]);
    check(&[&["a", "b"], &["a", "ALL"]], &["a", "b"], Some(0), &[1]);
    check(&[&[], &["a"], &["a"]], &["*"], Some(2), &[0, 1]);
}

#[test]
fn an_announcement_reaches_who_listens_to_anything_or_nothing() {
    check(&[&["a"], &[], &["room/*"]], &["*"], None, &[0, 1, 2]);
}

#[test]
fn apps_do_not_hear_each_other() {
    let mut hub = Hub::default();
    hub.join(0, id(0), AppId::PROBE, WireForm::WebSocketRaw);
    hub.subscribe(0, &topic("a"));
    hub.join(1, id(1), APP, WireForm::WebSocketRaw);
    hub.subscribe(1, &topic("a"));
    assert_eq!(heard(&mut hub, &publication(&["a"], 1, None)), [1]);
    assert_eq!(heard(&mut hub, &publication(&["*"], 2, None)), [1]);
}

/// Session 0 listens to these topics, each after a position; a publication to these channels is at
/// place 7. Session 1 listens to `a` from the beginning.
#[track_caller]
fn check_after(topics: &[(&str, u64)], channels: &[&str], expected: &[Slot]) {
    let mut hub = Hub::default();
    for slot in [0, 1] {
        hub.join(slot, id(slot), APP, WireForm::WebSocketRaw);
    }
    hub.subscribe(1, &topic("a"));
    for (text, after) in topics {
        assert!(hub.subscribe_after(0, &topic(text), Some(position(*after))));
    }
    let got = heard(&mut hub, &publication(channels, 7, None));
    assert_eq!(got, expected, "{topics:?} {channels:?}");
}

#[test]
fn what_was_published_before_a_session_came_is_not_for_it() {
    check_after(&[("a", 6)], &["a"], &[0, 1]);
    check_after(&[("a", 7)], &["a"], &[1]);
    check_after(&[("a", 8)], &["a"], &[1]);
    check_after(&[("a", 0)], &["a"], &[0, 1]);
    // Came to `a` before place 7 and to `b` behind it: heard by the one, and once.
    check_after(&[("a", 6), ("b", 7)], &["a", "b"], &[0, 1]);
    check_after(&[("b", 7), ("a", 6)], &["b", "a"], &[0, 1]);
    check_after(&[("b", 7), ("a", 6)], &["b"], &[]);
    check_after(&[("a", 7), ("room/*", 7), ("ALL", 7)], &["a", "room/7"], &[1]);
    check_after(&[("ALL", 6)], &["a"], &[0, 1]);
    check_after(&[("a", 7)], &["*"], &[1]);
    check_after(&[("a", 6)], &["*"], &[0, 1]);
}

#[test]
fn a_subscription_may_begin_in_the_midst_of_a_run() {
    let mut hub = Hub::default();
    for (slot, after) in [(0, 0), (1, 8)] {
        hub.join(slot, id(slot), APP, WireForm::WebSocketRaw);
        hub.subscribe_after(slot, &topic("a"), Some(position(after)));
    }
    let run: Vec<_> = (7..10).map(|offset| publication(&["a"], offset, None)).collect();
    let mut heard = [Vec::new(), Vec::new()];
    let delivered = hub.deliver(&run, |slot, bytes| {
        heard[slot as usize].extend_from_slice(bytes.frame);
    });
    let frames = |run: &[Arc<Publication>]| -> Vec<u8> {
        let encode = |one: &Arc<Publication>| one.encoded(&one.places()[0], WireForm::WebSocketRaw);
        run.iter().flat_map(encode).collect()
    };
    assert_eq!((delivered.count, heard), (4, [frames(&run), frames(&run[2..])]));
}

#[test]
fn subscribing_twice_is_once() {
    let mut hub = Hub::default();
    hub.join(0, id(0), APP, WireForm::WebSocketRaw);
    assert!(hub.subscribe(0, &topic("a")));
    assert!(!hub.subscribe(0, &topic("a")));
    assert_eq!(heard(&mut hub, &publication(&["a"], 1, None)), [0]);
    assert!(hub.unsubscribe(0, &topic("a")));
    assert!(!hub.unsubscribe(0, &topic("a")));
    assert_eq!(heard(&mut hub, &publication(&["a"], 2, None)), [0_u32; 0]);
}

#[test]
fn subscribers_of_one_form_share_one_frame() {
    let mut hub = Hub::default();
    for slot in 0..3 {
        hub.join(slot, id(slot), APP, WireForm::WebSocketRaw);
        hub.subscribe(slot, &topic("a"));
    }
    let mut places = Vec::new();
    let run = [1, 2, 3].map(|offset| publication(&["a"], offset, None));
    for run in [&run[..1], &run[1..]] {
        places.clear();
        assert_eq!(
            hub.deliver(run, |_, frame| places.push(frame.frame.as_ptr()))
                .count,
            3 * run.len()
        );
        assert!(places.len() == 3 && places.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[track_caller]
fn check_runs(publications: &[(&[&str], usize)], expected: &[usize]) {
    let of_size = |(channels, bytes): &(&[&str], usize)| {
        let mut draft = draft(channels, None);
        draft.data = vec![b'x'; *bytes].into();
        Publication::new(draft, Moment::default(), |_| link(None, 1))
    };
    let all: Vec<Publication> = publications.iter().map(of_size).collect();
    let (mut rest, mut runs) = (all.as_slice(), Vec::new());
    while !rest.is_empty() {
        runs.push(Hub::run_len(rest.iter()));
        rest = &rest[runs[runs.len() - 1]..];
    }
    assert_eq!(runs, expected);
}

#[test]
fn runs_end_at_other_channels_at_announcements_and_at_their_limits() {
    check_runs(&[(&["a"], 1), (&["a"], 1), (&["b"], 1), (&["a"], 1)], &[2, 1, 1]);
    check_runs(
        &[(&["a", "b"], 1), (&["a", "b"], 1), (&["a"], 1), (&["b", "a"], 1)],
        &[2, 1, 1],
    );
    check_runs(&[(&["*"], 1), (&["*"], 1)], &[1, 1]);
    check_runs(&[(&["a"], RUN_BYTES_MAX - 1), (&["a"], 1), (&["a"], 1)], &[2, 1]);
    check_runs(&[(&["a"], RUN_BYTES_MAX + 1), (&["a"], 1)], &[1, 1]);
    check_runs(
        &[(&["a"][..], 1); RUN_PUBLICATIONS_MAX + 1],
        &[RUN_PUBLICATIONS_MAX, 1],
    );
}

/// Sessions listen to these channels, each after a position. Publications arrive: channels, what
/// came before, offset. The streams have these entries, from a place on. Who heard which?
#[track_caller]
fn check_holes(
    sessions: &[&[(&str, u64)]],
    arrivals: &[(&[&str], &[u64], u64)],
    kept: (&[(&[&str], u64)], u64),
    expected: &[&str],
) {
    let mut hub = Hub::default();
    for (slot, topics) in sessions.iter().enumerate() {
        let slot = to_u32(slot);
        hub.join(slot, id(slot), APP, WireForm::EventStreamRaw);
        for (text, after) in *topics {
            hub.subscribe_after(slot, &topic(text), Some(position(*after)));
        }
    }
    let mut heard = vec![String::new(); sessions.len()];
    let mut queue = |slot: Slot, parcel: Parcel<'_>| {
        let text = std::str::from_utf8(parcel.frame).unwrap();
        for event in text.split_terminator("\n\n") {
            let id = event.lines().next().unwrap().trim_start_matches("id: 1-");
            let what = if event.contains("event: gap") {
                "gap to "
            } else {
                ""
            };
            heard[slot as usize].extend([what, id, " "]);
        }
    };
    for (channels, previous, offset) in arrivals {
        let publication = tied(channels, previous, *offset, None);
        for round in 0.. {
            assert!(round < 4, "the same hole again");
            let delivered = hub.deliver(std::slice::from_ref(&publication), &mut queue);
            let Some(missing) = delivered.missing else { break };
            let seen = missing.seen.offset.map_or(0, Offset::get);
            let (entries, complete_after) = kept;
            let is_whole = seen >= complete_after;
            let of_channel = entries.iter().filter(|(channels, offset)| {
                *offset > seen
                    && missing
                        .channel
                        .as_ref()
                        .is_none_or(|name| channels.contains(&name.as_str()))
            });
            let replay = Replay {
                entries: of_channel
                    .filter(|_| is_whole)
                    .map(|(channels, offset)| Arc::clone(publication_entry(channels, *offset)))
                    .collect(),
                is_gap: !is_whole,
                position: position(entries.last().map_or(0, |(_, offset)| *offset)),
            };
            hub.catch_up(&missing, &replay, &mut queue, |slot| panic!("{slot} has a form"));
        }
    }
    let heard: Vec<&str> = heard.iter().map(|text| text.trim_end()).collect();
    assert_eq!(heard, expected, "{arrivals:?}");
}

fn publication_entry(channels: &[&str], offset: u64) -> &'static Arc<crate::publication::Entry> {
    let publication: &'static Publication = Box::leak(Box::new(Publication::new(
        draft(channels, None),
        Moment::default(),
        |_| link(None, offset),
    )));
    publication.entry()
}

const A: &[&str] = &["a"];
const B: &[&str] = &["b"];
const AB: &[&str] = &["a", "b"];

#[test]
fn a_publication_that_was_seen_is_dropped() {
    let nothing: (&[(&[&str], u64)], u64) = (&[], 0);
    check_holes(
        &[&[("a", 0)]],
        &[(A, &[0], 1), (A, &[0], 1), (A, &[1], 2), (A, &[0], 1)],
        nothing,
        &["1 2"],
    );
    // Seen as a publication of the one channel, and not of the other.
    check_holes(
        &[&[("a", 0)], &[("b", 0)], &[("a", 0), ("b", 0)]],
        &[(A, &[0], 1), (AB, &[1, 0], 2), (AB, &[1, 0], 2), (B, &[2], 3)],
        nothing,
        &["1 2", "2 3", "1 2 3"],
    );
}

#[test]
fn what_is_missing_is_read_once_for_all_subscribers_or_they_are_told() {
    let kept: (&[(&[&str], u64)], u64) = (&[(A, 1), (B, 2), (A, 3), (AB, 4), (A, 6)], 0);
    // 3 and 4 were lost on the way; 6 is kept already, and is what has arrived.
    check_holes(
        &[&[("a", 0)], &[("a", 3)]],
        &[(A, &[0], 1), (A, &[4], 6)],
        kept,
        &["1 3 4 6", "4 6"],
    );
    // Out of order: the later one brings both, and the earlier one is known when it comes.
    check_holes(
        &[&[("a", 1)]],
        &[(AB, &[3, 2], 4), (A, &[1], 3), (A, &[4], 6)],
        kept,
        &["3 4 6"],
    );
    // A session of both channels gets the lost publication to both only once.
    check_holes(
        &[&[("a", 0), ("b", 0)], &[("b", 0)]],
        &[(A, &[0], 1), (B, &[0], 2), (A, &[4], 6), (B, &[4], 7)],
        (&[(A, 1), (B, 2), (A, 3), (AB, 4), (A, 6), (B, 7)], 0),
        &["1 2 3 4 6 7", "2 4 7"],
    );
    // No longer kept. Who has come later is not told: he lacks nothing.
    check_holes(
        &[&[("a", 0)], &[("a", 6)]],
        &[(A, &[0], 1), (A, &[4], 6), (A, &[6], 7)],
        (&[(A, 6)], 5),
        &["1 gap to 4 6 7", "7"],
    );
    // What the stream says is older than what arrives: a gap too, and no endless reading.
    check_holes(
        &[&[("a", 0)]],
        &[(A, &[0], 1), (A, &[4], 6)],
        (&[(A, 1)], 0),
        &["1 gap to 4 6"],
    );
}

#[test]
fn frames_of_some_channels_may_be_dropped_while_they_wait() {
    let rule = |text, slow| (ChannelPattern::new(text).unwrap(), slow);
    let mut hub = Hub::new(vec![
        rule("price/*", SlowConsumer::Newest),
        rule("log/*", SlowConsumer::DropOldest),
    ]);
    hub.join(0, id(0), APP, WireForm::WebSocketMeta);
    for text in ["price/a", "price/b", "log/a", "x"] {
        hub.subscribe(0, &topic(text));
    }
    let mut offset = 0;
    let mut tag = |channel: &str, key: Option<&str>| {
        offset += 1;
        let mut draft = draft(&[channel], None);
        draft.key = key.map(|key| crate::publication::PublicationKey::new(key).unwrap());
        let publication = Arc::new(Publication::new(draft, Moment::default(), |_| link(None, offset)));
        let mut tags = Vec::new();
        hub.deliver(&[publication], |_, parcel| tags.push(parcel.tag));
        tags[0]
    };
    let price = tag("price/a", Some("eur"));
    assert_eq!(tag("price/a", Some("eur")), price);
    let others = [
        tag("price/a", None),
        tag("price/a", Some("usd")),
        tag("price/b", Some("eur")),
    ];
    assert!(others.iter().all(|other| *other != price && *other != Tag::MUST));
    assert_eq!(tag("log/a", Some("eur")), tag("log/a", None));
    assert_eq!(tag("x", Some("eur")), Tag::MUST);
    // What may be dropped is not joined with what may not.
    let run = [30, 31].map(|offset| publication(&["log/a"], offset, None));
    let mut frames = 0;
    let delivered = hub.deliver(&run, |_, _| frames += 1);
    assert_eq!((delivered.count, delivered.taken, frames), (2, 2, 2));
}

#[test]
fn a_session_without_a_form_for_a_gap_is_named() {
    let mut hub = Hub::default();
    for (slot, form) in [WireForm::WebSocketRaw, WireForm::WebSocketMeta]
        .into_iter()
        .enumerate()
    {
        hub.join(to_u32(slot), id(to_u32(slot)), APP, form);
        hub.subscribe_after(to_u32(slot), &topic("a"), Some(position(0)));
    }
    let lost = tied(A, &[4], 6, None);
    let delivered = hub.deliver(std::slice::from_ref(&lost), |_, _| panic!("not yet"));
    let nothing = Replay {
        entries: Vec::new(),
        is_gap: true,
        position: position(6),
    };
    let (mut told, mut untold) = (Vec::new(), Vec::new());
    let missing = delivered.missing.unwrap();
    hub.catch_up(
        &missing,
        &nothing,
        |slot, _| told.push(slot),
        |slot| untold.push(slot),
    );
    assert_eq!((told, untold), (vec![1], vec![0]));
}

#[derive(Clone, Debug)]
enum Step {
    Join(Slot),
    Subscribe(Slot, usize),
    Unsubscribe(Slot, usize),
    Leave(Slot),
    /// One behind the other, before anything else happens: channels, and who does not hear it.
    Publish(Vec<(usize, usize, Slot)>),
}

const TOPICS: [&str; 6] = ["a", "b", "ab", "a*", "*", "ALL"];
const CHANNELS: [&str; 3] = ["a", "b", "ab"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slot = 0_u32..6;
    let step = prop_oneof![
        slot.clone().prop_map(Step::Join),
        (slot.clone(), 0..TOPICS.len()).prop_map(|(slot, topic)| Step::Subscribe(slot, topic)),
        (slot.clone(), 0..TOPICS.len()).prop_map(|(slot, topic)| Step::Unsubscribe(slot, topic)),
        slot.prop_map(Step::Leave),
        prop::collection::vec((0..CHANNELS.len(), 0..CHANNELS.len(), 0_u32..12), 1..5)
            .prop_map(Step::Publish),
    ];
    prop::collection::vec(step, 1..120)
}

fn listens(text: &str, channel: &str) -> bool {
    match text {
        "ALL" | "*" => true,
        "a*" => channel.starts_with('a'),
        _ => text == channel,
    }
}

proptest! {
    /// Against a model that is a list of (session, topics) and knows no indexes.
    #[test]
    fn the_indexes_agree_with_a_plain_list(steps in steps()) {
        let mut hub = Hub::default();
        let mut model: BTreeMap<Slot, Vec<usize>> = BTreeMap::new();
        let mut offset = 0;
        for step in steps {
            match step {
                Step::Join(slot) => {
                    if let std::collections::btree_map::Entry::Vacant(entry) = model.entry(slot) {
                        hub.join(slot, id(slot), APP, WireForm::ALL[slot as usize % 4]);
                        entry.insert(Vec::new());
                    }
                }
                Step::Subscribe(slot, index) => if let Some(topics) = model.get_mut(&slot) {
                    prop_assert_eq!(hub.subscribe(slot, &topic(TOPICS[index])), !topics.contains(&index));
                    if !topics.contains(&index) { topics.push(index); }
                },
                Step::Unsubscribe(slot, index) => if let Some(topics) = model.get_mut(&slot) {
                    prop_assert_eq!(hub.unsubscribe(slot, &topic(TOPICS[index])), topics.contains(&index));
                    topics.retain(|known| *known != index);
                },
                Step::Leave(slot) => {
                    let mut left = 0;
                    hub.leave(slot, |_| left += 1);
                    prop_assert_eq!(left, model.remove(&slot).map_or(0, |topics| topics.len()));
                }
                Step::Publish(many) => {
                    let publications: Vec<Arc<Publication>> = many.iter().map(|(one, two, excluded)| {
                        offset += 1;
                        publication(&[CHANNELS[*one], CHANNELS[*two]], offset, Some(*excluded))
                    }).collect();
                    let mut expected: BTreeMap<Slot, Vec<u8>> = BTreeMap::new();
                    for ((one, two, excluded), publication) in many.iter().zip(&publications) {
                        let channels = [CHANNELS[*one], CHANNELS[*two]];
                        for (slot, topics) in &model {
                            if slot != excluded && topics.iter().any(|t| channels.iter().any(|c| listens(TOPICS[*t], c))) {
                                let form = WireForm::ALL[*slot as usize % 4];
                                // The first of its channels that it listens to is the one it is told.
                                let place = publication.places().iter().find(|place| topics.iter().any(|t| {
                                    listens(TOPICS[*t], place.channel.as_ref().unwrap().as_str())
                                })).unwrap();
                                expected.entry(*slot).or_default().extend(publication.encoded(place, form));
                            }
                        }
                    }
                    let mut got: BTreeMap<Slot, Vec<u8>> = BTreeMap::new();
                    let mut rest = publications.as_slice();
                    while !rest.is_empty() {
                        let (run, behind) = rest.split_at(Hub::run_len(rest.iter().map(|one| &**one)));
                        let delivered = hub.deliver(run, |slot, bytes| got.entry(slot).or_default().extend(bytes.frame));
                        prop_assert_eq!(delivered.taken, run.len());
                        rest = behind;
                    }
                    prop_assert_eq!(got, expected);
                }
            }
            let total: usize = model.values().map(Vec::len).sum();
            let held: usize = hub.topics.iter().flat_map(|(_, t)| t.by_form.iter()).map(Vec::len).sum();
            prop_assert_eq!(held, total);
        }
    }
}

#[test]
fn what_only_one_door_understands_is_for_its_sessions() {
    let mut hub = Hub::default();
    for (slot, form) in [
        (0, WireForm::WebSocketRaw),
        (1, WireForm::Pusher),
        (2, WireForm::PusherDeflate),
        (3, WireForm::Notice),
    ] {
        hub.join(slot, id(slot), APP, form);
        hub.subscribe(slot, &topic("presence-a"));
    }
    let mut draft = draft(&["presence-a"], None);
    draft.is_pusher_only = true;
    let own = Arc::new(Publication::new(draft, Moment::default(), |_| link(None, 1)));
    let common = tied(&["presence-a"], &[1], 2, None);
    assert_eq!(heard(&mut hub, &own), [1, 2]);
    assert_eq!(heard(&mut hub, &common), [0, 1, 2, 3]);
    // Not in one run with others, which are for everybody.
    assert_eq!(Hub::run_len([&*own, &*common].into_iter()), 1);
}
