//! Who listens to what, on one shard.
//!
//! A session listens to [`Topic`]s: exact channels, patterns, or all channels of its app. A
//! publication may have several channels; each session hears it once, however many of its
//! topics match. That is what the stamp is for: the offset of the last publication that a
//! session was given, compared only where doubles are possible at all.
//!
//! A shard may still hold publications that were ordered before a session subscribed, for others
//! who were there then. They are not for the new one, which was told the position that its
//! subscription begins at and may have heard them on another connection: see
//! [`Hub::subscribe_after`].
//!
//! A channel also knows the place that its subscribers here have seen. A publication that does not
//! follow it is not delivered: one that they have had is dropped, and where something is missing in
//! between, [`Hub::deliver`] says so, and the shard reads it from the stream, once for all of them
//! ([`Hub::catch_up`]). An engine of this process never lets that happen; one that publications
//! reach over a network does. Topics that are no channel have no such check.
//!
//! Subscribers of a topic are kept apart by wire form, so the loop over them decides nothing:
//! one frame, many slots. Publications that wait one behind the other for the same channels are
//! delivered as a *run*: their frames are joined once, and each subscriber gets one buffer.
//!
//! Invariant: `topics[t].by_form[f][place] == slot` exactly when `members[slot]` has form `f` and
//! a subscription `{ topic: t, place }`. Joining and leaving keep both sides in step in constant
//! time (leaving swaps the last subscriber into the hole).
//!
//! This module does not write, does not know sockets, permission or history, and does not count
//! beyond its own shard.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use crate::app::AppId;
use crate::channel::{ChannelName, ChannelPattern};
use crate::position::{Arrival, Offset, Position};
use crate::publication::{Publication, WireForm};
use crate::session_id::SessionId;
use crate::stream::Replay;
use crate::wire::plain;

/// A session's place in the tables of its shard. Reused after the session has left the hub.
pub type Slot = u32;

/// Most publications that are joined in one buffer.
pub const RUN_PUBLICATIONS_MAX: usize = 64;

/// Most bytes of messages that are joined in one buffer. Copying once per shard is cheaper than
/// queueing apart for each subscriber only while the copy is small beside the sending.
pub const RUN_BYTES_MAX: usize = 16 << 10;

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
    /// The highest position that a subscription of the app began after. Of what is published
    /// behind it, nobody need be asked whether it is too old for him.
    begun: Option<Offset>,
    /// What has been seen here of announcements.
    announced: Seen,
}

#[derive(Debug)]
struct Subscribers {
    app: AppId,
    topic: Topic,
    by_form: [Vec<Slot>; WireForm::COUNT],
    /// For a channel: what its subscribers here have seen of it.
    seen: Seen,
}

/// The place that has been seen; `None`: not known, so whatever comes first is right.
type Seen = Option<Position>;

/// What delivering a run has come to.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Delivered {
    /// Deliveries: publications times sessions.
    pub count: usize,
    /// Publications of the run that are done with.
    pub taken: usize,
    /// Why the next of them is not: read what is missing and call [`Hub::catch_up`], then go on.
    pub missing: Option<Missing>,
}

