//! What is known of one inode.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use airlockfs_ipc::recycle::Shared;

use super::{Descriptor, mounts::Kept, name::NodeName};
use crate::sys::Stat;

/// No index: no location, or not in the list of hot nodes.
pub(super) const NONE: u32 = u32::MAX;

/// What makes an inode that inode: nothing else has the same while it exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    /// Inode number.
    pub(crate) ino: u64,
    /// Mount id.
    pub(crate) mount: u64,
    /// Device number.
    pub(crate) dev: u32,
    /// Index of the share it was found in: two shares may overlap with different rights.
    pub(crate) share: u16,
}

/// A key, and what tells it from a later inode with the same number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// The key.
    pub(crate) key: Key,
    /// Birth time: seconds and nanoseconds, zeros where the file system has none or changes it. As coarse as the kernel's clock: of two
    /// files made within the same few milliseconds the second can have the number and the birth time of the first.
    pub(crate) birth: (i64, u32),
    /// File type: the S_IFMT bits of its mode. What is opened is chosen by it, so one that was a regular file a moment
    /// ago must not pass for it.
    pub(crate) kind: u32,
}

impl Identity {
    /// Of what statx(2) saw in a share, on a mount that keeps so much of it.
    pub(crate) fn of(stat: &Stat, share: u16, kept: Kept) -> Self {
        Self {
            key: Key {
                ino: stat.ino(),
                mount: stat.mount(),
                dev: stat.dev(),
                share,
            },
            birth: match kept {
                Kept::All => stat.birth(),
                Kept::Number | Kept::Nothing => (0, 0),
            },
            kind: stat.kind(),
        }
    }
}

/// An entry of the table. Its size matters: there is one for each inode that the guest's kernel knows.
pub(super) struct Node {
    pub(super) ino: u64,
    pub(super) mount: u64,
    pub(super) birth_seconds: i64,
    /// The name it was last seen under, in the directory `parent`.
    pub(super) name: NodeName,
    /// Held while hot.
    pub(super) descriptor: Option<Shared<Descriptor>>,
    /// The guest's lookups.
    pub(super) lookups: AtomicU64,
    pub(super) birth_nanoseconds: u32,
    pub(super) dev: u32,
    /// Index of the directory, or [`NONE`]: nobody knows where it is, its descriptor is the only way to it.
    pub(super) parent: u32,
    /// Nodes whose parent this is.
    pub(super) children: u32,
    /// Open handles.
    pub(super) handles: AtomicU32,
    /// Place in the list of hot nodes, or [`NONE`]: cold, or pinned for ever (the share's root).
    pub(super) hot: u32,
    /// How often this place in the table was given to another inode: the upper half of the node id.
    pub(super) generation: u32,
    pub(super) share: u16,
    /// File type, the S_IFMT bits shifted right by 12; 0: the place is free.
    pub(super) kind: u8,
    /// Used since the clock's hand passed.
    pub(super) referenced: AtomicBool,
}

const _: () = assert!(size_of::<Node>() <= 96);

impl Node {
    pub(super) const fn key(&self) -> Key {
        Key {
            ino: self.ino,
            mount: self.mount,
            dev: self.dev,
            share: self.share,
        }
    }

    pub(super) const fn identity(&self) -> Identity {
        Identity {
            key: self.key(),
            birth: (self.birth_seconds, self.birth_nanoseconds),
            kind: self.mode_kind(),
        }
    }

    /// Whether it holds its descriptor for good.
    pub(super) const fn is_pinned(&self) -> bool {
        self.hot == NONE && self.descriptor.is_some()
    }

    pub(super) fn is_at(&self, parent: u32, name: &[u8]) -> bool {
        self.parent == parent && *self.name == *name
    }

    pub(super) const fn mode_kind(&self) -> u32 {
        (self.kind as u32) << 12
    }
}
