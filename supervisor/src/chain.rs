//! Walks one descriptor chain, which the guest wrote and may be writing still. Each descriptor is read once;
//! a chain is refused whole if anything about it is wrong.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::{
    guest_memory::{Memory, Pieces},
    rings::Rings,
};

/// Most descriptors a chain may have: the largest virtqueue (virtio 1.3, 2.7.5.3.1: no chain is longer than the queue).
pub(crate) const DESCRIPTORS_MAX: usize = 1024;

/// A request's buffers: what the driver wrote, then what the device may write.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// The request.
    pub(crate) readable: Pieces,
    /// Room for the reply.
    pub(crate) writable: Pieces,
}

/// What is wrong with a chain, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainError {
    /// A descriptor index past its table.
    Index,
    /// More descriptors than [`DESCRIPTORS_MAX`], or than the table has: a loop.
    Loop,
    /// An indirect table in an indirect table, one that is followed by others, or of a size that is no table's.
    Indirect,
    /// A buffer or a table outside guest memory, or buffers of 4 GiB and more.
    Address,
    /// A readable buffer after a writable one.
    Order,
}

impl ChainError {
    /// In words.
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::Index => "a descriptor index past the table",
            Self::Loop => "a chain that is too long or a loop",
            Self::Indirect => "an indirect table out of place",
            Self::Address => "an address outside guest memory",
            Self::Order => "a readable buffer after a writable one",
        }
    }
}

