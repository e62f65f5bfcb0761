//! What descriptor 2 is: it came from the launcher, and each process should have its own of it, to write to and no more.

use std::fs;
use std::io;

use super::points::Point;
use super::process::Process;
use super::{Pair, point};

/// Adds these points.
pub(super) fn check(pair: &Pair, points: &mut Vec<Point>) {
    for (process, _) in pair.both() {
        let (excuse, seen) = match look(pair, process) {
            Ok((excuse, holds, found)) => (excuse, Ok((holds, found))),
            Err(error) => (None, Err(error)),
        };
        point(points, process, "log", excuse, seen);
    }
}

/// What excuses it, whether it is as it should be, and what it is.
type Look = (Option<&'static str>, bool, String);

fn look(pair: &Pair, process: &Process) -> io::Result<Look> {
    let found = process.look("fd/2")?;
    let info = process.read("fdinfo/2")?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    let flags = flags.ok_or_else(|| io::Error::other("its flags are missing"))?;
    if found.is_socket() {
        return match pair.options.service.syslog {
            false => {
                let found = "the launcher's socket, which the filter alone keeps it from reading";
                Ok((Some("stderr that is a socket"), false, found.to_owned()))
            }
            true => system_log(pair, found.inode),
        };
    }
    let what = match () {
        () if found.is_file() => "a file",
        () if found.is_fifo() => "a pipe",
        () => "a device",
    };
    let (writes, appends) = (
        flags & libc::O_ACCMODE == libc::O_WRONLY,
        flags & libc::O_APPEND != 0,
    );
    let access = match writes {
        true => "for writing only",
        false => "NOT for writing only",
    };
    let place = match (appends, found.is_file()) {
        (true, _) => ", at its end",
        (false, true) => ", the launcher's own, ANYWHERE but for the filter",
        (false, false) => ", the launcher's own",
    };
    // It could not be opened anew: another user's, say.
    let excuse = writes.then_some("stderr that is a file which its user may not open");
    let holds = writes && (appends || !found.is_file()) && !pair.options.service.syslog;
    Ok((excuse, holds, format!("{what}, {access}{place}")))
}

/// A socket to the system's log is of no network namespace where anybody else has one.
fn system_log(pair: &Pair, inode: u64) -> io::Result<Look> {
    let here = fs::read_to_string("/proc/self/net/unix")?;
    let number = inode.to_string();
    let shared = here
        .lines()
        .any(|line| line.split_whitespace().nth(6) == Some(&*number));
    let found = match shared {
        false => "a socket to the system's log, in a network namespace of its own",
        true => "a socket to the system's log, in this network namespace",
    };
    Ok((pair.no_place(), !shared, found.to_owned()))
}
