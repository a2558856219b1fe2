//! All scenarios against several servers, and the report of it.
//!
//! Machines are noisy, so nothing is compared across runs: the servers of a scenario take turns,
//! round by round, each freshly started on one core with the load on another; a ratio is taken
//! within each round, and the median of the rounds counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::outcome::Outcome;
use crate::process;
use crate::scenario::{Goal, Scenario};
use crate::servers::{self, Programs};
use crate::svg::{self, Bar};

/// The core of the servers; the load runs on the other one.
const SERVER_CORE: usize = 0;
const LOAD_CORE: usize = 1;

/// Written behind a server's name: the same scenario without its stalled and slow subscribers.
const POLITE: &str = " without them";

/// Written behind a server's name: the same scenario with one publisher in each group.
const ALONE: &str = " one at a time";

/// What was asked of one scenario, and what came.
struct Series {
    name: String,
    scenario: Scenario,
    /// Per round, by server.
    rounds: Vec<BTreeMap<String, Outcome>>,
}

/// A goal and whether it was reached.
struct Verdict {
    figure: String,
    value: f64,
    text: String,
    reached: bool,
}

/// Where a suite finds things and leaves its report.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Scenario files, in the order of the report.
    pub scenarios: Vec<PathBuf>,
    /// The programs.
    pub programs: Programs,
    /// The report: `DATE.md`, `DATE.json` and pictures in `DATE/`.
    pub folder: PathBuf,
    /// Today, as `2026-11-24`.
    pub date: String,
    /// The command that anyone can repeat.
    pub command: String,
    /// Less of everything, to see whether it runs: one round, a second each.
    pub quick: bool,
}

impl Suite {
    /// Runs everything; says whether all goals were reached.
    pub fn run(&self) -> Result<bool> {
        let mut results = Vec::new();
        for path in &self.scenarios {
            let mut scenario = Scenario::load(path)?;
            if self.quick {
                scenario.rounds = 1;
                scenario.seconds = scenario.seconds.min(1.0);
                scenario.warmup_seconds = 0.2;
            }
            let name = path
                .file_stem()
                .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            eprintln!("\n{name}: {}", scenario.title);
            let mut rounds = Vec::new();
            for round in 1..=scenario.rounds {
                let mut by_server = BTreeMap::new();
                for server in &scenario.servers {
                    let outcome = self
                        .run_one(&scenario, server)
                        .with_context(|| format!("{name} against {server}"))?;
                    eprintln!("  round {round}, {server}: {}", summary(&outcome));
                    by_server.insert(server.clone(), outcome);
                }
                rounds.push(by_server);
            }
            let result = Series {
                name,
                scenario,
                rounds,
            };
            for verdict in result.verdicts() {
                eprintln!("  {}", verdict.text);
            }
            results.push(result);
        }
        self.write(&results)?;
        Ok(results
            .iter()
            .flat_map(Series::verdicts)
            .all(|verdict| verdict.reached))
    }

    fn run_one(&self, scenario: &Scenario, server: &str) -> Result<Outcome> {
        let (name, scenario) = scenario.variant(server);
        let running = servers::start(name, &self.programs, &scenario.settings, SERVER_CORE)?;
        // Only now: a child inherits where it may run.
        process::stay_on_core(LOAD_CORE)?;
        crate::run(
            &scenario,
            &running.target,
            Some(running.process()),
            &mut |_, _| {},
        )
    }

    fn write(&self, results: &[Series]) -> Result<()> {
        let pictures = self.folder.join(&self.date);
        std::fs::create_dir_all(&pictures)?;
        let mut page = format!(
            "# Benchmarks of {}\n\nCommand: `{}`. Machine: {}. Load generator and server on one core each, over \
             loopback, each server started anew for each run; servers take turns round by round, the median \
             counts, and ratios are taken within a round. *Floor*: one `send` per subscriber, nothing else \
             (`fanfare-loadtest floor`). Nchan: Debian's, messages not stored.\n\n",
            self.date,
            self.command,
            machine()
        );
        page.push_str("| Scenario | Figure | Result | Goal | |\n|---|---|---|---|---|\n");
        for result in results {
            for (verdict, goal) in result.verdicts().iter().zip(&result.scenario.goal) {
                let _ = writeln!(
                    page,
                    "| [{0}](#{0}) | {1} | {2:.3} | {3} | {4} |",
                    result.name,
                    verdict.figure,
                    verdict.value,
                    goal_text(goal),
                    if verdict.reached { "reached" } else { "**missed**" }
                );
            }
        }
        for result in results {
            page.push_str(&result.section());
            for (file, picture) in result.pictures() {
                std::fs::write(pictures.join(&file), picture)?;
                let _ = writeln!(page, "![{}]({}/{file})\n", result.scenario.title, self.date);
            }
        }
        std::fs::write(self.folder.join(format!("{}.md", self.date)), page)?;
        let all: Vec<Value> = results.iter().map(Series::json).collect();
        let file = self.folder.join(format!("{}.json", self.date));
        std::fs::write(
            file,
            serde_json::to_string(&json!({ "machine": machine(), "scenarios": all }))? + "\n",
        )?;
        Ok(())
    }
}

