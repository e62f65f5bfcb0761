//! What the processes execute: the program by device and inode number, never by its name, all that is mapped executable,
//! and the filter's instructions on every thread.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use airlockfs_options::SeccompArg;
use airlockfs_policy::{Profile, StartError, filter, installed};

use super::look::{self, Found};
use super::points::Point;
use super::process::{Process, gone};
use super::{Pair, point};
use crate::line::Audit;

type Seen = io::Result<(bool, String)>;

/// The programs that the pair should execute.
pub(super) struct Programs {
    supervisor: io::Result<PathBuf>,
    worker: io::Result<PathBuf>,
}

impl Programs {
    /// Those that the command line names; otherwise `airlockfsd`, or the one that this program is installed with, and the
    /// worker that it starts.
    pub(super) fn new(asked: &Audit, airlockfsd: Option<&Path>) -> Self {
        let installed = match airlockfsd {
            Some(path) => Ok(path.to_owned()),
            None => installed::own_path().and_then(|own| installed::daemon(&own).map(|found| found.path)),
        };
        let worker = match (&asked.worker, &installed) {
            (Some(path), _) => Ok(path.clone()),
            (None, Ok(daemon)) => installed::companion(daemon, "airlockfs-worker").map(|found| found.path),
            (None, Err(error)) => Err(error.clone()),
        };
        let supervisor = asked.program.clone().map_or(installed, Ok);
        let failed = |error: StartError| io::Error::other(error.message);
        Self {
            supervisor: supervisor.map_err(failed),
            worker: worker.map_err(failed),
        }
    }

    fn of(&self, pair: &Pair, process: &Process) -> io::Result<&Path> {
        let program = match process.pid == pair.worker.pid {
            true => &self.worker,
            false => &self.supervisor,
        };
        let copied = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
        program.as_deref().map_err(copied)
    }
}

/// Adds these points.
pub(super) fn check(pair: &Pair, programs: &Programs, points: &mut Vec<Point>) {
    let unfiltered = match pair.options.confinement.seccomp {
        SeccompArg::None => Some("--seccomp none"),
        SeccompArg::Log => Some("--seccomp log"),
        SeccompArg::Kill | SeccompArg::Trap => None,
    };
    for (process, profile) in pair.both() {
        let wanted = || programs.of(pair, process);
        let seen = wanted().and_then(|path| program(process, path));
        point(points, process, "program", None, seen);
        let seen = wanted().and_then(|path| mapped(process, path));
        point(points, process, "mapped", None, seen);
        point(points, process, "tracer", None, tracer(process));
        point(points, process, "filter", unfiltered, filters(process, profile));
    }
}

/// It executes the very file, which only root can change.
fn program(process: &Process, wanted: &Path) -> Seen {
    let (runs, wanted_file) = (process.look("exe")?, look::at(wanted)?);
    let mut found = process.link("exe")?;
    let same = runs.identity() == wanted_file.identity();
    if !same {
        let shown = std::fs::read_link(wanted).unwrap_or_else(|_| wanted.to_owned());
        found = format!(
            "{found} (device {:#x}, inode {}), which is NOT {} (device {:#x}, inode {})",
            runs.device,
            runs.inode,
            shown.display(),
            wanted_file.device,
            wanted_file.inode,
        );
    }
    if runs.links == 0 {
        found += "; it has been deleted or replaced";
    }
    found += &changeable(&runs);
    Ok((same && runs.is_roots_alone(), found))
}

/// Whoever else than root can change it.
fn changeable(file: &Found) -> String {
    match file.is_roots_alone() {
        true => String::new(),
        false => format!("; it can be CHANGED: user {}'s, or writable for others", file.uid),
    }
}

/// Files that a process executes code of: the range and what it is called.
fn executable(process: &Process) -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for line in process.read("maps")?.lines() {
        let mut fields = line.splitn(6, ' ');
        let (range, rights) = (fields.next(), fields.next());
        let name = fields.nth(3).unwrap_or_default().trim_start();
        let (Some((from, to)), Some(rights)) = (range.and_then(|range| range.split_once('-')), rights) else {
            return Err(io::Error::other("a line of maps is not understood"));
        };
        let number = |text: &str| u64::from_str_radix(text, 16).map_err(io::Error::other);
        if rights.contains('x') {
            // As proc_pid_map_files(5) has it, without zeros in front.
            let range = format!("{:x}-{:x}", number(from)?, number(to)?);
            found.push((range, name.to_owned()));
        }
    }
    Ok(found)
}

