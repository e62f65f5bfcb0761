//! Guest bytes → checked operation.

use airlockfs_ipc::Errno;

use super::{Chain, Decoded, Negotiated, Refusal};

/// `struct fuse_in_header`.
pub(crate) const IN_HEADER_LEN: usize = 40;

/// Most bytes a request may have besides WRITE's data: the largest attribute value and the rest.
pub(crate) const MAX_CONTROL: usize = IN_HEADER_LEN + (64 << 10) + (8 << 10);

/// How many of a chain's `readable` bytes are control data, to be copied to private memory once and given to
/// [`decode`]: 80 for WRITE, whose data stays where it is, and everything for others, but never more than
/// [`MAX_CONTROL`] (decode refuses what is longer). The opcode is bytes 4..8 of the header; read it once, copy the
/// header first and the rest behind it.
pub(crate) fn control_len(header: &[u8; IN_HEADER_LEN], readable: usize) -> usize {
    let _ = header;
    readable.min(MAX_CONTROL)
}

/// Decodes and checks a request. `control` is the private copy of its first [`control_len`] bytes; `session` is
/// `None` before INIT and after DESTROY, when everything but INIT is EIO.
pub(crate) fn decode<'a>(
    control: &'a [u8],
    chain: Chain,
    session: Option<&Negotiated>,
) -> Result<Decoded<'a>, Refusal> {
    let _ = (control, chain, session);
    Err(Refusal {
        answer: Some((0, Errno::ENOSYS)),
        malformed: false,
        why: "skeleton",
    })
}