impl Scenario {
    /// What a server's name in [`Scenario::servers`] stands for: which server, and what it is shown.
    fn variant<'a>(&self, server: &'a str) -> (&'a str, Self) {
        let mut variant = self.clone();
        if let Some(name) = server.strip_suffix(POLITE) {
            for group in &mut variant.group {
                (group.stalled, group.slow) = (0, 0);
            }
            return (name, variant);
        }
        if let Some(name) = server.strip_suffix(ALONE) {
            for group in &mut variant.group {
                group.publishers = group.publishers.min(1);
            }
            return (name, variant);
        }
        (server, variant)
    }
}

impl Series {
    /// The median over the rounds of a figure of one server.
    fn figure(&self, server: &str, figure: &str) -> Option<f64> {
        median(
            self.rounds
                .iter()
                .filter_map(|round| round.get(server)?.figure(figure)),
        )
    }

    fn verdicts(&self) -> Vec<Verdict> {
        self.scenario
            .goal
            .iter()
            .filter_map(|goal| self.verdict(goal))
            .collect()
    }

    fn verdict(&self, goal: &Goal) -> Option<Verdict> {
        let tested = self.scenario.servers.first()?;
        let value = median(self.rounds.iter().filter_map(|round| {
            let own = round.get(tested)?.figure(&goal.figure)?;
            match &goal.relative_to {
                None => Some(own),
                Some(other) => Some(own / round.get(other)?.figure(&goal.figure)?),
            }
        }))?;
        let reached =
            goal.at_most.is_none_or(|most| value <= most) && goal.at_least.is_none_or(|least| value >= least);
        let figure = goal.figure.replace('_', " ");
        let figure = match &goal.relative_to {
            Some(other) => format!("{figure}, ratio to {other}"),
            None => figure,
        };
        Some(Verdict {
            text: format!(
                "{figure}: {value:.3}, goal {} -> {}",
                goal_text(goal),
                if reached { "reached" } else { "MISSED" }
            ),
            figure,
            value,
            reached,
        })
    }

    /// The columns that say something here: with few connections, what each costs is noise.
    fn columns(&self) -> impl Iterator<Item = &'static (&'static str, &'static str, usize)> {
        let only_connects = self.scenario.seconds <= 0.0;
        COLUMNS.iter().filter(move |(_, figure, _)| {
            let of_connects = figure.contains("connection") || *figure == "refused";
            let mut servers = self.scenario.servers.iter();
            of_connects == only_connects && servers.any(|server| self.figure(server, figure).is_some())
        })
    }

    fn section(&self) -> String {
        let mut out = format!(
            "\n## {}\n\n{}. {}\n\n| Server | {} |\n|---|{}\n",
            self.name,
            self.scenario.title,
            self.scenario.about,
            self.columns()
                .map(|(name, _, _)| *name)
                .collect::<Vec<_>>()
                .join(" | "),
            "---|".repeat(self.columns().count())
        );
        for server in &self.scenario.servers {
            let cells: Vec<String> = self
                .columns()
                .map(|(_, figure, digits)| {
                    self.figure(server, figure)
                        .map_or_else(String::new, |value| format!("{value:.*}", *digits))
                })
                .collect();
            let _ = writeln!(out, "| {server} | {} |", cells.join(" | "));
        }
        let groups: Vec<String> = self
            .scenario
            .group
            .iter()
            .map(|group| group.name.clone())
            .collect();
        let last = self.rounds.last().into_iter().flatten();
        let mut rows = String::new();
        for (server, outcome) in last {
            for (group, name) in outcome.groups.iter().zip(&groups) {
                if group.delivery.count() == 0 {
                    continue;
                }
                let ms = |micros: u64| format!("{:.2}", micros as f64 / 1_000.0);
                let _ = writeln!(
                    rows,
                    "| {server} | {name} | {} | {} | {} | {} | {} |",
                    ms(group.delivery.at(0.5)),
                    ms(group.delivery.at(0.99)),
                    ms(group.delivery.at(0.999)),
                    ms(group.delivery.max()),
                    faults(group)
                );
            }
        }
        if !rows.is_empty() {
            let _ = write!(
                out,
                "\nDeliveries, in milliseconds from when a publication was due (last round):\n\n\
                 | Server | Group | p50 | p99 | p99.9 | max | Faults, ends |\n|---|---|---|---|---|---|---|\n{rows}"
            );
        }
        out.push('\n');
        out
    }

    fn pictures(&self) -> Vec<(String, String)> {
        let mut pictures = Vec::new();
        let (figure, unit) = if self.scenario.seconds <= 0.0 {
            ("bytes_per_connection", "bytes per connection")
        } else if self.scenario.group.iter().all(|group| group.subscribers == 0) {
            ("publications_per_second", "publications per second")
        } else {
            ("cpu_per_delivery", "µs of CPU per delivery")
        };
        let servers = self.scenario.servers.iter().enumerate();
        let bars: Vec<Bar> = servers
            .filter_map(|(colour, server)| {
                let value = self.figure(server, figure)?;
                Some(Bar {
                    label: server.clone(),
                    value,
                    text: if value < 100.0 {
                        format!("{value:.2}")
                    } else {
                        format!("{value:.0}")
                    },
                    colour,
                })
            })
            .collect();
        let goal = self
            .scenario
            .goal
            .iter()
            .find(|goal| goal.figure == figure)
            .and_then(|goal| {
                let unit = match &goal.relative_to {
                    Some(other) => self.figure(other, figure)?,
                    None => 1.0,
                };
                Some(goal.at_most.or(goal.at_least)? * unit)
            });
        let title = format!("{} ({unit})", self.scenario.title);
        pictures.push((format!("{}.svg", self.name), svg::bars(&title, &bars, goal)));
        if let Some(goal) = self
            .scenario
            .goal
            .iter()
            .find(|goal| goal.figure.starts_with("p99:"))
        {
            let mut curves = Vec::new();
            for (server, outcome) in self.rounds.last().into_iter().flatten() {
                for group in &outcome.groups {
                    let points = [
                        0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 0.99999,
                    ];
                    let points =
                        points.map(|quantile| (quantile, group.delivery.at(quantile) as f64 / 1_000.0));
                    let name = if self.scenario.servers.len() > 1 {
                        format!("{server}: {}", group.name)
                    } else {
                        group.name.clone()
                    };
                    curves.push((name, points.to_vec()));
                }
            }
            let title = format!("{} (percentiles of deliveries)", self.scenario.title);
            let goal = goal.relative_to.is_none().then_some(goal.at_most).flatten();
            pictures.push((
                format!("{}-latency.svg", self.name),
                svg::percentiles(&title, &curves, goal),
            ));
        }
        pictures
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "title": self.scenario.title, "rounds": self.rounds })
    }
}

