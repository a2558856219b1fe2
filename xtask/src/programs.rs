//! Test programs of the workspace, several at a time. `cargo test` runs one after the other, and as
//! many tests of it as there are cores.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::test::{Totals, read_totals};

/// Programs that run at a time, each of which runs as many tests at a time as there are cores.
const AT_ONCE: usize = 2;

/// The program of the server's black-box tests, most of which wait for a server most of the time. It
/// takes longest, so it begins first.
pub(crate) const BLACK_BOX: &str = "black_box";

/// Tests of it that run at a time, for each core.
const BLACK_BOX_AT_ONCE: usize = 2;

struct Program {
    name: String,
    path: PathBuf,
    /// Of its package, where `cargo test` would start it.
    folder: PathBuf,
}

/// Builds what `cargo test` with these arguments would run, runs it with arguments of its own and these
/// variables, and prints what each program says when it is done.
pub(crate) fn run(build: &[&str], own: &[&str], variables: &[(&str, &str)]) -> Result<Totals> {
    let mut programs = made_by(build)?;
    // The last is the first to be taken.
    programs.sort_by_key(|program| program.name == BLACK_BOX);
    let waiting = Mutex::new(programs);
    let done: Mutex<Result<Totals>> = Mutex::new(Ok(Totals::default()));
    let work = || {
        while let Some(program) = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            let totals = execute(&program, own, variables);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(sum) = &*done {
                *done = totals.map(|totals| sum.plus(totals));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn made_by(arguments: &[&str]) -> Result<Vec<Program>> {
    let built = Command::new("cargo")
        .arg("test")
        .args(arguments)
        .args(["--no-run", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !built.status.success() {
        bail!("cannot build the tests");
    }
    let programs: Vec<Program> = built
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(program)
        .collect();
    if programs.is_empty() {
        bail!("there are no tests");
    }
    Ok(programs)
}

/// The test program that a line of cargo's JSON tells of.
fn program(line: &[u8]) -> Option<Program> {
    let artifact: Value = serde_json::from_slice(line).ok()?;
    (artifact["profile"]["test"] == true).then_some(())?;
    Some(Program {
        name: artifact["target"]["name"].as_str()?.to_owned(),
        path: artifact["executable"].as_str()?.into(),
        folder: Path::new(artifact["manifest_path"].as_str()?).parent()?.into(),
    })
}

fn execute(program: &Program, own: &[&str], variables: &[(&str, &str)]) -> Result<Totals> {
    let mut command = Command::new(&program.path);
    if program.name == BLACK_BOX {
        let cores = std::thread::available_parallelism()?.get();
        command.arg(format!("--test-threads={}", cores * BLACK_BOX_AT_ONCE));
    }
    let output = command
        .args(own)
        .current_dir(&program.folder)
        .env("FANFARE_BIN", crate::test::binary())
        .envs(variables.iter().copied())
        .output()
        .with_context(|| format!("cannot start {}", program.path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let name = program.path.file_name().unwrap_or_default().to_string_lossy();
    print!("\n-- {name}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut totals = text
        .lines()
        .filter_map(read_totals)
        .fold(Totals::default(), Totals::plus);
    if !output.status.success() && totals.failed == 0 {
        totals.failed = 1;
    }
    Ok(totals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_of_tests_are_run() {
        let check = |rest: &str, expected: Option<(&str, &str, &str)>| {
            let line =
                format!(r#"{{"manifest_path":"/a/b/Cargo.toml","target":{{"name":"x"}},"profile":{rest}}}"#);
            let found = program(line.as_bytes());
            let found = found.map(|program| (program.name, program.path, program.folder));
            let expected = expected.map(|(name, path, folder)| (name.into(), path.into(), folder.into()));
            assert_eq!(found, expected, "{line}");
        };
        check(
            r#"{"test":true},"executable":"/t/x-1""#,
            Some(("x", "/t/x-1", "/a/b")),
        );
        check(r#"{"test":false},"executable":"/t/x""#, None);
        check(r#"{"test":true},"executable":null"#, None);
        for line in [r#"{"reason":"build-finished","success":true}"#, ""] {
            assert!(program(line.as_bytes()).is_none(), "{line}");
        }
    }
}
