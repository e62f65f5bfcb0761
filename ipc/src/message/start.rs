//! Start-up and farewell: one datagram each way on the control channel, before the supervisor confines itself or reads a
//! guest byte, and the last word.

use serde::{Deserialize, Serialize};

/// Supervisor → worker, once. Descriptors beside it: the network namespace to join, if there is one, the ring's memory,
/// then for each lane the supervisor's doorbell and the worker's end of the donation channel ([`crate::ring::WorkerEnds`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// How many lanes the ring has: one for the high-priority queue, the others for one or more request queues each,
    /// 1..=[`crate::ring::MAX_LANES`].
    pub lanes: u16,
    /// The first descriptor is a network namespace, made for the worker while it was loaded.
    pub network: bool,
    /// What to serve and how.
    pub config: WorkerConfig,
}

/// Bytes of either process counted for each of the guest's descriptors, which a quarter of `max_memory` is for. In the
/// worker three in four may be open handles of 160 bytes, one in eight an owner of locks with 530, all others kept for
/// inodes with 48; in the supervisor three in four an open handle of 150.
pub const MEMORY_PER_DESCRIPTOR: u64 = 256;

/// What the command line asked of the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// The directories served, at least one.
    pub shares: Vec<Share>,
    /// No operation changes anything; the kernel enforces it too (Landlock, seccomp, mount).
    pub readonly: bool,
    /// Extended attributes are served.
    pub xattr: bool,
    /// Rules over attribute names, in virtiofsd's language; none passes all names through.
    pub xattr_map: Option<String>,
    /// POSIX ACLs: the kernel applies them, and no umask where a default ACL stands.
    pub posix_acl: bool,
    /// No file that the guest makes or changes has a set-user-ID or set-group-ID bit on the host, or gets a capability.
    pub no_setuid: bool,
    /// Device nodes may be made (MKNOD of character and block devices).
    pub device_nodes: bool,
    /// The guest may change project ids of files and their inheritance (FS_IOC_FSSETXATTR).
    pub project_ids: bool,
    /// The immutable and append-only flags may be set and cleared (chattr +i, +a).
    pub immutable_flags: bool,
    /// Descriptors of regular files may go to the supervisor.
    pub donate: bool,
    /// The guest caches writes: files opened write-only must be readable too, and O_APPEND is the guest's business.
    pub writeback: bool,
    /// O_DIRECT is passed to the host's file system; otherwise it is taken off.
    pub direct_io: bool,
    /// O_NOATIME is passed on; otherwise it is taken off.
    pub preserve_noatime: bool,
    /// Mounts beneath the share are announced as such (FUSE_ATTR_SUBMOUNT).
    pub announce_submounts: bool,
    /// Files and directories may be used by their nodes' handles ([`crate::Handle::of_node`]), without OPEN: nothing is ever
    /// written.
    pub zero_open: bool,
    /// POSIX record locks are taken on the host.
    pub posix_lock: bool,
    /// flock(2) locks are taken on the host.
    pub flock: bool,
    /// Longest wait for a lock, in milliseconds; 0: without end.
    pub lock_wait_ms: u64,
    /// The latest inodes that the guest forgot are still known by their ids: its file handles hold nothing else.
    pub file_handles: bool,
    /// User ids between guest and host.
    pub uid_map: Vec<IdRange>,
    /// Group ids between guest and host.
    pub gid_map: Vec<IdRange>,
    /// Owners and permissions that the guest is shown instead of the host's.
    pub view: View,
    /// How namespaces are used.
    pub sandbox: Sandbox,
    /// What a forbidden system call does.
    pub seccomp: SeccompMode,
    /// Barriers whose absence in the kernel was accepted on the command line (`--allow-missing`).
    pub allow_missing: Vec<Barrier>,
    /// Threads that take over from those whose calls take long or hang, at least 1.
    pub spare_threads: u16,
    /// How many seconds a request waits at most while all threads hang, at least 1.
    pub stall_limit: u32,
    /// Descriptors the worker may hold for this guest.
    pub max_descriptors: u64,
    /// Bytes of memory that it may take for this guest, apart from a fixed amount.
    pub max_memory: u64,
    /// Longest busy look at the ring before sleeping, in microseconds; 0 sleeps at once.
    pub poll_us: u32,
    /// Lines that inform are logged, too (`--log-level`).
    pub informs: bool,
}

