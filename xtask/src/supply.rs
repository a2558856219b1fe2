//! What we depend on: licences, where it comes from, and what must not be among it.
//!
//! The lock file also holds packages that no build needs: cargo enters `ring` because a feature of
//! rustls-webpki would add to it *if* it were there. So what is looked at is what `cargo tree` names,
//! with all our features and for all systems.
//!
//! The rules are in `deny.toml`, in the form of cargo-deny, which reads the same file where it is
//! installed; this check needs nothing but cargo and works without a network.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// The only place that crates come from, as cargo names it.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks every package that can be a part of a build; returns what is wrong, a line each.
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
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()?;
    let metadata: Value = serde_json::from_slice(&metadata.stdout).context("cargo metadata failed")?;
    let mut found = Vec::new();
    let tree = Command::new("cargo")
        .args([
            "tree",
            "--workspace",
            "--all-features",
            "--target",
            "all",
            "--edges",
            "all",
        ])
        .args(["--prefix", "none", "--locked"])
        .output()?;
    let tree = String::from_utf8(tree.stdout)?;
    let built = built(&tree);
    let is_built = |package: &&Value| {
        let (name, version) = (package["name"].as_str(), package["version"].as_str());
        name.zip(version).is_some_and(|package| built.contains(&package))
    };
    let packages = metadata["packages"].as_array().context("no packages")?;
    let packages: Vec<&Value> = packages.iter().filter(is_built).collect();
    anyhow::ensure!(packages.len() > 1, "cargo tree names no packages");
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

/// Name and version of each package in the lines of `cargo tree`: `serde v1.0.229 (proc-macro)`.
fn built(tree: &str) -> BTreeSet<(&str, &str)> {
    let package = |line| {
        let (name, rest) = str::split_once(line, " v")?;
        Some((name, rest.split(' ').next()?))
    };
    tree.lines().filter_map(package).collect()
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
    fn packages_are_read_from_the_tree() {
        let tree =
            "fanfare v0.1.0 (a/path)\nserde v1.0.229 (*)\nserde v1.0.229\nsyn v2.0.1+x (proc-macro)\n\n";
        let expected = [("fanfare", "0.1.0"), ("serde", "1.0.229"), ("syn", "2.0.1+x")];
        assert_eq!(built(tree), BTreeSet::from(expected));
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
