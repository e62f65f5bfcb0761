//! 1 queue: heads are taken from a virtqueue's available ring. Its other half is here too: used elements are published (step
//! 7). Sees whether the ring goes on where it was left.

use airlockfs_ipc::Errno;
use virtio_queue::QueueT;

use super::{
    QUEUES_MAX,
    pending::PendingTable,
    schedule::BATCH,
    value::{Head, Request},
};
use crate::{
    backend::Vring,
    guest_memory::Memory,
    logging::Rate,
    rings::{RingAddresses, Rings},
};

/// Lines about rings that cannot be used.
static BROKEN: Rate = Rate::new();

/// One virtqueue, as its group's thread knows it.
pub(super) struct Virtqueue {
    /// In the device.
    number: usize,
    /// In the group.
    place: u8,
    /// Heads taken from the available ring and not looked at yet, the next one last.
    heads: Vec<u16>,
    /// Chains taken and not given back.
    taken: usize,
    /// Used elements to be published: head and length.
    used: Vec<(u16, u32)>,
    /// The ring may be used, as it was at the last look.
    enabled: bool,
    /// Where the ring was left: next available, next used.
    position: (u16, u16),
    /// It was stopped while its thread was in a call that hung: nothing is written to it before it is known whether it goes on.
    withheld: bool,
    /// Locks that were had while the ring was stopped: an errno, if not.
    held: Vec<HeldLock>,
}

/// A wait for a lock that is over, and how it ended.
pub(super) type HeldLock = (Box<Request>, Option<Errno>);

/// A virtqueue's rings and, if more heads would be welcome, where the next one will be.
pub(super) struct AvailRing<'m> {
    pub(super) rings: Rings<'m>,
    pub(super) next: Option<u16>,
}

impl AvailRing<'_> {
    /// The driver added something that was not taken, and is welcome.
    pub(super) fn has_more(&self) -> bool {
        self.next
            .is_some_and(|next| self.rings.avail_index().is_some_and(|index| index != next))
    }
}

impl Virtqueue {
    /// The device's queue `number`, which has this place in its group.
    pub(super) fn new(number: usize, place: u8) -> Self {
        Self {
            number,
            place,
            heads: Vec::with_capacity(BATCH.into()),
            taken: 0,
            used: Vec::new(),
            enabled: false,
            position: (0, 0),
            withheld: false,
            held: Vec::new(),
        }
    }

