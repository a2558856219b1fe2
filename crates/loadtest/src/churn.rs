//! `fanfare-loadtest churn`: sessions come and go, hundreds of thousands of them, and the server is
//! afterwards what it was before.
//!
//! Each visitor has a user's token and in each cycle connects, is joined to channels, leaves them,
//! and ends, in one of several ways: in order, without a farewell, by a reset, before it left the
//! channels, or before its handshake was answered. Others do the same meanwhile, some of them as the
//! same user. At the end every gauge that counts what is there must be where it was before the first
//! cycle, and so must the open files; how much memory grew is printed and judged.
//!
//! It does not publish, and does not look at what is delivered: see [`check`](crate::check).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use tokio::time::{Instant, sleep};

use crate::check::Line;
use crate::process::Process;
use crate::random::Random;
use crate::servers::{self, Running};
use crate::wire;

const KEY: &str = "a key for nobody but this very run";

/// Visitors that share one user's token.
const VISITORS_PER_USER: u64 = 2;

/// Channels that a session is joined to.
const CHANNELS: u64 = 5;

/// Distinct names of channels.
const NAMES: u64 = 200;

/// Time for everything to be gone after the last cycle; a user counts as online for a while.
const SETTLE_MAX: Duration = Duration::from_mins(1);

/// Memory may grow by this share of what it was after the first tenth, or by this many bytes.
const GROWTH_MAX: f64 = 0.1;
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// Gauges that say how large or how old something is, not how much is there.
const NOT_COUNTED: [&str; 4] = [
    "fanfare_uptime_seconds",
    "fanfare_turn_seconds_max",
    "fanfare_connections",
    // A channel that is quiet is forgotten after the time that history is kept.
    "fanfare_channels_remembered",
];

/// Options of `fanfare-loadtest churn`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The server's program. It is started on a free port.
    #[arg(long)]
    fanfare: PathBuf,
    /// Sessions in all.
    #[arg(long, default_value_t = 300_000)]
    cycles: u64,
    /// Visitors that come and go at the same time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=5_000))]
    visitors: u64,
    /// Repeats a run, as far as real sockets allow. Default: a random one, printed.
    #[arg(long)]
    seed: Option<u64>,
}

/// How a session ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// It leaves its channels, then says goodbye.
    InOrder,
    /// It says goodbye, still joined.
    Joined,
    /// The connection ends without a farewell.
    Silent,
    /// By a reset, still joined.
    Reset,
    /// By a reset, with the handshake under way.
    Early,
}

const ENDS: [End; 5] = [End::InOrder, End::Joined, End::Silent, End::Reset, End::Early];

struct Course {
    server: SocketAddr,
    cycles: u64,
    begun: Cell<u64>,
}

/// What is there at one moment.
#[derive(Debug)]
struct Census {
    gauges: BTreeMap<String, u64>,
    files: usize,
    bytes: u64,
}

/// Runs the churn and prints what came of it; whether nothing was left behind.
pub fn run(options: &Options) -> Result<bool> {
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!(
        "seed {seed}\n{} cycles, {} visitors",
        options.cycles, options.visitors
    );
    crate::process::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, churn(options, seed))
}

