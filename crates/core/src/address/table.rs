//! What each address has open and does, and each user: the table behind all limits of that kind.
//!
//! A party has an entry as long as something of it is open or in use, and for as long as its buckets
//! fill. The table is bounded: where it is full and nothing can go, new parties share one entry, so a
//! flood from very many of them is one neighbour, and those who were here before notice nothing.
//!
//! A connection that was let in holds a [`Seat`], which it gives back exactly once.
//!
//! This module has no lock and no clock.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::Party;
use crate::moment::Moment;
use crate::rate::{Bucket, Rate};

/// Entries looked at for each new one, whether they can go. Two would keep up with new ones.
const LOOKS_PER_ENTRY: usize = 4;

/// What a party may do.
#[derive(Clone, Copy, Debug)]
pub struct PartyRules {
    /// Connections open at a time.
    pub connections_max: usize,
    /// New connections.
    pub connects: Rate,
    /// New connections that are too many and are told so; more are not worth an answer.
    pub refusals: Rate,
    /// Messages of a user, or of an address of which no user is known.
    pub messages: Rate,
    /// Failed attempts to show who one is.
    pub failures: Rate,
    /// Time for which no further attempt is looked at.
    pub failures_pause: Duration,
    /// Parties with an entry of their own.
    pub parties_max: usize,
}

/// The place of an open connection in the table; `None`: in the entry that parties share.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seat(Option<Party>);

/// Whether a connection is let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entered {
    /// It is, and counted until [`Parties::leave`].
    In(Seat),
    /// The address has as many open as it may have.
    Full,
    /// The address opens them too fast; after this time one more will do.
    TooFast(Duration),
    /// The same, and so much so that answering would cost too much.
    Flood,
}

/// What is known of one party.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    connections: usize,
    connects: Bucket,
    /// Those that were too many and are told so.
    refusals: Bucket,
    messages: Bucket,
    failures: Bucket,
    barred_until: Moment,
}

