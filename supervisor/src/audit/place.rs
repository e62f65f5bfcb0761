//! Where the processes are: namespaces, root directory, mounts.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use airlockfs_policy::Profile;

use super::points::Point;
use super::process::Process;
use super::{Pair, point};

type Seen = io::Result<(bool, String)>;

/// Adds these points.
pub(super) fn check(pair: &Pair, points: &mut Vec<Point>) {
    let excuse = pair.no_place();
    for (process, profile) in pair.both() {
        let other = match process.pid == pair.worker.pid {
            true => &pair.supervisor,
            false => &pair.worker,
        };
        point(
            points,
            process,
            "namespaces",
            excuse,
            namespaces(process, other, profile, excuse),
        );
    }
    point(
        points,
        &pair.supervisor,
        "root",
        excuse,
        empty_root(&pair.supervisor),
    );
    point(points, &pair.worker, "root", excuse, share_is_root(pair));
}

/// Each of the profile is neither the auditor's nor the other process's.
fn namespaces(process: &Process, other: &Process, profile: &Profile, excuse: Option<&str>) -> Seen {
    // With an option that does without, what the default would have counts.
    let default = ["mnt", "net", "ipc", "uts", "cgroup"];
    let wanted: Vec<&str> = match excuse {
        Some(_) => default.to_vec(),
        None => profile.namespaces.iter().map(|own| own.what).collect(),
    };
    let (mut own, mut shared) = (Vec::new(), Vec::new());
    for name in wanted {
        let link = process.link(&format!("ns/{name}"))?;
        let auditors = fs::read_link(format!("/proc/self/ns/{name}"))?;
        let others = other.link(&format!("ns/{name}"))?;
        match link != auditors.to_string_lossy() && link != others {
            true => own.push(name),
            false => shared.push(name),
        }
    }
    let mut found = match own.is_empty() {
        true => "own: none".to_owned(),
        false => format!("own: {}", own.join(" ")),
    };
    if !shared.is_empty() {
        found += &format!("; SHARED: {}", shared.join(" "));
    }
    Ok((shared.is_empty(), found))
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
pub(super) struct Mount {
    pub(super) id: u64,
    point: String,
    options: Vec<String>,
    kind: String,
}

/// The mounts a process sees.
pub(super) fn mounts(process: &Process) -> io::Result<Vec<Mount>> {
    let text = process.read("mountinfo")?;
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        Some(Mount {
            id: fields.next()?.parse().ok()?,
            point: fields.nth(3)?.to_owned(),
            options: fields.next()?.split(',').map(str::to_owned).collect(),
            kind: after.split(' ').next()?.to_owned(),
        })
    };
    text.lines()
        .map(|text| line(text).ok_or_else(|| io::Error::other("a line of mountinfo is not understood")))
        .collect()
}

impl Mount {
    fn has(&self, options: &[&str]) -> bool {
        options
            .iter()
            .all(|wanted| self.options.iter().any(|option| option == wanted))
    }
}

/// The supervisor sees one mount, an empty tmpfs that it cannot write to, and works from it.
fn empty_root(process: &Process) -> Seen {
    let mounts = mounts(process)?;
    let [mount] = mounts.as_slice() else {
        return Ok((false, format!("{} mounts are visible", mounts.len())));
    };
    let entries = fs::read_dir(process.path("root"))?.count();
    let (root, cwd) = (
        fs::metadata(process.path("root"))?,
        fs::metadata(process.path("cwd"))?,
    );
    let hardened = mount.has(&["ro", "nosuid", "nodev", "noexec"]);
    let found = format!(
        "{} with {entries} entries, {}",
        mount.kind,
        mount.options.join(",")
    );
    let holds = mount.kind == "tmpfs"
        && mount.point == "/"
        && hardened
        && entries == 0
        && (root.dev(), root.ino()) == (cwd.dev(), cwd.ino());
    Ok((holds, found))
}

/// The worker's root is the share, its only mount but for those beneath the share.
fn share_is_root(pair: &Pair) -> Seen {
    let process = &pair.worker;
    let mounts = mounts(process)?;
    let roots: Vec<&Mount> = mounts.iter().filter(|mount| mount.point == "/").collect();
    let [root] = roots.as_slice() else {
        return Ok((false, format!("{} mounts at /", roots.len())));
    };
    let mut wanted = vec!["nosuid", "nodev", "noexec"];
    if pair.options.share.readonly {
        wanted.push("ro");
    }
    let at = fs::metadata(process.path("root"))?;
    let share = pair.options.share.shared_dir.as_deref();
    let share = share
        .filter(|path| path.is_absolute())
        .and_then(|path| fs::metadata(path).ok());
    let (same, which) = match share {
        Some(share) if (share.dev(), share.ino()) == (at.dev(), at.ino()) => (true, "the shared directory"),
        Some(_) => (false, "NOT the shared directory"),
        None => (
            true,
            "a directory (--shared-dir cannot be seen from here to compare)",
        ),
    };
    let found = format!(
        "{which}, {} with {} mounts beneath, {}",
        root.kind,
        mounts.len() - 1,
        root.options.join(",")
    );
    Ok((same && root.has(&wanted), found))
}