    /// Takes heads from the available ring, if it `may` and there is `room` for their requests. Gives the rings and, if more
    /// heads would be welcome, where the next one will be.
    pub(super) fn take_heads<'m>(
        &mut self,
        vring: &Vring,
        memory: &'m Memory,
        pending: &mut PendingTable,
        (may, room): (bool, bool),
    ) -> Option<AvailRing<'m>> {
        if !vring.may_be_used() && self.heads.is_empty() {
            // Nobody's, most likely: a VMM need not use all queues.
            self.enabled = false;
            return None;
        }
        let mut state = vring.lock();
        self.enabled = state.is_used();
        let queue = state.queue_mut();
        let position = (queue.next_avail(), queue.next_used());
        if self.enabled && position != self.position {
            // Not where it was left: a driver that began anew. It knows of no lock it waits for.
            self.position = position;
            self.forget_locks(pending);
            if std::mem::take(&mut self.withheld) {
                self.used.clear();
                self.forget_heads();
            }
        }
        self.withheld &= !self.enabled;
        let enabled = self.enabled && may;
        if !enabled && self.heads.is_empty() {
            return None;
        }
        let rings = Rings::map(memory, &RingAddresses::from(&*queue));
        let Some(rings) = rings else {
            self.broken("it is not in guest memory");
            self.forget_heads();
            return None;
        };
        // A guest that follows the rules never has more in flight than its ring has entries.
        if !enabled || !self.heads.is_empty() || self.taken >= rings.size().into() || !room {
            return Some(AvailRing { rings, next: None });
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
        for position in (0..count).rev() {
            self.heads.extend(rings.head(next.wrapping_add(position)));
        }
        self.taken += self.heads.len();
        let next = next.wrapping_add(count);
        queue.set_next_avail(next);
        self.position.0 = next;
        Some(AvailRing {
            rings,
            next: Some(next),
        })
    }

    fn broken(&self, why: &str) {
        if let Some(more) = BROKEN.admit() {
            log::warn!("queue {} cannot be used: {why}{more}", self.number);
        }
    }

    /// Its number in the device.
    pub(super) const fn number(&self) -> usize {
        self.number
    }

    /// The next head that was taken.
    pub(super) fn head(&self) -> Option<Head> {
        self.heads.last().map(|&index| Head {
            queue: self.place,
            index,
        })
    }

    /// It was looked at.
    pub(super) fn next_head(&mut self) {
        self.heads.pop();
    }

    /// How many were taken and not looked at.
    pub(super) const fn heads(&self) -> usize {
        self.heads.len()
    }

    /// Where the next used element goes.
    pub(super) const fn next_used(&self) -> u16 {
        self.position.1
    }

    /// How many used elements are to be published.
    pub(super) const fn answered(&self) -> usize {
        self.used.len()
    }

    /// Chains taken and not given back.
    pub(super) const fn taken(&self) -> usize {
        self.taken
    }

    /// Those of them that were answered while the ring was stopped.
    pub(super) const fn held(&self) -> usize {
        self.held.len()
    }

    /// The chain goes back to the guest, which finds `length` bytes written.
    pub(super) fn put_used(&mut self, index: u16, length: usize) {
        self.taken = self.taken.saturating_sub(1);
        // A chain's length is below 2³².
        self.used.push((index, length as u32));
    }

    /// It was stopped, and what was in flight given up, while its thread was in a call that hung.
    pub(super) const fn withhold(&mut self) {
        self.withheld = true;
        self.enabled = false;
    }

    /// A chain that was taken is not given back.
    pub(super) const fn drop_taken(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }

    /// Publishes what was put, and interrupts the guest if it wants that.
    pub(super) fn publish(&mut self, vring: &Vring, memory: &Memory) -> bool {
        if self.used.is_empty() || self.withheld {
            return false;
        }
        let mut state = vring.lock();
        let queue = state.queue_mut();
        let Some(rings) = Rings::map(memory, &RingAddresses::from(&*queue)) else {
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
        let call = interrupt.then(|| state.call()).flatten();
        drop(state);
        if let Some(call) = call
            && let Err(error) = vring.interrupt(call)
        {
            log::debug!("queue {}: no interrupt: {error}", self.number);
        }
        true
    }

    /// Forgets what was to be published and who waits for locks: the rings are gone.
    pub(super) fn discard(&mut self, pending: &mut PendingTable) {
        (self.enabled, self.withheld) = (false, false);
        self.forget_locks(pending);
        self.used.clear();
        self.forget_heads();
    }

    /// How waiting for a lock ended; given back if the guest can hear it now. While the ring is stopped nothing may be
    /// written, and it waits until it is known whether the ring goes on.
    pub(super) fn hold(&mut self, request: Box<Request>, errno: Option<Errno>) -> Option<Box<Request>> {
        if self.enabled {
            return Some(request);
        }
        self.held.push((request, errno));
        None
    }

    /// Those that waited for the ring to go on, once it does.
    pub(super) fn release_held(&mut self) -> Vec<HeldLock> {
        match self.enabled {
            true => std::mem::take(&mut self.held),
            false => Vec::new(),
        }
    }

    fn forget_heads(&mut self) {
        self.taken = self.taken.saturating_sub(self.heads.len());
        self.heads.clear();
    }

    /// Nobody waits for a lock any more.
    fn forget_locks(&mut self, pending: &mut PendingTable) {
        let forgotten = pending.forget_locks(self.place) + self.held.len();
        self.taken = self.taken.saturating_sub(forgotten);
        self.held.clear();
    }
}

const _: () = assert!(QUEUES_MAX <= u8::MAX as usize);

#[cfg(test)]
impl Virtqueue {
    pub(super) const fn renumber(&mut self, number: usize) {
        self.number = number;
    }
}
