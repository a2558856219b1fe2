//! Runs a scenario against a server: one thread, one epoll set, and no more work per message than
//! finding its stamp, since whatever the load generator wastes looks like slowness of the server.
//!
//! The phases: connect everybody, be quiet, publish (first without measuring), wait for what is
//! still on its way, take stock. Times count from when a publication was *due*, so a server that
//! stands still is charged for what should have been sent meanwhile.
//!
//! This module does not start servers and knows them only as a [`Target`] and, if its cost is
//! asked for, a [`Process`].

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use slab::Slab;

use crate::outcome::{Connecting, Outcome, Publishing, Times, cost, micros_each};
use crate::process::{Process, own_cpu};
use crate::scenario::{Group, Scenario};
use crate::tally::Tally;
use crate::target::{Target, Transport};
use crate::wire::{self, Dechunker};

mod hear;
mod publish;
mod stock;

/// Handshakes under way at a time: enough to keep a server busy, few enough for any backlog.
const HANDSHAKES_MAX: usize = 64;

/// Bytes read from one connection at a time.
const SCRATCH_BYTES: usize = 256 << 10;

/// How often slow readers read.
const SLOW_TICK: Duration = Duration::from_millis(250);

/// Marks a publisher's number among the epoll set's data.
const PUBLISHER: u64 = 1 << 63;

/// The code counted for a connection that ended without one.
const NO_CODE: u16 = 1006;

/// What is told while a scenario runs: the phase, and how many thousandths of it are over.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Conduct {
    Good,
    Stalled,
    Slow,
    Churner,
}

struct Subscriber {
    socket: TcpStream,
    group: usize,
    channel: usize,
    conduct: Conduct,
    /// The handshake is answered.
    answered: bool,
    /// It listens.
    open: bool,
    dechunker: Option<Dechunker>,
    /// What has arrived of something that is not whole yet.
    partial: Vec<u8>,
    tally: Tally,
    close_code: Option<u16>,
}

struct Publisher {
    socket: TcpStream,
    group: usize,
    /// Its number within the group.
    index: usize,
    got: Vec<u8>,
    unsent: Vec<u8>,
    flight: Option<Flight>,
    /// Its channels and how many publications each has had.
    channels: Vec<(usize, u32)>,
    turn: usize,
    /// Open loop: when the next one is due, in nanoseconds since the start.
    due: u64,
    websocket: bool,
}

struct Flight {
    channel: usize,
    sequence: u32,
    due: u64,
    answered: bool,
    /// Well-behaved subscribers that have not heard it.
    left: u64,
    body: Vec<u8>,
}

struct GroupState {
    first_publisher: usize,
    /// Well-behaved subscribers per channel.
    live: Vec<u64>,
    published: Vec<u64>,
    measured_publications: u64,
    measured_deliveries: u64,
    refused: u64,
    ends: BTreeMap<(u8, u16), u64>,
    churned: u64,
    churn_faults: u64,
    churn_due: u64,
    churners: VecDeque<usize>,
    finished: Vec<(usize, Tally)>,
    delivery: Times,
    answer: Times,
}

struct Drive<'a> {
    target: &'a Target,
    scenario: &'a Scenario,
    epoll: OwnedFd,
    scratch: Vec<u8>,
    start: Instant,
    subscribers: Slab<Subscriber>,
    publishers: Vec<Publisher>,
    groups: Vec<GroupState>,
    handshakes: usize,
    refused: BTreeMap<u16, u64>,
    /// Publications that were due before are not measured.
    measured_from: u64,
    measuring: bool,
    slow_due: u64,
    received: u64,
}

/// Runs `scenario` against `target`. With `process`, the server's cost is measured too.
///
/// Groups that stand `apart` run on threads of their own and begin to publish at the same moment.
pub fn run(
    scenario: &Scenario,
    target: &Target,
    process: Option<Process>,
    progress: Progress<'_>,
) -> Result<Outcome> {
    scenario.check()?;
    let counted = scenario.group.iter().filter(|group| !group.is_refused);
    let needed: usize = counted.map(|group| group.connections() + group.publishers).sum();
    let may = crate::process::raise_open_files();
    if needed as u64 + 64 > may {
        bail!("{needed} connections need more open files than the {may} that this process may have");
    }
    let with = |apart: bool| -> Vec<Group> {
        let groups = scenario.group.iter().filter(|group| group.apart == apart);
        groups.cloned().collect()
    };
    let part = |group: Vec<Group>| Scenario {
        group,
        ..scenario.clone()
    };
    let together = part(with(false));
    let apart: Vec<Scenario> = with(true).into_iter().map(|group| part(vec![group])).collect();
    let ready = Barrier::new(1 + apart.len());
    let mut outcome = std::thread::scope(|scope| {
        let apart: Vec<_> = apart
            .iter()
            .map(|part| {
                scope.spawn(|| {
                    // It waits for a core no longer than needed; without the right to that it still works.
                    let _ = rustix::process::setpriority_process(None, -20);
                    run_part(part, target, None, &mut |_, _| {}, &ready)
                })
            })
            .collect();
        let mut outcome = run_part(&together, target, process, progress, &ready)?;
        for thread in apart {
            let Ok(part) = thread.join() else {
                bail!("a thread of the load generator has panicked");
            };
            outcome.groups.extend(part?.groups);
        }
        Ok(outcome)
    })?;
    let place = |name: &str| scenario.group.iter().position(|group| group.name == name);
    outcome.groups.sort_by_key(|group| place(&group.name));
    Ok(outcome)
}

