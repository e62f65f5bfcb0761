//! Where the nodes of the table lie: a directory and a name in it. At most one node stands for a name in a directory.

use std::hash::BuildHasher;

use super::{
    dropped::Dropped,
    name::NodeName,
    node::{NONE, Node},
    table::Table,
};

/// Where a node lies beneath its parent.
#[derive(Clone, Copy)]
pub(super) struct Location<'a> {
    pub(super) parent: u32,
    pub(super) name: &'a [u8],
}

impl Table {
    pub(super) fn location_hash(&self, location: Location<'_>) -> u64 {
        self.hasher.hash_one((location.parent, location.name))
    }

    /// The node last seen under a name.
    pub(super) fn at(&self, location: Location<'_>) -> Option<u32> {
        let same = |&index: &u32| {
            self.node(index)
                .is_some_and(|node| node.is_at(location.parent, location.name))
        };
        let current = self.by_location.find(self.location_hash(location), same);
        current
            .copied()
            .or_else(|| self.aliases.at(location.parent, location.name))
    }

    /// Whether it must be asked for first whether a node is above its new directory: `above` does not say, and something
    /// is beneath it ([`super::lineage`]).
    pub(super) fn must_ask(&self, index: u32, location: Location<'_>, above: Option<bool>) -> bool {
        let has_children = self.node(index).is_some_and(|node| node.children > 0);
        above.is_none() && has_children && !self.is_known_at(index, location)
    }

    /// Says where a node is, and nothing else there. A directory is under no other name; another inode keeps the places
    /// it had. `above`: the node is above its new directory as far as was known.
    pub(super) fn locate(&mut self, index: u32, location: Location<'_>, above: bool, dropped: &mut Dropped) {
        // A file system whose inode numbers are not its own may show a directory in itself.
        if self.node(index).is_none_or(Node::is_pinned) || index == location.parent {
            return;
        }
        let replaced = self.at(location);
        if replaced == Some(index) || self.node(location.parent).is_none() {
            return;
        }
        // First of all: the steps below must not find the directory unused.
        self.hold(location.parent);
        if let Some(replaced) = replaced {
            self.leave(replaced, location, dropped);
        }
        if above {
            // The directory was last seen beneath this node, and this node is now beneath it: so it has moved.
            self.unlocate(location.parent, dropped);
        }
        self.set_aside(index, dropped);
        self.settle(index, location);
    }

    /// Makes a place the current one of a node that has none. The directory counts it already.
    fn settle(&mut self, index: u32, location: Location<'_>) {
        let Some(node) = self.node_mut(index) else { return };
        node.parent = location.parent;
        node.name = location.name.into();
        self.memory.add_name(location.name);
        let hash = self.location_hash(location);
        let Self {
            by_location,
            nodes,
            hasher,
            ..
        } = self;
        by_location.insert_unique(hash, index, |&other| {
            nodes
                .get(other as usize)
                .map_or(0, |node| hasher.hash_one((node.parent, &*node.name)))
        });
    }

    /// Something is beneath a node, or is about to be.
    pub(super) fn hold(&mut self, index: u32) {
        if let Some(node) = self.node_mut(index) {
            node.children += 1;
        }
    }

    /// It is not any more.
    pub(super) fn let_go(&mut self, index: u32, dropped: &mut Dropped) {
        if let Some(node) = self.node_mut(index) {
            node.children = node.children.saturating_sub(1);
        }
        self.collect(index, dropped);
    }

    /// Makes room for another current place of a node: this one becomes an alias, unless it is a directory.
    fn set_aside(&mut self, index: u32, dropped: &mut Dropped) {
        let Some(node) = self.node(index).filter(|node| node.parent != NONE) else {
            return;
        };
        if node.mode_kind() == libc::S_IFDIR {
            self.unlocate(index, dropped);
            return;
        }
        let (parent, name) = self.detach(index);
        // Whoever is added is counted by its directory; who made room no more.
        self.hold(parent);
        let made_room = self.aliases.add(index, parent, name);
        if let Some(parent) = made_room {
            self.let_go(parent, dropped);
        }
    }

    /// A node is not at a place any more. It is where it was seen before, if it has another name.
    pub(super) fn leave(&mut self, index: u32, place: Location<'_>, dropped: &mut Dropped) {
        if self.aliases.remove(index, place.parent, place.name) {
            self.let_go(place.parent, dropped);
        } else if self
            .node(index)
            .is_some_and(|node| node.is_at(place.parent, place.name))
        {
            let (parent, _) = self.detach(index);
            if let Some((parent, name)) = self.aliases.take_latest(index) {
                let name = &*name;
                self.settle(index, Location { parent, name });
            }
            self.collect(parent, dropped);
        }
    }

    /// Whether a node has another name than its current one.
    pub(super) fn has_alias(&self, index: u32) -> bool {
        self.aliases.has(index)
    }

    /// Whether a place is a node's, its current one or another. Looks at the node first, which most LOOKUPs end with.
    pub(super) fn is_known_at(&self, index: u32, place: Location<'_>) -> bool {
        self.node(index)
            .is_some_and(|node| node.is_at(place.parent, place.name))
            || self.aliases.at(place.parent, place.name) == Some(index)
    }

    /// Forgets where a directory is.
    fn unlocate(&mut self, index: u32, dropped: &mut Dropped) {
        let (parent, _) = self.detach(index);
        self.collect(parent, dropped);
    }

    /// Takes a node out of its current directory; the directory's index, and its name there.
    pub(super) fn detach(&mut self, index: u32) -> (u32, NodeName) {
        let Some(node) = self.node_mut(index) else {
            return (NONE, NodeName::default());
        };
        let parent = std::mem::replace(&mut node.parent, NONE);
        let name = std::mem::take(&mut node.name);
        self.memory.drop_name(&name);
        if parent != NONE {
            let hash = self.location_hash(Location { parent, name: &name });
            if let Ok(entry) = self.by_location.find_entry(hash, |&other| other == index) {
                entry.remove();
            }
            if let Some(parent) = self.node_mut(parent) {
                parent.children = parent.children.saturating_sub(1);
            }
        }
        (parent, name)
    }
}
