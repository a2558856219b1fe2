//! `cargo xtask test`: every step, what it counted, and one line of totals at the end.
//!
//! A failing step does not stop the others, so that one run shows all there is to mend.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The steps, in their order.
pub(crate) const STEPS: [&str; 14] = [
    "tidy",
    "supply",
    "fmt",
    "clippy",
    "rust",
    "tls",
    "delivery",
    "proofs",
    "install",
    "instructions",
    "conformance",
    "php",
    "clients",
    "browser",
];

/// The tools that decide the order of events, each a build of its own: see `crates/proofs`.
const MODELS: [&str; 2] = ["loom", "shuttle"];

/// Whether anything is lost, doubled or swapped when connections are cut: 150 subscribers, 10,000
/// publications (`docs/checking.md`). Once the server is killed and started again on its disk in the
/// midst, and nobody may notice; once everybody stays away for longer than anything is kept, and each
/// must be told so.
const CHECKS: [&str; 2] = [
    "--seed 1 --faults cuts --set history.publications=5000 --set history.bytes=16777216 --set engine=disk --kill 1",
    "--seed 1 --faults cuts --set history.publications=50 --absence-publications 100 --window-may-be-exceeded \
     --expect-gaps",
];

/// Programs that the client tests need, and the Debian packages that bring them.
const PROGRAMS: [(&str, &[&str]); 6] = [
    ("python3", &["python3", "python3-venv"]),
    ("php", &["php-cli"]),
    ("valgrind", &["valgrind"]),
    ("nginx", &["nginx"]),
    ("chromium", &["chromium"]),
    ("php-fpm", &["php-fpm"]),
];

/// What a step has counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Totals {
    /// Checks that held.
    pub(crate) passed: u64,
    /// Checks that did not.
    pub(crate) failed: u64,
}

impl Totals {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
        }
    }
}

/// Runs all steps, or one; says whether all is well.
pub(crate) fn run(only: Option<&str>) -> Result<bool> {
    if let Some(step) = only
        && !STEPS.contains(&step)
    {
        bail!("no step {step:?}; there are: {}", STEPS.join(" "));
    }
    let mut rows = Vec::new();
    for step in STEPS
        .into_iter()
        .filter(|step| only.is_none_or(|only| only == *step))
    {
        println!("\n== {step}");
        let begun = Instant::now();
        let totals = run_step(step).unwrap_or_else(|error| {
            println!("{step}: {error:#}");
            Totals { passed: 0, failed: 1 }
        });
        rows.push((step, totals, begun.elapsed()));
    }
    println!("\n{:12} {:>7} {:>7} {:>8}", "step", "passed", "failed", "seconds");
    let mut sum = Totals::default();
    for (step, totals, took) in rows {
        println!(
            "{step:12} {:>7} {:>7} {:>8.1}",
            totals.passed,
            totals.failed,
            took.as_secs_f64()
        );
        sum.passed += totals.passed;
        sum.failed += totals.failed;
    }
    println!("\n{} passed, {} failed", sum.passed, sum.failed);
    Ok(sum.failed == 0)
}

fn run_step(step: &str) -> Result<Totals> {
    match step {
        "tidy" => Ok(found(&crate::tidy::run()?)),
        "supply" => Ok(found(&crate::supply::run()?)),
        "fmt" => whole("cargo", &["fmt", "--all", "--check"]),
        "clippy" => {
            let arguments = [
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ];
            whole("cargo", &arguments)
        }
        "rust" => {
            let programs = crate::programs::run(&["--workspace", "--locked"], &[], &[])?;
            // Examples in the documentation are built and run by their own tool.
            Ok(programs.plus(whole(
                "cargo",
                &["test", "--workspace", "--locked", "--quiet", "--doc"],
            )?))
        }
        "tls" => tls(),
        "delivery" => delivery(),
        "proofs" => proofs(),
        "install" => install(),
        "instructions" => {
            let (passed, found) = crate::instructions::run(false)?;
            found.iter().for_each(|line| println!("{line}"));
            let failed = found.len() as u64;
            Ok(Totals { passed, failed })
        }
        "conformance" => crate::conformance::quick(),
        "php" => {
            let mut sum = Totals::default();
            for file in files_of("clients/php/tests", "_test.php")? {
                sum = sum.plus(counted("php", &[&file])?);
            }
            Ok(sum)
        }
        "clients" => {
            let python = python().join("bin/python");
            let python = counted(&python.to_string_lossy(), &["clients/python/pusher_test.py"])?;
            Ok(python.plus(node("clients/pusher")?))
        }
        "browser" => node("clients/browser"),
        _ => bail!("no such step"),
    }
}

