//! What decoding yields: checked types only.

use airlockfs_ipc::message::{FileOperation, Request};
use airlockfs_ipc::{Errno, Handle};

/// How long the two halves of a descriptor chain are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Bytes the device may read: the request with its data.
    pub(crate) readable: usize,
    /// Bytes the device may write: room for the reply.
    pub(crate) writable: usize,
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
    /// BATCH_FORGET: a multiple of 16 bytes, up to [`super::decode::request::MAX_CONTROL`]; send in pieces of whole records.
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
