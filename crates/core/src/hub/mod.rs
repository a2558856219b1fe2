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
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use crate::app::AppId;
use crate::channel::{ChannelName, ChannelPattern};
use crate::outbox::Tag;
use crate::position::{Offset, Position};
use crate::publication::{Publication, Reader, WireForm};
use crate::session_id::SessionId;
use crate::stream::SlowConsumer;
use crate::user::UserId;

mod holes;

pub use holes::{Delivered, Missing};

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
    /// What happens to slow consumers of which channels: the first pattern that matches decides.
    slow: Vec<(ChannelPattern, SlowConsumer)>,
    /// Hashes keys of publications, differently in every process.
    hasher: RandomState,
}

/// One frame for one session.
#[derive(Clone, Copy, Debug)]
pub struct Parcel<'a> {
    /// The bytes, shared with every other subscriber of the same form.
    pub frame: &'a Bytes,
    /// What may happen to them while they wait.
    pub tag: Tag,
    /// The session's form.
    pub form: WireForm,
    /// The channel; `None` for an announcement.
    pub channel: Option<&'a ChannelName>,
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
    /// What happens to those of them who are slow.
    slow: SlowConsumer,
}

/// The place that has been seen; `None`: not known, so whatever comes first is right.
type Seen = Option<Position>;

