//! The HTTP API of the Pusher door (`pusher.md` section 12).
//!
//! Answers are exactly what libraries expect: `{}` for a trigger, and a sentence in plain text with a true
//! status for a refusal. One event for several channels is one publication for each, all of them or none: a
//! client that listens to two of them hears it on both, as this protocol has it.

use std::fmt::Write as _;
use std::rc::Rc;

use fanfare_core::channel::{CHANNEL_NAME_BYTES_MAX, ChannelName, Kind};
use fanfare_core::disconnect::{Disconnect, Refusal};
use fanfare_core::publication::{DataKind, Draft, Entry, Reader};
use fanfare_core::stream::Resume;
use fanfare_core::user::UserId;
use fanfare_core::wire::pusher::rest::{self, Info, Route, Trigger};
use fanfare_core::wire::pusher::{name, shown};
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::{Answer, Asking, Body, json, people, speak, with_field};
use crate::apps::App;
use crate::door::pusher::{self, Order};
use crate::engine::Drafts;
use crate::node::Node;
use crate::shard::{DISMISSED, Shard, What};

/// Answers a request of the API. `None`: it is none.
pub(super) async fn answer(shard: &Rc<Shard>, asking: &mut Asking<'_>) -> Option<Answer> {
    let node = &shard.node;
    let order = pusher::order(node, asking.head.method.as_str(), &asking.asked)?;
    let answer = match order {
        Ok(order) => {
            let done = done(shard, asking, &order).await;
            let is_old = matches!(order.request.route, Route::ChannelEvents(_));
            done.map(|text| (text, is_old))
        }
        Err(refusal) => Err(refusal),
    };
    Some(match answer {
        // As it was answered of old.
        Ok((text, true)) => {
            let mut answer = json(text);
            *answer.status_mut() = StatusCode::ACCEPTED;
            answer
        }
        Ok((text, false)) => json(text),
        Err(refusal) => {
            let refusal = pusher::refused(node, &asking.asked, refusal);
            node.refused(&refusal);
            refused(&refusal)
        }
    })
}

/// A refusal as libraries pass it on: one sentence.
fn refused(refusal: &Refusal) -> Answer {
    let mut answer = Response::new(Body::Whole(Some(refusal.to_string().into())));
    *answer.status_mut() = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    // How to show who one is stands in the query here.
    let field = refusal.field().filter(|(name, _)| *name != "WWW-Authenticate");
    if let Some((name, value)) = field {
        with_field(&mut answer, name, &value);
    }
    answer
}

