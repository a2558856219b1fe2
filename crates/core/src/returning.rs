//! Listeners of the Pusher door who were cut and come back: where each of their channels goes on.
//!
//! Their protocol has no position, and their libraries cannot be changed. So the server remembers of a
//! session what has arrived ([`Returning::received`], by the pings of WebSocket that browsers answer by
//! themselves), and looks for the session that somebody goes on for:
//!
//! * **By a hint.** The page has drawn a text for itself and connects with it in the path, so all its
//!   connections have it and no other page's. Exact: a new session with the same hint takes the place of
//!   the one before at once, also if nobody has noticed yet that the old one is cut.
//! * **By user and device.** Who has shown who she is, by a signature, goes on for a session of the same
//!   user and device that was cut, or that has not answered for [`SUSPECT_AFTER`]. Two tabs cannot be told
//!   apart: where they had received different parts, whoever comes back first is given what the one
//!   lacks that has received least. So nothing is ever missing, but something may come twice.
//!
//! What was sent and not acknowledged when the connection broke may have arrived nevertheless, and comes
//! again: with either way, up to what one round trip takes may come twice, and never be missing.
//!
//! # Invariants
//!
//! * A session that has ended is remembered for the age given, and only if it did not end by its own will.
//! * A channel that was not subscribed to again stays owed: who is cut once more before that goes on where
//!   the first one was.
//!
//! Bounds: the records, by [`Returning::new`]; at the bound the oldest of those that have ended go. Channels
//! of a record are bounded by the subscriptions of a session.
//!
//! This module has no clock, no lock and no streams: it says positions, and streams say whether what came
//! behind them is still kept.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use slab::Slab;
use smallvec::SmallVec;

use crate::channel::ChannelName;
use crate::moment::Moment;
use crate::position::Position;
use crate::session_id::SessionId;
use crate::user::UserId;

/// Time without an answer to what was asked, after which a session is as good as cut.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);

/// Names a record as long as its session lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordKey {
    index: usize,
    number: u64,
}

/// Where a channel goes on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Past {
    /// All up to here has arrived.
    pub position: Position,
    /// The sessions that this one goes on for: what was not for them is not for it either.
    pub sessions: SmallVec<[SessionId; 2]>,
}

#[derive(Debug)]
struct Record<P> {
    number: u64,
    sessions: SmallVec<[SessionId; 2]>,
    place: P,
    hint: Option<Box<str>>,
    device: u64,
    users: SmallVec<[UserId; 1]>,
    received: Option<Position>,
    /// Since when an answer is missing.
    asked_at: Option<Moment>,
    /// Where each channel began; what it has received since then is in `received`.
    channels: HashMap<ChannelName, Position>,
    /// Channels of the sessions before, not subscribed to again yet.
    owed: HashMap<ChannelName, Position>,
    ended_at: Option<Moment>,
}

/// See the module's head. `P` names a connection.
#[derive(Debug)]
pub struct Returning<P> {
    records: Slab<Record<P>>,
    by_hint: HashMap<Box<str>, usize>,
    by_user: HashMap<(UserId, u64), Vec<usize>>,
    /// Records that have ended, oldest first; may hold stale ones.
    ended: VecDeque<(Moment, RecordKey)>,
    numbers: u64,
    age: Duration,
    records_max: usize,
    dropped: usize,
}

impl<P: Copy + Eq + Hash> Returning<P> {
    /// Nobody is remembered. Sessions that were cut are for `age`, `records_max` of them at most.
    pub fn new(age: Duration, records_max: usize) -> Self {
        Self {
            records: Slab::new(),
            by_hint: HashMap::new(),
            by_user: HashMap::new(),
            ended: VecDeque::new(),
            numbers: 0,
            age,
            records_max,
            dropped: 0,
        }
    }

