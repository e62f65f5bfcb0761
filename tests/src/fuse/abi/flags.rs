//! Flags and masks of requests and replies.

/// Flags of INIT; bits from 32 up travel in `flags2`.
pub mod init_flags {
    /// Reads of one file in parallel.
    pub const ASYNC_READ: u64 = 1 << 0;
    /// POSIX locks go to the server.
    pub const POSIX_LOCKS: u64 = 1 << 1;
    /// The kernel gives a handle to fstat and the like.
    pub const FILE_OPS: u64 = 1 << 2;
    /// OPEN carries O_TRUNC.
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    /// LOOKUP of `.` and `..` is allowed.
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    /// Writes larger than a page.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// The server applies the umask.
    pub const DONT_MASK: u64 = 1 << 6;
    /// The device can splice writes.
    pub const SPLICE_WRITE: u64 = 1 << 7;
    /// The device can move pages.
    pub const SPLICE_MOVE: u64 = 1 << 8;
    /// The device can splice reads.
    pub const SPLICE_READ: u64 = 1 << 9;
    /// flock locks go to the server.
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    /// ioctl on directories.
    pub const HAS_IOCTL_DIR: u64 = 1 << 11;
    /// Changed attributes drop cached pages.
    pub const AUTO_INVAL_DATA: u64 = 1 << 12;
    /// READDIRPLUS is served.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// READDIRPLUS where it seems to pay.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct I/O in parallel.
    pub const ASYNC_DIO: u64 = 1 << 15;
    /// Buffered writes are written back later.
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    /// OPEN may answer ENOSYS.
    pub const NO_OPEN_SUPPORT: u64 = 1 << 17;
    /// LOOKUP and READDIR in parallel.
    pub const PARALLEL_DIROPS: u64 = 1 << 18;
    /// The server clears setuid and setgid.
    pub const HANDLE_KILLPRIV: u64 = 1 << 19;
    /// POSIX ACLs.
    pub const POSIX_ACL: u64 = 1 << 20;
    /// ECONNABORTED after an abort.
    pub const ABORT_ERROR: u64 = 1 << 21;
    /// max_pages is valid.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// READLINK may be cached.
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    /// OPENDIR may answer ENOSYS.
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    /// Pages are dropped on request only.
    pub const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    /// map_alignment is valid (DAX).
    pub const MAP_ALIGNMENT: u64 = 1 << 26;
    /// Submounts are announced.
    pub const SUBMOUNTS: u64 = 1 << 27;
    /// The server clears setuid, setgid and capabilities when told.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// SETXATTR has its longer form.
    pub const SETXATTR_EXT: u64 = 1 << 29;
    /// flags2 is valid.
    pub const INIT_EXT: u64 = 1 << 30;
    /// Security contexts ride on creations.
    pub const SECURITY_CTX: u64 = 1 << 32;
    /// DAX per inode.
    pub const HAS_INODE_DAX: u64 = 1 << 33;
    /// The group of the parent rides on creations.
    pub const CREATE_SUPP_GROUP: u64 = 1 << 34;
    /// Entries may expire.
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    /// Shared mappings of FOPEN_DIRECT_IO files.
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    /// Passthrough of files.
    pub const PASSTHROUGH: u64 = 1 << 37;
    /// No NFS export.
    pub const NO_EXPORT_SUPPORT: u64 = 1 << 38;
    /// Requests may be sent again.
    pub const HAS_RESEND: u64 = 1 << 39;
    /// Id-mapped mounts.
    pub const ALLOW_IDMAP: u64 = 1 << 40;
    /// io_uring transport.
    pub const OVER_IO_URING: u64 = 1 << 41;
    /// request_timeout is valid.
    pub const REQUEST_TIMEOUT: u64 = 1 << 42;

