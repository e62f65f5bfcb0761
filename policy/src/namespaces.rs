//! Namespaces (namespaces(7)) and the mounts in them.

use std::fmt;
use std::io;
use std::path::Path;

use airlockfs_ipc::message::{Barrier, Sandbox};

use crate::profile::{Features, Reasoned};
use crate::{ExitKind, StartError};

/// A set of namespaces that a process has of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces(i32);

/// Name, flag of clone(2) and reason.
const ALL: &[(&str, i32, &str)] = &[
    (
        "user",
        libc::CLONE_NEWUSER,
        "capabilities count only for what it owns",
    ),
    ("mnt", libc::CLONE_NEWNS, "no mount of the host but the share"),
    ("pid", libc::CLONE_NEWPID, "no other process can be named"),
    ("net", libc::CLONE_NEWNET, "no network, no abstract sockets"),
    (
        "ipc",
        libc::CLONE_NEWIPC,
        "no System V IPC and no message queues of the host",
    ),
    ("uts", libc::CLONE_NEWUTS, "the host's name is not seen"),
    (
        "cgroup",
        libc::CLONE_NEWCGROUP,
        "the host's cgroup paths are not seen",
    ),
];

impl Namespaces {
    /// None of its own.
    pub const NONE: Self = Self(0);

    /// Reads what [`fmt::Display`] writes: names separated by commas. Names it does not know are passed over.
    pub fn parse(text: &str) -> Self {
        let flags = text
            .split(',')
            .filter_map(|name| ALL.iter().find(|known| known.0 == name));
        Self(flags.fold(0, |set, (_, flag, _)| set | flag))
    }

    /// Their names: `user`, `mnt`, `pid`, `net`, `ipc`, `uts`, `cgroup`.
    pub fn names(self) -> Vec<String> {
        let own = ALL.iter().filter(|(_, flag, _)| self.0 & flag != 0);
        own.map(|(name, _, _)| (*name).to_owned()).collect()
    }

    /// With another one; a CLONE_NEW* flag.
    pub(crate) const fn with(self, flag: i32) -> Self {
        Self(self.0 | flag)
    }

    /// Without one; a CLONE_NEW* flag.
    pub(crate) const fn without(self, flag: i32) -> Self {
        Self(self.0 & !flag)
    }

    /// CLONE_NEW* flags.
    pub(crate) const fn flags(self) -> i32 {
        self.0
    }

    /// Whether it is among them; a CLONE_NEW* flag.
    pub const fn has(self, flag: i32) -> bool {
        self.0 & flag == flag
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

fn reasons(leave_out: i32) -> Vec<Reasoned<&'static str>> {
    let kept = ALL.iter().filter(|(_, flag, _)| leave_out & flag == 0);
    kept.map(|&(what, _, reason)| Reasoned { what, reason }).collect()
}

/// The worker's namespaces.
pub(crate) fn of_worker(features: &Features) -> Vec<Reasoned<&'static str>> {
    match features.sandbox {
        Sandbox::Namespace if features.rootful => reasons(libc::CLONE_NEWUSER),
        Sandbox::Namespace => reasons(0),
        Sandbox::Chroot | Sandbox::None => Vec::new(),
    }
}

/// The supervisor's namespaces: all but the pid namespace, which only a child can have.
pub(crate) fn of_supervisor(features: &Features) -> Vec<Reasoned<&'static str>> {
    match features.sandbox {
        Sandbox::Namespace if features.rootful => reasons(libc::CLONE_NEWUSER | libc::CLONE_NEWPID),
        Sandbox::Namespace => reasons(libc::CLONE_NEWPID),
        Sandbox::Chroot | Sandbox::None => Vec::new(),
    }
}

/// All namespaces, `user` and `pid` only if asked for, as far as this kernel has them.
///
/// # Errors
/// It lacks one, and that is not in `allow_missing`.
pub(crate) fn of_this_kernel(
    user: bool,
    pid: bool,
    allow_missing: &[Barrier],
    weakened: &mut Vec<String>,
) -> Result<Namespaces, StartError> {
    let mut flags = 0;
    for &(name, flag, _) in ALL {
        if (flag == libc::CLONE_NEWUSER && !user) || (flag == libc::CLONE_NEWPID && !pid) {
            continue;
        }
        if Path::new("/proc/self/ns").join(name).exists() {
            flags |= flag;
            continue;
        }
        let (barrier, option) = match name {
            "user" => (Barrier::UserNamespaces, "user-namespaces"),
            _ => (Barrier::Namespaces, "namespaces"),
        };
        if !allow_missing.contains(&barrier) {
            let message = format!(
                "this kernel has no {name} namespaces (or /proc is not mounted); accept it with --allow-missing {option}"
            );
            return Err(StartError::new(ExitKind::Unavailable, message));
        }
        weakened.push(format!("no {name} namespace: this kernel has none"));
    }
    Ok(Namespaces(flags))
}

/// Whether a refusal of `wanted` was accepted on the command line.
pub(crate) fn may_do_without(wanted: Namespaces, allow_missing: &[Barrier]) -> bool {
    let barrier = match wanted.has(libc::CLONE_NEWUSER) {
        true => Barrier::UserNamespaces,
        false => Barrier::Namespaces,
    };
    wanted != Namespaces::NONE && allow_missing.contains(&barrier)
}

/// Says why namespaces were refused and what to do.
pub(crate) fn refused(wanted: Namespaces, whose: &str, error: &io::Error) -> StartError {
    let user = wanted.has(libc::CLONE_NEWUSER);
    let (kind, advice) = match (error.raw_os_error(), user) {
        (Some(libc::EPERM | libc::EACCES), true) => (
            ExitKind::Permission,
            "user namespaces are off for you: sysctl kernel.unprivileged_userns_clone=1, \
             kernel.apparmor_restrict_unprivileged_userns=0 or user.max_user_namespaces; or start as root; \
             or --sandbox none inside a container",
        ),
        (Some(libc::EPERM | libc::EACCES), false) => (
            ExitKind::Permission,
            "CAP_SYS_ADMIN is needed; inside a container use --sandbox none",
        ),
        (Some(libc::ENOSPC | libc::EUSERS), _) => (
            ExitKind::Config,
            "the limit of namespaces is reached: sysctl user.max_user_namespaces and its relatives",
        ),
        (Some(libc::EINVAL), _) => (ExitKind::Unavailable, "this kernel lacks one of these namespaces"),
        _ => (ExitKind::OsError, "the system is short of resources"),
    };
    StartError::new(
        kind,
        format!("cannot make namespaces ({wanted}) for {whose}: {error}; {advice}"),
    )
}