/// The files of a folder whose names end so, in their order.
fn files_of(folder: &str, end: &str) -> Result<Vec<String>> {
    let mut files: Vec<String> = std::fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.path().to_str().map(str::to_owned))
        .filter(|path| path.ends_with(end))
        .collect();
    files.sort();
    Ok(files)
}

/// The tests of a folder that run in node.
fn node(folder: &str) -> Result<Totals> {
    let files = files_of(folder, ".test.mjs")?;
    let mut arguments = vec![
        "--test",
        "--test-reporter=tap",
        "--test-concurrency=2",
        // What hangs has failed.
        "--test-timeout=180000",
    ];
    arguments.extend(files.iter().map(String::as_str));
    counted("node", &arguments)
}

/// Where the packages are that the tests in Python need.
fn python() -> PathBuf {
    target().join("clients/python")
}

fn found(lines: &[String]) -> Totals {
    lines.iter().for_each(|line| println!("{line}"));
    Totals {
        passed: u64::from(lines.is_empty()),
        failed: lines.len() as u64,
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command.env("FANFARE_BIN", binary());
    command
}

/// The folder of everything that is built or brought.
pub(crate) fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    std::env::current_dir().unwrap_or_default().join(target)
}

/// The server to test: `FANFARE_BIN`, or that of the one shared build, which `cargo test` makes.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("FANFARE_BIN").map_or_else(|| target().join("debug/fanfare"), PathBuf::from)
}

/// A program that passes or fails as a whole.
pub(crate) fn whole(program: &str, arguments: &[&str]) -> Result<Totals> {
    let status = command(program, arguments)
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    Ok(Totals {
        passed: u64::from(status.success()),
        failed: u64::from(!status.success()),
    })
}

/// The server's black-box tests once more, with TLS around every socket, by the build of the step
/// before: see `crates/server/tests/black_box/support/tls.rs`.
fn tls() -> Result<Totals> {
    let build = ["--workspace", "--locked", "--test", crate::programs::BLACK_BOX];
    // These speak TLS themselves, or are about the address of the socket.
    let without = ["--skip", "tls::", "--skip", "addresses::"];
    crate::programs::run(&build, &without, &[("FANFARE_TEST_TLS", "1")])
}

/// Runs the [`CHECKS`] by the build of the step `rust`.
fn delivery() -> Result<Totals> {
    let program = target().join("debug/fanfare-loadtest");
    let (program, fanfare) = (program.to_string_lossy(), binary());
    let mut sum = Totals::default();
    for check in CHECKS {
        let mut arguments = vec!["check", "--fanfare"];
        let fanfare = fanfare.to_string_lossy();
        arguments.push(&fanfare);
        arguments.extend(check.split_whitespace());
        println!("fanfare-loadtest {}", arguments.join(" "));
        sum = sum.plus(whole(&program, &arguments)?);
    }
    Ok(sum)
}

/// What the shards share, under every order of events that the tools can think of.
fn proofs() -> Result<Totals> {
    let mut sum = Totals::default();
    for model in MODELS {
        // Features and not flags of the compiler, and of the whole workspace: so what everything depends on is
        // built once for all steps.
        let arguments = format!("test --workspace --locked --features fanfare-proofs/{model} --test {model}");
        let arguments: Vec<&str> = arguments.split(' ').collect();
        sum = sum.plus(counted("cargo", &arguments)?);
    }
    Ok(sum)
}

/// A test runner: its lines are shown as they come, and its totals are read from them.
pub(crate) fn counted(program: &str, arguments: &[&str]) -> Result<Totals> {
    counted_lines(program, command(program, arguments))
}

fn counted_lines(program: &str, mut command: Command) -> Result<Totals> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut totals = Totals::default();
    let stdout = child.stdout.take().context("no output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some(counted) = read_totals(&line) {
            totals.passed += counted.passed;
            totals.failed += counted.failed;
        }
    }
    let status = child.wait()?;
    if !status.success() && totals.failed == 0 {
        totals.failed = 1;
    }
    if status.success() && totals.passed == 0 {
        bail!("{program} passed without having run a test");
    }
    Ok(totals)
}

