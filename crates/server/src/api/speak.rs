//! Speaking by POST.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::auth::{Identity, Operation};
use fanfare_core::disconnect::Refusal;
use fanfare_core::idempotency::IDEMPOTENCY_KEY_BYTES_MAX;
use fanfare_core::publication::{Audience, DataKind, Draft};
use fanfare_core::user::UserId;
use fanfare_core::wire::plain::batch::{self, BatchLimits};
use fanfare_core::wire::plain::request::{PlainRequest, Target};
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use smallvec::SmallVec;

use super::{Answer, Asking, json, not_found};
use crate::address::Source;
use crate::door;
use crate::engine::{Drafts, Receipt};
use crate::hooks;
use crate::hooks::connect::Wish;
use crate::node::Node;
use crate::shard::Shard;

/// `POST`: the body is the message, or in NDJSON many messages.
pub(super) async fn post(shard: &Rc<Shard>, asking: &mut Asking<'_>) -> Result<Answer, Refusal> {
    let fields = &asking.head.headers;
    let node = &shard.node;
    let limits = &node.config.limits;
    if node.is_draining() {
        return Err(Refusal::Draining);
    }
    let asked = &asking.asked;
    let plain =
        PlainRequest::parse(asked.path, asked.query, limits.subscriptions_max).ok_or_else(not_found)??;
    let channels = match &plain.target {
        Target::Channels(channels) => channels.as_slice(),
        _ => &[],
    };
    let identity = door::identify_or_ask(node, asked, Wish::Post, channels).await?;
    let once = once(fields, &identity)?;
    let once = once.as_deref();
    let is_batch = plain.target == Target::PerMessage && is_ndjson(fields);
    if is_batch {
        let body = body(&mut asking.body, limits.body_bytes_max, "the request body", node).await?;
        let limits = BatchLimits {
            lines_max: limits.batch_lines_max,
            message_bytes_max: limits.message_bytes_max,
        };
        let mut drafts = batch::parse(AppId::DEFAULT, &body, &limits)?;
        may_say(node, asking, &identity, drafts.len())?;
        for draft in &mut drafts {
            permit(node, &draft.audience, &identity)?;
            permit_version(draft, &identity)?;
            draft.speaker = identity.user().cloned();
        }
        let receipts = publish(node, &identity, &asking.asked.source, drafts.into(), once).await?;
        return Ok(json(lines(&receipts)));
    }
    let audience = match plain.speak_channels()? {
        [] => Audience::Everyone,
        channels => Audience::Channels(channels.into()),
    };
    let receipts = say(shard, asking, &identity, plain, audience, once).await?;
    Ok(json(lines(&receipts)))
}

/// `POST /user/{id}`: to all connections of a person, whatever they listen to.
pub(super) async fn to_user(
    shard: &Rc<Shard>,
    asking: &mut Asking<'_>,
    user: &UserId,
) -> Result<Answer, Refusal> {
    let node = &shard.node;
    if node.is_draining() {
        return Err(Refusal::Draining);
    }
    let own = user.channel();
    let channels = std::slice::from_ref(&own);
    let identity = door::identify_or_ask(node, &asking.asked, Wish::Post, channels).await?;
    // The answer says how many connections she has, which not everyone who may speak to her may know.
    node.rules.policy.permit(&own, Operation::Presence, &identity)?;
    // The switches are those of a channel's POST.
    let plain = PlainRequest::parse("/ch/x", asking.asked.query, 1).ok_or_else(not_found)??;
    let once = once(&asking.head.headers, &identity)?;
    let audience = Audience::Channels(SmallVec::from_iter([own]));
    let receipts = say(shard, asking, &identity, plain, audience, once.as_deref()).await?;
    let connections = node.apps.default.people.lock().connections(user).len();
    Ok(json(match receipts.first() {
        Some(Some(receipt)) => format!(
            "{{\"id\":\"{}\",\"connections\":{connections}}}\n",
            receipt.position
        ),
        _ => format!("{DROPPED}\n"),
    }))
}

/// Publishes the body of a request.
async fn say(
    shard: &Rc<Shard>,
    asking: &mut Asking<'_>,
    identity: &Identity,
    plain: PlainRequest,
    audience: Audience,
    once: Option<&str>,
) -> Result<Said, Refusal> {
    let (node, fields) = (&shard.node, &asking.head.headers);
    let limits = &node.config.limits;
    // Permission before the body: who may not speak need not send.
    permit(node, &audience, identity)?;
    may_say(node, asking, identity, 1)?;
    let binary = has_type(fields, b"application/octet-stream");
    let data = body(&mut asking.body, limits.message_bytes_max, "the message", node).await?;
    let kind = DataKind::of(&data, binary);
    let mut draft = Draft::to(AppId::DEFAULT, audience, kind, data);
    draft.event = plain.event;
    draft.speaker = identity.user().cloned();
    draft.excluded = plain.session;
    draft.except = plain.except;
    plain.kept.apply(&mut draft)?;
    permit_version(&draft, identity)?;
    publish(
        node,
        identity,
        &asking.asked.source,
        Drafts::from_iter([draft]),
        once,
    )
    .await
}

/// Whether so many more are not too many: of the key, of the user, or of the address.
fn may_say(node: &Node, asking: &Asking<'_>, identity: &Identity, count: usize) -> Result<(), Refusal> {
    let now = node.clock.now();
    match identity {
        Identity::Server => node.gate.publish(count, now),
        Identity::Client(_) => {
            let user = identity.user();
            let source = &asking.asked.source;
            node.gate.speak(AppId::DEFAULT, user, source, count, now)
        }
    }
}

