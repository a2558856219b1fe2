//! People: the users of an app who are here, on how many connections, and in which channels.
//!
//! A user belongs to every connection whose token (or hook) names her, on all transports and tabs at
//! once. She is *online* from her first connection until a grace period after her last one ended, so
//! that a page reload makes no noise; while that runs she counts as online with no connection.
//!
//! Coming and going is reported, one report per change, in the order in which it happened
//! ([`People::take_reports`]): online and offline of one user alternate, whatever the interleaving.
//!
//! A member of a channel is a user who listens there on at least one connection, with what her newest
//! connection wants shown of her.
//!
//! Who was sent away is remembered for a moment ([`People::dismiss`]): a back end that had said yes to
//! her just before, and whose answer is still under way, must not bring her back.
//!
//! A connection may watch users ([`People::watch`]): it is told of their coming and going, as it is
//! reported, by notices that wait for whoever has caused them to take them.
//!
//! Bounds: what is here is bounded by the connections and their subscriptions, since each holds its
//! entries only as long as it lives (and the grace period). Reports wait for at most
//! [`REPORTS_MAX`]; beyond that the oldest are dropped and counted.
//!
//! This module has no lock and no clock, and does not know what a place is: `P` names a connection
//! so that its owner finds it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use crate::channel::ChannelName;
use crate::moment::Moment;
use crate::session_id::SessionId;
use crate::user::UserId;

/// Time for which it is remembered that somebody was sent away: longer than any answer is under way.
const DISMISSED_AGE: Duration = Duration::from_mins(1);

/// Users of whom that is remembered; beyond, the oldest are forgotten.
const DISMISSED_MAX: usize = 10_000;

/// Reports that may wait to be taken, unless the node says otherwise.
pub const REPORTS_MAX: usize = 10_000;

/// One connection of a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connection<P> {
    /// Where it is.
    pub place: P,
    /// Its session.
    pub session: SessionId,
}

/// What can be said of a user who is here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Presence {
    /// Open connections; 0 while the grace period runs.
    pub connections: usize,
    /// Since when she has been online.
    pub since: Moment,
}

/// A user has come online or gone offline.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// Who.
    pub user: UserId,
    /// Whether she has come.
    pub online: bool,
    /// When: for who has gone, when the last connection ended.
    pub at: Moment,
}

/// A watched user has come online or gone offline: for one connection that watches her.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice<P> {
    /// Who watches.
    pub place: P,
    /// Who is watched.
    pub user: UserId,
    /// Whether she has come.
    pub online: bool,
}

/// See the module's head.
#[derive(Debug)]
pub struct People<P> {
    users: HashMap<UserId, Person<P>>,
    /// Members of channels.
    members: HashMap<ChannelName, BTreeMap<UserId, Member>>,
    /// Users whose last connection has ended, in the order in which their grace period does.
    leaving: VecDeque<(Moment, UserId)>,
    /// Users who were sent away, each with the number of the last time, and all of those in order.
    dismissed: HashMap<UserId, u64>,
    dismissals: VecDeque<(Moment, u64, UserId)>,
    dismissals_total: u64,
    /// Who is watched, and by whom; and the reverse.
    watched: HashMap<UserId, HashSet<P>>,
    watching: HashMap<P, Vec<UserId>>,
    notices: Vec<Notice<P>>,
    reports: VecDeque<Report>,
    reports_dropped: usize,
    grace: Duration,
    connections_max: usize,
    reports_max: usize,
}

/// A user in a channel.
#[derive(Debug, Default)]
struct Member {
    /// How many of her connections listen there.
    connections: u32,
    /// What is shown of her, if anything: JSON.
    info: Option<Box<str>>,
}

#[derive(Debug)]
struct Person<P> {
    /// Oldest first.
    connections: Vec<Connection<P>>,
    since: Moment,
    /// When the last connection ended, if none is open.
    left: Option<Moment>,
}

