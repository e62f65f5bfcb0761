//! Descriptors that leave the table. Closing takes time: they are closed once the table's lock is released.

use airlockfs_ipc::recycle::{Recycler, Shared};

use super::Descriptor;

/// As many as most changes of the table drop; for more there is the heap.
const FEW: usize = 4;

/// Descriptors to be closed.
#[derive(Default)]
pub(super) struct Dropped {
    few: [Option<Shared<Descriptor>>; FEW],
    more: Vec<Shared<Descriptor>>,
}

impl Dropped {
    pub(super) fn push(&mut self, descriptor: Shared<Descriptor>) {
        match self.few.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(descriptor),
            None => self.more.push(descriptor),
        }
    }

    /// Closes those that nobody uses any more.
    pub(super) fn close(self, recycler: &Recycler<Descriptor>) {
        for descriptor in self.few.into_iter().flatten().chain(self.more) {
            recycler.give_back(descriptor);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.few.iter().flatten().count() + self.more.len()
    }
}