/// Messages of one batch that the back end is asked about at once: others want to be asked about too.
const ASKED_AT_ONCE: usize = 4;

/// What was published, in order; `None`: what the back end had us drop.
type Said = Vec<Option<Receipt>>;

/// Publishes drafts, all or none; what a client says only as the back end wants it.
async fn publish(
    node: &Arc<Node>,
    identity: &Identity,
    source: &Source,
    drafts: Drafts,
    once: Option<&str>,
) -> Result<Said, Refusal> {
    if *identity == Identity::Server || node.hooks.message.is_none() {
        let receipts = node.publisher.publish_all(drafts, once)?;
        return Ok(receipts.into_iter().map(Some).collect());
    }
    if let Some(once) = once {
        if drafts.len() > 1 {
            // What a repeat was answered could not be told if the back end dropped other messages now.
            return Err(Refusal::bad_request(
                "a batch that the back end looks at cannot have an Idempotency-Key",
            ));
        }
        if node.engine.is_repeat(AppId::DEFAULT, once, node.clock.now()) {
            let receipts = node.publisher.publish_all(drafts, Some(once))?;
            return Ok(receipts.into_iter().map(Some).collect());
        }
    }
    let address = source.ip;
    let asking = drafts
        .into_iter()
        .map(|draft| hooks::message::ask(node, draft, address));
    let asking = futures_util::stream::iter(asking)
        .buffered(ASKED_AT_ONCE)
        .try_collect::<Vec<Option<Draft>>>();
    let asked = tokio::time::timeout(node.config.limits.body_time_max, asking).await;
    let asked = asked.unwrap_or(Err(Refusal::HookFailed))?;
    let is_kept: Vec<bool> = asked.iter().map(Option::is_some).collect();
    let kept: Drafts = asked.into_iter().flatten().collect();
    let mut receipts = node.publisher.publish_all(kept, once)?.into_iter();
    Ok(is_kept
        .into_iter()
        .map(|is_kept| if is_kept { receipts.next() } else { None })
        .collect())
}

/// The line of an answer for what the back end had us drop.
const DROPPED: &str = "{\"dropped\":true}";

/// Versions are the back end's: a client that names a high one would make all that comes later late.
fn permit_version(draft: &Draft, identity: &Identity) -> Result<(), Refusal> {
    if draft.version.is_some() && *identity != Identity::Server {
        return Err(Refusal::Forbidden("version needs the key".into()));
    }
    Ok(())
}

/// One line of an answer for each message.
fn lines(said: &Said) -> String {
    let line = |receipt: &Option<Receipt>| {
        let Some(receipt) = receipt else {
            return format!("{DROPPED}\n");
        };
        let stale = if receipt.is_stale { ",\"stale\":true" } else { "" };
        format!(
            "{{\"id\":\"{}\",\"listeners\":{}{stale}}}\n",
            receipt.position, receipt.listeners
        )
    };
    said.iter().map(line).collect()
}

/// The key under which this is to be published only once, as one of its sender's: so nobody takes a key
/// which somebody else is about to use, and with it the place of what is published under it. Neither
/// user nor key holds a line break.
fn once(fields: &HeaderMap, identity: &Identity) -> Result<Option<String>, Refusal> {
    let Some(value) = fields.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().ok();
    let fits = |key: &&str| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len());
    let key = key.filter(fits).ok_or_else(|| {
        Refusal::bad_request(format!(
            "an Idempotency-Key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible characters"
        ))
    })?;
    Ok(Some(match (identity, identity.user()) {
        (Identity::Server, _) => format!("server\n{key}"),
        (Identity::Client(_), Some(user)) => format!("user {user}\n{key}"),
        (Identity::Client(_), None) => format!("anybody\n{key}"),
    }))
}

fn permit(node: &Node, audience: &Audience, identity: &Identity) -> Result<(), Refusal> {
    let policy = &node.rules.policy;
    match audience {
        Audience::Everyone => policy.permit_everyone(identity),
        Audience::Channels(channels) => channels
            .iter()
            .try_for_each(|channel| policy.permit(channel, Operation::Speak, identity)),
    }
}

fn is_ndjson(fields: &HeaderMap) -> bool {
    has_type(fields, b"application/x-ndjson") || has_type(fields, b"application/ndjson")
}

fn has_type(fields: &HeaderMap, wanted: &[u8]) -> bool {
    fields.get(header::CONTENT_TYPE).is_some_and(|value| {
        let kind = value.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(wanted)
    })
}

/// The whole body, if it is small enough and comes in time.
pub(super) async fn body(
    unread: &mut Option<Incoming>,
    limit_bytes: usize,
    what: &'static str,
    node: &Node,
) -> Result<Bytes, Refusal> {
    let too_large = Refusal::TooLarge { what, limit_bytes };
    let Some(body) = unread else {
        return Ok(Bytes::new());
    };
    if body.size_hint().lower() > limit_bytes as u64 {
        return Err(too_large);
    }
    let collected = Limited::new(body, limit_bytes).collect();
    match tokio::time::timeout(node.config.limits.body_time_max, collected).await {
        Err(_) => Err(Refusal::TooSlow),
        Ok(Ok(collected)) => {
            *unread = None;
            // Copied, since a piece of the connection's buffer would keep all of that in memory for as
            // long as the message is kept.
            Ok(Bytes::copy_from_slice(&collected.to_bytes()))
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large),
        Ok(Err(_)) => Err(Refusal::bad_request(
            "the request body ended early or was not sent as announced",
        )),
    }
}
