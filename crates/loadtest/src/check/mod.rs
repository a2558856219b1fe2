//! `fanfare-loadtest check`: whether a server keeps "one order" and "no silent loss" while
//! connections break and the server is killed.
//!
//! It starts the server, lets lineages listen through the fault [`proxy`](crate::proxy) over all
//! transports, publishes, and writes down what was answered and heard. Stages:
//!
//! 1. everybody learns where the channel is now, and connects;
//! 2. publications, while connections are cut as the seed says, and the server is killed;
//! 3. one last publication per channel; then all come back without faults, until they have reached
//!    it or the time for that is over;
//! 4. the [`checker`](crate::checker) judges.
//!
//! What a seed decides is drawn from it alone; what sockets and schedulers decide is not repeatable.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::checker::{Channel, FlagsAllowed, History, Position, Report};
use crate::proxy::{Faults, Proxy};
use crate::random::Random;
use crate::servers::{self, Running};

mod line;
mod listen;
mod speak;

use line::Line;
use listen::{Document, Listener, Speech};
use speak::Publisher;

/// Time for an answer, before it counts as unknown.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Time for all lineages to be connected, and at the end to catch up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time without a further publication after which a run is given up.
const STANDSTILL_MAX: Duration = Duration::from_mins(1);

/// How long lineages go on listening after all have caught up: to hear what should not come.
const LINGER: Duration = Duration::from_millis(300);

/// How often the stages look whether they are over.
const TICK: Duration = Duration::from_millis(5);

/// Parts of a seed.
const SEED_LISTENERS: u64 = 1 << 32;
const SEED_PUBLISHERS: u64 = 2 << 32;

/// What is done to connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum FaultMode {
    /// Nothing.
    None,
    /// Those of listeners are reset, ended, half closed.
    Cuts,
    /// They are also stalled and sliced, and publishers suffer the same.
    All,
}

/// How a lineage listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Way {
    /// WebSocket.
    #[value(name = "websocket")]
    WebSocket,
    /// Server-sent events.
    EventStream,
    /// JSON documents with a cursor.
    LongPoll,
}

/// Options of `fanfare-loadtest check`.
#[derive(Args, Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct Options {
    /// The server's program. It is started on a free port.
    #[arg(long)]
    fanfare: PathBuf,
    /// A setting of the server: `FANFARE_CHANNELS_TALK=a,b` or `channels.talk=a,b`. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Repeats a run, as far as real sockets allow. Default: a random one, printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How subscribers listen.
    #[arg(long, value_delimiter = ',', default_values = ["websocket", "event-stream", "long-poll"])]
    transports: Vec<Way>,
    /// Subscribers of each transport.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=5_000))]
    subscribers: u64,
    /// Publications in all.
    #[arg(long, default_value_t = 10_000)]
    publications: u64,
    /// Publishers, each of which waits for its answers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    publishers: u32,
    /// Channels.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    channels: u64,
    /// Publications a second, of all publishers together, at most.
    #[arg(long, default_value_t = 2_000.0)]
    rate: f64,
    /// What is done to connections.
    #[arg(long, value_enum, default_value_t = FaultMode::None)]
    faults: FaultMode,
    /// Longest time from a connect to what is done to it, in milliseconds.
    #[arg(long, default_value_t = 3_000)]
    cut_within: u64,
    /// Longest stall, in milliseconds.
    #[arg(long, default_value_t = 5_000)]
    stall: u64,
    /// Longest time for which a subscriber stays away after a cut, in milliseconds.
    #[arg(long, default_value_t = 0)]
    absence: u64,
    /// Kill the server so many times and start it again with the same data. The engine must be
    /// chosen with --set.
    #[arg(long, default_value_t = 0)]
    kill: u64,
    /// Gap flags that lead to a new epoch are no fault: the engine forgets when it is killed.
    #[arg(long)]
    epoch_may_change: bool,
    /// No gap flag is a fault: history can be shorter than an absence.
    #[arg(long)]
    window_may_be_exceeded: bool,
    /// It is a fault when there is no gap flag at all.
    #[arg(long)]
    expect_gaps: bool,
    /// Publications are said by WebSocket subscribers, who must not hear them.
    #[arg(long)]
    talk: bool,
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fanfare.display())?;
        for (key, value) in self.settings.iter().filter(|(key, _)| key != "FANFARE_KEY") {
            write!(f, " {key}={value}")?;
        }
        let switches = [
            (self.epoch_may_change, "the epoch may change"),
            (self.window_may_be_exceeded, "the window may be exceeded"),
            (self.expect_gaps, "gaps are expected"),
            (self.talk, "subscribers speak"),
        ];
        write!(
            f,
            "\n{} subscribers each by {:?}; {} channels; {} publishers, {} publications, at most {} a second; \
             faults {:?} within {} ms, stalls up to {} ms, absence up to {} ms, kills {}",
            self.subscribers,
            self.transports,
            self.channels,
            self.publishers,
            self.publications,
            self.rate,
            self.faults,
            self.cut_within,
            self.stall,
            self.absence,
            self.kill
        )?;
        for (_, name) in switches.iter().filter(|(on, _)| *on) {
            write!(f, "; {name}")?;
        }
        Ok(())
    }
}

