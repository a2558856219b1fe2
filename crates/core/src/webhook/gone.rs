//! Who has gone and may come back before anybody is told: the last listener of a channel, and members.
//!
//! Each is told of in the order in which their time ends, but for this: when it is told that a channel
//! has no listeners any more, its members who have gone are told of before.

use std::collections::BTreeMap;

use super::event::{Event, What};
use crate::channel::ChannelName;
use crate::moment::Moment;
use crate::user::UserId;

/// Who: a channel's member, or with `None` its listeners, all of them.
pub(super) type Who = (ChannelName, Option<UserId>);

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// In the order in which they have gone, with the time until which they may come back.
    by_turn: BTreeMap<u64, (Moment, Who)>,
    turns: BTreeMap<Who, u64>,
    next: u64,
}

impl Gone {
    pub(super) fn len(&self) -> usize {
        self.by_turn.len()
    }

    /// Somebody has gone. `until` must not be before that of anybody who has gone earlier.
    pub(super) fn add(&mut self, who: Who, until: Moment) {
        self.forget(&who);
        self.turns.insert(who.clone(), self.next);
        self.by_turn.insert(self.next, (until, who));
        self.next += 1;
    }

    /// Until when somebody may come back, if she has gone and that was not told.
    pub(super) fn until(&self, who: &Who) -> Option<Moment> {
        let turn = self.turns.get(who)?;
        self.by_turn.get(turn).map(|(until, _)| *until)
    }

    /// Somebody has come back, or is told of.
    pub(super) fn forget(&mut self, who: &Who) {
        if let Some(turn) = self.turns.remove(who) {
            self.by_turn.remove(&turn);
        }
    }

    /// Forgets all others.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&Who) -> bool) {
        self.turns.retain(|who, _| is_kept(who));
        self.by_turn.retain(|_, (_, who)| is_kept(who));
    }

    /// What is to be told of whoever comes first, if that is at a time that is `due`.
    pub(super) fn tell(&mut self, due: impl FnOnce(Moment) -> bool) -> Vec<Event> {
        let first = self.by_turn.first_key_value();
        let Some((_, who)) = first.filter(|(_, (until, _))| due(*until)).map(|(_, gone)| gone) else {
            return Vec::new();
        };
        let who = who.clone();
        self.tell_of(&who)
    }

    /// What is to be told of this one, who has gone.
    pub(super) fn tell_of(&mut self, who: &Who) -> Vec<Event> {
        self.forget(who);
        let (channel, user) = who.clone();
        let what = match user {
            Some(user) => What::Removed(user),
            None => What::Vacated,
        };
        let mut events = Vec::new();
        if matches!(what, What::Vacated) {
            let members = self.turns.range((channel.clone(), None)..);
            let members = members.take_while(|((own, _), _)| *own == channel);
            let mut members: Vec<(u64, Who)> = members.map(|(who, turn)| (*turn, who.clone())).collect();
            members.sort_unstable_by_key(|(turn, _)| *turn);
            for (_, member) in members {
                events.extend(self.tell_of(&member));
            }
        }
        events.push(Event { channel, what });
        events
    }
}
