//! Further places of inodes that the guest saw under several names. A node has its current place in itself; only hard
//! links have entries here, so that an inode is still found when the host removes the name it was last seen under.

use std::{collections::HashMap, hash::BuildHasher};

use hashbrown::HashTable;

use super::{
    memory::{ALIAS, of_name},
    name::NodeName,
    node::NONE,
};

/// Places kept for a node besides its current one. The oldest makes room.
const MOST: usize = 15;

struct Alias {
    name: NodeName,
    parent: u32,
    node: u32,
    /// The node's place before this one, or [`NONE`].
    older: u32,
}

impl Alias {
    fn is(&self, parent: u32, name: &[u8]) -> bool {
        self.parent == parent && *self.name == *name
    }
}

/// By place and by node.
#[derive(Default)]
pub(super) struct Aliases {
    all: Vec<Alias>,
    free: Vec<u32>,
    at: HashTable<u32>,
    /// The latest of each node.
    latest: HashMap<u32, u32>,
    /// Bytes that their names take.
    names: usize,
}

impl Aliases {
    /// Bytes that all take.
    pub(super) const fn memory(&self) -> usize {
        self.all.len() * ALIAS + self.names
    }

    /// Bytes that one more takes, apart from its name.
    pub(super) const fn memory_to_add(&self) -> usize {
        if self.free.is_empty() { ALIAS } else { 0 }
    }

    /// Whether a node has one at least.
    pub(super) fn has(&self, node: u32) -> bool {
        !self.latest.is_empty() && self.latest.contains_key(&node)
    }

    /// The node that has a place among its further ones.
    pub(super) fn at(&self, parent: u32, name: &[u8]) -> Option<u32> {
        if self.latest.is_empty() {
            return None;
        }
        let same = |&index: &u32| self.get(index).is_some_and(|alias| alias.is(parent, name));
        let index = self.at.find(self.hash(parent, name), same)?;
        Some(self.get(*index)?.node)
    }

    /// Adds a place that no node has. Returns the directory of one that made room.
    pub(super) fn add(&mut self, node: u32, parent: u32, name: NodeName) -> Option<u32> {
        let hash = self.hash(parent, &name);
        self.names += of_name(&name);
        let alias = Alias {
            name,
            parent,
            node,
            older: self.latest.get(&node).copied().unwrap_or(NONE),
        };
        let index = match self.free.pop() {
            Some(index) => {
                if let Some(place) = self.all.get_mut(index as usize) {
                    *place = alias;
                }
                index
            }
            None => {
                self.all.push(alias);
                (self.all.len() - 1) as u32
            }
        };
        self.latest.insert(node, index);
        let Self { at, all, latest, .. } = self;
        at.insert_unique(hash, index, |&other| {
            all.get(other as usize)
                .map_or(0, |alias| latest.hasher().hash_one((alias.parent, &*alias.name)))
        });
        let oldest = self.of(node).nth(MOST)?;
        self.take(node, oldest).map(|(parent, _)| parent)
    }

    /// Removes a place of a node. False if it has not that one.
    pub(super) fn remove(&mut self, node: u32, parent: u32, name: &[u8]) -> bool {
        let found = self
            .of(node)
            .find(|&index| self.get(index).is_some_and(|alias| alias.is(parent, name)));
        found.is_some_and(|index| self.take(node, index).is_some())
    }

    /// Takes the latest place of a node: its directory, and its name there.
    pub(super) fn take_latest(&mut self, node: u32) -> Option<(u32, NodeName)> {
        let index = self.latest.get(&node).copied()?;
        self.take(node, index)
    }

    /// Removes all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn get(&self, index: u32) -> Option<&Alias> {
        self.all.get(index as usize)
    }

    fn hash(&self, parent: u32, name: &[u8]) -> u64 {
        self.latest.hasher().hash_one((parent, name))
    }

    /// Those of a node, the latest first.
    fn of(&self, node: u32) -> impl Iterator<Item = u32> {
        let latest = self.latest.get(&node).copied();
        std::iter::successors(latest, |&index| {
            let older = self.get(index)?.older;
            (older != NONE).then_some(older)
        })
    }

    fn take(&mut self, node: u32, index: u32) -> Option<(u32, NodeName)> {
        let (parent, older) = {
            let alias = self.get(index)?;
            (alias.parent, alias.older)
        };
        let newer = self
            .of(node)
            .find(|&newer| self.get(newer).is_some_and(|alias| alias.older == index));
        match newer.and_then(|newer| self.all.get_mut(newer as usize)) {
            Some(newer) => newer.older = older,
            None if older != NONE => drop(self.latest.insert(node, older)),
            None => drop(self.latest.remove(&node)),
        }
        let name = std::mem::take(&mut self.all.get_mut(index as usize)?.name);
        let hash = self.hash(parent, &name);
        if let Ok(entry) = self.at.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        self.free.push(index);
        self.names = self.names.saturating_sub(of_name(&name));
        Some((parent, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_latest_places() {
        let mut aliases = Aliases::default();
        let name = |i: usize| format!("name{i}").into_bytes();
        for i in 0..MOST {
            assert_eq!(aliases.add(7, 1, name(i)[..].into()), None);
        }
        assert_eq!(aliases.add(8, 1, b"another"[..].into()), None);
        assert_eq!(aliases.add(7, 2, b"more"[..].into()), Some(1));
        assert_eq!(aliases.at(1, &name(0)), None);
        assert_eq!(aliases.at(1, &name(1)), Some(7));
        for i in [1, MOST - 1] {
            assert!(aliases.remove(7, 1, &name(i)) && !aliases.remove(7, 1, &name(i)));
        }
        assert!(!aliases.remove(8, 1, &name(2)), "another node's");
        let (parent, latest) = aliases.take_latest(7).unwrap();
        assert_eq!((parent, &*latest), (2, &b"more"[..]));
        let mut left = 0;
        while aliases.take_latest(7).is_some() {
            left += 1;
        }
        assert_eq!(left, MOST - 3);
        assert!(!aliases.has(7) && aliases.has(8));
        assert_eq!(aliases.at(1, b"another"), Some(8));
        assert_eq!(aliases.at.len(), 1);
        assert_eq!(aliases.all.len(), aliases.free.len() + 1);
    }
}
