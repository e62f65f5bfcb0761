//! Every message that crosses the boundary. The supervisor sends [`Start`] and [`Request`]; the worker sends
//! [`Started`] and [`Reply`]. Nothing else crosses but descriptors ([`crate::channel`]) and file data in bulk buffers.
//!
//! Each request says what it may answer besides [`Reply::Error`]; any other answer is a [`crate::ProtocolError`].
//! Modes, flags and masks are Linux's numbers on this architecture (`open(2)`, `inode(7)`), already cleaned by the
//! supervisor and checked again by the worker.

use serde::{Deserialize, Serialize};

use crate::{Bytes, Errno, Handle, Name, NodeId};

// ---------------------------------------------------------------------------------------------------------------
// Start-up: one datagram each way on the control channel, before the supervisor confines itself or reads a guest byte.

/// Supervisor → worker, once. Descriptors beside it: the ring's memory, then for each lane the supervisor's doorbell and
/// the worker's end of the donation channel ([`crate::ring::WorkerEnds`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// How many lanes the ring has: one for each virtqueue, 1..=[`crate::ring::MAX_LANES`].
    pub lanes: u16,
    /// What to serve and how.
    pub config: WorkerConfig,
}

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
    /// Device nodes may be made (MKNOD of character and block devices).
    pub device_nodes: bool,
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
    /// Files and directories may be used by their nodes' handles ([`Handle::of_node`]), without OPEN: nothing is ever
    /// written.
    pub zero_open: bool,
    /// POSIX record locks are taken on the host.
    pub posix_lock: bool,
    /// flock(2) locks are taken on the host.
    pub flock: bool,
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
    /// Threads that serve slow operations (fsync, copy, allocation), at least 1.
    pub slow_threads: u16,
    /// Descriptors the worker may hold for this guest.
    pub max_descriptors: u64,
    /// Longest busy look at the ring before sleeping, in microseconds; 0 sleeps at once.
    pub poll_us: u32,
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
/// was killed, perhaps by its own filter. It carries nothing and asks nothing: the worker ends either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Farewell {
    /// The supervisor ends and has said why, if there is anything to say.
    Farewell,
}

/// What a process found true of itself after it confined itself; `airlockfsd` logs it and `audit` compares.
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
}

// ---------------------------------------------------------------------------------------------------------------
// Requests: supervisor → worker, in a slot of the ring.

