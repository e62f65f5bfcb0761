//! Whether the supervisor's user is its own: no other process may signal it, or uses up what the kernel grants a user.

use std::{fs, io, path::Path};

use airlockfs_options::{DYNAMIC, NOBODY, SupervisorUid};

use super::Pair;
use super::process::Process;

/// Whether root started it. An ordinary user's supervisor has a user namespace, or is with its worker the same user.
pub(super) fn started_by_root(supervisor: &Process, worker: &Process) -> bool {
    let user = |process: &Process| {
        let status = process.status().ok()?;
        status.ids("Uid").first().copied()
    };
    let (own, workers) = (user(supervisor), user(worker));
    let auditors = fs::read_link("/proc/self/ns/user").map(|link| link.to_string_lossy().into_owned());
    let no_namespace = match (supervisor.link("ns/user"), auditors) {
        (Ok(own), Ok(auditors)) => own == auditors,
        _ => false,
    };
    workers == Some(0) || no_namespace && own.is_some() && own != workers
}

/// The option that gives it one that others may have.
pub(super) fn excuse(pair: &Pair) -> Option<&'static str> {
    match pair.options.confinement.supervisor_uid {
        Some(SupervisorUid::This(_)) => Some("--supervisor-uid"),
        _ => None,
    }
}

/// It has the id that its command line means, and no other process has.
pub(super) fn check(pair: &Pair) -> io::Result<(bool, String)> {
    let status = pair.supervisor.status()?;
    let own = status.ids("Uid").first().copied();
    let own = own.ok_or_else(|| io::Error::other("no user id"))?;
    let wanted = pair.options.confinement.supervisor_uid;
    let meant = wanted.unwrap_or(DYNAMIC).contains(own) || (wanted.is_none() && own == NOBODY);
    let others = others(own, pair.supervisor.pid)?;
    let found = match others {
        0 => format!("{own}, no other process's"),
        more => format!("{own}, SHARED with {more} other processes"),
    };
    let not_meant = if meant {
        ""
    } else {
        ", NOT what its command line means"
    };
    Ok((meant && others == 0, format!("{found}{not_meant}")))
}

/// How many processes but `pid` have this user id, by any of their ids.
fn others(user: u32, pid: i32) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(other) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // It may have ended meanwhile.
        let status = fs::read(Path::new("/proc").join(&name).join("status")).unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let mut ids = ids.unwrap_or_default().split_whitespace();
        count += usize::from(other != pid && ids.any(|id| id.parse() == Ok(user)));
    }
    Ok(count)
}
