//! What we depend on: licences, where it comes from, and what must not be among it.
//!
//! The rules are in `deny.toml`, in the form of cargo-deny, which reads the same file where it is
//! installed; this check needs nothing but cargo and works without a network.
//!
//! The lock file also lists crates that no build uses: a feature that is passed on "if the crate is
//! there anyway" puts it there (rustls-webpki names `ring` like that). `cargo tree` knows better.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The only place that crates come from, as cargo names it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Names and versions of all crates that some build uses, on any system.
fn built() -> Result<BTreeSet<String>> {
    let arguments = "tree --workspace --all-features --locked --target all --edges normal,build,dev --prefix none --format {p}";
    let tree = Command::new("cargo").args(arguments.split(' ')).output()?;
    ensure!(tree.status.success(), "cargo tree failed");
    let crates = String::from_utf8(tree.stdout)?;
    let name = |line: &str| {
        let (name, rest) = line.split_once(" v")?;
        Some(format!("{name} {}", rest.split(' ').next()?))
    };
    Ok(crates.lines().filter_map(name).collect())
}

/// Checks every package that some build uses; returns what is wrong, a line each.
pub(crate) fn run() -> Result<Vec<String>> {
    let rules: toml::Table = std::fs::read_to_string("deny.toml")
        .context("no deny.toml")?
        .parse()?;
    let list = |section: &str, key: &str| -> Vec<String> {
        let items = rules
            .get(section)
            .and_then(|section| section.get(key))
            .and_then(toml::Value::as_array);
        let name = |item: &toml::Value| {
            item.as_str()
                .or_else(|| item.get("crate")?.as_str())
                .map(str::to_owned)
        };
        items.into_iter().flatten().filter_map(name).collect()
    };
    let (allowed, banned) = (list("licenses", "allow"), list("bans", "deny"));
    let metadata = Command::new("cargo")
        .args(["metadata", "--all-features", "--format-version", "1", "--locked"])
        .output()?;
    let metadata: Value = serde_json::from_slice(&metadata.stdout).context("cargo metadata failed")?;
    let mut found = Vec::new();
    let built = built()?;
    let is_built = |package: &&Value| {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        built.contains(&format!("{} {}", text("name"), text("version")))
    };
    let packages = metadata["packages"].as_array().context("no packages")?;
    let packages: Vec<&Value> = packages.iter().filter(is_built).collect();
    ensure!(
        packages.len() == built.len(),
        "cargo tree and cargo metadata do not agree"
    );
    for package in &packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        if banned.iter().any(|banned| banned == name) {
            found.push(format!("{name} {version}: banned by deny.toml"));
        }
        if !package["source"].is_null() && text("source") != REGISTRY {
            found.push(format!("{name} {version}: comes from {}", text("source")));
        }
        if !satisfiable(text("license"), &allowed) {
            found.push(format!(
                "{name} {version}: licence {:?} is not on the list",
                text("license")
            ));
        }
    }
    for single in ["tokio", "hyper", "rustls", "serde_json"] {
        let count = packages
            .iter()
            .filter(|package| package["name"] == single)
            .count();
        if count > 1 {
            found.push(format!("{single}: {count} versions at once"));
        }
    }
    Ok(found)
}

/// Whether an SPDX expression can be met with the licences on the list. `/` is an old `OR`.
fn satisfiable(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let value = any(&mut rest, allowed);
    value && rest.is_empty()
}

fn any(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut value = all(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        value |= all(words, allowed);
    }
    value
}

fn all(words: &mut &[&str], allowed: &[String]) -> bool {
    let mut value = one(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        value &= one(words, allowed);
    }
    value
}

fn one(words: &mut &[&str], allowed: &[String]) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let value = any(words, allowed);
            if let [")", rest @ ..] = *words {
                *words = rest;
            }
            value
        }
        [licence, "WITH", exception, rest @ ..] => {
            *words = rest;
            let whole = format!("{licence} WITH {exception}");
            allowed.contains(&whole)
        }
        [licence, rest @ ..] => {
            *words = rest;
            allowed.iter().any(|known| known == licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, expected: bool) {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        assert_eq!(satisfiable(expression, &allowed), expected, "{expression}");
    }

    #[test]
    fn licence_expressions() {
        check("MIT", true);
        check("GPL-3.0", false);
        check("MIT OR GPL-3.0", true);
        check("MIT AND GPL-3.0", false);
        check("MIT/Apache-2.0", true);
        check("(MIT OR GPL-3.0) AND Apache-2.0", true);
        check("(MIT AND GPL-3.0) OR Apache-2.0 WITH LLVM-exception", true);
        check("GPL-3.0 WITH Classpath-exception", false);
        check("", false);
        check("MIT OR", true);
    }
}
