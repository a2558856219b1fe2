//! Webhooks: the back end of an app is told what happens to its channels (`pusher.md` section 13).
//!
//! What is told, in which order and when is decided in core ([`fanfare_core::webhook`]). Here is the
//! [`Desk`] of an app, which hears of it: of listeners, cache misses and client events from the engine,
//! under its lock, and of members under the lock of the people. And here it is sent, on the thread of all
//! our own requests ([`crate::outgoing`]).
//!
//! What always holds:
//!
//! * Each request is signed anew, with the time at which it is made: some libraries refuse what is older than
//!   five minutes, and tries go on for longer if the operator wants.
//! * Any answer of 2xx means that its events have arrived; what else it says is not looked at. All other
//!   answers, redirects too, mean that they are sent again.
//! * One request at a time is under way to a URL, [`PLACES_MAX`] to all, of which half are for those that
//!   failed the last time: who does not answer takes no place of those who do.
//!
//! What waits when the process ends is lost, but for what can be sent within [`FINISH_MAX`] of an orderly
//! end. All sessions have ended by then, so every channel is vacated: this is told at once. The next life of
//! the node tells of channels as they are occupied anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use fanfare_core::app::AppId;
use fanfare_core::auth::Secret;
use fanfare_core::channel::ChannelName;
use fanfare_core::moment::Moment;
use fanfare_core::stream::app::Happening;
use fanfare_core::user::UserId;
use fanfare_core::webhook::{Agenda, Dropped, Event, Failure, Filter, HookId, Settings};
use fanfare_core::wire::pusher::{sign, webhook};
use http::{HeaderMap, HeaderValue, Method, Request, header};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::clock::unix_now;
use crate::config::{AppSettings, PusherSection, WebhookSettings};
use crate::engine::Witness;
use crate::log_gate::Kind;
use crate::metrics::{Counter, Exposition, Labelled};
use crate::node::Node;
use crate::outgoing::{Caller, Target};

/// Time between looks for new events; what has come in between goes together.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Time for an answer: nobody waits for it.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Requests that are under way at once, to all URLs of all apps.
const PLACES_MAX: usize = 64;

/// Time for which one URL keeps its place while it has more.
const TURN_MAX: Duration = Duration::from_secs(1);

/// Time to send what waits when the node ends, and between looks whether all is sent.
const FINISH_MAX: Duration = Duration::from_secs(2);
const FINISH_LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Whose app it is.
const KEY_FIELD: &str = "x-pusher-key";

/// The HMAC-SHA256 of the body with the app's secret, in hex.
const SIGNATURE_FIELD: &str = "x-pusher-signature";

/// What an app's back end is told.
#[derive(Debug)]
pub(crate) struct Desk {
    agenda: Mutex<Agenda>,
    hooks: RwLock<Arc<Hooks>>,
}

/// Where to, as it is configured now.
#[derive(Debug)]
pub(crate) struct Hooks {
    app: String,
    key: HeaderValue,
    secret: Secret,
    list: Vec<Arc<Hook>>,
}

#[derive(Debug)]
struct Hook {
    id: HookId,
    url: String,
    filter: Filter,
    caller: Caller,
    fields: HeaderMap,
}

impl Desk {
    /// Of an app that tells nobody.
    pub(crate) fn new(pusher: &PusherSection) -> Arc<Self> {
        let agenda = Agenda::new(Settings {
            delay: pusher.webhook_delay,
            queue_max: pusher.webhook_queue_max,
            queue_bytes_max: pusher.webhook_queue_bytes_max,
            batch_max: pusher.webhook_batch_max,
            retry_for: pusher.webhook_retry_for,
            retry_pause: pusher.webhook_retry_pause,
        });
        Arc::new(Self {
            agenda: Mutex::new(agenda),
            hooks: RwLock::new(Arc::new(Hooks::none())),
        })
    }

    /// A user is there on a presence channel, or has gone. The caller holds the lock of the people.
    pub(crate) fn member(&self, channel: &ChannelName, user: &UserId, is_here: bool, now: Moment) {
        self.agenda.lock().member(channel, user, is_here, now);
    }

    /// Where to, from now on. Says whether there was anybody to tell, and whether there is.
    fn configure(&self, hooks: Hooks) -> (bool, bool) {
        let filters = hooks.list.iter().map(|hook| (hook.id, hook.filter.clone()));
        let is_any = !hooks.list.is_empty();
        self.agenda.lock().configure(filters.collect());
        let before = std::mem::replace(&mut *self.hooks.write(), Arc::new(hooks));
        (!before.list.is_empty(), is_any)
    }
}

