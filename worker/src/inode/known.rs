//! What lookups, forgets, renames and removals change in the table.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use airlockfs_ipc::{Errno, NodeId};

use super::{
    Identity, Inodes, Located, dropped::Dropped, lineage::Lineage, mounts::Kept, places::Location,
    table::Table,
};
use crate::{session, sys::Stat};

/// A name in a directory.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The directory.
    pub(crate) parent: NodeId,
    /// The name in it.
    pub(crate) name: &'a [u8],
}

/// What keeps a node from its new place.
enum Step {
    /// An error.
    Failed(Errno),
    /// It must be known whether this node, which moves, is above its new directory.
    Ask(NodeId),
}

impl From<Errno> for Step {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
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
                && !session::is_over()
                && let Some(parent) = table.index(parent.id)
                && table.is_known_at(index, Location { parent, name })
            {
                table.look_up(index);
                return Ok(table.id(index));
            }
        }
        self.with_room(|| self.remember_anew(parent, name, &identity))
    }

    /// The same for one that is not known there.
    fn remember_anew(&self, parent: Located, name: &[u8], identity: &Identity) -> Result<NodeId, Errno> {
        self.located(parent.id, |table, dropped, above| {
            if session::is_over() {
                return Err(Step::Failed(Errno::ESTALE));
            }
            let directory = table.index(parent.id).ok_or(Errno::ESTALE)?;
            let location = Location {
                parent: directory,
                name,
            };
            let known = table.find(identity);
            let index = match known {
                Some(index) if table.is_known_at(index, location) => index,
                _ => {
                    table.room_for(known, name)?;
                    known.map_or_else(|| table.insert(identity), Ok)?
                }
            };
            if table.must_ask(index, location, above) {
                return Err(Step::Ask(table.id(index)));
            }
            table.locate(index, location, above == Some(true), dropped);
            table.look_up(index);
            Ok(table.id(index))
        })
    }

    /// Changes where a node is. `change` is told whether the node is above its new directory `below`, once it asked.
    fn located<T>(
        &self,
        below: NodeId,
        change: impl Fn(&mut Table, &mut Dropped, Option<bool>) -> Result<T, Step>,
    ) -> Result<T, Errno> {
        let mut lineage = None;
        loop {
            let above = lineage.as_ref().map(|lineage: &Lineage<'_>| lineage.above);
            match self.change(|table, dropped| change(table, dropped, above)) {
                Ok(result) => return Ok(result),
                Err(Step::Failed(error)) => return Err(error),
                Err(Step::Ask(node)) => lineage = Some(self.lineage(node, below)?),
            }
        }
    }

    /// ENOMEM unless there is room to know one more inode, under that name.
    pub(crate) fn room_for(&self, name: &[u8]) -> Result<(), Errno> {
        self.with_room(|| self.read().room_for(None, name))
    }

    /// ENOMEM unless there is room for a further name of an inode.
    pub(crate) fn room_for_link(&self, id: NodeId, name: &[u8]) -> Result<(), Errno> {
        self.with_room(|| {
            let table = self.read();
            match table.index(id) {
                Some(index) => table.room_for(Some(index), name),
                None => Ok(()),
            }
        })
    }

    /// ENOMEM unless there is room for a name in place of another.
    pub(crate) fn room_to_rename(&self, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        self.with_room(|| self.read().room_to_rename(from, to))
    }

    /// Notes an inode without a name, and counts a lookup.
    pub(crate) fn remember_nameless(&self, share: u16, stat: &Stat) -> Result<NodeId, Errno> {
        let identity = self.identity(stat, share);
        self.with_room(|| {
            let mut table = self.write();
            if session::is_over() {
                return Err(Errno::ESTALE);
            }
            let index = match table.find(&identity) {
                Some(index) => index,
                None => table.insert(&identity)?,
            };
            table.look_up(index);
            Ok(table.id(index))
        })
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
                    let found_again = |mount| self.mounts.kept(mount) != Kept::Nothing;
                    table.forget(id, count, found_again, dropped);
                }
            });
        }
    }

    /// Drops everything but the roots. The descriptors, which are still to be closed.
    pub(crate) fn reset(&self) -> impl Send + use<> {
        let mut dropped = Dropped::default();
        self.write().clear(&mut dropped);
        self.open.store(0, Relaxed);
        dropped
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
        self.settle(id, Some(from), to);
    }

    /// Notes where an inode is now that had lost its name.
    pub(crate) fn placed(&self, id: NodeId, place: Place<'_>) {
        self.settle(id, None, place);
    }

    /// Notes where an inode is now, if it is known `from` where it came.
    fn settle(&self, id: NodeId, from: Option<Place<'_>>, to: Place<'_>) {
        // An error: the guest has forgotten the directory, and asks for nothing in it.
        let _ = self.located(to.parent, |table, dropped, above| {
            let (Some(index), Some(parent)) = (table.index(id), table.index(to.parent)) else {
                return Ok(());
            };
            let location = Location {
                parent,
                name: to.name,
            };
            let old = match from {
                None => None,
                Some(from) => match table.index(from.parent) {
                    Some(parent)
                        if table.is_known_at(
                            index,
                            Location {
                                parent,
                                name: from.name,
                            },
                        ) =>
                    {
                        Some(Location {
                            parent,
                            name: from.name,
                        })
                    }
                    _ => return Ok(()),
                },
            };
            if table.must_ask(index, location, above) {
                return Err(Step::Ask(id));
            }
            // Neither goes with what else goes.
            table.hold(parent);
            table.hold(index);
            if let Some(old) = old {
                table.leave(index, old, dropped);
            }
            table.locate(index, location, above == Some(true), dropped);
            table.let_go(index, dropped);
            table.let_go(parent, dropped);
            Ok(())
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
