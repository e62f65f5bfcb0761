//! The worker's answer → bytes for the guest.

use airlockfs_ipc::message::Reply;
use airlockfs_ipc::{Errno, ProtocolError};

use super::{InitOutcome, Negotiated, ReplyShape};

/// `struct fuse_out_header`.
pub(crate) const OUT_HEADER_LEN: usize = 16;

/// Room that holds every reply but bulk data and directory entries.
pub(crate) const MAX_HEAD: usize = 4352;

/// What to write to the chain: `head` bytes of the buffer given, then `bulk` bytes of the slot's bulk buffer
/// (opaque, straight from shared memory). `fuse_out_header.len` is their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// Bytes used of `out`.
    pub(crate) head: usize,
    /// Bytes to append from the bulk buffer.
    pub(crate) bulk: usize,
}

/// Encodes `reply` as `shape` into `out`, which is at least [`MAX_HEAD`] bytes long. An answer of another kind than
/// the shape, or larger than was asked, is the worker's [`ProtocolError`]. [`ReplyShape::Dirents`] is encoded by
/// [`super::dirent::encode`] and [`header`]; only its errors come here.
pub(crate) fn encode(
    shape: ReplyShape,
    reply: &Reply<'_>,
    unique: u64,
    session: &Negotiated,
    out: &mut [u8],
) -> Result<Encoded, ProtocolError> {
    let _ = (shape, reply, session);
    Ok(Encoded {
        head: error(unique, Errno::ENOSYS, out),
        bulk: 0,
    })
}

/// Encodes INIT's answer. Returns its length.
pub(crate) fn init(outcome: &InitOutcome, unique: u64, out: &mut [u8]) -> usize {
    let _ = outcome;
    error(unique, Errno::ENOSYS, out)
}

/// Encodes a bare header with an errno. Returns its length, 0 when `out` is shorter than a header.
pub(crate) fn error(unique: u64, errno: Errno, out: &mut [u8]) -> usize {
    let _ = (unique, errno, out);
    OUT_HEADER_LEN
}

/// Encodes a success header for `body` bytes that follow. Returns its length, 0 when `out` is shorter than a header.
pub(crate) fn header(unique: u64, body: usize, out: &mut [u8]) -> usize {
    let _ = (unique, body, out);
    OUT_HEADER_LEN
}