    /// A session begins. With a hint it goes on for the one that had the hint before: returns its connection,
    /// if that still seems to be open, which is to be closed. `None` for the key: there is no room.
    pub fn begin(
        &mut self,
        hint: Option<&str>,
        device: u64,
        session: SessionId,
        place: P,
        now: Moment,
    ) -> (Option<RecordKey>, Option<P>) {
        self.expire(now);
        let before = hint.and_then(|hint| self.by_hint.get(hint).copied());
        let before = before.and_then(|index| self.remove(index));
        while self.records.len() >= self.records_max {
            let oldest = self.ended.pop_front();
            let Some((_, key)) = oldest else {
                self.dropped += 1;
                return (None, None);
            };
            if self.get(key).is_some() {
                self.dropped += 1;
                self.remove(key.index);
            }
        }
        self.numbers += 1;
        let number = self.numbers;
        let mut record = Record {
            number,
            sessions: SmallVec::from_iter([session]),
            place,
            hint: hint.map(Into::into),
            device,
            users: SmallVec::new(),
            received: None,
            asked_at: None,
            channels: HashMap::new(),
            owed: HashMap::new(),
            ended_at: None,
        };
        let mut superseded = None;
        if let Some(before) = before {
            superseded = before.ended_at.is_none().then_some(before.place);
            record.owed = before.all();
            // What is excluded was said moments ago: two sessions before are enough.
            record.sessions.extend(before.sessions.into_iter().take(2));
        }
        let index = self.records.insert(record);
        if let Some(hint) = hint {
            self.by_hint.insert(hint.into(), index);
        }
        (Some(RecordKey { index, number }), superseded)
    }

    fn get(&mut self, key: RecordKey) -> Option<&mut Record<P>> {
        self.records
            .get_mut(key.index)
            .filter(|record| record.number == key.number)
    }

    fn remove(&mut self, index: usize) -> Option<Record<P>> {
        let record = self.records.try_remove(index)?;
        if let Some(hint) = &record.hint
            && self.by_hint.get(hint) == Some(&index)
        {
            self.by_hint.remove(hint);
        }
        for user in &record.users {
            let identity = (user.clone(), record.device);
            if let Some(indices) = self.by_user.get_mut(&identity) {
                indices.retain(|other| *other != index);
                if indices.is_empty() {
                    self.by_user.remove(&identity);
                }
            }
        }
        Some(record)
    }

    /// Where a channel goes on that a session subscribes to now. `user`: who it is, where that counts for the
    /// channel.
    pub fn past(
        &mut self,
        key: RecordKey,
        channel: &ChannelName,
        user: Option<&UserId>,
        now: Moment,
    ) -> Option<Past> {
        self.expire(now);
        let record = self.get(key)?;
        let sessions = record.sessions.clone();
        if let Some(position) = record.owed.remove(channel) {
            return Some(Past { position, sessions });
        }
        let identity = (user?.clone(), record.device);
        let candidates = self.by_user.get(&identity)?.iter().filter_map(|index| {
            let record = self.records.get(*index)?;
            let is_other = record.number != key.number && record.hint.is_none();
            let is_cut = record.ended_at.is_some()
                || record.asked_at.is_some_and(|asked| now >= asked + SUSPECT_AFTER);
            let position = record.position(channel)?;
            (is_other && is_cut).then_some((position, *index))
        });
        let candidates: SmallVec<[(Position, usize); 4]> = candidates.collect();
        // Offsets of one epoch are compared; another epoch's is none that a stream would know.
        let (least, _) = *candidates.iter().min_by_key(|(position, _)| position.offset)?;
        let (_, most) = *candidates.iter().max_by_key(|(position, _)| position.offset)?;
        let mut sessions = sessions;
        for (_, index) in &candidates {
            if let Some(record) = self.records.get(*index) {
                sessions.extend(record.sessions.iter().copied());
            }
        }
        // Whoever comes next finds the rest: the one that lacks most stays to the last.
        if let Some(record) = self.records.get_mut(most) {
            record.channels.remove(channel);
            record.owed.remove(channel);
        }
        Some(Past {
            position: least,
            sessions,
        })
    }

    /// A session listens to a channel from this place on; as `user`, if that counts for the channel.
    pub fn listens(&mut self, key: RecordKey, channel: &ChannelName, user: Option<&UserId>, from: Position) {
        let Some(record) = self.get(key) else { return };
        record.channels.insert(channel.clone(), from);
        let Some(user) = user.filter(|user| !record.users.contains(user)) else {
            return;
        };
        record.users.push(user.clone());
        let identity = (user.clone(), record.device);
        self.by_user.entry(identity).or_default().push(key.index);
    }

    /// It listens to it no more, by its own will.
    pub fn forgets(&mut self, key: RecordKey, channel: &ChannelName) {
        if let Some(record) = self.get(key) {
            record.channels.remove(channel);
            record.owed.remove(channel);
        }
    }

    /// It was asked whether all up to now has arrived.
    pub fn asked(&mut self, key: RecordKey, now: Moment) {
        if let Some(record) = self.get(key) {
            record.asked_at.get_or_insert(now);
        }
    }

    /// All that it was given up to this place has arrived.
    pub fn received(&mut self, key: RecordKey, position: Position) {
        if let Some(record) = self.get(key) {
            record.received = Some(position);
            record.asked_at = None;
        }
    }

