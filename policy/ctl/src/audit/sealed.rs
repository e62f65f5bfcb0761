//! The report that each process sealed when it confined itself, before the first guest byte: what /proc does not show.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use airlockfs_ipc::message::ConfinementReport;
use airlockfs_options::{BarrierArg, SeccompArg};
use airlockfs_policy::{Profile, REPORT, digest, read_report};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::look;
use super::points::Point;
use super::process::Process;
use super::{Pair, point};

/// The oldest Landlock ABI that denies all that the policy says: signals and abstract sockets came last.
const WHOLE: u32 = 6;

/// Adds these points.
pub(super) fn check(pair: &Pair, points: &mut Vec<Point>) {
    let confinement = &pair.options.confinement;
    let no_landlock = confinement.allow_missing.contains(&BarrierArg::Landlock);
    let no_landlock = no_landlock.then_some("--allow-missing landlock");
    let unfiltered = match confinement.seccomp {
        SeccompArg::None => Some("--seccomp none"),
        SeccompArg::Log => Some("--seccomp log"),
        SeccompArg::Kill | SeccompArg::Trap => None,
    };
    let excuse = unfiltered.or(pair.no_place()).or(no_landlock);
    for (process, profile) in pair.both() {
        let report = read(process);
        let seen = report.as_ref().map(|report| compare(report, profile));
        let copied = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        // What it said itself before there was a guest is no failure: an ordinary user who may not drop his groups.
        let only_told = report.as_ref().is_ok_and(|report| within(report, profile));
        let excuse = excuse.or(only_told.then_some("how it was started"));
        point(points, process, "report", excuse, seen.map_err(copied));
        // No option makes up for it: the options are what it is compared with.
        let profiled = report.as_ref().map(|report| same_profile(report, profile));
        point(points, process, "profile", None, profiled.map_err(copied));
        let landlock = report.as_ref().map(|report| {
            let abi = report.landlock_abi;
            (
                abi >= WHOLE,
                format!("ABI {abi} in force, as the process reported"),
            )
        });
        // An older kernel has less of it, which the log says at the start.
        point(points, process, "Landlock", no_landlock, landlock.map_err(copied));
    }
}

/// The one report among its descriptors.
fn read(process: &Process) -> io::Result<ConfinementReport> {
    let mut found = Vec::new();
    for entry in fs::read_dir(process.path("fd"))? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|target| target.as_os_str() == REPORT) {
            found.push(path);
        }
    }
    match found.as_slice() {
        [path] => read_report(&open(path)?).map_err(io::Error::other),
        _ => Err(io::Error::other(format!("it holds {} reports", found.len()))),
    }
}

/// Opens it where that waits for nobody: a file in memory, not a FIFO or a device that has its name.
fn open(path: &Path) -> io::Result<File> {
    let held = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)?;
    let pinned = format!("/proc/self/fd/{}", held.as_raw_fd());
    let in_memory = fstatfs(&held)?.filesystem_type() == TMPFS_MAGIC;
    let file = look::at(Path::new(&pinned))?;
    if !in_memory || !file.is_file() || file.links != 0 || file.size > LARGEST {
        return Err(io::Error::other("what it holds in a report's place is none"));
    }
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(pinned)
}

/// Bytes of the largest report.
const LARGEST: u64 = 64 << 10;

/// How many lines of a difference are shown.
const SHOWN: usize = 5;

/// The profile that it sealed is the one that its command line means to this version.
fn same_profile(sealed: &ConfinementReport, profile: &Profile) -> (bool, String) {
    let meant = profile.outline();
    if sealed.profile == meant {
        let digest = digest(&sealed.profile);
        return (
            true,
            format!("sealed at the start, the one that its command line means: {digest}"),
        );
    }
    let more = sealed.profile.iter().filter(|line| !meant.contains(line));
    let more = more.map(|line| format!("+ {}", line.escape_debug()));
    let less = meant.iter().filter(|line| !sealed.profile.contains(line));
    let less = less.map(|line| format!("- {line}"));
    let lines: Vec<String> = more.chain(less).collect();
    let mut found = "NOT the one that its command line means to this version".to_owned();
    for line in lines.iter().take(SHOWN) {
        found += &format!("; {line}");
    }
    if let more @ 1.. = lines.len().saturating_sub(SHOWN) {
        found += &format!("; {more} more");
    }
    (false, found)
}

fn allowed(profile: &Profile) -> u64 {
    let kept = profile.capabilities.iter();
    kept.fold(0, |mask, kept| mask | kept.what.bitmask())
}

/// Nothing in it goes beyond the profile.
fn within(report: &ConfinementReport, profile: &Profile) -> bool {
    let wanted: Vec<&str> = profile.namespaces.iter().map(|own| own.what).collect();
    report.capabilities & !allowed(profile) == 0
        && report.namespaces == wanted
        && report.syscalls == profile.syscall_count()
}

/// The same, and nothing was weakened.
fn compare(report: &ConfinementReport, profile: &Profile) -> (bool, String) {
    let mut found = format!(
        "sealed at the start: capabilities {:#x} of {:#x}, namespaces {}, {} system calls of {}",
        report.capabilities,
        allowed(profile),
        report.namespaces.join(" "),
        report.syscalls,
        profile.syscall_count(),
    );
    for line in &report.weakened {
        found += &format!("; weaker: {line}");
    }
    (within(report, profile) && report.weakened.is_empty(), found)
}
