//! What the file system of each mount keeps of an inode's identity (number and birth time), and so what may be asked of
//! an inode that is opened again.

use std::{
    collections::HashMap,
    os::fd::AsFd,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use airlockfs_ipc::{Errno, NodeId};

use crate::sys::{FileSystem, Stat, file_system_kind, stat};

/// Mounts that are known at once. More than a host has; all are looked at anew then.
const MOST: usize = 1 << 16;

/// What stays the same of an inode as long as it exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kept {
    /// Its number and its birth time.
    All,
    /// Its number. Its birth time may change, or come and go.
    Number,
    /// Nothing, once the host's kernel has forgotten it: only a descriptor finds it again.
    Nothing,
}

/// A mount that does not keep all.
struct Known {
    kept: Kept,
    /// Device number of its directories, while it is not clear whether an overlay keeps numbers.
    undecided: Option<u32>,
    /// The directory it lies in and its name there. None for a share's root.
    place: Option<(NodeId, Box<[u8]>)>,
}

/// The mounts that were seen.
#[derive(Default)]
pub(crate) struct Mounts {
    /// One that keeps all: the latest that was found out. The share's own, for most.
    good: AtomicU64,
    known: RwLock<HashMap<u64, Known>>,
}

impl Mounts {
    /// What a mount keeps. All, if it was never seen.
    pub(crate) fn kept(&self, mount: u64) -> Kept {
        if self.good.load(Relaxed) == mount {
            return Kept::All;
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&mount).map_or(Kept::All, |known| known.kept)
    }

    /// Whether it was looked at.
    pub(crate) fn knows(&self, mount: u64) -> bool {
        self.good.load(Relaxed) == mount
            || (self.known.read().unwrap_or_else(PoisonError::into_inner)).contains_key(&mount)
    }

    /// Looks at the mount of an inode, which lies at `place` if a mount begins with it.
    pub(crate) fn look(&self, inode: impl AsFd, place: Option<(NodeId, &[u8])>) -> Result<(), Errno> {
        let found = stat(&inode)?;
        let kind = file_system_kind(&inode)?;
        let directory = found.kind() == libc::S_IFDIR;
        let (kept, undecided) = match kind {
            FileSystem::Local => (Kept::All, None),
            FileSystem::Network => (Kept::Number, None),
            FileSystem::Overlay => (Kept::Nothing, directory.then(|| found.dev())),
            FileSystem::Other => (Kept::Nothing, None),
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        let place = place.map(|(parent, name)| (parent, name.into()));
        known.insert(
            found.mount(),
            Known {
                kept,
                undecided,
                place,
            },
        );
        if kept == Kept::All {
            self.good.store(found.mount(), Relaxed);
        }
        Ok(())
    }

    /// Learns from an inode whether an overlay keeps numbers: its files have the device number of its directories where
    /// it does, and one for each layer where it does not (the kernel's Documentation/filesystems/overlayfs.rst,
    /// "Inode properties").
    pub(crate) fn learn(&self, inode: &Stat) {
        if self.good.load(Relaxed) == inode.mount() || inode.kind() == libc::S_IFDIR {
            return;
        }
        let undecided = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.get(&inode.mount()).and_then(|known| known.undecided)
        };
        if let Some(device) = undecided {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = known.get_mut(&inode.mount()) {
                known.undecided = None;
                if device == inode.dev() {
                    known.kept = Kept::Number;
                }
            }
        }
    }

    /// Mounts that keep nothing, each with where it lies.
    pub(crate) fn keeping_nothing(&self) -> Vec<(u64, NodeId, Box<[u8]>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let nothing = known.iter().filter(|(_, known)| known.kept == Kept::Nothing);
        nothing
            .filter_map(|(&mount, known)| {
                let (parent, name) = known.place.as_ref()?;
                Some((mount, *parent, name.clone()))
            })
            .collect()
    }

    /// A mount is gone: nothing of it will be found again, and nothing of it is to be held.
    pub(crate) fn gone(&self, mount: u64) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(&mount) {
            (known.kept, known.undecided) = (Kept::Number, None);
        }
    }
}
