//! `airlockfsctl audit PID`: what /proc says of a running pair, point by point, against what its command line promises.
//!
//! What an option weakened is told by the supervisor's own command line, which a fallen supervisor could rewrite: that
//! turns FAILED into WEAKENED and never into ok. What counts is what the kernel says: files by device and inode number,
//! filters instruction by instruction. Landlock alone shows nowhere: each process seals a report of it when it confines
//! itself, before the first guest byte, and holds it open.
//!
//! Any user can make a pair that looks like ours, to deceive or to hinder: nothing of it is opened that could be waited
//! for, all is read up to a limit, shown with what a terminal would obey escaped, and the whole is a process of its own that
//! has a limit of time.

mod descriptors;
mod limited;
mod log;
mod look;
mod own_user;
mod place;
mod points;
mod process;
mod programs;
mod report;
mod sealed;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use airlockfs_options::{BarrierArg, Cli, SandboxArg, one_line, parse, profiles};
use airlockfs_policy::{ExitKind, Profile, StartError};

use crate::line::Audit;
use points::Point;
use process::Process;
use programs::Programs;

pub(crate) use limited::run as run_limited;

/// The pair, and what it was asked to be.
struct Pair {
    supervisor: Process,
    worker: Process,
    options: Cli,
    as_root: bool,
    profiles: (Profile, Profile),
}

/// Exit code where something that should hold does not, or cannot be seen.
const FAILED: u8 = 2;

/// Says why there is no verdict.
fn failed_to_audit(pid: i32, why: &str) -> u8 {
    eprintln!("airlockfsctl: process {pid}: NOT audited: {why}");
    FAILED
}

/// Audits a pair, executed by the `airlockfsd` at this path or by a person. Exit code 0: all holds; 1: options weakened
/// it; 2: something that should hold does not, or cannot be seen.
pub(crate) fn run(asked: &Audit, airlockfsd: Option<&Path>) -> u8 {
    let programs = Programs::new(asked, airlockfsd);
    let pair = match Pair::find(asked.pid) {
        Ok(pair) => pair,
        Err(error) => {
            eprintln!("airlockfsctl: {}", shown(&error.to_string()));
            return error.kind.code();
        }
    };
    let traits = || pair.both().map(|(process, _)| process.traits());
    let before = traits();
    let mut points = Vec::new();
    programs::check(&pair, &programs, &mut points);
    points::check(&pair, &mut points);
    place::check(&pair, &mut points);
    descriptors::check(&pair, &mut points);
    log::check(&pair, &mut points);
    sealed::check(&pair, &mut points);
    for (((process, _), before), after) in pair.both().into_iter().zip(before).zip(traits()) {
        point(&mut points, process, "unchanged", None, unchanged(before, after));
    }
    report::print(&pair, &points, asked.format);
    report::worst(&points)
}

/// It was one process with one program and one set of rights all the while.
fn unchanged(before: io::Result<String>, after: io::Result<String>) -> io::Result<(bool, String)> {
    Ok(match before? == after? {
        true => (true, "the same process and program at the end".to_owned()),
        false => (false, "it CHANGED meanwhile".to_owned()),
    })
}

impl Pair {
    fn find(pid: i32) -> Result<Self, StartError> {
        let missing = |message: String| StartError::new(ExitKind::NoInput, message);
        let supervisor =
            Process::open("supervisor", pid).map_err(|error| missing(format!("process {pid}: {error}")))?;
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
        let options = parse(words)
            .map_err(|error| missing(format!("process {pid}'s command line: {}", one_line(&error))))?;

        let mut workers = process::children("worker", pid)
            .map_err(|error| missing(format!("cannot read /proc: {error}")))?
            .into_iter()
            .filter(|child| child.program().is_ok_and(|program| program == "airlockfs-worker"));
        let (Some(worker), None) = (workers.next(), workers.next()) else {
            return Err(missing(format!("process {pid} does not have exactly one worker")));
        };

        let as_root = own_user::started_by_root(&supervisor, &worker);
        let profiles = profiles(&options, as_root);
        Ok(Self {
            supervisor,
            worker,
            options,
            as_root,
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

/// Longest text of a point, in characters.
const LONGEST: usize = 2000;

/// Text with what a terminal would obey, or show elsewhere than it stands, escaped; cut where it is too long.
fn shown(text: &str) -> String {
    let mut out = String::new();
    for (index, c) in text.chars().enumerate() {
        match c {
            _ if index == LONGEST => {
                out.push('…');
                break;
            }
            '"' | '\'' | '\\' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

/// Adds a point. What cannot be read fails, whatever the options, and so does what may not be seen.
fn point(
    points: &mut Vec<Point>,
    process: &Process,
    subject: &'static str,
    excuse: Option<&'static str>,
    seen: io::Result<(bool, String)>,
) {
    let (outcome, found) = match (seen, excuse) {
        (Ok((true, found)), _) => (points::Outcome::Ok, found),
        (Ok((false, found)), Some(option)) => (points::Outcome::Weakened(option), found),
        (Ok((false, found)), None) => (points::Outcome::Failed, found),
        (Err(error), _) if error.kind() == io::ErrorKind::PermissionDenied => {
            (points::Outcome::Unknown, format!("may not be seen: {error}"))
        }
        (Err(error), _) => (points::Outcome::Failed, format!("cannot be read: {error}")),
    };
    points.push(Point {
        process: process.name,
        subject,
        outcome,
        found: shown(&found),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_what_is_too_long_is_cut() {
        assert_eq!(shown("it's \\040 \"x\" ü"), "it's \\040 \"x\" ü");
        assert_eq!(
            shown("\u{1b}[2J\n\u{9b}\u{202e}"),
            "\\u{1b}[2J\\n\\u{9b}\\u{202e}"
        );
        assert_eq!(shown(&"x".repeat(5000)).chars().count(), LONGEST + 1);
    }
}
