//! Rules of the tree that a look at the files can check. Each has its reason beside it.

// The tree has one spelling of each ending.
#![allow(clippy::case_sensitive_file_extension_comparisons)]

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// A file that grows beyond this has a seam somewhere: nobody reads it whole any more.
const LINES_MAX: usize = 800;

/// Crates that do input or output, read a clock, or draw random numbers. Core decides only.
const NOT_IN_CORE: [&str; 9] = [
    "tokio",
    "mio",
    "hyper",
    "rustix",
    "socket2",
    "getrandom",
    "rand",
    "tracing",
    "parking_lot",
];

/// The black-box tests of the server: one program, a module per promise.
const BLACK_BOX: &str = "crates/server/tests/black_box/";

/// Checks every file that git knows; returns what is wrong, a line each.
pub(crate) fn run() -> Result<Vec<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output();
    let listed = String::from_utf8(listed.context("cannot ask git for the files")?.stdout)?;
    let listed: Vec<&str> = listed.lines().filter(|path| Path::new(path).is_file()).collect();
    let mut found = Vec::new();
    for path in &listed {
        if let Ok(text) = std::fs::read_to_string(path) {
            check_file(path, &text, &mut found);
        }
    }
    let main = std::fs::read_to_string(format!("{BLACK_BOX}main.rs")).unwrap_or_default();
    check_black_box(&listed, &main, &mut found);
    Ok(found)
}

/// Each file of the black-box tests is part of their one program.
fn check_black_box(listed: &[&str], main: &str, found: &mut Vec<String>) {
    let is_module = |name: &str| main.lines().any(|line| line == format!("mod {name};"));
    let rust = listed.iter().filter_map(|path| path.strip_suffix(".rs"));
    for path in rust {
        if let Some(name) = path.strip_prefix(BLACK_BOX) {
            if !name.contains('/') && name != "main" && !is_module(name) {
                found.push(format!(
                    "{path}.rs:1: main.rs has no line `mod {name};`: it is not run"
                ));
            }
        } else if let Some(name) = path.strip_prefix("crates/server/tests/")
            && !name.contains('/')
        {
            let why = "as a program of its own it is built with the whole server once more";
            found.push(format!(
                "{path}.rs:1: {why}: its place is in black_box, with a line in main.rs"
            ));
        }
    }
}

fn check_file(path: &str, text: &str, found: &mut Vec<String>) {
    let mut wrong = |line: usize, what: &str| found.push(format!("{path}:{line}: {what}"));
    let is_rust = Path::new(path)
        .extension()
        .is_some_and(|extension| extension == "rs");
    // Written so that this file does not find itself.
    let machine = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
    ];
    let unfinished = [
        concat!("to", "do!("),
        concat!("unimplem", "ented!("),
        concat!("#[ign", "ore"),
        concat!("db", "g!("),
    ];
    let in_tests_or_core = path.contains("/tests/") || path.starts_with("crates/core/");
    for (number, line) in (1..).zip(text.lines()) {
        if line.ends_with([' ', '\t']) && !path.ends_with(".md") {
            wrong(number, "white space at the end of the line");
        }
        if machine.iter().any(|part| line.contains(part)) {
            wrong(number, "a path of one machine");
        }
        if is_rust && unfinished.iter().any(|part| line.contains(part)) {
            wrong(number, "unfinished, ignored or left over from debugging");
        }
        // A test waits for what it expects; a sleep is too long, or one day too short.
        if is_rust && in_tests_or_core && (line.contains("thread::sleep(") || line.contains("time::sleep(")) {
            wrong(number, "a sleep in a test or in core");
        }
        if path.starts_with("crates/core/src/session/") && line.contains("crate::hub") {
            wrong(number, "sessions do not know the hub; they return actions");
        }
        if path.starts_with("crates/core/src/wire/")
            && (line.contains("crate::session::") || line.contains("crate::hub"))
        {
            wrong(number, "the wire does not know sessions or the hub");
        }
        if path.ends_with(".md") {
            check_links(path, line, number, &mut wrong);
        }
    }
    if is_rust && text.lines().count() > LINES_MAX {
        wrong(1, "more than 800 lines: where is the seam?");
    }
    if is_rust && path.contains("/src/") && !text.starts_with("//!") {
        wrong(
            1,
            "no module head: what is here, what holds, and what is not here?",
        );
    }
    if path == "crates/core/Cargo.toml" {
        for (number, line) in (1..).zip(text.lines()) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if NOT_IN_CORE.contains(&name) {
                wrong(number, "core does no input or output, and reads no clock");
            }
        }
    }
    if path == "crates/core/src/lib.rs" && !text.contains("#![forbid(unsafe_code)]") {
        wrong(1, "core forbids unsafe code");
    }
}

/// A link to a file of the repository must lead somewhere.
fn check_links(path: &str, line: &str, number: usize, wrong: &mut impl FnMut(usize, &str)) {
    for target in line
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#', ' ']).next())
    {
        let outside = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
        let folder = Path::new(path).parent().unwrap_or(Path::new(""));
        if !outside && !folder.join(target).exists() {
            wrong(number, &format!("the link to {target} leads nowhere"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expected: &[&str]) {
        let mut found = Vec::new();
        check_file(path, text, &mut found);
        let short: Vec<&str> = found.iter().filter_map(|line| line.rsplit(": ").next()).collect();
        assert_eq!(short, expected, "{path}");
    }

    #[test]
    fn no_black_box_test_is_forgotten() {
        let listed = [
            "crates/server/tests/black_box/main.rs",
            "crates/server/tests/black_box/order.rs",
            "crates/server/tests/black_box/post.rs",
            "crates/server/tests/black_box/support/mod.rs",
            "crates/server/tests/alone.rs",
            "crates/core/tests/simulation.rs",
        ];
        let mut found = Vec::new();
        check_black_box(&listed, "mod support;\n\nmod order;\n// mod post;\n", &mut found);
        let files: Vec<&str> = found.iter().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(files, [listed[2], listed[4]], "{found:?}");
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        check("a.rs", "fn a() {}\n", &[]);
        check("a.rs", "fn a() {} \n", &["white space at the end of the line"]);
        check("a.txt", concat!("see /wo", "rk/x\n"), &["a path of one machine"]);
        check(
            "a.rs",
            concat!("to", "do!()\n"),
            &["unfinished, ignored or left over from debugging"],
        );
        check(
            "crates/x/tests/a.rs",
            "std::thread::sleep(x);\n",
            &["a sleep in a test or in core"],
        );
        check(
            "crates/core/src/wire/a.rs",
            "//! x\nuse crate::session::X;\n",
            &["the wire does not know sessions or the hub"],
        );
        check(
            "crates/core/src/a.rs",
            "fn a() {}\n",
            &["what is here, what holds, and what is not here?"],
        );
        check(
            "crates/core/Cargo.toml",
            "tokio.workspace = true\n",
            &["core does no input or output, and reads no clock"],
        );
        check(
            "a.md",
            "[x](no/such/file.md) [y](https://example.org)\n",
            &["the link to no/such/file.md leads nowhere"],
        );
    }
}