fn run_part(
    scenario: &Scenario,
    target: &Target,
    process: Option<Process>,
    progress: Progress<'_>,
    ready: &Barrier,
) -> Result<Outcome> {
    let connected = Drive::connected(scenario, target, process, progress);
    // Whoever has failed comes too, or the others would wait for ever.
    ready.wait();
    let (mut drive, connecting, bytes_before) = connected?;
    let mut publishing = Publishing::default();
    if scenario.seconds > 0.0 {
        drive.connect_publishers()?;
        drive.publish_for(scenario.warmup_seconds, "warm-up", progress)?;
        drive.measured_from = drive.nanos();
        drive.measuring = true;
        let received = drive.received;
        let (server, mine) = (process.map(|process| process.cpu()).transpose()?, own_cpu()?);
        let begun = Instant::now();
        drive.publish_for(scenario.seconds, "publishing", progress)?;
        publishing.seconds = begun.elapsed().as_secs_f64();
        publishing.deliveries = drive.received - received;
        publishing.publications = drive.groups.iter().map(|group| group.measured_publications).sum();
        publishing.own_load = own_cpu()?.since(&mine).total().as_secs_f64() / publishing.seconds;
        if let (Some(process), Some(server)) = (process, server) {
            cost(&mut publishing, &process.cpu()?.since(&server));
        }
        drive.measuring = false;
        drive.settle(progress)?;
        if let (Some(process), Some(before)) = (process, bytes_before) {
            publishing.peak_bytes = Some(process.peak_bytes()?.saturating_sub(before));
        }
        drive.hear_the_stalled();
    }
    Ok(Outcome {
        connecting,
        publishing,
        groups: drive.take_stock(),
    })
}

impl<'a> Drive<'a> {
    fn new(scenario: &'a Scenario, target: &'a Target) -> Result<Self> {
        let mut first_publisher = 0;
        let groups = scenario.group.iter().map(|group| {
            let state = GroupState {
                first_publisher,
                live: vec![0; group.channels],
                published: vec![0; group.channels],
                measured_publications: 0,
                measured_deliveries: 0,
                refused: 0,
                ends: BTreeMap::new(),
                churned: 0,
                churn_faults: 0,
                churn_due: 0,
                churners: VecDeque::new(),
                finished: Vec::new(),
                delivery: Times::new(),
                answer: Times::new(),
            };
            first_publisher += group.publishers;
            state
        });
        Ok(Self {
            target,
            scenario,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            scratch: vec![0; SCRATCH_BYTES],
            start: Instant::now(),
            groups: groups.collect(),
            subscribers: Slab::new(),
            publishers: Vec::new(),
            handshakes: 0,
            refused: BTreeMap::new(),
            measured_from: 0,
            measuring: false,
            slow_due: 0,
            received: 0,
        })
    }

