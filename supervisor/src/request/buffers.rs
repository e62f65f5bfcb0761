//! Buffers that a queue's thread uses again and again.

use airlockfs_ipc::ring::MessageBuffer;

use super::value::Request;
use crate::fuse::MAX_HEAD;

/// Private buffers of a queue's thread.
pub(crate) struct Buffers {
    /// A reply of the worker.
    pub(super) message: MessageBuffer,
    /// A request of the guest, without its header.
    pub(super) control: Vec<u8>,
    /// For building answers.
    pub(super) reply: ReplyBuffers,
    /// Requests that data threads are done with.
    #[expect(clippy::vec_box, reason = "the boxes are what goes round")]
    pub(super) finished: Vec<Box<Request>>,
}

/// Buffers for building an answer.
pub(super) struct ReplyBuffers {
    /// All of it, but for bulk data and directory entries.
    pub(super) head: Box<[u8; MAX_HEAD]>,
    /// Directory entries as the guest reads them.
    pub(super) records: Vec<u8>,
    /// Directory entries as the worker wrote them.
    pub(super) entries: Vec<u8>,
}

impl Buffers {
    /// Empty ones.
    pub(crate) fn new() -> Self {
        Self {
            message: MessageBuffer::new(),
            control: Vec::new(),
            reply: ReplyBuffers {
                head: Box::new([0; MAX_HEAD]),
                records: Vec::new(),
                entries: Vec::new(),
            },
            finished: Vec::new(),
        }
    }
}
