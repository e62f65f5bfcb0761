//! Guest memory as the VMM hands it over: what is mapped, and where in the VMM each region lies, by which it names the
//! rings.

use std::{
    fs::File,
    io,
    sync::{Arc, PoisonError},
};

use vhost::vhost_user::{Error, Result, message::VhostUserMemoryRegion};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryRegion};

use crate::{
    guest_memory::{Memory, SharedMemory},
    mappings::{Mappings, Region},
    sys::fstat,
};

/// Most regions, as vhost in the kernel has it by default (`max_mem_regions` of KVM's 512, less its own).
pub(super) const SLOTS: usize = 509;

/// The smallest page of any kernel.
const PAGE: u64 = 4096;

/// The regions of a connection.
#[derive(Debug)]
pub(super) struct Regions {
    memory: SharedMemory,
    mappings: Arc<Mappings>,
    places: Vec<Place>,
}

/// Where a region lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// In the VMM.
    user: u64,
    /// In the guest.
    guest: u64,
    /// Bytes.
    size: u64,
}

impl Place {
    fn of(region: &VhostUserMemoryRegion) -> Self {
        Self {
            user: region.user_addr,
            guest: region.guest_phys_addr,
            size: region.memory_size,
        }
    }

    fn guest_address(&self, user: u64) -> Option<u64> {
        let offset = user.checked_sub(self.user).filter(|offset| *offset < self.size)?;
        self.guest.checked_add(offset)
    }
}

impl Regions {
    /// None yet; they will appear in `memory`, and as long as they are used in `mappings`.
    pub(super) fn new(memory: SharedMemory, mappings: Arc<Mappings>) -> Self {
        Self {
            memory,
            mappings,
            places: Vec::new(),
        }
    }

    /// The guest's memory as it is now.
    pub(super) fn memory(&self) -> impl std::ops::Deref<Target = Memory> {
        self.memory.memory()
    }

    /// SET_MEM_TABLE: these and no others.
    ///
    /// # Errors
    /// One cannot be mapped, or two overlap. What was there stays.
    pub(super) fn set(&mut self, regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<()> {
        let mut mapped = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            mapped.push(self.map(region, file)?);
        }
        mapped.sort_by_key(|region| region.start_addr());
        let memory = match mapped.is_empty() {
            true => Memory::new(),
            false => Memory::from_arc_regions(mapped).map_err(refused)?,
        };
        self.replace(memory);
        self.places = regions.iter().map(Place::of).collect();
        Ok(())
    }

    /// ADD_MEM_REG.
    ///
    /// # Errors
    /// It cannot be mapped, overlaps another, or is one too many.
    pub(super) fn add(&mut self, region: &VhostUserMemoryRegion, file: File) -> Result<()> {
        if self.places.len() >= SLOTS {
            return Err(Error::InvalidParam);
        }
        let mapped = self.map(region, file)?;
        let memory = self.memory().insert_region(mapped).map_err(refused)?;
        self.replace(memory);
        self.places.push(Place::of(region));
        Ok(())
    }

    /// REM_MEM_REG.
    ///
    /// # Errors
    /// There is no region of this place and size.
    pub(super) fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<()> {
        let start = GuestAddress(region.guest_phys_addr);
        let (memory, _) = self
            .memory()
            .remove_region(start, region.memory_size)
            .map_err(refused)?;
        self.replace(memory);
        let guest = region.guest_phys_addr;
        self.places.retain(|place| place.guest != guest);
        Ok(())
    }

    /// The guest physical address of what the VMM has at `user`.
    pub(super) fn guest_address(&self, user: u64) -> Result<u64> {
        let found = self.places.iter().find_map(|place| place.guest_address(user));
        found.ok_or(Error::InvalidParam)
    }

    fn replace(&self, memory: Memory) {
        let guard = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        guard.replace(memory);
        self.mappings.sweep();
    }

    fn map(&self, region: &VhostUserMemoryRegion, file: File) -> Result<Arc<Region>> {
        check_size(region, &file)?;
        let guest = GuestAddress(region.guest_phys_addr);
        let mapped = Region::new(region.mmap_region(file)?, guest).ok_or(Error::InvalidParam)?;
        self.mappings.add(mapped).ok_or(Error::InvalidParam)
    }
}

