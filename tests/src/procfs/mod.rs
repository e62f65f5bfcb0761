//! What /proc says of a process, and waiting for its end.
#![allow(unsafe_code, reason = "pidfd_open has no safe wrapper in nix")]

mod usage;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::vmm::fds;

pub use usage::{Processes, Resident, Usage, thread_cpu};

/// A process, by a descriptor that no other process can take over.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

impl Process {
    /// A process that runs now.
    pub fn open(pid: i32) -> Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = Errno::result(fd).with_context(|| format!("pidfd_open({pid})"))?;
        // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { pid, pidfd })
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it ended within `millis`.
    pub fn ended_within(&self, millis: u16) -> bool {
        fds::wait([self.pidfd.as_fd()], millis)[0]
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("kill {}", self.pid))
    }

    /// User and system time so far, in clock ticks, of all its threads.
    pub fn cpu_ticks(&self) -> Result<u64> {
        let stat = stat_fields(self.pid)?;
        let field = |n: usize| -> Result<u64> {
            let text = stat.get(n).context("a field of /proc/PID/stat")?;
            text.parse().context("a number in /proc/PID/stat")
        };
        // utime and stime are fields 14 and 15, counted from 1; the list begins with field 3.
        Ok(field(11)? + field(12)?)
    }

    /// A counter of /proc/PID/io (`rchar`, `wchar`, …), in bytes or calls.
    pub fn io(&self, name: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.pid))?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .with_context(|| format!("{name} in /proc/{}/io", self.pid))?
            .parse()
            .context("a number")
    }

    /// A field of /proc/PID/status, without its name.
    pub fn status(&self, name: &str) -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(":"))
            .map(|value| value.trim().to_owned())
            .with_context(|| format!("{name} in /proc/{}/status", self.pid))
    }

    /// What its descriptors point to.
    pub fn descriptors(&self) -> Result<Vec<(i32, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid))? {
            let entry = entry?;
            let number = entry.file_name().to_string_lossy().parse()?;
            // A descriptor that was closed meanwhile is not there.
            if let Ok(target) = fs::read_link(entry.path()) {
                found.push((number, target));
            }
        }
        found.sort();
        Ok(found)
    }

    /// With `full`, lets it open no more descriptors; else as many as its hard limit allows.
    pub fn limit_descriptors(&self, full: bool) -> Result<()> {
        // The limit is one of numbers: the first one that is free.
        let held: BTreeSet<i32> = self.descriptors()?.iter().map(|(number, _)| *number).collect();
        let free = (0..).find(|number| !held.contains(number)).unwrap_or_default();
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid))?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let hard = line.and_then(|line| line.split_whitespace().nth(1));
        let hard = hard.context("Max open files")?;
        let soft = if full { free.to_string() } else { hard.to_owned() };
        let id = |name: &str| -> Result<u32> {
            let ids = self.status(name)?;
            Ok(ids.split_whitespace().next().context("an id")?.parse()?)
        };
        // By a process of its own user, which needs no capability for that (prlimit(2)).
        let status = Command::new("prlimit")
            .args(["--pid", &self.pid.to_string(), &format!("--nofile={soft}:{hard}")])
            .uid(id("Uid")?)
            .gid(id("Gid")?)
            .status()
            .context("prlimit (util-linux)")?;
        ensure!(status.success(), "prlimit: {status}");
        Ok(())
    }

    /// Its children.
    pub fn children(&self) -> Result<Vec<Process>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            // A process that ended meanwhile is no child.
            let Ok(stat) = stat_fields(pid) else { continue };
            if stat.get(1).is_some_and(|ppid| *ppid == self.pid.to_string()) {
                found.extend(Process::open(pid));
            }
        }
        Ok(found)
    }

    /// The process itself and all below it.
    pub fn tree(self) -> Result<Vec<Process>> {
        let mut all = vec![self];
        let mut at = 0;
        while at < all.len() {
            let children = all[at].children()?;
            all.extend(children);
            at += 1;
        }
        Ok(all)
    }
}

/// Locks of all processes on a file, and waits for them (/proc/locks).
pub fn locks(path: &Path) -> Result<Vec<String>> {
    let file = fs::metadata(path)?;
    let inode = format!(":{} ", file.ino());
    let all = fs::read_to_string("/proc/locks")?;
    Ok(all
        .lines()
        .filter(|line| line.contains(&inode))
        .map(str::to_owned)
        .collect())
}

/// The fields of /proc/PID/stat from the third (state) on; the second may hold spaces.
fn stat_fields(pid: i32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(") ").context("a command in /proc/PID/stat")?;
    let fields: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
    ensure!(fields.len() > 20, "a short /proc/{pid}/stat");
    Ok(fields)
}
