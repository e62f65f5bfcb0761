//! Where the processes are: namespaces, root directory, mounts.

use std::fs;
use std::io;
use std::path::Path;

use airlockfs_policy::Profile;

use super::look;
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
    if mount.kind != "tmpfs" {
        return Ok((false, format!("{} {}", mount.kind, mount.options.join(","))));
    }
    let entries = entries(process)?;
    let (root, cwd) = (process.look("root")?, process.look("cwd")?);
    let hardened = mount.has(&["ro", "nosuid", "nodev", "noexec"]);
    let found = format!(
        "{} with {entries} entries, {}",
        mount.kind,
        mount.options.join(",")
    );
    let holds = mount.point == "/" && hardened && entries == 0 && root.identity() == cwd.identity();
    Ok((holds, found))
}

/// How many entries the root directory has, if it lies in memory: another may have a server that does not answer.
fn entries(process: &Process) -> io::Result<usize> {
    Ok(fs::read_dir(process.path("root"))?.take(MOST_ENTRIES).count())
}

/// More entries than this are not counted.
const MOST_ENTRIES: usize = 10_000;

/// The worker's root is the share, its only mount but for those beneath the share; or a directory with the shares.
fn share_is_root(pair: &Pair) -> Seen {
    let process = &pair.worker;
    let mounts = mounts(process)?;
    let options = &pair.options.share;
    let only = options.shared_dir.as_deref();
    let (mut holds, mut found) = place(process, &mounts, "", only, options.is_readonly())?;
    let named: Vec<_> = options.named().collect();
    if !named.is_empty() {
        let shelf = mounts.iter().find(|mount| mount.point == "/");
        // Nothing is made in it, and nothing but the shares is there.
        let in_memory = shelf.is_some_and(|shelf| shelf.kind == "tmpfs" && shelf.has(&["ro"]));
        if !in_memory {
            return Ok((false, "not a directory of shares".to_owned()));
        }
        holds &= entries(process)? == named.len();
        found = format!("a directory of {} shares", named.len());
    }
    for (share, readonly) in named {
        let (ok, what) = place(
            process,
            &mounts,
            &share.name.to_string_lossy(),
            Some(&share.path),
            readonly,
        )?;
        holds &= ok;
        found += &format!("; {}: {what}", share.name.display());
    }
    let beneath = mounts.len().saturating_sub(1);
    Ok((holds, format!("{found}; {beneath} mounts beneath the root")))
}

/// At a name in the worker's root stands one mount, and that is what lies at `path`, as far as that can be seen.
fn place(process: &Process, mounts: &[Mount], name: &str, path: Option<&Path>, readonly: bool) -> Seen {
    let at = format!("/{}", escaped(name));
    let here: Vec<&Mount> = mounts.iter().filter(|mount| mount.point == at).collect();
    let [mount] = here.as_slice() else {
        return Ok((false, format!("{} mounts at {at}", here.len())));
    };
    let mut wanted = vec!["nosuid", "nodev", "noexec"];
    if readonly {
        wanted.push("ro");
    }
    let inside = look::at(&process.path("root").join(name))?;
    let outside = path.filter(|path| path.is_absolute());
    let outside = outside.and_then(|path| look::at(path).ok());
    let (same, which) = match outside {
        Some(outside) if outside.identity() == inside.identity() => (true, "what is shared"),
        Some(_) => (false, "NOT what is shared"),
        None => (true, "something (its path cannot be seen from here to compare)"),
    };
    let found = format!("{which}, {} {}", mount.kind, mount.options.join(","));
    Ok((same && mount.has(&wanted), found))
}

/// A name as mountinfo writes it (proc_pid_mountinfo(5)).
fn escaped(name: &str) -> String {
    let escape = |c: char| match c {
        ' ' | '\t' | '\n' | '\\' | '#' => format!("\\{:03o}", u32::from(c)),
        other => other.to_string(),
    };
    name.chars().map(escape).collect()
}
