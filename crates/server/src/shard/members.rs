//! Members of channels: who comes and goes, and what the others hear of it.
//!
//! Under the lock of an app's people, somebody new is announced to the others, then subscribes, then gets
//! the roster. Whoever is announced before that is in the roster, whoever comes later is announced to her,
//! and nobody twice. That somebody has gone is announced behind her last subscription.
//!
//! What is announced goes the way of all publications, so it has its place in the channel's order; it is
//! only for who is here and is not kept. What cannot be published now is owed ([`Owed`]); as long as
//! something is, nobody new is let in, since what is announced of her would pass it.
//!
//! The back end is told under the same lock ([`crate::webhooks`]): of who is there, not of whoever was
//! announced and could not subscribe.

use std::collections::{BTreeMap, HashMap};

use fanfare_core::channel::{ChannelName, Kind};
use fanfare_core::disconnect::Refusal;
use fanfare_core::people::People;
use fanfare_core::publication::Draft;
use fanfare_core::session::Session;
use fanfare_core::stream::Replay;
use fanfare_core::user::UserId;
use fanfare_core::wire::pusher;
use fanfare_core::wire::pusher::presence::{self, Profile};

use super::connection::Open;
use crate::apps::{App, World, announcement};
use crate::engine::Listening;
use crate::node::{Node, Place};

/// Announcements that could not be made yet, in their order. At most one of each member of each channel:
/// that she has come and that she has gone cancel out, so there are never more than members that somebody
/// was told of.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    drafts: BTreeMap<u64, (ChannelName, UserId, Draft)>,
    of_member: HashMap<(ChannelName, UserId), u64>,
    number: u64,
}

impl Owed {
    fn add(&mut self, channel: &ChannelName, user: &UserId, draft: Draft) {
        let member = (channel.clone(), user.clone());
        if let Some(number) = self.of_member.remove(&member) {
            self.drafts.remove(&number);
            return;
        }
        self.number += 1;
        self.of_member.insert(member, self.number);
        self.drafts
            .insert(self.number, (channel.clone(), user.clone(), draft));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.drafts.len()
    }
}

/// A user's connection listens to a channel no more, and does not hear what comes now. The others hear that
/// she has gone, if she has: later, where that cannot be published at once.
pub(super) fn leave(node: &Node, world: &World, channel: &ChannelName, user: &UserId) {
    let mut people = world.people.lock();
    if leave_locked(node, world, &mut people, channel, user) {
        world.desk.member(channel, user, false, node.clock.now());
    }
}

/// The same. Says whether a member of a presence channel has gone.
fn leave_locked(
    node: &Node,
    world: &World,
    people: &mut People<Place>,
    channel: &ChannelName,
    user: &UserId,
) -> bool {
    let has_gone = people.leave(channel, user) && channel.kind() == Kind::Presence;
    if has_gone {
        let draft = announcement(world.id, channel, pusher::MEMBER_REMOVED, presence::removed(user));
        world.owed.lock().add(channel, user, draft);
        settle(node, world);
    }
    has_gone
}

/// A user's connection listens to a channel, in a way that has no roster.
pub(super) fn join(node: &Node, world: &World, channel: &ChannelName, user: &UserId) {
    let mut people = world.people.lock();
    if people.enter(channel, user, None) && channel.kind() == Kind::Presence {
        let draft = announcement(
            world.id,
            channel,
            pusher::MEMBER_ADDED,
            presence::added(user, None),
        );
        world.owed.lock().add(channel, user, draft);
        settle(node, world);
        world.desk.member(channel, user, true, node.clock.now());
    }
}

/// Whether a session makes its user a member of a channel. A long poll is one of many sessions, between which
/// she would come and go.
pub(super) fn counts(session: &Session, channel: &ChannelName) -> bool {
    channel.kind() != Kind::Presence || !matches!(session, Session::LongPoll(_))
}

/// Publishes what is owed. Says whether all of it is out. The caller holds the lock of the people, so that
/// the order is theirs.
pub(crate) fn settle(node: &Node, world: &World) -> bool {
    let mut owed = world.owed.lock();
    while let Some((number, (channel, user, draft))) = owed.drafts.pop_first() {
        if node.publisher.announce(draft.clone()).is_err() {
            owed.drafts.insert(number, (channel, user, draft));
            return false;
        }
        owed.of_member.remove(&(channel, user));
    }
    true
}

/// Somebody becomes a member of a presence channel: what she is given of the past, and the roster.
pub(super) fn enter(
    node: &Node,
    app: &App,
    listening: &Listening<'_>,
    channel: &ChannelName,
    profile: &Profile,
) -> Result<(Replay, String), Refusal> {
    let world = &app.world;
    let mut people = world.people.lock();
    let (user, info) = (&profile.user, profile.info.as_deref());
    let is_new = !people.is_member(channel, user);
    if is_new {
        announce(node, world, &people, channel, user, info)?;
    }
    people.enter(channel, user, info);
    match node.engine.subscribe(app.id, listening, node.clock.now()) {
        Ok(replay) => {
            if is_new {
                world.desk.member(channel, user, true, node.clock.now());
            }
            Ok((replay, presence::roster(people.roster(channel))))
        }
        Err(refusal) => {
            leave_locked(node, world, &mut people, channel, user);
            Err(refusal)
        }
    }
}

fn announce(
    node: &Node,
    world: &World,
    _locked: &People<Place>,
    channel: &ChannelName,
    user: &UserId,
    info: Option<&str>,
) -> Result<(), Refusal> {
    if !settle(node, world) {
        return Err(Refusal::Overloaded);
    }
    let data = presence::added(user, info);
    node.publisher
        .announce(announcement(world.id, channel, pusher::MEMBER_ADDED, data))
}

/// A session that is no insider's has ended: its user listens no more.
pub(super) fn leave_all(node: &Node, open: &Open, channels: &[ChannelName], user: &UserId) {
    for channel in channels.iter().filter(|channel| counts(&open.session, channel)) {
        leave(node, &open.world, channel, user);
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::app::AppId;

    use super::*;

    #[test]
    fn coming_and_going_that_nobody_heard_of_cancel_out() {
        let mut owed = Owed::default();
        let mut add = |channel: &str, user: &str| {
            let (channel, user) = (ChannelName::new(channel).unwrap(), UserId::new(user).unwrap());
            let draft = announcement(AppId::DEFAULT, &channel, pusher::MEMBER_ADDED, String::new());
            owed.add(&channel, &user, draft);
            (owed.len(), owed.of_member.len())
        };
        assert_eq!(add("presence-a", "u"), (1, 1));
        assert_eq!(add("presence-a", "v"), (2, 2));
        assert_eq!(add("presence-b", "u"), (3, 3));
        assert_eq!(add("presence-a", "u"), (2, 2));
        assert_eq!(add("presence-a", "u"), (3, 3));
    }
}