/// Whether a file holds the region that is announced for it. It may be truncated afterwards (see [`crate::fault`]). What is
/// not a regular file, a device's memory, has no size that can be told.
fn check_size(region: &VhostUserMemoryRegion, file: &File) -> Result<()> {
    let status = fstat(file).map_err(|error| refused(io::Error::from_raw_os_error(error.number())))?;
    if status.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Ok(());
    }
    // The last page is there whole.
    let there = u64::try_from(status.st_size).unwrap_or(0);
    let there = there.checked_next_multiple_of(PAGE).unwrap_or(there);
    match region.mmap_offset.checked_add(region.memory_size) {
        Some(end) if end <= there => Ok(()),
        _ => Err(refused(io::Error::other(
            "a region of memory that its file does not hold",
        ))),
    }
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::ReqHandlerError(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use nix::{
        sys::memfd::{MFdFlags, memfd_create},
        unistd::ftruncate,
    };
    use vm_memory::{Bytes, GuestMemoryBackend};

    use super::*;

    fn region(guest: u64, size: u64, user: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(guest, size, user, 0)
    }

    fn file() -> File {
        let file = memfd_create(c"test", MFdFlags::empty()).unwrap();
        ftruncate(&file, 16 * PAGE as i64).unwrap();
        file.into()
    }

    fn regions() -> Regions {
        Regions::new(SharedMemory::new(Memory::new()), Arc::default())
    }

    #[test]
    fn a_table_in_any_order_replaces_the_last_and_is_found_by_the_vmms_addresses() {
        let mut regions = regions();
        let table = [region(8 * PAGE, 2 * PAGE, 0x7000_0000), region(0, PAGE, 0x9000)];
        regions.set(&table, vec![file(), file()]).unwrap();
        assert_eq!(regions.memory().num_regions(), 2);
        assert_eq!(regions.guest_address(0x7000_1004).unwrap(), 9 * PAGE + 4);
        assert_eq!(regions.guest_address(0x9fff).unwrap(), 0xfff);
        for outside in [0, 0x8fff, 0xa000, 0x7000_2000, u64::MAX] {
            assert!(regions.guest_address(outside).is_err(), "{outside:x}");
        }
        regions.set(&table[..1], vec![file()]).unwrap();
        assert_eq!(regions.memory().num_regions(), 1);
        assert!(regions.guest_address(0x9000).is_err());
    }

    #[test]
    fn a_table_that_makes_no_sense_changes_nothing() {
        let mut regions = regions();
        regions.set(&[region(0, 2 * PAGE, 0x9000)], vec![file()]).unwrap();
        let overlapping = [region(0, 2 * PAGE, 0), region(PAGE, PAGE, 0x9000)];
        assert!(regions.set(&overlapping, vec![file(), file()]).is_err());
        assert!(regions.add(&region(PAGE, PAGE, 0x5000), file()).is_err());
        assert!(regions.add(&region(u64::MAX - 1, PAGE, 0x5000), file()).is_err());
        let null = File::open("/proc/self/status").unwrap();
        assert!(regions.add(&region(4 * PAGE, PAGE, 0x5000), null).is_err());
        for (guest, size) in [(0, PAGE), (PAGE, PAGE), (4 * PAGE, PAGE)] {
            assert!(regions.remove(&region(guest, size, 0x9000)).is_err());
        }
        assert_eq!(regions.guest_address(0x9000).unwrap(), 0);
        regions.memory().write_slice(b"x", GuestAddress(PAGE)).unwrap();
    }

    #[test]
    fn a_region_that_its_file_does_not_hold_is_refused() {
        let mut regions = regions();
        let at = |size, offset| VhostUserMemoryRegion::new(0, size, 0x9000, offset);
        for (size, offset) in [
            (17 * PAGE, 0),
            (PAGE, 16 * PAGE),
            (2 * PAGE, 15 * PAGE),
            (PAGE, u64::MAX - 4095),
        ] {
            assert!(
                regions.set(&[at(size, offset)], vec![file()]).is_err(),
                "{size:x} {offset:x}"
            );
            assert!(
                regions.add(&at(size, offset), file()).is_err(),
                "{size:x} {offset:x}"
            );
        }
        regions.set(&[at(PAGE, 15 * PAGE)], vec![file()]).unwrap();
        // The rest of the last page is there.
        let odd = file();
        odd.set_len(PAGE + 1).unwrap();
        regions.set(&[at(2 * PAGE, 0)], vec![odd]).unwrap();
    }

    #[test]
    fn a_region_stays_mapped_while_it_is_used() {
        let mut regions = regions();
        regions.set(&[region(0, PAGE, 0x9000)], vec![file()]).unwrap();
        let used = regions.memory.memory();
        regions.set(&[], vec![]).unwrap();
        used.write_slice(b"x", GuestAddress(0)).unwrap();
        drop(used);
        assert_eq!(regions.mappings.count(), 1);
        regions.set(&[], vec![]).unwrap();
        assert_eq!(regions.mappings.count(), 0);
    }

    #[test]
    fn regions_come_and_go() {
        let mut regions = regions();
        for slot in 0..3 {
            let user = 0x10_0000 + slot * PAGE;
            regions.add(&region(slot * PAGE, PAGE, user), file()).unwrap();
        }
        regions.remove(&region(PAGE, PAGE, 0)).unwrap();
        assert!(regions.guest_address(0x10_1000).is_err());
        assert_eq!(regions.guest_address(0x10_2000).unwrap(), 2 * PAGE);
        regions.add(&region(PAGE, PAGE, 0x50), file()).unwrap();
        assert_eq!(regions.guest_address(0x51).unwrap(), PAGE + 1);
        let place = regions.places[0];
        regions.places.resize(SLOTS, place);
        assert!(
            regions.add(&region(1 << 40, PAGE, 0), file()).is_err(),
            "too many"
        );
    }
}
