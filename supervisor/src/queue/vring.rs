//! Step 1 and 7: what a queue does with its vring: takes heads from the available ring, publishes used elements, and
//! sees whether the ring goes on where it was left.

use std::sync::atomic::Ordering::Relaxed;

use airlockfs_ipc::Errno;
use virtio_queue::QueueT;

use super::{BATCH, Queue};
use crate::{
    backend::Vring,
    fuse,
    guest_memory::Memory,
    logging::Rate,
    pending::Caller,
    rings::{Place, Rings},
};

/// Lines about rings that cannot be used.
static BROKEN: Rate = Rate::new();

impl Queue {
    /// Takes heads from the available ring, if the lane has room for their requests. Gives the rings and, if more heads
    /// would be welcome, where the next one will be.
    pub(super) fn take_heads<'m>(
        &mut self,
        vring: &Vring,
        memory: &'m Memory,
    ) -> Option<(Rings<'m>, Option<u16>)> {
        let mut state = vring.lock();
        self.enabled = state.is_used();
        let queue = state.queue_mut();
        let position = (queue.next_avail(), queue.next_used());
        if self.enabled && position != self.position {
            // Not where it was left: a driver that began anew. It knows of no lock it waits for.
            self.position = position;
            self.forget_locks();
        }
        let enabled = self.enabled && !self.shared.draining.load(Relaxed);
        if !enabled && self.heads.is_empty() {
            return None;
        }
        let rings = Rings::map(memory, &Place::from(&*queue));
        let Some(rings) = rings else {
            self.broken("it is not in guest memory");
            self.heads.clear();
            return None;
        };
        let in_flight = self.in_flight();
        // A guest that follows the rules never has more in flight than its ring has entries.
        if !enabled
            || !self.heads.is_empty()
            || in_flight >= rings.size().into()
            || self.lane.free_slots() == 0
        {
            return Some((rings, None));
        }
        let next = queue.next_avail();
        let Some(waiting) = rings.avail_index().map(|index| index.wrapping_sub(next)) else {
            self.broken("it is not aligned");
            return None;
        };
        if waiting > rings.size() {
            self.broken("its available index is out of range");
            return None;
        }
        let count = waiting.min(BATCH);
        self.pace.turns |= count > 0;
        for position in (0..count).rev() {
            self.heads.extend(rings.head(next.wrapping_add(position)));
        }
        let next = next.wrapping_add(count);
        queue.set_next_avail(next);
        self.position.0 = next;
        Some((rings, Some(next)))
    }

    fn broken(&self, why: &str) {
        if let Some(more) = BROKEN.admit() {
            log::warn!("queue {} cannot be used: {why}{more}", self.number);
        }
    }

    /// The chain goes back to the guest, which finds `length` bytes written.
    pub(crate) fn put_used(&mut self, head: u16, length: usize) {
        // A chain's length is below 2³².
        self.used.push((head, length as u32));
    }

    /// Publishes what was put, and interrupts the guest if it wants that.
    pub(crate) fn publish(&mut self, vring: &Vring, memory: &Memory) -> bool {
        self.moved = 0;
        if self.used.is_empty() {
            return false;
        }
        let mut state = vring.lock();
        let queue = state.queue_mut();
        let Some(rings) = Rings::map(memory, &Place::from(&*queue)) else {
            self.used.clear();
            return true;
        };
        let old = queue.next_used();
        let mut new = old;
        for (head, length) in self.used.drain(..) {
            rings.put_used(new, head, length);
            new = new.wrapping_add(1);
        }
        let interrupt = rings.publish(old, new);
        queue.set_next_used(new);
        self.position.1 = new;
        if interrupt && let Err(error) = state.interrupt() {
            log::debug!("queue {}: no interrupt: {error}", self.number);
        }
        true
    }

    /// Forgets what was to be published and who waits for locks: the rings are gone.
    pub(crate) fn discard(&mut self) {
        self.enabled = false;
        self.forget_locks();
        self.used.clear();
        self.heads.clear();
    }

    /// The result of waiting for a lock. While the ring is stopped nothing may be written, and it waits until it is
    /// known whether the ring goes on.
    pub(crate) fn answer_lock(&mut self, caller: Caller, error: Option<Errno>, memory: &Memory) {
        if !self.enabled {
            let chain = std::mem::take(&mut self.chain);
            return self.held.push((caller, error, chain));
        }
        match error {
            Some(errno) => self.answer_error(caller, errno, memory),
            None => self.answer(caller, &fuse::reply::header(caller.unique, 0), 0, memory),
        }
    }

    /// Answers those that were held back while the ring was stopped.
    pub(super) fn release_held(&mut self, memory: &Memory) -> bool {
        if !self.enabled || self.held.is_empty() {
            return false;
        }
        for (caller, error, chain) in std::mem::take(&mut self.held) {
            self.chain = chain;
            self.answer_lock(caller, error, memory);
        }
        true
    }

    /// Nobody waits for a lock any more.
    fn forget_locks(&mut self) {
        self.pending.forget_locks();
        self.held.clear();
    }
}
