//! `airlockfsd audit PID`: what /proc says of a running pair, point by point, against what its command line promises.
//!
//! What an option weakened is told by the supervisor's own command line, which a fallen supervisor could rewrite: that
//! turns FAILED into WEAKENED and never into ok. Landlock and the content of a filter do not show in /proc: each process
//! seals a report of them when it confines itself, before the first guest byte, and holds it open.

mod descriptors;
mod place;
mod points;
mod process;
mod report;
mod sealed;

use airlockfs_policy::{ExitKind, Profile, StartError};
use clap::Parser;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::cli::{AuditFormat, Cli, CommandLine, one_line};
use crate::{compat, settings};
use points::Point;
use process::Process;

/// Id of a supervisor that was started as root.
const NOBODY: u32 = 65_534;

/// The pair, and what it was asked to be.
struct Pair {
    supervisor: Process,
    worker: Process,
    options: Cli,
    profiles: (Profile, Profile),
}

/// Audits the pair whose supervisor is `pid`. Exit code 0: all holds; 1: options weakened it; 2: something that should
/// hold does not.
pub(crate) fn run(pid: i32, format: AuditFormat) -> u8 {
    let pair = match Pair::find(pid) {
        Ok(pair) => pair,
        Err(error) => {
            eprintln!("airlockfsd: {error}");
            return error.kind.code();
        }
    };
    let mut points = Vec::new();
    points::check(&pair, &mut points);
    place::check(&pair, &mut points);
    descriptors::check(&pair, &mut points);
    sealed::check(&pair, &mut points);
    report::print(&pair, &points, format);
    report::worst(&points)
}

impl Pair {
    fn find(pid: i32) -> Result<Self, StartError> {
        let missing = |message: String| StartError::new(ExitKind::NoInput, message);
        let supervisor = Process {
            name: "supervisor",
            pid,
        };
        let program = supervisor
            .program()
            .map_err(|error| missing(format!("process {pid}: {error}; audit as root")))?;
        if program != "airlockfsd" {
            return Err(missing(format!("process {pid} is {program}, not airlockfsd")));
        }
        let line = supervisor
            .command_line()
            .map_err(|error| missing(format!("process {pid}: {error}")))?;
        let words = line.into_iter().map(OsString::from_vec);
        let options = CommandLine::try_parse_from(compat::modernise(words))
            .map_err(|error| missing(format!("process {pid}'s command line: {}", one_line(&error))))?
            .serve;

        let mut workers = process::children(pid)
            .map_err(|error| missing(format!("cannot read /proc: {error}")))?
            .into_iter()
            .map(|pid| Process { name: "worker", pid })
            .filter(|child| child.program().is_ok_and(|program| program == "airlockfs-worker"));
        let (Some(worker), None) = (workers.next(), workers.next()) else {
            return Err(missing(format!("process {pid} does not have exactly one worker")));
        };

        let user = |process: &Process| {
            process
                .status()
                .ok()
                .and_then(|status| status.ids("Uid").first().copied())
        };
        let as_root = user(&worker) == Some(0) || user(&supervisor) == Some(NOBODY);
        let profiles = settings::profiles(&options, as_root);
        Ok(Self {
            supervisor,
            worker,
            options,
            profiles,
        })
    }

    /// Both processes with their profiles.
    fn both(&self) -> [(&Process, &Profile); 2] {
        [
            (&self.supervisor, &self.profiles.0),
            (&self.worker, &self.profiles.1),
        ]
    }

    /// The option that lets a process do without namespaces and a root of its own.
    fn no_place(&self) -> Option<&'static str> {
        use crate::cli::{BarrierArg, SandboxArg};
        let confinement = &self.options.confinement;
        let missing = &confinement.allow_missing;
        match confinement.sandbox {
            SandboxArg::None => Some("--sandbox none"),
            SandboxArg::Chroot => Some("--sandbox chroot"),
            SandboxArg::Namespace if missing.contains(&BarrierArg::Namespaces) => {
                Some("--allow-missing namespaces")
            }
            SandboxArg::Namespace if missing.contains(&BarrierArg::UserNamespaces) => {
                Some("--allow-missing user-namespaces")
            }
            SandboxArg::Namespace => None,
        }
    }
}

/// Adds a point. What cannot be read fails, whatever the options.
fn point(
    points: &mut Vec<Point>,
    process: &Process,
    subject: &'static str,
    excuse: Option<&'static str>,
    seen: std::io::Result<(bool, String)>,
) {
    let (outcome, found) = match (seen, excuse) {
        (Ok((true, found)), _) => (points::Outcome::Ok, found),
        (Ok((false, found)), Some(option)) => (points::Outcome::Weakened(option), found),
        (Ok((false, found)), None) => (points::Outcome::Failed, found),
        (Err(error), _) => (points::Outcome::Failed, format!("cannot be read: {error}")),
    };
    points.push(Point {
        process: process.name,
        subject,
        outcome,
        found,
    });
}
