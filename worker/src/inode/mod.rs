//! Known inodes: what the guest's node ids stand for.
//!
//! An inode is known by one statx(2) of its name, without being opened. When it is needed itself (as a directory, to be
//! opened, to be changed) it is opened with O_PATH beneath its parent, never following a link, and must still be the
//! same: device, inode number, mount, birth time and type. Else its id is stale (ESTALE) and the guest looks it up again.
//! The descriptor is kept while the budget lasts.
//!
//! The table's lock is never held across a system call, nor while a descriptor is closed.

mod aliases;
mod dropped;
mod forgotten;
mod hold;
mod hot;
mod known;
mod lineage;
mod memory;
mod mounts;
mod name;
mod node;
mod open;
mod places;
mod sweep;
mod table;

#[cfg(test)]
mod tests;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use airlockfs_ipc::{
    Errno, NodeId,
    recycle::{Recycler, Shared},
};

use self::{
    dropped::Dropped,
    lineage::Moves,
    mounts::{Kept, Mounts},
    sweep::Away,
    table::Table,
};
pub(crate) use self::{
    hold::Hold,
    known::Place,
    node::{Identity, Key},
};
use crate::sys::{Stat, stat};

/// Fewest descriptors kept for inodes, however many files are open.
const HOT_MIN: usize = 32;

/// The inodes that the guest knows.
pub(crate) struct Inodes {
    table: RwLock<Table>,
    /// Descriptors that hot inodes and open handles may hold together.
    budget: usize,
    /// Descriptors that open handles hold.
    open: AtomicUsize,
    descriptors: Recycler<Descriptor>,
    /// Wakes the sweeper.
    away: Away,
    mounts: Mounts,
    moves: Moves,
    /// Steps on ways up.
    #[cfg(test)]
    steps: std::sync::atomic::AtomicU64,
}

/// A descriptor opened with O_PATH.
struct Descriptor {
    file: OwnedFd,
    /// It is the inode's that it is kept for, and not of another one that somebody on the host put in its place.
    proven: AtomicBool,
}

impl Descriptor {
    const fn new(file: OwnedFd, proven: bool) -> Self {
        Self {
            file,
            proven: AtomicBool::new(proven),
        }
    }

    fn is_proven(&self) -> bool {
        self.proven.load(Relaxed)
    }
}

/// An inode with its descriptor in hand.
pub(crate) struct Held {
    descriptor: Shared<Descriptor>,
    /// Its id.
    pub(crate) id: NodeId,
    /// File type: the S_IFMT bits of its mode.
    pub(crate) kind: u32,
    /// Index of the share it is in.
    pub(crate) share: u16,
    /// The mount it is on.
    pub(crate) mount: u64,
    /// Its device number.
    pub(crate) dev: u32,
}

/// Which inode, and where, without a descriptor.
#[derive(Clone, Copy)]
pub(crate) struct Located {
    /// Its id.
    pub(crate) id: NodeId,
    /// Index of the share it is in.
    pub(crate) share: u16,
    /// The mount it is on.
    pub(crate) mount: u64,
    /// Its device number.
    pub(crate) dev: u32,
}

impl Located {
    /// Whether what was seen in this directory is a file system of its own: another mount, or another device on the same
    /// (a subvolume of btrfs). (st_dev, st_ino) identify a file (inode(7)).
    pub(crate) fn ends_at(&self, found: &Stat) -> bool {
        found.mount() != self.mount || found.dev() != self.dev
    }
}

/// What was seen of an inode just now.
pub(crate) struct Seen {
    /// What statx(2) says.
    pub(crate) stat: Stat,
    /// Index of the share it is in.
    pub(crate) share: u16,
    /// Another file system begins with it.
    pub(crate) submount: bool,
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.file.as_fd()
    }
}

impl Held {
    /// The same without the descriptor.
    pub(crate) const fn located(&self) -> Located {
        Located {
            id: self.id,
            share: self.share,
            mount: self.mount,
            dev: self.dev,
        }
    }

    /// ENOTDIR if it is no directory.
    pub(crate) fn directory(self) -> Result<Self, Errno> {
        if self.kind == libc::S_IFDIR {
            Ok(self)
        } else {
            Err(Errno::ENOTDIR)
        }
    }
}

impl Inodes {
    /// No inodes yet. `budget`: descriptors that may be held; `max_memory`: bytes that the table may take; `keep`: what the
    /// guest forgets is still known by its id for a while.
    pub(crate) fn new(budget: usize, max_memory: usize, keep: bool) -> Self {
        Self {
            table: RwLock::new(Table::new(max_memory, keep)),
            budget,
            open: AtomicUsize::new(0),
            descriptors: Recycler::default(),
            away: Away::default(),
            mounts: Mounts::default(),
            moves: Moves::default(),
            #[cfg(test)]
            steps: std::sync::atomic::AtomicU64::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the table, and closes what that drops once the lock is released.
    fn change<T>(&self, change: impl FnOnce(&mut Table, &mut Dropped) -> T) -> T {
        let mut dropped = Dropped::default();
        let result = change(&mut self.write(), &mut dropped);
        dropped
            .iter()
            .filter(|cooled| self.mounts.kept(cooled.mount) != Kept::All)
            .for_each(|cooled| self.renumber(cooled));
        dropped.close(&self.descriptors);
        result
    }

    /// Adds a share's root, which is never forgotten. The first one added is the root that the guest mounts.
    pub(crate) fn add_root(&self, share: u16, descriptor: OwnedFd) -> Result<NodeId, Errno> {
        self.mounts.look(&descriptor, None)?;
        let identity = self.identity(&stat(&descriptor)?, share);
        let mut table = self.write();
        let index = table.insert(&identity)?;
        table.pin(index, Shared::new(Descriptor::new(descriptor, true)));
        Ok(table.id(index))
    }

    /// Adds a root that is no inode of the host: the directory over several shares.
    pub(crate) fn add_synthetic_root(&self, identity: &Identity) -> Result<NodeId, Errno> {
        let mut table = self.write();
        let index = table.insert(identity)?;
        Ok(table.id(index))
    }

    /// What makes an inode that was seen in a share that inode.
    fn identity(&self, stat: &Stat, share: u16) -> Identity {
        Identity::of(stat, share, self.mounts.kept(stat.mount()))
    }

    /// How many descriptors may be kept for hot inodes now.
    fn hot_max(&self) -> usize {
        self.budget.saturating_sub(self.open.load(Relaxed)).max(HOT_MIN)
    }

    fn cool_down(&self, table: &mut Table, dropped: &mut Dropped) {
        let most = self.hot_max();
        while table.hot.len() > most {
            match table.cool_one() {
                Some(cooled) => dropped.push(cooled),
                None => return,
            }
        }
    }
}
