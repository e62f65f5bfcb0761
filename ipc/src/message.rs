//! Every message that crosses the boundary. The supervisor sends [`Start`] and [`Request`]; the worker sends
//! [`Started`] and [`Reply`]. Nothing else crosses but descriptors ([`crate::channel`]) and file data in bulk buffers.
//!
//! Each request says what it may answer besides [`Reply::Error`]; any other answer is a [`crate::ProtocolError`].
//! Modes, flags and masks are Linux's numbers on this architecture (`open(2)`, `inode(7)`), already cleaned by the
//! supervisor and checked again by the worker.

mod file;
mod parts;
mod start;

use serde::{Deserialize, Serialize};

use crate::{Bytes, Errno, Handle, Name, NodeId};

pub use file::FileOperation;
pub use parts::{
    Attr, AttrChange, Caller, Creation, DirEntry, Entry, FileLock, FsXattr, SetTime, StatFs, Timestamp,
    XattrName, dirent_size,
};
pub use start::{
    Barrier, ConfinementReport, Farewell, IdRange, IdRangeKind, MEMORY_PER_DESCRIPTOR, Sandbox, SeccompMode,
    Share, Start, Started, View, WorkerConfig,
};

/// A checked operation: supervisor → worker, in a slot of the ring.
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
    /// A node itself (`.`) or, `above`, the directory it was last seen in (`..`; of a root the root), by the tables: no
    /// name is looked up on the way out of anything. Counts a lookup. → `Entry`
    LookupKnown { node: NodeId, above: bool },
    /// Attributes of an inode; [`FileOperation::GetAttr`] for those of an open file. → `Attr`
    GetAttr { node: NodeId },
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
    /// An operation on an open file. → what it says
    File(FileOperation),
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

/// The answer to a request: worker → supervisor, in the request's slot.
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
