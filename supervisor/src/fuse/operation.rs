//! What decoding yields: checked types only.

use airlockfs_ipc::message::{FileOperation, Request};
use airlockfs_ipc::{Errno, Handle};

use super::{Row, abi};

/// How long the two halves of a descriptor chain are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Bytes the device may read: the request with its data.
    pub(crate) readable: usize,
    /// Bytes the device may write: room for the reply.
    pub(crate) writable: usize,
}

/// A request that passed every check.
#[derive(Debug)]
pub(crate) struct Decoded<'a> {
    /// The request's id, repeated in the reply.
    pub(crate) unique: u64,
    /// What is known of the operation.
    pub(crate) row: &'static Row,
    /// The largest answer that was asked for, in the unit of the row's reply: bytes, as a rule. 0 where nothing bounds it.
    pub(crate) limit: u64,
    /// What the row's [`Follows`](super::Follows) depends on: flags of open(2), or the mode that a file gets. 0 where it has none.
    pub(crate) mode: u32,
    /// What to do.
    pub(crate) operation: Operation<'a>,
}

/// A request that is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `unique` and the errno to answer with; `None`: no answer is possible or wanted, complete with length 0.
    pub(crate) answer: Option<(u64, Errno)>,
    /// No Linux guest would send this: count it and log it at a bounded rate. Otherwise a lawful request that is
    /// not served (ENOSYS, ENAMETOOLONG).
    pub(crate) malformed: bool,
    /// Why, for the log.
    pub(crate) why: &'static str,
}

impl Refusal {
    /// What has no header cannot be answered.
    pub(crate) const TOO_SHORT: Self = Self {
        answer: None,
        malformed: true,
        why: "shorter than a header",
    };
}

/// A checked operation, sorted by who serves it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Operation<'a> {
    /// First of a session: [`super::negotiate`].
    Init(super::Init),
    /// Ends the session; answered by a bare header. What follows is EIO until the next INIT.
    Destroy,
    /// The guest gave up waiting for the request with this unique; never answered.
    Interrupt { unique: u64 },
    /// Lookups dropped (FORGET, BATCH_FORGET); never answered.
    Forget(Forgets<'a>),
    /// The same, too long to be copied at once: `length` bytes of records, in the layout of [`Request::Forget`], behind
    /// the control part of the chain's readable half.
    ForgetBatch { length: usize },
    /// Served here on a donated descriptor, by the worker where there is none. Here the data of a READ has room in the chain's
    /// writable half behind the header, whatever its size (a guest with 64 KiB pages asks for up to 16 MiB): an answer
    /// shorter than asked says that the file ends there. The data of a WRITE, at most max_write, follows the control part in
    /// the readable half.
    File(FileOperation),
    /// The end of a handle: what is known of it here goes first. The guest waits for what `unlocks`.
    Release {
        /// What is asked.
        request: Request<'a>,
        /// The handle.
        handle: Handle,
        /// It ends locks of flock(2).
        unlocks: bool,
    },
    /// A wait for a lock, served by the worker. It may never end.
    WaitForLock(Request<'a>),
    /// Served by the worker.
    Ask {
        /// What is asked.
        request: Request<'a>,
        /// Goes to the slot's bulk buffer: an attribute's value (SETXATTR), else empty.
        value: &'a [u8],
    },
}

impl<'a> Operation<'a> {
    /// Served by the worker, without bulk data.
    pub(super) const fn ask(request: Request<'a>) -> Self {
        Self::Ask { request, value: &[] }
    }
}

/// Lookups to drop, in the layout of [`Request::Forget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forgets<'a> {
    /// FORGET.
    One([u8; 16]),
    /// BATCH_FORGET: a multiple of 16 bytes, up to [`super::decode::MAX_CONTROL`]; send in pieces of whole records.
    Many(&'a [u8]),
}

impl Forgets<'_> {
    /// Records of 16 bytes, node id and count.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::One(record) => record,
            Self::Many(records) => records,
        }
    }
}

/// How an answer is laid out for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyShape {
    /// There is none.
    Silent,
    /// A bare header.
    Nothing,
    /// `fuse_init_out`: [`super::reply::init`].
    Init,
    /// `fuse_entry_out`; ENOENT may be an entry without a node.
    Lookup,
    /// `fuse_entry_out`.
    Entry,
    /// `fuse_entry_out` and `fuse_open_out`.
    Created,
    /// The same of a file without a name (TMPFILE).
    CreatedUnnamed,
    /// `fuse_open_out`.
    Opened,
    /// The same of a directory.
    OpenedDirectory,
    /// `fuse_attr_out`.
    Attr,
    /// `fuse_statx_out`.
    Statx,
    /// A symbolic link's target, as many bytes as the chain has room for.
    Target,
    /// Opaque bytes, from the bulk buffer or in guest memory already.
    Bytes,
    /// The same if the guest asked for some, else `fuse_getxattr_out`.
    SizeOrBytes,
    /// `fuse_write_out`.
    Written,
    /// Bytes copied: `fuse_write_out`.
    Copied,
    /// Bytes copied: `fuse_copy_file_range_out`.
    CopiedWide,
    /// `fuse_lseek_out`.
    Offset,
    /// `fuse_statfs_out`.
    StatFs,
    /// `fuse_lk_out`.
    Lock,
    /// `fuse_dirent` records: [`super::dirent::encode`].
    Dirents,
    /// `fuse_direntplus` records.
    DirentsPlus,
    /// `fuse_ioctl_out`, and as many bytes as the call reads: flags, `struct fsxattr`, or none.
    Ioctl,
}

impl ReplyShape {
    /// Bytes of the shortest successful answer of this shape after its header, where it is at most `limit` bytes.
    pub(super) const fn least(self, limit: u64) -> usize {
        match self {
            Self::Silent | Self::Nothing | Self::Target | Self::Bytes | Self::Dirents | Self::DirentsPlus => {
                0
            }
            Self::Init => size_of::<abi::InitOut>(),
            Self::Lookup | Self::Entry => size_of::<abi::EntryOut>(),
            Self::Created | Self::CreatedUnnamed => size_of::<abi::EntryOut>() + size_of::<abi::OpenOut>(),
            Self::Opened | Self::OpenedDirectory => size_of::<abi::OpenOut>(),
            Self::Attr => size_of::<abi::AttrOut>(),
            Self::Statx => size_of::<abi::StatxOut>(),
            Self::SizeOrBytes if limit > 0 => 0,
            Self::SizeOrBytes => size_of::<abi::GetxattrOut>(),
            Self::Written | Self::Copied => size_of::<abi::WriteOut>(),
            Self::CopiedWide => size_of::<abi::CopyFileRangeOut>(),
            Self::Offset => size_of::<abi::LseekOut>(),
            Self::StatFs => size_of::<abi::StatfsOut>(),
            Self::Lock => size_of::<abi::LkOut>(),
            // A structure's size: it has 32 bits.
            Self::Ioctl => size_of::<abi::IoctlOut>() + limit as usize,
        }
    }
}