/// The totals in a line of cargo test, of node's test runner (TAP), or `name: N passed, N failed`.
pub(crate) fn read_totals(line: &str) -> Option<Totals> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    if let Some(count) = line.strip_prefix("# pass ") {
        return Some(Totals {
            passed: number(count)?,
            failed: 0,
        });
    }
    if let Some(count) = line.strip_prefix("# fail ") {
        return Some(Totals {
            passed: 0,
            failed: number(count)?,
        });
    }
    let rest = match line.strip_prefix("test result: ") {
        Some(rest) => rest.split_once(". ")?.1.replace(';', ","),
        None => line
            .split_once(": ")
            .filter(|(word, _)| !word.contains(' '))?
            .1
            .to_owned(),
    };
    let mut parts = rest.split(',');
    let passed = number(parts.next()?.trim().strip_suffix(" passed")?)?;
    let failed = number(parts.next()?.trim().strip_suffix(" failed")?)?;
    Some(Totals { passed, failed })
}

/// Installs Debian packages, if there are any.
pub(crate) fn bring(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let update = Command::new("apt-get").args(["update", "-qq"]).status();
    let update = update.with_context(|| format!("please install {}", missing.join(" ")))?;
    if !update.success() {
        bail!("apt-get update failed; please install {}", missing.join(" "));
    }
    let status = Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args([
            "-o",
            "DPkg::Lock::Timeout=300",
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
        ])
        .args(missing)
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("could not install {}", missing.join(" "));
    }
    Ok(())
}

/// Brings what the client tests need and the machine does not have.
fn install() -> Result<Totals> {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_there(program))
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect();
    bring(&missing)?;
    crate::conformance::install()?;
    for folder in ["clients/browser", "clients/pusher"] {
        let path = Path::new(folder);
        once(
            &path.join("package-lock.json"),
            &path.join("node_modules/.stamp"),
            || {
                let arguments = [
                    "ci",
                    "--prefix",
                    folder,
                    "--ignore-scripts",
                    "--no-audit",
                    "--no-fund",
                ];
                whole("npm", &arguments)
            },
        )?;
    }
    let (place, wanted) = (python(), Path::new("clients/python/requirements.txt"));
    once(wanted, &place.join(".stamp"), || {
        std::fs::create_dir_all(&place)?;
        let made = whole("python3", &["-m", "venv", &place.to_string_lossy()])?;
        let pip = place.join("bin/pip");
        let arguments = [
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "--no-binary",
            "Pysher",
            "-r",
            "clients/python/requirements.txt",
        ];
        Ok(made.plus(whole(&pip.to_string_lossy(), &arguments)?))
    })?;
    Ok(Totals { passed: 1, failed: 0 })
}

/// Installs what a file asks for, unless that was done: then the stamp is like the file.
fn once(file: &Path, stamp: &Path, install: impl FnOnce() -> Result<Totals>) -> Result<()> {
    let wanted = std::fs::read(file).with_context(|| format!("there is no {}", file.display()))?;
    if std::fs::read(stamp).ok().as_deref() == Some(&wanted[..]) {
        return Ok(());
    }
    if install()?.failed > 0 {
        bail!("what {} asks for could not be installed", file.display());
    }
    Ok(std::fs::write(stamp, wanted)?)
}

/// Whether a program can be found.
pub(crate) fn is_there(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    path.split(':').any(|folder| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // Debian's has its version in the name.
        names.any(|name| name == program || (program == "php-fpm" && name.starts_with("php-fpm")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<(u64, u64)>) {
        let expected = expected.map(|(passed, failed)| Totals { passed, failed });
        assert_eq!(read_totals(line), expected, "{line}");
    }

    #[test]
    fn totals_of_every_runner() {
        check(
            "test result: ok. 80 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
            Some((80, 0)),
        );
        check("test result: FAILED. 3 passed; 1 failed; 0 ignored", Some((3, 1)));
        check("# pass 7", Some((7, 0)));
        check("# fail 2", Some((0, 2)));
        check("php: 12 passed, 3 failed", Some((12, 3)));
        check("some words: 12 passed, 3 failed", None);
        check("ok 1 - something: nothing", None);
        check("test a::b ... ok", None);
        check("", None);
    }
}
