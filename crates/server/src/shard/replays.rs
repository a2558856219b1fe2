//! Sessions of the Pusher door that go on for one that was cut: see [`fanfare_core::returning`], which says
//! where each channel goes on. Here it is asked, and what was missed is given, or told to be missing.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Disconnect;
use fanfare_core::hub::Topic;
use fanfare_core::position::{Epoch, Position, Since};
use fanfare_core::publication::{Audience, Entry, Reader, WireForm};
use fanfare_core::returning::{Past as Returned, RecordKey};
use fanfare_core::session::SessionId;
use fanfare_core::stream::{Replay, Resume};
use fanfare_core::user::UserId;
use fanfare_core::wire;
use fanfare_core::wire::pusher::presence::Profile;

use super::open::Past;
use super::pusher::Insider;
use super::{Key, Shard, State};
use crate::apps::App;
use crate::config::ReplayRule;
use crate::node::Node;

/// What a session that subscribes to a channel goes on for.
#[derive(Default)]
pub(super) struct Back {
    /// Where it is remembered what it receives, if it is.
    record: Option<RecordKey>,
    /// As whom, where that counts.
    user: Option<UserId>,
    past: Option<Returned>,
    /// It may have missed something that nobody knows of.
    is_doubtful: bool,
}

impl Back {
    /// Where the subscription begins.
    pub(super) fn resume(&self, is_cache: bool) -> Resume {
        match &self.past {
            Some(past) => Resume::Since(Since::Position(past.position)),
            None if is_cache => Resume::Last(1),
            None => Resume::Now,
        }
    }

    /// Up to where all has arrived, when a subscription has begun at `now`. What is given again has not
    /// before a receipt says so, nor has a gap that is told.
    fn from(&self, now: Position) -> Position {
        match &self.past {
            Some(past) => past.position,
            None if self.is_doubtful => Position {
                epoch: Epoch(!now.epoch.0),
                offset: None,
            },
            None => now,
        }
    }
}

impl Insider {
    /// Whether a session that ends so may be gone on for. Who says goodbye does not come back for more; a
    /// library that gives a dead connection up says it without a code.
    pub(super) fn may_return(why: &Disconnect) -> bool {
        !matches!(
            why,
            Disconnect::Refused(_) | Disconnect::Unauthorized | Disconnect::ByPeer(Some(1000 | 1001))
        )
    }
}

fn rule(node: &Node, channel: &ChannelName) -> ReplayRule {
    let mut rules = node.replay_rules.iter();
    let rule = rules.find(|(pattern, _)| pattern.matches(channel.as_str()));
    rule.map_or(ReplayRule::default(), |(_, rule)| *rule)
}

impl State {
    /// What a session that subscribes goes on for, if anything.
    pub(super) fn comes_back(
        &mut self,
        shard: &Shard,
        key: Key,
        channel: &ChannelName,
        member: Option<&Profile>,
    ) -> Back {
        let (node, now) = (&shard.node, shard.now());
        let mut back = Back::default();
        let Some(open) = self.insider(key) else {
            return back;
        };
        let user = member
            .map(|member| member.user.clone())
            .or_else(|| open.user().cloned());
        let Some(insider) = &open.insider else { return back };
        back.user = match rule(node, channel) {
            ReplayRule::Off => return back,
            _ if insider.has_hint => None,
            ReplayRule::Hint => return back,
            ReplayRule::User if user.is_none() => return back,
            ReplayRule::User => user,
        };
        if insider.record.is_none() && !insider.has_hint {
            self.remember(shard, key, None);
        }
        let Some(open) = self.insider(key) else {
            return back;
        };
        let Some(insider) = &open.insider else { return back };
        back.record = insider.record;
        let returning = || open.world.returning.lock();
        let past = |record| returning().past(record, channel, back.user.as_ref(), now);
        back.past = back.record.and_then(past);
        let is_forgotten = |record| returning().is_forgotten(record, channel, now);
        let is_forgotten = back.record.is_some_and(is_forgotten);
        // An earlier life of the node may have known it: better one question too many.
        let is_young = now < node.started + node.config.pusher.replay_age;
        back.is_doubtful = back.past.is_none() && (is_young || is_forgotten || insider.is_doubtful);
        back
    }

    /// From now on it is remembered what a session receives.
    pub(super) fn remember(&mut self, shard: &Shard, key: Key, hint: Option<&str>) {
        let (place, now) = (shard.place(key), shard.now());
        let Some(open) = self.insider(key) else { return };
        let (id, world) = (open.id, Arc::clone(&open.world));
        let Some(insider) = &mut open.insider else { return };
        let device = insider.device;
        let begun = world.returning.lock().begin(hint, device, id, place, now);
        insider.record = begun.key;
        insider.is_doubtful = begun.is_doubtful;
        let Some(superseded) = begun.superseded else {
            return;
        };
        if let Some(commands) = shard.node.commands.get(superseded.shard) {
            // With too many commands waiting it ends when its silence is noticed.
            let why = Disconnect::Superseded;
            let _ = commands.send(super::What::Close(vec![superseded.key], why));
        }
    }

