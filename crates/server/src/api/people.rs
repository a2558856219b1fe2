//! People: speaking to a user, whether she is here, sending her away, and letting her connections
//! join or leave a channel. All of it is for the back end.

use std::collections::BTreeMap;
use std::rc::Rc;

use fanfare_core::app::AppId;
use fanfare_core::auth::{Identity, Operation};
use fanfare_core::channel::ChannelName;
use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::user::UserId;
use fanfare_core::wire::plain::person::PersonRequest;
use http::Method;

use super::{Answer, Asking, json, not_found, speak};
use crate::apps::World;
use crate::clock::timestamp;
use crate::door;
use crate::hooks::connect::Wish;
use crate::node::Node;
use crate::shard::{DISMISSED, Key, Shard, What};

/// Users whose names one answer has.
pub(super) const USERS_LISTED_MAX: usize = 10_000;

/// Answers a request about people. `None`: it is none.
pub(super) async fn answer(shard: &Rc<Shard>, asking: &mut Asking<'_>) -> Option<Result<Answer, Refusal>> {
    let request = PersonRequest::parse(asking.asked.path, asking.asked.query)?;
    let method = asking.head.method.clone();
    // A channel may be called so; only these methods say nothing to a channel itself.
    let is_in_channel = matches!(request, Ok(PersonRequest::InChannel { .. }));
    if is_in_channel && !matches!(method, Method::PUT | Method::DELETE) {
        return None;
    }
    Some(match request {
        Ok(request) => answer_to(shard, asking, &method, request).await,
        Err(refusal) => Err(refusal),
    })
}

async fn answer_to(
    shard: &Rc<Shard>,
    asking: &mut Asking<'_>,
    method: &Method,
    request: PersonRequest,
) -> Result<Answer, Refusal> {
    let node = &shard.node;
    if let (&Method::POST, PersonRequest::One { user, .. }) = (method, &request) {
        return speak::to_user(shard, asking, user).await;
    }
    let identity = door::identify_or_ask(node, &asking.asked, Wish::Post, &[]).await?;
    match (method, request) {
        (&Method::GET | &Method::HEAD, PersonRequest::One { user, .. }) => {
            permit(node, &identity, Operation::Presence, &user)?;
            Ok(json(format!("{}\n", presence(node, &user))))
        }
        (&Method::GET | &Method::HEAD, PersonRequest::Several(users)) => {
            for user in &users {
                permit(node, &identity, Operation::Presence, user)?;
            }
            let all: Vec<String> = users.iter().map(|user| presence(node, user)).collect();
            Ok(json(format!("{{\"users\":[{}]}}\n", all.join(","))))
        }
        (&Method::DELETE, PersonRequest::One { user, connection }) => {
            permit(node, &identity, Operation::Terminate, &user)?;
            if connection.is_none() {
                node.apps.default.people.lock().dismiss(&user, node.clock.now());
            }
            let only = |session: &str| connection.as_deref().is_none_or(|wanted| wanted == session);
            let why = Disconnect::Refused(Refusal::Forbidden(DISMISSED.into()));
            let close = |keys| What::Close(keys, why.clone());
            connections(node, &user, only, close).await
        }
        (&Method::PUT | &Method::DELETE, PersonRequest::InChannel { channel, user }) => {
            node.rules
                .policy
                .permit(&channel, Operation::Terminate, &identity)?;
            let what = |keys| match *method {
                Method::PUT => What::Join(keys, channel.clone()),
                _ => What::Leave(keys, channel.clone()),
            };
            connections(node, &user, |_| true, what).await
        }
        (_, PersonRequest::One { .. }) => Err(Refusal::MethodNotAllowed {
            allow: "GET, POST, DELETE",
        }),
        (_, PersonRequest::Several(_)) => Err(Refusal::MethodNotAllowed { allow: "GET" }),
        (_, PersonRequest::InChannel { .. }) => Err(Refusal::MethodNotAllowed { allow: "PUT, DELETE" }),
    }
}

/// `DELETE /ch/{channel}`: empties it, and sends whoever listens away.
pub(super) async fn delete(
    shard: &Rc<Shard>,
    asking: &Asking<'_>,
    channels: &[ChannelName],
) -> Result<Answer, Refusal> {
    let node = &shard.node;
    let identity = door::identify_or_ask(node, &asking.asked, Wish::Post, channels).await?;
    let [channel] = channels else {
        return Err(not_found());
    };
    node.rules
        .policy
        .permit(channel, Operation::Terminate, &identity)?;
    node.engine.clear(AppId::DEFAULT, channel, node.clock.now())?;
    let close = || What::CloseListeners(AppId::DEFAULT, channel.clone(), Disconnect::Deleted);
    let count = carried_out((0..node.commands.len()).map(|shard| (shard, close())), node).await?;
    Ok(json(format!("{{\"listeners\":{count}}}\n")))
}

/// Whether this may be done to a user: decided by her own channel.
fn permit(node: &Node, identity: &Identity, operation: Operation, user: &UserId) -> Result<(), Refusal> {
    let own = user.channel();
    node.rules.policy.permit(&own, operation, identity)
}

/// What is known of a user, as one JSON object.
fn presence(node: &Node, user: &UserId) -> String {
    let id = serde_json::Value::from(user.as_str());
    match node.apps.default.people.lock().presence(user) {
        None => format!("{{\"user\":{id},\"online\":false,\"connections\":0}}"),
        Some(presence) => {
            let since = timestamp(presence.since);
            let connections = presence.connections;
            format!("{{\"user\":{id},\"online\":true,\"connections\":{connections},\"since\":\"{since}\"}}")
        }
    }
}

/// Does something to the connections of a user, on whatever shard they are, and answers to how many.
async fn connections(
    node: &Node,
    user: &UserId,
    only: impl Fn(&str) -> bool,
    what: impl Fn(Vec<Key>) -> What,
) -> Result<Answer, Refusal> {
    let count = to_connections(node, &node.apps.default, user, only, what).await?;
    Ok(json(format!("{{\"connections\":{count}}}\n")))
}

/// The same in any app; returns to how many.
pub(super) async fn to_connections(
    node: &Node,
    world: &World,
    user: &UserId,
    only: impl Fn(&str) -> bool,
    what: impl Fn(Vec<Key>) -> What,
) -> Result<usize, Refusal> {
    let mut by_shard: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
    for connection in world.people.lock().connections(user) {
        if only(&connection.session.to_string()) {
            let place = connection.place;
            by_shard.entry(place.shard).or_default().push(place.key);
        }
    }
    let commands = by_shard.into_iter().map(|(shard, keys)| (shard, what(keys)));
    carried_out(commands, node).await
}

/// Sends commands to shards, and waits until all are carried out: on how many sessions.
async fn carried_out(commands: impl Iterator<Item = (usize, What)>, node: &Node) -> Result<usize, Refusal> {
    let mut answers = Vec::new();
    for (shard, what) in commands {
        if let Some(shard) = node.commands.get(shard) {
            answers.push(shard.send(what)?);
        }
    }
    let mut count = 0;
    for answer in answers {
        count += answer.await.unwrap_or(0);
    }
    Ok(count)
}
