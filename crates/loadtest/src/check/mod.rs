//! `fanfare-loadtest check`: whether a server keeps "one order" and "no silent loss" while
//! connections break and the server is killed.
//!
//! It starts the server, lets lineages listen through the fault [`proxy`](crate::proxy) over all
//! transports, publishes, and writes down what was answered and heard. Stages:
//!
//! 1. everybody learns where the channel is now, and connects;
//! 2. publications, while connections are cut as the seed says, and the server is killed, or all
//!    reset their connections at once and come back at once;
//! 3. one last publication per channel; then all come back without faults, until they have reached
//!    it or the time for that is over;
//! 4. the [`checker`](crate::checker) judges.
//!
//! What a seed decides is drawn from it alone; what sockets and schedulers decide is not repeatable.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::checker::{FlagsAllowed, History, Position, Report};
use crate::process::Process;
use crate::proxy::{Faults, Proxy};
use crate::random::Random;
use crate::servers::{self, Running};

mod course;
mod line;
mod listen;
mod options;
mod probe;
mod speak;

pub use course::Figures;
pub use options::{FaultMode, Options, Way};

use course::{Course, Stage};
pub(crate) use line::Line;

use listen::{Document, Listener, Speech};
use probe::Probe;
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

/// A server that is there until this is dropped, and then gone without a farewell.
pub trait Served: Send {
    /// Where it listens.
    fn address(&self) -> SocketAddr;

    /// Its process, if it is one of its own.
    fn process(&self) -> Option<Process> {
        None
    }
}

impl Served for Running {
    fn address(&self) -> SocketAddr {
        self.target.address
    }

    fn process(&self) -> Option<Process> {
        Some(Self::process(self))
    }
}

