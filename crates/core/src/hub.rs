//! Who listens to what, on one shard.
//!
//! A session listens to [`Topic`]s: exact channels, patterns, or all channels of its app. A
//! publication may have several channels; each session hears it once, however many of its
//! topics match. That is what the stamp is for: the offset of the last publication that a
//! session was given, compared only where doubles are possible at all.
//!
//! Subscribers of a topic are kept apart by wire form, so the loop over them decides nothing:
//! one frame, many slots.
//!
//! Invariant: `topics[t].by_form[f][place] == slot` exactly when `members[slot]` has form `f` and
//! a subscription `{ topic: t, place }`. Joining and leaving keep both sides in step in constant
//! time (leaving swaps the last subscriber into the hole).
//!
//! This module does not write, does not know sockets, permission or history, and does not count
//! beyond its own shard.

use std::collections::HashMap;

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use crate::app::AppId;
use crate::channel::{ChannelName, ChannelPattern};
use crate::position::Offset;
use crate::publication::{Place, Publication, WireForm};
use crate::session::SessionId;

/// A session's place in the tables of its shard. Reused after the session has left the hub.
pub type Slot = u32;

/// What a session can listen to.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Topic {
    /// One channel.
    Channel(ChannelName),
    /// The channels that match a pattern.
    Pattern(ChannelPattern),
    /// Every channel of the app.
    All,
}

/// The subscriptions of one shard.
#[derive(Debug, Default)]
pub struct Hub {
    apps: HashMap<AppId, AppTopics>,
    topics: Slab<Subscribers>,
    members: Vec<Option<Member>>,
}

/// Index from what a publication has to the subscribers it concerns.
#[derive(Debug, Default)]
struct AppTopics {
    channels: HashMap<ChannelName, u32>,
    /// Distinct patterns. Scanned for every publication of the app, hence few.
    patterns: Vec<(ChannelPattern, u32)>,
    all: Option<u32>,
}

#[derive(Debug)]
struct Subscribers {
    app: AppId,
    topic: Topic,
    by_form: [Vec<Slot>; WireForm::COUNT],
}

#[derive(Debug)]
struct Member {
    id: SessionId,
    app: AppId,
    form: WireForm,
    /// Offset of the last publication given to this session, where doubles were possible.
    stamp: Option<Offset>,
    subscriptions: SmallVec<[Subscription; 1]>,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    topic: u32,
    place: u32,
}

impl Hub {
    /// Enters a session that listens to nothing yet.
    pub fn join(&mut self, slot: Slot, id: SessionId, app: AppId, form: WireForm) {
        let index = slot as usize;
        if self.members.len() <= index {
            self.members.resize_with(index + 1, || None);
        }
        debug_assert!(self.members[index].is_none(), "slot {slot} joined twice");
        self.members[index] = Some(Member {
            id,
            app,
            form,
            stamp: None,
            subscriptions: SmallVec::new(),
        });
    }

    /// Lets a session listen to one more topic. Returns whether that is new for the session.
    pub fn subscribe(&mut self, slot: Slot, topic: &Topic) -> bool {
        let Some(member) = self.members.get_mut(slot as usize).and_then(Option::as_mut) else {
            debug_assert!(false, "slot {slot} subscribes without having joined");
            return false;
        };
        let index = self
            .apps
            .entry(member.app)
            .or_default()
            .enter(member.app, topic, &mut self.topics);
        if member
            .subscriptions
            .iter()
            .any(|subscription| subscription.topic == index)
        {
            return false;
        }
        let slots = &mut self.topics[index as usize].by_form[member.form as usize];
        member.subscriptions.push(Subscription {
            topic: index,
            place: to_u32(slots.len()),
        });
        slots.push(slot);
        true
    }

    /// Ends one subscription. Returns whether there was one.
    pub fn unsubscribe(&mut self, slot: Slot, topic: &Topic) -> bool {
        let Some(member) = self.members.get_mut(slot as usize).and_then(Option::as_mut) else {
            return false;
        };
        let Some(index) = self.apps.get(&member.app).and_then(|app| app.find(topic)) else {
            return false;
        };
        let Some(at) = member.subscriptions.iter().position(|s| s.topic == index) else {
            return false;
        };
        let subscription = member.subscriptions.swap_remove(at);
        let form = member.form;
        self.leave_topic(subscription, form);
        true
    }

    /// Removes a session, and tells `left` each topic it had listened to.
    pub fn leave(&mut self, slot: Slot, mut left: impl FnMut(&Topic)) {
        let Some(member) = self.members.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        for subscription in member.subscriptions {
            left(&self.topics[subscription.topic as usize].topic);
            self.leave_topic(subscription, member.form);
        }
    }

    /// How many topics a session listens to.
    pub fn subscriptions(&self, slot: Slot) -> usize {
        self.members
            .get(slot as usize)
            .and_then(Option::as_ref)
            .map_or(0, |member| member.subscriptions.len())
    }

    /// The name of a channel as this hub already holds it, so that copies share one text.
    pub fn intern(&self, app: AppId, name: &ChannelName) -> ChannelName {
        let known = self
            .apps
            .get(&app)
            .and_then(|app| app.channels.get_key_value(name));
        known.map_or_else(|| name.clone(), |(known, _)| known.clone())
    }

