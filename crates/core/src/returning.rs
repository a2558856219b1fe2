//! Listeners of the Pusher door who were cut and come back: where each of their channels goes on.
//!
//! Their protocol has no position, and their libraries cannot be changed. So the server remembers of a
//! session what has arrived ([`Returning::received`], by the pings of WebSocket that browsers answer by
//! themselves), and looks for the session that somebody goes on for:
//!
//! * **By a hint.** The page has drawn a text for itself and connects with it in the path, so all its
//!   connections have it and no other page's. Exact: a new session with the same hint takes the place of
//!   the one before at once, also if nobody has noticed yet that the old one is cut.
//! * **By user and device.** Who has shown who she is, by a signature, goes on for the sessions of the same
//!   user and device that were cut, or owe an answer. Tabs cannot be told apart, nor a page that is new from
//!   one that comes back: each is given what the one lacks that has received least, as long as that is
//!   remembered. So nothing is ever missing, but something may come twice.
//!
//! What was sent and not acknowledged when the connection broke may have arrived nevertheless, and comes
//! again: with either way, up to what one round trip takes may come twice, and never be missing.
//!
//! # Invariants
//!
//! * A session that has ended is remembered for the age given, and only if it did not end by its own will.
//! * Where it cannot be said whether something was missed, that is said: of sessions that were forgotten for
//!   want of room or because of their age, and of those that could not be remembered.
//! * A channel that was not subscribed to again stays owed: who is cut once more before that goes on where
//!   the first one was. So does what was given again and not acknowledged.
//!
//! Bounds: [`Bounds`]. At the number of records the oldest of those that have ended go, and if there is none
//! a session is not remembered; at the number of channels no further one is. Of hints that were forgotten
//! that is remembered for an hour, as many as there may be records.
//!
//! This module has no clock, no lock and no streams: it says positions, and streams say whether what came
//! behind them is still kept.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::time::Duration;

use slab::Slab;
use smallvec::SmallVec;

use crate::channel::ChannelName;
use crate::moment::Moment;
use crate::position::Position;
use crate::session_id::SessionId;
use crate::user::UserId;

/// Time without an answer to what was asked, after which a session is as good as cut and may be closed.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);

/// Time for which it is remembered that a hint was forgotten.
const FORGOTTEN_AGE: Duration = Duration::from_hours(1);

/// How much is remembered of one app.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Time for which a session that was cut can be gone on for, and for which a channel stays owed.
    pub age: Duration,
    /// Sessions, open ones included.
    pub records_max: usize,
    /// Channels of one session, with those that are owed.
    pub channels_per_record_max: usize,
    /// Channels of all sessions together.
    pub channels_max: usize,
}

/// Where a session began to listen to a channel.
#[derive(Clone, Copy, Debug)]
struct Began {
    /// Up to there all had arrived before.
    from: Position,
    /// What was given at the beginning goes up to there.
    at: Position,
    /// Receipts that had been asked for until then: only a later one says that what was given at the
    /// beginning has arrived.
    receipts: u64,
}

/// Names a record as long as its session lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordKey {
    index: usize,
    number: u64,
}

/// A session that begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Begun<P> {
    /// Its record; `None`: there is no room for one.
    pub key: Option<RecordKey>,
    /// The connection that had the hint before, if it seems to be dead although it is open.
    pub superseded: Option<P>,
    /// It goes on for one that was forgotten, or may.
    pub is_doubtful: bool,
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
    /// Receipts that were asked for.
    receipts: u64,
    /// The last one that came, and what it stands for.
    received: Option<(u64, Option<Position>)>,
    /// Since when an answer is missing.
    asked_at: Option<Moment>,
    channels: HashMap<ChannelName, Began>,
    /// Channels of the sessions before, not subscribed to again yet, each until then.
    owed: HashMap<ChannelName, (Position, Moment)>,
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
    /// Hints that were forgotten, hashed, and until when that is remembered; in that order too.
    forgotten: HashMap<u64, Moment>,
    forgotten_queue: VecDeque<(Moment, u64)>,
    /// Until then users may come back who were forgotten for want of room.
    users_doubtful_until: Moment,
    hasher: RandomState,
    /// Channels of all records.
    channels: usize,
    bounds: Bounds,
    dropped: usize,
}

