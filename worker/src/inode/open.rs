//! From a node id to a descriptor.

use std::{os::fd::OwnedFd, sync::atomic::Ordering::Relaxed};

use airlockfs_ipc::{Errno, Name, NodeId, recycle::Shared};
use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::{
    Descriptor, Held, Identity, Inodes, Place, Seen,
    lineage::STEPS,
    node::{NONE, Node},
    places::Location,
    table::{ROOT, Table},
};
use crate::sys::{CName, stat, stat_at};

/// Most cold directories above an inode that is opened: each is opened in turn, and remembered with 8 bytes.
const COLD_MAX: usize = 1 << 16;

/// An inode whose name is about to go.
#[derive(Clone, Copy)]
pub(crate) struct Spared {
    /// Its id.
    pub(crate) id: NodeId,
    /// It was opened for that.
    opened: bool,
}

/// A cold inode on the way to the one that is wanted.
struct Step {
    id: NodeId,
    parent: NodeId,
    name: CName,
    identity: Identity,
}

impl Inodes {
    /// The inode of a node id. ESTALE if the guest does not know it, or its file is not where it was last seen.
    /// ENAMETOOLONG if it is cold and so are too many directories above it.
    pub(crate) fn held(&self, id: NodeId) -> Result<Held, Errno> {
        'places: loop {
            // The way down: the inode itself, and the directories above it, which seldom are cold.
            let (mut at, mut last, mut above) = (id, None, Vec::new());
            let mut held = 'up: loop {
                let table = self.read();
                let mut index = table.index(at).ok_or(Errno::ESTALE)?;
                for _ in 0..STEPS {
                    let node = table.node(index).ok_or(Errno::ESTALE)?;
                    if let Some(held) = hot(&table, index, node) {
                        break 'up held;
                    }
                    match last {
                        None => last = Some(step(&table, index, node)?),
                        Some(_) if node.parent == NONE => return Err(Errno::ESTALE),
                        Some(_) => above.push(table.id(index)),
                    }
                    index = node.parent;
                }
                at = table.id(index);
                if above.len() > COLD_MAX {
                    return Err(Errno::ENAMETOOLONG);
                }
            };
            if !self.prove(&held)? {
                continue;
            }
            let place = last.as_ref().map(|step| (step.parent, step.name));
            let is_elsewhere =
                |error| error == Errno::ESTALE && place.is_some_and(|place| self.is_elsewhere(id, place));
            for directory in above.into_iter().rev() {
                let step = {
                    let table = self.read();
                    let index = table.index(directory).ok_or(Errno::ESTALE)?;
                    let node = table.node(index).ok_or(Errno::ESTALE)?;
                    if table.id(node.parent) != held.id {
                        // It has moved meanwhile.
                        continue 'places;
                    }
                    step(&table, index, node)?
                };
                held = match self.descend(&held, &step) {
                    Err(error) if is_elsewhere(error) => continue 'places,
                    result => result?,
                };
            }
            let Some(step) = last else { return Ok(held) };
            match self.descend(&held, &step) {
                Err(error) if is_elsewhere(error) => {}
                result => return result,
            }
        }
    }

    /// Whether a descriptor that was taken on trust is the inode's. If not it is closed, and the inode cold.
    fn prove(&self, held: &Held) -> Result<bool, Errno> {
        if held.descriptor.is_proven() {
            return Ok(true);
        }
        let found = self.identity(&stat(held)?, held.share);
        let known = {
            let table = self.read();
            let node = table.index(held.id).and_then(|index| table.node(index));
            node.ok_or(Errno::ESTALE)?.identity()
        };
        if found == known {
            held.descriptor.proven.store(true, Relaxed);
            return Ok(true);
        }
        self.let_go(held.id, |descriptor| descriptor.is(&held.descriptor));
        Ok(false)
    }

    /// An inode is not where it was last seen. True if it is known under another name: that is where it is now.
    fn is_elsewhere(&self, id: NodeId, (parent, name): (NodeId, CName)) -> bool {
        self.change(|table, dropped| {
            let (Some(index), Some(parent)) = (table.index(id), table.index(parent)) else {
                return false;
            };
            let name = name.as_c_str().to_bytes();
            if table.node(index).is_some_and(|node| node.is_at(parent, name)) {
                if !table.has_alias(index) {
                    return false;
                }
                table.leave(index, Location { parent, name }, dropped);
            }
            true
        })
    }

    /// Cools an inode if that is true of its descriptor.
    fn let_go(&self, id: NodeId, condition: impl FnOnce(&Shared<Descriptor>) -> bool) {
        self.change(|table, dropped| {
            if let Some(index) = table.index(id)
                && let Some(descriptor) = table.node(index).and_then(|node| node.descriptor.as_ref())
                && condition(descriptor)
                && let Some(cooled) = table.cool(index)
            {
                dropped.push(cooled);
            }
        });
    }

    /// The inode known under a name that is about to go, held by its descriptor: the guest may have it open, or as a
    /// working directory. Whether it is that one, and not what the host put there meanwhile, is asked when it is used:
    /// most never are. [`Self::removed`] or [`Self::not_removed`] must follow.
    pub(crate) fn spare(&self, directory: &Held, place: Place<'_>, name: &CName) -> Option<Spared> {
        let (id, is_hot) = {
            let table = self.read();
            let index = table.at(Location {
                parent: table.index(place.parent)?,
                name: place.name,
            })?;
            (table.id(index), table.node(index)?.descriptor.is_some())
        };
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = match is_hot {
            true => None,
            false => openat(directory, name.as_c_str(), flags, Mode::empty()).ok(),
        };
        let spared = Spared {
            id,
            opened: opened.is_some(),
        };
        if let Some(descriptor) = opened {
            self.heat(id, Descriptor::new(descriptor, false));
        }
        Some(spared)
    }

    /// The name is still there: what was opened on trust holds nothing, not even a mount.
    pub(crate) fn not_removed(&self, spared: Spared) {
        if spared.opened {
            self.let_go(spared.id, |descriptor| !descriptor.is_proven());
        }
    }

    /// Opens one inode beneath its directory, and makes it hot.
    fn descend(&self, directory: &Held, step: &Step) -> Result<Held, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let descriptor = openat(directory, step.name.as_c_str(), flags, Mode::empty()).map_err(gone)?;
        let found = stat(&descriptor)?;
        if self.identity(&found, step.identity.key.share) != step.identity {
            return Err(Errno::ESTALE);
        }
        Ok(Held {
            descriptor: self.heat(step.id, Descriptor::new(descriptor, true)),
            id: step.id,
            kind: found.kind(),
            share: step.identity.key.share,
            mount: step.identity.key.mount,
            dev: step.identity.key.dev,
        })
    }

    /// Keeps `descriptor` for an inode while the budget lasts.
    pub(super) fn heat(&self, id: NodeId, descriptor: Descriptor) -> Shared<Descriptor> {
        let descriptor = self.descriptors.share(descriptor);
        let away = self.change(|table, dropped| {
            if let Some(index) = table.index(id)
                && table.heat(index, descriptor.clone())
            {
                self.cool_down(table, dropped);
            }
            table.away() > 0
        });
        if away {
            self.away.noticed();
        }
        descriptor
    }

    /// What is to be seen of an inode now: one call, by descriptor if it is hot, else by name. ESTALE as for
    /// [`Self::held`].
    pub(crate) fn stat(&self, id: NodeId) -> Result<Seen, Errno> {
        let step = loop {
            let table = self.read();
            let index = table.index(id).ok_or(Errno::ESTALE)?;
            let node = table.node(index).ok_or(Errno::ESTALE)?;
            let Some(held) = hot(&table, index, node) else {
                break step(&table, index, node)?;
            };
            let parent = table.node(node.parent);
            let submount = parent.is_some_and(|parent| (parent.mount, parent.dev) != (node.mount, node.dev));
            drop(table);
            if self.prove(&held)? {
                return Ok(Seen {
                    stat: stat(&held)?,
                    share: held.share,
                    submount,
                });
            }
        };
        match self.seen(&step) {
            Err(Errno::ESTALE) if self.is_elsewhere(id, (step.parent, step.name)) => self.stat(id),
            result => result,
        }
    }

    /// What is to be seen under a cold inode's name, if it is still the same.
    fn seen(&self, step: &Step) -> Result<Seen, Errno> {
        let directory = self.held(step.parent)?;
        let found = stat_at(&directory, step.name.as_c_str()).map_err(gone)?;
        if self.identity(&found, directory.share) != step.identity {
            return Err(Errno::ESTALE);
        }
        Ok(Seen {
            submount: directory.located().ends_at(&found),
            stat: found,
            share: directory.share,
        })
    }

    /// The directory that a directory was last seen in; a root's is the root that the guest mounts. ESTALE if it is not
    /// there any more.
    pub(crate) fn above(&self, id: NodeId) -> Result<NodeId, Errno> {
        let step = {
            let table = self.read();
            let index = table.index(id).ok_or(Errno::ESTALE)?;
            let node = table.node(index).ok_or(Errno::ESTALE)?;
            if node.mode_kind() != libc::S_IFDIR {
                return Err(Errno::ENOTDIR);
            }
            if index == ROOT || node.is_pinned() {
                return Ok(NodeId::ROOT);
            }
            step(&table, index, node)?
        };
        let directory = self.held(step.parent)?;
        let found = stat_at(&directory, step.name.as_c_str()).map_err(gone)?;
        let identity = self.identity(&found, directory.share);
        let table = self.read();
        match table.index(id) {
            Some(index) if table.find(&identity) == Some(index) => Ok(step.parent),
            _ => Err(Errno::ESTALE),
        }
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
            descriptor: self.heat(id, Descriptor::new(descriptor, true)),
            id,
            kind,
            share: key.share,
            mount: key.mount,
            dev: key.dev,
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
        dev: node.dev,
    })
}

fn step(table: &Table, index: u32, node: &Node) -> Result<Step, Errno> {
    if node.parent == NONE {
        return Err(Errno::ESTALE);
    }
    Ok(Step {
        id: table.id(index),
        parent: table.id(node.parent),
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
