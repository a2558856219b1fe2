//! One node: what its shards share, how it starts, and how it goes away.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fanfare_core::app::AppId;
use fanfare_core::auth::{HostRules, OriginRules, Policy};
use fanfare_core::channel::{ChannelName, ChannelPattern};
use fanfare_core::disconnect::Refusal;
use fanfare_core::moment::Moment;
use fanfare_core::people::Notice;
use fanfare_core::position::Epoch;
use fanfare_core::publication::WireForm;
use fanfare_core::session::{SpeakRates, StreamSettings, WebSocketSettings};
use fanfare_core::stream::Resume;
use fanfare_core::user::UserId;
use fanfare_core::wire::http1::HeadLimits;
use fanfare_core::wire::pusher::COUNT_INTERVAL;
use fanfare_core::wire::websocket::DecodeLimits;
use fanfare_core::wire::websocket::deflate::{self, DeflateSettings, InflateLimits};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smallvec::SmallVec;
use subtle::ConstantTimeEq;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::apps::{Apps, check_folder, folders};
use crate::begin::Begin;
use crate::clock::Clock;
use crate::config::{Config, ReplayRule};
use crate::door::{Listen, Rules};
use crate::engine::{Engine, Mailboxes, MemoryEngine};
use crate::gate::Gate;
use crate::hooks::{self, Hooks};
use crate::listen::{self, Listening};
use crate::log_gate::{Kind, LogGate};
use crate::metrics::Metrics;
use crate::outgoing;
use crate::publish::Publisher;
use crate::random::random;
use crate::reload;
use crate::shard::command::Commands;
use crate::shard::mailbox::Mailbox;
use crate::shard::{Key, Listener, Shard, What, settle};
use crate::tls::Acceptor;
use crate::tokens::Tokens;
use crate::webhooks::{self, Webhooks};

/// Descriptors kept back for the engine, files, and telling those who find no room so.
const DESCRIPTORS_KEPT: usize = 64;

/// Sessions closed per second when going away, unless `sessions.drain` asks for more.
const DRAIN_PER_SECOND: usize = 500;

/// Time between looks at what is kept and too old. Each look has a limit: see
/// [`fanfare_core::stream::app::EXPIRED_PER_STEP`].
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);

/// Looks whether the node is ready until it says that it listens nevertheless, and time between them.
const READY_LOOKS_MAX: u32 = 1_000;
const READY_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Time between looks whether a shard has ended by itself.
const SHARD_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Time between the slices of a drain.
const DRAIN_SLICE: Duration = Duration::from_millis(50);

/// Time after the last session was told, for outboxes and requests to finish.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Where a connection is: its shard, and its key there.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Place {
    pub(crate) shard: usize,
    pub(crate) key: Key,
}

/// What the shards of a node share. Never changes after the start, but for counters and flags.
pub struct Node {
    /// The configuration that the node runs with.
    pub config: Config,
    /// Everything that is published passes here.
    pub publisher: Publisher,
    pub(crate) engine: Arc<dyn Engine>,
    /// The same, as long as apps come to it while it runs.
    pub(crate) memory: Arc<MemoryEngine>,
    pub(crate) begin: Begin,
    pub(crate) clock: Clock,
    /// Whose channels there are, and who is there.
    pub(crate) apps: Apps,
    /// What other threads ask of each shard.
    pub(crate) commands: Vec<Commands>,
    pub(crate) mailboxes: Mailboxes,
    /// Figures.
    pub metrics: Arc<Metrics>,
    pub(crate) log: LogGate,
    pub(crate) rules: Rules,
    /// TLS, if there is any.
    pub(crate) tls: Option<Acceptor>,
    pub(crate) tokens: Tokens,
    /// Limits per address, user and key.
    pub(crate) gate: Arc<Gate>,
    pub(crate) hooks: Hooks,
    pub(crate) webhooks: Webhooks,
    /// Where requests of our own run, if the configuration asks for any.
    pub(crate) outgoing: Option<Handle>,
    pub(crate) websocket_settings: Arc<WebSocketSettings>,
    /// The same for sessions that have agreed on permessage-deflate.
    pub(crate) deflate_settings: Arc<WebSocketSettings>,
    pub(crate) stream_settings: Arc<StreamSettings>,
    /// Who of the Pusher door is given what she missed; the first pattern that matches decides.
    pub(crate) replay_rules: Vec<(ChannelPattern, ReplayRule)>,
    /// When it began.
    pub(crate) started: Moment,
    pub(crate) connections_max: usize,
    pub(crate) handshakes_max: usize,
    /// Whether the door's own listener also answers what an operator asks.
    pub(crate) admin_inside: bool,
    probe_path: String,
    draining: watch::Sender<bool>,
    ready: AtomicBool,
    requests: AtomicUsize,
}

