//! What else holds of a confined process: ids, sets, bits, mounts, descriptors, what Landlock denies. Data for people and
//! for `audit`; the code that brings it about is [`crate::confine`].

use airlockfs_ipc::message::Sandbox;

use crate::profile::{Features, Process};

/// Something that holds of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// What it is about: `ids`, `sets`, `securebits`, `dumpable`, `mounts`, `descriptors`, `limits`, `landlock denies`.
    pub subject: &'static str,
    /// What holds.
    pub what: &'static str,
    /// Why.
    pub reason: &'static str,
}

macro_rules! held {
    ($($subject:literal: $what:literal, $reason:literal;)*) => {
        &[$(Held { subject: $subject, what: $what, reason: $reason }),*]
    };
}

/// Of both, whatever the options.
const BOTH: &[Held] = held! {
    "sets": "bounding, inheritable and ambient capabilities are empty", "nothing to be gained at execve(2)";
    "securebits": "noroot, locked", "the id of root gives no capability";
    "securebits": "no-cap-ambient-raise, locked", "no capability can be kept over execve(2)";
    "securebits": "no-setuid-fixup and keep-caps off, locked", "leaving fsuid 0 takes the capabilities over files away";
    "no_new_privs": "set", "setuid programs and file capabilities give nothing";
    "dumpable": "no", "no process of the same user reads its memory or its /proc";
    "limits": "open files as --rlimit-nofile gives, soft and hard", "a guest exhausts its own budget, not the host's";
    "landlock denies": "every right over files that is not listed", "since ABI 1; truncate 3, ioctl of devices 5";
    "landlock denies": "binding and connecting TCP ports", "since ABI 4; there is no network besides";
    "landlock denies": "connecting abstract sockets outside", "since ABI 6";
    "landlock denies": "signals to processes outside", "since ABI 6";
    "descriptors": "0 and 1 are /dev/null, 2 is the log, for writing at its end", "what a launcher opened is closed";
    "descriptors": "the ring (sealed memfd), its doorbells (eventfd) and channels (socketpair)", "the other process";
    "descriptors": "the report (sealed memfd)", "`audit` reads what the process found true when it confined itself";
};

const SUPERVISOR: &[Held] = held! {
    "descriptors": "the listening vhost-user socket, the VMM's connection", "the VMM";
    "descriptors": "guest memory, kicks and calls as the VMM hands them over", "the guest's virtqueues";
    "descriptors": "epoll sets, a signalfd, the worker's pidfd", "waiting";
};

const DONATED: &[Held] = held! {
    "descriptors": "regular files that the guest has open, with its access mode", "file data takes no second hop";
};

const SUPERVISOR_PLACE: &[Held] = held! {
    "mounts": "/ is an empty tmpfs: ro, nosuid, nodev, noexec, private", "there is no path to name";
};

const WORKER: &[Held] = held! {
    "descriptors": "inodes of the share (O_PATH), open regular files and directories of it", "the guest's";
    "descriptors": "/proc/self/fd (O_PATH), the working directory", "an inode is opened again by a descriptor's number";
};

const WORKER_PLACE: &[Held] = held! {
    "mounts": "/ is the share: nosuid, nodev, noexec, follows the host (slave); several stand in a read-only tmpfs",
        "nothing else can be named; volumes that come later are seen";
};

const WORKER_READONLY: &[Held] = held! {
    "mounts": "the share is mounted read-only", "the kernel refuses every change";
};

const OWN_USER: &[Held] = held! {
    "ids": "user and group as --supervisor-uid says, by default of its own; no supplementary groups",
        "no file and no other process is that user's, which could signal it or use up the user's share of the kernel";
    "descriptors": "an empty file that stands for its user id, to be read only", "its lock keeps others from that id";
};

const ROOT: &[Held] = held! {
    "ids": "user and group 0, no supplementary groups",
        "acts for all users of a guest; no user namespace, which would clear setuid bits at root's writes";
};

const STARTER: &[Held] = held! {
    "ids": "the starting user's, mapped to themselves alone", "an ordinary user gains nothing";
};

const MAPPED: &[Held] = held! {
    "ids": "0 of its own user namespace: the starting user, with subordinate ids or --uid-map and --gid-map beyond",
        "ids that are not mapped cannot be acted for";
};

/// What holds of a process with these features.
pub(crate) fn of(process: Process, features: &Features) -> Vec<Held> {
    let own_place = features.sandbox == Sandbox::Namespace;
    let parts: Vec<(bool, &[Held])> = match process {
        Process::Supervisor => vec![
            (features.rootful, OWN_USER),
            (!features.rootful, STARTER),
            (true, BOTH),
            (own_place, SUPERVISOR_PLACE),
            (true, SUPERVISOR),
            (features.donate, DONATED),
        ],
        Process::Worker => vec![
            (features.rootful, ROOT),
            (!features.rootful && own_place, MAPPED),
            (!features.rootful && !own_place, STARTER),
            (true, BOTH),
            (own_place, WORKER_PLACE),
            (own_place && features.readonly, WORKER_READONLY),
            (true, WORKER),
        ],
    };
    let kept = parts.into_iter().filter(|(holds, _)| *holds);
    kept.flat_map(|(_, part)| part).copied().collect()
}
