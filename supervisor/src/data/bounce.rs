//! Private memory of a data thread, for calls that wait: what is copied between it and guest memory is copied before or after the
//! call, and only as long as somebody waits for the answer.

use std::{
    num::NonZeroUsize,
    sync::{
        PoisonError, RwLock,
        atomic::{
            AtomicU32,
            Ordering::{Acquire, Release},
        },
    },
};

use vm_memory::GuestAddressSpace;

use crate::{
    guest_memory::{Memory, SharedMemory},
    request::QUEUES_MAX,
    sys::zeroed,
};

/// Most bytes of a call. As large as the largest request, which O_DIRECT should see whole.
const ROOM: NonZeroUsize = NonZeroUsize::new(1 << 20).unwrap();

/// How often the jobs of each of a group's queues were given up.
#[derive(Debug, Default)]
pub(crate) struct GivenUp {
    counts: [AtomicU32; QUEUES_MAX],
    /// Held while somebody copies.
    copying: RwLock<()>,
}

impl GivenUp {
    /// So many times. Costs a load.
    pub(crate) fn count(&self, queue: u8) -> u32 {
        let count = self.counts.get(usize::from(queue));
        count.map_or(0, |count| count.load(Acquire))
    }

    /// Gives up those of a queue. When it returns nobody copies for them, and nobody will.
    pub(crate) fn give_up(&self, queue: usize) {
        let _nobody = self.copying.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = self.counts.get(queue) {
            count.fetch_add(1, Release);
        }
    }

    /// Has `copy` run if no job of the queue was given up since there were `count`. None if one was.
    fn unless<T>(&self, queue: u8, count: u32, copy: impl FnOnce() -> T) -> Option<T> {
        let _copying = self.copying.read().unwrap_or_else(PoisonError::into_inner);
        (self.count(queue) == count).then(copy)
    }
}

/// The memory of a thread, and the job that it is for.
pub(crate) struct BounceBuffer<'a> {
    room: &'a mut [u8],
    /// The guest's. No map of it is held while a call waits: the VMM may go, and its memory with it.
    guest: &'a SharedMemory,
    given_up: &'a GivenUp,
    queue: u8,
    count: u32,
}

/// Memory for one thread's bounce buffer: not touched before it is needed, and at the start of a page, as O_DIRECT wants it.
///
/// # Errors
/// ENOMEM: a limit of the process.
pub(super) fn room() -> nix::Result<&'static mut [u8]> {
    zeroed(ROOM)
}

impl<'a> BounceBuffer<'a> {
    /// For a job of a queue that was entered when `count` were given up, in memory made by [`room`].
    pub(super) fn new(
        room: &'a mut [u8],
        guest: &'a SharedMemory,
        given_up: &'a GivenUp,
        (queue, count): (u8, u32),
    ) -> Self {
        Self {
            room,
            guest,
            given_up,
            queue,
            count,
        }
    }

    /// The memory, `length` bytes of it at most.
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        let length = length.min(self.room.len());
        self.room.get_mut(..length).unwrap_or_default()
    }

    /// Has `copy` run with it and the guest's memory, if somebody waits still.
    pub(super) fn copy<T>(&mut self, copy: impl FnOnce(&mut [u8], &Memory) -> T) -> Option<T> {
        self.given_up
            .unless(self.queue, self.count, || copy(self.room, &self.guest.memory()))
    }
}
