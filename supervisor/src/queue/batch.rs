//! BATCH_FORGET longer than any other request (a guest that drops a million inodes at once): its records are taken in
//! pieces, as the worker gets through them, and the other requests of the group go on in between.

use super::{FORGETS, Group, NoRoom};
use crate::{chain::Chain, guest_memory::Memory, pending::Head};

/// Bytes of records taken at a time: eight messages, of a lane's 128.
const PIECE: usize = 8 * FORGETS;

/// One that was taken in part. Its chain is the device's until all of it is.
#[derive(Debug)]
pub(super) struct Batch {
    head: Head,
    chain: Chain,
    /// Where the next record stands in the chain's readable half.
    at: usize,
    /// Bytes of records from there on.
    left: usize,
}

impl Group {
    /// Begins with the chain at hand, whose records stand at byte `at` of what is readable.
    pub(crate) fn begin_batch(&mut self, head: Head, at: usize, length: usize) -> Result<(), NoRoom> {
        if self.batch.is_some() {
            return Err(NoRoom);
        }
        self.batch = Some(Batch {
            head,
            chain: std::mem::take(&mut self.chain),
            at,
            left: length,
        });
        Ok(())
    }

    /// Takes the next piece, if the one before is sent. Each byte is read once.
    pub(super) fn take_batch(&mut self, memory: &Memory) -> bool {
        let Some(batch) = &mut self.batch else {
            return false;
        };
        if self.shared.failure.is_set() {
            self.end_batch();
            return true;
        }
        if !self.forgets.is_empty() {
            return false;
        }
        let piece = batch.left.min(PIECE);
        self.forgets.resize(piece, 0);
        let head = batch.head;
        let read = batch.chain.readable.read(memory, batch.at, &mut self.forgets);
        (batch.at, batch.left) = (batch.at + piece, batch.left - piece);
        let left = batch.left;
        if read.is_err() {
            // The VMM took that memory away meanwhile.
            self.forgets.clear();
            self.malformed(head, &"its records are not in guest memory");
        } else if let Some(handles) = &self.shared.handles {
            handles.forgotten(&self.forgets);
        }
        if read.is_err() || left == 0 {
            self.end_batch();
        }
        true
    }

    /// Gives the chain back.
    pub(super) fn end_batch(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.put_used(batch.head, 0);
        }
    }
}
