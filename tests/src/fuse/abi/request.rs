//! Bodies of requests.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Header of every request (fuse_in_header).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InHeader {
    /// Length of the request, this header included.
    pub len: u32,
    /// Opcode.
    pub opcode: u32,
    /// Name of the request; the reply repeats it.
    pub unique: u64,
    /// The node it is about.
    pub nodeid: u64,
    /// The caller's fsuid.
    pub uid: u32,
    /// The caller's fsgid.
    pub gid: u32,
    /// The caller's process.
    pub pid: u32,
    /// Length of the extensions, in units of 8 bytes.
    pub total_extlen: u16,
    /// Unused.
    pub padding: u16,
}

/// INIT (fuse_init_in).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitIn {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Most bytes of readahead.
    pub max_readahead: u32,
    /// Lower half of the flags.
    pub flags: u32,
    /// Upper half of the flags.
    pub flags2: u32,
    /// Unused.
    pub unused: [u32; 11],
}

/// FORGET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ForgetIn {
    /// Lookups to take back.
    pub nlookup: u64,
}

/// One item of BATCH_FORGET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ForgetOne {
    /// Node id.
    pub nodeid: u64,
    /// Lookups to take back.
    pub nlookup: u64,
}

/// Head of BATCH_FORGET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BatchForgetIn {
    /// Number of items.
    pub count: u32,
    /// Unused.
    pub dummy: u32,
}

/// GETATTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetattrIn {
    /// [`super::getattr_flags`].
    pub flags: u32,
    /// Unused.
    pub dummy: u32,
    /// Handle.
    pub fh: u64,
}

/// STATX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxIn {
    /// [`super::getattr_flags`].
    pub getattr_flags: u32,
    /// Unused.
    pub reserved: u32,
    /// Handle.
    pub fh: u64,
    /// statx(2) flags.
    pub sx_flags: u32,
    /// statx(2) mask.
    pub sx_mask: u32,
}

/// SETATTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetattrIn {
    /// [`super::fattr`].
    pub valid: u32,
    /// Unused.
    pub padding: u32,
    /// Handle.
    pub fh: u64,
    /// Size in bytes.
    pub size: u64,
    /// Lock owner.
    pub lock_owner: u64,
    /// Seconds.
    pub atime: u64,
    /// Seconds.
    pub mtime: u64,
    /// Seconds.
    pub ctime: u64,
    /// Nanoseconds.
    pub atimensec: u32,
    /// Nanoseconds.
    pub mtimensec: u32,
    /// Nanoseconds.
    pub ctimensec: u32,
    /// Mode.
    pub mode: u32,
    /// Unused.
    pub unused4: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Unused.
    pub unused5: u32,
}

/// MKNOD, before the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MknodIn {
    /// Type and permissions.
    pub mode: u32,
    /// Device number.
    pub rdev: u32,
    /// The caller's umask.
    pub umask: u32,
    /// Unused.
    pub padding: u32,
}

/// MKDIR, before the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MkdirIn {
    /// Permissions.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
}

/// RENAME, before both names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RenameIn {
    /// Node id of the new parent.
    pub newdir: u64,
}

/// RENAME2, before both names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rename2In {
    /// Node id of the new parent.
    pub newdir: u64,
    /// renameat2(2) flags.
    pub flags: u32,
    /// Unused.
    pub padding: u32,
}

/// LINK, before the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LinkIn {
    /// Node to link.
    pub oldnodeid: u64,
}

/// OPEN and OPENDIR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenIn {
    /// open(2) flags.
    pub flags: u32,
    /// [`super::open_in`].
    pub open_flags: u32,
}

/// CREATE and TMPFILE, before the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateIn {
    /// open(2) flags.
    pub flags: u32,
    /// Permissions.
    pub mode: u32,
    /// The caller's umask.
    pub umask: u32,
    /// [`super::open_in`].
    pub open_flags: u32,
}

/// RELEASE and RELEASEDIR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReleaseIn {
    /// Handle.
    pub fh: u64,
    /// open(2) flags.
    pub flags: u32,
    /// [`super::release_flags`].
    pub release_flags: u32,
    /// Lock owner.
    pub lock_owner: u64,
}

