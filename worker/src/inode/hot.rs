//! Which nodes hold a descriptor, and which of them gives it up: a clock, the cheap kin of least recently used.

/// Indexes of hot nodes. Each node knows its place in the list.
pub(super) struct Hot {
    indexes: Vec<u32>,
    hand: usize,
}

/// How far the hand goes before it takes what it finds. Bounds the time under the table's lock.
const PATIENCE: usize = 128;

impl Hot {
    pub(super) const fn new() -> Self {
        Self {
            indexes: Vec::new(),
            hand: 0,
        }
    }

    /// How many nodes are hot.
    pub(super) fn len(&self) -> usize {
        self.indexes.len()
    }

    /// The node at a place.
    pub(super) fn at(&self, place: usize) -> Option<u32> {
        self.indexes.get(place).copied()
    }

    /// Adds a node; its place.
    pub(super) fn push(&mut self, index: u32) -> u32 {
        self.indexes.push(index);
        (self.indexes.len() - 1) as u32
    }

    /// Removes the node at a place; the node that has this place now, if any.
    pub(super) fn remove(&mut self, place: u32) -> Option<u32> {
        let place = place as usize;
        if place < self.indexes.len() {
            self.indexes.swap_remove(place);
        }
        self.indexes.get(place).copied()
    }

    /// Moves the hand to a node that may go: `may_go` says so, and takes away the mark of its last use. While it is
    /// patient it may spare what is hard to find again.
    pub(super) fn victim(&mut self, mut may_go: impl FnMut(u32, bool) -> bool) -> Option<u32> {
        let steps = self.indexes.len().saturating_mul(2).min(PATIENCE);
        for step in 0..steps {
            self.hand = if self.hand + 1 < self.indexes.len() {
                self.hand + 1
            } else {
                0
            };
            let index = *self.indexes.get(self.hand)?;
            if may_go(index, step + 1 < steps) {
                return Some(index);
            }
        }
        self.indexes.get(self.hand).copied()
    }
}
