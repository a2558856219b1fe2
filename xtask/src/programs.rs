//! Test programs of the workspace, several at a time. `cargo test` runs one after the other, and most
//! of those here wait for a server most of the time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::test::{Totals, read_totals};

/// Programs that run at a time, each of which runs as many tests at a time as there are cores.
const AT_ONCE: usize = 2;

struct Program {
    path: PathBuf,
    /// Of its package, where `cargo test` would start it.
    folder: PathBuf,
}

/// Builds what `cargo test` with these arguments would run, runs it with these variables, and prints
/// what each program says when it is done.
pub(crate) fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Totals> {
    let waiting = Mutex::new(build(arguments)?);
    let done: Mutex<Result<Totals>> = Mutex::new(Ok(Totals::default()));
    let work = || {
        while let Some(program) = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            let totals = execute(&program, variables);
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

fn build(arguments: &[&str]) -> Result<Vec<Program>> {
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
        path: artifact["executable"].as_str()?.into(),
        folder: Path::new(artifact["manifest_path"].as_str()?).parent()?.into(),
    })
}

fn execute(program: &Program, variables: &[(&str, &str)]) -> Result<Totals> {
    let output = Command::new(&program.path)
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
        let check = |line: &str, expected: Option<(&str, &str)>| {
            let found = program(line.as_bytes());
            let found = found.map(|program| (program.path, program.folder));
            assert_eq!(
                found,
                expected.map(|(path, folder)| (path.into(), folder.into())),
                "{line}"
            );
        };
        check(
            r#"{"manifest_path":"/a/b/Cargo.toml","profile":{"test":true},"executable":"/t/x-1"}"#,
            Some(("/t/x-1", "/a/b")),
        );
        check(
            r#"{"manifest_path":"/a/b/Cargo.toml","profile":{"test":false},"executable":"/t/x"}"#,
            None,
        );
        check(
            r#"{"manifest_path":"/a/b/Cargo.toml","profile":{"test":true},"executable":null}"#,
            None,
        );
        check(r#"{"reason":"build-finished","success":true}"#, None);
        check("", None);
    }
}
