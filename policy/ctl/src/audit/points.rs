//! Who the processes are and what they may call: filters, privileges, ids, limits.

use std::fs;
use std::io;

use airlockfs_options::SeccompArg;
use airlockfs_policy::Profile;

use super::process::{Process, Status};
use super::{Pair, own_user, point};

/// A point of the audit.
pub(super) struct Point {
    pub(super) process: &'static str,
    pub(super) subject: &'static str,
    pub(super) outcome: Outcome,
    /// What /proc says.
    pub(super) found: String,
}

/// How it is.
pub(super) enum Outcome {
    /// As by default.
    Ok,
    /// Weaker, as this option asks.
    Weakened(&'static str),
    /// Not as it should be.
    Failed,
    /// The auditor may not see it.
    Unknown,
}

type Seen = io::Result<(bool, String)>;

/// Adds these points.
pub(super) fn check(pair: &Pair, points: &mut Vec<Point>) {
    let mode = pair.options.confinement.seccomp;
    let unfiltered = match mode {
        SeccompArg::None => Some("--seccomp none"),
        SeccompArg::Log => Some("--seccomp log"),
        SeccompArg::Kill | SeccompArg::Trap => None,
    };
    let no_place = pair.no_place();
    for (process, profile) in pair.both() {
        let mut add = |subject, excuse, seen: Seen| point(points, process, subject, excuse, seen);
        add("seccomp", unfiltered, seccomp(process, mode));
        add("no_new_privs", None, no_new_privs(process));
        add("capabilities", None, capabilities(process, profile));
        add("bounding set", no_place, bounding(process));
        let own_maps =
            !pair.options.confinement.uid_map.is_empty() || !pair.options.confinement.gid_map.is_empty();
        add(
            "id maps",
            own_maps.then_some("--uid-map or --gid-map"),
            maps(process),
        );
        let denied = process.read("setgroups").is_ok_and(|text| text.trim() == "deny");
        add(
            "groups",
            denied.then_some("start as an ordinary user, who may not drop them"),
            groups(process),
        );
        add("limits", None, limits(process, profile));
    }
    let supervisor = &pair.supervisor;
    point(points, supervisor, "ids", no_place, nobody(supervisor));
    point(points, &pair.worker, "ids", None, one_user(&pair.worker));
    if pair.as_root {
        let excuse = no_place.or(own_user::excuse(pair));
        point(points, supervisor, "own user", excuse, own_user::check(pair));
    }
    point(points, supervisor, "dumpable", None, not_dumpable(supervisor));
}

/// The status of each thread.
fn statuses(process: &Process) -> io::Result<Vec<Status>> {
    let threads = process.threads()?;
    Ok(threads.into_iter().map(|(_, status)| status).collect())
}

/// Every thread is filtered.
fn seccomp(process: &Process, mode: SeccompArg) -> Seen {
    /// SECCOMP_MODE_FILTER.
    const FILTER: u32 = 2;
    let threads = statuses(process)?;
    let filters: Vec<u32> = threads
        .iter()
        .map(|thread| thread.number("Seccomp_filters"))
        .collect();
    let filtered = threads
        .iter()
        .filter(|thread| thread.number("Seccomp") == FILTER)
        .count();
    let same = filters.windows(2).all(|pair| matches!(pair, [a, b] if a == b));
    let holds = filtered == threads.len() && same && filters.iter().all(|count| *count >= 1);
    let mut found = format!("{filtered} of {} threads filtered", threads.len());
    if let Some(most) = filters.iter().max()
        && filtered > 0
    {
        found += &format!(", by {most} filters each");
    }
    Ok((holds && mode != SeccompArg::Log, found))
}

fn no_new_privs(process: &Process) -> Seen {
    let threads = statuses(process)?;
    let set = threads
        .iter()
        .filter(|thread| thread.number("NoNewPrivs") == 1)
        .count();
    Ok((
        set == threads.len(),
        format!("{set} of {} threads", threads.len()),
    ))
}

/// No thread has a capability that is not the profile's. One may have fewer, while it acts for a user.
fn capabilities(process: &Process, profile: &Profile) -> Seen {
    let allowed = profile
        .capabilities
        .iter()
        .fold(0, |mask, kept| mask | kept.what.bitmask());
    let (mut kept, mut raised) = (0, 0);
    for thread in statuses(process)? {
        kept |= thread.mask("CapPrm") | thread.mask("CapEff");
        raised |= thread.mask("CapInh") | thread.mask("CapAmb");
    }
    let found = format!("{kept:#x} of {allowed:#x} allowed, inheritable and ambient {raised:#x}");
    Ok((kept & !allowed == 0 && raised == 0, found))
}

fn bounding(process: &Process) -> Seen {
    let threads = statuses(process)?;
    let all = threads
        .iter()
        .fold(0, |mask, thread| mask | thread.mask("CapBnd"));
    Ok((all == 0, format!("{all:#x}")))
}

/// A user namespace of its own does not map every id of the host's to itself.
fn maps(process: &Process) -> Seen {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (uids, gids) = (words(&process.read("uid_map")?), words(&process.read("gid_map")?));
    let own = process.link("ns/user")? != fs::read_link("/proc/self/ns/user")?.to_string_lossy();
    let everything = "0 0 4294967295";
    let holds = !own || (uids != everything && gids != everything);
    Ok((holds, format!("uids {uids}; gids {gids}")))
}

/// Looks at the main thread: the worker's others take a caller's group for a moment.
fn groups(process: &Process) -> Seen {
    let groups = process.status()?.ids("Groups");
    Ok((groups.is_empty(), format!("{} supplementary", groups.len())))
}

fn limits(process: &Process, profile: &Profile) -> Seen {
    let text = process.read("limits")?;
    let value = |title: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(title));
        let mut words = line.unwrap_or_default().split_whitespace();
        (words.next().map(str::to_owned), words.next().map(str::to_owned))
    };
    let (mut holds, mut found) = (true, Vec::new());
    for limit in &profile.limits {
        let title = match limit.name {
            "core" => "Max core file size",
            "msgqueue" => "Max msgqueue size",
            "memlock" => "Max locked memory",
            other => other,
        };
        let wanted = Some(limit.value.to_string());
        let is = value(title);
        holds &= is.0 == wanted && is.1 == wanted;
        found.push(format!(
            "{} {}",
            limit.name,
            is.1.as_deref().unwrap_or("not shown")
        ));
    }
    let (soft, hard) = value("Max open files");
    holds &= soft.is_some() && soft == hard && hard.as_deref() != Some("unlimited");
    found.push(format!("nofile {}", hard.as_deref().unwrap_or("not shown")));
    Ok((holds, found.join(", ")))
}

/// The supervisor is not root, by any of its ids.
fn nobody(process: &Process) -> Seen {
    let (one, found) = one_user(process)?;
    let status = process.status()?;
    let root = |name: &str| status.ids(name).contains(&0);
    Ok((one && !root("Uid") && !root("Gid"), found))
}

/// Real, effective, saved and file system ids are the same. Looks at the main thread: the worker's others act for others.
fn one_user(process: &Process) -> Seen {
    let status = process.status()?;
    let (uids, gids) = (status.ids("Uid"), status.ids("Gid"));
    let one = |ids: &[u32]| ids.len() == 4 && ids.iter().all(|id| Some(id) == ids.first());
    let found = format!("uids {uids:?}, gids {gids:?}");
    Ok((one(&uids) && one(&gids), found))
}

/// The files in /proc of a process that cannot be dumped are not its own user's.
fn not_dumpable(process: &Process) -> Seen {
    let owner = process.look("status")?.uid;
    let user = process.status()?.ids("Uid").get(1).copied();
    match user {
        Some(0) => Ok((true, "not visible for root".to_owned())),
        _ => Ok((
            Some(owner) != user,
            format!("its files in /proc are user {owner}'s"),
        )),
    }
}