    /// What the virtio-fs driver of Linux 6.18 offers.
    pub const LINUX_VIRTIOFS: u64 = ASYNC_READ
        | POSIX_LOCKS
        | FLOCK_LOCKS
        | ATOMIC_O_TRUNC
        | EXPORT_SUPPORT
        | BIG_WRITES
        | DONT_MASK
        | HAS_IOCTL_DIR
        | AUTO_INVAL_DATA
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | ASYNC_DIO
        | WRITEBACK_CACHE
        | NO_OPEN_SUPPORT
        | PARALLEL_DIROPS
        | HANDLE_KILLPRIV
        | POSIX_ACL
        | ABORT_ERROR
        | MAX_PAGES
        | CACHE_SYMLINKS
        | NO_OPENDIR_SUPPORT
        | EXPLICIT_INVAL_DATA
        | SUBMOUNTS
        | HANDLE_KILLPRIV_V2
        | SETXATTR_EXT
        | INIT_EXT
        | SECURITY_CTX
        | CREATE_SUPP_GROUP
        | HAS_EXPIRE_ONLY
        | DIRECT_IO_ALLOW_MMAP
        | NO_EXPORT_SUPPORT
        | HAS_RESEND
        | ALLOW_IDMAP;
}

/// Which fields of SETATTR are valid.
pub mod fattr {
    /// mode.
    pub const MODE: u32 = 1 << 0;
    /// uid.
    pub const UID: u32 = 1 << 1;
    /// gid.
    pub const GID: u32 = 1 << 2;
    /// size.
    pub const SIZE: u32 = 1 << 3;
    /// atime.
    pub const ATIME: u32 = 1 << 4;
    /// mtime.
    pub const MTIME: u32 = 1 << 5;
    /// fh.
    pub const FH: u32 = 1 << 6;
    /// atime is the server's time.
    pub const ATIME_NOW: u32 = 1 << 7;
    /// mtime is the server's time.
    pub const MTIME_NOW: u32 = 1 << 8;
    /// lock_owner.
    pub const LOCKOWNER: u32 = 1 << 9;
    /// ctime.
    pub const CTIME: u32 = 1 << 10;
    /// setuid and setgid are to be cleared.
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// Flags of the reply to OPEN.
pub mod open_out {
    /// No page cache.
    pub const DIRECT_IO: u32 = 1 << 0;
    /// Cached pages stay valid.
    pub const KEEP_CACHE: u32 = 1 << 1;
    /// No seeking.
    pub const NONSEEKABLE: u32 = 1 << 2;
    /// The listing may be cached.
    pub const CACHE_DIR: u32 = 1 << 3;
    /// No file position.
    pub const STREAM: u32 = 1 << 4;
    /// No FLUSH at close.
    pub const NOFLUSH: u32 = 1 << 5;
    /// Direct writes in parallel.
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// Flags of OPEN and CREATE (`open_flags`).
pub mod open_in {
    /// Clear setuid and setgid (with O_TRUNC).
    pub const KILL_SUIDGID: u32 = 1 << 0;
}

/// Flags of WRITE.
pub mod write_flags {
    /// From the page cache; the handle is a guess.
    pub const CACHE: u32 = 1 << 0;
    /// lock_owner is valid.
    pub const LOCKOWNER: u32 = 1 << 1;
    /// Clear setuid and setgid.
    pub const KILL_SUIDGID: u32 = 1 << 2;
}

/// Flags of RELEASE.
pub mod release_flags {
    /// Flush too.
    pub const FLUSH: u32 = 1 << 0;
    /// Drop the flock lock.
    pub const FLOCK_UNLOCK: u32 = 1 << 1;
}

/// Flags of GETATTR and STATX.
pub mod getattr_flags {
    /// fh is valid.
    pub const FH: u32 = 1 << 0;
}

/// Flags of GETLK, SETLK and SETLKW.
pub mod lock_flags {
    /// A flock lock, not a POSIX one.
    pub const FLOCK: u32 = 1 << 0;
}

/// Flags of FSYNC.
pub mod fsync_flags {
    /// Data only.
    pub const DATASYNC: u32 = 1 << 0;
}

/// Flags of attributes.
pub mod attr_flags {
    /// The root of another mount.
    pub const SUBMOUNT: u32 = 1 << 0;
    /// DAX for this inode.
    pub const DAX: u32 = 1 << 1;
}

/// Flags of SETXATTR's longer form.
pub mod setxattr_flags {
    /// Clear setgid.
    pub const ACL_KILL_SGID: u32 = 1 << 0;
}

/// Type of the extension that carries supplementary groups at creation.
pub const EXT_GROUPS: u32 = 32;