impl<P: Copy + Eq + Hash> People<P> {
    /// Nobody is here. A user may have `connections_max` connections, and `reports_max` reports may
    /// wait: 0 where nobody takes them.
    pub fn new(grace: Duration, connections_max: usize, reports_max: usize) -> Self {
        Self {
            users: HashMap::new(),
            members: HashMap::new(),
            leaving: VecDeque::new(),
            dismissed: HashMap::new(),
            dismissals: VecDeque::new(),
            dismissals_total: 0,
            watched: HashMap::new(),
            watching: HashMap::new(),
            notices: Vec::new(),
            reports: VecDeque::new(),
            reports_dropped: 0,
            grace,
            connections_max,
            reports_max,
        }
    }

    /// A connection of `user` opens. Returns her oldest one if she now has more than she may: the
    /// newest wins, so that a tab which was forgotten somewhere locks nobody out.
    pub fn arrive(&mut self, user: &UserId, connection: Connection<P>, now: Moment) -> Option<Connection<P>> {
        self.expire(now);
        let person = self.users.entry(user.clone()).or_insert_with(|| Person {
            connections: Vec::new(),
            since: now,
            left: None,
        });
        let is_new = person.connections.is_empty() && person.left.is_none();
        person.left = None;
        person.connections.push(connection);
        let surplus = (person.connections.len() > self.connections_max).then(|| person.connections[0]);
        if is_new {
            self.report(user, true, now);
        }
        surplus
    }

    /// A connection of `user` has ended.
    pub fn depart(&mut self, user: &UserId, place: P, now: Moment) {
        self.expire(now);
        let Some(person) = self.users.get_mut(user) else {
            return;
        };
        let before = person.connections.len();
        person.connections.retain(|connection| connection.place != place);
        if before > 0 && person.connections.is_empty() {
            person.left = Some(now);
            self.leaving.push_back((now, user.clone()));
        }
    }

    /// A user is sent away: see [`Self::was_dismissed_since`]. Her connections are for the caller to
    /// close.
    pub fn dismiss(&mut self, user: &UserId, now: Moment) {
        self.expire(now);
        if self.dismissals.len() >= DISMISSED_MAX {
            self.forget_dismissal();
        }
        self.dismissals_total += 1;
        self.dismissed.insert(user.clone(), self.dismissals_total);
        let dismissal = (now, self.dismissals_total, user.clone());
        self.dismissals.push_back(dismissal);
    }

    /// How often anybody was sent away so far: a point in their order, to ask from later.
    pub fn dismissals(&self) -> u64 {
        self.dismissals_total
    }

    /// Whether a user was sent away after [`Self::dismissals`] said this. Good for a minute.
    pub fn was_dismissed_since(&self, user: &UserId, since: u64) -> bool {
        self.dismissed.get(user).is_some_and(|number| *number > since)
    }

    fn forget_dismissal(&mut self) {
        if let Some((_, number, user)) = self.dismissals.pop_front()
            && self.dismissed.get(&user) == Some(&number)
        {
            self.dismissed.remove(&user);
        }
    }

    /// Ends grace periods that are over.
    pub fn expire(&mut self, now: Moment) {
        while self
            .dismissals
            .front()
            .is_some_and(|(at, ..)| now >= *at + DISMISSED_AGE)
        {
            self.forget_dismissal();
        }
        while let Some((left, _)) = self.leaving.front()
            && now >= *left + self.grace
        {
            let Some((left, user)) = self.leaving.pop_front() else {
                return;
            };
            // She may have come back since, and left again.
            if self
                .users
                .get(&user)
                .is_some_and(|person| person.left == Some(left))
            {
                self.users.remove(&user);
                self.report(&user, false, left);
            }
        }
    }

    /// A connection watches these users, and no others any more.
    pub fn watch(&mut self, place: P, users: &[UserId]) {
        self.unwatch(place);
        for user in users {
            let watchers = self.watched.entry(user.clone()).or_default();
            if watchers.insert(place) {
                self.watching.entry(place).or_default().push(user.clone());
            }
        }
    }

    /// It watches nobody any more.
    pub fn unwatch(&mut self, place: P) {
        for user in self.watching.remove(&place).unwrap_or_default() {
            if let Some(watchers) = self.watched.get_mut(&user) {
                watchers.remove(&place);
                if watchers.is_empty() {
                    self.watched.remove(&user);
                }
            }
        }
    }

    /// What those who watch are to be told.
    pub fn take_notices(&mut self) -> Vec<Notice<P>> {
        std::mem::take(&mut self.notices)
    }

