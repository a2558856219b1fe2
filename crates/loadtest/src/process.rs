//! What a process has used, read from `/proc`, and which core it may run on.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Time on a core.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// In the program.
    pub user: Duration,
    /// In the kernel, on behalf of the program.
    pub system: Duration,
}

impl Cpu {
    /// Both.
    pub fn total(&self) -> Duration {
        self.user + self.system
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

/// A server's process with its children, such as a master with its workers.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// The parent's number.
    pub pid: u32,
}

impl Process {
    /// Time on a core so far, of all of them.
    pub fn cpu(&self) -> Result<Cpu> {
        cpu_of(&self.family())
    }

    /// Resident memory now, in bytes, of all of them.
    pub fn resident_bytes(&self) -> Result<u64> {
        let page = rustix::param::page_size() as u64;
        let mut sum = 0;
        for pid in self.family() {
            let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
            let pages = statm
                .split(' ')
                .nth(1)
                .and_then(|pages| pages.parse::<u64>().ok());
            sum += pages.context("no /proc statm")? * page;
        }
        Ok(sum)
    }

    /// The most memory that was resident at any time, in bytes, summed over all of them.
    pub fn peak_bytes(&self) -> Result<u64> {
        let mut sum = 0;
        for pid in self.family() {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            sum += kib.context("no VmHWM")? * 1_024;
        }
        Ok(sum)
    }

    /// Threads of all of them.
    pub fn threads(&self) -> usize {
        let count = |pid| fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        self.family().into_iter().map(count).sum()
    }

    fn family(self) -> Vec<u32> {
        let mut all = vec![self.pid];
        let mut at = 0;
        while let Some(pid) = all.get(at) {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let children = fs::read_to_string(Path::new(&path)).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
            at += 1;
        }
        all
    }
}

/// Time on a core so far of this process alone: what it started is not its own work.
pub fn own_cpu() -> Result<Cpu> {
    cpu_of(&[std::process::id()])
}

fn cpu_of(pids: &[u32]) -> Result<Cpu> {
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let of = |ticks_used: u64| Duration::from_nanos(ticks_used * 1_000_000_000 / ticks);
    let mut sum = Cpu::default();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name may have spaces and brackets; what follows its last bracket has not.
        let rest = stat.rsplit_once(')').context("no /proc stat")?.1;
        let mut fields = rest.split_whitespace().skip(11);
        let mut next = || fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
        sum.user += of(next());
        sum.system += of(next());
    }
    Ok(sum)
}

/// Keeps this process on one core, so that it does not take time from the server on another.
pub fn stay_on_core(core: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).context("cannot choose a core")
}

/// Lets this process open as many files as it may.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum.unwrap_or(u64::MAX)
    } else {
        limit.current.unwrap_or(u64::MAX)
    }
}
