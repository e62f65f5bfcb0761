//! What a daemon's processes have used so far, all of them together.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::Process;

/// The processes of a daemon.
#[derive(Debug)]
pub struct Processes(Vec<i32>);

/// What they used since they started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time of all threads, also of those that ended.
    pub cpu: Duration,
    /// Context switches, voluntary and not, of the threads that live.
    pub switches: u64,
}

/// Memory of all of them (/proc/PID/smaps_rollup), in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resident {
    /// Proportional set size: shared pages count by their share.
    pub pss: u64,
    /// Pages nobody else maps.
    pub private: u64,
}

impl Processes {
    /// A process and all below it.
    pub fn below(pid: i32) -> Result<Self> {
        let tree = Process::open(pid)?.tree()?;
        Ok(Self(tree.iter().map(Process::pid).collect()))
    }

    /// Their process ids.
    pub fn pids(&self) -> &[i32] {
        &self.0
    }

    /// All threads' ids.
    pub fn threads(&self) -> Result<Vec<i32>> {
        let mut threads = Vec::new();
        for pid in &self.0 {
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                threads.push(entry?.file_name().to_string_lossy().parse()?);
            }
        }
        Ok(threads)
    }

    /// What they used so far. The CPU time is the process's clock, in nanoseconds, not the ticks of /proc/PID/stat.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for pid in &self.0 {
            let clock = clock_getcpuclockid(Pid::from_raw(*pid)).context("clock_getcpuclockid")?;
            usage.cpu += Duration::from(clock_gettime(clock).context("clock_gettime")?);
        }
        for thread in self.threads()? {
            // A thread that ended meanwhile is not there.
            let Ok(status) = fs::read_to_string(format!("/proc/{thread}/status")) else {
                continue;
            };
            usage.switches += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            usage.switches += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
        Ok(usage)
    }

    /// The memory they take now.
    pub fn memory(&self) -> Result<Resident> {
        let mut memory = Resident::default();
        for pid in &self.0 {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("smaps_rollup")?;
            memory.pss += field(&text, "Pss:").context("Pss")?;
            for name in ["Private_Clean:", "Private_Dirty:"] {
                memory.private += field(&text, name).context("private memory")?;
            }
        }
        Ok(memory)
    }
}

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("clock_gettime")?;
    Ok(Duration::from(now))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}