/// A checked operation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "fields are named by their types and by the FUSE operation they come from"
)]
pub enum Request<'a> {
    /// Does nothing; measures the ring. → [`Reply::Done`]
    Ping,
    /// Drops lookups: 16 bytes for each, node id then count, little-endian. Unknown nodes are passed over and counts
    /// clamped. → `Done`
    #[serde(borrow)]
    Forget(Bytes<'a>),
    /// Drops every handle, every lookup and every lock (DESTROY, guest reboot). The root stays. → `Done`
    Reset,
    /// One component beneath `parent`, never through a symbolic link; counts a lookup. → `Entry`
    Lookup { parent: NodeId, name: Name<'a> },
    /// → `Attr`
    GetAttr { node: NodeId, handle: Option<Handle> },
    /// → `Attr`. `handle` is one opened for writing when the size changes by ftruncate(2).
    SetAttr {
        node: NodeId,
        handle: Option<Handle>,
        change: AttrChange,
    },
    /// → `Target`
    ReadLink { node: NodeId },
    /// `target` is stored as it is, 1..=4095 bytes without NUL. → `Entry`
    Symlink {
        parent: NodeId,
        name: Name<'a>,
        target: Bytes<'a>,
        creation: Creation<'a>,
    },
    /// Regular files, FIFOs, sockets; devices only where allowed (EPERM). → `Entry`
    Mknod {
        parent: NodeId,
        name: Name<'a>,
        rdev: u32,
        creation: Creation<'a>,
    },
    /// → `Entry`
    Mkdir {
        parent: NodeId,
        name: Name<'a>,
        creation: Creation<'a>,
    },
    /// → `Done`
    Unlink { parent: NodeId, name: Name<'a> },
    /// → `Done`
    Rmdir { parent: NodeId, name: Name<'a> },
    /// `flags` of renameat2(2): NOREPLACE, EXCHANGE, WHITEOUT. → `Done`
    Rename {
        parent: NodeId,
        name: Name<'a>,
        new_parent: NodeId,
        new_name: Name<'a>,
        flags: u32,
    },
    /// Never follows a symbolic link. → `Entry`
    Link {
        node: NodeId,
        new_parent: NodeId,
        new_name: Name<'a>,
    },
    /// Regular files only (others EINVAL or ENXIO; directories EISDIR). `flags` of open(2). → `Opened`
    Open {
        node: NodeId,
        flags: u32,
        kill_suidgid: bool,
    },
    /// Creates, or without O_EXCL opens what is there if it is a regular file. → `Created`
    Create {
        parent: NodeId,
        name: Name<'a>,
        flags: u32,
        kill_suidgid: bool,
        creation: Creation<'a>,
    },
    /// O_TMPFILE. → `Created`
    TmpFile {
        parent: NodeId,
        flags: u32,
        creation: Creation<'a>,
    },
    /// Data goes to the slot's bulk buffer. → `Data`
    Read { handle: Handle, offset: u64, size: u32 },
    /// Data comes in the slot's bulk buffer. → `Written`
    Write {
        handle: Handle,
        offset: u64,
        size: u32,
        kill_suidgid: bool,
    },
    /// Asks for the open file's descriptor, regular files only, with exactly the access it was opened for.
    /// → `Donated` and one descriptor on this lane's channel, or `NotDonated`
    Donate { handle: Handle },
    /// → `Done`
    Release {
        handle: Handle,
        flock_owner: Option<u64>,
    },
    /// close(2) by one of the holders; drops the owner's record locks. → `Done`
    Flush { handle: Handle, lock_owner: u64 },
    /// → `Done`
    Fsync { handle: Handle, datasync: bool },
    /// SEEK_DATA or SEEK_HOLE. → `Offset`
    Lseek {
        handle: Handle,
        offset: u64,
        whence: u32,
    },
    /// `mode` of fallocate(2). → `Done`
    Fallocate {
        handle: Handle,
        offset: u64,
        length: u64,
        mode: u32,
        kill_suidgid: bool,
    },
    /// → `Copied`
    CopyFileRange {
        source: Handle,
        source_offset: u64,
        target: Handle,
        target_offset: u64,
        length: u64,
        kill_suidgid: bool,
    },
    /// → `Opened`
    OpenDir { node: NodeId, flags: u32 },
    /// Entries go to the slot's bulk buffer, as many as fit in `size` bytes of the FUSE layout ([`dirent_size`]);
    /// with `plus` each but the dots counts a lookup. → `Entries`
    ReadDir {
        handle: Handle,
        offset: u64,
        size: u32,
        plus: bool,
    },
    /// → `Done`
    ReleaseDir { handle: Handle },
    /// → `Done`
    FsyncDir { handle: Handle, datasync: bool },
    /// → `StatFs`
    StatFs { node: NodeId },
    /// syncfs(2) on the node's file system. → `Done`
    SyncFs { node: NodeId },
    /// access(2) as the caller, for clients without default_permissions. → `Done`
    Access { node: NodeId, mask: u32, caller: Caller },
    /// The value comes in the bulk buffer, `size` bytes. `acl_kill_sgid`: FUSE_SETXATTR_ACL_KILL_SGID. → `Done`
    SetXattr {
        node: NodeId,
        name: XattrName<'a>,
        size: u32,
        flags: u32,
        acl_kill_sgid: bool,
    },
    /// `size` 0 asks how large the value is → `Size`; else the value goes to the bulk buffer → `Data`
    GetXattr {
        node: NodeId,
        name: XattrName<'a>,
        size: u32,
    },
    /// `size` 0 asks how large the list is → `Size`; else NUL-terminated names go to the bulk buffer → `Data`
    ListXattr { node: NodeId, size: u32 },
    /// → `Done`
    RemoveXattr { node: NodeId, name: XattrName<'a> },
    /// FS_IOC_GETFLAGS and FS_IOC_FSGETXATTR. → `FileFlags` or `FsXattr`
    GetFileFlags {
        node: NodeId,
        handle: Handle,
        extended: bool,
    },
    /// FS_IOC_SETFLAGS. → `Done`
    SetFileFlags {
        node: NodeId,
        handle: Handle,
        flags: u32,
    },
    /// FS_IOC_FSSETXATTR. → `Done`
    SetFsXattr {
        node: NodeId,
        handle: Handle,
        value: FsXattr,
    },
    /// F_GETLK. → `Lock`
    GetLock {
        handle: Handle,
        owner: u64,
        lock: FileLock,
    },
    /// F_SETLK, or F_SETLKW with `wait`, which names the request for [`Self::Interrupt`]; `flock` for whole-file locks of
    /// flock(2). → `Done`, when `wait` perhaps late; `Error(EDEADLK)` when it would wait for itself
    SetLock {
        handle: Handle,
        owner: u64,
        lock: FileLock,
        flock: bool,
        wait: Option<u64>,
    },
    /// Ends the wait of the SetLock of that name with EINTR; it may come before it, by another lane. → `Done`
    Interrupt { wait: u64 },
}

/// An extended attribute's name: 1..=255 bytes without NUL (XATTR_NAME_MAX, xattr(7)); it may hold `/`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct XattrName<'a>(Bytes<'a>);

impl<'a> XattrName<'a> {
    /// Checks `bytes`: ERANGE as the kernel says for an empty or overlong name, EINVAL for a NUL.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Errno> {
        match bytes.len() {
            1..=255 if !bytes.contains(&0) => Ok(Self(Bytes(bytes))),
            1..=255 => Err(Errno::EINVAL),
            _ => Err(Errno::ERANGE),
        }
    }

    /// The bytes, without a terminating NUL.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for XattrName<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?;
        Self::new(bytes.0).map_err(|_| serde::de::Error::custom("not an attribute name"))
    }
}

/// Who asks, in guest ids (`struct fuse_in_header`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// fsuid. Never `u32::MAX`: the supervisor refuses it (EINVAL).
    pub uid: u32,
    /// fsgid. Never `u32::MAX`.
    pub gid: u32,
    /// The supplementary group that owns the parent directory (FUSE_EXT_GROUPS).
    pub group: Option<u32>,
}

/// What a new inode is made with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Creation<'a> {
    /// Owner.
    pub caller: Caller,
    /// File type and permission bits, umask not yet applied.
    pub mode: u32,
    /// The guest process's umask; a default ACL overrides it.
    pub umask: u32,
    /// Attribute set together with creation (FUSE_SECURITY_CTX).
    #[serde(borrow)]
    pub security: Option<(XattrName<'a>, Bytes<'a>)>,
}

