//! What decoding yields: checked types only.

use airlockfs_ipc::message::{FileOperation, Request};
use airlockfs_ipc::{Errno, Handle, NodeId};

use super::abi;

/// How long the two halves of a descriptor chain are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Bytes the device may read: the request with its data.
    pub(crate) readable: usize,
    /// Bytes the device may write: room for the reply.
    pub(crate) writable: usize,
}

/// A request that passed every check.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decoded<'a> {
    /// The request's id, repeated in the reply.
    pub(crate) unique: u64,
    /// The node it is about; 0 where the operation has none (INIT, DESTROY, BATCH_FORGET, INTERRUPT).
    pub(crate) node: NodeId,
    /// The operation's name in the FUSE header without `FUSE_`, for logs.
    pub(crate) name: &'static str,
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
    /// Served here on a donated descriptor, by the worker where there is none ([`Io::to_operation`]).
    Io(Io),
    /// Served by the worker.
    Control {
        /// What is asked.
        request: Request<'a>,
        /// How the answer is encoded.
        reply: ReplyShape,
        /// Goes to the slot's bulk buffer: an attribute's value (SETXATTR), else empty.
        bulk: &'a [u8],
    },
}

impl<'a> Operation<'a> {
    /// Served by the worker, without bulk data.
    pub(super) const fn control(request: Request<'a>, reply: ReplyShape) -> Self {
        Self::Control {
            request,
            reply,
            bulk: &[],
        }
    }

    /// Bytes of the shortest successful answer after its header.
    pub(super) const fn least_answer(&self) -> usize {
        match self {
            Self::Init(_) => size_of::<abi::InitOut>(),
            Self::Destroy | Self::Interrupt { .. } | Self::Forget(_) | Self::ForgetBatch { .. } => 0,
            Self::Io(io) => io.reply().least(),
            Self::Control { reply, .. } => reply.least(),
        }
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

/// Operations on an open file that need nothing but its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Io {
    /// `size` bytes fit the chain's writable half after the header, and `offset + size` is at most `i64::MAX`.
    /// Not limited by max_write (a guest with 64 KiB pages asks for up to 16 MiB): an answer shorter than `size`
    /// says that the file ends there, so serve all of it, in pieces through the ring.
    Read { handle: Handle, offset: u64, size: u32 },
    /// `size` bytes follow the control part in the chain's readable half; at most max_write, `offset + size` at
    /// most `i64::MAX`.
    Write {
        handle: Handle,
        offset: u64,
        size: u32,
        kill_suidgid: bool,
    },
    /// fsync(2) or fdatasync(2).
    Fsync { handle: Handle, datasync: bool },
    /// SEEK_DATA or SEEK_HOLE from `offset`, at most `i64::MAX`.
    Lseek {
        handle: Handle,
        offset: u64,
        whence: u32,
    },
    /// fallocate(2): `length` at least 1, `offset + length` at most `i64::MAX`.
    Fallocate {
        handle: Handle,
        offset: u64,
        length: u64,
        mode: u32,
        kill_suidgid: bool,
    },
    /// Attributes of an open file; `reply` is [`ReplyShape::Attr`] or [`ReplyShape::Statx`].
    GetAttr {
        node: NodeId,
        handle: Handle,
        reply: ReplyShape,
    },
}

impl Io {
    /// The open file.
    pub(crate) const fn handle(self) -> Handle {
        match self {
            Self::Read { handle, .. }
            | Self::Write { handle, .. }
            | Self::Fsync { handle, .. }
            | Self::Lseek { handle, .. }
            | Self::Fallocate { handle, .. }
            | Self::GetAttr { handle, .. } => handle,
        }
    }

    /// How its answer is encoded.
    pub(crate) const fn reply(self) -> ReplyShape {
        match self {
            Self::Read { size, .. } => ReplyShape::Bytes { max: size },
            Self::Write { size, .. } => ReplyShape::Written { max: size },
            Self::Fsync { .. } | Self::Fallocate { .. } => ReplyShape::Nothing,
            Self::Lseek { .. } => ReplyShape::Offset,
            Self::GetAttr { reply, .. } => reply,
        }
    }

