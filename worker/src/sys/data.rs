//! File data between a file and a bulk buffer in shared memory (preadv2(2), pwritev2(2)).
#![expect(
    unsafe_code,
    reason = "the bulk buffer is shared memory: it has an address, not a slice"
)]

use std::os::fd::{AsFd, AsRawFd};

use airlockfs_ipc::{
    Errno,
    ring::{BULK_SIZE, BulkBuffer},
};

use super::check;

/// A part of a bulk buffer and the place in the file that it belongs to.
pub(crate) struct Placed<'a> {
    /// The buffer.
    pub(crate) buffer: &'a BulkBuffer,
    /// How many bytes from its beginning are done already.
    pub(crate) done: usize,
    /// How many bytes from its beginning are asked for.
    pub(crate) size: usize,
    /// Where the buffer's beginning belongs in the file.
    pub(crate) offset: i64,
}

impl Placed<'_> {
    fn io_vec(&self) -> (libc::iovec, i64) {
        let done = self.done.min(BULK_SIZE);
        let length = self.size.min(BULK_SIZE).saturating_sub(done);
        let vector = libc::iovec {
            iov_base: self.buffer.as_mut_ptr().wrapping_add(done).cast(),
            iov_len: length,
        };
        (vector, self.offset.saturating_add_unsigned(done as u64))
    }
}

/// Reads what is not done yet; `flags` of preadv2(2). How many bytes.
pub(crate) fn read(file: impl AsFd, place: &Placed<'_>, flags: i32) -> Result<usize, Errno> {
    let (vector, offset) = place.io_vec();
    // SAFETY: the vector lies within the buffer, which `place` keeps mapped; other writers to it may race, and any
    // bytes will do.
    check(unsafe { libc::preadv2(file.as_fd().as_raw_fd(), &raw const vector, 1, offset, flags) } as i64)
}

/// Writes what is not done yet. How many bytes.
pub(crate) fn write(file: impl AsFd, place: &Placed<'_>) -> Result<usize, Errno> {
    let (vector, offset) = place.io_vec();
    // SAFETY: as in `read`.
    check(unsafe { libc::pwritev2(file.as_fd().as_raw_fd(), &raw const vector, 1, offset, 0) } as i64)
}
