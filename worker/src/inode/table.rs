//! The table of known inodes: a slab of nodes with two indexes over it, by key and by location. No system calls.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
};

use airlockfs_ipc::{Errno, GENERATIONS, NodeId};
use hashbrown::HashTable;

use super::{
    aliases::Aliases,
    dropped::Dropped,
    forgotten::Forgotten,
    hot::Hot,
    memory::{self, Memory},
    name::NodeName,
    node::{Identity, Key, NONE, Node},
};

/// Most nodes, whatever memory there is: an index and [`NONE`] have 32 bits.
const NODES_MAX: usize = 1 << 31;
/// Fewest places added at a time; otherwise an eighth of those there are.
const PLACES: usize = 1024;

/// Index of the first node: the root that the guest mounts.
pub(super) const ROOT: u32 = 0;

pub(super) struct Table {
    pub(super) nodes: Vec<Node>,
    free: Vec<u32>,
    /// Generation of a place that is added: what was in it before is never known again.
    first_generation: u32,
    pub(super) memory: Memory,
    by_key: HashTable<u32>,
    /// At most one node stands for a name in a directory, here or among the aliases.
    pub(super) by_location: HashTable<u32>,
    pub(super) aliases: Aliases,
    pub(super) hot: Hot,
    pub(super) forgotten: Forgotten,
    /// The mount that each share begins on.
    pub(super) homes: Vec<u64>,
    /// Hot nodes on other mounts.
    pub(super) away: usize,
    pub(super) hasher: RandomState,
    /// For keys.
    secret: [u64; 2],
}

impl Table {
    /// An empty one that takes at most `max_memory` bytes, apart from hot nodes' descriptors. Whether it is to `keep` what the
    /// guest forgets.
    pub(super) fn new(max_memory: usize, keep: bool) -> Self {
        let hasher = RandomState::new();
        Self {
            secret: [0, 1].map(|number: u64| hasher.hash_one(number)),
            nodes: Vec::new(),
            free: Vec::new(),
            first_generation: 0,
            memory: Memory::new(max_memory),
            by_key: HashTable::new(),
            by_location: HashTable::new(),
            aliases: Aliases::default(),
            hot: Hot::new(),
            forgotten: Forgotten::new(keep, max_memory),
            homes: Vec::new(),
            away: 0,
            hasher,
        }
    }

