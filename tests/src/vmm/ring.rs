//! Layout of a split virtqueue in guest memory (virtio 1.2, section 2.7) and raw access to its
//! parts.

use anyhow::Result;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::memory::Memory;

/// Descriptor flag: the chain goes on at `next`.
pub const DESC_NEXT: u16 = 1;
/// Descriptor flag: the device writes this buffer.
pub const DESC_WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;
/// Flag of the used ring: the device wants no kick (only without EVENT_IDX).
pub const USED_NO_NOTIFY: u16 = 1;

/// A descriptor as it stands in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Desc {
    /// Guest address of the buffer.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// `DESC_*` flags.
    pub flags: u16,
    /// Index of the next descriptor when [`DESC_NEXT`] is set.
    pub next: u16,
}

/// Where the parts of one ring are. Nothing here checks what is written: attacks go through these
/// functions.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Number of descriptors.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring.
    pub avail: u64,
    /// Guest address of the used ring.
    pub used: u64,
}

impl Ring {
    /// Takes room for a ring of `size` descriptors.
    pub fn new(memory: &Memory, size: u16) -> Result<Self> {
        let n = usize::from(size);
        Ok(Self {
            size,
            desc: memory.alloc(16 * n, 4096)?,
            avail: memory.alloc(6 + 2 * n, 64)?,
            used: memory.alloc(6 + 8 * n, 64)?,
        })
    }

    /// Fills the ring with zeros, as a driver does before it starts a queue.
    pub fn clear(&self, memory: &Memory) {
        let n = usize::from(self.size);
        for (addr, len) in [
            (self.desc, 16 * n),
            (self.avail, 6 + 2 * n),
            (self.used, 6 + 8 * n),
        ] {
            memory.write(addr, &vec![0; len]);
        }
    }

    /// Writes one descriptor of the table.
    pub fn set_desc(&self, memory: &Memory, index: u16, desc: Desc) {
        memory.write(self.desc + 16 * u64::from(index), desc.as_bytes());
    }

    /// Writes the head at a position of the available ring (counted without wrapping).
    pub fn set_avail(&self, memory: &Memory, position: u16, head: u16) {
        memory.store_u16(self.avail + 4 + 2 * u64::from(position % self.size), head);
    }

    /// Publishes the available index.
    pub fn set_avail_index(&self, memory: &Memory, index: u16) {
        memory.store_u16(self.avail + 2, index);
    }

    /// The available index as it stands.
    pub fn avail_index(&self, memory: &Memory) -> u16 {
        memory.load_u16(self.avail + 2)
    }

    /// Sets the used index at which the driver wants to be called (EVENT_IDX).
    pub fn set_used_event(&self, memory: &Memory, index: u16) {
        memory.store_u16(self.avail + 4 + 2 * u64::from(self.size), index);
    }

    /// The device's used index.
    pub fn used_index(&self, memory: &Memory) -> u16 {
        memory.load_u16(self.used + 2)
    }

    /// The device's flags in the used ring.
    pub fn used_flags(&self, memory: &Memory) -> u16 {
        memory.load_u16(self.used)
    }

    /// The available index at which the device wants to be kicked (EVENT_IDX).
    pub fn avail_event(&self, memory: &Memory) -> u16 {
        memory.load_u16(self.used + 4 + 8 * u64::from(self.size))
    }

    /// Head and written length of a position of the used ring.
    pub fn used_element(&self, memory: &Memory, position: u16) -> (u32, u32) {
        let mut bytes = [0; 8];
        memory.read(self.used + 4 + 8 * u64::from(position % self.size), &mut bytes);
        let [a, b, c, d, e, f, g, h] = bytes;
        (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
    }
}