/// What SETATTR changes; `None` leaves alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttrChange {
    /// Permission bits, 0..=0o7777.
    pub mode: Option<u32>,
    /// Owner, guest id.
    pub uid: Option<u32>,
    /// Group, guest id.
    pub gid: Option<u32>,
    /// Size in bytes, at most `i64::MAX`.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Setuid, and setgid on group-executable files, go with a change of size or owner; without it they stay.
    pub kill_suidgid: bool,
}

/// A time to set (utimensat(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// The host's clock.
    Now,
    /// This.
    To(Timestamp),
}

/// Seconds since 1970 and nanoseconds 0..=999_999_999.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanoseconds: u32,
}

/// A record lock (fcntl(2)), `end` inclusive, `u64::MAX >> 1` for the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLock {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub kind: u32,
    /// Who holds it, a guest's process id.
    pub pid: u32,
}

/// `struct fsxattr` (linux/fs.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of the kernel's structure, in its order")]
pub struct FsXattr {
    pub xflags: u32,
    pub extsize: u32,
    pub nextents: u32,
    pub projid: u32,
    pub cowextsize: u32,
}

// ---------------------------------------------------------------------------------------------------------------
// Replies: worker → supervisor, in the request's slot.

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant's text names its fields")]
pub enum Reply<'a> {
    /// It failed, with the guest's errno. Answers any request.
    Error(Errno),
    /// Done, nothing to say.
    Done,
    /// An inode, a lookup counted.
    Entry(Entry),
    /// Attributes.
    Attr(Attr),
    /// A symbolic link's target, at most 4095 bytes.
    #[serde(borrow)]
    Target(Bytes<'a>),
    /// A new handle.
    Opened { handle: Handle },
    /// A new handle on an inode, a lookup counted.
    Created { entry: Entry, handle: Handle },
    /// So many bytes stand in the bulk buffer.
    Data { size: u32 },
    /// So many bytes were written, at most what was asked.
    Written { size: u32 },
    /// A descriptor was sent on the lane's channel, marked with the handle.
    Donated,
    /// This handle's data stays here (policy, or writes through it must be seen by the worker).
    NotDonated,
    /// So many bytes of [`DirEntry`] stand in the bulk buffer, back to back.
    Entries { size: u32 },
    /// statfs(2).
    StatFs(StatFs),
    /// How large the value or list is, in bytes.
    Size(u32),
    /// A file offset in bytes.
    Offset(u64),
    /// Bytes copied.
    Copied(u64),
    /// FS_IOC_GETFLAGS.
    FileFlags(u32),
    /// FS_IOC_FSGETXATTR.
    FsXattr(FsXattr),
    /// The first lock in the way, or one of kind F_UNLCK.
    Lock(FileLock),
}

