//! Flags of the FUSE protocol, by the field they stand in.

// `fuse_init_in.flags` and `fuse_init_out.flags`, with `flags2` in the upper half.

/// The guest may have several reads of a file under way.
pub(crate) const ASYNC_READ: u64 = 1 << 0;
/// Record locks are the server's.
pub(crate) const POSIX_LOCKS: u64 = 1 << 1;
/// LOOKUP of `.` and `..` is served for nodes that the guest forgot.
pub(crate) const EXPORT_SUPPORT: u64 = 1 << 4;
/// Writes of more than a page.
pub(crate) const BIG_WRITES: u64 = 1 << 5;
/// The server applies the umask.
pub(crate) const DONT_MASK: u64 = 1 << 6;
/// flock(2) locks are the server's.
pub(crate) const FLOCK_LOCKS: u64 = 1 << 10;
/// Cached data goes when the modification time changes.
pub(crate) const AUTO_INVAL_DATA: u64 = 1 << 12;
/// READDIRPLUS is there.
pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
/// The guest chooses between READDIR and READDIRPLUS.
pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
/// Asynchronous direct I/O.
pub(crate) const ASYNC_DIO: u64 = 1 << 15;
/// The page cache holds writes back.
pub(crate) const WRITEBACK_CACHE: u64 = 1 << 16;
/// ENOSYS to OPEN means: open without asking.
pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
/// Lookups and listings of one directory in parallel.
pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
/// The guest's kernel knows ACLs of the share.
pub(crate) const POSIX_ACL: u64 = 1 << 20;
/// `max_pages` of the reply counts.
pub(crate) const MAX_PAGES: u64 = 1 << 22;
/// Symbolic links' targets are cached.
pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
/// ENOSYS to OPENDIR means: open without asking.
pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
/// `FUSE_ATTR_SUBMOUNT` makes a mount.
pub(crate) const SUBMOUNTS: u64 = 1 << 27;
/// The server clears setuid, setgid and capabilities, when told to.
pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
/// `fuse_setxattr_in` has 16 bytes instead of 8.
pub(crate) const SETXATTR_EXT: u64 = 1 << 29;
/// `fuse_init_in` has 64 bytes instead of 16, with `flags2`.
pub(crate) const INIT_EXT: u64 = 1 << 30;
/// Creating requests bring a security context.
pub(crate) const SECURITY_CTX: u64 = 1 << 32;
/// Creating requests bring the supplementary group that owns the parent.
pub(crate) const CREATE_SUPP_GROUP: u64 = 1 << 34;
/// Shared mappings of FOPEN_DIRECT_IO files.
pub(crate) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
/// Idmapped mounts; ids of requests that create nothing are then `u32::MAX`.
pub(crate) const ALLOW_IDMAP: u64 = 1 << 40;

// `fuse_open_out.open_flags`.

/// Bypass the page cache.
pub(crate) const FOPEN_DIRECT_IO: u32 = 1 << 0;
/// Keep what the page cache has.
pub(crate) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
/// Cache this directory's entries.
pub(crate) const FOPEN_CACHE_DIR: u32 = 1 << 3;
/// Direct writes to one file in parallel.
pub(crate) const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

// Fields of requests.

/// `fuse_getattr_in.getattr_flags`, `fuse_statx_in.getattr_flags`: `fh` counts.
pub(crate) const GETATTR_FH: u32 = 1 << 0;

/// `fuse_setattr_in.valid`.
pub(crate) const FATTR_MODE: u32 = 1 << 0;
/// `fuse_setattr_in.valid`.
pub(crate) const FATTR_UID: u32 = 1 << 1;
/// `fuse_setattr_in.valid`.
pub(crate) const FATTR_GID: u32 = 1 << 2;
/// `fuse_setattr_in.valid`.
pub(crate) const FATTR_SIZE: u32 = 1 << 3;
/// `fuse_setattr_in.valid`.
pub(crate) const FATTR_ATIME: u32 = 1 << 4;
/// `fuse_setattr_in.valid`.
pub(crate) const FATTR_MTIME: u32 = 1 << 5;
/// `fuse_setattr_in.valid`: `fh` counts.
pub(crate) const FATTR_FH: u32 = 1 << 6;
/// `fuse_setattr_in.valid`: the server's clock instead of `atime`.
pub(crate) const FATTR_ATIME_NOW: u32 = 1 << 7;
/// `fuse_setattr_in.valid`: the server's clock instead of `mtime`.
pub(crate) const FATTR_MTIME_NOW: u32 = 1 << 8;
/// `fuse_setattr_in.valid`: setuid and setgid go with the change of size.
pub(crate) const FATTR_KILL_SUIDGID: u32 = 1 << 11;

/// `fuse_open_in.open_flags`, `fuse_create_in.open_flags`: setuid and setgid go with O_TRUNC.
pub(crate) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `fuse_write_in.write_flags`: setuid and setgid go.
pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `fuse_release_in.release_flags`: drop the owner's flock(2) lock.
pub(crate) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;
/// `fuse_fsync_in.fsync_flags`: data only.
pub(crate) const FSYNC_FDATASYNC: u32 = 1 << 0;
/// `fuse_setxattr_in.setxattr_flags`: setgid goes with an access ACL.
pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// `fuse_lk_in.lk_flags`: a flock(2) lock.
pub(crate) const LK_FLOCK: u32 = 1 << 0;

// Fields of replies.

/// `fuse_attr.flags`: another mount begins here.
pub(crate) const ATTR_SUBMOUNT: u32 = 1 << 0;

// Extensions of a request (`fuse_ext_header.type`).

/// Highest `fuse_secctx_header.nr_secctx`; types above it are other extensions.
pub(crate) const MAX_NR_SECCTX: u32 = 31;
/// `fuse_supp_groups`.
pub(crate) const EXT_GROUPS: u32 = 32;

// `fuse_ioctl_in.cmd` (linux/fs.h), as the kernel's own fileattr calls send them.

/// FS_IOC_GETFLAGS.
pub(crate) const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
/// FS_IOC_SETFLAGS.
pub(crate) const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
/// FS_IOC_FSGETXATTR.
pub(crate) const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
/// FS_IOC_FSSETXATTR.
pub(crate) const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