/// A hole in what a shard was given of a channel.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Missing {
    /// The app.
    pub app: AppId,
    /// The channel; `None` stands for announcements.
    pub channel: Option<ChannelName>,
    /// What was seen here last.
    pub seen: Position,
    /// What should have been seen before the publication that has arrived.
    pub before: Position,
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
    /// The position that it begins after.
    after: Option<Offset>,
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

    /// Lets a session listen to one more topic, and hear whatever is delivered from now on.
    /// Returns whether that is new for the session.
    pub fn subscribe(&mut self, slot: Slot, topic: &Topic) -> bool {
        self.subscribe_after(slot, topic, None)
    }

    /// The same, but what has its place at `position` or before is not for this subscription: it was
    /// published before the session came, and only waited here. `None`: not known.
    ///
    /// `position` belongs to the life of the order that the publications belong to. An engine whose
    /// order begins anew lets its sessions subscribe anew.
    pub fn subscribe_after(&mut self, slot: Slot, topic: &Topic, position: Option<Position>) -> bool {
        let Some(member) = self.members.get_mut(slot as usize).and_then(Option::as_mut) else {
            debug_assert!(false, "slot {slot} subscribes without having joined");
            return false;
        };
        let app = self.apps.entry(member.app).or_default();
        let index = app.enter(member.app, topic, &mut self.topics);
        let after = position.and_then(|position| position.offset);
        app.begun = app.begun.max(after);
        if let Some(topic) = self.topics.get_mut(index as usize)
            && topic.by_form.iter().all(Vec::is_empty)
        {
            topic.seen = position;
        }
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
            after,
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

    /// How many of the publications at the front can be delivered as one run.
    ///
    /// Those are one behind the other in the order, have the same channels, and are small: their
    /// subscribers then get one joined buffer instead of many. At least 1, unless there is none.
    pub fn run_len<'a>(mut publications: impl Iterator<Item = &'a Publication>) -> usize {
        let Some(first) = publications.next() else {
            return 0;
        };
        let mut bytes = first.data.len();
        let more = publications.take(RUN_PUBLICATIONS_MAX - 1).take_while(|next| {
            bytes = bytes.saturating_add(next.data.len());
            bytes <= RUN_BYTES_MAX && first.has_audience_of(next)
        });
        1 + more.count()
    }

    /// How many subscriptions a publication meets here: at least as many as sessions.
    pub fn reach(&self, publication: &Publication) -> usize {
        if publication.is_for_everyone() {
            return self.members.len();
        }
        let Some(app) = self.apps.get(&publication.app) else {
            return 0;
        };
        let subscribers = |index: u32| -> usize {
            let forms = &self.topics[index as usize].by_form;
            forms.iter().map(Vec::len).sum()
        };
        let names = publication
            .places()
            .iter()
            .filter_map(|place| place.channel.as_ref());
        names
            .map(|name| app.matching(name).map(subscribers).sum::<usize>())
            .sum()
    }

    /// Hands a run (see [`Self::run_len`]) to its subscribers here, each publication once to each
    /// session, in the wire form of each: calls `queue` with the session's slot and shared bytes.
    ///
    /// Costs some nanoseconds per subscriber; whoever calls this flushes later.
    pub fn deliver(&mut self, run: &[Arc<Publication>], mut queue: impl FnMut(Slot, &Bytes)) -> Delivered {
        let Some(first) = run.first() else {
            return Delivered::default();
        };
        let begun = self.apps.get(&first.app).and_then(|app| app.begun);
        let is_old = run.len() > 1 && Some(first.offset) <= begun;
        let mut all = Delivered::default();
        // One by one where they are not for all alike: some subscription may begin in the midst.
        if !is_old && self.follows(run) {
            all.count = self.deliver_run(run, &[], &mut queue);
            all.taken = run.len();
            return all;
        }
        for publication in run {
            let seen = match self.judge(publication) {
                Ok(seen) => seen,
                Err(missing) => {
                    all.missing = Some(missing);
                    break;
                }
            };
            all.count += self.deliver_run(std::slice::from_ref(publication), &seen, &mut queue);
            all.taken += 1;
        }
        all
    }

    /// What has been seen here of a place's channel, or of announcements.
    fn seen_of(&mut self, app: AppId, channel: Option<&ChannelName>) -> Option<&mut Seen> {
        let app = self.apps.get_mut(&app)?;
        let Some(channel) = channel else {
            return Some(&mut app.announced);
        };
        let index = *app.channels.get(channel)?;
        Some(&mut self.topics.get_mut(index as usize)?.seen)
    }

    /// Whether each publication of a run is what comes next in each of its channels; if so, notes
    /// that they are seen.
    fn follows(&mut self, run: &[Arc<Publication>]) -> bool {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return true;
        };
        for (at, place) in first.places().iter().enumerate() {
            let Some(seen) = self.seen_of(first.app, place.channel.as_ref()) else {
                continue;
            };
            let mut position = *seen;
            for publication in run {
                let Some(place) = publication.places().get(at) else {
                    continue;
                };
                if position.is_some_and(|seen| seen.arrival(publication.link(place)) != Arrival::Next) {
                    return false;
                }
                position = Some(publication.position);
            }
            // The usual case needs no second look-up; of several channels all must follow first.
            if first.places().len() == 1 {
                *seen = position;
            }
        }
        if first.places().len() > 1 {
            for place in first.places() {
                if let Some(seen) = self.seen_of(first.app, place.channel.as_ref()) {
                    *seen = Some(last.position);
                }
            }
        }
        true
    }

    /// Looks at one publication: the places (by number) at which it was seen before, or what is
    /// missing before it. If nothing is, notes that it is seen.
    fn judge(&mut self, publication: &Publication) -> Result<SmallVec<[usize; 2]>, Missing> {
        let mut known = SmallVec::new();
        for (at, place) in publication.places().iter().enumerate() {
            let Some(Some(seen)) = self.seen_of(publication.app, place.channel.as_ref()) else {
                continue;
            };
            match seen.arrival(publication.link(place)) {
                Arrival::Next => {}
                Arrival::Duplicate => known.push(at),
                Arrival::Gap => {
                    return Err(Missing {
                        app: publication.app,
                        channel: place.channel.clone(),
                        seen: *seen,
                        before: Position {
                            offset: place.previous,
                            ..publication.position
                        },
                    });
                }
            }
        }
        for (at, place) in publication.places().iter().enumerate() {
            if !known.contains(&at)
                && let Some(seen) = self.seen_of(publication.app, place.channel.as_ref())
            {
                *seen = Some(publication.position);
            }
        }
        Ok(known)
    }

    /// Fills a hole: hands to the subscribers of `missing.channel` what was read of its stream since
    /// `missing.seen`, as far as what has arrived, or tells them of the gap. Afterwards that is what
    /// they have seen. A replay that does not reach so far is no whole one, and counts as a gap.
    /// Calls `untold` with sessions whose wire form has no way to say that; they must not go on as if
    /// nothing were. Returns the number of deliveries.
    ///
    /// Exact for each channel. A session of several channels may have had later publications of
    /// another one before; so an engine that can lose some on the way must not let positions of one
    /// channel stand for others.
    pub fn catch_up(
        &mut self,
        missing: &Missing,
        replay: &Replay,
        mut queue: impl FnMut(Slot, &Bytes),
        mut untold: impl FnMut(Slot),
    ) -> usize {
        let channel = missing.channel.as_ref();
        let index = channel.and_then(|name| self.apps.get(&missing.app)?.channels.get(name).copied());
        if channel.is_some() && index.is_none() {
            return 0;
        }
        let slots: Vec<Slot> = match index.and_then(|index| self.topics.get(index as usize)) {
            Some(topic) => topic.by_form.iter().flatten().copied().collect(),
            None => (0..to_u32(self.members.len())).collect(),
        };
        let is_short =
            replay.position.epoch != missing.before.epoch || replay.position.offset < missing.before.offset;
        let position = missing.before;
        let is_gap = is_short || replay.is_gap;
        let mut count = 0;
        for slot in slots {
            let Some(Some(member)) = self.members.get(slot as usize) else {
                continue;
            };
            let began_later = |at: Option<Offset>| at.is_some_and(|at| member.began_after(at, index));
            if member.app != missing.app || began_later(position.offset) {
                continue;
            }
            if is_gap {
                match plain::gap(member.form, missing.channel.as_slice(), position) {
                    Some(frame) => queue(slot, &frame),
                    None => untold(slot),
                }
                continue;
            }
            for entry in &replay.entries {
                let is_later = Some(entry.offset) > position.offset;
                if is_later || entry.excluded == Some(member.id) || member.began_after(entry.offset, index) {
                    continue;
                }
                if channel.is_some_and(|channel| self.had_elsewhere(member, entry, channel)) {
                    continue;
                }
                count += 1;
                queue(slot, &plain::encode_entry(entry, channel, member.form));
            }
        }
        if let Some(seen) = self.seen_of(missing.app, channel) {
            *seen = Some(position);
        }
        count
    }

    /// Whether a session has had an entry as a subscriber of another of its channels.
    fn had_elsewhere(
        &self,
        member: &Member,
        entry: &crate::publication::Entry,
        channel: &ChannelName,
    ) -> bool {
        entry
            .channels()
            .iter()
            .filter(|other| *other != channel)
            .any(|other| {
                let topics = self.apps.get(&member.app);
                let index = topics.and_then(|app| app.channels.get(other).copied());
                let topic = index.and_then(|index| Some((index, self.topics.get(index as usize)?)));
                topic.is_some_and(|(index, topic)| {
                    let is_seen = topic.seen.is_some_and(|seen| Some(entry.offset) <= seen.offset);
                    is_seen
                        && member
                            .subscriptions
                            .iter()
                            .any(|own| own.topic == index && Some(entry.offset) > own.after)
                })
            })
    }

    /// Delivers a run of publications of which none was seen before, but at the places `known`.
    fn deliver_run(
        &mut self,
        run: &[Arc<Publication>],
        known: &[usize],
        queue: &mut impl FnMut(Slot, &Bytes),
    ) -> usize {
        let Some(last) = run.last() else { return 0 };
        if last.is_for_everyone() {
            if !known.is_empty() {
                return 0;
            }
            return run
                .iter()
                .map(|publication| self.deliver_to_everyone(publication, queue))
                .sum();
        }
        let Some(app) = self.apps.get(&last.app) else {
            return 0;
        };
        let single = last.places().len() == 1 && app.patterns.is_empty() && app.all.is_none();
        let for_all = Some(last.offset) > app.begun;
        let excluded: SmallVec<[SessionId; 4]> = run
            .iter()
            .filter_map(|publication| publication.excluded)
            .collect();
        let members = &mut self.members;
        let mut count = 0;
        for (at, place) in last.places().iter().enumerate() {
            let Some(name) = &place.channel else { continue };
            for index in app.matching(name) {
                if !known.is_empty() && known.contains(&at) {
                    continue;
                }
                for (form, slots) in WireForm::ALL.iter().zip(&self.topics[index as usize].by_form) {
                    if slots.is_empty() {
                        continue;
                    }
                    let joined = joined(run, at, *form);
                    if single && for_all && excluded.is_empty() {
                        count += slots.len() * run.len();
                        slots.iter().for_each(|&slot| queue(slot, &joined));
                        continue;
                    }
                    for &slot in slots {
                        let Some(member) = members.get_mut(slot as usize).and_then(Option::as_mut) else {
                            continue;
                        };
                        if member.stamp == Some(last.offset) {
                            continue;
                        }
                        if !for_all && member.began_after(last.offset, Some(index)) {
                            continue;
                        }
                        if !single {
                            member.stamp = Some(last.offset);
                        }
                        if !excluded.contains(&member.id) {
                            count += run.len();
                            queue(slot, &joined);
                            continue;
                        }
                        let others = run.iter().filter(|one| one.excluded != Some(member.id));
                        for (publication, place) in
                            others.filter_map(|one| Some((one, one.places().get(at)?)))
                        {
                            count += 1;
                            queue(slot, &publication.encoded(place, *form));
                        }
                    }
                }
            }
        }
        count
    }

    fn deliver_to_everyone(&self, publication: &Publication, queue: &mut impl FnMut(Slot, &Bytes)) -> usize {
        let Some(place) = publication.places().first() else {
            return 0;
        };
        let begun = self.apps.get(&publication.app).and_then(|app| app.begun);
        let for_all = Some(publication.offset) > begun;
        let mut count = 0;
        for (slot, member) in self.members.iter().enumerate() {
            let Some(member) = member else { continue };
            if !for_all && member.began_after(publication.offset, None) {
                continue;
            }
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

/// The frames of a run for one wire form, one behind the other; `at` is the channel's place.
fn joined(run: &[Arc<Publication>], at: usize, form: WireForm) -> Bytes {
    let encoded = |publication: &Publication| {
        let place = publication.places().get(at);
        place
            .map(|place| publication.encoded(place, form))
            .unwrap_or_default()
    };
    if let [only] = run {
        return encoded(only);
    }
    let mut bytes = Vec::new();
    for publication in run {
        bytes.extend_from_slice(&encoded(publication));
    }
    bytes.into()
}

impl Member {
    /// Whether a subscription, of this topic or of any, begins only after this place.
    fn began_after(&self, offset: Offset, topic: Option<u32>) -> bool {
        self.subscriptions.iter().any(|subscription| {
            topic.is_none_or(|topic| subscription.topic == topic) && Some(offset) <= subscription.after
        })
    }
}

impl AppTopics {
    /// The topics that a channel's publications concern.
    fn matching<'a>(&'a self, name: &'a ChannelName) -> impl Iterator<Item = u32> + 'a {
        let patterns = self
            .patterns
            .iter()
            .filter(|(pattern, _)| pattern.matches(name.as_str()));
        self.channels
            .get(name)
            .copied()
            .into_iter()
            .chain(patterns.map(|(_, index)| *index))
            .chain(self.all)
    }

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
            seen: None,
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
