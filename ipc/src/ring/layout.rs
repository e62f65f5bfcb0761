//! Where things lie in the ring's memory. Words that one side writes often have a cache line of their own.

/// Most lanes a ring can have: hiprio and 8 request queues.
pub const MAX_LANES: u16 = 9;
/// Requests in flight in a lane.
pub const SLOTS: usize = 128;
/// Longest encoded message in bytes: a rename with two long names, a symlink with a long target, 500 forgets.
pub const MESSAGE_MAX: usize = 8192;
/// Bulk buffers of a lane.
pub const BULK_BUFFERS: usize = 16;
/// Bytes in a bulk buffer: the largest read, write or directory reply (FUSE max_write of 256 pages).
pub const BULK_SIZE: usize = 1 << 20;

const LINE: usize = 64;
const PAGE: usize = 4096;

/// How many requests were ever submitted, modulo 2³².
pub(super) const SUBMITTED: usize = 0;
/// How many were ever completed, modulo 2³².
pub(super) const COMPLETED: usize = LINE;
/// 1 while the worker's thread sleeps (a futex) or is about to.
pub(super) const WORKER_ASLEEP: usize = 2 * LINE;
/// 1 while the supervisor's thread sleeps (its doorbell) or is about to.
pub(super) const SUPERVISOR_ASLEEP: usize = 3 * LINE;
/// CPU number + 1 on which the worker's thread last ran.
pub(super) const WORKER_CPU: usize = 4 * LINE;
/// CPU number + 1 on which the supervisor's thread last ran.
pub(super) const SUPERVISOR_CPU: usize = 5 * LINE;

const SUBMISSIONS: usize = 8 * LINE;
const COMPLETIONS: usize = SUBMISSIONS + SLOTS * 8;
const MESSAGES: usize = PAGE;
/// A line more than the message, so that the slots' first lines do not all fall in one cache set.
const MESSAGE_STRIDE: usize = MESSAGE_MAX + LINE;
const BULK: usize = (MESSAGES + SLOTS * MESSAGE_STRIDE).next_multiple_of(PAGE);

/// Bytes of a lane.
pub(super) const LANE: usize = BULK + BULK_BUFFERS * BULK_SIZE;

const _: () =
    assert!(COMPLETIONS + SLOTS * 8 <= MESSAGES && LANE.is_multiple_of(PAGE) && SLOTS.is_power_of_two());

/// The entry that request number `count` is announced in.
pub(super) const fn submission(count: u32) -> usize {
    SUBMISSIONS + (count as usize % SLOTS) * 8
}

/// The entry that completion number `count` is announced in.
pub(super) const fn completion(count: u32) -> usize {
    COMPLETIONS + (count as usize % SLOTS) * 8
}

/// A slot's message.
pub(super) const fn message(slot: u16) -> usize {
    MESSAGES + slot as usize * MESSAGE_STRIDE
}

/// A bulk buffer.
pub(super) const fn bulk(index: u16) -> usize {
    BULK + index as usize * BULK_SIZE
}

/// An announcement: slot, bulk buffer and the message's length, packed in the 64 bits of a ring entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Announcement {
    pub(super) slot: u16,
    pub(super) bulk: Option<u16>,
    pub(super) length: u32,
}

const NO_BULK: u16 = u16::MAX;

impl Announcement {
    pub(super) const fn pack(self) -> u64 {
        let bulk = match self.bulk {
            Some(index) => index,
            None => NO_BULK,
        };
        self.slot as u64 | (bulk as u64) << 16 | (self.length as u64) << 32
    }

    /// Reads one that the other side wrote; `None` if any part is out of range.
    pub(super) const fn unpack(word: u64) -> Option<Self> {
        let (slot, bulk, length) = (word as u16, (word >> 16) as u16, (word >> 32) as u32);
        if slot as usize >= SLOTS || length as usize > MESSAGE_MAX {
            return None;
        }
        match bulk {
            NO_BULK => Some(Self {
                slot,
                bulk: None,
                length,
            }),
            index if (index as usize) < BULK_BUFFERS => Some(Self {
                slot,
                bulk: Some(index),
                length,
            }),
            _ => None,
        }
    }
}
