//! Every open descriptor with its kind: what either process may hold.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::look::Found;
use super::place::Mount;
use super::points::Point;
use super::process::{Process, gone};
use super::{Pair, place, point};

/// Adds these points.
pub(super) fn check(pair: &Pair, points: &mut Vec<Point>) {
    let supervisor = &pair.supervisor;
    let seen = list(supervisor, |open| open.of_supervisor());
    point(points, supervisor, "descriptors", None, seen);
    let worker = &pair.worker;
    // Without mounts of its own, the worker's files are told by where they lie on the host.
    let paths: Option<Vec<_>> = pair
        .options
        .share
        .paths()
        .map(|path| path.canonicalize().ok())
        .collect();
    let (seen, excuse) = match (pair.no_place(), paths) {
        (None, _) => (place::mounts(worker).map(Share::Mounts), None),
        (Some(_), Some(paths)) => (Ok(Share::Paths(paths)), None),
        (option, None) => (place::mounts(worker).map(Share::Mounts), option),
    };
    let seen = seen.and_then(|share| list(worker, |open| open.of_worker(&share)));
    point(points, worker, "descriptors", excuse, seen);
}

/// How a descriptor of the share is told.
enum Share {
    /// It lies in one of these mounts.
    Mounts(Vec<Mount>),
    /// It lies beneath one of these paths.
    Paths(Vec<PathBuf>),
}

impl Share {
    fn holds(&self, open: &Open) -> bool {
        match self {
            Self::Mounts(mounts) => mounts.iter().any(|mount| mount.id == open.mount),
            Self::Paths(paths) => paths.iter().any(|path| Path::new(&open.target).starts_with(path)),
        }
    }
}

/// The null device (Linux's Documentation/admin-guide/devices.txt).
const NULL: libc::dev_t = libc::makedev(1, 3);

/// An open descriptor.
struct Open {
    number: i32,
    /// What its link says.
    target: String,
    /// What it is; none where that may not be asked.
    found: Option<Found>,
    /// Open flags and mount, of fdinfo.
    flags: i32,
    mount: u64,
}

/// Counts them by kind; one of no kind is named and fails.
fn list(process: &Process, kind: impl Fn(&Open) -> Option<&'static str>) -> io::Result<(bool, String)> {
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    let mut unexpected = Vec::new();
    for entry in fs::read_dir(process.path("fd"))? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let open = match Open::read(process, number) {
            Ok(open) => open,
            // It was closed meanwhile.
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(error),
        };
        match kind(&open) {
            Some(kind) => *kinds.entry(kind).or_default() += 1,
            None => unexpected.push(format!("{number} {}", open.target)),
        }
    }
    let counted: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let mut found = counted.join(", ");
    if !unexpected.is_empty() {
        found += &format!("; UNEXPECTED: {}", unexpected.join(", "));
    }
    Ok((unexpected.is_empty(), found))
}

impl Open {
    fn read(process: &Process, number: i32) -> io::Result<Self> {
        let link = format!("fd/{number}");
        let info = process.read(&format!("fdinfo/{number}"))?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        let target = process.link(&link)?;
        Ok(Self {
            number,
            target,
            found: process.look(&link).ok(),
            flags: i32::from_str_radix(&field("flags:"), 8).unwrap_or(0),
            mount: field("mnt_id:").parse().unwrap_or(u64::MAX),
        })
    }

    fn is_directory(&self) -> bool {
        self.found.is_none_or(|found| found.is_directory())
    }

    fn is_file(&self) -> bool {
        self.found.is_some_and(|found| found.is_file())
    }

    /// The null device, by whatever path: a mount namespace of its own hides the usual one.
    fn is_null(&self) -> bool {
        self.found
            .is_some_and(|found| found.is_character_device() && found.node == NULL)
    }

    fn is_path(&self) -> bool {
        self.flags & libc::O_PATH != 0
    }

    /// What both processes have.
    fn common(&self) -> Option<&'static str> {
        match (self.number, self.target.as_str()) {
            (0 | 1, _) => self.is_null().then_some("/dev/null"),
            (2, _) => (!self.is_directory()).then_some("log"),
            (_, airlockfs_policy::REPORT) if self.is_file() => Some("report"),
            (_, "anon_inode:[eventfd]") => Some("eventfds"),
            (_, target) if target.starts_with("socket:[") => Some("sockets"),
            (_, target) if target.starts_with("/memfd:") && self.is_file() && !self.is_path() => {
                Some("shared memory")
            }
            _ => None,
        }
    }

    /// No directory, no device, nothing that is only a path.
    fn of_supervisor(&self) -> Option<&'static str> {
        self.common().or(match self.target.as_str() {
            "anon_inode:[eventpoll]" => Some("epoll sets"),
            "anon_inode:[signalfd]" => Some("signals"),
            "anon_inode:[pidfd]" => Some("the worker's process"),
            _ if self.number > 2 && self.is_file() && !self.is_path() => {
                Some("regular files (guest memory, donated)")
            }
            _ => None,
        })
    }

    /// Whatever lies in the share; what is open for more than its path is a regular file or a directory.
    fn of_worker(&self, share: &Share) -> Option<&'static str> {
        let in_share = self.number > 2 && share.holds(self);
        self.common().or(match (in_share, self.is_path()) {
            (true, true) => Some("inodes of the share (O_PATH)"),
            (true, false) if self.is_file() || self.is_directory() => Some("open files of the share"),
            _ => None,
        })
    }
}