    fn report(&mut self, user: &UserId, online: bool, at: Moment) {
        let watchers = self.watched.get(user).into_iter().flatten();
        self.notices.extend(watchers.map(|place| Notice {
            place: *place,
            user: user.clone(),
            online,
        }));
        if self.reports_max == 0 {
            return;
        }
        if self.reports.len() >= self.reports_max {
            self.reports.pop_front();
            self.reports_dropped += 1;
        }
        let user = user.clone();
        self.reports.push_back(Report { user, online, at });
    }

    /// The oldest reports, at most `count`, and how many had to be dropped since the last call.
    pub fn take_reports(&mut self, count: usize) -> (Vec<Report>, usize) {
        let dropped = std::mem::take(&mut self.reports_dropped);
        let count = count.min(self.reports.len());
        (self.reports.drain(..count).collect(), dropped)
    }

    /// How many reports wait.
    pub fn reports(&self) -> usize {
        self.reports.len()
    }

    /// What can be said of a user; `None`: she is not here.
    pub fn presence(&self, user: &UserId) -> Option<Presence> {
        self.users.get(user).map(|person| Presence {
            connections: person.connections.len(),
            since: person.since,
        })
    }

    /// The connections of a user, oldest first.
    pub fn connections(&self, user: &UserId) -> &[Connection<P>] {
        self.users.get(user).map_or(&[], |person| &person.connections)
    }

    /// How many users are online.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// A connection of `user` listens to `channel`, and may want something shown of her. Says whether she
    /// was not there before.
    pub fn enter(&mut self, channel: &ChannelName, user: &UserId, info: Option<&str>) -> bool {
        let members = self.members.entry(channel.clone()).or_default();
        let member = members.entry(user.clone()).or_default();
        member.connections += 1;
        if info.is_some() {
            member.info = info.map(Into::into);
        }
        member.connections == 1
    }

    /// It does so no more. Says whether it was her last one there.
    pub fn leave(&mut self, channel: &ChannelName, user: &UserId) -> bool {
        let Some(members) = self.members.get_mut(channel) else {
            return false;
        };
        let Some(member) = members.get_mut(user) else {
            return false;
        };
        member.connections = member.connections.saturating_sub(1);
        let was_last = member.connections == 0;
        if was_last {
            members.remove(user);
        }
        if members.is_empty() {
            self.members.remove(channel);
        }
        was_last
    }

    /// Whether a user is a member of a channel.
    pub fn is_member(&self, channel: &ChannelName, user: &UserId) -> bool {
        let members = self.members.get(channel);
        members.is_some_and(|members| members.contains_key(user))
    }

    /// The members of a channel, by id, with what is shown of each.
    pub fn roster(
        &self,
        channel: &ChannelName,
    ) -> impl ExactSizeIterator<Item = (&UserId, Option<&str>)> + Clone {
        static NOBODY: BTreeMap<UserId, Member> = BTreeMap::new();
        let members = self.members.get(channel).unwrap_or(&NOBODY);
        members
            .iter()
            .map(|(user, member)| (user, member.info.as_deref()))
    }

    /// The first `count` users who listen to a channel, by id, and how many there are.
    pub fn members(&self, channel: &ChannelName, count: usize) -> (Vec<UserId>, usize) {
        let members = self.members.get(channel);
        let users = members.map(|members| members.keys().take(count).cloned().collect());
        (users.unwrap_or_default(), members.map_or(0, BTreeMap::len))
    }

