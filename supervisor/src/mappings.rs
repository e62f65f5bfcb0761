//! All regions of guest memory that are mapped: those of the VMM that is there, and those that it took away and requests in
//! flight still use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::{GuestMemoryRegion, GuestRegionMmap};

use crate::fault::Known;

/// A mapped region.
pub(crate) type Region = GuestRegionMmap<()>;

/// The regions.
#[derive(Debug, Default)]
pub(crate) struct Mappings(Mutex<Vec<Mapping>>);

/// What is dropped first stands first: an address is known only while it is mapped.
#[derive(Debug)]
struct Mapping {
    _known: Known,
    region: Arc<Region>,
}

impl Mappings {
    /// Adds one. `None`: there are too many.
    pub(crate) fn add(&self, region: Region) -> Option<Arc<Region>> {
        self.sweep();
        let length = usize::try_from(region.len()).ok()?;
        let known = Known::new(region.as_ptr(), length)?;
        let region = Arc::new(region);
        self.lock().push(Mapping {
            _known: known,
            region: region.clone(),
        });
        Some(region)
    }

    /// Unmaps those that nobody uses any more.
    pub(crate) fn sweep(&self) {
        // Those that only this list holds: nobody else can take one up again.
        self.lock()
            .retain(|mapping| Arc::strong_count(&mapping.region) > 1);
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Mapping>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
