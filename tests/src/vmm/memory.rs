//! Guest memory: one region in a memfd, mapped shared, handed out by a bump allocator.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::bitmap::BS;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress, VolatileSlice,
};

/// Where guest memory begins: not zero, so that a daemon that mixes up addresses and offsets fails.
pub const GUEST_BASE: u64 = 0x4000_0000;

/// A slice of guest memory. The daemon may change it at any time, hence volatile accesses only.
pub type GuestSlice<'a> = VolatileSlice<'a, BS<'a, ()>>;

/// The guest's memory, shared with the daemon.
#[derive(Debug)]
pub struct Memory {
    region: GuestRegionMmap,
    next: AtomicU64,
}

impl Memory {
    /// Makes a region of `size` bytes. Pages take room only once they are touched.
    pub fn new(size: usize) -> Result<Self> {
        let fd = memfd_create(c"airlockfs-guest", MFdFlags::MFD_CLOEXEC).context("memfd_create")?;
        let file = File::from(fd);
        file.set_len(size as u64).context("size the guest memory")?;
        let region =
            GuestRegionMmap::from_range(GuestAddress(GUEST_BASE), size, Some(FileOffset::new(file, 0)))
                .context("map the guest memory")?;
        Ok(Self {
            region,
            next: AtomicU64::new(GUEST_BASE),
        })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.region.len()
    }

    /// First address behind the memory.
    pub fn end(&self) -> u64 {
        GUEST_BASE + self.size()
    }

    /// Truncates its file at a guest address. Nobody may touch memory behind that any more.
    pub fn truncate(&self, addr: u64) -> Result<()> {
        let file = self.region.file_offset().context("a file")?.file();
        file.set_len(addr - GUEST_BASE).context("ftruncate")
    }

    /// Takes `len` bytes, aligned to `align`, which are never given back. Returns the guest
    /// address.
    pub fn alloc(&self, len: usize, align: u64) -> Result<u64> {
        let mut start = 0;
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                start = next.next_multiple_of(align);
                Some(start + len as u64)
            })
            .ok();
        ensure!(
            start + len as u64 <= self.end(),
            "guest memory of {} MiB is too small",
            self.size() >> 20
        );
        Ok(start)
    }

    /// The bytes at a guest address.
    ///
    /// # Panics
    /// When the range is not within the memory: the harness, unlike a hostile guest, only looks at
    /// its own.
    pub fn slice(&self, addr: u64, len: usize) -> GuestSlice<'_> {
        self.region
            .get_slice(MemoryRegionAddress(addr - GUEST_BASE), len)
            .expect("a range within guest memory")
    }

    /// Copies bytes into guest memory.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.slice(addr, bytes.len()).copy_from(bytes);
    }

    /// Copies bytes out of guest memory.
    pub fn read(&self, addr: u64, bytes: &mut [u8]) {
        self.slice(addr, bytes.len()).copy_to(bytes);
    }

    /// Stores a little-endian 16-bit value (ring indexes), releasing what was written before.
    pub fn store_u16(&self, addr: u64, value: u16) {
        self.slice(addr, 2)
            .store(value.to_le(), 0, Ordering::Release)
            .expect("aligned");
    }

    /// Loads a little-endian 16-bit value (ring indexes), acquiring what was written before it.
    pub fn load_u16(&self, addr: u64) -> u16 {
        let value: u16 = self.slice(addr, 2).load(0, Ordering::Acquire).expect("aligned");
        u16::from_le(value)
    }

    /// The address in this process, which vhost-user uses to name ring addresses.
    pub fn user_addr(&self, addr: u64) -> u64 {
        self.region.as_ptr() as u64 + (addr - GUEST_BASE)
    }

    /// The region as the SET_MEM_TABLE message wants it.
    pub fn table(&self) -> Result<VhostUserMemoryRegionInfo> {
        VhostUserMemoryRegionInfo::from_guest_region(&self.region).context("memory region")
    }
}