    /// How many distinct topics have subscribers here.
    pub fn topics_len(&self) -> usize {
        self.topics.len()
    }

    /// Hands `publication` to its subscribers here, each once, in the wire form of each: calls
    /// `queue` with the session's slot and the shared frame. Returns how many sessions that was.
    ///
    /// Costs some nanoseconds per subscriber; whoever calls this flushes later.
    pub fn deliver(&mut self, publication: &Publication, mut queue: impl FnMut(Slot, &Bytes)) -> usize {
        if publication.is_for_everyone() {
            return self.deliver_to_everyone(publication, queue);
        }
        let Some(app) = self.apps.get(&publication.app) else {
            return 0;
        };
        let single = publication.places().len() == 1 && app.patterns.is_empty() && app.all.is_none();
        let members = &mut self.members;
        let topics = &self.topics;
        let mut count = 0;
        let mut deliver_topic = |index: u32, place: &Place| {
            for form in WireForm::ALL {
                let slots = &topics[index as usize].by_form[form as usize];
                if slots.is_empty() {
                    continue;
                }
                let frame = publication.encoded(place, form);
                if single && publication.excluded.is_none() {
                    count += slots.len();
                    slots.iter().for_each(|&slot| queue(slot, &frame));
                    continue;
                }
                for &slot in slots {
                    let Some(member) = members.get_mut(slot as usize).and_then(Option::as_mut) else {
                        continue;
                    };
                    if publication.excluded == Some(member.id) || member.stamp == Some(publication.offset) {
                        continue;
                    }
                    if !single {
                        member.stamp = Some(publication.offset);
                    }
                    count += 1;
                    queue(slot, &frame);
                }
            }
        };
        for place in publication.places() {
            let Some(name) = &place.channel else { continue };
            if let Some(&index) = app.channels.get(name) {
                deliver_topic(index, place);
            }
            for (pattern, index) in &app.patterns {
                if pattern.matches(name.as_str()) {
                    deliver_topic(*index, place);
                }
            }
            if let Some(index) = app.all {
                deliver_topic(index, place);
            }
        }
        count
    }

    fn deliver_to_everyone(&self, publication: &Publication, mut queue: impl FnMut(Slot, &Bytes)) -> usize {
        let Some(place) = publication.places().first() else {
            return 0;
        };
        let mut count = 0;
        for (slot, member) in self.members.iter().enumerate() {
            let Some(member) = member else { continue };
            if member.app == publication.app && publication.excluded != Some(member.id) {
                count += 1;
                queue(to_u32(slot), &publication.encoded(place, member.form));
            }
        }
        count
    }

    fn leave_topic(&mut self, subscription: Subscription, form: WireForm) {
        let entry = &mut self.topics[subscription.topic as usize];
        let slots = &mut entry.by_form[form as usize];
        slots.swap_remove(subscription.place as usize);
        // Who stood last now stands in the hole, and must know.
        if let Some(&moved) = slots.get(subscription.place as usize)
            && let Some(member) = self.members.get_mut(moved as usize).and_then(Option::as_mut)
            && let Some(own) = member
                .subscriptions
                .iter_mut()
                .find(|s| s.topic == subscription.topic)
        {
            own.place = subscription.place;
        }
        if slots.is_empty() {
            *slots = Vec::new();
        }
        if entry.by_form.iter().all(Vec::is_empty) {
            let entry = self.topics.remove(subscription.topic as usize);
            if let Some(app) = self.apps.get_mut(&entry.app) {
                app.forget(&entry.topic);
                if app.is_empty() {
                    self.apps.remove(&entry.app);
                }
            }
        }
    }
}

impl AppTopics {
    fn find(&self, topic: &Topic) -> Option<u32> {
        match topic {
            Topic::Channel(name) => self.channels.get(name).copied(),
            Topic::Pattern(pattern) => self
                .patterns
                .iter()
                .find(|(known, _)| known == pattern)
                .map(|(_, index)| *index),
            Topic::All => self.all,
        }
    }

    fn enter(&mut self, app: AppId, topic: &Topic, topics: &mut Slab<Subscribers>) -> u32 {
        if let Some(index) = self.find(topic) {
            return index;
        }
        let entry = Subscribers {
            app,
            topic: topic.clone(),
            by_form: Default::default(),
        };
        let index = to_u32(topics.insert(entry));
        match topic {
            Topic::Channel(name) => drop(self.channels.insert(name.clone(), index)),
            Topic::Pattern(pattern) => self.patterns.push((pattern.clone(), index)),
            Topic::All => self.all = Some(index),
        }
        index
    }

    fn forget(&mut self, topic: &Topic) {
        match topic {
            Topic::Channel(name) => drop(self.channels.remove(name)),
            Topic::Pattern(pattern) => self.patterns.retain(|(known, _)| known != pattern),
            Topic::All => self.all = None,
        }
    }

    fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty() && self.all.is_none()
    }
}

/// Slots and topics are bounded by open files and `limits.channels_max`, far below this.
fn to_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
