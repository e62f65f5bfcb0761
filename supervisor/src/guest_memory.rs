//! Guest memory, and the pieces of it that a request lies in. Addresses are the guest's; each access checks them.

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap,
};

/// One snapshot of the guest's memory map. No dirty log: migration does not need it before it exists.
pub(crate) type Memory = GuestMemoryMmap<()>;
/// The memory map as the VMM changes it.
pub(crate) type SharedMemory = GuestMemoryAtomic<Memory>;

/// Some bytes that lie together in guest physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Guest physical address.
    pub(crate) address: u64,
    /// Bytes, never 0.
    pub(crate) length: u32,
}

/// The readable or the writable part of a descriptor chain: pieces in order, neighbours joined.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    list: Vec<Piece>,
    length: u32,
}

/// An address or a length that is not the guest's to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadAddress;

impl From<GuestMemoryError> for BadAddress {
    fn from(_: GuestMemoryError) -> Self {
        Self
    }
}

impl Pieces {
    /// Forgets the pieces and keeps the room for them.
    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.length = 0;
    }

    /// Appends bytes that must lie in `memory`. Together all pieces hold less than 4 GiB (virtio 1.3, 2.7.5.2).
    pub(crate) fn push(&mut self, memory: &Memory, address: u64, length: u32) -> Result<(), BadAddress> {
        if length == 0 {
            return Ok(());
        }
        if !memory.check_range(GuestAddress(address), length as usize) {
            return Err(BadAddress);
        }
        self.length = self.length.checked_add(length).ok_or(BadAddress)?;
        match self.list.last_mut() {
            // The sum cannot overflow: it is at most `self.length`.
            Some(last) if last.address.checked_add(last.length.into()) == Some(address) => {
                last.length += length
            }
            _ => self.list.push(Piece { address, length }),
        }
        Ok(())
    }

    /// Bytes in all pieces.
    pub(crate) fn len(&self) -> usize {
        self.length as usize
    }

    /// What of the pieces lies in `skip..skip + length`, as far as they reach.
    pub(crate) fn range(&self, skip: usize, length: usize) -> impl Iterator<Item = Piece> {
        let mut skip = skip as u64;
        let mut left = length as u64;
        self.list
            .iter()
            .map_while(move |piece| {
                let size = u64::from(piece.length);
                let from = skip.min(size);
                skip -= from;
                let take = (size - from).min(left);
                left -= take;
                (left > 0 || take > 0).then_some((piece.address, from, take))
            })
            .filter(|&(_, _, take)| take > 0)
            // `from` and `take` are within the piece, whose end was checked to be an address.
            .map(|(address, from, take)| Piece {
                address: address + from,
                length: take as u32,
            })
    }

    /// Copies the bytes from `skip` on out of guest memory; they must be there.
    pub(crate) fn read(&self, memory: &Memory, skip: usize, to: &mut [u8]) -> Result<(), BadAddress> {
        let mut rest = to;
        for piece in self.range(skip, rest.len()) {
            let (now, later) = rest
                .split_at_mut_checked(piece.length as usize)
                .ok_or(BadAddress)?;
            memory.read_slice(now, GuestAddress(piece.address))?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(BadAddress) }
    }

    /// Copies `from` into guest memory, from byte `skip` on; there must be room.
    pub(crate) fn write(&self, memory: &Memory, skip: usize, from: &[u8]) -> Result<(), BadAddress> {
        let mut rest = from;
        for piece in self.range(skip, rest.len()) {
            let (now, later) = rest.split_at_checked(piece.length as usize).ok_or(BadAddress)?;
            memory.write_slice(now, GuestAddress(piece.address))?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(BadAddress) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0x1000), 0x3000), (GuestAddress(0x8000), 0x1000)]).unwrap()
    }

    fn pieces(memory: &Memory, list: &[(u64, u32)]) -> Pieces {
        let mut pieces = Pieces::default();
        for &(address, length) in list {
            pieces.push(memory, address, length).unwrap();
        }
        pieces
    }

    #[test]
    fn neighbours_are_joined_and_a_range_cuts_pieces() {
        let memory = memory();
        let pieces = pieces(
            &memory,
            &[(0x1000, 16), (0x1010, 16), (0x8000, 0), (0x8000, 8), (0x3000, 8)],
        );
        assert_eq!(pieces.len(), 48);
        let cut = |skip, length| {
            pieces
                .range(skip, length)
                .map(|p| (p.address, p.length))
                .collect::<Vec<_>>()
        };
        assert_eq!(cut(0, 100), [(0x1000, 32), (0x8000, 8), (0x3000, 8)]);
        assert_eq!(cut(30, 4), [(0x101e, 2), (0x8000, 2)]);
        assert_eq!(cut(32, 8), [(0x8000, 8)]);
        assert_eq!(cut(47, 9), [(0x3007, 1)]);
        assert_eq!(cut(48, 1), []);
        assert_eq!(cut(0, 0), []);
    }

    #[test]
    fn bytes_are_gathered_and_scattered() {
        let memory = memory();
        let pieces = pieces(&memory, &[(0x1ffe, 4), (0x8ffd, 3)]);
        pieces.write(&memory, 1, b"abcdef").unwrap();
        let mut back = [0; 7];
        pieces.read(&memory, 0, &mut back).unwrap();
        assert_eq!(&back, b"\0abcdef");
        assert_eq!(pieces.write(&memory, 2, b"abcdef"), Err(BadAddress));
        assert_eq!(pieces.read(&memory, 7, &mut [0]), Err(BadAddress));
    }

    #[test]
    fn what_is_not_guest_memory_is_refused() {
        let memory = memory();
        let mut pieces = Pieces::default();
        for (address, length) in [
            (0, 1),
            (0xfff, 2),
            (0x3fff, 2),
            (0x8000, 0x1001),
            (u64::MAX, 2),
            (0x1000, u32::MAX),
        ] {
            assert_eq!(
                pieces.push(&memory, address, length),
                Err(BadAddress),
                "{address:x} {length:x}"
            );
        }
        assert_eq!(pieces.len(), 0);
    }
}