/// What the kernel itself maps.
const KERNELS: [&str; 2] = ["[vdso]", "[vsyscall]"];

/// Executable is its own program, and what the auditor has mapped so itself: the C library and its loader.
fn mapped(process: &Process, program: &Path) -> Seen {
    let own = Process::open("auditor", std::process::id().cast_signed())?;
    let own_program = look::at(Path::new("/proc/self/exe"))?.identity();
    let mut allowed = BTreeSet::new();
    for (range, name) in executable(&own)? {
        if !KERNELS.contains(&name.as_str()) {
            allowed.insert(own.look(&format!("map_files/{range}"))?.identity());
        }
    }
    allowed.remove(&own_program);
    allowed.insert(look::at(program)?.identity());
    let (mut files, mut unexpected) = (BTreeSet::new(), Vec::new());
    for (range, name) in executable(process)? {
        if KERNELS.contains(&name.as_str()) {
            continue;
        }
        match process.look(&format!("map_files/{range}")) {
            Ok(file) if allowed.contains(&file.identity()) && file.is_roots_alone() => {
                files.insert(name.rsplit('/').next().unwrap_or_default().to_owned());
            }
            Ok(file) => unexpected.push(format!("{name}{}", changeable(&file))),
            // Memory that is no file's.
            Err(error) if gone(&error) => unexpected.push(format!("{range} {name}")),
            Err(error) => return Err(error),
        }
    }
    let files: Vec<String> = files.into_iter().collect();
    let mut found = format!("executable: {}", files.join(", "));
    if !unexpected.is_empty() {
        found += &format!("; UNEXPECTED: {}", unexpected.join(", "));
    }
    Ok((unexpected.is_empty() && !files.is_empty(), found))
}

/// Nobody traces it, who could make any system call in its name.
fn tracer(process: &Process) -> Seen {
    let threads = process.threads()?;
    let traced = threads.iter().find(|(_, status)| status.number("TracerPid") != 0);
    Ok(match traced {
        None => (true, "none".to_owned()),
        Some((thread, status)) => (
            false,
            format!("process {} traces thread {thread}", status.number("TracerPid")),
        ),
    })
}

/// On every thread the policy's program is among the filters. Others, a launcher's, can only take more away: the strictest
/// answer counts.
fn filters(process: &Process, profile: &Profile) -> Seen {
    let wanted = filter::of_profile(profile).map_err(|error| io::Error::other(error.message))?;
    let Some(wanted) = wanted else {
        return Ok((false, "the policy has none".to_owned()));
    };
    let threads = process.threads()?;
    let mut lacking = Vec::new();
    for (thread, status) in &threads {
        let programs = match filter::of_thread(*thread) {
            Ok(programs) => programs,
            Err(error) if gone(&error) && process.look(&format!("task/{thread}")).is_err() => continue,
            Err(error) => return Err(not_shown(error)),
        };
        // It may be another process's by now.
        if process.look(&format!("task/{thread}")).is_err() {
            continue;
        }
        // SECCOMP_MODE_FILTER
        if programs.is_empty() && status.number("Seccomp") == 2 {
            let error = "this kernel does not show filters (CONFIG_CHECKPOINT_RESTORE)";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, error));
        }
        if !programs.contains(&wanted) {
            let lengths = programs.iter().map(|program| program.len().to_string());
            lacking.push((thread, lengths.collect::<Vec<_>>().join(", ")));
        }
    }
    let length = wanted.len();
    Ok(match lacking.first() {
        None => (
            true,
            format!(
                "the policy's {length} instructions, read from each of {} threads",
                threads.len()
            ),
        ),
        Some((thread, lengths)) => (
            false,
            format!(
                "NOT the policy's {length} instructions on {} of {} threads: thread {thread} has filters of [{lengths}]",
                lacking.len(),
                threads.len(),
            ),
        ),
    })
}

/// Why the kernel does not show a filter.
fn not_shown(error: io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::EPERM) => "it may not be traced; audit as root, and without a debugger",
        Some(libc::EACCES) => "audit with CAP_SYS_ADMIN, and outside of any system call filter",
        _ => return error,
    };
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{error}: {why}"))
}
