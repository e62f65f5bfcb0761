//! Moves bytes between guest memory and a file, or between guest memory and a bulk buffer of the ring, without
//! a stop in private memory. The only `unsafe` of the supervisor's request path: the kernel and memcpy want pointers.
#![expect(
    unsafe_code,
    reason = "vectored I/O on guest memory and shared bulk buffers goes through pointers"
)]

use std::os::fd::{AsRawFd, BorrowedFd};

use airlockfs_ipc::{
    Errno,
    ring::{BULK_SIZE, BulkBuffer},
};
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::{
    fault,
    guest_memory::{BadAddress, Memory, Pieces},
};

/// Vectors in one call: pages of a 1 MiB request. Larger ones take several calls.
const VECTORS: usize = 256;

/// What one system call moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Bytes the call was asked for: not all, if the pieces are many.
    pub(crate) asked: usize,
    /// Bytes it moved.
    pub(crate) done: usize,
}

/// One preadv2(2) from `file` at `offset` into the pieces from byte `skip` on, `length` bytes at most. With `nowait`
/// (RWF_NOWAIT) EAGAIN says that it would have to wait for a device. Never moves the file's own offset.
pub(crate) fn read(
    file: BorrowedFd<'_>,
    offset: u64,
    memory: &Memory,
    pieces: &Pieces,
    skip: usize,
    length: usize,
    nowait: bool,
) -> Result<Moved, Errno> {
    let offset = file_offset(offset)?;
    let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
    with_vectors(memory, pieces, skip, length, |vectors, count| {
        // SAFETY: the vectors name `count` ranges of mapped guest memory, which `memory` keeps mapped; that memory is
        // shared with the guest and no Rust reference to it exists.
        unsafe { libc::preadv2(file.as_raw_fd(), vectors, count, offset, flags) }
    })
}

/// One pwritev2(2) to `file` at `offset` from the pieces from byte `skip` on, `length` bytes at most.
pub(crate) fn write(
    file: BorrowedFd<'_>,
    offset: u64,
    memory: &Memory,
    pieces: &Pieces,
    skip: usize,
    length: usize,
) -> Result<Moved, Errno> {
    let offset = file_offset(offset)?;
    with_vectors(memory, pieces, skip, length, |vectors, count| {
        // SAFETY: as in `read`; the kernel only reads the ranges.
        unsafe { libc::pwritev2(file.as_raw_fd(), vectors, count, offset, 0) }
    })
}

/// One preadv2(2) from `file` at `offset` into private memory. How many bytes.
pub(crate) fn read_private(file: BorrowedFd<'_>, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
    let offset = file_offset(offset)?;
    let vector = libc::iovec {
        iov_base: to.as_mut_ptr().cast(),
        iov_len: to.len(),
    };
    // SAFETY: the vector is the room of `to`.
    again(|| unsafe { libc::preadv2(file.as_raw_fd(), &raw const vector, 1, offset, 0) })
}

/// One pwritev2(2) to `file` at `offset` from private memory. How many bytes.
pub(crate) fn write_private(file: BorrowedFd<'_>, offset: u64, from: &mut [u8]) -> Result<usize, Errno> {
    let offset = file_offset(offset)?;
    let vector = libc::iovec {
        iov_base: from.as_mut_ptr().cast(),
        iov_len: from.len(),
    };
    // SAFETY: as in `read_private`.
    again(|| unsafe { libc::pwritev2(file.as_raw_fd(), &raw const vector, 1, offset, 0) })
}

/// Makes a call until no signal interrupts it.
fn again(call: impl Fn() -> isize) -> Result<usize, Errno> {
    loop {
        match usize::try_from(call()) {
            Ok(done) => return Ok(done),
            Err(_) => match Errno::last() {
                error if error.number() == libc::EINTR => {}
                error => return Err(error),
            },
        }
    }
}

/// Offsets past `i64::MAX` do not exist; as a negative number, -1 would mean the file's own offset.
fn file_offset(offset: u64) -> Result<libc::off_t, Errno> {
    libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)
}

fn with_vectors(
    memory: &Memory,
    pieces: &Pieces,
    skip: usize,
    length: usize,
    call: impl Fn(*const libc::iovec, libc::c_int) -> isize,
) -> Result<Moved, Errno> {
    let mut vectors = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; VECTORS];
    let mut places = vectors.iter_mut();
    let (mut asked, mut count) = (0, 0_usize);
    'full: for piece in pieces.range(skip, length) {
        // A piece may cross from one region of the memory map into the next.
        for slice in slices(memory, piece.address, piece.length as usize) {
            let slice = slice.map_err(|_| Errno::EIO)?;
            let Some(place) = places.next() else { break 'full };
            *place = libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            };
            asked += slice.len();
            count += 1;
        }
    }
    let done =
        again(|| call(vectors.as_ptr(), count as libc::c_int)).map_err(|error| match error.number() {
            libc::EFAULT => {
                // All of it was mapped: the VMM took it away.
                fault::report();
                Errno::EIO
            }
            _ => error,
        })?;
    // Less than asked: the end of the file, or of memory that the VMM took away.
    touch(vectors.get(..count).unwrap_or_default(), done);
    Ok(Moved { asked, done })
}

