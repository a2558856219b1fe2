//! A channel as a JSON document, and the long poll.
//!
//! `GET` answers who listens, what is kept, and where the order stands; with `since=` it waits until
//! there is something newer. Every answer is read from the stream at one point of the order, and its
//! `next` is that point, so nothing falls between two of them.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use fanfare_core::app::AppId;
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::Refusal;
use fanfare_core::position::Since;
use fanfare_core::publication::Reader;
use fanfare_core::stream::{Replay, Resume};
use fanfare_core::wire::plain;

use super::people::USERS_LISTED_MAX;
use super::{Answer, Asking, json};
use crate::address::Way;
use crate::door::{self, Listen};
use crate::node::Node;
use crate::shard::{Facts, Shard};
use crate::tokens;

/// `GET /ch/orders`.
pub(super) async fn look(shard: &Rc<Shard>, asking: &Asking<'_>) -> Result<Answer, Refusal> {
    let node = &shard.node;
    let peer = asking.asked.source;
    let mut listen = door::listen_or_ask(node, &asking.asked, false).await?;
    let (session, user) = (
        (!listen.echo).then_some(listen.session).flatten(),
        listen.user().cloned(),
    );
    let reader = Reader {
        session,
        user: user.as_ref(),
    };
    let heard = listen.heard();
    let mut ends_at = None;
    loop {
        let replay = node
            .engine
            .read(AppId::DEFAULT, &heard, listen.resume, reader, node.clock.now())?;
        let is_news = !replay.entries.is_empty() || replay.is_gap;
        let wait = match listen.resume {
            Resume::Since(_) if !is_news => wait_for(shard, &listen),
            _ => Duration::ZERO,
        };
        if wait.is_zero() {
            return Ok(document(node, &listen, &heard, &replay));
        }
        let ends_at = *ends_at.get_or_insert(shard.now() + wait);
        // Behind what was just read, so that nobody is woken by what he is excluded from.
        listen.resume = Resume::Since(Since::Position(replay.position));
        let has_come = if shard.now() < ends_at {
            node.room_for_one()?;
            if peer.way == Way::Forwarded && listen.ticket.is_none() {
                listen.ticket = node.gate.wait(&peer, shard.now())?;
            }
            let facts = Facts {
                listen: Ok(listen.clone()),
                peer,
            };
            shard.adopt_poll(facts, ends_at).await
        } else {
            false
        };
        if !has_come {
            listen.wait = Some(Duration::ZERO);
        }
    }
}

/// How long this request waits when there is nothing: as it says, but no longer than is usual, nor
/// than its token is good.
fn wait_for(shard: &Shard, listen: &Listen) -> Duration {
    let most = shard.node.config.sessions.poll_wait;
    if shard.node.is_draining() {
        return Duration::ZERO;
    }
    let wanted = listen.wait.map_or(most, |wait| wait.min(most));
    let left = listen.grant.as_ref().and_then(tokens::time_left_with_leeway);
    left.map_or(wanted, |left| wanted.min(left))
}

fn document(node: &Node, listen: &Listen, heard: &[ChannelName], replay: &Replay) -> Answer {
    let listeners = node.engine.listeners(AppId::DEFAULT, &listen.channels);
    let name = |name: &ChannelName| serde_json::Value::from(name.as_str()).to_string();
    let channel = match listen.channels.as_slice() {
        [one] => format!("\"channel\":{}", name(one)),
        several => {
            let names: Vec<String> = several.iter().map(name).collect();
            format!("\"channels\":[{}]", names.join(","))
        }
    };
    let messages: Vec<String> = replay
        .entries
        .iter()
        .map(|entry| {
            let channel = entry.channel_among(heard);
            plain::meta(entry, channel, &entry.position().to_string())
        })
        .collect();
    let gap = if replay.is_gap { ",\"gap\":true" } else { "" };
    let users = if listen.wants_users {
        users(node, &listen.channels)
    } else {
        String::new()
    };
    json(format!(
        "{{{channel}{users},\"listeners\":{listeners},\"next\":\"{}\"{gap},\"messages\":[{}]}}\n",
        replay.position,
        messages.join(",")
    ))
}

/// The users who listen to channels, by id; of very many the first, and how many there are.
fn users(node: &Node, channels: &[ChannelName]) -> String {
    let mut named = BTreeSet::new();
    let mut total = 0;
    for channel in channels {
        let (users, count) = node.apps.default.people.lock().members(channel, USERS_LISTED_MAX);
        named.extend(users);
        total += count;
    }
    let total = if total > USERS_LISTED_MAX {
        format!(",\"users_total\":{total}")
    } else {
        String::new()
    };
    let named: Vec<String> = named
        .into_iter()
        .take(USERS_LISTED_MAX)
        .map(|user| serde_json::Value::from(user.as_str()).to_string())
        .collect();
    format!(",\"users\":[{}]{total}", named.join(","))
}
