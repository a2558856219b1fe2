//! The Pusher door before a request is served: whose channels a handshake wants, and who has signed a
//! request. The same in both lanes.
//!
//! Origins are the app's own, any unless it says less: no cookie counts here, so a page of another site can
//! say no more than a program could. Where any may come there is no rule for hosts either; where some are
//! listed there is, for a browser that is tricked about a name would say that it is one of them. A server
//! that nobody has configured has an app whose secret everybody knows: there the rules of all doors hold.

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
pub(crate) fn knocking<'a>(node: &Node, path: &'a str) -> Option<Result<Knocking<'a>, Refusal>> {
    path::parse(behind_prefix(node, path)?)
}

/// Whether a path is one of this door's, where its own rules for hosts and origins hold.
pub(crate) fn has_own_rules(node: &Node, method: &str, path: &str) -> bool {
    let behind = behind_prefix(node, path).filter(|_| !node.config.is_open());
    behind.is_some_and(|path| path::parse(path).is_some() || rest::route(method, path).is_some())
}

/// What a handshake gets.
pub(crate) fn knock(
    node: &Arc<Node>,
    asked: &Asked<'_>,
    knocking: &Result<Knocking<'_>, Refusal>,
    admission: Admission,
    is_new: bool,
) -> Knock {
    let peer = asked.source;
    let mut ticket = None;
    let app = room(node, asked, admission, is_new).and_then(|taken| {
        ticket = taken;
        find(node, asked, knocking.as_ref().map_err(Refusal::clone)?)
    });
    let may_deflate = app.is_ok() && node.config.compression.enabled;
    let offers = asked.extensions.iter().copied();
    Knock {
        app,
        hint: knocking
            .as_ref()
            .ok()
            .and_then(|knocking| knocking.hint)
            .map(Into::into),
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
    if node.config.is_open() {
        node.rules.gate(asked)?;
    } else if !app.settings.origins.iter().any(|origin| origin == "*") {
        node.rules.hosts_of(asked.source).check(asked.host)?;
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

/// Counts a request that was refused among the guesses of its address, if it may be one. Whoever has guessed
/// too often is told so instead of what was wrong; what is signed well is done nevertheless.
pub(crate) fn refused(node: &Node, asked: &Asked<'_>, refusal: Refusal) -> Refusal {
    if !rest::is_guess(&refusal) {
        return refusal;
    }
    let now = node.clock.now();
    match node.gate.may_sign(&asked.source, now) {
        Ok(()) => {
            node.gate.signed_badly(&asked.source, now);
            refusal
        }
        Err(barred) => barred,
    }
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
    let (key, secret) = (&app.settings.key, &app.settings.secret);
    signed.check(method, &request, key, secret, unix_now().as_secs())?;
    if !app.settings.enabled {
        return Err(Refusal::AppDisabled);
    }
    Ok(Order { app, request, signed })
}