    /// Channels that a user listens to.
    pub fn channels(&self) -> usize {
        self.members.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const GRACE: u64 = 5;

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn user(text: &str) -> UserId {
        UserId::new(text).unwrap()
    }

    fn people(connections_max: usize) -> People<u32> {
        People::new(Duration::from_secs(GRACE), connections_max, REPORTS_MAX)
    }

    fn connection(place: u32) -> Connection<u32> {
        Connection {
            place,
            session: SessionId(place.into()),
        }
    }

    /// `12+a3`: at 12 s a connection at place 3 opens for user a; `-` ends it; `.` only time passes.
    /// What is reported, as `a+12`.
    #[track_caller]
    fn check(steps: &str, expected: &str) {
        let mut people = people(99);
        let mut reported = Vec::new();
        for step in steps.split(' ') {
            let sign = step.find(['+', '-', '.']).unwrap();
            let now = at(step[..sign].parse().unwrap());
            let (who, place) = step[sign + 1..].split_at(step.len().min(sign + 2) - sign - 1);
            match &step[sign..=sign] {
                "+" => drop(people.arrive(&user(who), connection(place.parse().unwrap()), now)),
                "-" => people.depart(&user(who), place.parse().unwrap(), now),
                _ => people.expire(now),
            }
            let (reports, dropped) = people.take_reports(usize::MAX);
            assert_eq!(dropped, 0);
            reported.extend(reports.into_iter().map(|report| {
                let sign = if report.online { '+' } else { '-' };
                format!("{}{sign}{}", report.user, report.at.as_millis() / 1_000)
            }));
        }
        assert_eq!(reported.join(" "), expected, "{steps}");
    }

    #[test]
    fn the_first_tab_in_and_the_last_tab_out_are_reported_with_grace() {
        check("0+a1", "a+0");
        check("0+a1 1+a2 2-a1 9.", "a+0");
        check("0+a1 1+a2 2-a1 3-a2 7.", "a+0");
        check("0+a1 1+a2 2-a1 3-a2 8.", "a+0 a-3");
        // A reload, and one that takes too long.
        check("0+a1 1-a1 5+a2 20.", "a+0");
        check("0+a1 1-a1 6+a2 20.", "a+0 a-1 a+6");
        // Away, back and away: the grace period counts from the last end.
        check("0+a1 1-a1 5+a2 5-a2 6. 9. 10.", "a+0 a-5");
        check("0+a1 0+b2 1-a1 2-b2 9.", "a+0 b+0 a-1 b-2");
        check("0-a1 9.", "");
    }

    #[test]
    fn who_has_too_many_connections_loses_the_oldest() {
        let mut people = people(2);
        let a = user("a");
        assert_eq!(people.arrive(&a, connection(1), at(0)), None);
        assert_eq!(people.arrive(&a, connection(2), at(0)), None);
        assert_eq!(people.arrive(&a, connection(3), at(0)), Some(connection(1)));
        people.depart(&a, 1, at(1));
        assert_eq!(people.connections(&a), [connection(2), connection(3)]);
        let since = at(0);
        assert_eq!(
            people.presence(&a),
            Some(Presence {
                connections: 2,
                since
            })
        );
    }

    #[test]
    fn a_member_is_counted_once_whatever_she_has_open() {
        let mut people = people(9);
        let channel = ChannelName::new("room").unwrap();
        for text in ["b", "a", "a"] {
            people.enter(&channel, &user(text), None);
        }
        assert_eq!(people.members(&channel, 9), (vec![user("a"), user("b")], 2));
        assert_eq!(people.members(&channel, 1), (vec![user("a")], 2));
        people.leave(&channel, &user("a"));
        assert_eq!(people.members(&channel, 9).1, 2);
        for text in ["a", "a", "b"] {
            people.leave(&channel, &user(text));
        }
        assert_eq!((people.members(&channel, 9).1, people.channels()), (0, 0));
    }

    #[test]
    fn the_first_tab_enters_a_channel_and_the_last_one_leaves_it() {
        let mut people = people(9);
        let (channel, anna) = (ChannelName::new("room").unwrap(), user("anna"));
        let entered: Vec<bool> = [Some("1"), None, Some("2")]
            .map(|info| people.enter(&channel, &anna, info))
            .to_vec();
        assert_eq!(entered, [true, false, false]);
        assert!(people.is_member(&channel, &anna) && !people.is_member(&channel, &user("otto")));
        assert_eq!(people.roster(&channel).collect::<Vec<_>>(), [(&anna, Some("2"))]);
        let left: Vec<bool> = (0..4).map(|_| people.leave(&channel, &anna)).collect();
        assert_eq!(left, [false, false, true, false]);
        assert_eq!(people.roster(&channel).len(), 0);
    }

    #[test]
    fn who_watches_is_told_of_coming_and_going() {
        let mut people = people(9);
        let told = |people: &mut People<u32>| {
            let notices = people.take_notices().into_iter();
            let sign = |online| if online { '+' } else { '-' };
            let text =
                |notice: Notice<u32>| format!("{}{}{}", notice.place, sign(notice.online), notice.user);
            let mut texts: Vec<String> = notices.map(text).collect();
            texts.sort();
            texts.join(" ")
        };
        people.watch(7, &[user("a"), user("b"), user("a")]);
        people.watch(8, &[user("a")]);
        people.arrive(&user("a"), connection(1), at(0));
        people.arrive(&user("a"), connection(2), at(0));
        people.arrive(&user("c"), connection(3), at(0));
        assert_eq!(told(&mut people), "7+a 8+a");
        people.unwatch(8);
        people.depart(&user("a"), 1, at(1));
        people.depart(&user("a"), 2, at(1));
        assert_eq!(told(&mut people), "");
        people.expire(at(1 + GRACE));
        assert_eq!(told(&mut people), "7-a");
        people.watch(7, &[user("b")]);
        people.arrive(&user("a"), connection(1), at(20));
        people.arrive(&user("b"), connection(4), at(20));
        assert_eq!(told(&mut people), "7+b");
        people.unwatch(7);
        assert!(people.watched.is_empty() && people.watching.is_empty());
    }

    #[test]
    fn reports_that_nobody_takes_are_dropped_oldest_first() {
        let mut people = people(9);
        for n in 0..REPORTS_MAX + 3 {
            people.arrive(&user(&n.to_string()), connection(1), at(0));
        }
        let (reports, dropped) = people.take_reports(usize::MAX);
        assert_eq!((reports.len(), dropped), (REPORTS_MAX, 3));
        assert_eq!(reports[0].user, user("3"));
    }

    #[test]
    fn who_was_sent_away_is_remembered_for_a_moment() {
        let mut people = people(9);
        let (anna, ben) = (user("anna"), user("ben"));
        let before = people.dismissals();
        people.dismiss(&anna, at(10));
        let between = people.dismissals();
        assert!(people.was_dismissed_since(&anna, before) && !people.was_dismissed_since(&ben, before));
        assert!(!people.was_dismissed_since(&anna, between));
        people.dismiss(&anna, at(40));
        people.expire(at(70));
        assert!(people.was_dismissed_since(&anna, between));
        people.expire(at(100));
        assert!(!people.was_dismissed_since(&anna, before) && people.dismissals.is_empty());
        for number in 0..=DISMISSED_MAX {
            people.dismiss(&user(&number.to_string()), at(200));
        }
        let (first, second) = (user("0"), user("1"));
        assert_eq!(
            (people.dismissed.len(), people.dismissals.len()),
            (DISMISSED_MAX, DISMISSED_MAX)
        );
        assert!(!people.was_dismissed_since(&first, 0) && people.was_dismissed_since(&second, 0));
    }

    proptest! {
        /// Whatever order tabs come and go in: reports of a user alternate, the last one says whether
        /// she is here, and when all have gone nothing is left.
        #[test]
        fn reports_alternate(steps in prop::collection::vec((0_u64..4, 0_u32..3, 0_u32..4, any::<bool>()), 0..80)) {
            let mut people = people(99);
            let mut open: HashSet<(u32, u32)> = HashSet::new();
            let (mut now, mut last): (u64, HashMap<UserId, bool>) = (0, HashMap::new());
            let mut check = |people: &mut People<u32>| {
                for report in people.take_reports(usize::MAX).0 {
                    let before = last.insert(report.user.clone(), report.online).unwrap_or(false);
                    assert_ne!(before, report.online, "{:?} twice", report.user);
                }
                for (user, online) in &last {
                    assert_eq!(people.presence(user).is_some(), *online);
                }
            };
            for (wait, who, place, comes) in steps {
                now += wait;
                let id = user(&who.to_string());
                let place = place + 10 * who;
                if comes && open.insert((who, place)) {
                    people.arrive(&id, connection(place), at(now));
                } else if !comes && open.remove(&(who, place)) {
                    people.depart(&id, place, at(now));
                }
                check(&mut people);
            }
            for (who, place) in open {
                people.depart(&user(&who.to_string()), place, at(now));
            }
            people.expire(at(now + GRACE));
            check(&mut people);
            prop_assert!(people.is_empty() && people.leaving.is_empty());
        }
    }
}
