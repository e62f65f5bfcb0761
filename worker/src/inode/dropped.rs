//! Descriptors that leave the table. Closing takes time: they are closed once the table's lock is released.

use airlockfs_ipc::{
    NodeId,
    recycle::{Recycler, Shared},
};

use super::Descriptor;

/// As many as most changes of the table drop; for more there is the heap.
const FEW: usize = 4;

/// A descriptor that a node gave up.
pub(super) struct Cooled {
    pub(super) descriptor: Shared<Descriptor>,
    /// The node.
    pub(super) id: NodeId,
    /// The mount it is on.
    pub(super) mount: u64,
    /// Index of the share it is in.
    pub(super) share: u16,
}

/// Descriptors to be closed.
#[derive(Default)]
pub(super) struct Dropped {
    few: [Option<Cooled>; FEW],
    more: Vec<Cooled>,
}

impl Dropped {
    pub(super) fn push(&mut self, cooled: Cooled) {
        match self.few.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(cooled),
            None => self.more.push(cooled),
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Cooled> {
        self.few.iter().flatten().chain(&self.more)
    }

    /// Closes those that nobody uses any more.
    pub(super) fn close(self, recycler: &Recycler<Descriptor>) {
        for cooled in self.few.into_iter().flatten().chain(self.more) {
            recycler.give_back(cooled.descriptor);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }
}