/// Heading, figure, digits behind the point.
const COLUMNS: [(&str, &str, usize); 12] = [
    ("CPU µs/delivery", "cpu_per_delivery", 3),
    ("of it user", "user_per_delivery", 3),
    ("deliveries/s", "deliveries_per_second", 0),
    ("publications/s", "publications_per_second", 0),
    ("CPU µs/publication", "cpu_per_publication", 2),
    ("CPU µs/connect", "cpu_per_connection", 1),
    ("bytes/connection", "bytes_per_connection", 0),
    ("refused connects", "refused", 0),
    ("stalled, slow: closed", "stalled_closed", 2),
    ("memory peak, MiB", "peak_mib", 1),
    ("server busy, %", "server_busy", 0),
    ("generator busy, %", "generator_busy", 0),
];

fn goal_text(goal: &Goal) -> String {
    let unit = goal
        .relative_to
        .as_ref()
        .map_or_else(String::new, |other| format!(" × {other}"));
    match (goal.at_most, goal.at_least) {
        (Some(most), _) => format!("≤ {most}{unit}"),
        (None, Some(least)) => format!("≥ {least}{unit}"),
        (None, None) => String::new(),
    }
}

fn faults(group: &crate::GroupOutcome) -> String {
    let mut parts = Vec::new();
    let mut add = |count: u64, what: &str| {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    };
    add(group.missing, "missing");
    add(group.gaps, "gaps");
    add(group.doubles, "doubles");
    add(group.churn_faults, "faults of those who came and went");
    for (who, ends) in [
        ("good", &group.closed),
        ("stalled", &group.stalled),
        ("slow", &group.slow),
    ] {
        for (code, count) in ends {
            let what = match code {
                0 => format!("{who} still open"),
                code => format!("{who} closed with {code}"),
            };
            add(*count, &what);
        }
    }
    if !group.one_order {
        parts.push("more than one order".to_owned());
    }
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

fn summary(outcome: &Outcome) -> String {
    let figures = COLUMNS.iter().filter_map(|(name, figure, digits)| {
        let value = outcome.figure(figure).filter(|value| *value > 0.0)?;
        Some(format!("{name} {value:.*}", *digits))
    });
    figures.collect::<Vec<_>>().join(", ") + if outcome.is_exact() { "" } else { " (NOT EXACT)" }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// What the figures were measured on, without anything that names the machine.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = cores.max(cpu.matches("processor\t").count());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{model}, {cores} cores (virtual), Linux {}",
        kernel.trim().split('-').next().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_name_says_what_it_is_shown() {
        let group = crate::scenario::Group {
            stalled: 3,
            slow: 2,
            publishers: 16,
            ..Default::default()
        };
        let scenario = Scenario {
            group: vec![group],
            ..Scenario::default()
        };
        for (name, expected) in [
            ("fanfare", ("fanfare", 3, 2, 16)),
            ("fanfare without them", ("fanfare", 0, 0, 16)),
            ("floor one at a time", ("floor", 3, 2, 1)),
        ] {
            let (server, variant) = scenario.variant(name);
            let group = &variant.group[0];
            assert_eq!((server, group.stalled, group.slow, group.publishers), expected);
        }
    }

    #[test]
    fn the_median_counts() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([1.0, 9.0].into_iter()), Some(9.0));
        assert_eq!(median(std::iter::empty()), None);
    }
}
