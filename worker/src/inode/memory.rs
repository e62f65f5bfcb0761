//! The memory that the table may take. What does not fit is refused (ENOMEM) before anything is allocated.

use airlockfs_ipc::Errno;

use super::node::Node;

/// Bytes for a place in the table: the node; its part of the two indexes, of 5 bytes a bucket (hashbrown), which are at
/// least 7/16 full, and of one of them once more while it grows; its number in the list of free places.
pub(super) const PLACE: usize = size_of::<Node>() + 2 * 12 + 12 + 12;

/// Bytes for a further place of a node: 40 in a list that doubles, and its part of two indexes and of the list of those
/// that are free.
pub(super) const ALIAS: usize = 144;

/// What is used of how much.
pub(super) struct Memory {
    used: usize,
    max: usize,
}

impl Memory {
    /// None yet.
    pub(super) const fn new(max: usize) -> Self {
        Self { used: 0, max }
    }

    /// ENOMEM unless there is room for `needed` bytes more beside `others`.
    pub(super) fn fits(&self, needed: usize, others: usize) -> Result<(), Errno> {
        let used = self.used.saturating_add(others);
        // What needs nothing is not refused, however much the others took.
        if needed > 0 && used.saturating_add(needed) > self.max {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// A place was added. It stays when its node goes, for another one.
    pub(super) const fn add_place(&mut self) {
        self.used = self.used.saturating_add(PLACE);
    }

    /// The last `count` places went.
    pub(super) const fn drop_places(&mut self, count: usize) {
        self.used = self.used.saturating_sub(count.saturating_mul(PLACE));
    }

    /// A node got a name.
    pub(super) fn add_name(&mut self, name: &[u8]) {
        self.used = self.used.saturating_add(of_name(name));
    }

    /// A node lost its name.
    pub(super) fn drop_name(&mut self, name: &[u8]) {
        self.used = self.used.saturating_sub(of_name(name));
    }

    #[cfg(test)]
    pub(super) const fn used(&self) -> usize {
        self.used
    }
}

/// Bytes of the heap for a name: those that the node itself has no room for, a word of malloc's, in steps of 16.
pub(super) fn of_name(name: &[u8]) -> usize {
    match name.len() {
        0..=super::name::SHORT => 0,
        length => (length + 8).next_multiple_of(16).max(32),
    }
}
