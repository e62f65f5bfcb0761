//! What requests and replies are made of.

use serde::{Deserialize, Serialize};

use crate::{Bytes, Errno, NodeId};

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