impl Node {
    /// A node for this configuration; nothing is opened yet.
    pub(crate) fn new(config: Config, tls: Option<Acceptor>) -> Result<Arc<Self>> {
        let shards = config.shard_count();
        let limits = &config.limits;
        let mailbox = |_| {
            Arc::new(Mailbox::new(
                limits.mailbox_publications_max,
                limits.mailbox_bytes_max,
            ))
        };
        let mailboxes: Mailboxes = (0..shards).map(mailbox).collect();
        let seed = random().context("the operating system gives no random numbers")?;
        // 40 bits keep ids short; a node would have to restart a million times to meet an old one.
        let epoch = Epoch(u64::from_ne_bytes(seed) >> 24);
        let clock = Clock::start();
        check_folder(&config).map_err(anyhow::Error::msg)?;
        let begin = Begin::new(&config, epoch, shards, clock)?;
        let memory = Arc::new(begin.engine(folders(&config), &mailboxes)?);
        let engine: Arc<dyn Engine> = Arc::clone(&memory) as _;
        let metrics = Arc::new(Metrics::new(shards));
        let connections_max = match limits.connections_max {
            0 => open_files_max()
                .saturating_sub((open_files_max() / 20).max(DESCRIPTORS_KEPT))
                .max(1),
            limit => limit,
        };
        let handshakes_max = match limits.handshakes_max {
            0 => (connections_max / 10).max(256),
            limit => limit,
        };
        let patterns = |texts: &[String]| -> Result<Vec<ChannelPattern>> {
            texts.iter().map(|text| Ok(ChannelPattern::new(text)?)).collect()
        };
        let on_loopback = config.is_on_loopback();
        let development = config.is_open() && on_loopback;
        let rules = Rules {
            policy: Policy {
                key: config.key.clone(),
                key_previous: config.key_previous.clone(),
                is_closed: !config.is_open(),
                private: patterns(&config.channels.private)?,
                talk: patterns(&config.channels.talk)?,
                presence: patterns(&config.channels.presence)?,
            },
            origins: OriginRules::new(&config.origins, development)?,
            hosts: HostRules::new(&config.hosts, on_loopback),
            unix_hosts: HostRules::new(&config.hosts, development),
        };
        let websocket = WebSocketSettings {
            is_one_by_one: config.hooks.on_message.is_some(),
            ping_interval: config.sessions.ping_interval,
            message_time_max: limits.message_time_max,
            decode: DecodeLimits {
                message_bytes_max: limits.message_bytes_max,
                fragments_max: limits.fragments_max,
                inflate: None,
            },
            heartbeat: config.sessions.heartbeat.clone().map(|[ask, reply]| (ask, reply)),
            rates: SpeakRates {
                messages: limits.messages_per_connection,
                excess_max: limits.messages_excess_max,
                pings: limits.pings_per_connection,
                control_frames: limits.control_frames_per_connection,
                refreshes: limits.token_refreshes_per_connection,
            },
        };
        let mut deflate = websocket.clone();
        deflate.decode.inflate = Some(InflateLimits {
            ratio_max: limits.inflate_ratio_max,
        });
        let network = config.network.rules().map_err(anyhow::Error::msg)?;
        let gate = Gate::new(
            network,
            config.network.proxy_protocol,
            config.key.is_some(),
            connections_max,
            limits,
        );
        let tokens = Tokens::new(&config)?;
        let apps = Apps::new(&config).map_err(anyhow::Error::msg)?;
        let secret = random().context("the operating system gives no random numbers")?;
        let node = Arc::new(Self {
            publisher: Publisher::new(
                Arc::clone(&engine),
                Arc::clone(&metrics),
                clock,
                rules.policy.clone(),
            ),
            clock,
            apps,
            commands: (0..shards).map(|_| Commands::default()).collect(),
            engine,
            memory,
            begin,
            mailboxes,
            metrics,
            log: LogGate::new(),
            rules,
            tls,
            gate,
            hooks: Hooks::new(&config.hooks)?,
            webhooks: Webhooks::new(),
            // Apps may come later, and have webhooks then; but not to a server that knows nobody.
            outgoing: (config.hooks.is_any() || tokens.source.is_some() || !config.is_open())
                .then(outgoing::start)
                .transpose()?,
            tokens,
            websocket_settings: Arc::new(websocket),
            deflate_settings: Arc::new(deflate),
            stream_settings: Arc::new(StreamSettings {
                heartbeat_interval: config.sessions.ping_interval,
            }),
            replay_rules: config.replay_rules(),
            started: clock.now(),
            connections_max,
            handshakes_max,
            admin_inside: development,
            probe_path: format!("/-/probe/{:032x}", u128::from_ne_bytes(secret)),
            draining: watch::Sender::new(false),
            ready: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            config,
        });
        node.apps.begin_webhooks(&node).map_err(anyhow::Error::msg)?;
        Ok(node)
    }