/// FLUSH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlushIn {
    /// Handle.
    pub fh: u64,
    /// Unused.
    pub unused: u32,
    /// Unused.
    pub padding: u32,
    /// Lock owner.
    pub lock_owner: u64,
}

/// READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadIn {
    /// Handle.
    pub fh: u64,
    /// Offset in bytes, or a directory position.
    pub offset: u64,
    /// Bytes wanted.
    pub size: u32,
    /// Bit 1: lock_owner is valid.
    pub read_flags: u32,
    /// Lock owner.
    pub lock_owner: u64,
    /// open(2) flags.
    pub flags: u32,
    /// Unused.
    pub padding: u32,
}

/// WRITE, before the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WriteIn {
    /// Handle.
    pub fh: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// Bytes of data.
    pub size: u32,
    /// [`super::write_flags`].
    pub write_flags: u32,
    /// Lock owner.
    pub lock_owner: u64,
    /// open(2) flags.
    pub flags: u32,
    /// Unused.
    pub padding: u32,
}

/// FSYNC and FSYNCDIR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FsyncIn {
    /// Handle.
    pub fh: u64,
    /// [`super::fsync_flags`].
    pub flags: u32,
    /// Unused.
    pub padding: u32,
}

/// SETXATTR, before name and value; without SETXATTR_EXT only the first two fields travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetxattrIn {
    /// Bytes of the value.
    pub size: u32,
    /// setxattr(2) flags.
    pub flags: u32,
    /// [`super::setxattr_flags`].
    pub setxattr_flags: u32,
    /// Unused.
    pub padding: u32,
}

/// GETXATTR, before the name, and LISTXATTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetxattrIn {
    /// Room for the value; 0 asks for its size.
    pub size: u32,
    /// Unused.
    pub padding: u32,
}

/// A lock (fuse_file_lock).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FileLock {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub kind: u32,
    /// Process that holds it.
    pub pid: u32,
}

/// GETLK, SETLK and SETLKW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LkIn {
    /// Handle.
    pub fh: u64,
    /// Lock owner.
    pub owner: u64,
    /// The lock.
    pub lk: FileLock,
    /// [`super::lock_flags`].
    pub lk_flags: u32,
    /// Unused.
    pub padding: u32,
}

/// ACCESS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AccessIn {
    /// access(2) mode.
    pub mask: u32,
    /// Unused.
    pub padding: u32,
}

/// INTERRUPT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InterruptIn {
    /// The request to interrupt.
    pub unique: u64,
}

/// IOCTL, before its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoctlIn {
    /// Handle.
    pub fh: u64,
    /// FUSE_IOCTL_*.
    pub flags: u32,
    /// Command.
    pub cmd: u32,
    /// Argument.
    pub arg: u64,
    /// Bytes that follow.
    pub in_size: u32,
    /// Room for the result.
    pub out_size: u32,
}

/// FALLOCATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FallocateIn {
    /// Handle.
    pub fh: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
    /// fallocate(2) mode.
    pub mode: u32,
    /// Unused.
    pub padding: u32,
}

/// LSEEK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LseekIn {
    /// Handle.
    pub fh: u64,
    /// Offset in bytes.
    pub offset: u64,
    /// SEEK_DATA, SEEK_HOLE, …
    pub whence: u32,
    /// Unused.
    pub padding: u32,
}

/// COPY_FILE_RANGE and COPY_FILE_RANGE_64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyFileRangeIn {
    /// Source handle.
    pub fh_in: u64,
    /// Source offset.
    pub off_in: u64,
    /// Target node.
    pub nodeid_out: u64,
    /// Target handle.
    pub fh_out: u64,
    /// Target offset.
    pub off_out: u64,
    /// Bytes to copy.
    pub len: u64,
    /// copy_file_range(2) flags.
    pub flags: u64,
}

/// SYNCFS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SyncfsIn {
    /// Unused.
    pub padding: u64,
}
