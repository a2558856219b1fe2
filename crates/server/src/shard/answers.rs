//! Subscriptions of the Pusher door one after the other, where their answers are large.
//!
//! What is answered to a subscription (a roster, the event of a cache, what was missed) can be a thousand times as long
//! as what asked for it, and a page subscribes to all its channels at once. All answers together need not fit into
//! its outbox, and a reader that is well would be taken for too slow. So as soon as more than a part of it is
//! answers, further subscriptions wait until these have left. Nothing else waits: signs of life, the end of a
//! subscription, what is said to others. What is published does not count: however slow a reader of that is, what
//! it asks for comes.

use std::collections::VecDeque;

use fanfare_core::wire::pusher::{self, SubscriptionErrorKind};

use super::connection::Stage;
use super::{Key, Shard, State};
use crate::apps::App;

/// What part of an outbox may be answers before further subscriptions wait: a quarter. One answer is at most half of
/// it, but for a roster, which may be longer than all.
const PART: usize = 4;

/// What subscriptions that wait may take, in bytes. At the limit a further one is refused.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// What a session wants to listen to.
pub(super) struct Wanted {
    pub(super) channel: String,
    pub(super) auth: String,
    pub(super) channel_data: Option<String>,
}

impl Wanted {
    fn bytes(&self) -> usize {
        let data = self.channel_data.as_ref().map_or(0, String::len);
        size_of::<Self>() + self.channel.len() + self.auth.len() + data
    }
}

/// Answers to what a session has asked for.
#[derive(Default)]
pub(super) struct Answers {
    /// What they have, since none waited.
    bytes: usize,
    /// What has to leave until none waits: these, and what came before them.
    ahead: usize,
    /// What waits for that. Boxed, since most often there is none.
    waiting: Option<Box<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    wanted: VecDeque<Wanted>,
    bytes: usize,
}

impl Answers {
    /// A subscription that is not answered yet is none any more.
    pub(super) fn forget(&mut self, channel: &str) {
        if let Some(waiting) = &mut self.waiting {
            waiting.wanted.retain(|wanted| wanted.channel != channel);
            waiting.bytes = waiting.wanted.iter().map(Wanted::bytes).sum();
        }
    }
}

impl State {
    /// A session wants to listen to a channel: now, or as soon as what it asked for before has left.
    pub(super) fn want(&mut self, shard: &Shard, key: Key, app: &App, wanted: Wanted) {
        let room = shard.node.config.limits.outbox_bytes_max / PART;
        let Some(insider) = self.insider(key).and_then(|open| open.insider.as_mut()) else {
            return;
        };
        let answers = &mut insider.answers;
        if answers.bytes <= room && answers.waiting.is_none() {
            return self.answer(shard, key, app, &wanted);
        }
        let waiting = answers.waiting.get_or_insert_default();
        if waiting.bytes + wanted.bytes() <= WAITING_BYTES_MAX {
            waiting.bytes += wanted.bytes();
            return waiting.wanted.push_back(wanted);
        }
        shard.node.metrics.limited("pusher_subscriptions_waiting");
        let message = "too many subscriptions at once: others wait until what was asked for before has left";
        let kind = SubscriptionErrorKind::Limit;
        self.send(
            shard,
            key,
            pusher::subscription_error(&wanted.channel, kind, 4301, message),
        );
    }

    fn answer(&mut self, shard: &Shard, key: Key, app: &App, wanted: &Wanted) {
        let before = self.pending_bytes(key);
        self.subscribe_or_say_why(shard, key, app, wanted);
        let ahead = self.pending_bytes(key);
        let Some(insider) = self.insider(key).and_then(|open| open.insider.as_mut()) else {
            return;
        };
        insider.answers.bytes += ahead.saturating_sub(before);
        insider.answers.ahead = ahead;
        if let Some(connection) = self.get(key) {
            connection.has_answers = true;
        }
    }

    /// So many bytes of what waited for a session with answers have left.
    pub(super) fn answers_left(&mut self, shard: &Shard, key: Key, written: usize) {
        let pending = self.pending_bytes(key);
        let room = shard.node.config.limits.outbox_bytes_max / PART;
        let Some(open) = self.insider(key) else { return };
        let app = open.world.id;
        let Some(insider) = &mut open.insider else { return };
        let answers = &mut insider.answers;
        // Less may wait than was thought: something has made room.
        answers.ahead = answers.ahead.saturating_sub(written).min(pending);
        if answers.ahead > 0 {
            return;
        }
        answers.bytes = 0;
        if let Some(connection) = self.get(key) {
            connection.has_answers = false;
        }
        let Some(app) = shard.node.apps.get(app) else {
            return;
        };
        while let Some(wanted) = self.next_wanted(key, room) {
            self.answer(shard, key, &app, &wanted);
        }
    }

    fn next_wanted(&mut self, key: Key, room: usize) -> Option<Wanted> {
        let answers = &mut self.insider(key)?.insider.as_mut()?.answers;
        if answers.bytes > room {
            return None;
        }
        let waiting = answers.waiting.as_mut()?;
        let next = waiting.wanted.pop_front();
        match &next {
            Some(wanted) => waiting.bytes = waiting.bytes.saturating_sub(wanted.bytes()),
            None => answers.waiting = None,
        }
        next
    }

    fn pending_bytes(&mut self, key: Key) -> usize {
        let connection = self.get(key);
        connection.map_or(0, |connection| match &connection.stage {
            Stage::Open(_) => connection.outbox.pending_bytes(),
            _ => 0,
        })
    }
}