    /// Open connections, of sessions, unfinished heads and the HTTP server.
    pub fn connections(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn connection_opened(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether one more session has a place; the connection itself is counted already.
    pub(crate) fn room_for_one(&self) -> Result<(), Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        if self.connections() > self.connections_max {
            Err(Refusal::Full)
        } else {
            Ok(())
        }
    }

    /// Whether a request that is no stream has a place. Some are kept back for these, so that a
    /// house full of listeners can still be published to and asked how it is.
    pub(crate) fn room_for_request(&self) -> Result<(), Refusal> {
        if self.connections() > self.connections_max.saturating_add(DESCRIPTORS_KEPT / 2) {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// What a request head may be like.
    pub(crate) fn head_limits(&self) -> HeadLimits {
        let limits = &self.config.limits;
        HeadLimits {
            head_bytes_max: limits.head_bytes_max,
            fields_max: limits.head_fields_max,
            target_bytes_max: limits.target_bytes_max,
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Resolves when the node begins to go away.
    pub(crate) async fn drained(&self) {
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// Tells sessions of users whom they watch. With too many commands waiting some are not told.
    pub(crate) fn tell_watchers(&self, notices: Vec<Notice<Place>>) {
        let mut by_shard: BTreeMap<usize, Vec<(Key, UserId, bool)>> = BTreeMap::new();
        for Notice { place, user, online } in notices {
            let told = (place.key, user, online);
            by_shard.entry(place.shard).or_default().push(told);
        }
        for (shard, told) in by_shard {
            if let Some(commands) = self.commands.get(shard)
                && commands.send(What::Tell(told)).is_err()
            {
                self.metrics.limited("commands");
            }
        }
    }

    /// Whether the last probe publication came back, what is published can be stored, and no drain
    /// has begun.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) && !self.engine.is_failing() && !self.is_draining()
    }

    /// What the last probe has come to; only changes are logged. A node that goes away takes no
    /// probe in, and that is no fault.
    pub(crate) fn set_ready(&self, outcome: std::io::Result<()>) {
        if self.is_draining() {
            return;
        }
        let was_ready = self.ready.swap(outcome.is_ok(), Ordering::Relaxed);
        match outcome {
            Err(error) if was_ready => tracing::error!(
                %error,
                "not ready: the probe's publication did not come back through this server's own port"
            ),
            Ok(()) if !was_ready => tracing::info!("ready: the probe's publication came back"),
            _ => {}
        }
    }

    pub(crate) fn is_probe(&self, path: &str) -> bool {
        path.as_bytes().ct_eq(self.probe_path.as_bytes()).into()
    }

    pub(crate) fn probe_path(&self) -> &str {
        &self.probe_path
    }

    /// What the probe's own session listens to, in an app of its own.
    pub(crate) fn probe_listen() -> Listen {
        Listen {
            app: AppId::PROBE,
            channels: ChannelName::new("probe").into_iter().collect::<SmallVec<_>>(),
            form: WireForm::WebSocketRaw,
            deflate: None,
            echo: false,
            resume: Resume::Now,
            session: None,
            wants_open: false,
            wait: None,
            may_speak: false,
            wants_users: false,
            known_since: None,
            grant: None,
            ticket: None,
        }
    }

    /// Counts a refusal and tells the operator, at a bounded rate.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.metrics.refused(refusal);
        self.log.say(Kind::Refused, || {
            tracing::info!(error = refusal.word(), status = refusal.status(), reason = %refusal, "refused");
        });
    }
}

/// Does what the engine has to do on the side, until it is told to stop.
fn tend(node: &Node, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        node.engine.tend();
        // Woken early when there is something to do.
        std::thread::park_timeout(node.config.disk.sync.interval());
    }
}

/// Raises the number of files that this process may open as far as it may, and says how many.
fn open_files_max() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = if setrlimit(Resource::Nofile, wanted).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    now.and_then(|files| usize::try_from(files).ok())
        .unwrap_or(1 << 20)
}

/// Runs a node until it is told to stop. Blocks.
pub(crate) fn serve(config: Config, tls: Option<Acceptor>, source: reload::Source) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // A file that may not grow is an error to whoever writes it, not the end of the process.
    let _file_size = runtime
        .block_on(async { signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())) })
        .context("cannot catch signals")?;
    let node = Node::new(config, tls)?;
    let Listening {
        shards: mut listeners,
        ports,
        socket_file,
    } = listen::open(&node)?;
    let first = ports.first().map(|first| first.address).context("no listener")?;
    let admin = match node.config.admin_address(first) {
        Some(address) if !node.admin_inside || node.config.admin_is_separate() => {
            Some(listen::bind_admin(address)?)
        }
        _ => None,
    };
    crate::jwks::start(&node)?;
    hooks::presence::start(&node);
    webhooks::start(&node);
    let (drain, draining) = watch::channel(Stage::Serving);
    let mut threads = Vec::new();
    let mut admin_socket = admin;
    for (index, listeners) in listeners.drain(..).enumerate() {
        let (node, draining) = (Arc::clone(&node), draining.clone());
        let admin = if index == 0 { admin_socket.take() } else { None };
        let body = move || run_shard(&node, index, listeners, admin, draining);
        threads.push(
            std::thread::Builder::new()
                .name(format!("shard-{index}"))
                .spawn(body)?,
        );
    }
    let mut signals = runtime
        .block_on(async { Signals::catch() })
        .context("cannot catch signals")?;
    let probing = runtime.spawn(crate::health::probe(Arc::clone(&node), ports.clone()));
    let expiring = runtime.spawn(expire_history(Arc::clone(&node)));
    let reloading = runtime.spawn(reload::run(Arc::clone(&node), source));
    let stop_tending = Arc::new(AtomicBool::new(false));
    let mut tending = None;
    if node.engine.journal_counts().is_some() {
        let (node, stop) = (Arc::clone(&node), Arc::clone(&stop_tending));
        let thread = std::thread::Builder::new().name("tend".to_owned());
        tending = Some(thread.spawn(move || tend(&node, &stop))?);
    }
    runtime.block_on(async {
        wait_until_ready(&node).await;
        // The lines that scripts wait for; everything else is a log line on standard error.
        let unix = node
            .config
            .unix
            .iter()
            .map(|path| format!("unix:{}", path.display()));
        let addresses: Vec<String> = ports.iter().map(ToString::to_string).chain(unix).collect();
        let mut stdout = std::io::stdout();
        for address in &addresses {
            // Nobody need wait for them.
            let _ = writeln!(stdout, "listening on {address}");
        }
        tracing::info!(
            addresses = addresses.join(" "),
            shards = node.mailboxes.len(),
            engine = node.config.engine,
            connections_max = node.connections_max,
            "fanfare is ready"
        );
        let cause = stop_signal(&mut signals, &threads).await;
        tracing::info!(
            cause,
            "stopping: no new connections, open sessions are told to come back (1012, or 4100 of Pusher's)"
        );
    });
    node.draining.send_replace(true);
    drain.send_replace(Stage::Draining {
        until: Instant::now() + node.config.sessions.drain,
    });
    runtime.spawn(async move {
        stop_signal(&mut signals, &[]).await;
        tracing::warn!("second signal: stopping at once");
        std::process::exit(130);
    });
    let joined = runtime.block_on(async { join_all(threads).await });
    runtime.block_on(async { tokio::join!(hooks::presence::finish(&node), webhooks::finish(&node)) });
    probing.abort();
    expiring.abort();
    reloading.abort();
    stop_tending.store(true, Ordering::Release);
    if let Some(tending) = tending {
        tending.thread().unpark();
        if tending.join().is_err() {
            tracing::error!("the thread that tends the engine has panicked");
        }
    }
    node.engine.close();
    drop(socket_file);
    joined?;
    tracing::info!("stopped");
    Ok(())
}