impl Entry {
    fn is_idle(&self, now: Moment) -> bool {
        let buckets = [self.connects, self.refusals, self.messages, self.failures];
        self.connections == 0 && now >= self.barred_until && buckets.iter().all(|bucket| bucket.is_full(now))
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Parties {
    rules: PartyRules,
    entries: HashMap<Party, Entry>,
    /// Each that has an entry, once; the front is looked at next.
    order: VecDeque<Party>,
    shared: Entry,
    overflows: u64,
}

impl Parties {
    /// Nobody is here.
    pub fn new(rules: PartyRules) -> Self {
        Self {
            rules,
            entries: HashMap::new(),
            order: VecDeque::new(),
            shared: Entry::default(),
            overflows: 0,
        }
    }

    /// Parties with an entry of their own.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A new connection of an address. `is_new`: it counts for the rate of new ones, and not only among
    /// those that are open.
    pub fn enter(&mut self, who: Party, is_new: bool, now: Moment) -> Entered {
        let rules = self.rules;
        let (seat, entry) = self.entry(who, now);
        if is_new && let Err(wait) = entry.connects.take(rules.connects, 1, now) {
            return match entry.refusals.take(rules.refusals, 1, now) {
                Ok(()) => Entered::TooFast(wait),
                Err(_) => Entered::Flood,
            };
        }
        if entry.connections >= rules.connections_max {
            return Entered::Full;
        }
        entry.connections += 1;
        Entered::In(seat)
    }

    /// A connection that was let in has ended.
    pub fn leave(&mut self, seat: &Seat) {
        let entry = match &seat.0 {
            Some(who) => self.entries.get_mut(who),
            None => Some(&mut self.shared),
        };
        if let Some(entry) = entry {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }

    /// A party says something. The error says when it may.
    pub fn speak(&mut self, who: Party, count: u64, now: Moment) -> Result<(), Duration> {
        let rate = self.rules.messages;
        self.entry(who, now).1.messages.take(rate, count, now)
    }

    /// An address has shown something that is not good. Says whether it has done so too often now.
    pub fn fail(&mut self, who: Party, now: Moment) -> bool {
        let rules = self.rules;
        let entry = self.entry(who, now).1;
        entry.failures.charge(rules.failures, 1, now);
        let is_enough = !entry.failures.wait_for(rules.failures, 1, now).is_zero();
        if is_enough {
            entry.barred_until = now + rules.failures_pause;
        }
        is_enough
    }

    /// For how long nothing that an address shows is looked at; `None`: it is looked at.
    pub fn barred(&self, who: &Party, now: Moment) -> Option<Duration> {
        let is_full = self.entries.len() >= self.rules.parties_max;
        let entry = match self.entries.get(who) {
            Some(entry) => entry,
            None if is_full => &self.shared,
            None => return None,
        };
        let left = entry.barred_until - now;
        (!left.is_zero()).then_some(left)
    }

    /// Lets go up to `count` entries of those who are idle, looking at no more than that. To be called
    /// now and then, since otherwise only new parties make room.
    pub fn expire(&mut self, count: usize, now: Moment) {
        for _ in 0..count.min(self.order.len()) {
            let Some(who) = self.order.pop_front() else { return };
            if self.entries.get(&who).is_some_and(|entry| !entry.is_idle(now)) {
                self.order.push_back(who);
            } else {
                self.entries.remove(&who);
            }
        }
    }

    /// Whether new parties share one entry.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.rules.parties_max
    }

    /// How often the shared entry was used since the last call.
    pub fn take_overflows(&mut self) -> u64 {
        std::mem::take(&mut self.overflows)
    }

    fn entry(&mut self, who: Party, now: Moment) -> (Seat, &mut Entry) {
        if !self.entries.contains_key(&who) {
            self.expire(LOOKS_PER_ENTRY, now);
            if self.is_full() {
                self.overflows += 1;
                return (Seat(None), &mut self.shared);
            }
            self.order.push_back(who.clone());
        }
        (Seat(Some(who.clone())), self.entries.entry(who).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(1_000_000 + ms))
    }

    const RULES: PartyRules = PartyRules {
        connections_max: 3,
        connects: Rate::per_second(1, 4),
        refusals: Rate::per_second(1, 4),
        messages: Rate::per_second(1, 2),
        failures: Rate::per_minute(2, 2),
        failures_pause: Duration::from_mins(1),
        parties_max: 3,
    };

    fn who(number: u32) -> Party {
        Party::V4(number)
    }

    /// `0+7` at 0 ms address 7 connects, `0-7` its oldest connection ends, `0"7` it speaks, `0x7` it
    /// shows something bad, `0?7` it shows something, `0*` idle entries go. What comes of it: `i`n,
    /// `f`ull, `t`oo fast, `F`lood, `.` fine, `!` not fine; and how many entries there are in the end.
    #[track_caller]
    fn check(steps: &str, expected: &str, entries: usize) {
        let mut parties = Parties::new(RULES);
        let mut seats: Vec<(u32, Seat)> = Vec::new();
        let mut got = String::new();
        for step in steps.split_whitespace() {
            let sign = step.find(['+', '-', '"', 'x', '?', '*']).unwrap();
            let now = at(step[..sign].parse().unwrap());
            let number = step[sign + 1..].parse().unwrap_or(0);
            let is_fine = |fine: bool| if fine { '.' } else { '!' };
            match &step[sign..=sign] {
                "+" => got.push(match parties.enter(who(number), true, now) {
                    Entered::In(seat) => {
                        seats.push((number, seat));
                        'i'
                    }
                    Entered::Full => 'f',
                    Entered::TooFast(_) => 't',
                    Entered::Flood => 'F',
                }),
                "-" => {
                    let at = seats.iter().position(|(whose, _)| *whose == number).unwrap();
                    parties.leave(&seats.remove(at).1);
                }
                "\"" => got.push(is_fine(parties.speak(who(number), 1, now).is_ok())),
                "x" => got.push(is_fine(!parties.fail(who(number), now))),
                "?" => got.push(is_fine(parties.barred(&who(number), now).is_none())),
                _ => parties.expire(99, now),
            }
        }
        assert_eq!((got.as_str(), parties.len()), (expected, entries), "{steps}");
    }

    #[test]
    fn an_address_has_so_many_connections_and_opens_them_so_fast() {
        check("0+1 0+1 0+1 0+1 0+2", "iiifi", 2);
        check("0+1 0+1 0+1 0-1 0+1", "iiii", 1);
        // The burst is spent: told so as often as one is let in, then not even that.
        check("0+1 0-1 0+1 0-1 0+1 0-1 0+1 0+1 0+1 0+1 0+1 0+1", "iiiittttF", 1);
        check("0+1 0-1 0+1 0-1 0+1 0-1 0+1 0-1 999+1 1000+1", "iiiiti", 1);
    }

    #[test]
    fn what_only_counts_as_open_has_no_rate() {
        let mut parties = Parties::new(RULES);
        for _ in 0..20 {
            let Entered::In(seat) = parties.enter(who(1), false, at(0)) else {
                panic!("refused");
            };
            parties.leave(&seat);
        }
    }

    #[test]
    fn messages_and_failures_are_counted_apart() {
        check("0\"1 0\"1 0\"1 0\"2 1000\"1", "..!..", 2);
        check("0?1 0x1 0?1 0x1 0?1 0?2 59999?1 60000?1", "...!!.!.", 1);
        // One failure after the pause does not close it again, since by then all is forgotten.
        check("0x1 0x1 60000x1 60000?1", ".!..", 1);
    }

    #[test]
    fn who_is_idle_goes() {
        check("0+1 0-1 0*", "i", 1);
        check("0+1 0-1 1000*", "i", 0);
        check("0+1 99000*", "i", 1);
        check("0\"1 999*", ".", 1);
        check("0\"1 1000*", ".", 0);
        check("0x1 0x1 59999*", ".!", 1);
        check("0x1 0x1 60000*", ".!", 0);
    }

    #[test]
    fn in_a_full_table_new_parties_share_one_entry() {
        // Parties 4 and 5 are one; those who have entries are themselves.
        check("0+1 0+2 0+3 0+4 0+5 0+4 0+5 0+1 0+1 0+1", "iiiiiifiif", 3);
        // When one of the others goes there is room, and what was shared stays so until it ends.
        check(
            "0+1 0+2 0+3 0+4 0-1 1000+4 1000+4 1000+4 1000+4 1000-4",
            "iiiiiiif",
            3,
        );
        // What the shared one is barred from, those with an entry are not.
        check("0+1 0+2 0+3 0x4 0x5 0?6 0?1", "iii.!!.", 3);
        // Room comes by itself as new ones arrive.
        check("0\"1 0\"2 0\"3 0\"4 5000\"5 5000\"6", "......", 2);
    }
}
