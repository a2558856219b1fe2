//! `cargo xtask instructions`: has the fan-out path become more expensive?
//!
//! Time on a shared machine says little; the number of instructions that fixed work takes says
//! much, and is nearly the same each time. Callgrind counts them, case by case, and they are
//! compared with `crates/core/instructions.toml`. `--record` writes that file anew.
//!
//! The crates whose work is counted are compiled as for a release, but for one thing: nothing is
//! optimised across crates. So all others are those of the tests' build, and cryptography is not
//! compiled a second time for twenty counts.
//!
//! Cases whose names begin with `same_` and the same next word compare something with a secret.
//! They must take the same number, or the time would tell how close a guess came.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const STORED: &str = "crates/core/instructions.toml";

/// How much more a case may take than is stored, as a share, when compiler and C library are the same.
/// Unrelated changes move functions between units of code generation, and a case by up to 4 %.
const TOLERANCE: f64 = 0.05;

/// The same for another compiler or C library: its own work is counted too.
const TOLERANCE_OTHER_TOOLS: f64 = 0.25;

/// Cases that must not differ may differ by one in so many.
const SAME_WITHIN: u64 = 1_000;

/// The crates whose work is counted.
const COUNTED: [&str; 5] = ["fanfare-core", "bytes", "httparse", "simdutf8", "smallvec"];

/// How they are compiled: as the profile `release` says, and each as one unit, or a change of one
/// function would move others between units.
const AS_RELEASED: [&str; 4] = [
    "opt-level=3",
    "codegen-units=1",
    "overflow-checks=true",
    "debug-assertions=false",
];

/// Counts all cases; returns how many are fine, and a line for each that is not.
pub(crate) fn run(record: bool) -> Result<(u64, Vec<String>)> {
    let program = build()?;
    let names = output(Command::new(&program))?;
    let mut counts = BTreeMap::new();
    for name in names.lines() {
        let count = count(&program, name)?;
        println!("{name:40} {count:>10}");
        counts.insert(name.to_owned(), count);
    }
    let tools = tools()?;
    if record {
        let rows: String = counts
            .iter()
            .map(|(name, count)| format!("{name} = {count}\n"))
            .collect();
        let head = "# Instructions of fixed work on the fan-out path, as callgrind counts them.\n\
                    # Written by `cargo xtask instructions --record`; compared by `cargo xtask test`.\n";
        std::fs::write(STORED, format!("{head}tools = {tools:?}\n\n[cases]\n{rows}"))?;
    }
    let stored: toml::Table = std::fs::read_to_string(STORED)
        .with_context(|| format!("no {STORED}; `cargo xtask instructions --record` writes it"))?
        .parse()?;
    let same = stored.get("tools").and_then(toml::Value::as_str) == Some(&tools);
    let tolerance = if same { TOLERANCE } else { TOLERANCE_OTHER_TOOLS };
    let stored = stored
        .get("cases")
        .and_then(toml::Value::as_table)
        .context("no [cases]")?;
    let mut found = Vec::new();
    let mut fine = 0;
    for name in stored.keys().filter(|name| !counts.contains_key(*name)) {
        found.push(format!("{name}: stored, but there is no such case any more"));
    }
    for (name, count) in &counts {
        match judge(
            *count,
            stored.get(name).and_then(toml::Value::as_integer),
            tolerance,
        ) {
            None => fine += 1,
            Some(fault) => found.push(format!("{name}: {fault}")),
        }
    }
    found.extend(differences(&counts));
    Ok((fine, found))
}

/// Builds the cases, and says where they are.
fn build() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args([
        "build",
        "--workspace",
        "--locked",
        "--quiet",
        "--example",
        "instructions",
    ]);
    for name in COUNTED {
        for setting in AS_RELEASED {
            cargo.args(["--config", &format!("profile.dev.package.{name}.{setting}")]);
        }
    }
    // What was compiled before must not decide what is counted.
    if !cargo.env("CARGO_INCREMENTAL", "0").status()?.success() {
        bail!("cannot build the cases");
    }
    Ok(crate::test::target().join("debug/examples/instructions"))
}

/// A line for each group of cases that must take the same number of instructions and do not.
fn differences(counts: &BTreeMap<String, u64>) -> Vec<String> {
    let mut groups: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (name, &count) in counts {
        let Some((group, _)) = name.strip_prefix("same_").and_then(|name| name.split_once('_')) else {
            continue;
        };
        let (least, most) = groups.entry(group).or_insert((count, count));
        (*least, *most) = ((*least).min(count), (*most).max(count));
    }
    let differs = |(_, (least, most)): &(&str, (u64, u64))| (most - least) * SAME_WITHIN > *least;
    let line = |(group, (least, most))| format!("same_{group}: between {least} and {most} instructions");
    groups.into_iter().filter(differs).map(line).collect()
}

/// What is wrong with a count, if anything.
fn judge(count: u64, stored: Option<i64>, tolerance: f64) -> Option<String> {
    let Some(stored) = stored.and_then(|stored| u32::try_from(stored).ok()) else {
        return Some("nothing is stored to compare with".to_owned());
    };
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let change = f64::from(count) / f64::from(stored.max(1)) - 1.0;
    // Not `change > tolerance`: 1.03 - 1.0 is a little more than 0.03.
    if f64::from(count) > f64::from(stored.max(1)) * (1.0 + tolerance) {
        return Some(format!(
            "{count} instructions, {stored} are stored: {:+.1} %, allowed are {:.0} %",
            change * 100.0,
            tolerance * 100.0
        ));
    }
    if change < -tolerance {
        println!(
            "a case got cheaper by {:.1} %: `cargo xtask instructions --record` keeps the gain",
            -change * 100.0
        );
    }
    None
}

/// What makes the machine code that is counted: compiler, C library, kind of processor.
fn tools() -> Result<String> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = output(Command::new(rustc).arg("--version"))?;
    let library = output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let processor = std::env::consts::ARCH;
    Ok(format!("{}, {}, {processor}", rustc.trim(), library.trim()))
}

fn count(program: &Path, name: &str) -> Result<u64> {
    let run = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=instructions::measured*",
        ])
        .arg(program)
        .arg(name)
        .output()
        .context("cannot start valgrind")?;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let count = said
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match count {
        Some(count) if run.status.success() && count > 0 => Ok(count),
        _ => bail!("valgrind counted nothing in {name}: {said}"),
    }
}

fn output(mut command: impl std::borrow::BorrowMut<Command>) -> Result<String> {
    let command = command.borrow_mut();
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed");
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(count: u64, stored: Option<i64>, fine: bool) {
        assert_eq!(judge(count, stored, 0.03).is_none(), fine, "{count} {stored:?}");
    }

    #[test]
    fn what_must_be_the_same_is_compared_in_its_group() {
        let counts = |last: u64| {
            let cases = [
                ("same_a_x", 10_000),
                ("same_a_y", last),
                ("same_b_x", 5),
                ("other_a", 7),
            ];
            cases.map(|(name, count)| (name.to_owned(), count)).into()
        };
        assert_eq!(differences(&counts(10_010)).len(), 0);
        assert_eq!(
            differences(&counts(10_011)),
            ["same_a: between 10000 and 10011 instructions"]
        );
        assert_eq!(differences(&counts(9_000)).len(), 1);
    }

    #[test]
    fn more_is_found_less_is_not() {
        check(1_000, Some(1_000), true);
        check(1_030, Some(1_000), true);
        check(1_031, Some(1_000), false);
        check(500, Some(1_000), true);
        check(1_000, None, false);
        check(1_000, Some(-1), false);
    }
}
