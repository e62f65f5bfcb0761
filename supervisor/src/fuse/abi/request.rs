//! Structures the guest sends, fields in the kernel's order. What counts in them is explained where they are decoded.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares structures of the wire: plain old data in C's layout.
macro_rules! wire {
    ($($(#[$meta:meta])* $name:ident { $($(#[$note:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub(crate) struct $name { $($(#[$note])* pub(crate) $field: $type,)* }
    )*};
}
pub(super) use wire;

wire! {
    /// In front of every request.
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        /// Length of the extensions in units of 8 bytes (since 7.38).
        total_extlen: u16,
        padding: u16,
    }
    /// INIT, all versions.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32, }
    /// INIT, behind [`InitIn`] with `INIT_EXT`.
    InitInExt { flags2: u32, unused: [u32; 11], }
    /// FORGET.
    ForgetIn { nlookup: u64, }
    /// BATCH_FORGET, before the records.
    BatchForgetIn { count: u32, dummy: u32, }
    /// INTERRUPT.
    InterruptIn { unique: u64, }
    /// GETATTR.
    GetattrIn { getattr_flags: u32, dummy: u32, fh: u64, }
    /// STATX.
    StatxIn { getattr_flags: u32, reserved: u32, fh: u64, sx_flags: u32, sx_mask: u32, }
    /// SETATTR.
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    /// MKNOD.
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32, }
    /// MKDIR.
    MkdirIn { mode: u32, umask: u32, }
    /// RENAME.
    RenameIn { newdir: u64, }
    /// RENAME2.
    Rename2In { newdir: u64, flags: u32, padding: u32, }
    /// LINK.
    LinkIn { oldnodeid: u64, }
    /// OPEN, OPENDIR.
    OpenIn { flags: u32, open_flags: u32, }
    /// CREATE, TMPFILE.
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32, }
    /// RELEASE, RELEASEDIR.
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64, }
    /// FLUSH.
    FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64, }
    /// READ, READDIR, READDIRPLUS.
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32, }
    /// WRITE, before the data.
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32, }
    /// FSYNC, FSYNCDIR.
    FsyncIn { fh: u64, fsync_flags: u32, padding: u32, }
    /// SETXATTR, all versions.
    SetxattrIn { size: u32, flags: u32, }
    /// SETXATTR, behind [`SetxattrIn`] with `SETXATTR_EXT`.
    SetxattrInExt { setxattr_flags: u32, padding: u32, }
    /// GETXATTR, LISTXATTR.
    GetxattrIn { size: u32, padding: u32, }
    /// In [`LkIn`] and the reply to GETLK.
    FileLock { start: u64, end: u64, kind: u32, pid: u32, }
    /// GETLK, SETLK, SETLKW.
    LkIn { fh: u64, owner: u64, lk: FileLock, lk_flags: u32, padding: u32, }
    /// ACCESS.
    AccessIn { mask: u32, padding: u32, }
    /// IOCTL, before its data.
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32, }
    /// FALLOCATE.
    FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32, }
    /// LSEEK.
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32, }
    /// COPY_FILE_RANGE and its 64-bit form.
    CopyFileRangeIn {
        fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
    }
    /// SYNCFS.
    SyncfsIn { padding: u64, }
    /// In front of every extension. In `fuse_secctx_header` the second field is a count up to 31.
    ExtHeader { size: u32, kind: u32, }
    /// Before a security context's name and value.
    Secctx { size: u32, padding: u32, }
    /// Before the groups of EXT_GROUPS.
    SuppGroups { nr_groups: u32, }
    /// `struct fsxattr` (linux/fs.h): FS_IOC_FSSETXATTR, and the reply to FS_IOC_FSGETXATTR.
    FsXattr { xflags: u32, extsize: u32, nextents: u32, projid: u32, cowextsize: u32, pad: [u8; 8], }
}
