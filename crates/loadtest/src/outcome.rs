//! What a run has found, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::process::Cpu;

/// Times of one kind, in microseconds.
#[derive(Clone, Debug)]
pub struct Times(pub(crate) Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, 600_000_000, 3);
        // The bounds are constants that the library accepts.
        Self(histogram.unwrap_or_else(|_| unreachable!()))
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos / 1_000);
    }

    /// The time that this share of all stayed within, in microseconds.
    pub fn at(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// The longest, in microseconds.
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl Serialize for Times {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map: BTreeMap<&str, u64> = BTreeMap::new();
        if self.count() > 0 {
            map.extend([
                ("p50", self.at(0.5)),
                ("p90", self.at(0.9)),
                ("p99", self.at(0.99)),
                ("p999", self.at(0.999)),
                ("max", self.max()),
            ]);
        }
        map.insert("count", self.count());
        map.serialize(serializer)
    }
}

/// What connecting has cost the server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Connecting {
    /// Connections that were opened, and are open.
    pub connections: u64,
    /// Attempts that the server refused: the answer's status or the close code, and how often.
    pub refused: BTreeMap<u16, u64>,
    /// From the first connect to the last answer.
    pub seconds: f64,
    /// Time of the server on a core per attempt, in microseconds.
    pub cpu_micros_per_connection: Option<f64>,
    /// Growth of the server's resident memory per connection, in bytes, after some idle time.
    pub bytes_per_connection: Option<f64>,
}

/// What publishing has come to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Publishing {
    /// Time that was measured.
    pub seconds: f64,
    /// Publications accepted while measuring, of all groups.
    pub publications: u64,
    /// Deliveries while measuring, to well-behaved subscribers of all groups.
    pub deliveries: u64,
    /// Time of the server on a core per delivery, in microseconds, in the program.
    pub user_micros_per_delivery: Option<f64>,
    /// The same in the kernel.
    pub system_micros_per_delivery: Option<f64>,
    /// Share of the measured time that the server was on a core; more than 1 with several cores.
    pub server_load: Option<f64>,
    /// The same for the load generator. Near 1 it is what limits the figures.
    pub own_load: f64,
    /// The server's highest resident memory, less that before the first connect, in bytes.
    pub peak_bytes: Option<u64>,
}

/// What one group has heard.
#[derive(Clone, Debug, Serialize)]
pub struct GroupOutcome {
    /// The group's name.
    pub name: String,
    /// Well-behaved subscribers.
    pub subscribers: u64,
    /// Publications accepted from first to last, the warm-up included.
    pub publications: u64,
    /// Publications that the server refused; tried again later.
    pub refused: u64,
    /// Deliveries from first to last.
    pub deliveries: u64,
    /// Deliveries that did not come, to subscribers that were there all the time.
    pub missing: u64,
    /// Holes between what came.
    pub gaps: u64,
    /// What came twice or too late.
    pub doubles: u64,
    /// Whether all subscribers that heard everything heard it in one order.
    pub one_order: bool,
    /// How well-behaved subscribers were closed by the server: code (1006: without one), count.
    pub closed: BTreeMap<u16, u64>,
    /// The same for those that never read.
    pub stalled: BTreeMap<u16, u64>,
    /// The same for those that read slowly.
    pub slow: BTreeMap<u16, u64>,
    /// Sessions of those that came and went.
    pub churned: u64,
    /// Holes and doubles within those sessions.
    pub churn_faults: u64,
    /// From when a publication was due to each of its deliveries, while measuring; microseconds.
    pub delivery: Times,
    /// From when a publication was due to its answer, while measuring; microseconds.
    pub answer: Times,
}

impl GroupOutcome {
    /// Whether nobody missed anything, heard it twice, in another order, or was sent away.
    pub fn is_exact(&self) -> bool {
        self.missing + self.gaps + self.doubles + self.churn_faults == 0
            && self.one_order
            && self.closed.is_empty()
    }
}

/// See the module's head.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The connects.
    pub connecting: Connecting,
    /// The publications.
    pub publishing: Publishing,
    /// One entry per group of the scenario.
    pub groups: Vec<GroupOutcome>,
}

impl Outcome {
    /// Whether every group's account is exact.
    pub fn is_exact(&self) -> bool {
        self.groups.iter().all(GroupOutcome::is_exact)
    }

    /// Deliveries per second.
    pub fn deliveries_per_second(&self) -> f64 {
        self.publishing.deliveries as f64 / self.publishing.seconds.max(1e-9)
    }

    /// Publications per second.
    pub fn publications_per_second(&self) -> f64 {
        self.publishing.publications as f64 / self.publishing.seconds.max(1e-9)
    }

    /// Time on a core per delivery, in microseconds.
    pub fn cpu_per_delivery(&self) -> Option<f64> {
        Some(self.publishing.user_micros_per_delivery? + self.publishing.system_micros_per_delivery?)
    }

