//! Operations on an open file that need nothing but its descriptor: whoever holds one can carry them out.

use serde::{Deserialize, Serialize};

use super::Request;
use crate::{Handle, NodeId};

/// One of them. The supervisor carries it out on a donated descriptor, and the worker where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "fields are named by their types and by the FUSE operation they come from"
)]
pub enum FileOperation {
    /// `offset + size` is at most `i64::MAX`. In the ring the data goes to the slot's bulk buffer. → `Data`
    Read { handle: Handle, offset: u64, size: u32 },
    /// `offset + size` is at most `i64::MAX`. In the ring the data comes in the slot's bulk buffer. → `Written`
    Write {
        handle: Handle,
        offset: u64,
        size: u32,
        kill_suidgid: bool,
    },
    /// fsync(2) or fdatasync(2). → `Done`
    Fsync { handle: Handle, datasync: bool },
    /// SEEK_DATA or SEEK_HOLE from `offset`, at most `i64::MAX`. → `Offset`
    Lseek {
        handle: Handle,
        offset: u64,
        whence: u32,
    },
    /// `mode` of fallocate(2), `length` at least 1, `offset + length` at most `i64::MAX`. → `Done`
    Fallocate {
        handle: Handle,
        offset: u64,
        length: u64,
        mode: u32,
        kill_suidgid: bool,
    },
    /// → `Attr`
    GetAttr { node: NodeId, handle: Handle },
}

impl FileOperation {
    /// The open file.
    pub const fn handle(self) -> Handle {
        match self {
            Self::Read { handle, .. }
            | Self::Write { handle, .. }
            | Self::Fsync { handle, .. }
            | Self::Lseek { handle, .. }
            | Self::Fallocate { handle, .. }
            | Self::GetAttr { handle, .. } => handle,
        }
    }

    /// Bytes of file data it moves; none for what moves no data.
    pub const fn size(self) -> Option<u32> {
        match self {
            Self::Read { size, .. } | Self::Write { size, .. } => Some(size),
            _ => None,
        }
    }

    /// Whether it changes the file.
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Fallocate { .. })
    }

    /// What is left of a read or a write after `done` bytes, at most `most` bytes of it. Others have no parts.
    #[must_use]
    pub fn part(mut self, done: u32, most: u32) -> Self {
        if let Self::Read { offset, size, .. } | Self::Write { offset, size, .. } = &mut self {
            *offset = offset.saturating_add(done.into());
            *size = size.saturating_sub(done).min(most);
        }
        self
    }
}

impl From<FileOperation> for Request<'_> {
    fn from(operation: FileOperation) -> Self {
        Self::File(operation)
    }
}