impl Witness for Desk {
    fn happened(&self, happenings: Vec<Happening>, now: Moment) {
        let mut agenda = self.agenda.lock();
        for happening in happenings {
            agenda.happened(happening, now);
        }
    }
}

impl Hooks {
    /// Of an app that tells nobody.
    pub(crate) fn none() -> Self {
        Self {
            app: String::new(),
            key: HeaderValue::from_static(""),
            secret: Secret::new(""),
            list: Vec::new(),
        }
    }
}

/// The webhooks of a node.
#[derive(Debug)]
pub(crate) struct Webhooks {
    /// Of apps that have any.
    desks: RwLock<Vec<Arc<Desk>>>,
    /// There are others.
    changed: Notify,
    /// One for all URLs with TLS, and one for those without: for their connections and authorities.
    callers: Mutex<Vec<Caller>>,
    next_id: AtomicU64,
    places: Arc<Semaphore>,
    /// Of URLs that failed the last time.
    places_failing: Arc<Semaphore>,
    sent: Counter,
    requests: Labelled,
    dropped: Labelled,
}

impl Webhooks {
    pub(crate) fn new() -> Self {
        let places = || Arc::new(Semaphore::new(PLACES_MAX / 2));
        Self {
            desks: RwLock::default(),
            changed: Notify::new(),
            callers: Mutex::default(),
            next_id: AtomicU64::default(),
            places: places(),
            places_failing: places(),
            sent: Counter::default(),
            requests: Labelled::default(),
            dropped: Labelled::default(),
        }
    }

    /// Gets what requests to an app's URLs need, such as the system's list of authorities, from the disk.
    pub(crate) fn open(&self, app: &AppSettings, pusher: &PusherSection) -> Result<(), String> {
        for webhook in &app.webhooks {
            let caller = self.caller(&webhook.target(pusher)?);
            caller.map_err(|error| format!("webhooks of {:?}: {error:#}", app.id))?;
        }
        Ok(())
    }

    /// What an app's settings, which were checked, ask for, whether it is enabled or not: where it is not, it is
    /// told that nobody is there any more. A webhook that stays goes on where it is, and so does one of which
    /// only what it wants, or only the URL, has changed.
    pub(crate) fn prepare(
        &self,
        desk: &Desk,
        app: &AppSettings,
        pusher: &PusherSection,
    ) -> Result<Hooks, String> {
        let mut wanted = Vec::new();
        for settings in &app.webhooks {
            wanted.push((settings, settings.filter()?, None));
        }
        let mut before: Vec<Arc<Hook>> = desk.hooks.read().list.clone();
        // The best match first: the same, then with the same URL, then for the same events.
        let matches: [fn(&Hook, &WebhookSettings, &Filter) -> bool; 3] = [
            |hook, settings, filter| hook.url == settings.url && hook.filter == *filter,
            |hook, settings, _| hook.url == settings.url,
            |hook, _, filter| hook.filter == *filter,
        ];
        for is_same in matches {
            for (settings, filter, id) in wanted.iter_mut().filter(|(_, _, id)| id.is_none()) {
                let place = before.iter().position(|hook| is_same(hook, settings, filter));
                *id = place.map(|place| before.remove(place).id);
            }
        }
        let mut list = Vec::new();
        for (settings, filter, id) in wanted {
            let target = settings.target(pusher)?;
            let caller = self.caller(&target);
            list.push(Arc::new(Hook {
                id: id.unwrap_or_else(|| self.fresh_id()),
                url: settings.url.clone(),
                filter,
                caller: caller.map_err(|error| format!("webhooks of {:?}: {error:#}", app.id))?,
                fields: settings.fields()?,
            }));
        }
        Ok(Hooks {
            app: app.id.clone(),
            key: HeaderValue::from_str(&app.key).map_err(|error| error.to_string())?,
            secret: app.secret.clone(),
            list,
        })
    }