/// `FANFARE_X_Y=value`, or `x.y=value`.
fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let key = if key.starts_with("FANFARE_") {
        key.to_owned()
    } else {
        format!("FANFARE_{}", key.to_uppercase().replace('.', "_"))
    };
    Ok((key, value.to_owned()))
}

/// A server that is there until this is dropped, and then gone without a farewell.
pub trait Served: Send {
    /// Where it listens.
    fn address(&self) -> SocketAddr;
}

impl Served for Running {
    fn address(&self) -> SocketAddr {
        self.target.address
    }
}

/// Starts the server, each time with the same data.
pub type Start = Arc<dyn Fn() -> Result<Box<dyn Served>> + Send + Sync>;

/// How far a run is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Listeners are behind the proxy.
    Faulty,
    /// They are not, and catch up.
    Calm,
    Over,
}

/// What all tasks of a run share.
struct Course {
    /// Name, without anything that a URL would encode, and number in the history.
    channels: Vec<(String, Channel)>,
    history: RefCell<History>,
    /// Where the server is now.
    server: Cell<SocketAddr>,
    proxy: SocketAddr,
    /// The proxy does nothing, so nobody needs to leave it.
    is_faultless: bool,
    key: Option<String>,
    rate: f64,
    absence: Duration,
    stage: watch::Sender<Stage>,
    /// The last place that each lineage knows.
    cursors: RefCell<Vec<Position>>,
    /// Lineages that were connected once.
    opened: RefCell<HashSet<usize>>,
    publications: u64,
    begun: Cell<u64>,
}

impl Course {
    fn name(&self, channel: usize) -> &str {
        &self.channels[channel].0
    }

    fn opened(&self, number: usize) {
        self.opened.borrow_mut().insert(number);
    }

    /// The number of the next publication, while some are left.
    fn next_publication(&self) -> Option<u64> {
        let turn = self.begun.get();
        (turn < self.publications).then(|| {
            self.begun.set(turn + 1);
            turn
        })
    }
}

/// Runs a check and prints what came of it; whether there was no finding.
pub fn run(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("seed {seed}");
    println!("{options}");
    crate::process::raise_open_files();
    let begun = Instant::now();
    let data = tempfile::tempdir()?;
    let (own, folder) = (options.clone(), data.path().to_owned());
    let start = move || {
        let running = servers::announced(command(&own, &folder)?, None)?;
        Ok(Box::new(running) as Box<dyn Served>)
    };
    let report = judge(options, seed, Arc::new(start))?;
    let summary = report.summary;
    println!(
        "sent {}: accepted {}, refused {}, unknown {}",
        summary.sent, summary.accepted, summary.refused, summary.unknown
    );
    println!(
        "deliveries {}, reconnects {}, gaps {}, time {:.1} s",
        summary.deliveries,
        summary.cuts,
        summary.gaps,
        begun.elapsed().as_secs_f64()
    );
    print!("{report}");
    let lacks_gaps = options.expect_gaps && summary.gaps == 0;
    if lacks_gaps {
        println!("no gap was flagged, and some were expected");
    }
    let is_clean = report.is_clean() && !lacks_gaps;
    if !is_clean {
        println!("to repeat this run: the same options with --seed {seed}");
    }
    Ok(is_clean)
}

/// Runs a check against whatever `start` starts.
pub fn judge(options: &Options, seed: u64, start: Start) -> Result<Report> {
    ensure!(options.rate > 0.0, "--rate must be above 0");
    ensure!(
        !options.talk || options.transports.contains(&Way::WebSocket),
        "--talk needs WebSocket subscribers"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, Check::new(options, seed, start)?.run())
}

struct Check<'a> {
    options: &'a Options,
    seed: u64,
    flags: FlagsAllowed,
    start: Start,
    server: Option<Box<dyn Served>>,
    proxy: Proxy,
    course: Rc<Course>,
}