/// Where a node is in its life, as its shards see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Serving,
    Draining { until: Instant },
}

async fn join_all(threads: Vec<std::thread::JoinHandle<Result<()>>>) -> Result<()> {
    for thread in threads {
        let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
        match joined {
            Ok(result) => result?,
            Err(_) => bail!("a shard has panicked"),
        }
    }
    Ok(())
}

/// Lets go what has become too old, also where nothing is published any more.
async fn expire_history(node: Arc<Node>) {
    let mut counts_told = Instant::now();
    let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let shared = node.gate.expire(node.clock.now());
        if shared > 0 {
            node.metrics.limited_often("addresses_max", shared);
            let say = || tracing::warn!(shared, "too many addresses at once: new ones share their limits");
            node.log.say(Kind::Refused, say);
        }
        while node.engine.expire(node.clock.now()) {
            // The lock is free in between.
            tokio::task::yield_now().await;
        }
        for world in node.apps.worlds() {
            let mut people = world.people.lock();
            people.expire(node.clock.now());
            let notices = people.take_notices();
            let mut returning = world.returning.lock();
            returning.expire(node.clock.now());
            let dropped = returning.take_dropped();
            drop(returning);
            if dropped > 0 {
                node.metrics.limited_often("replay_sessions_max", dropped as u64);
            }
            // Under the lock, since what is owed is in its order.
            let _ = settle(&node, &world);
            drop(people);
            node.tell_watchers(notices);
            if counts_told.elapsed() >= COUNT_INTERVAL {
                world.tell_counts(&node);
            }
        }
        if counts_told.elapsed() >= COUNT_INTERVAL {
            counts_told = Instant::now();
        }
    }
}