async fn done(shard: &Rc<Shard>, asking: &mut Asking<'_>, order: &Order<'_>) -> Result<String, Refusal> {
    let node = &shard.node;
    let app = &*order.app;
    if node.is_draining() {
        return Err(Refusal::Draining);
    }
    let limit = node.config.limits.body_bytes_max;
    let body = speak::body(&mut asking.body, limit, "the request body", node).await?;
    order.signed.check_body(&body)?;
    let library = asking.head.headers.get("x-pusher-library");
    tracing::debug!(app = app.settings.id, ?library, route = ?order.request.route, "request");
    match &order.request.route {
        Route::Events => {
            let trigger = rest::trigger(&body, &app.trigger_limits)?;
            publish(node, app, std::slice::from_ref(&trigger))?;
            Ok(if trigger.info.is_empty() {
                "{}".to_owned()
            } else {
                format!("{{\"channels\":{}}}", channels_info(node, app, &trigger)?)
            })
        }
        Route::BatchEvents => {
            let triggers = rest::batch(&body, &app.trigger_limits)?;
            publish(node, app, &triggers)?;
            if triggers.iter().all(|trigger| trigger.info.is_empty()) {
                return Ok("{}".to_owned());
            }
            let infos = triggers.iter().map(|trigger| match trigger.channels.first() {
                Some(channel) => attributes(node, app, channel, trigger.info, false),
                None => Ok("{}".to_owned()),
            });
            let infos: Vec<String> = infos.collect::<Result<_, _>>()?;
            Ok(format!("{{\"batch\":[{}]}}", infos.join(",")))
        }
        Route::ChannelEvents(channel) => {
            let event = order.signed.get("name").unwrap_or_default();
            let data = serde_json::to_string(&String::from_utf8_lossy(&body)).unwrap_or_default();
            let socket_id = order.signed.get("socket_id").unwrap_or_default();
            let text = |text: &str| serde_json::Value::from(text).to_string();
            let trigger = format!(
                "{{\"name\":{},\"channel\":{},\"data\":{data},\"socket_id\":{}}}",
                text(event),
                text(channel),
                text(socket_id)
            );
            let trigger = rest::trigger(trigger.as_bytes(), &app.trigger_limits)?;
            publish(node, app, std::slice::from_ref(&trigger))?;
            Ok("{}".to_owned())
        }
        Route::UserEvents(user) => {
            let user = rest::user(user)?;
            let trigger = rest::user_event(&body, &user, &app.trigger_limits)?;
            publish(node, app, std::slice::from_ref(&trigger))?;
            Ok("{}".to_owned())
        }
        Route::Channels => channels(node, app, order).await,
        Route::Channel(text) => {
            let channel = channel(app, text)?;
            let info = order.signed.info()?;
            let attributes = attributes(node, app, &channel, info, true)?;
            let is_occupied = count(node, app, &channel) > 0;
            let more = attributes.strip_prefix('{').unwrap_or_default();
            let comma = if more == "}" { "" } else { "," };
            Ok(format!("{{\"occupied\":{is_occupied}{comma}{more}"))
        }
        Route::Users(text) => {
            let channel = channel(app, text)?;
            if channel.kind() != Kind::Presence {
                return Err(Refusal::bad_request(
                    "only presence channels know their users: the name begins with presence-",
                ));
            }
            let people = app.world.people.lock();
            let user =
                |(user, _): (&UserId, _)| format!("{{\"id\":{}}}", serde_json::Value::from(user.as_str()));
            let users: Vec<String> = people.roster(&channel).map(user).collect();
            Ok(format!("{{\"users\":[{}]}}", users.join(",")))
        }
        Route::Terminate(user) => {
            let user = rest::user(user)?;
            app.world.people.lock().dismiss(&user, node.clock.now());
            let why = Disconnect::Refused(Refusal::Forbidden(DISMISSED.into()));
            let close = |keys| What::Close(keys, why.clone());
            people::to_connections(node, &app.world, &user, |_| true, close).await?;
            Ok("{}".to_owned())
        }
        Route::Connections => Ok(format!("{{\"connections\":{}}}", app.world.connections())),
    }
}

fn channel(app: &App, text: &str) -> Result<ChannelName, Refusal> {
    name::parse(
        text,
        app.trigger_limits.name_bytes_max.max(CHANNEL_NAME_BYTES_MAX),
    )
    .map_err(Refusal::bad_request)
}

/// Publishes events, all or none.
fn publish(node: &Node, app: &App, triggers: &[Trigger]) -> Result<(), Refusal> {
    let now = node.clock.now();
    let mut drafts = Drafts::new();
    for trigger in triggers {
        for channel in &trigger.channels {
            let mut draft = Draft::new(app.id, channel.clone(), trigger.kind, trigger.data.clone());
            draft.event = Some(trigger.event.clone());
            draft.excluded = trigger.socket_id;
            drafts.push(draft);
        }
    }
    app.may_publish(
        triggers.len(),
        drafts.len(),
        node.config.limits.publications_per_key,
        now,
    )?;
    node.publisher.publish_all(drafts, None).map(drop)
}

/// Sessions that listen to a channel.
fn count(node: &Node, app: &App, channel: &ChannelName) -> usize {
    node.engine.listeners(app.id, std::slice::from_ref(channel))
}

/// `{"name":{…},…}` of all channels of a trigger.
fn channels_info(node: &Node, app: &App, trigger: &Trigger) -> Result<String, Refusal> {
    let mut text = String::from("{");
    for (place, channel) in trigger.channels.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        let name = serde_json::Value::from(shown(channel));
        let info = attributes(node, app, channel, trigger.info, false)?;
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{name}:{info}");
    }
    text.push('}');
    Ok(text)
}

