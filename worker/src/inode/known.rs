//! What lookups, forgets, renames and removals change in the table.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use airlockfs_ipc::{Errno, NodeId};

use super::{Inodes, Located, table::Location};
use crate::sys::Stat;

/// A name in a directory.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The directory.
    pub(crate) parent: NodeId,
    /// The name in it.
    pub(crate) name: &'a [u8],
}

/// Records of a FORGET handled under one lock.
const FORGETS_AT_ONCE: usize = 64;

impl Inodes {
    /// Notes that `stat` was seen under `name` in `parent`, and counts a lookup. ESTALE if the guest forgot the
    /// directory meanwhile, ENOMEM if it knows too many inodes.
    pub(crate) fn remember(&self, parent: Located, name: &[u8], stat: &Stat) -> Result<NodeId, Errno> {
        let identity = self.identity(stat, parent.share);
        {
            let table = self.read();
            if let Some(index) = table.find(&identity)
                && let Some(parent) = table.index(parent.id)
                && table.is_known_at(index, Location { parent, name })
            {
                table.look_up(index);
                return Ok(table.id(index));
            }
        }
        self.change(|table, dropped| {
            let directory = table.index(parent.id).ok_or(Errno::ESTALE)?;
            let index = match table.find(&identity) {
                Some(index) => index,
                None => table.insert(&identity)?,
            };
            let location = Location {
                parent: directory,
                name,
            };
            table.locate(index, location, dropped);
            table.look_up(index);
            Ok(table.id(index))
        })
    }

    /// Notes an inode without a name, and counts a lookup.
    pub(crate) fn remember_nameless(&self, share: u16, stat: &Stat) -> Result<NodeId, Errno> {
        let identity = self.identity(stat, share);
        let mut table = self.write();
        let index = match table.find(&identity) {
            Some(index) => index,
            None => table.insert(&identity)?,
        };
        table.look_up(index);
        Ok(table.id(index))
    }

    /// Counts a lookup of an inode that is known. ESTALE if it is not any more.
    pub(crate) fn look_up(&self, id: NodeId) -> Result<(), Errno> {
        let table = self.read();
        table.look_up(table.index(id).ok_or(Errno::ESTALE)?);
        Ok(())
    }

    /// Drops lookups. Unknown ids are passed over and counts clamped.
    pub(crate) fn forget(&self, records: impl Iterator<Item = (NodeId, u64)>) {
        let mut records = records.peekable();
        while records.peek().is_some() {
            self.change(|table, dropped| {
                for (id, count) in records.by_ref().take(FORGETS_AT_ONCE) {
                    table.forget(id, count, dropped);
                }
            });
        }
    }

    /// Drops everything but the roots.
    pub(crate) fn reset(&self) {
        self.change(|table, dropped| table.clear(dropped));
        self.open.store(0, Relaxed);
    }

    /// The inode last seen under a name.
    pub(crate) fn known_at(&self, place: Place<'_>) -> Option<NodeId> {
        let table = self.read();
        let parent = table.index(place.parent)?;
        let index = table.at(Location {
            parent,
            name: place.name,
        })?;
        Some(table.id(index))
    }

    /// Inode number of the directory that an inode was last seen in. None for a share's root, and where it is not known.
    pub(crate) fn parent_ino(&self, id: NodeId) -> Option<u64> {
        let table = self.read();
        let node = table.node(table.index(id)?)?;
        Some(table.node(node.parent)?.ino)
    }

    /// Notes that the name `place` is gone, under which `id` was known.
    pub(crate) fn removed(&self, id: NodeId, place: Place<'_>) {
        self.change(|table, dropped| {
            if let (Some(index), Some(parent)) = (table.index(id), table.index(place.parent)) {
                let name = place.name;
                table.leave(index, Location { parent, name }, dropped);
            }
        });
    }

    /// Notes that `id` went from one name to another. Nothing else stands there any more.
    pub(crate) fn moved(&self, id: NodeId, from: Place<'_>, to: Place<'_>) {
        self.change(|table, dropped| {
            if let (Some(index), Some(old), Some(new)) =
                (table.index(id), table.index(from.parent), table.index(to.parent))
            {
                let name = from.name;
                if !table.is_known_at(index, Location { parent: old, name }) {
                    return;
                }
                table.leave(index, Location { parent: old, name }, dropped);
                let location = Location {
                    parent: new,
                    name: to.name,
                };
                table.locate(index, location, dropped);
            }
        });
    }

    /// Notes where an inode is now that had lost its name.
    pub(crate) fn placed(&self, id: NodeId, place: Place<'_>) {
        self.change(|table, dropped| {
            if let (Some(index), Some(parent)) = (table.index(id), table.index(place.parent)) {
                let location = Location {
                    parent,
                    name: place.name,
                };
                table.locate(index, location, dropped);
            }
        });
    }

    /// Counts an open handle; its inode stays known until [`Self::closed`].
    pub(crate) fn opened(&self, id: NodeId) {
        self.open.fetch_add(1, Relaxed);
        let crowded = {
            let table = self.read();
            if let Some(node) = table.index(id).and_then(|index| table.node(index)) {
                node.handles.fetch_add(1, SeqCst);
            }
            table.hot.len() > self.hot_max()
        };
        if crowded {
            self.change(|table, dropped| self.cool_down(table, dropped));
        }
    }

    /// Counts a closed handle.
    pub(crate) fn closed(&self, id: NodeId) {
        let _ = self
            .open
            .fetch_update(Relaxed, Relaxed, |open| open.checked_sub(1));
        let last = {
            let table = self.read();
            let Some(node) = table.index(id).and_then(|index| table.node(index)) else {
                return;
            };
            let handles = node
                .handles
                .fetch_update(SeqCst, SeqCst, |handles| handles.checked_sub(1));
            handles == Ok(1) && node.lookups.load(SeqCst) == 0
        };
        if last {
            self.change(|table, dropped| {
                if let Some(index) = table.index(id) {
                    table.collect(index, dropped);
                }
            });
        }
    }
}