    /// A session has subscribed: from now on it is remembered what it receives of the channel.
    pub(super) fn note_subscribed(
        &mut self,
        key: Key,
        app: &App,
        back: &Back,
        channel: &ChannelName,
        now: Position,
    ) {
        let Some(record) = back.record else { return };
        let from = back.from(now);
        app.world
            .returning
            .lock()
            .listens(record, channel, back.user.as_ref(), from, now);
        if let Some(connection) = self.get(key) {
            connection.wants_receipts = true;
        }
    }

    /// Gives a session that has subscribed what it missed of a channel, or tells it of the gap. Says whether
    /// what it has now is the newest.
    pub(super) fn give_past(
        &mut self,
        shard: &Shard,
        key: Key,
        app: &App,
        back: &Back,
        mut replay: Replay,
        channel: &ChannelName,
    ) -> bool {
        let Some(past) = &back.past else {
            if back.is_doubtful {
                self.tell_gap(shard, key, channel, replay.position);
            }
            return false;
        };
        let is_own = |session: Option<SessionId>| session.is_some_and(|id| past.sessions.contains(&id));
        replay.entries.retain(|entry| {
            !is_own(entry.draft.excluded) && !self.had_elsewhere(key, app, back, entry, channel)
        });
        let limit = shard.node.config.limits.outbox_bytes_max;
        let past = Past::of(&replay, std::slice::from_ref(channel), WireForm::Pusher, limit);
        let metrics = &shard.node.metrics.shards[shard.index];
        metrics.replayed.add(past.replayed);
        metrics.gaps.add(usize::from(past.is_gap));
        let is_newest = past.replayed > 0 && !past.is_gap;
        if !past.bytes.is_empty() {
            self.send(shard, key, past.bytes.into());
        }
        is_newest
    }

    pub(super) fn tell_gap(&mut self, shard: &Shard, key: Key, channel: &ChannelName, now: Position) {
        shard.node.metrics.shards[shard.index].gaps.add(1);
        let gap = wire::gap(WireForm::Pusher, std::slice::from_ref(channel), now);
        self.send(shard, key, gap.unwrap_or_default());
    }

    /// Whether a session has an entry by another way: as an announcement to everyone, which it hears without
    /// subscribing, or as a publication of another channel that it listens to already.
    fn had_elsewhere(&self, key: Key, app: &App, back: &Back, entry: &Entry, channel: &ChannelName) -> bool {
        let Audience::Channels(channels) = &entry.draft.audience else {
            return true;
        };
        let Some(record) = back.record else { return false };
        let others = channels.iter().filter(|other| *other != channel);
        let mut heard = others.filter(|other| self.hub.listens(key.slot, &Topic::Channel((*other).clone())));
        heard.any(|other| app.world.returning.lock().covers(record, other, entry.position()))
    }

    /// Somebody has signed in behind her subscriptions: from now on it is remembered what they receive. What
    /// she missed before cannot be put before what has been said meanwhile, so she is told of the gap.
    pub(super) fn note_signed_in(&mut self, shard: &Shard, key: Key, app: &App) {
        let mut channels = Vec::new();
        self.hub.each_topic(key.slot, |topic, after| {
            if let Topic::Channel(channel) = topic
                && rule(&shard.node, channel) == ReplayRule::User
            {
                channels.push((channel.clone(), after));
            }
        });
        let settled = shard.node.engine.settled(app.id);
        for (channel, after) in channels {
            let back = self.comes_back(shard, key, &channel, None);
            let is_known = back.record.is_none_or(|record| {
                let returning = app.world.returning.lock();
                returning.listens_to(record, &channel)
            });
            let Some(settled) = settled.filter(|_| !is_known) else {
                continue;
            };
            // What this shard has delivered to her, of an app of which it may have delivered nothing yet.
            let delivered = self.delivered.get(&app.id);
            let delivered = delivered.filter(|delivered| delivered.epoch == settled.epoch);
            let now = Position {
                epoch: settled.epoch,
                offset: delivered.and_then(|delivered| delivered.offset).max(after),
            };
            let is_missing = back.past.is_some() || back.is_doubtful;
            let fresh = Back {
                past: None,
                is_doubtful: is_missing,
                ..back
            };
            self.note_subscribed(key, app, &fresh, &channel, now);
            if is_missing {
                self.tell_gap(shard, key, &channel, now);
            }
        }
    }

    /// The last publication of a cache channel, as an event. `replay` has it, unless the subscription began
    /// elsewhere.
    pub(super) fn cached(
        &mut self,
        node: &Node,
        key: Key,
        back: &Back,
        replay: &Replay,
        channel: &ChannelName,
    ) -> Option<Bytes> {
        if back.past.is_none() {
            let entry = replay.entries.last()?;
            return Some(wire::encode_entry(entry, Some(channel), WireForm::Pusher));
        }
        let open = self.insider(key)?;
        let reader = Reader {
            session: None,
            user: open.user(),
        };
        let (app, now) = (open.world.id, node.clock.now());
        let channels = std::slice::from_ref(channel);
        let last = node
            .engine
            .read(app, channels, Resume::Last(1), reader, now)
            .ok()?;
        let entry = last.entries.last()?;
        Some(wire::encode_entry(entry, Some(channel), WireForm::Pusher))
    }
}
