//! Files and directories that the guest uses without opening them (FUSE_NO_OPEN_SUPPORT): opened for reading when they
//! are first used, and kept while there is room, since nobody says when they are used for the last time. FORGET of the
//! node ends them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{PoisonError, RwLock},
};

use airlockfs_ipc::{NodeId, recycle::Shared};

use crate::{handle::Open, session};

/// Those that are kept.
#[derive(Default)]
pub(crate) struct ByNode {
    kept: RwLock<Kept>,
    max: usize,
}

#[derive(Default)]
struct Kept {
    files: BTreeMap<NodeId, Shared<Open>>,
    /// Every one that is kept, the oldest first; some are gone already.
    order: VecDeque<NodeId>,
}

impl ByNode {
    /// None yet, and never more than `max`.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            kept: RwLock::default(),
            max,
        }
    }

    /// The one of a node, if it is kept.
    pub(crate) fn get(&self, node: NodeId) -> Option<Shared<Open>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.files.get(&node).cloned()
    }

    /// Keeps one, in place of the oldest where there is no room.
    pub(crate) fn keep(&self, node: NodeId, open: &Shared<Open>) {
        let mut closed = Vec::new();
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if session::is_over() {
            return;
        }
        while kept.order.len() >= self.max {
            let Some(oldest) = kept.order.pop_front() else {
                return;
            };
            closed.extend(kept.files.remove(&oldest));
        }
        kept.order.push_back(node);
        closed.extend(kept.files.insert(node, open.clone()));
        // Closing takes time.
        drop(kept);
    }

    /// Those of these nodes end.
    pub(crate) fn forget(&self, nodes: impl Iterator<Item = NodeId>) {
        let mut closed = Vec::new();
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        closed.extend(nodes.filter_map(|node| kept.files.remove(&node)));
        drop(kept);
    }

    /// All end: they are still to be closed.
    pub(crate) fn clear(&self) -> impl Send + use<> {
        std::mem::take(&mut *self.kept.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::Located;

    fn open() -> Shared<Open> {
        let file = std::fs::File::open("/dev/null").unwrap();
        let node = Located {
            id: NodeId(1),
            share: 0,
            mount: 0,
            dev: 0,
        };
        Shared::new(Open::file(file.into(), node, libc::O_RDONLY))
    }

    #[test]
    fn the_oldest_makes_room_and_what_is_forgotten_is_closed() {
        let by_node = ByNode::new(2);
        let file = open();
        for node in 1..=3 {
            by_node.keep(NodeId(node), &file);
        }
        assert!(by_node.get(NodeId(1)).is_none() && by_node.get(NodeId(3)).is_some());
        by_node.forget([NodeId(3), NodeId(9)].into_iter());
        assert!(by_node.get(NodeId(3)).is_none() && by_node.get(NodeId(2)).is_some());
        for _ in 0..100 {
            by_node.keep(NodeId(5), &file);
            by_node.forget([NodeId(5)].into_iter());
        }
        assert_eq!(file.users(), 1, "all are closed");
        by_node.keep(NodeId(6), &file);
        drop(by_node.clear());
        assert_eq!(file.users(), 1);
        ByNode::new(0).keep(NodeId(1), &file);
        assert_eq!(file.users(), 1, "there is no room");
    }
}