    /// A figure by the name that scenarios use: `cpu_per_delivery` and `user_per_delivery`
    /// (microseconds), `cpu_per_publication` (the same; where nobody hears), `deliveries_per_second`,
    /// `publications_per_second`, `bytes_per_connection`, `cpu_per_connection` (microseconds),
    /// `p99:GROUP` (milliseconds), `faults` (groups), `stalled_closed` (share), `peak_mib`,
    /// `refused` (connections), `server_busy` and `generator_busy` (percent of a core).
    pub fn figure(&self, name: &str) -> Option<f64> {
        match name {
            "cpu_per_delivery" => self.cpu_per_delivery(),
            "user_per_delivery" => self.publishing.user_micros_per_delivery,
            "cpu_per_publication" => {
                // Where there are deliveries, they are what costs.
                let seconds = self.publishing.server_load? * self.publishing.seconds;
                let alone = self.publishing.deliveries == 0 && self.publishing.publications > 0;
                alone.then(|| seconds * 1e6 / self.publishing.publications as f64)
            }
            "server_busy" => Some(self.publishing.server_load? * 100.0),
            "generator_busy" => Some(self.publishing.own_load * 100.0),
            "deliveries_per_second" => Some(self.deliveries_per_second()),
            "publications_per_second" => Some(self.publications_per_second()),
            "bytes_per_connection" => self.connecting.bytes_per_connection,
            "cpu_per_connection" => self.connecting.cpu_micros_per_connection,
            "peak_mib" => Some(self.publishing.peak_bytes? as f64 / f64::from(1 << 20)),
            "refused" => Some(self.connecting.refused.values().sum::<u64>() as f64),
            "faults" => Some(self.groups.iter().filter(|group| !group.is_exact()).count() as f64),
            "stalled_closed" => {
                let ends = self
                    .groups
                    .iter()
                    .flat_map(|group| group.stalled.iter().chain(&group.slow));
                let (mut all, mut closed) = (0, 0);
                ends.for_each(|(code, count)| {
                    all += count;
                    closed += if *code == 0 { 0 } else { *count };
                });
                (all > 0).then(|| closed as f64 / all as f64)
            }
            _ => {
                let group = name.strip_prefix("p99:")?;
                let group = self.groups.iter().find(|found| found.name == group)?;
                Some(group.delivery.at(0.99) as f64 / 1_000.0)
            }
        }
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let c = &self.connecting;
        let mut line = |name: &str, text: String| {
            let _ = writeln!(out, "{name:22} {text}");
        };
        line("connections", format!("{} in {:.1} s", c.connections, c.seconds));
        for (code, count) in &c.refused {
            line("  refused", format!("{count} with {code}"));
        }
        if let Some(micros) = c.cpu_micros_per_connection {
            line("  cpu each", format!("{micros:.1} us"));
        }
        if let Some(bytes) = c.bytes_per_connection {
            line("  memory each", format!("{:.2} KiB", bytes / 1_024.0));
        }
        let p = &self.publishing;
        if p.seconds > 0.0 {
            line(
                "publications",
                format!("{} ({:.0}/s)", p.publications, self.publications_per_second()),
            );
            line(
                "deliveries",
                format!("{} ({:.0}/s)", p.deliveries, self.deliveries_per_second()),
            );
            if let (Some(user), Some(system)) = (p.user_micros_per_delivery, p.system_micros_per_delivery) {
                let sum = user + system;
                line(
                    "  cpu each",
                    format!("{sum:.3} us ({user:.3} in the program, {system:.3} in the kernel)"),
                );
            }
            if let Some(load) = p.server_load {
                line("  cores of the server", format!("{load:.2}"));
            }
            line("  cores of the load", format!("{:.2}", p.own_load));
            if let Some(bytes) = p.peak_bytes {
                line(
                    "memory at most",
                    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
                );
            }
        }
        for group in &self.groups {
            out.push_str(&group.table());
        }
        out
    }
}

impl GroupOutcome {
    fn table(&self) -> String {
        let mut out = String::new();
        if self.publications == 0 {
            return out;
        }
        let _ = writeln!(
            out,
            "\n{}: {} subscribers, {} of {} deliveries, {} missing, {} gaps, {} doubles, {}",
            self.name,
            self.subscribers,
            self.deliveries,
            self.deliveries + self.missing,
            self.missing,
            self.gaps,
            self.doubles,
            if self.one_order {
                "one order"
            } else {
                "NOT one order"
            },
        );
        for (who, ends) in [
            ("closed", &self.closed),
            ("stalled", &self.stalled),
            ("slow", &self.slow),
        ] {
            for (code, count) in ends {
                let how = match code {
                    0 => "still open".to_owned(),
                    code => format!("closed {code}"),
                };
                let _ = writeln!(out, "  {who}: {count} {how}");
            }
        }
        if self.churned > 0 {
            let _ = writeln!(
                out,
                "  came and went: {}, faults {}",
                self.churned, self.churn_faults
            );
        }
        if self.refused > 0 {
            let _ = writeln!(out, "  refused and tried again: {}", self.refused);
        }
        let _ = writeln!(
            out,
            "  {:10} {:>9} {:>9} {:>9} {:>9}",
            "ms", "p50", "p99", "p99.9", "max"
        );
        for (name, times) in [("answer", &self.answer), ("delivery", &self.delivery)] {
            if times.count() > 0 {
                let ms = |micros: u64| format!("{:.2}", micros as f64 / 1_000.0);
                let _ = writeln!(
                    out,
                    "  {name:10} {:>9} {:>9} {:>9} {:>9}",
                    ms(times.at(0.5)),
                    ms(times.at(0.99)),
                    ms(times.at(0.999)),
                    ms(times.max())
                );
            }
        }
        out
    }
}

/// Time per piece, in microseconds.
pub(crate) fn micros_each(time: Duration, pieces: u64) -> Option<f64> {
    (pieces > 0).then(|| time.as_secs_f64() * 1e6 / pieces as f64)
}

/// The parts of [`Publishing`] that come from the server's process.
pub(crate) fn cost(publishing: &mut Publishing, used: &Cpu) {
    publishing.user_micros_per_delivery = micros_each(used.user, publishing.deliveries);
    publishing.system_micros_per_delivery = micros_each(used.system, publishing.deliveries);
    publishing.server_load = Some(used.total().as_secs_f64() / publishing.seconds.max(1e-9));
}