    fn fresh_id(&self) -> HookId {
        HookId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn caller(&self, target: &Target) -> anyhow::Result<Caller> {
        let mut callers = self.callers.lock();
        if let Some(caller) = callers.iter().find_map(|caller| caller.to(target)) {
            return Ok(caller);
        }
        let caller = Caller::new(target).context("no requests can be made")?;
        callers.push(caller.clone());
        Ok(caller)
    }

    /// From now on an app tells these.
    pub(crate) fn configure(&self, node: &Node, app: AppId, desk: &Arc<Desk>, hooks: Hooks) {
        let name = hooks.app.clone();
        let (was_any, is_any) = desk.configure(hooks);
        tell_dropped(node, &name, desk.agenda.lock().take_dropped());
        match (was_any, is_any) {
            (false, true) => self.desks.write().push(Arc::clone(desk)),
            (true, false) => self.desks.write().retain(|known| !Arc::ptr_eq(known, desk)),
            _ => {}
        }
        let witness = is_any.then(|| Arc::clone(desk) as Arc<dyn Witness>);
        node.memory.watch(app, witness);
        self.changed.notify_one();
    }

    fn desks(&self) -> Vec<Arc<Desk>> {
        self.desks.read().clone()
    }

    /// A place for one request.
    fn place(&self, is_failing: bool) -> Option<OwnedSemaphorePermit> {
        let places = if is_failing {
            &self.places_failing
        } else {
            &self.places
        };
        Arc::clone(places).try_acquire_owned().ok()
    }

    pub(crate) fn render(&self, out: &mut Exposition) {
        out.one(
            "fanfare_webhook_events_sent_total",
            "counter",
            "Events that a URL took.",
            self.sent.get(),
        );
        let name = "fanfare_webhook_requests_total";
        out.head(name, "counter", "Requests of webhooks, by outcome.");
        for (outcome, count) in self.requests.counts() {
            out.line(name, "outcome", outcome, count);
        }
        let name = "fanfare_webhook_events_dropped_total";
        out.head(
            name,
            "counter",
            "Events that a URL will never hear: too many waited, it failed for too long, or it is one no more.",
        );
        for (cause, count) in self.dropped.counts() {
            out.line(name, "cause", cause, count);
        }
        let (mut waiting, mut leaving) = (0, 0);
        for desk in self.desks() {
            let agenda = desk.agenda.lock();
            waiting += agenda.waiting();
            leaving += agenda.leaving();
        }
        out.one(
            "fanfare_webhook_events_waiting",
            "gauge",
            "Events that wait to be sent, or are under way, counted for each URL.",
            waiting as u64,
        );
        out.one(
            "fanfare_webhook_leaving",
            "gauge",
            "Channels and members that have gone and may come back before that is told.",
            leaving as u64,
        );
    }
}

/// Starts sending. It ends with the process.
pub(crate) fn start(node: &Arc<Node>) {
    if let Some(outgoing) = &node.outgoing {
        let node = Arc::clone(node);
        outgoing.spawn(async move { look_again_and_again(&node).await });
    }
}

/// Tells what there is to tell at the end, and waits until it has arrived, but not for long.
pub(crate) async fn finish(node: &Node) {
    let desks = node.webhooks.desks();
    desks.iter().for_each(|desk| desk.agenda.lock().finish());
    let is_done = async {
        while desks.iter().any(|desk| desk.agenda.lock().waiting() > 0) {
            tokio::time::sleep(FINISH_LOOK_INTERVAL).await;
        }
    };
    if tokio::time::timeout(FINISH_MAX, is_done).await.is_err() {
        tracing::warn!("some events of webhooks could not be sent before the end");
    }
}

async fn look_again_and_again(node: &Arc<Node>) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut start: usize = 0;
    loop {
        let desks = node.webhooks.desks();
        if desks.is_empty() {
            node.webhooks.changed.notified().await;
            continue;
        }
        // Another one each time, so that none is always the last to be given a place.
        start = start.wrapping_add(1);
        let first = start % desks.len();
        for desk in desks.iter().cycle().skip(first).take(desks.len()) {
            look(node, desk);
        }
        ticks.tick().await;
    }
}

/// Begins to send what an app has to tell.
fn look(node: &Arc<Node>, desk: &Arc<Desk>) {
    let now = node.clock.now();
    while desk.agenda.lock().expire(now) {
        // The lock is free in between.
    }
    let hooks = Arc::clone(&desk.hooks.read());
    tell_dropped(node, &hooks.app, desk.agenda.lock().take_dropped());
    for hook in &hooks.list {
        let is_failing = desk.agenda.lock().is_failing(hook.id);
        let Some(place) = node.webhooks.place(is_failing) else {
            continue;
        };
        let Some(events) = desk.agenda.lock().take(hook.id, now) else {
            continue;
        };
        let (node, desk) = (Arc::clone(node), Arc::clone(desk));
        let (hooks, hook) = (Arc::clone(&hooks), Arc::clone(hook));
        tokio::spawn(async move {
            send(&node, &desk, &hooks, &hook, events).await;
            drop(place);
        });
    }
}

fn tell_dropped(node: &Node, app: &str, Dropped { limit, removed }: Dropped) {
    for (cause, count, why) in [
        (
            "limit",
            limit,
            "too many events of webhooks waited; the oldest are lost",
        ),
        (
            "removed",
            removed,
            "events waited for webhooks that there are no more",
        ),
    ] {
        if count > 0 {
            node.webhooks.dropped.add_many(cause, count as u64);
            node.log.say(Kind::Error, || {
                tracing::error!(app, count, "{why}");
            });
        }
    }
}

