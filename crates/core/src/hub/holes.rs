//! What has been seen of each channel on this shard: doubles and holes in what arrives.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Hub, Member, Parcel, Seen, Slot, to_u32};
use crate::app::AppId;
use crate::channel::ChannelName;
use crate::position::{Arrival, Offset, Position};
use crate::publication::{Entry, Publication};
use crate::stream::Replay;
use crate::wire;

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

impl Hub {
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
    pub(super) fn follows(&mut self, run: &[Arc<Publication>]) -> bool {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return true;
        };
        for (at, place) in first.places().iter().enumerate() {
            let Some(seen) = self.seen_of(first.draft.app, place.channel.as_ref()) else {
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
                position = Some(publication.position());
            }
            // The usual case needs no second look-up; of several channels all must follow first.
            if first.places().len() == 1 {
                *seen = position;
            }
        }
        if first.places().len() > 1 {
            for place in first.places() {
                if let Some(seen) = self.seen_of(first.draft.app, place.channel.as_ref()) {
                    *seen = Some(last.position());
                }
            }
        }
        true
    }

    /// Looks at one publication: the places (by number) at which it was seen before, or what is
    /// missing before it. If nothing is, notes that it is seen.
    pub(super) fn judge(&mut self, publication: &Publication) -> Result<SmallVec<[usize; 2]>, Missing> {
        let mut known = SmallVec::new();
        for (at, place) in publication.places().iter().enumerate() {
            let Some(Some(seen)) = self.seen_of(publication.draft.app, place.channel.as_ref()) else {
                continue;
            };
            match seen.arrival(publication.link(place)) {
                Arrival::Next => {}
                Arrival::Duplicate => known.push(at),
                Arrival::Gap => {
                    return Err(Missing {
                        app: publication.draft.app,
                        channel: place.channel.clone(),
                        seen: *seen,
                        before: Position {
                            offset: place.previous,
                            ..publication.position()
                        },
                    });
                }
            }
        }
        for (at, place) in publication.places().iter().enumerate() {
            if !known.contains(&at)
                && let Some(seen) = self.seen_of(publication.draft.app, place.channel.as_ref())
            {
                *seen = Some(publication.position());
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
        mut queue: impl FnMut(Slot, Parcel<'_>),
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
                match wire::gap(member.form, missing.channel.as_slice(), position) {
                    Some(frame) => queue(slot, Parcel::must(&frame, member.form)),
                    None => untold(slot),
                }
                continue;
            }
            for entry in &replay.entries {
                let is_later = Some(entry.offset) > position.offset;
                if is_later || !entry.is_for(member.reader()) || member.began_after(entry.offset, index) {
                    continue;
                }
                if channel.is_some_and(|channel| self.had_elsewhere(member, entry, channel)) {
                    continue;
                }
                count += 1;
                let frame = wire::encode_entry(entry, channel, member.form);
                queue(slot, Parcel::must(&frame, member.form));
            }
        }
        if let Some(seen) = self.seen_of(missing.app, channel) {
            *seen = Some(position);
        }
        count
    }

    /// Whether a session has had an entry as a subscriber of another of its channels.
    fn had_elsewhere(&self, member: &Member, entry: &Entry, channel: &ChannelName) -> bool {
        entry
            .draft
            .audience
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
}