impl<'a> Check<'a> {
    fn new(options: &'a Options, seed: u64, start: Start) -> Result<Self> {
        let server = start()?;
        let mut faults = match options.faults {
            FaultMode::None => Faults::NONE,
            FaultMode::Cuts => Faults::CUTS,
            FaultMode::All => Faults::ALL,
        };
        faults.after[1] = Duration::from_millis(options.cut_within);
        faults.stall_for[1] = Duration::from_millis(options.stall);
        let proxy = Proxy::start(server.address(), move |connection| faults.plan(seed, connection))?;
        let mut history = History::default();
        let kind = if options.talk { "talk" } else { "check" };
        let names = (0..options.channels).map(|number| format!("{kind}/{number}"));
        let channels = names.map(|name| {
            let channel = history.channel(&name);
            (name, channel)
        });
        let key = options.settings.iter().find(|(key, _)| key == "FANFARE_KEY");
        let course = Course {
            channels: channels.collect(),
            history: RefCell::new(history),
            server: Cell::new(server.address()),
            proxy: proxy.address(),
            is_faultless: options.faults == FaultMode::None,
            key: key.map(|(_, value)| value.clone()),
            rate: options.rate,
            absence: Duration::from_millis(options.absence),
            stage: watch::Sender::new(Stage::Faulty),
            cursors: RefCell::default(),
            opened: RefCell::default(),
            publications: options.publications,
            begun: Cell::new(0),
        };
        let flags = match (options.window_may_be_exceeded, options.epoch_may_change) {
            (true, _) => FlagsAllowed::Always,
            (false, true) => FlagsAllowed::WithNewEpoch,
            (false, false) => FlagsAllowed::Never,
        };
        Ok(Self {
            options,
            seed,
            flags,
            start,
            server: Some(server),
            proxy,
            course: Rc::new(course),
        })
    }

    async fn run(mut self) -> Result<Report> {
        let (listeners, voices) = self.begin_listening().await?;
        let count = listeners.len();
        wait_for(PATIENCE, || self.course.opened.borrow().len() == count).await;
        let opened = self.course.opened.borrow().len();
        ensure!(
            opened == count,
            "only {opened} of {count} subscribers could connect"
        );
        self.publish(voices).await?;
        let mut closing = self.publisher(self.options.publishers, false);
        let mut last = Vec::new();
        for channel in 0..self.course.channels.len() {
            last.push(closing.close(channel).await?);
        }
        self.course.stage.send_replace(Stage::Calm);
        let channels = self.course.channels.len();
        let reached = |(number, cursor): (usize, &Position)| {
            let last = last[number % channels];
            cursor.epoch == last.epoch && cursor.offset >= last.offset
        };
        let all_there = || self.course.cursors.borrow().iter().enumerate().all(reached);
        // Who did not is found by the checker.
        wait_for(PATIENCE, all_there).await;
        sleep(LINGER).await;
        self.course.stage.send_replace(Stage::Over);
        for listener in listeners {
            listener.await?;
        }
        Ok(self.course.history.borrow().judge(self.flags))
    }

    /// Starts all lineages; also how to have those of each channel speak.
    async fn begin_listening(&self) -> Result<(Vec<JoinHandle<()>>, Vec<Vec<mpsc::Sender<Speech>>>)> {
        let channels = self.course.channels.len();
        let mut begins = Vec::new();
        for channel in 0..channels {
            begins.push(cursor_of(&self.course, channel).await?);
        }
        let mut listeners = Vec::new();
        let mut voices: Vec<Vec<mpsc::Sender<Speech>>> = vec![Vec::new(); channels];
        for way in &self.options.transports {
            for count in 0..self.options.subscribers {
                let number = listeners.len();
                let channel = number % channels;
                let mut random = Random::of(self.seed, SEED_LISTENERS + number as u64);
                let (speak, speeches) = mpsc::channel(1);
                let mut session = String::new();
                if self.options.talk {
                    session = format!("&session={:016x}{:016x}", random.next(), random.next());
                    if *way == Way::WebSocket {
                        voices[channel].push(speak);
                    }
                }
                let name = format!("{way:?} {count}");
                let mut history = self.course.history.borrow_mut();
                let lineage = history.lineage(&name, self.course.channels[channel].1, begins[channel]);
                self.course.cursors.borrow_mut().push(begins[channel]);
                let listener = Listener {
                    course: Rc::clone(&self.course),
                    number,
                    way: *way,
                    channel,
                    lineage,
                    cursor: begins[channel],
                    has_event_id: false,
                    session,
                    random,
                    speeches,
                };
                listeners.push(tokio::task::spawn_local(listener.run()));
            }
        }
        Ok((listeners, voices))
    }