async fn wait_until_ready(node: &Node) {
    // The probe runs every few milliseconds until it has succeeded once.
    for _ in 0..READY_LOOKS_MAX {
        if node.ready.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(READY_LOOK_INTERVAL).await;
    }
    tracing::warn!("the readiness probe has not come back yet");
}

/// SIGTERM and SIGINT. Caught from the moment this exists, so it is made before the server says
/// that it is ready: a signal that came earlier would end the process as it stands.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// Waits for a signal, or for a shard that ended by itself.
async fn stop_signal(signals: &mut Signals, threads: &[std::thread::JoinHandle<Result<()>>]) -> &'static str {
    let shard_ended = async {
        loop {
            tokio::time::sleep(SHARD_LOOK_INTERVAL).await;
            if threads.iter().any(std::thread::JoinHandle::is_finished) {
                // Never half a server: whoever supervises the process starts a whole one.
                return;
            }
        }
    };
    tokio::select! {
        _ = signals.terminate.recv() => "SIGTERM",
        _ = signals.interrupt.recv() => "SIGINT",
        () = shard_ended => "a shard ended",
    }
}

fn run_shard(
    node: &Arc<Node>,
    index: usize,
    listeners: Vec<Listener>,
    admin: Option<TcpListener>,
    mut stage: watch::Receiver<Stage>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    let shard =
        Shard::new(Arc::clone(node), index, listeners).context("cannot watch the listening socket")?;
    let (stop, stopped) = watch::channel(false);
    local.block_on(&runtime, async move {
        deflate::prepare_thread(DeflateSettings {
            bytes_min: node.config.compression.bytes_min,
            level: node.config.compression.level,
        });
        tracing::debug!(index, "shard is running");
        let mut looping = tokio::task::spawn_local(Rc::clone(&shard).run(stopped));
        if let Some(admin) = admin {
            tokio::task::spawn_local(crate::api::serve_admin(Rc::clone(&shard), admin));
        }
        until_drain(&mut looping, &mut stage).await?;
        let until = match *stage.borrow() {
            Stage::Draining { until } => until,
            Stage::Serving => Instant::now(),
        };
        drain_shard(&shard, until).await;
        stop.send_replace(true);
        looping.await?.context("a shard's loop failed")
    })
}