async fn churn(options: &Options, seed: u64) -> Result<bool> {
    // Free a moment ago: where metrics are is said in the log only.
    let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let server = start(&options.fanfare, admin)?;
    let users = options.visitors.div_ceil(VISITORS_PER_USER);
    let tokens = (0..users).map(|user| token(&options.fanfare, user));
    let tokens: Vec<String> = tokens.collect::<Result<_>>()?;
    let course = Rc::new(Course {
        server: server.target.address,
        cycles: options.cycles,
        begun: Cell::new(0),
    });
    let before = census(admin, server.process()).await?;
    let begun = Instant::now();
    let visitors = (0..options.visitors).map(|number| {
        let visitor = Visitor {
            course: Rc::clone(&course),
            user: number / VISITORS_PER_USER,
            token: tokens[(number / VISITORS_PER_USER) as usize].clone(),
            random: Random::of(seed, number),
            api: None,
        };
        tokio::task::spawn_local(visitor.run())
    });
    let visitors: Vec<_> = visitors.collect();
    let mut warm = None;
    while course.begun.get() < options.cycles {
        sleep(Duration::from_millis(100)).await;
        if warm.is_none() && course.begun.get() >= options.cycles / 10 {
            warm = Some(server.process().resident_bytes()?);
        }
        ensure!(
            !visitors.iter().all(tokio::task::JoinHandle::is_finished)
                || course.begun.get() >= options.cycles,
            "all visitors have given up"
        );
    }
    for visitor in visitors {
        visitor.await??;
    }
    let took = begun.elapsed();
    let settling = Instant::now();
    let after = loop {
        let after = census(admin, server.process()).await?;
        if after.gauges == before.gauges && after.files <= before.files || settling.elapsed() > SETTLE_MAX {
            break after;
        }
        sleep(Duration::from_millis(200)).await;
    };
    Ok(report(
        options.cycles,
        took,
        &before,
        warm.unwrap_or(before.bytes),
        &after,
    ))
}

fn report(cycles: u64, took: Duration, before: &Census, warm: u64, after: &Census) -> bool {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{cycles} cycles in {:.1} s, {:.0} a second",
        took.as_secs_f64(),
        cycles as f64 / took.as_secs_f64()
    );
    println!(
        "memory of the server: {:.1} MiB before, {:.1} MiB after a tenth, {:.1} MiB in the end",
        mebibytes(before.bytes),
        mebibytes(warm),
        mebibytes(after.bytes)
    );
    println!("open files: {} before, {} in the end", before.files, after.files);
    println!("gauges compared: {}", before.gauges.len());
    let mut is_clean = true;
    let names: std::collections::BTreeSet<_> = before.gauges.keys().chain(after.gauges.keys()).collect();
    for name in names {
        let [one, other] = [before, after].map(|census| census.gauges.get(name));
        if one != other {
            println!("left behind: {name} was {one:?} and is {other:?}");
            is_clean = false;
        }
    }
    let most = (warm as f64 * (1.0 + GROWTH_MAX)) as u64;
    if after.bytes > most.max(warm + GROWTH_BYTES_MAX) {
        println!("left behind: memory");
        is_clean = false;
    }
    if after.files > before.files {
        println!("left behind: open files");
        is_clean = false;
    }
    if is_clean {
        println!("nothing is left behind");
    }
    is_clean
}

fn start(program: &Path, admin: SocketAddr) -> Result<Running> {
    let mut command = servers::without_settings(Command::new(program));
    command
        .env("FANFARE_LISTEN", "127.0.0.1:0")
        .env("FANFARE_ADMIN_LISTEN", admin.to_string())
        .env("FANFARE_KEY", KEY)
        // What a visitor that was cut leaves behind is found out by then.
        .env("FANFARE_SESSIONS_PING_INTERVAL", "5s")
        .env("FANFARE_LOG_LEVEL", "error");
    servers::announced(command, None)
}

fn token(program: &Path, user: u64) -> Result<String> {
    let mut command = servers::without_settings(Command::new(program));
    let output = command
        .env("FANFARE_KEY", KEY)
        .args(["token", "--sub", &user.to_string(), "--listen", "*"])
        .output()?;
    ensure!(output.status.success(), "cannot make a token: {output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

async fn census(admin: SocketAddr, process: Process) -> Result<Census> {
    let mut line = Line::connect(admin).await?;
    line.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await?;
    let (status, text) = line.answer().await?;
    ensure!(status == 200, "metrics are answered {status}");
    Ok(Census {
        gauges: gauges(&String::from_utf8(text)?),
        files: std::fs::read_dir(format!("/proc/{}/fd", process.pid))?.count(),
        bytes: process.resident_bytes()?,
    })
}

/// The gauges that count what is there, by name and labels.
fn gauges(text: &str) -> BTreeMap<String, u64> {
    let mut family = None;
    let mut gauges = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest
                .strip_suffix(" gauge")
                .filter(|name| !NOT_COUNTED.contains(name) && !name.ends_with("_max"));
        } else if family.is_some_and(|name| line.starts_with(name))
            && let Some((name, value)) = line.rsplit_once(' ')
            && let Ok(value) = value.parse()
        {
            gauges.insert(name.to_owned(), value);
        }
    }
    gauges
}