/// An inode as a lookup finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its node id.
    pub node: NodeId,
    /// Its attributes.
    pub attr: Attr,
}

/// Attributes of an inode (statx(2)), ids as the guest sees them. Most replies carry them, so they are encoded as one
/// run of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// 512-byte blocks.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Birth, where the file system knows.
    pub btime: Option<Timestamp>,
    /// File type and permissions.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device a device node stands for: major, minor.
    pub rdev: (u32, u32),
    /// Preferred block size for I/O, in bytes.
    pub blksize: u32,
    /// STATX_ATTR_* bits, as found.
    pub attributes: u64,
    /// STATX_ATTR_* bits that the file system knows.
    pub attributes_mask: u64,
    /// Another mount begins here.
    pub submount: bool,
}

/// statfs(2) of the file system a node lies on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields of struct fuse_kstatfs, in its order")]
pub struct StatFs {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u32,
    pub namelen: u32,
    pub frsize: u32,
}

/// An entry of a directory, in a bulk buffer. The dots may stand among them; they never carry an `entry`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DirEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where the next entry begins (`d_off`): an opaque cookie for the next request's offset.
    pub next: u64,
    /// DT_* (readdir(3)).
    pub kind: u8,
    /// The name, 1..=255 bytes without `/` and NUL.
    #[serde(borrow)]
    pub name: Bytes<'a>,
    /// With `plus`: the inode, a lookup counted. None: dots, and what vanished meanwhile.
    pub entry: Option<Entry>,
}

/// Bytes an entry takes in the FUSE layout: `struct fuse_dirent` (24) or `struct fuse_direntplus` (152) and the name,
/// padded to 8. Both sides count with this, so that no entry whose lookup is counted fails to fit.
pub const fn dirent_size(name_length: usize, plus: bool) -> usize {
    let fixed = if plus { 152 } else { 24 };
    (fixed + name_length + 7) & !7
}
