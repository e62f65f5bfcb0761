//! Which processors the front end and the daemon run on.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::procfs::Processes;

/// Where things run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placement {
    /// All on CPU 0: the cost of the request path, without idle processors that have to be woken.
    Together,
    /// The front end on CPU 1, the daemon's processes on CPU 0: wake-ups across processors included.
    Apart,
    /// Wherever the kernel puts them.
    Free,
}

impl Placement {
    /// How it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Together => "together",
            Self::Apart => "apart",
            Self::Free => "free",
        }
    }

    /// Puts the calling thread where the front end belongs.
    pub fn pin_front_end(self) -> Result<()> {
        match self {
            Self::Together => pin(0, &[0]),
            Self::Apart => pin(0, &[1]),
            Self::Free => unpin(0),
        }
    }

    /// Puts all threads of a daemon where they belong.
    pub fn pin_daemon(self, processes: &Processes) -> Result<()> {
        for thread in processes.threads()? {
            match self {
                Self::Together | Self::Apart => pin(thread, &[0])?,
                Self::Free => {}
            }
        }
        Ok(())
    }
}

impl FromStr for Placement {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let all = [Self::Together, Self::Apart, Self::Free];
        let named = all.into_iter().find(|placement| placement.name() == text);
        named.ok_or("together, apart or free")
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Lets the calling thread run everywhere.
pub fn unpin(thread: i32) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(thread), &set).context("sched_setaffinity")
}

fn pin(thread: i32, cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    sched_setaffinity(Pid::from_raw(thread), &set).with_context(|| format!("run on CPU {cpus:?}"))
}
