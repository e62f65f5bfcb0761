//! A lane of the ring's memory without any rules: every word, every entry, every byte. This file
//! has its own numbers, as an attacker would, and tries them on `ipc/src/ring/layout.rs`.
#![allow(
    unsafe_code,
    reason = "shared memory and futexes are reached through pointers"
)]
#![allow(dead_code, reason = "the worker's suite and the supervisor's each use a part")]

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Requests submitted so far.
pub const SUBMITTED: usize = 0;
/// Requests completed so far.
pub const COMPLETED: usize = 64;
/// Whether the worker sleeps: a futex.
pub const WORKER_ASLEEP: usize = 128;
/// Whether the supervisor sleeps.
pub const SUPERVISOR_ASLEEP: usize = 192;
/// No bulk buffer.
pub const NO_BULK: u16 = u16::MAX;
/// Slots of a lane.
pub const SLOTS: usize = 128;
/// Room of a message.
pub const MESSAGE: usize = 8192;
/// Bulk buffers of a lane.
pub const BULKS: usize = 16;
/// Room of a bulk buffer.
pub const BULK: usize = 1 << 20;

const SUBMISSIONS: usize = 512;
const COMPLETIONS: usize = SUBMISSIONS + SLOTS * 8;
const MESSAGES: usize = 4096;
const STRIDE: usize = MESSAGE + 64;
const BULK_START: usize = (MESSAGES + SLOTS * STRIDE).next_multiple_of(4096);
/// Bytes of a lane.
pub const LANE: usize = BULK_START + BULKS * BULK;

/// A ring entry.
pub const fn entry(slot: u16, bulk: u16, length: u32) -> u64 {
    slot as u64 | (bulk as u64) << 16 | (length as u64) << 32
}

/// A request as it lies in the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRequest {
    /// Its slot.
    pub slot: u16,
    /// Its bulk buffer, or [`NO_BULK`].
    pub bulk: u16,
    /// The message.
    pub bytes: Vec<u8>,
}

/// A lane, mapped once more.
#[derive(Debug)]
pub struct RawLane {
    base: *mut u8,
    /// Requests that [`RawLane::next`] took.
    taken: u32,
}

// SAFETY: the mapping is shared memory, reached through atomics only; it goes with its owner.
unsafe impl Send for RawLane {}
// SAFETY: as above.
unsafe impl Sync for RawLane {}