#[derive(Debug)]
struct Member {
    id: SessionId,
    app: AppId,
    form: WireForm,
    user: Option<UserId>,
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
    /// A hub with rules for slow consumers.
    pub fn new(slow: Vec<(ChannelPattern, SlowConsumer)>) -> Self {
        Self {
            slow,
            ..Self::default()
        }
    }

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
            user: None,
            stamp: None,
            subscriptions: SmallVec::new(),
        });
    }

    /// Says whose session it is.
    pub fn name(&mut self, slot: Slot, user: UserId) {
        if let Some(Some(member)) = self.members.get_mut(slot as usize) {
            member.user = Some(user);
        }
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
        let index = app.enter(member.app, topic, &self.slow, &mut self.topics);
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

    /// The sessions that listen to a topic here.
    pub fn subscribers(&self, app: AppId, topic: &Topic) -> Vec<Slot> {
        let index = self.apps.get(&app).and_then(|app| app.find(topic));
        let topic = index.and_then(|index| self.topics.get(index as usize));
        topic.map_or_else(Vec::new, |topic| {
            topic.by_form.iter().flatten().copied().collect()
        })
    }

    /// Whether a session listens to a topic.
    pub fn listens(&self, slot: Slot, topic: &Topic) -> bool {
        let Some(Some(member)) = self.members.get(slot as usize) else {
            return false;
        };
        let index = self.apps.get(&member.app).and_then(|app| app.find(topic));
        member.subscriptions.iter().any(|own| Some(own.topic) == index)
    }

    /// Calls `look` with each topic that a session listens to, and the last place that is not for it.
    pub fn each_topic(&self, slot: Slot, mut look: impl FnMut(&Topic, Option<Offset>)) {
        let member = self.members.get(slot as usize).and_then(Option::as_ref);
        for own in member.map_or(&[][..], |member| &member.subscriptions) {
            if let Some(topic) = self.topics.get(own.topic as usize) {
                look(&topic.topic, own.after);
            }
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
        let mut bytes = first.draft.data.len();
        let more = publications.take(RUN_PUBLICATIONS_MAX - 1).take_while(|next| {
            bytes = bytes.saturating_add(next.draft.data.len());
            bytes <= RUN_BYTES_MAX && first.has_audience_of(next)
        });
        1 + more.count()
    }

    /// How many subscriptions a publication meets here: at least as many as sessions.
    pub fn reach(&self, publication: &Publication) -> usize {
        if publication.is_for_everyone() {
            return self.members.len();
        }
        let Some(app) = self.apps.get(&publication.draft.app) else {
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
    pub fn deliver(
        &mut self,
        run: &[Arc<Publication>],
        mut queue: impl FnMut(Slot, Parcel<'_>),
    ) -> Delivered {
        let Some(first) = run.first() else {
            return Delivered::default();
        };
        let begun = self.apps.get(&first.draft.app).and_then(|app| app.begun);
        let is_old = run.len() > 1 && Some(first.offset) <= begun;
        let mut all = Delivered::default();
        // One by one where they are not for all alike: some subscription may begin in the midst, or
        // some of them may be dropped while they wait.
        let is_loose = !self.slow.is_empty() && run.len() > 1 && self.is_loose(first);
        if !is_old && !is_loose && self.follows(run) {
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

    /// Whether slow consumers of one of a publication's channels are not simply closed.
    fn is_loose(&self, publication: &Publication) -> bool {
        let app = self.apps.get(&publication.draft.app);
        publication.places().iter().any(|place| {
            let index = place
                .channel
                .as_ref()
                .and_then(|name| app?.channels.get(name).copied());
            let topic = index.and_then(|index| self.topics.get(index as usize));
            topic.is_some_and(|topic| topic.slow != SlowConsumer::Close)
        })
    }

    /// Delivers a run of publications of which none was seen before, but at the places `known`.
    fn deliver_run(
        &mut self,
        run: &[Arc<Publication>],
        known: &[usize],
        queue: &mut impl FnMut(Slot, Parcel<'_>),
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
        let Some(app) = self.apps.get(&last.draft.app) else {
            return 0;
        };
        let single = last.places().len() == 1 && app.patterns.is_empty() && app.all.is_none();
        let for_all = Some(last.offset) > app.begun;
        // Sessions that are left out are many where people talk; users are rare.
        let excluded: SmallVec<[SessionId; 4]> = run.iter().filter_map(|one| one.draft.excluded).collect();
        let has_except = run.iter().any(|publication| publication.draft.except.is_some());
        let members = &mut self.members;
        let mut count = 0;
        for (at, place) in last.places().iter().enumerate() {
            let Some(name) = &place.channel else { continue };
            for index in app.matching(name) {
                let tag = match self.topics[index as usize].slow {
                    SlowConsumer::Close => Tag::MUST,
                    SlowConsumer::Newest => Tag::newest(self.hasher.hash_one((index, &last.draft.key))),
                    SlowConsumer::DropOldest => Tag::oldest(index),
                };
                if !known.is_empty() && known.contains(&at) {
                    continue;
                }
                for (form, slots) in WireForm::ALL.iter().zip(&self.topics[index as usize].by_form) {
                    if slots.is_empty() || (last.draft.is_pusher_only && !form.is_pusher()) {
                        continue;
                    }
                    let joined = joined(run, at, *form);
                    let parcel = Parcel {
                        frame: &joined,
                        tag,
                        form: *form,
                        channel: Some(name),
                    };
                    if single && for_all && excluded.is_empty() && !has_except {
                        count += slots.len() * run.len();
                        slots.iter().for_each(|&slot| queue(slot, parcel));
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
                        let is_left_out = excluded.contains(&member.id)
                            || (has_except && !run.iter().all(|one| one.is_for(member.reader())));
                        if !is_left_out {
                            count += run.len();
                            queue(slot, parcel);
                            continue;
                        }
                        let others = run.iter().filter(|one| one.is_for(member.reader()));
                        for (publication, place) in
                            others.filter_map(|one| Some((one, one.places().get(at)?)))
                        {
                            count += 1;
                            let frame = publication.encoded(place, *form);
                            queue(
                                slot,
                                Parcel {
                                    frame: &frame,
                                    ..parcel
                                },
                            );
                        }
                    }
                }
            }
        }
        count
    }

    fn deliver_to_everyone(
        &self,
        publication: &Publication,
        queue: &mut impl FnMut(Slot, Parcel<'_>),
    ) -> usize {
        let Some(place) = publication.places().first() else {
            return 0;
        };
        let begun = self.apps.get(&publication.draft.app).and_then(|app| app.begun);
        let for_all = Some(publication.offset) > begun;
        let mut count = 0;
        for (slot, member) in self.members.iter().enumerate() {
            let Some(member) = member else { continue };
            if !for_all && member.began_after(publication.offset, None) {
                continue;
            }
            let is_heard = member.form.is_pusher() || !publication.draft.is_pusher_only;
            if is_heard && member.app == publication.draft.app && publication.is_for(member.reader()) {
                count += 1;
                let frame = publication.encoded(place, member.form);
                queue(to_u32(slot), Parcel::must(&frame, member.form));
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

impl<'a> Parcel<'a> {
    fn must(frame: &'a Bytes, form: WireForm) -> Self {
        Self {
            frame,
            tag: Tag::MUST,
            form,
            channel: None,
        }
    }
}

impl Member {
    fn reader(&self) -> Reader<'_> {
        Reader {
            session: Some(self.id),
            user: self.user.as_ref(),
        }
    }

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

    fn enter(
        &mut self,
        app: AppId,
        topic: &Topic,
        slow: &[(ChannelPattern, SlowConsumer)],
        topics: &mut Slab<Subscribers>,
    ) -> u32 {
        if let Some(index) = self.find(topic) {
            return index;
        }
        let entry = Subscribers {
            app,
            topic: topic.clone(),
            by_form: Default::default(),
            seen: None,
            slow: match topic {
                Topic::Channel(name) => slow
                    .iter()
                    .find(|(pattern, _)| pattern.matches(name.as_str()))
                    .map_or(SlowConsumer::Close, |(_, slow)| *slow),
                Topic::Pattern(_) | Topic::All => SlowConsumer::Close,
            },
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
mod tests;