/// Waits until the node goes away. A loop that ends before has failed or panicked, and what it owned
/// is lost: that is an error, which ends its thread, and so the node.
async fn until_drain(
    looping: &mut tokio::task::JoinHandle<std::io::Result<()>>,
    stage: &mut watch::Receiver<Stage>,
) -> Result<()> {
    tokio::select! {
        ended = looping => match ended {
            Err(error) => Err(error).context("a shard has panicked"),
            Ok(Err(error)) => Err(error).context("a shard's loop failed"),
            Ok(Ok(())) => bail!("a shard's loop ended by itself"),
        },
        _ = stage.wait_for(|stage| *stage != Stage::Serving) => Ok(()),
    }
}

/// Tells the sessions of a shard to come back elsewhere, spread over a window, and waits for the
/// last bytes to leave.
async fn drain_shard(shard: &Shard, until: Instant) {
    shard.stop_accepting();
    let mut left = shard.drain(0);
    let window = until.saturating_duration_since(Instant::now());
    let wanted = Duration::from_millis((left * 1_000 / DRAIN_PER_SECOND) as u64).min(window);
    let slices = (wanted.as_millis() / DRAIN_SLICE.as_millis()).max(1);
    let per_slice = left.div_ceil(usize::try_from(slices).unwrap_or(1)).max(1);
    while left > 0 {
        left = shard.drain(per_slice);
        tokio::time::sleep(DRAIN_SLICE).await;
    }
    let end = Instant::now() + FLUSH_MAX;
    while (shard.unfinished() > 0 || crate::api::open_requests() > 0) && Instant::now() < end {
        tokio::time::sleep(DRAIN_SLICE / 5).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        looping: impl Future<Output = std::io::Result<()>> + 'static,
        stage: Stage,
        expected: Option<&str>,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap_or_else(|error| panic!("{error}"));
        let got = tokio::task::LocalSet::new().block_on(&runtime, async {
            let (_drain, mut draining) = watch::channel(stage);
            until_drain(&mut tokio::task::spawn_local(looping), &mut draining).await
        });
        assert_eq!(got.err().map(|error| error.to_string()).as_deref(), expected);
    }

    #[test]
    fn a_shard_that_ends_by_itself_ends_its_thread() {
        let draining = Stage::Draining {
            until: Instant::now(),
        };
        let serving = Stage::Serving;
        check(
            async { panic!("of this test") },
            serving,
            Some("a shard has panicked"),
        );
        check(
            async { Err(std::io::ErrorKind::Other.into()) },
            serving,
            Some("a shard's loop failed"),
        );
        check(async { Ok(()) }, serving, Some("a shard's loop ended by itself"));
        check(std::future::pending(), draining, None);
    }
}