impl<P: Copy + Eq + Hash> Returning<P> {
    /// Nobody is remembered.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            records: Slab::new(),
            by_hint: HashMap::new(),
            by_user: HashMap::new(),
            ended: VecDeque::new(),
            numbers: 0,
            forgotten: HashMap::new(),
            forgotten_queue: VecDeque::new(),
            users_doubtful_until: Moment::default(),
            hasher: RandomState::new(),
            channels: 0,
            bounds,
            dropped: 0,
        }
    }

    /// A session begins. With a hint it goes on for the one that had the hint before.
    pub fn begin(
        &mut self,
        hint: Option<&str>,
        device: u64,
        session: SessionId,
        place: P,
        now: Moment,
    ) -> Begun<P> {
        self.expire(now);
        let hash = hint.map(|hint| self.hasher.hash_one(hint));
        let mut begun = Begun {
            key: None,
            superseded: None,
            is_doubtful: match hash {
                Some(hash) => self.forgotten.contains_key(&hash),
                None => now < self.users_doubtful_until,
            },
        };
        let before = hint.and_then(|hint| self.by_hint.get(hint).copied());
        let before = before.and_then(|index| self.remove(index));
        if self.records.len() >= self.bounds.records_max && !self.make_room(now) {
            self.dropped += 1;
            begun.is_doubtful = true;
            if let Some(hash) = hash {
                self.note_forgotten(hash, now);
            }
            return begun;
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
            receipts: 0,
            received: None,
            asked_at: None,
            channels: HashMap::new(),
            owed: HashMap::new(),
            ended_at: None,
        };
        if let Some(before) = before {
            let is_dead = before.asked_at.is_some_and(|asked| now >= asked + SUSPECT_AFTER);
            begun.superseded = (before.ended_at.is_none() && is_dead).then_some(before.place);
            // What is excluded was said moments ago: two sessions before are enough.
            record.sessions.extend(before.sessions.iter().copied().take(2));
            record.owed = before.into_owed(now, now + self.bounds.age);
            self.channels += record.owed.len();
        }
        let index = self.records.insert(record);
        if let Some(hint) = hint {
            self.by_hint.insert(hint.into(), index);
        }
        begun.key = Some(RecordKey { index, number });
        begun
    }

    /// Forgets the oldest record that has ended; says whether there was one.
    fn make_room(&mut self, now: Moment) -> bool {
        while let Some((_, key)) = self.ended.pop_front() {
            if self.get(key).is_some() {
                self.dropped += 1;
                self.forget(key, now);
                self.users_doubtful_until = now + self.bounds.age;
                return true;
            }
        }
        false
    }

    /// Forgets a record that somebody may come back for.
    fn forget(&mut self, key: RecordKey, now: Moment) {
        if let Some(hint) = self.remove(key.index).and_then(|record| record.hint) {
            self.note_forgotten(self.hasher.hash_one(&*hint), now);
        }
    }

    fn note_forgotten(&mut self, hint: u64, now: Moment) {
        let until = now + FORGOTTEN_AGE;
        self.forgotten.insert(hint, until);
        self.forgotten_queue.push_back((until, hint));
        while self.forgotten_queue.len() > self.bounds.records_max {
            self.drop_forgotten();
        }
    }

    fn drop_forgotten(&mut self) {
        if let Some((until, hint)) = self.forgotten_queue.pop_front()
            && self.forgotten.get(&hint) == Some(&until)
        {
            self.forgotten.remove(&hint);
        }
    }

    fn get(&mut self, key: RecordKey) -> Option<&mut Record<P>> {
        self.records
            .get_mut(key.index)
            .filter(|record| record.number == key.number)
    }

    fn remove(&mut self, index: usize) -> Option<Record<P>> {
        let record = self.records.try_remove(index)?;
        self.channels -= record.channels.len() + record.owed.len();
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

    /// Where a channel goes on that a session is about to subscribe to. `user`: who it is, where that counts
    /// for the channel. Changes nothing: [`Self::listens`] follows when it does.
    pub fn past(
        &mut self,
        key: RecordKey,
        channel: &ChannelName,
        user: Option<&UserId>,
        now: Moment,
    ) -> Option<Past> {
        self.expire(now);
        let record = self.get(key)?;
        let mut sessions = record.sessions.clone();
        if let Some((position, _)) = record.owed.get(channel).filter(|(_, until)| now < *until) {
            let position = *position;
            return Some(Past { position, sessions });
        }
        let candidates = self.candidates(key, channel, user?);
        let (position, _) = *candidates.iter().min_by_key(|(position, _)| position.offset)?;
        for (_, index) in &candidates {
            if let Some(record) = self.records.get(*index) {
                sessions.extend(record.sessions.iter().copied());
            }
        }
        Some(Past { position, sessions })
    }

    /// Whether a channel was owed to a session for too long: nobody can say what it has missed there.
    pub fn is_forgotten(&mut self, key: RecordKey, channel: &ChannelName, now: Moment) -> bool {
        let record = self.get(key);
        let owed = record.and_then(|record| record.owed.get(channel));
        owed.is_some_and(|(_, until)| now >= *until)
    }

    /// Sessions of the same user and device that were cut and had the channel: where each of them was.
    fn candidates(
        &self,
        key: RecordKey,
        channel: &ChannelName,
        user: &UserId,
    ) -> SmallVec<[(Position, usize); 4]> {
        let device = self.records.get(key.index).map_or(0, |record| record.device);
        let indices = self.by_user.get(&(user.clone(), device)).into_iter().flatten();
        let candidates = indices.filter_map(|index| {
            let record = self.records.get(*index)?;
            let is_other = record.number != key.number && record.hint.is_none();
            // One that is well and has only not answered yet is taken for cut: rather twice than never.
            let is_cut = record.ended_at.is_some() || record.asked_at.is_some();
            let position = record.position(channel)?;
            (is_other && is_cut).then_some((position, *index))
        });
        candidates.collect()
    }

    /// A session listens to a channel from `at` on, as `user` if that counts for the channel. `from`: all up to
    /// there has arrived, which is the place of [`Self::past`], if there was one, until a receipt says that it
    /// is all up to `at`.
    pub fn listens(
        &mut self,
        key: RecordKey,
        channel: &ChannelName,
        user: Option<&UserId>,
        from: Position,
        at: Position,
    ) {
        let bounds = self.bounds;
        let has_room = self.channels < bounds.channels_max;
        let Some(record) = self.get(key) else { return };
        let freed = record.forget(channel);
        let count = record.channels.len() + record.owed.len();
        let fits = (has_room || freed > 0) && count < bounds.channels_per_record_max;
        if fits {
            let receipts = record.receipts;
            let began = Began { from, at, receipts };
            record.channels.insert(channel.clone(), began);
        }
        let new = user.filter(|user| fits && !record.users.contains(user));
        if let Some(user) = new {
            record.users.push(user.clone());
            let identity = (user.clone(), record.device);
            self.by_user.entry(identity).or_default().push(key.index);
        }
        self.channels = self.channels + usize::from(fits) - freed;
        self.dropped += usize::from(!fits);
    }

    /// Whether it is remembered what a session receives of a channel.
    pub fn listens_to(&self, key: RecordKey, channel: &ChannelName) -> bool {
        let record = self.records.get(key.index);
        let record = record.filter(|record| record.number == key.number);
        record.is_some_and(|record| record.channels.contains_key(channel))
    }

    /// Whether a session has listened to a channel since before this place, so that what stands there was its
    /// already.
    pub fn covers(&self, key: RecordKey, channel: &ChannelName, place: Position) -> bool {
        let record = self.records.get(key.index);
        let record = record.filter(|record| record.number == key.number);
        let began = record.and_then(|record| record.channels.get(channel));
        began.is_some_and(|began| began.from.epoch == place.epoch && began.from.offset < place.offset)
    }

    /// It listens to it no more, by its own will.
    pub fn forgets(&mut self, key: RecordKey, channel: &ChannelName) {
        if let Some(record) = self.get(key) {
            let freed = record.forget(channel);
            self.channels -= freed;
        }
    }

    /// It was asked whether all up to now has arrived.
    pub fn asked(&mut self, key: RecordKey, now: Moment) {
        if let Some(record) = self.get(key) {
            record.receipts += 1;
            record.asked_at.get_or_insert(now);
        }
    }

    /// The answer to what was asked last: what it was given has arrived, of each channel up to this place, or
    /// to where it began.
    pub fn received(&mut self, key: RecordKey, position: Option<Position>) {
        if let Some(record) = self.get(key) {
            record.received = Some((record.receipts, position));
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
            && now >= at + self.bounds.age
        {
            self.ended.pop_front();
            if self.get(key).is_some() {
                self.forget(key, now);
            }
        }
        while let Some((until, _)) = self.forgotten_queue.front()
            && now >= *until
        {
            self.drop_forgotten();
        }
    }

    /// How many are remembered, open ones included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many sessions or channels could not be remembered since the last call.
    pub fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }
}