struct Visitor {
    course: Rc<Course>,
    user: u64,
    token: String,
    random: Random,
    /// A connection for requests of the back end.
    api: Option<Line>,
}

impl Visitor {
    async fn run(mut self) -> Result<()> {
        loop {
            let begun = self.course.begun.get();
            if begun >= self.course.cycles {
                return Ok(());
            }
            self.course.begun.set(begun + 1);
            self.cycle().await.context("a cycle was broken off")?;
        }
    }

    async fn cycle(&mut self) -> Result<()> {
        let end = ENDS[self.random.below(ENDS.len() as u64) as usize];
        let mut line = connect(self.course.server).await?;
        let first = self.random.below(NAMES);
        let request = format!(
            "GET /ch/churn/{first}?token={} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.token
        );
        if matches!(end, End::Reset | End::Early) {
            line.end_by_reset()?;
        }
        line.send(request.as_bytes()).await?;
        if end == End::Early {
            return Ok(());
        }
        let head = line.head().await?;
        ensure!(head.status == 101, "a handshake was answered {}", head.status);
        let channels: Vec<u64> = (0..CHANNELS).map(|_| self.random.below(NAMES)).collect();
        self.ask("PUT", &channels).await?;
        if end == End::InOrder {
            self.ask("DELETE", &channels).await?;
        }
        if matches!(end, End::InOrder | End::Joined) {
            line.send(&wire::close(1_000)).await?;
            // The server answers, and ends.
            while line.more().await.is_ok() {}
        }
        Ok(())
    }

    /// Joins or leaves channels for the user, all requests at once.
    async fn ask(&mut self, method: &str, channels: &[u64]) -> Result<()> {
        let mut api = match self.api.take() {
            Some(api) => api,
            None => connect(self.course.server).await?,
        };
        let user = self.user;
        let requests: String = channels
            .iter()
            .map(|name| {
                format!(
                    "{method} /ch/churn%2F{name}/user/{user} HTTP/1.1\r\nHost: localhost\r\n\
                     Authorization: Bearer {KEY}\r\nContent-Length: 0\r\n\r\n"
                )
            })
            .collect();
        api.send(requests.as_bytes()).await?;
        for _ in channels {
            let (status, body) = api.answer().await?;
            if status != 200 {
                bail!(
                    "{method} was answered {status}: {}",
                    String::from_utf8_lossy(&body)
                );
            }
        }
        self.api = Some(api);
        Ok(())
    }
}

/// Connects, however busy the server is.
async fn connect(server: SocketAddr) -> io::Result<Line> {
    let begun = Instant::now();
    loop {
        match Line::connect(server).await {
            Err(_) if begun.elapsed() < SETTLE_MAX => sleep(Duration::from_millis(5)).await,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_behind_is_found() {
        let census = |text: &str, files, bytes| Census {
            gauges: gauges(text),
            files,
            bytes,
        };
        let text = "# HELP a x\n# TYPE a gauge\na{b=\"c d\"} 1\na{b=\"e\"} 0\n# TYPE a_total counter\na_total 7\n\
            # TYPE fanfare_uptime_seconds gauge\nfanfare_uptime_seconds 5\n# TYPE b_max gauge\nb_max 9\n";
        let before = census(text, 10, 20 << 20);
        assert_eq!(before.gauges.len(), 2);
        let check = |after: Census, is_clean| {
            let found = report(1, Duration::from_secs(1), &before, 20 << 20, &after);
            assert_eq!(found, is_clean, "{after:?}");
        };
        check(census(text, 10, 28 << 20), true);
        check(census(&text.replace("total 7", "total 8"), 9, 1 << 20), true);
        check(census(&text.replace("\"} 1", "\"} 2"), 10, 20 << 20), false);
        check(census(&text.replace("a{b=\"e\"} 0\n", ""), 10, 20 << 20), false);
        check(census(text, 11, 20 << 20), false);
        check(census(text, 10, (28 << 20) + 1), false);
    }
}
