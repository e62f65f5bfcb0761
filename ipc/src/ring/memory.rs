//! The mapping of a lane's memory, which the other process may change at any moment. All `unsafe` of the ring.
#![expect(
    unsafe_code,
    reason = "shared memory and futexes are reached through pointers and raw system calls"
)]

use std::{
    fs::File,
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::layout::{BULK_SIZE, LANE, MESSAGE_MAX, bulk};

/// A lane's part of the ring, mapped shared.
pub(super) struct LaneMemory {
    base: NonNull<u8>,
}

// SAFETY: the mapping is plain memory, owned until drop; all access goes through atomics or opaque bulk copies.
unsafe impl Send for LaneMemory {}
// SAFETY: as above.
unsafe impl Sync for LaneMemory {}

impl LaneMemory {
    /// Maps lane number `lane` of the ring's memory `file`, which must be large enough and sealed against shrinking.
    pub(super) fn map(file: impl AsFd, lane: u16) -> io::Result<Arc<Self>> {
        let offset = i64::from(lane) * LANE as i64;
        let length = const { NonZeroUsize::new(LANE).expect("a lane has a size") };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; the file is sealed against shrinking, so that
        // access cannot fault.
        let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, offset) }?;
        Ok(Arc::new(Self { base: base.cast() }))
    }

    pub(super) fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset <= LANE - 4 && offset.is_multiple_of(4));
        // SAFETY: in bounds (asserted), aligned (the base is page-aligned), valid while `self` is; a concurrent writer
        // in the other process makes it an atomic's business.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    pub(super) fn entry(&self, offset: usize) -> &AtomicU64 {
        assert!(offset <= LANE - 8 && offset.is_multiple_of(8));
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// Room for the message at `offset`.
    fn message(&self, offset: usize) -> &[AtomicU64; MESSAGE_MAX / 8] {
        assert!(offset <= LANE - MESSAGE_MAX && offset.is_multiple_of(8));
        // SAFETY: as in `word`; an `AtomicU64` is laid out as its number is, and an array as its elements in a row.
        unsafe { self.base.add(offset).cast().as_ref() }
    }

    /// Copies a message of `length` bytes out, once.
    pub(super) fn copy_out<'a>(&self, offset: usize, length: usize, to: &'a mut MessageBuffer) -> &'a [u8] {
        let words = to.0.iter_mut().zip(self.message(offset));
        for (to, from) in words.take(length.div_ceil(8)) {
            *to = from.load(Relaxed);
        }
        to.bytes().get(..length).unwrap_or_default()
    }

    /// Copies a message in that [`MessageBuffer::encode`] left in `from`.
    pub(super) fn copy_in(&self, offset: usize, length: usize, from: &MessageBuffer) {
        let words = from.0.iter().zip(self.message(offset));
        for (from, to) in words.take(length.div_ceil(8)) {
            to.store(*from, Relaxed);
        }
    }
}

impl Drop for LaneMemory {
    fn drop(&mut self) {
        // SAFETY: this mapping, made in `map`; every borrower holds the `Arc`.
        let _ = unsafe { munmap(self.base.cast(), LANE) };
    }
}

/// Private room for one message.
pub struct MessageBuffer(Box<[u64; MESSAGE_MAX / 8]>);

impl MessageBuffer {
    /// An empty one.
    pub fn new() -> Self {
        Self(Box::new([0; MESSAGE_MAX / 8]))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: a `u64` array is that many plain bytes.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), MESSAGE_MAX) }
    }

    /// Encodes `message` at the start; its length, or `None` if it does not fit.
    pub(super) fn encode(&mut self, message: &impl serde::Serialize) -> Option<usize> {
        // SAFETY: a `u64` array is that many plain bytes, and all bytes are valid in it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<u8>(), MESSAGE_MAX) };
        postcard::to_slice(message, bytes).ok().map(|used| used.len())
    }
}

impl Default for MessageBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// A bulk buffer of [`BULK_SIZE`] bytes in shared memory. What stands in it may change while it is read: it is for
/// opaque data and for bytes that are copied out before they are looked at.
#[derive(Clone)]
pub struct BulkBuffer {
    memory: Arc<LaneMemory>,
    offset: usize,
}

impl BulkBuffer {
    pub(super) fn new(memory: &Arc<LaneMemory>, index: u16) -> Self {
        let offset = bulk(index);
        assert!(offset <= LANE - BULK_SIZE);
        Self {
            memory: memory.clone(),
            offset,
        }
    }

    /// Where it begins: [`BULK_SIZE`] bytes, valid while this value lives, for `preadv2` and the like.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        // SAFETY: in bounds, checked in `new`.
        unsafe { self.memory.base.as_ptr().add(self.offset) }
    }

    /// Copies `to.len()` bytes out from `from` on. Returns how many stood there to copy, at most [`BULK_SIZE`].
    pub fn copy_to_slice(&self, from: usize, to: &mut [u8]) -> usize {
        let length = BULK_SIZE.saturating_sub(from).min(to.len());
        if length > 0 {
            // SAFETY: both ranges are valid and apart; the other process may race, and any bytes will do.
            unsafe { std::ptr::copy_nonoverlapping(self.as_mut_ptr().add(from), to.as_mut_ptr(), length) };
        }
        length
    }

    /// Copies `from` in at offset `at`. Returns how many bytes had room.
    pub fn copy_from_slice(&self, at: usize, from: &[u8]) -> usize {
        let length = BULK_SIZE.saturating_sub(at).min(from.len());
        if length > 0 {
            // SAFETY: as in `copy_to_slice`.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.as_mut_ptr().add(at), length) };
        }
        length
    }
}

/// Sleeps while `word` is `expected` (futex(2), shared). Returns at once if it is not; may return early.
pub(super) fn futex_wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the address is that of a live word; no timeout pointer is given.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            std::ptr::null::<libc::timespec>(),
        );
    }
}

/// Wakes the one that sleeps on `word`.
pub(super) fn futex_wake(word: &AtomicU32) {
    // SAFETY: the address is that of a live word.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
    }
}

/// The CPU this thread runs on, plus one; 0 if unknown (sched_getcpu(3), without a system call).
pub(crate) fn current_cpu() -> u32 {
    // SAFETY: takes no argument and touches no memory of ours.
    u32::try_from(unsafe { libc::sched_getcpu() }).map_or(0, |cpu| cpu.wrapping_add(1))
}

/// Makes the ring's memory for `lanes` lanes: a memfd that can neither shrink, grow, be executed nor unsealed.
pub(super) fn create(lanes: u16) -> io::Result<File> {
    use nix::{
        fcntl::{FcntlArg, SealFlag, fcntl},
        sys::memfd::{MFdFlags, memfd_create},
    };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let noexec = flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    // Kernels before 6.3 do not know MFD_NOEXEC_SEAL.
    let memory =
        memfd_create(c"airlockfs-ring", noexec).or_else(|_| memfd_create(c"airlockfs-ring", flags))?;
    let file = File::from(memory);
    file.set_len(u64::from(lanes) * LANE as u64)?;
    fcntl(
        &file,
        FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL),
    )?;
    Ok(file)
}

/// Whether `file` is large enough for `lanes` lanes and can never shrink beneath the mapping.
pub(super) fn check(file: &File, lanes: u16) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let seals = SealFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GET_SEALS)?);
    let large_enough = file.metadata()?.len() >= u64::from(lanes) * LANE as u64;
    if large_enough && seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL) {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the ring's memory is too small or not sealed",
        ))
    }
}
