//! Buffers that a queue's thread uses again and again.

use airlockfs_ipc::ring::MessageBuffer;

use crate::{data::Job, fuse::MAX_HEAD};

/// Private buffers of a queue's thread.
pub(crate) struct Scratch {
    /// A reply of the worker.
    pub(crate) message: MessageBuffer,
    /// A request of the guest.
    pub(crate) control: Vec<u8>,
    /// Room for answers.
    pub(crate) room: Room,
    #[expect(clippy::vec_box, reason = "the boxes go round between the queue and the pool")]
    pub(super) finished: Vec<Box<Job>>,
}

/// Room for building an answer.
pub(crate) struct Room {
    /// All of it, but for bulk data and directory entries.
    pub(crate) head: Box<[u8; MAX_HEAD]>,
    /// Directory entries as the guest reads them.
    pub(crate) records: Vec<u8>,
    /// Directory entries as the worker wrote them.
    pub(crate) entries: Vec<u8>,
}

impl Scratch {
    /// Empty ones.
    pub(crate) fn new() -> Self {
        Self {
            message: MessageBuffer::new(),
            control: Vec::new(),
            room: Room {
                head: Box::new([0; MAX_HEAD]),
                records: Vec::new(),
                entries: Vec::new(),
            },
            finished: Vec::new(),
        }
    }
}