    /// The node at an index that came from this table under the same lock.
    pub(super) fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get(index as usize)
    }

    pub(super) fn node_mut(&mut self, index: u32) -> Option<&mut Node> {
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

    /// The node of an inode.
    pub(super) fn find(&self, identity: &Identity) -> Option<u32> {
        let same = |&index: &u32| self.node(index).is_some_and(|node| node.identity() == *identity);
        self.by_key.find(self.key_hash(&identity.key), same).copied()
    }

    /// ENOMEM unless there is room to know a node, or one that is known, under a further name.
    pub(super) fn room_for(&self, known: Option<u32>, name: &[u8]) -> Result<(), Errno> {
        let needed = match known.and_then(|index| self.node(index)) {
            None if self.free.is_empty() => memory::PLACE + memory::of_name(name),
            None => memory::of_name(name),
            // A directory has one name.
            Some(node) if node.mode_kind() == libc::S_IFDIR => return self.room_to_rename(&node.name, name),
            Some(_) => self.aliases.memory_to_add() + memory::of_name(name),
        };
        self.memory.fits(needed, self.aliases.memory())
    }

    /// ENOMEM unless there is room for a name in place of another.
    pub(super) fn room_to_rename(&self, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        let needed = memory::of_name(to).saturating_sub(memory::of_name(from));
        self.memory.fits(needed, self.aliases.memory())
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
                self.memory.fits(memory::PLACE, self.aliases.memory())?;
                if self.nodes.len() == self.nodes.capacity() {
                    // Not twice as many: what is not used yet is not to count.
                    self.nodes.reserve_exact((self.nodes.len() / 8).max(PLACES));
                }
                self.memory.add_place();
                self.nodes.push(Node {
                    generation: self.first_generation,
                    ..node
                });
                (self.nodes.len() - 1) as u32
            }
            None => return Err(Errno::ENOMEM),
        };
        self.index_key(index, &identity.key);
        Ok(index)
    }

    /// Removes the node at `index` if nothing refers to it any more, then its directory likewise, and so on.
    pub(super) fn collect(&mut self, mut index: u32, dropped: &mut Dropped) {
        let mut others = Vec::new();
        while let Some(node) = self.node_mut(index) {
            let used = node.kind == 0
                || *node.lookups.get_mut() > 0
                || *node.handles.get_mut() > 0
                || node.children > 0
                || node.is_pinned()
                || index == ROOT;
            if used {
                break;
            }
            self.cool_into(index, dropped);
            let (parent, _) = self.detach(index);
            while let Some((parent, _)) = self.aliases.take_latest(index) {
                others.push(parent);
            }
            let Some(node) = self.node_mut(index) else { break };
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
        // The directories of its further names: few, and only of a hard link.
        for directory in others {
            self.let_go(directory, dropped);
        }
    }

    /// Drops `count` of a node's lookups, at most all. Whether one on a mount could be `found_again` by its name.
    pub(super) fn forget(
        &mut self,
        id: NodeId,
        count: u64,
        found_again: impl FnOnce(u64) -> bool,
        dropped: &mut Dropped,
    ) {
        let Some(index) = self.index(id) else { return };
        if let Some(node) = self.node_mut(index) {
            let lookups = node.lookups.get_mut();
            let before = *lookups;
            *lookups = before.saturating_sub(count);
            if before > 0 && *lookups == 0 {
                self.keep(index, found_again, dropped);
            }
        }
        self.collect(index, dropped);
    }

    /// Drops all lookups and all nodes but the pinned ones.
    pub(super) fn clear(&mut self, dropped: &mut Dropped) {
        self.aliases.clear();
        self.forgotten.clear();
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
        self.shrink();
    }

    /// Gives back the memory of the places behind the last node.
    fn shrink(&mut self) {
        let kept = self.nodes.iter().rposition(|node| node.kind != 0);
        let kept = kept.map_or(0, |last| last + 1);
        let gone = self.nodes.get(kept..).unwrap_or_default();
        let highest = gone.iter().map(|node| node.generation).max().unwrap_or(0);
        if highest > GENERATIONS / 2 {
            // Each place keeps its own: all of them would soon be used up otherwise.
            return;
        }
        self.first_generation = self.first_generation.max(highest);
        self.memory.drop_places(gone.len());
        self.nodes.truncate(kept);
        self.nodes.shrink_to_fit();
        self.free.retain(|index| (*index as usize) < kept);
        self.free.shrink_to_fit();
        let Self {
            by_key,
            by_location,
            nodes,
            hasher,
            secret,
            ..
        } = self;
        let node = |index: &u32| nodes.get(*index as usize);
        by_key.shrink_to_fit(|index| node(index).map_or(0, |node| hash(&node.key(), *secret)));
        by_location
            .shrink_to_fit(|index| node(index).map_or(0, |node| hasher.hash_one((node.parent, &*node.name))));
    }

    /// Counts a lookup.
    pub(super) fn look_up(&self, index: u32) {
        if let Some(node) = self.node(index) {
            node.lookups.fetch_add(1, SeqCst);
        }
    }

    /// Notes what a node's descriptor shows of it now, which is about to be given up: a file of an overlay has another
    /// number once it was copied up. The node keeps the old one where another node stands for the new one already.
    pub(super) fn renumber(&mut self, id: NodeId, identity: &Identity) {
        let Some(index) = self.index(id) else { return };
        let Some(node) = self.node(index) else { return };
        let old = node.key();
        if old == identity.key || node.mode_kind() != identity.kind || self.find(identity).is_some() {
            return;
        }
        let hash = self.key_hash(&old);
        if let Ok(entry) = self.by_key.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        if let Some(node) = self.node_mut(index) {
            (node.ino, node.dev) = (identity.key.ino, identity.key.dev);
        }
        self.index_key(index, &identity.key);
    }

    fn index_key(&mut self, index: u32, key: &Key) {
        let Self {
            by_key,
            nodes,
            secret,
            ..
        } = self;
        by_key.insert_unique(hash(key, *secret), index, |&other| {
            nodes
                .get(other as usize)
                .map_or(0, |node| hash(&node.key(), *secret))
        });
    }

    /// Known inodes.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Bytes taken.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.memory.used() + self.aliases.memory()
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
