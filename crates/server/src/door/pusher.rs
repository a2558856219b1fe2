//! The Pusher door before a request is served: whose channels a handshake wants, and who has signed a
//! request. The same in both lanes.
//!
//! What names a key or is signed needs no rule for hosts: no page can make a browser that is tricked about
//! a name say anything that it could not say anyway. Origins are the app's own, any unless it says less,
//! since no cookie counts here.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use fanfare_core::disconnect::Refusal;
use fanfare_core::wire::pusher::path::{self, Knocking};
use fanfare_core::wire::pusher::rest::{self, RestRequest, Signed};
use fanfare_core::wire::websocket::extension;

use super::{Asked, room};
use crate::apps::App;
use crate::clock::unix_now;
use crate::gate::Admission;
use crate::node::Node;
use crate::shard::Knock;

/// What stands behind the door's prefix in a path, if that is there.
fn behind_prefix<'a>(node: &Node, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(node.config.pusher.path.as_str())
}

/// Whether a WebSocket is asked for through this door.
pub(crate) fn knocking<'a>(node: &Node, path: &'a str) -> Option<Knocking<'a>> {
    path::parse(behind_prefix(node, path)?)
}

/// Whether a path is one of this door's.
pub(crate) fn is_ours(node: &Node, method: &str, path: &str) -> bool {
    let behind = behind_prefix(node, path);
    behind.is_some_and(|path| path::parse(path).is_some() || rest::route(method, path).is_some())
}

/// What a handshake gets.
pub(crate) fn knock(
    node: &Arc<Node>,
    asked: &Asked<'_>,
    knocking: &Knocking<'_>,
    admission: Admission,
    is_new: bool,
) -> Knock {
    let peer = asked.source;
    let mut ticket = None;
    let app = room(node, asked, admission, is_new).and_then(|taken| {
        ticket = taken;
        find(node, asked, knocking)
    });
    let may_deflate = app.is_ok() && node.config.compression.enabled;
    let offers = asked.extensions.iter().copied();
    Knock {
        app,
        hint: knocking.hint.map(Into::into),
        device: device(asked),
        deflate: may_deflate.then(|| extension::negotiate(offers)).flatten(),
        peer,
        ticket,
    }
}

/// A number for the browser, phone or program that asks, as far as it tells: the same for all its connections.
/// It only narrows down which sessions of one user belong together.
fn device(asked: &Asked<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    asked.user_agent.hash(&mut hasher);
    asked.origins.first().hash(&mut hasher);
    asked.query.hash(&mut hasher);
    hasher.finish()
}

fn find(node: &Node, asked: &Asked<'_>, knocking: &Knocking<'_>) -> Result<Arc<App>, Refusal> {
    path::check_protocol(asked.query)?;
    let app = node.apps.by_key(&knocking.key).ok_or(Refusal::NoApp)?;
    if !app.settings.enabled {
        return Err(Refusal::AppDisabled);
    }
    if !app.settings.origins.iter().any(|origin| origin == "*") {
        app.origins
            .check(asked.origins.iter().copied(), asked.sent_to())?;
    }
    Ok(app)
}

/// A request that an app's back end has signed.
pub(crate) struct Order<'a> {
    pub(crate) app: Arc<App>,
    pub(crate) request: RestRequest<'a>,
    pub(crate) signed: Signed<'a>,
}

/// What is asked for through the HTTP API, if its path is one of that. The signature is looked at; the body
/// is not.
pub(crate) fn order<'a>(node: &Node, method: &str, asked: &Asked<'a>) -> Option<Result<Order<'a>, Refusal>> {
    let request = match rest::route(method, behind_prefix(node, asked.path)?)? {
        Ok(request) => request,
        Err(refusal) => return Some(Err(refusal)),
    };
    Some(signed(node, method, asked, request))
}

fn signed<'a>(
    node: &Node,
    method: &str,
    asked: &Asked<'a>,
    request: RestRequest<'a>,
) -> Result<Order<'a>, Refusal> {
    let signed = Signed::new(asked.query)?;
    let app = match &request.app {
        Some(id) => node
            .apps
            .by_id(id)
            .ok_or_else(|| Refusal::NotFound("no app with this id exists here".into()))?,
        None => node.apps.by_key(signed.key()?).ok_or(Refusal::NoApp)?,
    };
    let now = node.clock.now();
    node.gate.may_sign(&asked.source, now)?;
    let (key, secret) = (&app.settings.key, &app.settings.secret);
    let good = signed.check(method, &request, key, secret, unix_now().as_secs());
    if let Err(refusal) = good {
        if rest::is_guess(&refusal) {
            node.gate.signed_badly(&asked.source, now);
        }
        return Err(refusal);
    }
    if !app.settings.enabled {
        return Err(Refusal::AppDisabled);
    }
    Ok(Order { app, request, signed })
}