/// What is asked for of a channel, as an object. `must_apply`: asking for what it does not have is an error;
/// else it is left out.
fn attributes(
    node: &Node,
    app: &App,
    channel: &ChannelName,
    info: Info,
    must_apply: bool,
) -> Result<String, Refusal> {
    let mut parts = Vec::new();
    if info.user_count {
        if channel.kind() == Kind::Presence {
            let count = app.world.people.lock().roster(channel).len();
            parts.push(format!("\"user_count\":{count}"));
        } else if must_apply {
            return Err(Refusal::bad_request(
                "user_count is only for presence channels: the name begins with presence-",
            ));
        }
    }
    if info.subscription_count {
        parts.push(format!("\"subscription_count\":{}", count(node, app, channel)));
    }
    if info.cache {
        if channel.is_cache() {
            parts.push(format!("\"cache\":{}", cached(node, app, channel)?));
        } else if must_apply {
            return Err(Refusal::bad_request(
                "cache is only for cache channels: the name has cache- behind what it begins with",
            ));
        }
    }
    Ok(format!("{{{}}}", parts.join(",")))
}

/// The last publication of a cache channel: `{"data":…,"ttl":seconds}`, or null.
fn cached(node: &Node, app: &App, channel: &ChannelName) -> Result<String, Refusal> {
    let now = node.clock.now();
    let channels = std::slice::from_ref(channel);
    let last = node
        .engine
        .read(app.id, channels, Resume::Last(1), Reader::default(), now)?;
    let text = |entry: &Entry| match entry.draft.kind {
        DataKind::Text | DataKind::Json => String::from_utf8_lossy(&entry.draft.data).into_owned(),
        DataKind::Binary => String::new(),
    };
    Ok(last.entries.last().map_or_else(
        || "null".to_owned(),
        |entry| {
            let age = node.config.history_age(channel);
            let left = (entry.ordered_at + age) - now;
            let left = left.min(entry.expires_at() - now);
            format!(
                "{{\"data\":{},\"ttl\":{}}}",
                serde_json::Value::from(text(entry)),
                left.as_secs()
            )
        },
    ))
}

/// `GET channels`: those that somebody listens to.
async fn channels(node: &Node, app: &App, order: &Order<'_>) -> Result<String, Refusal> {
    let prefix = order.signed.get("filter_by_prefix").unwrap_or_default();
    let info = order.signed.info()?;
    if info.user_count && !prefix.starts_with("presence-") {
        return Err(Refusal::bad_request(
            "user_count is only for presence channels: filter_by_prefix must begin with presence-",
        ));
    }
    if info.cache {
        return Err(Refusal::bad_request("cache can be asked for of one channel only"));
    }
    let mut text = String::from("{\"channels\":{");
    let (mut is_first, mut place) = (true, Some(0));
    while let Some(from) = place {
        let (found, next) = node.engine.occupied(app.id, prefix, from);
        place = next;
        let people = info.user_count.then(|| app.world.people.lock());
        // What is said to one user is no channel that a back end asks for.
        for (channel, count) in found.iter().filter(|(channel, _)| channel.kind() != Kind::Own) {
            let mut parts = Vec::new();
            if let Some(people) = &people {
                parts.push(format!("\"user_count\":{}", people.roster(channel).len()));
            }
            if info.subscription_count {
                parts.push(format!("\"subscription_count\":{count}"));
            }
            let comma = if std::mem::replace(&mut is_first, false) {
                ""
            } else {
                ","
            };
            let name = serde_json::Value::from(channel.as_str());
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{name}:{{{}}}", parts.join(","));
        }
        drop(people);
        // Whoever else is on this thread does not wait for all of them.
        tokio::task::yield_now().await;
    }
    text.push_str("}}");
    Ok(text)
}

/// The answer of other servers to whoever asks whether they are up.
pub(super) fn up() -> Answer {
    json("{\"health\":\"OK\"}".to_owned())
}
