//! The table of known inodes: a slab of nodes with two indexes over it, by key and by location. No system calls.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use airlockfs_ipc::{Errno, GENERATIONS, NodeId, recycle::Shared};
use hashbrown::HashTable;

use super::{
    Descriptor,
    dropped::Dropped,
    hot::Hot,
    name::NodeName,
    node::{Identity, Key, NONE, Node},
};

/// Most inodes a guest may hold lookups on, about 2 GiB of the worker's memory.
const NODES_MAX: usize = 1 << 24;

/// Index of the first node: the root that the guest mounts.
pub(super) const ROOT: u32 = 0;

pub(super) struct Table {
    nodes: Vec<Node>,
    free: Vec<u32>,
    by_key: HashTable<u32>,
    /// At most one node stands for a name in a directory.
    by_location: HashTable<u32>,
    pub(super) hot: Hot,
    /// The mount that each share begins on.
    homes: Vec<u64>,
    /// Hot nodes on other mounts.
    away: usize,
    hasher: RandomState,
    /// For keys.
    secret: [u64; 2],
}

/// Where a node lies beneath its parent.
#[derive(Clone, Copy)]
pub(super) struct Location<'a> {
    pub(super) parent: u32,
    pub(super) name: &'a [u8],
}

impl Table {
    pub(super) fn new() -> Self {
        let hasher = RandomState::new();
        Self {
            secret: [0, 1].map(|number: u64| hasher.hash_one(number)),
            nodes: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            by_location: HashTable::new(),
            hot: Hot::new(),
            homes: Vec::new(),
            away: 0,
            hasher,
        }
    }

