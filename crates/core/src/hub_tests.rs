//! Conversations with a hub: who joins, what is published, who hears it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::position::{Epoch, Link};
use crate::publication::{Audience, DataKind, Draft};

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

fn publication(channels: &[&str], offset: u64, excluded: Option<Slot>) -> Arc<Publication> {
    let audience = match channels {
        ["*"] => Audience::Everyone,
        _ => Audience::Channels(channels.iter().map(|text| name(text)).collect()),
    };
    let draft = Draft {
        audience,
        excluded: excluded.map(id),
        ..Draft::new(APP, name("x"), DataKind::Text, format!("hello {offset}").into())
    };
    let link = Link {
        epoch: Epoch(1),
        previous: None,
        offset: Offset::new(offset).unwrap(),
    };
    Arc::new(Publication::new(draft, |_| link))
}

fn heard(hub: &mut Hub, publication: &Arc<Publication>) -> Vec<Slot> {
    let mut slots = Vec::new();
    let count = hub.deliver(std::slice::from_ref(publication), |slot, _| slots.push(slot));
    assert!(count <= hub.reach(publication));
    assert_eq!(count, slots.len());
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
    for (text, after) in topics {
        assert!(hub.subscribe_after(0, &topic(text), Offset::new(*after)));
    }
    hub.subscribe(1, &topic("a"));
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
        hub.subscribe_after(slot, &topic("a"), Offset::new(after));
    }
    let run: Vec<_> = (7..10).map(|offset| publication(&["a"], offset, None)).collect();
    let mut heard = [Vec::new(), Vec::new()];
    let count = hub.deliver(&run, |slot, bytes| heard[slot as usize].extend_from_slice(bytes));
    let frames = |run: &[Arc<Publication>]| -> Vec<u8> {
        let encode = |one: &Arc<Publication>| one.encoded(&one.places()[0], WireForm::WebSocketRaw);
        run.iter().flat_map(encode).collect()
    };
    assert_eq!((count, heard), (4, [frames(&run), frames(&run[2..])]));
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
    let run = [publication(&["a"], 1, None), publication(&["a"], 2, None)];
    for run in [&run[..1], &run[..]] {
        places.clear();
        assert_eq!(
            hub.deliver(run, |_, frame| places.push(frame.as_ptr())),
            3 * run.len()
        );
        assert!(places.len() == 3 && places.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[track_caller]
fn check_runs(publications: &[(&[&str], usize)], expected: &[usize]) {
    let of_size = |(channels, bytes): &(&[&str], usize)| {
        let small = publication(channels, 1, None);
        let data = Bytes::from(vec![b'x'; *bytes]);
        let mut sized = Arc::into_inner(small).unwrap();
        sized.data = data;
        sized
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
                        hub.deliver(run, |slot, bytes| got.entry(slot).or_default().extend(bytes));
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