/// A directory to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Absolute host path without symbolic links.
    pub path: Vec<u8>,
    /// Device and inode number the supervisor found there: a directory swapped meanwhile is refused.
    pub identity: (u64, u64),
    /// Name beneath the root where several directories stand under one tag; none: it is the root.
    pub name: Option<Vec<u8>>,
    /// Nothing beneath it changes.
    pub readonly: bool,
}

/// What the guest sees of owners and permissions where it is not what the host has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Owner of everything.
    pub uid: Option<u32>,
    /// Group of everything.
    pub gid: Option<u32>,
    /// Permissions of everything but symbolic links, 0..=0o1777.
    pub mode: Option<u32>,
    /// Permissions that nothing but directories and symbolic links has, 0..=0o7777.
    pub fmask: u32,
    /// Permissions that no directory has, 0..=0o7777.
    pub dmask: u32,
    /// Owner in place of a host user whom the guest has no id for.
    pub default_uid: Option<u32>,
    /// Group in place of a host group that the guest has no id for.
    pub default_gid: Option<u32>,
}

/// How guest ids in a range become host ids and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// Which way, and how.
    pub kind: IdRangeKind,
    /// First id on the side that is translated.
    pub from: u32,
    /// First id (or the only one) on the other side.
    pub to: u32,
    /// How many ids.
    pub count: u32,
}

/// The six translations of virtiofsd's `--translate-uid` and `--translate-gid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdRangeKind {
    /// Guest ids to host ids, one to one, one way.
    Guest,
    /// Host ids to guest ids, one to one, one way.
    Host,
    /// Many guest ids to one host id.
    SquashGuest,
    /// Many host ids to one guest id.
    SquashHost,
    /// Guest ids that may not be used: EPERM.
    ForbidGuest,
    /// One to one, both ways.
    Map,
}

/// How the worker is placed (`--sandbox`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sandbox {
    /// Own namespaces, the share as root directory.
    Namespace,
    /// chroot(2) into the share, the caller's namespaces.
    Chroot,
    /// Neither: for launchers that confined the daemon themselves.
    None,
}

/// What a forbidden system call does (`--seccomp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompMode {
    /// Ends the process.
    Kill,
    /// Is logged by the kernel and carried out.
    Log,
    /// Raises SIGSYS.
    Trap,
    /// There is no filter.
    None,
}

/// A barrier that a kernel may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Barrier {
    /// Landlock at all, or the rights this version of airlockfs handles.
    Landlock,
    /// User namespaces (for an unprivileged start).
    UserNamespaces,
    /// Mount, pid, network, ipc, uts and cgroup namespaces.
    Namespaces,
}

/// Worker → supervisor, once: the answer to [`Start`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Started {
    /// Confined and serving.
    Ready(ConfinementReport),
    /// Could not start. The worker exits after it.
    Failed {
        /// Exit code that tells the kind (sysexits.h).
        kind: u8,
        /// One line for a person, with what to do.
        message: String,
    },
}

/// Supervisor → worker, once, last of all on the control channel. The channel's end without it says that the supervisor
/// was killed: by its launcher, or by its own filter. It carries nothing and asks nothing: the worker ends either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Farewell {
    /// The supervisor ends and has said why, if there is anything to say.
    Farewell,
}

/// What a process found true of itself after it confined itself. The process seals it, `airlockfsd` logs it, and `audit`
/// compares it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfinementReport {
    /// User and group id in the initial user namespace, as far as visible.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Effective capabilities, by kernel number (capabilities(7)).
    pub capabilities: u64,
    /// Namespaces of its own: `mnt`, `pid`, `net`, `ipc`, `uts`, `cgroup`, `user`.
    pub namespaces: Vec<String>,
    /// Landlock ABI in force, 0 for none.
    pub landlock_abi: u32,
    /// System calls the filter lets through, 0 for no filter.
    pub syscalls: u32,
    /// Instructions of the filter.
    pub filter_instructions: u32,
    /// What is weaker than the default, by option or by `--allow-missing`, a line each.
    pub weakened: Vec<String>,
    /// The profile that was applied, a grant to a line.
    pub profile: Vec<String>,
}
