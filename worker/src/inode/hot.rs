//! Which nodes hold a descriptor, and which of them gives it up: a clock, the cheap kin of least recently used.

use std::sync::atomic::Ordering::Relaxed;

use airlockfs_ipc::recycle::Shared;

use super::{
    Descriptor,
    dropped::{Cooled, Dropped},
    node::{NONE, Node},
    table::Table,
};

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

impl Table {
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
    pub(super) fn cool(&mut self, index: u32) -> Option<Cooled> {
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
        let (mount, share) = (node.mount, node.share);
        if let Some(moved) = hot.remove(place)
            && let Some(node) = nodes.get_mut(moved as usize)
        {
            node.hot = place;
        }
        Some(Cooled {
            descriptor: descriptor?,
            id: self.id(index),
            mount,
            share,
        })
    }

    pub(super) fn cool_into(&mut self, index: u32, dropped: &mut Dropped) {
        if let Some(cooled) = self.cool(index) {
            dropped.push(cooled);
        }
    }

    /// Cools the hot node that the clock finds.
    pub(super) fn cool_one(&mut self) -> Option<Cooled> {
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
    pub(super) fn cool_away(
        &mut self,
        before: usize,
        count: usize,
        hold: impl Fn(u64) -> bool,
        dropped: &mut Dropped,
    ) -> (usize, usize) {
        let mut place = before.min(self.hot.len());
        let end = place.saturating_sub(count);
        let mut used = 0;
        while place > end {
            place -= 1;
            let Some(index) = self.hot.at(place) else { continue };
            let Some(node) = self.node(index) else { continue };
            // Without its name it would not be found again.
            if !is_away(&self.homes, node) || node.parent == NONE || hold(node.mount) {
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
}

fn is_away(homes: &[u64], node: &Node) -> bool {
    homes.get(usize::from(node.share)) != Some(&node.mount)
}
