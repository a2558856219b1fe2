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

fn publication(channels: &[&str], offset: u64, excluded: Option<Slot>) -> Publication {
    let audience = match channels {
        ["*"] => Audience::Everyone,
        _ => Audience::Channels(channels.iter().map(|text| name(text)).collect()),
    };
    let draft = Draft {
        audience,
        excluded: excluded.map(id),
        ..Draft::new(APP, name("x"), DataKind::Text, Bytes::from_static(b"hello"))
    };
    let link = Link {
        epoch: Epoch(1),
        previous: None,
        offset: Offset::new(offset).unwrap(),
    };
    Publication::new(draft, |_| link)
}

fn heard(hub: &mut Hub, publication: &Publication) -> Vec<Slot> {
    let mut slots = Vec::new();
    let count = hub.deliver(publication, |slot, _| slots.push(slot));
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
    let publication = publication(&["a"], 1, None);
    let mut places = Vec::new();
    hub.deliver(&publication, |_, frame| places.push(frame.as_ptr()));
    assert!(places.len() == 3 && places.windows(2).all(|pair| pair[0] == pair[1]));
}

#[derive(Clone, Debug)]
enum Step {
    Join(Slot),
    Subscribe(Slot, usize),
    Unsubscribe(Slot, usize),
    Leave(Slot),
    Publish(usize, usize),
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
        (0..CHANNELS.len(), 0..CHANNELS.len()).prop_map(|(one, two)| Step::Publish(one, two)),
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
                Step::Publish(one, two) => {
                    offset += 1;
                    let channels = [CHANNELS[one], CHANNELS[two]];
                    let expected: Vec<Slot> = model.iter()
                        .filter(|(_, topics)| topics.iter().any(|t| channels.iter().any(|c| listens(TOPICS[*t], c))))
                        .map(|(slot, _)| *slot)
                        .collect();
                    prop_assert_eq!(heard(&mut hub, &publication(&channels, offset, None)), expected);
                }
            }
            let total: usize = model.values().map(Vec::len).sum();
            let held: usize = hub.topics.iter().flat_map(|(_, t)| t.by_form.iter()).map(Vec::len).sum();
            prop_assert_eq!(held, total);
        }
    }
}