impl<P> Record<P> {
    /// What it has of a channel.
    fn position(&self, channel: &ChannelName) -> Option<Position> {
        match self.channels.get(channel) {
            Some(began) => Some(self.reached(*began)),
            None => self.owed.get(channel).map(|(position, _)| *position),
        }
    }

    /// What it has of a channel that began there.
    fn reached(&self, began: Began) -> Position {
        match self.received {
            Some((receipt, received)) if receipt > began.receipts => match received {
                Some(received) if received.epoch == began.at.epoch && received.offset > began.at.offset => {
                    received
                }
                _ => began.at,
            },
            _ => began.from,
        }
    }

    /// Says how many entries that were.
    fn forget(&mut self, channel: &ChannelName) -> usize {
        let channels = usize::from(self.channels.remove(channel).is_some());
        channels + usize::from(self.owed.remove(channel).is_some())
    }

    /// What it has of all its channels: of those that it listened to until now, for so long.
    fn into_owed(mut self, now: Moment, until: Moment) -> HashMap<ChannelName, (Position, Moment)> {
        let mut owed = std::mem::take(&mut self.owed);
        owed.retain(|_, (_, until)| now < *until);
        for (channel, began) in std::mem::take(&mut self.channels) {
            let position = self.reached(began);
            owed.insert(channel, (position, until));
        }
        owed
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

    fn bounds(records_max: usize) -> Bounds {
        Bounds {
            age: Duration::from_mins(2),
            records_max,
            channels_per_record_max: 3,
            channels_max: 5,
        }
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
    /// place of the last word `@7`; `past x [u]` asks; `unsub x`; `asked`; `has 9` (asked and answered) or `has 9 late`
    /// (asked before); `cut`; `bye`. `past` changes nothing, so `sub` follows where a channel is gone on with.
    #[track_caller]
    fn check(story: &str) {
        let mut returning: Returning<u32> = Returning::new(bounds(9));
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
                    let begun = returning.begin(hint, device, session, place, now);
                    keys.insert(who.to_owned(), begun.key.unwrap());
                    let superseded = begun.superseded.and_then(char::from_u32);
                    let doubt = begun.is_doubtful.then_some('?');
                    superseded.into_iter().chain(doubt).collect()
                }
                "past" => match returning.past(key.unwrap(), &channel(), user().as_ref(), now) {
                    None if returning.is_forgotten(key.unwrap(), &channel(), now) => "forgotten".to_owned(),
                    None => "nothing".to_owned(),
                    Some(past) => {
                        let sessions = past
                            .sessions
                            .iter()
                            .map(|id| char::from(u8::try_from(id.0).unwrap()));
                        let offset = past.position.offset.map_or(0, Offset::get);
                        format!("{offset} {}", sessions.collect::<String>())
                    }
                },
                "sub" => {
                    let offset = words.last().unwrap().strip_prefix('@').unwrap().parse().unwrap();
                    let from = position(offset);
                    returning.listens(key.unwrap(), &channel(), user().as_ref(), from, from);
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
                // Asked and answered, unless it was asked before.
                "has" => {
                    if !words.contains(&"late") {
                        returning.asked(key.unwrap(), now);
                    }
                    returning.received(key.unwrap(), Some(position(words[3].parse().unwrap())));
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
        assert!(returning.is_empty() && returning.take_dropped() == 0, "{story}");
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
             3 b past x -> 9 ba
             3 b sub x @12
             3 b past x -> nothing",
        );
        // Cut again before what was given again has arrived, and after.
        check(
            "0 a begin hint
             0 a sub x @5
             1 a cut
             2 b begin hint
             2 b past x -> 5 ba
             2 b sub x @5
             3 b cut
             4 c begin hint
             4 c past x -> 5 cba
             4 c sub x @5
             5 c has 9
             6 c cut
             7 d begin hint
             7 d past x -> 9 dcb",
        );
        // A receipt that was asked for before says nothing of what was given then.
        check(
            "0 a begin hint
             0 a sub y @5
             0 a asked
             1 a sub x @3
             2 a has 9 late
             3 a cut
             4 b begin hint
             4 b past x -> 3 ba
             4 b past y -> 9 ba",
        );
        // What is owed is not owed for ever, however often the page comes.
        check(
            "0 a begin hint
             0 a sub x @5
             1 a cut
             2 b begin hint
             2 b sub y @6
             3 b cut
             90 c begin hint
             90 c past x -> 5 cba
             91 c sub z @7
             91 c cut
             180 d begin hint
             180 d past z -> 7 dcb
             180 d past x -> nothing",
        );
        // Whoever subscribes again much later than she came back cannot be given it, and is told so.
        check(
            "0 a begin hint\n0 a sub x @5\n1 a cut\n2 b begin hint\n500 b past x -> forgotten\n500 b past y -> nothing",
        );
        // Nothing was acknowledged: from where it began.
        check("0 a begin hint\n0 a sub x @5\n1 a cut\n2 b begin hint\n2 b past x -> 5 ba");
        // Nobody has noticed that the old connection is dead.
        check("0 a begin hint\n0 a sub x @5\n0 a has 7\n1 b begin hint\n1 b past x -> 7 ba\n2 a cut");
        check("0 a begin hint\n0 a sub x @5\n0 a asked\n3 b begin hint -> a\n3 b past x -> 5 ba");
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
        check("0 a begin hint\n0 a sub x @5\n1 a cut\n121 b begin hint -> ?\n121 b past x -> nothing");
        check("0 a begin hint\n0 a sub x @5\n1 a cut\n120 b begin hint\n120 b past x -> 5 ba");
        check("0 a begin\n0 a sub x @5\n1 a cut\n2 b begin\n2 b past x -> nothing");
    }

    #[test]
    fn a_user_goes_on_where_she_lacks_most() {
        check("0 a begin\n0 a sub x u @5\n1 a has 9\n2 a cut\n3 b begin\n3 b past x u -> 9 ba");
        check(
            "0 a begin\n0 a sub x u @5\n2 a cut\n3 b begin\n3 b past x v -> nothing\n3 b past x -> nothing",
        );
        check("0 a begin\n0 a sub x u @5\n2 a cut\n3 b begin phone\n3 b past x u -> nothing");
        // Two tabs that were cut at different times, coming back in either order, beside a page that is new:
        // nothing is missing for anybody, until it is too long ago.
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
             3 c sub x u @7
             4 d begin
             4 d past x u -> 7 dab
             4 d sub x u @7
             121 e begin
             121 e past x u -> 9 eb
             122 f begin
             122 f past x u -> nothing",
        );
        // Another tab that is open and well, and one that has not answered.
        check("0 a begin\n0 a sub x u @5\n1 a has 7\n9 b begin\n9 b past x u -> nothing");
        check("0 a begin\n0 a sub x u @5\n0 a has 7\n1 a asked\n1 b begin\n1 b past x u -> 7 ba");
        // A page that has a hint is found by that and not by its user.
        check("0 a begin hint\n0 a sub x u @5\n1 a cut\n2 b begin\n2 b past x u -> nothing");
    }

    #[test]
    fn at_the_bound_the_oldest_go_who_have_ended() {
        let mut returning: Returning<u32> = Returning::new(bounds(2));
        let channel = ChannelName::new("x").unwrap();
        let begin = |returning: &mut Returning<u32>, hint: &str| {
            let begun = returning.begin(Some(hint), 0, SessionId(0), 0, at(0));
            let key = begun.key;
            key.inspect(|key| returning.listens(*key, &channel, None, position(1), position(1)))
        };
        let a = begin(&mut returning, "a").unwrap();
        begin(&mut returning, "b").unwrap();
        assert_eq!(begin(&mut returning, "c"), None);
        returning.end(a, true, at(1));
        assert!(begin(&mut returning, "c").is_some());
        assert_eq!((returning.len(), returning.take_dropped()), (2, 2));
        // Whoever was forgotten is told that it may have missed something, and so is who could not be
        // remembered; users too, since it may have been one of them.
        let mut doubt = |hint, at| returning.begin(hint, 0, SessionId(0), 0, at).is_doubtful;
        assert!(doubt(Some("a"), at(2)) && doubt(None, at(2)));
    }

    #[test]
    fn at_the_bound_no_further_channels_are_remembered() {
        let mut returning: Returning<u32> = Returning::new(bounds(9));
        let mut listen = |hint: &str, channels: &[&str]| {
            let key = returning.begin(Some(hint), 0, SessionId(0), 0, at(0)).key;
            for text in channels {
                let channel = ChannelName::new(text).unwrap();
                returning.listens(key.unwrap(), &channel, None, position(1), position(1));
            }
            returning.end(key.unwrap(), true, at(0));
            (returning.channels, returning.take_dropped())
        };
        // Three of one, five of all.
        assert_eq!(listen("a", &["1", "2", "2", "3", "4"]), (3, 1));
        assert_eq!(listen("b", &["1", "2", "3"]), (5, 1));
        // What is owed counts.
        assert_eq!(listen("a", &["5", "6"]), (5, 2));
        assert_eq!(listen("a", &["1"]), (5, 0));
        returning.expire(at(1_000));
        assert_eq!(returning.channels, 0);
    }
}