    /// A session has ended. `may_return`: not by its own will.
    pub fn end(&mut self, key: RecordKey, may_return: bool, now: Moment) {
        let Some(record) = self.get(key) else { return };
        let is_worth_it = !record.channels.is_empty() || !record.owed.is_empty();
        if may_return && is_worth_it {
            record.ended_at = Some(now);
            self.ended.push_back((now, key));
        } else {
            self.remove(key.index);
        }
        self.expire(now);
    }

    /// Forgets who was cut too long ago.
    pub fn expire(&mut self, now: Moment) {
        while let Some((at, key)) = self.ended.front().copied()
            && now >= at + self.age
        {
            self.ended.pop_front();
            if self.get(key).is_some() {
                self.remove(key.index);
            }
        }
    }

    /// How many are remembered, open ones included, and how many could not be since the last call.
    pub fn counts(&mut self) -> (usize, usize) {
        (self.records.len(), std::mem::take(&mut self.dropped))
    }
}

impl<P> Record<P> {
    /// What it has of a channel.
    fn position(&self, channel: &ChannelName) -> Option<Position> {
        match self.channels.get(channel) {
            Some(began) => Some(later(*began, self.received)),
            None => self.owed.get(channel).copied(),
        }
    }

    /// What it has of all its channels.
    fn all(&self) -> HashMap<ChannelName, Position> {
        let channels = self.channels.iter();
        let own = channels.map(|(channel, began)| (channel.clone(), later(*began, self.received)));
        let owed = self
            .owed
            .iter()
            .map(|(channel, position)| (channel.clone(), *position));
        owed.chain(own).collect()
    }
}