impl Chain {
    /// Forgets the buffers and keeps the room for them.
    pub(crate) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }

    /// Reads the chain that begins at `head`, in place of what this was.
    pub(crate) fn walk(&mut self, memory: &Memory, rings: &Rings<'_>, head: u16) -> Result<(), ChainError> {
        self.clear();
        let mut index = head;
        for _ in 0..rings.size() {
            let descriptor = rings.descriptor(index).ok_or(ChainError::Index)?;
            if descriptor.refers_to_indirect_table() {
                return if descriptor.has_next() {
                    Err(ChainError::Indirect)
                } else {
                    self.walk_indirect(memory, &descriptor)
                };
            }
            self.push(memory, &descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(ChainError::Loop)
    }

    fn walk_indirect(&mut self, memory: &Memory, table: &Descriptor) -> Result<(), ChainError> {
        let length = table.len() as usize;
        if length == 0 || !length.is_multiple_of(16) {
            return Err(ChainError::Indirect);
        }
        let slice: VolatileSlice<'_> = memory
            .get_slice(GuestAddress(table.addr().0), length)
            .map_err(|_| ChainError::Address)?;
        let mut index = 0u16;
        for _ in 0..(length / 16).min(DESCRIPTORS_MAX) {
            let descriptor: Descriptor = slice
                .read_obj(16 * usize::from(index))
                .map_err(|_| ChainError::Index)?;
            if descriptor.refers_to_indirect_table() {
                return Err(ChainError::Indirect);
            }
            self.push(memory, &descriptor)?;
            if !descriptor.has_next() {
                return Ok(());
            }
            index = descriptor.next();
        }
        Err(ChainError::Loop)
    }

    fn push(&mut self, memory: &Memory, descriptor: &Descriptor) -> Result<(), ChainError> {
        let part = match (descriptor.is_write_only(), self.writable.len()) {
            (true, _) => &mut self.writable,
            (false, 0) => &mut self.readable,
            (false, _) => return Err(ChainError::Order),
        };
        part.push(memory, descriptor.addr().0, descriptor.len())
            .map_err(|_| ChainError::Address)
    }
}

#[cfg(test)]
mod tests {
    use virtio_bindings::bindings::virtio_ring::{
        VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    };
    use virtio_queue::{Queue, QueueT};

    use super::*;
    use crate::{guest_memory::tests::memory, rings::RingAddresses};

    const NEXT: u32 = VRING_DESC_F_NEXT;
    const WRITE: u32 = VRING_DESC_F_WRITE;
    const INDIRECT: u32 = VRING_DESC_F_INDIRECT;

    /// A table's address and its descriptors: address, length, flags, next.
    type Table<'t> = (u64, &'t [(u64, u32, u32, u16)]);

    /// Writes tables of descriptors, walks from `head` of a queue of 4.
    fn walk(head: u16, tables: &[Table<'_>]) -> Result<(usize, usize), ChainError> {
        let memory = memory();
        for (at, descriptors) in tables {
            for (index, &(address, length, flags, next)) in descriptors.iter().enumerate() {
                let descriptor = Descriptor::new(address, length, flags as u16, next);
                memory
                    .write_obj(descriptor, GuestAddress(at + 16 * index as u64))
                    .unwrap();
            }
        }
        let mut queue = Queue::new(4).unwrap();
        queue.try_set_desc_table_address(GuestAddress(0x1000)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(0x2000)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(0x2100)).unwrap();
        let rings = Rings::map(&memory, &RingAddresses::from(&queue)).unwrap();
        let mut chain = Chain::default();
        chain
            .walk(&memory, &rings, head)
            .map(|()| (chain.readable.len(), chain.writable.len()))
    }

    #[test]
    fn direct_and_indirect_chains_are_read() {
        let direct = &[
            (0x3000, 8, NEXT, 2),
            (0, 0, 0, 0),
            (0x3100, 16, NEXT | WRITE, 3),
            (0x3200, 32, WRITE, 0),
        ];
        assert_eq!(walk(0, &[(0x1000, direct)]), Ok((8, 48)));
        let outer = &[(0x3000, 1, NEXT, 1), (0x8000, 48, INDIRECT, 0)];
        let inner = &[(0x3000, 8, NEXT, 2), (0x3100, 4, WRITE, 0), (0x3200, 2, NEXT, 1)];
        assert_eq!(walk(0, &[(0x1000, outer), (0x8000, inner)]), Ok((11, 4)));
    }

    #[test]
    fn loops_end() {
        assert_eq!(
            walk(0, &[(0x1000, &[(0x3000, 8, NEXT, 0)])]),
            Err(ChainError::Loop)
        );
        let outer = &[(0x8000, 32, INDIRECT, 0)];
        let inner = &[(0x3000, 8, NEXT, 1), (0x3000, 8, NEXT, 0)];
        assert_eq!(
            walk(0, &[(0x1000, outer), (0x8000, inner)]),
            Err(ChainError::Loop)
        );
    }

    #[test]
    fn indices_past_the_table_are_refused() {
        assert_eq!(walk(4, &[]), Err(ChainError::Index));
        assert_eq!(walk(u16::MAX, &[]), Err(ChainError::Index));
        assert_eq!(
            walk(0, &[(0x1000, &[(0x3000, 8, NEXT, 4)])]),
            Err(ChainError::Index)
        );
        let outer = &[(0x8000, 16, INDIRECT, 0)];
        assert_eq!(
            walk(0, &[(0x1000, outer), (0x8000, &[(0x3000, 8, NEXT, 1)])]),
            Err(ChainError::Loop)
        );
        let outer = &[(0x8000, 32, INDIRECT, 0)];
        assert_eq!(
            walk(0, &[(0x1000, outer), (0x8000, &[(0x3000, 8, NEXT, 9)])]),
            Err(ChainError::Index)
        );
    }

    #[test]
    fn indirect_tables_out_of_place_are_refused() {
        for table in [
            (0x8000, 0, INDIRECT, 0),
            (0x8000, 17, INDIRECT, 0),
            (0x8000, 16, INDIRECT | NEXT, 1),
        ] {
            assert_eq!(
                walk(0, &[(0x1000, &[table])]),
                Err(ChainError::Indirect),
                "{table:x?}"
            );
        }
        let outer = &[(0x8000, 16, INDIRECT, 0)];
        assert_eq!(
            walk(0, &[(0x1000, outer), (0x8000, outer)]),
            Err(ChainError::Indirect)
        );
        assert_eq!(
            walk(0, &[(0x1000, &[(0x8ff8, 16, INDIRECT, 0)])]),
            Err(ChainError::Address)
        );
    }

    #[test]
    fn bad_buffers_are_refused() {
        assert_eq!(
            walk(0, &[(0x1000, &[(0x3000, u32::MAX, 0, 0)])]),
            Err(ChainError::Address)
        );
        assert_eq!(
            walk(0, &[(0x1000, &[(u64::MAX, 1, 0, 0)])]),
            Err(ChainError::Address)
        );
        let backwards = &[(0x3000, 8, NEXT | WRITE, 1), (0x3000, 8, 0, 0)];
        assert_eq!(walk(0, &[(0x1000, backwards)]), Err(ChainError::Order));
    }
}
