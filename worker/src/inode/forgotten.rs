//! Nodes that the guest's kernel forgot and may ask for again by their ids (FUSE_EXPORT_SUPPORT): a file handle of the
//! guest's holds nothing else. The latest of them stay in the table, with their names and without a descriptor.

use std::collections::VecDeque;

use airlockfs_ipc::Errno;

use super::{Inodes, dropped::Dropped, memory::PLACE, node::NONE, table::Table};

/// Most of them, whatever memory there is.
const MOST: usize = 1 << 16;
/// Their part of the table's memory, apart from the directories that they are in.
const PART: usize = 8;
/// How many go under one lock when room is scarce.
const AT_ONCE: usize = 256;

/// Indexes of nodes, the earliest first. Each counts as an open handle of its node, so that it stays. One that was forgotten
/// more than once is there as often.
#[derive(Default)]
pub(super) struct Forgotten {
    queue: VecDeque<u32>,
    most: usize,
}

impl Forgotten {
    /// None yet; none ever, unless they are to be `kept`.
    pub(super) fn new(kept: bool, max_memory: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            most: if kept {
                (max_memory / PLACE / PART).min(MOST)
            } else {
                0
            },
        }
    }

    pub(super) fn clear(&mut self) {
        self.queue = VecDeque::new();
    }
}

impl Table {
    /// The guest has no lookups of a node any more. It stays for a while where it could be found again.
    pub(super) fn keep(&mut self, index: u32, found_again: impl FnOnce(u64) -> bool, dropped: &mut Dropped) {
        if self.forgotten.most == 0 {
            return;
        }
        let Some(node) = self.node_mut(index).filter(|node| !node.is_pinned()) else {
            return;
        };
        if node.parent != NONE && found_again(node.mount) {
            *node.handles.get_mut() += 1;
            self.forgotten.queue.push_back(index);
        }
        // A descriptor would keep the room of a removed file, and its mount.
        self.cool_into(index, dropped);
        if self.forgotten.queue.len() > self.forgotten.most {
            self.lose(1, dropped);
        }
    }

    /// Up to `count` of them go, the earliest first. False if there is none.
    fn lose(&mut self, count: usize, dropped: &mut Dropped) -> bool {
        for lost in 0..count {
            let Some(index) = self.forgotten.queue.pop_front() else {
                return lost > 0;
            };
            if let Some(node) = self.node_mut(index) {
                let handles = node.handles.get_mut();
                *handles = handles.saturating_sub(1);
            }
            self.collect(index, dropped);
        }
        true
    }
}

impl Inodes {
    /// Tries something again as long as it lacks room in the table and nodes are kept that the guest forgot.
    pub(super) fn with_room<T>(&self, attempt: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        loop {
            match attempt() {
                Err(Errno::ENOMEM) if self.change(|table, dropped| table.lose(AT_ONCE, dropped)) => {}
                result => return result,
            }
        }
    }
}