    /// Connects everybody and looks at what that has cost: also returns the server's resident
    /// memory before.
    fn connected(
        scenario: &'a Scenario,
        target: &'a Target,
        process: Option<Process>,
        progress: Progress<'_>,
    ) -> Result<(Self, Connecting, Option<u64>)> {
        let mut drive = Self::new(scenario, target)?;
        let before = process
            .map(|process| anyhow::Ok((process.cpu()?, process.resident_bytes()?)))
            .transpose()?;
        let begun = Instant::now();
        drive.connect_all(progress)?;
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = process.map(|process| process.cpu()).transpose()?;
        drive.idle(scenario.idle_seconds, progress)?;
        let open = drive.subscribers.len() as u64;
        let mut connecting = Connecting {
            connections: open,
            refused: std::mem::take(&mut drive.refused),
            seconds,
            ..Connecting::default()
        };
        if let (Some(process), Some((cpu_before, bytes_before)), Some(cpu)) = (process, before, cpu) {
            let attempts = open + connecting.refused.values().sum::<u64>();
            connecting.cpu_micros_per_connection = micros_each(cpu.since(&cpu_before).total(), attempts);
            let grown = process.resident_bytes()?.saturating_sub(bytes_before);
            connecting.bytes_per_connection = (open > 0).then(|| grown as f64 / open as f64);
        }
        Ok((drive, connecting, before.map(|(_, bytes)| bytes)))
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn connect_all(&mut self, progress: Progress<'_>) -> Result<()> {
        let groups = &self.scenario.group;
        let all: usize = groups.iter().map(Group::connections).sum();
        let mut done = 0;
        for (index, group) in groups.iter().enumerate() {
            let mut wanted = Vec::new();
            for channel in 0..group.channels {
                wanted.extend(std::iter::repeat_n((channel, Conduct::Good), group.subscribers));
            }
            for (count, conduct) in [
                (group.stalled, Conduct::Stalled),
                (group.slow, Conduct::Slow),
                (group.churners, Conduct::Churner),
            ] {
                wanted.extend(std::iter::repeat_n((0, conduct), count));
            }
            for (channel, conduct) in wanted {
                self.wait_for_handshakes(HANDSHAKES_MAX - 1)?;
                self.open(index, channel, conduct, false)?;
                done += 1;
                if done % 100 == 0 {
                    progress("connecting", (done * 1_000 / all) as u64);
                }
            }
        }
        self.wait_for_handshakes(0)?;
        progress("connecting", 1_000);
        Ok(())
    }

    fn wait_for_handshakes(&mut self, at_most: usize) -> Result<()> {
        let mut last = Instant::now();
        let mut seen = self.handshakes;
        let patience = Duration::from_secs_f64(self.scenario.patience_seconds);
        while self.handshakes > at_most {
            self.poll(Duration::from_millis(100))?;
            if self.handshakes != seen {
                (seen, last) = (self.handshakes, Instant::now());
            }
            if last.elapsed() > patience {
                bail!("{} connections get no answer from the server", self.handshakes);
            }
        }
        Ok(())
    }

    fn open(&mut self, group: usize, channel: usize, conduct: Conduct, late: bool) -> Result<()> {
        let settings = &self.scenario.group[group];
        let request = self
            .target
            .subscribe_request(settings.transport, &settings.channel(channel));
        let mut socket = TcpStream::connect(self.target.address).context("the server takes no connection")?;
        socket.write_all(&request)?;
        socket.set_nonblocking(true)?;
        let entry = self.subscribers.vacant_entry();
        let data = epoll::EventData::new_u64(entry.key() as u64);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        if conduct == Conduct::Churner {
            self.groups[group].churners.push_back(entry.key());
        }
        entry.insert(Subscriber {
            socket,
            group,
            channel,
            conduct,
            answered: false,
            open: false,
            dechunker: None,
            partial: Vec::new(),
            tally: Tally::new(settings.publishers, late || conduct != Conduct::Good),
            close_code: None,
        });
        self.handshakes += 1;
        Ok(())
    }

    fn connect_publishers(&mut self) -> Result<()> {
        let groups = &self.scenario.group;
        for (group, settings) in groups.iter().enumerate() {
            for index in 0..settings.publishers {
                let mut socket = TcpStream::connect(self.target.address)?;
                socket.set_nodelay(true)?;
                let channels: Vec<(usize, u32)> = if settings.channels >= settings.publishers {
                    (index..settings.channels)
                        .step_by(settings.publishers)
                        .map(|channel| (channel, 0))
                        .collect()
                } else {
                    vec![(index % settings.channels, 0)]
                };
                if settings.publish_by_websocket {
                    let channel = settings.channel(channels.first().map_or(0, |channel| channel.0));
                    socket.write_all(&self.target.subscribe_request(Transport::WebSocket, &channel))?;
                    let mut head = Vec::new();
                    while wire::answer_head(&head).is_none() {
                        let count = socket.read(&mut self.scratch)?;
                        if count == 0 {
                            bail!("a publisher's WebSocket was refused");
                        }
                        head.extend_from_slice(&self.scratch[..count]);
                    }
                }
                socket.set_nonblocking(true)?;
                let data = epoll::EventData::new_u64(PUBLISHER | self.publishers.len() as u64);
                epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
                self.publishers.push(Publisher {
                    socket,
                    group,
                    index,
                    got: Vec::new(),
                    unsent: Vec::new(),
                    flight: None,
                    channels,
                    turn: 0,
                    due: 0,
                    websocket: settings.publish_by_websocket,
                });
            }
        }
        Ok(())
    }

    fn idle(&mut self, seconds: f64, progress: Progress<'_>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        progress("idle", 0);
        while Instant::now() < end {
            self.poll(end.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }
}

fn nanos_of(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e9) as u64
}
