//! Namespaces (namespaces(7)) and the mounts in them.

use std::fmt;

use airlockfs_ipc::message::Sandbox;

use crate::profile::{Features, Reasoned};

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

    pub(crate) const fn has(self, flag: i32) -> bool {
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
