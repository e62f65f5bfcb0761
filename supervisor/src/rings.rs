//! The three parts of a split virtqueue in guest memory (virtio 1.3, 2.7). Unlike virtio-queue's own
//! way it publishes the used ring once for a batch, and can look at the available ring without the vring's lock.

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};
use virtio_queue::{Queue, QueueT, desc::split::Descriptor};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::guest_memory::Memory;

/// Where a virtqueue lies and how large it is, as the VMM last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddresses {
    table: u64,
    avail: u64,
    used: u64,
    size: u16,
    event_idx: bool,
}

impl From<&Queue> for RingAddresses {
    fn from(queue: &Queue) -> Self {
        Self {
            table: queue.desc_table(),
            avail: queue.avail_ring(),
            used: queue.used_ring(),
            size: queue.size(),
            event_idx: queue.event_idx_enabled(),
        }
    }
}

/// The virtqueue's parts, mapped.
pub(crate) struct Rings<'m> {
    table: VolatileSlice<'m>,
    avail: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
    size: u16,
    event_idx: bool,
}

impl<'m> Rings<'m> {
    /// `None` if any part is not in guest memory.
    pub(crate) fn map(memory: &'m Memory, addresses: &RingAddresses) -> Option<Self> {
        let size = usize::from(addresses.size);
        let slice = |address, length| memory.get_slice(GuestAddress(address), length).ok();
        Some(Self {
            table: slice(addresses.table, 16 * size)?,
            avail: slice(addresses.avail, 6 + 2 * size)?,
            used: slice(addresses.used, 6 + 8 * size)?,
            size: addresses.size,
            event_idx: addresses.event_idx,
        })
    }

    /// Entries of the rings.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Where the driver will put the next head (`avail.idx`). `None`: not aligned in host memory.
    pub(crate) fn avail_index(&self) -> Option<u16> {
        self.avail.load(2, Ordering::Acquire).ok().map(u16::from_le)
    }

    /// The head at `position` of the available ring.
    pub(crate) fn head(&self, position: u16) -> Option<u16> {
        let entry = position.checked_rem(self.size)?;
        self.avail
            .load(4 + 2 * usize::from(entry), Ordering::Relaxed)
            .ok()
            .map(u16::from_le)
    }

    /// A descriptor of the queue's own table.
    pub(crate) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        self.table.read_obj(16 * usize::from(index)).ok()
    }

    /// Writes a used element at `position`; not yet published.
    pub(crate) fn put_used(&self, position: u16, head: u16, length: u32) {
        let Some(entry) = position.checked_rem(self.size) else {
            return;
        };
        let element = u64::from(head) | u64::from(length) << 32;
        // In bounds by construction.
        let _ = self
            .used
            .write_slice(&element.to_le_bytes(), 4 + 8 * usize::from(entry));
    }

    /// Publishes all used elements up to `new`, `old` being what was published before. True if the driver wants an
    /// interrupt for any of them (2.7.7).
    pub(crate) fn publish(&self, old: u16, new: u16) -> bool {
        let _ = self.used.store(new.to_le(), 2, Ordering::Release);
        // The driver must see the index before we read whether it wants to be told.
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.used_event().unwrap_or(old);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            let flags = self.avail.load(0, Ordering::Relaxed).map_or(0, u16::from_le);
            u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0
        }
    }

    /// After how many used elements the driver wants an interrupt (`used_event`).
    fn used_event(&self) -> Option<u16> {
        let place = 4 + 2 * usize::from(self.size);
        self.avail.load(place, Ordering::Relaxed).ok().map(u16::from_le)
    }

    /// Whether the driver wants to be interrupted for the used element at `used`, the next to be published: it waits
    /// for nothing but that, most likely.
    pub(crate) fn is_awaited(&self, used: u16) -> bool {
        self.event_idx && self.used_event() == Some(used)
    }

    /// Asks the driver for a kick when it has added `after` more than what is at `next_avail`; 0 for the very next. True
    /// if it has added something already: then no kick may be due, and the caller goes on (2.7.10). Without EVENT_IDX
    /// every addition kicks.
    pub(crate) fn ask_for_kick(&self, next_avail: u16, after: u16) -> bool {
        if self.event_idx {
            let _ = self.used.store(
                next_avail.wrapping_add(after).to_le(),
                4 + 8 * usize::from(self.size),
                Ordering::Relaxed,
            );
        } else {
            let _ = self.used.store(0u16, 0, Ordering::Relaxed);
        }
        // The driver must see that before we look for what it added meanwhile.
        fence(Ordering::SeqCst);
        self.avail_index().is_some_and(|index| index != next_avail)
    }

    /// Asks the driver for no kicks. With EVENT_IDX there is nothing to do: each is asked for.
    pub(crate) fn refuse_kicks(&self) {
        if !self.event_idx {
            let _ = self
                .used
                .store((VRING_USED_F_NO_NOTIFY as u16).to_le(), 0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_memory::tests::memory;

    const ADDRESSES: RingAddresses = RingAddresses {
        table: 0x1000,
        avail: 0x2000,
        used: 0x3000,
        size: 8,
        event_idx: true,
    };

    #[test]
    fn an_interrupt_is_wanted_when_the_event_lies_in_the_batch() {
        let memory = memory();
        let rings = Rings::map(&memory, &ADDRESSES).unwrap();
        let event = |index: u16| rings.avail.store(index, 4 + 16, Ordering::Relaxed).unwrap();
        event(5);
        assert!(!rings.publish(0, 5), "the driver waits for the element at 5");
        assert!(rings.publish(5, 6));
        assert!(!rings.publish(6, 8));
        event(u16::MAX);
        assert!(rings.publish(u16::MAX - 2, 2), "across the wrap");
        assert!(!rings.publish(2, 2), "nothing published");
    }

    #[test]
    fn without_event_index_the_flags_count() {
        let memory = memory();
        let rings = Rings::map(
            &memory,
            &RingAddresses {
                event_idx: false,
                ..ADDRESSES
            },
        )
        .unwrap();
        assert!(rings.publish(0, 1));
        rings.avail.store(1u16, 0, Ordering::Relaxed).unwrap();
        assert!(!rings.publish(1, 2));
        rings.refuse_kicks();
        assert_eq!(rings.used.load::<u16>(0, Ordering::Relaxed).unwrap(), 1);
        assert!(!rings.ask_for_kick(0, 0));
        assert_eq!(rings.used.load::<u16>(0, Ordering::Relaxed).unwrap(), 0);
    }

    #[test]
    fn what_came_while_kicks_were_off_is_noticed() {
        let memory = memory();
        let rings = Rings::map(&memory, &ADDRESSES).unwrap();
        rings.avail.store(3u16, 2, Ordering::Relaxed).unwrap();
        assert!(rings.ask_for_kick(2, 0));
        assert!(!rings.ask_for_kick(3, 0));
        assert_eq!(rings.used.load::<u16>(4 + 64, Ordering::Relaxed).unwrap(), 3);
    }

    #[test]
    fn rings_outside_guest_memory_are_not_mapped() {
        let memory = memory();
        for place in [
            RingAddresses {
                table: 0x3fff,
                ..ADDRESSES
            },
            RingAddresses {
                avail: 0,
                ..ADDRESSES
            },
            RingAddresses {
                used: u64::MAX - 3,
                ..ADDRESSES
            },
            RingAddresses {
                size: 32768,
                ..ADDRESSES
            },
        ] {
            assert!(Rings::map(&memory, &place).is_none(), "{place:x?}");
        }
    }
}