    fn publisher(&self, number: u32, by_proxy: bool) -> Publisher {
        Publisher {
            course: Rc::clone(&self.course),
            number,
            sequence: 0,
            random: Random::of(self.seed, SEED_PUBLISHERS + u64::from(number)),
            by_proxy,
            line: None,
        }
    }

    /// Publishes everything; kills the server meanwhile.
    async fn publish(&mut self, voices: Vec<Vec<mpsc::Sender<Speech>>>) -> Result<()> {
        let by_proxy = self.options.faults == FaultMode::All;
        let mut publishers: Vec<JoinHandle<Result<()>>> = (0..self.options.publishers)
            .map(|number| tokio::task::spawn_local(self.publisher(number, by_proxy).run(voices.clone())))
            .collect();
        drop(voices);
        let mut killed = 0;
        let mut progress = (0, Instant::now());
        while !publishers.iter().all(JoinHandle::is_finished) {
            sleep(TICK).await;
            let begun = self.course.begun.get();
            let next_kill = self.course.publications * (killed + 1) / (self.options.kill + 1);
            if killed < self.options.kill && begun >= next_kill {
                killed += 1;
                self.kill().await?;
            }
            if begun != progress.0 {
                progress = (begun, Instant::now());
            } else if progress.1.elapsed() > STANDSTILL_MAX {
                bail!("nothing goes on after {begun} publications");
            }
        }
        for publisher in publishers.drain(..) {
            publisher.await??;
        }
        Ok(())
    }

    async fn kill(&mut self) -> Result<()> {
        drop(self.server.take());
        let start = Arc::clone(&self.start);
        // Starting takes a while, in which the others go on.
        let server = tokio::task::spawn_blocking(move || start()).await??;
        self.course.server.set(server.address());
        self.proxy.point_at(server.address());
        self.server = Some(server);
        Ok(())
    }
}

/// Limits of the server that a check goes beyond.
const NO_RATES: [&str; 5] = [
    "CONNECTS",
    "MESSAGES_PER_CONNECTION",
    "MESSAGES_PER_USER",
    "BYTES_PER_CONNECTION",
    "PUBLICATIONS_PER_KEY",
];

fn command(options: &Options, data: &Path) -> Result<Command> {
    let mut command = Command::new(&options.fanfare);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FANFARE_") {
            command.env_remove(name);
        }
    }
    command
        .env("FANFARE_LISTEN", "127.0.0.1:0")
        .env("FANFARE_LOG_LEVEL", "error")
        // What is said is looked for, so none of it may be dropped.
        .envs(NO_RATES.map(|limit| (format!("FANFARE_LIMITS_{limit}"), "off")));
    if options.kill > 0 {
        let engine = options.settings.iter().find(|(key, _)| key == "FANFARE_ENGINE");
        let engine = engine.context("--kill needs to know the engine: --set FANFARE_ENGINE=…")?;
        if engine.1 != "memory" {
            command.env("FANFARE_DATA_DIR", data);
        }
    }
    command.envs(options.settings.iter().map(|(key, value)| (key, value)));
    Ok(command)
}

/// Where a channel is now.
async fn cursor_of(course: &Course, channel: usize) -> Result<Position> {
    let mut line = Line::connect(course.server.get()).await?;
    let key = course.key.as_ref();
    let key = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
    let path = format!("/ch/{}", course.name(channel));
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}\r\n");
    line.send(request.as_bytes()).await?;
    let (status, body) = line.answer().await?;
    let document = serde_json::from_slice::<Document<'_>>(&body);
    let next = document.ok().and_then(|document| document.next.parse().ok());
    next.with_context(|| {
        format!(
            "{path} was answered {status} with {}",
            String::from_utf8_lossy(&body)
        )
    })
}

/// Waits until something is so, not longer than `time`.
async fn wait_for(time: Duration, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() && begun.elapsed() < time {
        sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &str)>) {
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(setting(text).ok(), expected, "{text}");
    }

    #[test]
    fn settings_are_named_as_in_the_file_or_in_the_environment() {
        check("FANFARE_ENGINE=memory", Some(("FANFARE_ENGINE", "memory")));
        check("engine=memory", Some(("FANFARE_ENGINE", "memory")));
        check("channels.talk=a=b", Some(("FANFARE_CHANNELS_TALK", "a=b")));
        check("engine", None);
    }
}