    /// The same for the worker.
    pub(crate) const fn to_operation(self) -> FileOperation {
        match self {
            Self::Read { handle, offset, size } => FileOperation::Read { handle, offset, size },
            Self::Write {
                handle,
                offset,
                size,
                kill_suidgid,
            } => FileOperation::Write {
                handle,
                offset,
                size,
                kill_suidgid,
            },
            Self::Fsync { handle, datasync } => FileOperation::Fsync { handle, datasync },
            Self::Lseek {
                handle,
                offset,
                whence,
            } => FileOperation::Lseek {
                handle,
                offset,
                whence,
            },
            Self::Fallocate {
                handle,
                offset,
                length,
                mode,
                kill_suidgid,
            } => FileOperation::Fallocate {
                handle,
                offset,
                length,
                mode,
                kill_suidgid,
            },
            Self::GetAttr { node, handle, .. } => FileOperation::GetAttr { node, handle },
        }
    }
}

/// How an answer is laid out for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyShape {
    /// A bare header.
    Nothing,
    /// `fuse_entry_out`; `negative`: ENOENT may be an entry without a node (LOOKUP).
    Entry { negative: bool },
    /// `fuse_entry_out` and `fuse_open_out`; not `named`: TMPFILE's.
    Created { named: bool },
    /// `fuse_open_out`.
    Opened { directory: bool },
    /// `fuse_attr_out`.
    Attr,
    /// `fuse_statx_out`.
    Statx,
    /// A symbolic link's target, at most `max` bytes: the chain's room.
    Target { max: usize },
    /// At most `max` opaque bytes, from the bulk buffer (READ, GETXATTR, LISTXATTR).
    Bytes { max: u32 },
    /// `fuse_getxattr_out`.
    Size,
    /// `fuse_write_out`, at most `max` bytes.
    Written { max: u32 },
    /// At most `max` bytes copied: `fuse_copy_file_range_out` if `wide`, else `fuse_write_out`.
    Copied { wide: bool, max: u64 },
    /// `fuse_lseek_out`.
    Offset,
    /// `fuse_statfs_out`.
    StatFs,
    /// `fuse_lk_out`.
    Lock,
    /// `fuse_dirent` or `fuse_direntplus` records, at most `max` bytes: [`super::dirent::encode`].
    Dirents { plus: bool, max: u32 },
    /// `fuse_ioctl_out` and the flags.
    FileFlags,
    /// `fuse_ioctl_out` and `struct fsxattr`.
    FsXattr,
    /// `fuse_ioctl_out` alone.
    Ioctl,
}

impl ReplyShape {
    /// Bytes of the shortest body of this shape.
    const fn least(self) -> usize {
        match self {
            Self::Nothing | Self::Target { .. } | Self::Bytes { .. } | Self::Dirents { .. } => 0,
            Self::Entry { .. } => size_of::<abi::EntryOut>(),
            Self::Created { .. } => size_of::<abi::EntryOut>() + size_of::<abi::OpenOut>(),
            Self::Opened { .. } => size_of::<abi::OpenOut>(),
            Self::Attr => size_of::<abi::AttrOut>(),
            Self::Statx => size_of::<abi::StatxOut>(),
            Self::Size => size_of::<abi::GetxattrOut>(),
            Self::Written { .. } | Self::Copied { wide: false, .. } => size_of::<abi::WriteOut>(),
            Self::Copied { wide: true, .. } => size_of::<abi::CopyFileRangeOut>(),
            Self::Offset => size_of::<abi::LseekOut>(),
            Self::StatFs => size_of::<abi::StatfsOut>(),
            Self::Lock => size_of::<abi::LkOut>(),
            Self::FileFlags => size_of::<abi::IoctlOut>() + size_of::<u32>(),
            Self::FsXattr => size_of::<abi::IoctlOut>() + size_of::<abi::FsXattr>(),
            Self::Ioctl => size_of::<abi::IoctlOut>(),
        }
    }
}
