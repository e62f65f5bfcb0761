//! From a node id to a descriptor.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use airlockfs_ipc::{Errno, Name, NodeId};
use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::{
    Held, Identity, Inodes, Seen,
    node::{NONE, Node},
    table::{Dropped, Table},
};
use crate::sys::{CName, stat, stat_at};

/// A cold inode on the way to the one that is wanted.
struct Step {
    id: NodeId,
    name: CName,
    identity: Identity,
}

impl Inodes {
    /// The inode of a node id. ESTALE if the guest does not know it, or its file is not where it was last seen.
    pub(crate) fn held(&self, id: NodeId) -> Result<Held, Errno> {
        let (directory, steps) = {
            let table = self.read();
            let mut index = table.index(id).ok_or(Errno::ESTALE)?;
            let mut steps = Vec::new();
            loop {
                let node = table.node(index).ok_or(Errno::ESTALE)?;
                if let Some(held) = hot(&table, index, node) {
                    break (held, steps);
                }
                steps.push(step(&table, index, node)?);
                index = node.parent;
            }
        };
        let mut held = directory;
        for step in steps.into_iter().rev() {
            held = self.descend(&held, &step)?;
        }
        Ok(held)
    }

    /// Opens one inode beneath its directory, and makes it hot.
    fn descend(&self, directory: &Held, step: &Step) -> Result<Held, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let descriptor = openat(directory, step.name.as_c_str(), flags, Mode::empty()).map_err(gone)?;
        let found = stat(&descriptor)?;
        if Identity::of(&found, step.identity.key.share) != step.identity {
            return Err(Errno::ESTALE);
        }
        Ok(Held {
            descriptor: self.heat(step.id, descriptor),
            id: step.id,
            kind: found.kind(),
            share: step.identity.key.share,
            mount: step.identity.key.mount,
        })
    }

    /// Keeps `descriptor` for an inode while the budget lasts. It must have been proven to be that inode's.
    pub(crate) fn heat(&self, id: NodeId, descriptor: OwnedFd) -> Arc<OwnedFd> {
        let descriptor = Arc::new(descriptor);
        let mut dropped = Dropped::new();
        let mut table = self.write();
        if let Some(index) = table.index(id)
            && table.heat(index, descriptor.clone())
        {
            self.cool_down(&mut table, &mut dropped);
        }
        let away = table.away() > 0;
        drop(table);
        if away {
            self.away.noticed();
        }
        descriptor
    }

    /// What is to be seen of an inode now: one call, by descriptor if it is hot, else by name. ESTALE as for
    /// [`Self::held`].
    pub(crate) fn stat(&self, id: NodeId) -> Result<Seen, Errno> {
        let (parent, step) = {
            let table = self.read();
            let index = table.index(id).ok_or(Errno::ESTALE)?;
            let node = table.node(index).ok_or(Errno::ESTALE)?;
            match hot(&table, index, node) {
                Some(held) => {
                    let parent = table.node(node.parent);
                    let submount = parent.is_some_and(|parent| parent.mount != node.mount);
                    drop(table);
                    return Ok(Seen {
                        stat: stat(&held)?,
                        share: held.share,
                        submount,
                    });
                }
                None => (table.id(node.parent), step(&table, index, node)?),
            }
        };
        let directory = self.held(parent)?;
        let found = stat_at(&directory, step.name.as_c_str()).map_err(gone)?;
        if Identity::of(&found, directory.share) != step.identity {
            return Err(Errno::ESTALE);
        }
        Ok(Seen {
            submount: found.mount() != directory.mount,
            stat: found,
            share: directory.share,
        })
    }

    /// What is known of a node without asking the file system, for a descriptor of its own.
    pub(crate) fn adopt(&self, id: NodeId, descriptor: OwnedFd) -> Result<Held, Errno> {
        let (kind, key) = {
            let table = self.read();
            let node = table.index(id).and_then(|index| table.node(index));
            let node = node.ok_or(Errno::ESTALE)?;
            (node.mode_kind(), node.key())
        };
        Ok(Held {
            descriptor: self.heat(id, descriptor),
            id,
            kind,
            share: key.share,
            mount: key.mount,
        })
    }
}

fn hot(table: &Table, index: u32, node: &Node) -> Option<Held> {
    let descriptor = node.descriptor.clone()?;
    if !node.referenced.load(Relaxed) {
        node.referenced.store(true, Relaxed);
    }
    Some(Held {
        descriptor,
        id: table.id(index),
        kind: node.mode_kind(),
        share: node.share,
        mount: node.mount,
    })
}

fn step(table: &Table, index: u32, node: &Node) -> Result<Step, Errno> {
    if node.parent == NONE {
        return Err(Errno::ESTALE);
    }
    Ok(Step {
        id: table.id(index),
        name: CName::new(Name::new(&node.name).map_err(|_| Errno::ESTALE)?),
        identity: node.identity(),
    })
}

/// The errno for an inode that is not where it was.
fn gone(error: impl Into<Errno>) -> Errno {
    match error.into() {
        Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Errno::ESTALE,
        other => other,
    }
}