/// Reads the byte behind the first `done` ones, if there is one. Memory that is not there is told by that ([`fault`]).
fn touch(vectors: &[libc::iovec], mut done: usize) {
    for vector in vectors {
        if done < vector.iov_len {
            // SAFETY: in bounds of a range of mapped guest memory; any byte will do.
            let _ = unsafe { vector.iov_base.cast::<u8>().add(done).read_volatile() };
            return;
        }
        done -= vector.iov_len;
    }
}

fn slices(
    memory: &Memory,
    address: u64,
    length: usize,
) -> impl Iterator<Item = Result<VolatileSlice<'_>, BadAddress>> {
    memory
        .get_slices(GuestAddress(address), length)
        .map(|slice| Ok(slice?))
}

/// Copies the first `length` bytes of `bulk` into the pieces from byte `skip` on.
pub(crate) fn bulk_to_guest(
    bulk: &BulkBuffer,
    memory: &Memory,
    pieces: &Pieces,
    skip: usize,
    length: usize,
) -> Result<(), BadAddress> {
    with_bulk(bulk, memory, pieces, skip, length, |bulk, guest| {
        bulk.copy_to_volatile_slice(guest)
    })
}

/// Copies `length` bytes of the pieces from byte `skip` on to the start of `bulk`.
pub(crate) fn guest_to_bulk(
    bulk: &BulkBuffer,
    memory: &Memory,
    pieces: &Pieces,
    skip: usize,
    length: usize,
) -> Result<(), BadAddress> {
    with_bulk(bulk, memory, pieces, skip, length, |bulk, guest| {
        guest.copy_to_volatile_slice(bulk)
    })
}

fn with_bulk(
    bulk: &BulkBuffer,
    memory: &Memory,
    pieces: &Pieces,
    skip: usize,
    length: usize,
    copy: impl Fn(VolatileSlice<'_>, VolatileSlice<'_>),
) -> Result<(), BadAddress> {
    // SAFETY: BULK_SIZE bytes from there are mapped while `bulk` lives, which is longer than the slice; they are shared
    // memory, only ever reached through volatile or opaque copies.
    let buffer = unsafe { VolatileSlice::new(bulk.as_mut_ptr(), BULK_SIZE) };
    let mut at = 0;
    for piece in pieces.range(skip, length) {
        for slice in slices(memory, piece.address, piece.length as usize) {
            let slice = slice?;
            let part = buffer.subslice(at, slice.len()).map_err(|_| BadAddress)?;
            at += slice.len();
            copy(part, slice);
        }
    }
    if at == length { Ok(()) } else { Err(BadAddress) }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd, os::unix::fs::FileExt};

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;
    use crate::guest_memory::tests::memory;

    fn scattered(memory: &Memory, count: u64) -> Pieces {
        let mut pieces = Pieces::default();
        for index in 0..count {
            pieces.push(memory, 0x1000 + index * 8, 4).unwrap();
        }
        pieces
    }

    #[test]
    fn many_pieces_take_several_calls() {
        let memory = memory();
        let pieces = scattered(&memory, VECTORS as u64 + 1);
        let file = File::from(memfd_create(c"test", MFdFlags::empty()).unwrap());
        let moved = write(file.as_fd(), 0, &memory, &pieces, 0, pieces.len()).unwrap();
        assert_eq!(
            moved,
            Moved {
                asked: VECTORS * 4,
                done: VECTORS * 4
            }
        );
        let moved = write(file.as_fd(), 0, &memory, &pieces, moved.done, pieces.len()).unwrap();
        assert_eq!(moved, Moved { asked: 4, done: 4 });
    }

    #[test]
    fn bytes_go_where_the_pieces_say() {
        let memory = memory();
        let pieces = scattered(&memory, 3);
        let file = File::from(memfd_create(c"test", MFdFlags::empty()).unwrap());
        file.write_all_at(b"0123456789", 0).unwrap();
        let moved = read(file.as_fd(), 2, &memory, &pieces, 2, 100, false).unwrap();
        assert_eq!(moved, Moved { asked: 10, done: 8 });
        let mut back = [0; 12];
        pieces.read(&memory, 0, &mut back).unwrap();
        assert_eq!(&back, b"\0\x0023456789\0\0");
    }

    #[test]
    fn offsets_past_the_largest_are_refused() {
        let memory = memory();
        let pieces = scattered(&memory, 1);
        let file = File::from(memfd_create(c"test", MFdFlags::empty()).unwrap());
        for offset in [u64::MAX, 1 << 63] {
            assert_eq!(
                read(file.as_fd(), offset, &memory, &pieces, 0, 4, false),
                Err(Errno::EINVAL)
            );
            assert_eq!(
                write(file.as_fd(), offset, &memory, &pieces, 0, 4),
                Err(Errno::EINVAL)
            );
        }
    }
}
