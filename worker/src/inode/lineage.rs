//! Whether a directory that is found elsewhere is above the one it is found in: somebody on the host moved it, and what
//! the table knows of one of them is out of date. The table must not hold a circle.
//!
//! Only a node with others beneath it can be above one, and most are not, so the question comes up for directories that
//! move and for nothing else. The way up is as long as the guest makes it: it is gone in steps, a few under each lock.
//! While it is gone nobody else moves such a directory ([`Inodes::moves`]), and its lower end counts as one with something
//! beneath it. So the way can only lose its upper part, and who is not on it does not come onto it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use airlockfs_ipc::{Errno, NodeId};

use super::{Inodes, node::NONE};

/// Steps under one lock.
pub(super) const STEPS: usize = 256;

/// Who may move directories with something beneath them.
pub(super) type Moves = Mutex<()>;

/// What was found out, true as long as it is held.
pub(super) struct Lineage<'a> {
    inodes: &'a Inodes,
    below: NodeId,
    /// Whether it is above.
    pub(super) above: bool,
    _moves: MutexGuard<'a, ()>,
}

impl Drop for Lineage<'_> {
    fn drop(&mut self) {
        self.inodes.change(|table, dropped| {
            if let Some(index) = table.index(self.below) {
                table.let_go(index, dropped);
            }
        });
    }
}

impl Inodes {
    /// Whether `above` is one of the directories that `below` is beneath. ESTALE if the guest forgot one meanwhile.
    pub(super) fn lineage(&self, above: NodeId, below: NodeId) -> Result<Lineage<'_>, Errno> {
        let moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        self.change(|table, _| table.index(below).map(|index| table.hold(index)))
            .ok_or(Errno::ESTALE)?;
        let mut lineage = Lineage {
            inodes: self,
            below,
            above: false,
            _moves: moves,
        };
        lineage.above = self.is_above(above, below);
        Ok(lineage)
    }

    fn is_above(&self, above: NodeId, mut at: NodeId) -> bool {
        loop {
            let table = self.read();
            let (Some(above), Some(mut index)) = (table.index(above), table.index(at)) else {
                // All was forgotten (DESTROY).
                return false;
            };
            for _ in 0..STEPS {
                if index == above {
                    return true;
                }
                index = table.node(index).map_or(NONE, |node| node.parent);
                if index == NONE {
                    return false;
                }
                #[cfg(test)]
                self.steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            at = table.id(index);
        }
    }
}