/// Starts the server, each time with the same data.
pub type Start = Arc<dyn Fn() -> Result<Box<dyn Served>> + Send + Sync>;

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
    let (report, figures) = judge(options, seed, Arc::new(start))?;
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
    print!("{figures}");
    if options.expect_gaps && options.absence_publications > 0 {
        println!("returns after more than is kept: {}", summary.returns);
    }
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
pub fn judge(options: &Options, seed: u64, start: Start) -> Result<(Report, Figures)> {
    ensure!(options.rate > 0.0, "--rate must be above 0");
    ensure!(
        !options.talk || options.transports.contains(&Way::WebSocket),
        "--talk needs WebSocket subscribers"
    );
    ensure!(
        !options.talk || (options.absence_publications == 0 && options.storms == 0),
        "with --talk nobody knows how many publications a channel had"
    );
    ensure!(
        options.kill == 0 || options.storms == 0,
        "--kill and --storms are two runs"
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
    /// Only where all have to come back.
    probe: Option<Probe>,
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
        faults.after = [options.cut_after, options.cut_within].map(Duration::from_millis);
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
        let accepted = (0..options.channels).map(|_| watch::Sender::default());
        let course = Course {
            channels: channels.collect(),
            accepted: accepted.collect(),
            history: RefCell::new(history),
            server: Cell::new(server.address()),
            proxy: proxy.address(),
            is_faultless: options.faults == FaultMode::None,
            resets: options.storms > 0,
            key: key.map(|(_, value)| value.clone()),
            rate: options.rate,
            absence: Duration::from_millis(options.absence),
            absence_publications: options.absence_publications,
            must_be_told: options.expect_gaps,
            stage: watch::Sender::new(Stage::Faulty),
            cursors: RefCell::default(),
            opened: RefCell::default(),
            publications: options.publications,
            begun: Cell::new(0),
            sent: RefCell::default(),
            figures: RefCell::new(Figures::new()),
        };
        let flags = match (options.window_may_be_exceeded, options.epoch_may_change) {
            (true, _) => FlagsAllowed::Always,
            (false, true) => FlagsAllowed::WithNewEpoch,
            (false, false) => FlagsAllowed::Never,
        };
        let has_returns = options.kill + options.storms > 0;
        let probe = has_returns.then(|| Probe::start(server.address(), course.key.as_deref()));
        Ok(Self {
            options,
            seed,
            flags,
            start,
            server: Some(server),
            proxy,
            probe: probe.transpose()?,
            course: Rc::new(course),
        })
    }

    async fn run(mut self) -> Result<(Report, Figures)> {
        let (listeners, voices) = self.begin_listening().await?;
        let count = listeners.len();
        // Who is stalled from the first byte on comes in after that.
        let stall = Duration::from_millis(self.options.stall);
        wait_for(PATIENCE + stall, || self.course.opened.borrow().len() == count).await;
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
        let mut figures = self.course.figures.borrow().clone();
        if let Some(probe) = &self.probe {
            figures.answers_meanwhile = probe.times();
        }
        figures.memory_peak = self.process().and_then(|process| process.peak_bytes().ok());
        Ok((self.course.history.borrow().judge(self.flags), figures))
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

    /// Publishes everything; kills the server, or has all listeners leave, meanwhile.
    async fn publish(&mut self, voices: Vec<Vec<mpsc::Sender<Speech>>>) -> Result<()> {
        let by_proxy = self.options.faults == FaultMode::All;
        let mut publishers: Vec<JoinHandle<Result<()>>> = (0..self.options.publishers)
            .map(|number| tokio::task::spawn_local(self.publisher(number, by_proxy).run(voices.clone())))
            .collect();
        drop(voices);
        let (mut done, events) = (0, self.options.kill + self.options.storms);
        let mut progress = (0, Instant::now());
        while !publishers.iter().all(JoinHandle::is_finished) {
            sleep(TICK).await;
            let begun = self.course.begun.get();
            let next = self.course.publications * (done + 1) / (events + 1);
            if done < events && begun >= next {
                done += 1;
                if self.options.kill > 0 {
                    self.kill().await?;
                } else {
                    self.storm().await?;
                }
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
        let begun = Instant::now();
        drop(self.server.take());
        self.probe_counts(true);
        self.course.opened.borrow_mut().clear();
        let before = self.accepted_last();
        let start = Arc::clone(&self.start);
        // Starting takes a while, in which the others go on.
        let server = tokio::task::spawn_blocking(move || start()).await??;
        self.course.server.set(server.address());
        self.proxy.point_at(server.address());
        if let Some(probe) = &self.probe {
            probe.point_at(server.address());
        }
        self.server = Some(server);
        let forgets = self.options.epoch_may_change;
        self.all_back(begun, |cursor, channel| {
            let Some(last) = before[channel] else {
                return true;
            };
            cursor.epoch != last.epoch || (!forgets && cursor.offset >= last.offset)
        })
        .await
    }

    /// All listeners reset their connections, miss something, and come back at once.
    async fn storm(&mut self) -> Result<()> {
        let resident = self.process().and_then(|process| process.resident_bytes().ok());
        if let Some(resident) = resident {
            let mut figures = self.course.figures.borrow_mut();
            figures.memory_before.get_or_insert(resident);
        }
        self.course.stage.send_replace(Stage::Away);
        let absence = self.options.absence_publications;
        let counts = || {
            let accepted = self.course.accepted.iter();
            accepted.map(|accepted| accepted.borrow().count)
        };
        let goals: Vec<u64> = counts().map(|count| count + absence).collect();
        let is_over = || counts().zip(&goals).all(|(count, goal)| count >= *goal);
        wait_for(STANDSTILL_MAX, is_over).await;
        ensure!(
            is_over(),
            "in {STANDSTILL_MAX:?} not every channel had {absence} publications"
        );
        let (before, begun) = (self.accepted_last(), Instant::now());
        self.probe_counts(true);
        self.course.opened.borrow_mut().clear();
        self.course.stage.send_replace(Stage::Faulty);
        self.all_back(begun, |cursor, channel| {
            before[channel].is_none_or(|last| cursor.epoch != last.epoch || cursor.offset >= last.offset)
        })
        .await
    }

    /// Waits until every lineage is connected again and where `has_reached` says.
    async fn all_back(&self, begun: Instant, has_reached: impl Fn(&Position, usize) -> bool) -> Result<()> {
        let (course, channels) = (&self.course, self.course.channels.len());
        let is_there = |(number, cursor): (usize, &Position)| {
            course.opened.borrow().contains(&number) && has_reached(cursor, number % channels)
        };
        let count = || {
            let cursors = course.cursors.borrow();
            cursors.iter().enumerate().filter(|one| is_there(*one)).count()
        };
        let all = course.cursors.borrow().len();
        wait_for(PATIENCE, || count() == all).await;
        ensure!(
            count() == all,
            "only {} of {all} subscribers were back after {PATIENCE:?}",
            count()
        );
        self.probe_counts(false);
        course.figures.borrow_mut().back.push(begun.elapsed());
        Ok(())
    }

    fn probe_counts(&self, counts: bool) {
        if let Some(probe) = &self.probe {
            probe.counts(counts);
        }
    }

    fn accepted_last(&self) -> Vec<Option<Position>> {
        let accepted = self.course.accepted.iter();
        accepted.map(|accepted| accepted.borrow().last).collect()
    }

    fn process(&self) -> Option<Process> {
        self.server.as_ref()?.process()
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
    let mut command = servers::without_settings(Command::new(&options.fanfare));
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