    /// The node at an index that came from this table under the same lock.
    pub(super) fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(index as usize)
    }

    fn node_mut(&mut self, index: u32) -> Option<&mut Node> {
        self.nodes.get_mut(index as usize)
    }

    /// Index of a node id, if it is known. The guest may have made it up.
    pub(super) fn index(&self, id: NodeId) -> Option<u32> {
        let index = (id.0 as u32).checked_sub(1)?;
        let node = self.node(index)?;
        (node.kind != 0 && u64::from(node.generation) == id.0 >> 32).then_some(index)
    }

    /// The id of the node at `index`: never 0, and 1 for the first place in its first use.
    pub(super) fn id(&self, index: u32) -> NodeId {
        let generation = self.node(index).map_or(0, |node| node.generation);
        NodeId((u64::from(generation) << 32) | (u64::from(index) + 1))
    }

    pub(super) fn key_hash(&self, key: &Key) -> u64 {
        hash(key, self.secret)
    }

    fn location_hash(&self, location: Location<'_>) -> u64 {
        self.hasher.hash_one((location.parent, location.name))
    }

    /// The node of an inode.
    pub(super) fn find(&self, identity: &Identity) -> Option<u32> {
        let same = |&index: &u32| self.node(index).is_some_and(|node| node.is(identity));
        self.by_key.find(self.key_hash(&identity.key), same).copied()
    }

    /// The node last seen under a name.
    pub(super) fn at(&self, location: Location<'_>) -> Option<u32> {
        let same = |&index: &u32| {
            self.node(index)
                .is_some_and(|node| node.is_at(location.parent, location.name))
        };
        self.by_location.find(self.location_hash(location), same).copied()
    }

    /// Adds an inode that [`Self::find`] does not find, without location, lookups or descriptor. ENOMEM when the guest
    /// knows too many.
    pub(super) fn insert(&mut self, identity: &Identity) -> Result<u32, Errno> {
        let node = Node {
            ino: identity.key.ino,
            mount: identity.key.mount,
            birth_seconds: identity.birth.0,
            name: NodeName::default(),
            descriptor: None,
            lookups: AtomicU64::new(0),
            birth_nanoseconds: identity.birth.1,
            dev: identity.key.dev,
            parent: NONE,
            children: 0,
            handles: AtomicU32::new(0),
            hot: NONE,
            generation: 0,
            share: identity.key.share,
            kind: (identity.kind >> 12) as u8,
            referenced: AtomicBool::new(false),
        };
        let index = match self.free.pop() {
            Some(index) => {
                if let Some(place) = self.nodes.get_mut(index as usize) {
                    let generation = place.generation;
                    *place = Node { generation, ..node };
                }
                index
            }
            None if self.nodes.len() < NODES_MAX => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
            None => return Err(Errno::ENOMEM),
        };
        let Self {
            by_key,
            nodes,
            secret,
            ..
        } = self;
        by_key.insert_unique(hash(&identity.key, *secret), index, |&other| {
            nodes
                .get(other as usize)
                .map_or(0, |node| hash(&node.key(), *secret))
        });
        Ok(index)
    }

    /// Says where a node is: under no other name, and nothing else there.
    pub(super) fn locate(&mut self, index: u32, location: Location<'_>, dropped: &mut Dropped) {
        if self.node(index).is_none_or(Node::is_pinned) {
            return;
        }
        let replaced = self.at(location);
        if replaced == Some(index) {
            return;
        }
        // First of all: the steps below must not find the directory unused.
        let Some(parent) = self.node_mut(location.parent) else {
            return;
        };
        parent.children += 1;
        if let Some(replaced) = replaced {
            self.unlocate(replaced, dropped);
        }
        if self.is_above(index, location.parent) {
            // The directory was last seen beneath this node, and this node is now beneath it: so it has moved.
            self.unlocate(location.parent, dropped);
        }
        self.unlocate(index, dropped);
        let Some(node) = self.node_mut(index) else { return };
        node.parent = location.parent;
        node.name = location.name.into();
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

    /// Forgets where a node is.
    pub(super) fn unlocate(&mut self, index: u32, dropped: &mut Dropped) {
        let parent = self.detach(index);
        self.collect(parent, dropped);
    }

    /// Takes a node out of its directory; the directory's index.
    fn detach(&mut self, index: u32) -> u32 {
        let Some(node) = self.node_mut(index) else {
            return NONE;
        };
        let parent = std::mem::replace(&mut node.parent, NONE);
        let name = std::mem::take(&mut node.name);
        if parent != NONE {
            let hash = self.location_hash(Location { parent, name: &name });
            if let Ok(entry) = self.by_location.find_entry(hash, |&other| other == index) {
                entry.remove();
            }
            if let Some(parent) = self.node_mut(parent) {
                parent.children = parent.children.saturating_sub(1);
            }
        }
        parent
    }

    /// Whether `above` is `below` or one of the directories it is beneath.
    fn is_above(&self, above: u32, mut below: u32) -> bool {
        while below != NONE && below != above {
            below = self.node(below).map_or(NONE, |node| node.parent);
        }
        below == above
    }

    /// Removes the node at `index` if nothing refers to it any more, then its directory likewise, and so on.
    pub(super) fn collect(&mut self, mut index: u32, dropped: &mut Dropped) {
        while let Some(node) = self.node_mut(index) {
            let used = node.kind == 0
                || *node.lookups.get_mut() > 0
                || *node.handles.get_mut() > 0
                || node.children > 0
                || node.is_pinned()
                || index == ROOT;
            if used {
                return;
            }
            self.cool_into(index, dropped);
            let parent = self.detach(index);
            let Some(node) = self.node_mut(index) else { return };
            let key = node.key();
            node.kind = 0;
            // A place whose generations are used up is never used again.
            node.generation += 1;
            if node.generation < GENERATIONS {
                self.free.push(index);
            }
            let hash = self.key_hash(&key);
            if let Ok(entry) = self.by_key.find_entry(hash, |&other| other == index) {
                entry.remove();
            }
            index = parent;
        }
    }

    /// Drops `count` of a node's lookups, at most all.
    pub(super) fn forget(&mut self, id: NodeId, count: u64, dropped: &mut Dropped) {
        let Some(index) = self.index(id) else { return };
        if let Some(node) = self.node_mut(index) {
            let lookups = node.lookups.get_mut();
            *lookups = lookups.saturating_sub(count);
        }
        self.collect(index, dropped);
    }

    /// Drops all lookups and all nodes but the pinned ones.
    pub(super) fn clear(&mut self, dropped: &mut Dropped) {
        for index in 0..self.nodes.len() as u32 {
            self.detach(index);
            if let Some(node) = self.node_mut(index) {
                *node.lookups.get_mut() = 0;
                *node.handles.get_mut() = 0;
                node.children = 0;
            }
        }
        for index in 0..self.nodes.len() as u32 {
            self.collect(index, dropped);
        }
    }

    /// Gives a node its descriptor for good: the root of the next share.
    pub(super) fn pin(&mut self, index: u32, descriptor: Shared<Descriptor>) {
        let Self { nodes, homes, .. } = self;
        if let Some(node) = nodes.get_mut(index as usize) {
            node.descriptor = Some(descriptor);
            homes.push(node.mount);
        }
    }

    /// How many hot nodes are on other mounts than their share's.
    pub(super) const fn away(&self) -> usize {
        self.away
    }

    /// Gives a node its descriptor until the clock takes it away. False if it has one.
    pub(super) fn heat(&mut self, index: u32, descriptor: Shared<Descriptor>) -> bool {
        let Self {
            nodes,
            hot,
            homes,
            away,
            ..
        } = self;
        match nodes.get_mut(index as usize) {
            Some(node) if node.descriptor.is_none() && node.kind != 0 => {
                *away += usize::from(is_away(homes, node));
                node.descriptor = Some(descriptor);
                node.referenced.store(true, Relaxed);
                node.hot = hot.push(index);
                true
            }
            _ => false,
        }
    }

    /// Takes a hot node's descriptor.
    pub(super) fn cool(&mut self, index: u32) -> Option<Shared<Descriptor>> {
        let Self {
            nodes,
            hot,
            homes,
            away,
            ..
        } = self;
        let node = nodes.get_mut(index as usize)?;
        if node.hot == NONE {
            return None;
        }
        *away = away.saturating_sub(usize::from(is_away(homes, node)));
        let place = std::mem::replace(&mut node.hot, NONE);
        let descriptor = node.descriptor.take();
        if let Some(moved) = hot.remove(place)
            && let Some(node) = nodes.get_mut(moved as usize)
        {
            node.hot = place;
        }
        descriptor
    }

    fn cool_into(&mut self, index: u32, dropped: &mut Dropped) {
        if let Some(descriptor) = self.cool(index) {
            dropped.push(descriptor);
        }
    }

    /// Cools the hot node that the clock finds.
    pub(super) fn cool_one(&mut self) -> Option<Shared<Descriptor>> {
        let Self { nodes, hot, .. } = self;
        let victim = hot.victim(|index, patient| {
            nodes.get(index as usize).is_none_or(|node| {
                let lost = patient && node.parent == NONE;
                !node.referenced.swap(false, Relaxed) && !lost
            })
        })?;
        self.cool(victim)
    }

    /// Cools hot nodes on other mounts that were not used since the last time, of at most `count` that are looked at
    /// from the place `before` downwards. Where to go on; how many may be cooled the next time.
    pub(super) fn cool_away(&mut self, before: usize, count: usize, dropped: &mut Dropped) -> (usize, usize) {
        let mut place = before.min(self.hot.len());
        let end = place.saturating_sub(count);
        let mut used = 0;
        while place > end {
            place -= 1;
            let Some(index) = self.hot.at(place) else { continue };
            let Some(node) = self.node(index) else { continue };
            // Without its name it would not be found again.
            if !is_away(&self.homes, node) || node.parent == NONE {
                continue;
            }
            if node.referenced.swap(false, Relaxed) {
                used += 1;
            } else {
                self.cool_into(index, dropped);
            }
        }
        (place, used)
    }

    /// Counts a lookup.
    pub(super) fn look_up(&self, index: u32) {
        if let Some(node) = self.node(index) {
            node.lookups.fetch_add(1, SeqCst);
        }
    }

    /// Notes the birth time of a node whose descriptor proved it the same.
    pub(super) fn refresh(&mut self, index: u32, identity: &Identity) {
        if let Some(node) = self.node_mut(index) {
            (node.birth_seconds, node.birth_nanoseconds) = identity.birth;
        }
    }

    /// Known inodes.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}

/// Each LOOKUP takes one. A product with secrets spreads inode numbers, of which a guest makes what the file system gives it;
/// who found a way to have them collide would slow down nobody but his own guest. A second one, since after the first numbers
/// in steps may share their low bits, with one secret of a hundred.
fn hash(key: &Key, secret: [u64; 2]) -> u64 {
    let Key {
        ino,
        mount,
        dev,
        share,
    } = *key;
    let rest = mount.rotate_left(32) ^ u64::from(dev) ^ u64::from(share).rotate_right(16);
    fold(fold(ino ^ secret[0], rest ^ secret[1]), secret[1] | 1)
}

/// Both halves of a product in one.
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

fn is_away(homes: &[u64], node: &Node) -> bool {
    homes.get(usize::from(node.share)) != Some(&node.mount)
}
