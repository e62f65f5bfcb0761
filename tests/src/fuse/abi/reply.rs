//! Bodies of replies.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Header of every reply (fuse_out_header).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OutHeader {
    /// Length of the reply, this header included.
    pub len: u32,
    /// 0 or a negative errno.
    pub error: i32,
    /// The request's name.
    pub unique: u64,
}

/// Attributes (fuse_attr).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attr {
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
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
    /// Type and permissions.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Preferred block size.
    pub blksize: u32,
    /// [`super::attr_flags`].
    pub flags: u32,
}

/// A node: LOOKUP and whatever creates (fuse_entry_out).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EntryOut {
    /// Node id.
    pub nodeid: u64,
    /// Generation.
    pub generation: u64,
    /// Seconds the name stays valid.
    pub entry_valid: u64,
    /// Seconds the attributes stay valid.
    pub attr_valid: u64,
    /// Nanoseconds.
    pub entry_valid_nsec: u32,
    /// Nanoseconds.
    pub attr_valid_nsec: u32,
    /// Attributes.
    pub attr: Attr,
}

/// GETATTR and SETATTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttrOut {
    /// Seconds the attributes stay valid.
    pub attr_valid: u64,
    /// Nanoseconds.
    pub attr_valid_nsec: u32,
    /// Unused.
    pub dummy: u32,
    /// Attributes.
    pub attr: Attr,
}

/// A time of STATX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SxTime {
    /// Seconds.
    pub tv_sec: i64,
    /// Nanoseconds.
    pub tv_nsec: u32,
    /// Unused.
    pub reserved: i32,
}

/// The attributes of STATX (fuse_statx).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Statx {
    /// Fields that are valid.
    pub mask: u32,
    /// Preferred block size.
    pub blksize: u32,
    /// STATX_ATTR_*.
    pub attributes: u64,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and permissions.
    pub mode: u16,
    /// Unused.
    pub spare0: u16,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Attributes the file system knows.
    pub attributes_mask: u64,
    /// Last access.
    pub atime: SxTime,
    /// Birth.
    pub btime: SxTime,
    /// Last change of the inode.
    pub ctime: SxTime,
    /// Last change of the data.
    pub mtime: SxTime,
    /// Device.
    pub rdev_major: u32,
    /// Device.
    pub rdev_minor: u32,
    /// File system.
    pub dev_major: u32,
    /// File system.
    pub dev_minor: u32,
    /// Unused.
    pub spare2: [u64; 14],
}

/// STATX.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatxOut {
    /// Seconds the attributes stay valid.
    pub attr_valid: u64,
    /// Nanoseconds.
    pub attr_valid_nsec: u32,
    /// Unused.
    pub flags: u32,
    /// Unused.
    pub spare: [u64; 2],
    /// Attributes.
    pub stat: Statx,
}

/// OPEN and OPENDIR; CREATE after its entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OpenOut {
    /// Handle.
    pub fh: u64,
    /// [`super::open_out`].
    pub open_flags: u32,
    /// Passthrough.
    pub backing_id: i32,
}

/// WRITE and COPY_FILE_RANGE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WriteOut {
    /// Bytes written.
    pub size: u32,
    /// Unused.
    pub padding: u32,
}

/// COPY_FILE_RANGE_64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyFileRangeOut {
    /// Bytes copied.
    pub bytes_copied: u64,
}

/// STATFS (fuse_kstatfs).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Kstatfs {
    /// Blocks.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred block size.
    pub bsize: u32,
    /// Longest name.
    pub namelen: u32,
    /// Size of a block.
    pub frsize: u32,
    /// Unused.
    pub padding: u32,
    /// Unused.
    pub spare: [u32; 6],
}

/// The size that GETXATTR or LISTXATTR asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetxattrOut {
    /// Bytes.
    pub size: u32,
    /// Unused.
    pub padding: u32,
}

/// GETLK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LkOut {
    /// The lock in the way, or F_UNLCK.
    pub lk: super::FileLock,
}

/// LSEEK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct LseekOut {
    /// Offset in bytes.
    pub offset: u64,
}

/// IOCTL, before its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoctlOut {
    /// The call's result.
    pub result: i32,
    /// FUSE_IOCTL_*.
    pub flags: u32,
    /// Unused.
    pub in_iovs: u32,
    /// Unused.
    pub out_iovs: u32,
}

/// INIT (fuse_init_out).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitOut {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Most bytes of readahead.
    pub max_readahead: u32,
    /// Lower half of the flags.
    pub flags: u32,
    /// Most requests in the background.
    pub max_background: u16,
    /// Requests that count as congestion.
    pub congestion_threshold: u16,
    /// Most bytes of a write.
    pub max_write: u32,
    /// Granularity of times in nanoseconds.
    pub time_gran: u32,
    /// Most pages of a request.
    pub max_pages: u16,
    /// DAX.
    pub map_alignment: u16,
    /// Upper half of the flags.
    pub flags2: u32,
    /// Passthrough.
    pub max_stack_depth: u32,
    /// Seconds.
    pub request_timeout: u16,
    /// Unused.
    pub unused: [u16; 11],
}

/// A directory entry, before its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Dirent {
    /// Inode number.
    pub ino: u64,
    /// Position after it.
    pub off: u64,
    /// Bytes of the name.
    pub namelen: u32,
    /// DT_*.
    pub kind: u32,
}

impl InitOut {
    /// Both halves of the flags.
    pub fn all_flags(&self) -> u64 {
        u64::from(self.flags) | u64::from(self.flags2) << 32
    }
}

impl Attr {
    /// The file type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// The mode without the file type.
    pub fn perm(&self) -> u32 {
        self.mode & 0o7777
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel_header() {
        assert_eq!(size_of::<Attr>(), 88);
        assert_eq!(size_of::<EntryOut>(), 128);
        assert_eq!(size_of::<AttrOut>(), 104);
        assert_eq!(size_of::<Statx>(), 256);
        assert_eq!(size_of::<StatxOut>(), 288);
        assert_eq!(size_of::<InitOut>(), 64);
        assert_eq!(size_of::<Kstatfs>(), 80);
        assert_eq!(size_of::<Dirent>(), 24);
        assert_eq!(super::super::IN_HEADER, 40);
        assert_eq!(size_of::<super::super::InitIn>(), 64);
        assert_eq!(size_of::<super::super::SetattrIn>(), 88);
        assert_eq!(size_of::<super::super::WriteIn>(), 40);
        assert_eq!(size_of::<super::super::LkIn>(), 48);
    }
}