/// The later of two places. One of another epoch, which the order of the app has left, counts for less.
fn later(began: Position, received: Option<Position>) -> Position {
    match received {
        Some(received) if received.epoch == began.epoch && received.offset > began.offset => received,
        _ => began,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Epoch, Offset};

    const HINT: &str = "0123456789abcdef";

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(1_000 + seconds))
    }

    fn position(offset: u64) -> Position {
        Position {
            epoch: Epoch(1),
            offset: Offset::new(offset),
        }
    }

    /// A story of sessions, named by a letter. At `12 a …`, so many seconds after the start, a:
    ///
    /// `begin` or `begin hint` or `begin phone` (another device); `sub x` or `sub x u` (as a user) at the
    /// place of the last word `@7`; `past x [u]` asks; `unsub x`; `asked`; `has 9`; `cut`; `bye`.
    #[track_caller]
    fn check(story: &str) {
        let mut returning: Returning<u32> = Returning::new(Duration::from_secs(120), 9);
        let mut keys = HashMap::new();
        for (line, step) in story
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .enumerate()
        {
            let (step, expected) = step.split_once(" -> ").unwrap_or((step, ""));
            let words: Vec<&str> = step.split(' ').collect();
            let (now, who) = (at(words[0].parse().unwrap()), words[1]);
            let place = u32::from(who.as_bytes()[0]);
            let channel = || ChannelName::new(words[3]).unwrap();
            let user = || words.get(4).filter(|word| !word.starts_with('@'));
            let user = || user().map(|user| UserId::new(user).unwrap());
            let key = keys.get(who).copied();
            let got = match words[2] {
                "begin" => {
                    let hint = words.contains(&"hint").then_some(HINT);
                    let device = u64::from(words.contains(&"phone"));
                    let session = SessionId(place.into());
                    let (key, superseded) = returning.begin(hint, device, session, place, now);
                    keys.insert(who.to_owned(), key.unwrap());
                    superseded.map_or(String::new(), |place| char::from_u32(place).unwrap().to_string())
                }
                "past" => match returning.past(key.unwrap(), &channel(), user().as_ref(), now) {
                    None => "nothing".to_owned(),
                    Some(past) => {
                        let sessions = past
                            .sessions
                            .iter()
                            .map(|id| char::from_u32(id.0 as u32).unwrap());
                        let offset = past.position.offset.map_or(0, Offset::get);
                        format!("{offset} {}", sessions.collect::<String>())
                    }
                },
                "sub" => {
                    let offset = words.last().unwrap().strip_prefix('@').unwrap().parse().unwrap();
                    returning.listens(key.unwrap(), &channel(), user().as_ref(), position(offset));
                    String::new()
                }
                "unsub" => {
                    returning.forgets(key.unwrap(), &channel());
                    String::new()
                }
                "asked" => {
                    returning.asked(key.unwrap(), now);
                    String::new()
                }
                "has" => {
                    returning.received(key.unwrap(), position(words[3].parse().unwrap()));
                    String::new()
                }
                "cut" | "bye" => {
                    returning.end(key.unwrap(), words[2] == "cut", now);
                    String::new()
                }
                other => panic!("{other}"),
            };
            assert_eq!(got, expected, "step {line}: {step}");
        }
        for key in keys.into_values() {
            returning.end(key, false, at(10_000));
        }
        assert_eq!(returning.counts(), (0, 0), "{story}");
        assert!(returning.by_hint.is_empty() && returning.by_user.is_empty());
    }

    #[test]
    fn a_hint_goes_on_exactly_where_it_was() {
        check(
            "0 a begin hint
             0 a past x -> nothing
             0 a sub x @5
             1 a has 9
             2 a cut
             3 b begin hint
             3 b past x -> 9 ba
             3 b sub x @12
             3 b past x -> nothing",
        );
        // Nothing was acknowledged: from where it began.
        check("0 a begin hint\n0 a sub x @5\n1 a cut\n2 b begin hint\n2 b past x -> 5 ba");
        // Nobody has noticed that the old connection is dead.
        check("0 a begin hint\n0 a sub x @5\n0 a has 7\n1 b begin hint -> a\n1 b past x -> 7 ba\n2 a cut");
        // Cut again before it has subscribed to everything.
        check(
            "0 a begin hint
             0 a sub x @5
             0 a sub y @6
             1 a has 9
             2 a cut
             3 b begin hint
             3 b past x -> 9 ba
             3 b sub x @12
             4 b has 14
             5 b cut
             6 c begin hint
             6 c past x -> 14 cba
             6 c past y -> 9 cba",
        );
        check("0 a begin hint\n0 a sub x @5\n1 a bye\n2 b begin hint\n2 b past x -> nothing");
        check("0 a begin hint\n0 a sub x @5\n0 a unsub x\n1 a cut\n2 b begin hint\n2 b past x -> nothing");
        check("0 a begin hint\n0 a sub x @5\n1 a cut\n121 b begin hint\n121 b past x -> nothing");
        check("0 a begin hint\n0 a sub x @5\n1 a cut\n120 b begin hint\n120 b past x -> 5 ba");
        check("0 a begin\n0 a sub x @5\n1 a cut\n2 b begin\n2 b past x -> nothing");
    }

    #[test]
    fn a_user_goes_on_where_she_lacks_most() {
        check(
            "0 a begin\n0 a sub x u @5\n1 a has 9\n2 a cut\n3 b begin\n3 b past x u -> 9 ba\n3 b past x u -> nothing",
        );
        check(
            "0 a begin\n0 a sub x u @5\n2 a cut\n3 b begin\n3 b past x v -> nothing\n3 b past x -> nothing",
        );
        check("0 a begin\n0 a sub x u @5\n2 a cut\n3 b begin phone\n3 b past x u -> nothing");
        // Two tabs that were cut at different times, coming back in either order: nothing is missing.
        check(
            "0 a begin
             0 b begin
             0 a sub x u @5
             0 b sub x u @5
             1 a has 7
             1 a cut
             2 b has 9
             2 b cut
             3 c begin
             3 c past x u -> 7 cab
             4 d begin
             4 d past x u -> 7 da
             5 e begin
             5 e past x u -> nothing",
        );
        // Another tab that is open and well.
        check("0 a begin\n0 a sub x u @5\n0 a asked\n1 a has 7\n9 b begin\n9 b past x u -> nothing");
        // One that has not answered for long.
        check(
            "0 a begin\n0 a sub x u @5\n0 a has 7\n1 a asked\n3 b begin\n3 b past x u -> nothing\n4 b past x u -> 7 ba",
        );
        // A page that has a hint is found by that and not by its user.
        check("0 a begin hint\n0 a sub x u @5\n1 a cut\n2 b begin\n2 b past x u -> nothing");
    }

    #[test]
    fn at_the_bound_the_oldest_go_who_have_ended() {
        let mut returning: Returning<u32> = Returning::new(Duration::from_secs(120), 2);
        let channel = ChannelName::new("x").unwrap();
        let begin = |returning: &mut Returning<u32>, hint: &str| {
            let (key, _) = returning.begin(Some(hint), 0, SessionId(0), 0, at(0));
            key.inspect(|key| returning.listens(*key, &channel, None, position(1)))
        };
        let a = begin(&mut returning, "a").unwrap();
        begin(&mut returning, "b").unwrap();
        assert_eq!(begin(&mut returning, "c"), None);
        returning.end(a, true, at(1));
        assert!(begin(&mut returning, "c").is_some());
        assert_eq!(returning.counts(), (2, 2));
    }
}
