//! Conformance: the Autobahn cases for WebSockets, run by `kosoku`, which is installed from the
//! Python index into `target` with its version and hashes fixed.
//!
//! [`quick`] is a step of `cargo xtask test`: RFC 6455 with raised limits and with default ones.
//! [`run`] adds what takes minutes: compression, proxies, and a million mutated request heads.
//! What is accepted of the fuzzing client's verdicts stands in [`judge`].

mod judge;
mod process;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::test::Totals;
use judge::Profile;
use process::{Proxy, Running};

const REQUIREMENTS: &str = "xtask/conformance/requirements.txt";
const FUZZING_CLIENT: &str = "xtask/conformance/fuzzing_client.py";

/// Settings of every run: only what is worth a look is logged. No pings: a case that gets one takes
/// it for the answer that it waits for, and fails; some cases take longer than the usual interval.
const QUIET: &str =
    "listen = \"127.0.0.1:0\"\n[log]\nlevel = \"warn\"\n[sessions]\nping_interval = \"10m\"\n";

/// The client sends as fast as it can, and waits for the echo of everything.
const FAST: &str = "[limits]\nmessages_per_connection = \"off\"\nbytes_per_connection = \"off\"\n";

/// No case reaches these: the largest message has 16 MiB, the most fragments are 65,536.
const RAISED: &str = "\
message_bytes_max = 17_825_792
body_bytes_max = 17_825_792
outbox_bytes_max = 41_943_040
fragments_max = 1_000_000
";

/// Compresses also what is too short to gain by it, which the cases begin with.
const COMPRESS_ALL: &str = "[compression]\nbytes_min = 0\n";

/// With default limits a hostile peer costs no more memory than this, in KiB.
const GROWTH_MAX_KIB: u64 = 2 * 1_024;

/// Heads of the differential test in a long run.
const HEADS: &str = "1000000";

/// One run of the fuzzing client.
struct Plan {
    name: &'static str,
    profile: Profile,
    proxy: Option<Proxy>,
}

const RAISED_LIMITS: Plan = Plan {
    name: "limits-raised",
    profile: Profile::Raised,
    proxy: None,
};

const DEFAULT_LIMITS: Plan = Plan {
    name: "limits-default",
    profile: Profile::Defaults,
    proxy: None,
};

const LONG: [Plan; 3] = [
    Plan {
        name: "through-nginx",
        profile: Profile::Raised,
        proxy: Some(Proxy::Nginx),
    },
    Plan {
        name: "through-haproxy",
        profile: Profile::Raised,
        proxy: Some(Proxy::Haproxy),
    },
    Plan {
        name: "compression",
        profile: Profile::Compression,
        proxy: None,
    },
];

/// RFC 6455, in half a minute.
pub(crate) fn quick() -> Result<Totals> {
    prepare()?;
    let raised = RAISED_LIMITS.run()?;
    let default = DEFAULT_LIMITS.run()?;
    Ok(raised.plus(default))
}

/// Everything; says whether all is well.
pub(crate) fn run() -> Result<bool> {
    if !crate::test::is_there("nginx") {
        crate::test::bring(&["nginx"])?;
    }
    if !crate::test::is_there("haproxy") {
        crate::test::bring(&["haproxy"])?;
    }
    let mut totals = quick()?;
    for plan in &LONG {
        totals = totals.plus(plan.run()?);
    }
    println!("\n{HEADS} mutated heads, our parser against hyper's:");
    let arguments = [
        "test",
        "--release",
        "--locked",
        "-p",
        "fanfare",
        "--test",
        "http1_differential",
    ];
    let mut heads = Command::new("cargo");
    heads.args(arguments).env("TEST_HEADS", HEADS);
    let passed = heads.status().context("cannot start cargo")?.success();
    totals = totals.plus(Totals {
        passed: u64::from(passed),
        failed: u64::from(!passed),
    });
    println!("\n{} passed, {} failed", totals.passed, totals.failed);
    Ok(totals.failed == 0)
}

/// What the quick run needs: the server of this tree, and the fuzzing client.
fn prepare() -> Result<()> {
    if std::env::var_os("FANFARE_BIN").is_none() {
        // The same build as the tests', so that nothing is compiled twice.
        let build = ["test", "--workspace", "--locked", "--no-run", "--quiet"];
        if crate::test::whole("cargo", &build)?.failed > 0 {
            bail!("cannot build");
        }
    }
    install()
}

fn folder() -> PathBuf {
    crate::test::target().join("conformance")
}