/// Sends what a URL is to hear, and what comes next, for a while; as it is configured now.
async fn send(node: &Node, desk: &Desk, hooks: &Hooks, hook: &Hook, events: Vec<Arc<Event>>) {
    let begun = Instant::now();
    let mut next = Some(events);
    while let Some(events) = next.take() {
        if let Err(error) = send_once(hooks, hook, &events).await {
            let failure = desk.agenda.lock().failed(hook.id, node.clock.now());
            return failed(node, hooks, hook, &error, failure);
        }
        node.webhooks.requests.add("taken");
        node.webhooks.sent.add(events.len());
        let mut agenda = desk.agenda.lock();
        agenda.delivered(hook.id);
        if begun.elapsed() < TURN_MAX {
            next = agenda.take(hook.id, node.clock.now());
        }
    }
}

async fn send_once(hooks: &Hooks, hook: &Hook, events: &[Arc<Event>]) -> anyhow::Result<()> {
    let body = Bytes::from(webhook::body(unix_now(), events));
    let mut request = Request::builder().method(Method::POST);
    if let Some(fields) = request.headers_mut() {
        fields.clone_from(&hook.fields);
        // Exactly so: one library compares the whole value.
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        fields.insert(KEY_FIELD, hooks.key.clone());
        fields.insert(
            SIGNATURE_FIELD,
            HeaderValue::from_str(&sign::sign(&hooks.secret, &body))?,
        );
    }
    let status = hook.caller.tell(request, body, ANSWER_TIME_MAX).await?;
    anyhow::ensure!(status.is_success(), "the answer was {status}");
    Ok(())
}

fn failed(node: &Node, hooks: &Hooks, hook: &Hook, error: &anyhow::Error, failure: Option<Failure>) {
    if let Some(Failure { pause, given_up }) = failure {
        let (app, url, error) = (&hooks.app, hook.caller.shown(), format!("{error:#}"));
        node.log.say(Kind::Error, || {
            tracing::warn!(
                app,
                url,
                error,
                ?pause,
                given_up,
                "a webhook failed; what is not given up is sent again"
            );
        });
        node.webhooks.dropped.add_many("too_old", given_up as u64);
    }
    // The last of it, so that whoever sees it sees the rest.
    node.webhooks.requests.add("failed");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids of webhooks after a change, where those before had 0, 1 and so on: URL and what it wants.
    #[track_caller]
    fn check(before: &[(&str, &str)], after: &[(&str, &str)], expected: &[u64]) {
        let pusher = PusherSection {
            webhook_private_networks: true,
            ..PusherSection::default()
        };
        let webhooks = Webhooks::new();
        let desk = Desk::new(&pusher);
        let prepare = |list: &[(&str, &str)]| {
            let table = |(url, channels): &(&str, &str)| {
                format!("{{ url = \"http://127.0.0.1/{url}\", channels = \"{channels}\" }}")
            };
            let list: Vec<String> = list.iter().map(table).collect();
            let app = format!(
                "id = \"1\"\nkey = \"k\"\nsecret = \"s\"\nwebhooks = [{}]",
                list.join(", ")
            );
            let app: AppSettings = toml::from_str(&app).unwrap();
            webhooks.prepare(&desk, &app, &pusher).unwrap()
        };
        desk.configure(prepare(before));
        let ids: Vec<u64> = prepare(after).list.iter().map(|hook| hook.id.0).collect();
        assert_eq!(ids, expected, "{before:?} {after:?}");
    }

    #[test]
    fn a_webhook_is_the_same_as_far_as_it_can_be() {
        let (own, other) = (("a", "*"), ("b", "*"));
        check(&[own, other], &[own, other], &[0, 1]);
        check(&[own, other], &[other, own], &[1, 0]);
        check(&[own, other], &[other], &[1]);
        check(&[own], &[other], &[0]);
        check(&[own, other], &[other, ("d", "*")], &[1, 0]);
        check(&[own], &[own, other], &[0, 1]);
        check(&[own], &[("c", "x*")], &[1]);
        // One URL, for several kinds of channels.
        let [x, y, z] = [("a", "x*"), ("a", "y*"), ("a", "z*")];
        check(&[x, y, z], &[x, y, z], &[0, 1, 2]);
        check(&[x, y, z], &[z, x], &[2, 0]);
        check(&[x, y], &[("a", "w*"), y], &[0, 1]);
        check(&[x], &[x, x], &[0, 1]);
    }
}
