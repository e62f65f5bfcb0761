//! Structures the guest is sent, fields in the kernel's order.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::request::{FileLock, wire};

wire! {
    /// In front of every reply. `error` is a negated errno or 0.
    OutHeader { len: u32, error: i32, unique: u64, }
    /// INIT.
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16, congestion_threshold: u16,
        max_write: u32, time_gran: u32, max_pages: u16, map_alignment: u16, flags2: u32, max_stack_depth: u32,
        request_timeout: u16, unused: [u16; 11],
    }
    /// Attributes, in [`EntryOut`] and [`AttrOut`].
    Attr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32,
        ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    /// LOOKUP and whatever makes an inode.
    EntryOut {
        nodeid: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32,
        attr: Attr,
    }
    /// GETATTR, SETATTR.
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr, }
    /// A time in [`Statx`].
    SxTime { tv_sec: i64, tv_nsec: u32, reserved: i32, }
    /// Attributes, in [`StatxOut`].
    Statx {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, spare0: u16, ino: u64,
        size: u64, blocks: u64, attributes_mask: u64, atime: SxTime, btime: SxTime, ctime: SxTime, mtime: SxTime,
        rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, spare2: [u64; 14],
    }
    /// STATX.
    StatxOut { attr_valid: u64, attr_valid_nsec: u32, flags: u32, spare: [u64; 2], stat: Statx, }
    /// OPEN, OPENDIR, CREATE, TMPFILE.
    OpenOut { fh: u64, open_flags: u32, backing_id: i32, }
    /// WRITE, COPY_FILE_RANGE.
    WriteOut { size: u32, padding: u32, }
    /// COPY_FILE_RANGE_64.
    CopyFileRangeOut { bytes_copied: u64, }
    /// STATFS.
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
        padding: u32, spare: [u32; 6],
    }
    /// GETXATTR, LISTXATTR with size 0.
    GetxattrOut { size: u32, padding: u32, }
    /// GETLK.
    LkOut { lk: FileLock, }
    /// LSEEK.
    LseekOut { offset: u64, }
    /// IOCTL, before its data.
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32, }
    /// A directory entry, before its name.
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32, }
}