/// Brings the fuzzing client, unless it is here in this version.
pub(crate) fn install() -> Result<()> {
    let wanted = std::fs::read(REQUIREMENTS).with_context(|| format!("no {REQUIREMENTS}"))?;
    let environment = folder().join("python");
    let stamp = environment.join(".stamp");
    if std::fs::read(&stamp).ok().as_deref() == Some(&wanted[..]) {
        return Ok(());
    }
    // Debian has Python without the means to make an environment.
    let can = Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .stderr(Stdio::null())
        .status();
    if !can.is_ok_and(|status| status.success()) {
        crate::test::bring(&["python3", "python3-venv"])?;
    }
    println!("installing the WebSocket fuzzing client");
    let made = Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&environment)
        .status();
    if !made.context("cannot start python3")?.success() {
        bail!("python3 cannot make an environment in {}", environment.display());
    }
    let installed = Command::new(environment.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(["--only-binary", ":all:", "--require-hashes", "-r", REQUIREMENTS])
        .status();
    if !installed.context("cannot start pip")?.success() {
        bail!("pip could not install what is in {REQUIREMENTS}");
    }
    std::fs::write(stamp, wanted)?;
    Ok(())
}

impl Plan {
    /// Starts the server, runs the cases, judges, and looks at what the server is like afterwards.
    fn run(&self) -> Result<Totals> {
        let begun = Instant::now();
        let folder = folder().join(self.name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        let mut settings = format!("{QUIET}{FAST}");
        if self.profile != Profile::Defaults {
            settings.push_str(RAISED);
        }
        if self.profile == Profile::Compression && can_compress()? {
            settings.push_str(COMPRESS_ALL);
        }
        let server = process::fanfare(&folder, &settings)?;
        // What every first connection brings with it: code, the heaps of the threads.
        fuzz(&folder, "warm-up", &server.address, &["1.*"])?;
        let (rss_before, descriptors) = (server.peak_rss_kib()?, server.descriptors()?);

        let proxy = match self.proxy {
            Some(kind) => Some(process::proxy(kind, &folder, &server.address)?),
            None => None,
        };
        let address = proxy.as_ref().map_or(&server.address, |proxy| &proxy.address);
        let report = fuzz(&folder, "report", address, self.profile.groups())?;
        if let Some(proxy) = proxy {
            proxy.stop()?;
        }

        let mut faults = judge::faults(self.profile, &report);
        let growth = server.peak_rss_kib()?.saturating_sub(rss_before);
        if self.profile == Profile::Defaults && growth > GROWTH_MAX_KIB {
            faults.push(format!(
                "memory: the peak grew by {growth} KiB, more than {GROWTH_MAX_KIB}"
            ));
        }
        faults.extend(aftermath(server, descriptors, &folder));
        faults.iter().for_each(|fault| println!("{fault}"));
        println!(
            "{} in {:.1} s; peak of resident memory {rss_before} KiB + {growth} KiB",
            judge::summary(&report),
            begun.elapsed().as_secs_f64()
        );
        let failed = faults.len() as u64;
        let totals = Totals {
            passed: (report.len() as u64).saturating_sub(failed),
            failed,
        };
        println!(
            "{}: {} passed, {} failed",
            self.name, totals.passed, totals.failed
        );
        Ok(totals)
    }
}

/// Whether this server knows of compression.
fn can_compress() -> Result<bool> {
    let settings = Command::new(crate::test::binary()).arg("config").output()?;
    Ok(String::from_utf8_lossy(&settings.stdout).contains("[compression]"))
}

/// Runs cases one after another, since all of them listen to the same channel.
fn fuzz(folder: &Path, name: &str, address: &str, groups: &[&str]) -> Result<judge::Report> {
    let reports = folder.join(name);
    let mut command = Command::new(self::folder().join("python/bin/python"));
    command
        .arg(FUZZING_CLIENT)
        .args(["--mode", "fuzzingclient", "--parallelism", "1", "--outdir"])
        .arg(&reports);
    for group in groups {
        command.args(["--include", group]);
    }
    let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
    command.arg(format!("ws://{address}/?echo=1"));
    command.stdout(log.try_clone()?).stderr(log);
    // Its status says whether all cases passed; the report says which did not.
    command.status().context("cannot start the fuzzing client")?;
    let index = std::fs::read_to_string(reports.join("index.json"))
        .with_context(|| format!("no report; see {}", folder.display()))?;
    judge::read(&index)
}

/// After all cases: every connection is gone, the server ends in order and had nothing to regret.
fn aftermath(server: Running, descriptors: usize, folder: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    if let Err(error) = server.wait_for_descriptors(descriptors) {
        faults.push(format!("afterwards {error:#}"));
    }
    if !server.stop().unwrap_or(false) {
        faults.push("the server did not end with success".to_owned());
    }
    let log = std::fs::read_to_string(folder.join("fanfare.log")).unwrap_or_default();
    let errors = log
        .lines()
        .filter(|line| line.contains("ERROR") || line.contains("panicked"));
    faults.extend(errors.map(|line| format!("the server logged {line}")));
    faults
}
