//! `cargo xtask bench`: all scenarios of the load generator against this server, the floor and
//! nchan, and the dated report in `docs/benchmarks`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const SCENARIOS: &str = "crates/loadtest/scenarios";
const REPORTS: &str = "docs/benchmarks";
const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// Runs the scenarios whose names contain one of `names` (all, if there are none). Only a run of
/// all of them at full length is a report; any other is written under `target`.
pub(crate) fn run(names: &[&str], quick: bool) -> Result<bool> {
    if !Path::new(NCHAN).exists() {
        crate::test::bring(&["nginx", "libnginx-mod-nchan"])?;
    }
    let build = [
        "build",
        "--release",
        "--locked",
        "-p",
        "fanfare",
        "-p",
        "fanfare-loadtest",
    ];
    if !Command::new("cargo").args(build).status()?.success() {
        bail!("cannot build");
    }
    let mut scenarios: Vec<PathBuf> = std::fs::read_dir(SCENARIOS)
        .with_context(|| format!("no {SCENARIOS}"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let path = path.to_string_lossy();
            names.is_empty() || names.iter().any(|name| path.contains(name))
        })
        .collect();
    scenarios.sort();
    if scenarios.is_empty() {
        bail!("no scenario is called like that; see {SCENARIOS}");
    }
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    let is_report = names.is_empty() && !quick;
    let folder = if is_report {
        REPORTS.to_owned()
    } else {
        format!("{target}/benchmarks")
    };
    let date = Command::new("date").arg("+%F").output()?.stdout;
    let mut command = Command::new(format!("{target}/release/fanfare-loadtest"));
    command
        .arg("suite")
        .args(&scenarios)
        .args(["--fanfare", &format!("{target}/release/fanfare")])
        .args(["--folder", &folder])
        .args(["--date", String::from_utf8(date)?.trim()]);
    if quick {
        command.arg("--quick");
    }
    let status = command.status().context("cannot start the load generator")?;
    println!("the report is in {folder}");
    Ok(status.success())
}