impl RawLane {
    /// Maps a lane of the ring's memory.
    pub fn map(memory: impl AsFd, lane: usize) -> Self {
        let (fd, protection) = (memory.as_fd().as_raw_fd(), libc::PROT_READ | libc::PROT_WRITE);
        let offset = (lane * LANE) as libc::off_t;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LANE,
                protection,
                libc::MAP_SHARED,
                fd,
                offset,
            )
        };
        assert_ne!(
            base,
            libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        Self {
            base: base.cast(),
            taken: 0,
        }
    }

    /// A word.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset + 4 <= LANE && offset.is_multiple_of(4));
        // SAFETY: in bounds and aligned; others write there too, hence an atomic.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast()) }
    }

    fn long(&self, offset: usize) -> &AtomicU64 {
        assert!(offset + 8 <= LANE && offset.is_multiple_of(8));
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).cast()) }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let place = self.long(offset + index * 8);
            let mut word = place.load(SeqCst).to_ne_bytes();
            word[..chunk.len()].copy_from_slice(chunk);
            place.store(u64::from_ne_bytes(word), SeqCst);
        }
    }

    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).map(|index| self.long(offset + index * 8).load(SeqCst));
        let mut bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
        bytes.truncate(length);
        bytes
    }

    /// Writes a slot's message, as much of it as has room.
    pub fn write_message(&self, slot: u16, bytes: &[u8]) {
        let slot = usize::from(slot) % SLOTS;
        self.write(MESSAGES + slot * STRIDE, &bytes[..bytes.len().min(MESSAGE)]);
    }

    /// Changes one byte of a slot's message.
    pub fn write_message_at(&self, slot: u16, at: usize, byte: u8) {
        let offset = MESSAGES + usize::from(slot) % SLOTS * STRIDE + at % MESSAGE;
        assert!(offset < LANE);
        // SAFETY: in bounds; bytes of a message are accessed as atomics only.
        let place = unsafe { std::sync::atomic::AtomicU8::from_ptr(self.base.add(offset)) };
        place.store(byte, SeqCst);
    }

    /// Writes to a bulk buffer.
    pub fn write_bulk(&self, bulk: u16, at: usize, bytes: &[u8]) {
        self.write(BULK_START + usize::from(bulk) % BULKS * BULK + at, bytes);
    }

    /// Reads of a bulk buffer.
    pub fn read_bulk(&self, bulk: u16, length: usize) -> Vec<u8> {
        self.read(BULK_START + usize::from(bulk) % BULKS * BULK, length)
    }

    /// Writes a ring entry for requests, whatever the count is.
    pub fn put_submission(&self, count: u32, entry: u64) {
        self.long(SUBMISSIONS + count as usize % SLOTS * 8)
            .store(entry, SeqCst);
    }

    /// Writes a ring entry for completions.
    pub fn put_completion(&self, count: u32, entry: u64) {
        self.long(COMPLETIONS + count as usize % SLOTS * 8)
            .store(entry, SeqCst);
    }

    /// Announces a request and wakes the worker.
    pub fn submit(&self, entry: u64) {
        let count = self.word(SUBMITTED).load(SeqCst);
        self.put_submission(count, entry);
        self.word(SUBMITTED).store(count.wrapping_add(1), SeqCst);
        self.wake_worker();
    }

    /// Wakes the worker, asleep or not.
    pub fn wake_worker(&self) {
        let word = self.word(WORKER_ASLEEP);
        word.store(0, SeqCst);
        // SAFETY: the address of a live word.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }

    /// Announces a completion. The supervisor is not told.
    pub fn complete(&self, entry: u64) {
        let count = self.word(COMPLETED).load(SeqCst);
        self.put_completion(count, entry);
        self.word(COMPLETED).store(count.wrapping_add(1), SeqCst);
    }

    /// Message of the completion at a count, and its entry.
    pub fn completion(&self, count: u32) -> (u64, Vec<u8>) {
        let entry = self.long(COMPLETIONS + count as usize % SLOTS * 8).load(SeqCst);
        let (slot, length) = (usize::from(entry as u16) % SLOTS, (entry >> 32) as usize);
        (entry, self.read(MESSAGES + slot * STRIDE, length.min(MESSAGE)))
    }

    /// Takes the next request, if one comes within some time.
    pub fn next(&mut self, patience: Duration) -> Option<RawRequest> {
        let deadline = Instant::now() + patience;
        let (asleep, slice) = (self.word(WORKER_ASLEEP), Duration::from_millis(20));
        while self.word(SUBMITTED).load(SeqCst) == self.taken {
            if Instant::now() > deadline {
                return None;
            }
            asleep.store(1, SeqCst);
            if self.word(SUBMITTED).load(SeqCst) == self.taken {
                let time = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: slice.subsec_nanos().into(),
                };
                // SAFETY: the addresses of a live word and of a time.
                unsafe {
                    libc::syscall(
                        libc::SYS_futex,
                        asleep.as_ptr(),
                        libc::FUTEX_WAIT,
                        1,
                        &raw const time,
                    );
                }
            }
            asleep.store(0, SeqCst);
        }
        let entry = self
            .long(SUBMISSIONS + self.taken as usize % SLOTS * 8)
            .load(SeqCst);
        self.taken = self.taken.wrapping_add(1);
        let (slot, length) = (entry as u16, (entry >> 32) as usize);
        Some(RawRequest {
            slot,
            bulk: (entry >> 16) as u16,
            bytes: self.read(MESSAGES + usize::from(slot) * STRIDE, length),
        })
    }
}

impl Drop for RawLane {
    fn drop(&mut self) {
        // SAFETY: this mapping, made in `map`; nothing borrows from it any more.
        unsafe { libc::munmap(self.base.cast(), LANE) };
    }
}
