//! What all lanes share: the tables, the options, and the steps that most operations begin with.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use airlockfs_ipc::{
    Errno, Handle, NodeId,
    message::{Attr, Entry, WorkerConfig},
    recycle::Shared,
};
use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
};

use crate::{
    by_node::ByNode,
    creds::Identities,
    handle::{Handles, Open},
    inode::{Held, Hold, Identity, Inodes, Key, Located, Seen},
    listings::Listings,
    locks::Locks,
    ops,
    reserve::Reserve,
    sys::{CName, ProcPath, Stat, is_local, stat, stat_at},
    view::View,
    xattr_map::XattrMap,
};

/// The shared tree and everything known of it.
pub(crate) struct Volume {
    /// What the command line asked.
    pub(crate) config: WorkerConfig,
    /// Known inodes.
    pub(crate) inodes: Inodes,
    /// Open files.
    pub(crate) handles: Handles,
    /// Those that are used without being opened.
    pub(crate) by_node: ByNode,
    /// Room for listing directories.
    pub(crate) listings: Listings,
    /// Locks on them.
    pub(crate) locks: Locks,
    /// What root's writes must leave.
    pub(crate) reserve: Reserve,
    /// User and group ids.
    pub(crate) identities: Identities,
    /// What the guest sees of owners and permissions.
    pub(crate) view: View,
    /// Rules over attribute names.
    pub(crate) xattr_map: Option<XattrMap>,
    /// The shares' roots, as in the configuration.
    pub(crate) roots: Vec<NodeId>,
    /// The mount that was last found to lie in memory and not to know RWF_NOWAIT; 0: none yet.
    pub(crate) in_memory: AtomicU64,
    /// The mount that was last found not to know RWF_NOWAIT and not to lie in memory; 0: none yet.
    pub(crate) not_saying: AtomicU64,
    /// The mount that was last found to lie on this host; 0: none yet.
    pub(crate) local: AtomicU64,
}

impl AsRef<Inodes> for Volume {
    fn as_ref(&self) -> &Inodes {
        &self.inodes
    }
}

impl Volume {
    /// Whether the root that the guest mounts is a directory of ours over the shares.
    pub(crate) fn is_synthetic(&self, id: NodeId) -> bool {
        id == NodeId::ROOT && self.config.shares.iter().any(|share| share.name.is_some())
    }

    /// Whether reads of files on a mount never wait for a disk, as far as is known.
    pub(crate) fn never_waits(&self, mount: u64) -> bool {
        mount != 0 && self.in_memory.load(Relaxed) == mount
    }

    /// Reads of files on that mount never wait.
    pub(crate) fn note_never_waits(&self, mount: u64) {
        self.in_memory.store(mount, Relaxed);
    }

    /// Whether a mount does not say which reads wait.
    pub(crate) fn does_not_say(&self, mount: u64) -> bool {
        mount != 0 && self.not_saying.load(Relaxed) == mount
    }

    /// A mount does not say which reads wait.
    pub(crate) fn note_does_not_say(&self, mount: u64) {
        self.not_saying.store(mount, Relaxed);
    }

    /// Whether an open file lies on a file system of this host, where no server can keep a call waiting.
    pub(crate) fn is_local(&self, open: &Open) -> Result<bool, Errno> {
        let mount = open.node.mount;
        if mount != 0 && self.local.load(Relaxed) == mount {
            return Ok(true);
        }
        let local = is_local(open)?;
        if local {
            self.local.store(mount, Relaxed);
        }
        Ok(local)
    }

    /// The inode of a node id, by whatever way there is. ESTALE if there is none.
    pub(crate) fn held(&self, id: NodeId) -> Result<Held, Errno> {
        match self.inodes.held(id) {
            Err(Errno::ESTALE) if self.is_synthetic(id) => Err(Errno::EROFS),
            Err(Errno::ESTALE) => {
                // Its name is gone, but perhaps it is open.
                let open = self.handles.of_node(id).ok_or(Errno::ESTALE)?;
                self.inodes.adopt(id, reopen(&*open, OFlag::O_PATH)?)
            }
            result => result,
        }
    }

    /// The directory of a node id. ENOTDIR if it is none.
    pub(crate) fn directory(&self, id: NodeId) -> Result<Held, Errno> {
        self.held(id)?.directory()
    }

    /// The directory of a node id, if it may change: else EROFS.
    pub(crate) fn writable_directory(&self, id: NodeId) -> Result<Held, Errno> {
        let held = self.directory(id)?;
        self.writable(held.share)?;
        Ok(held)
    }

    /// EROFS if nothing changes in a share.
    pub(crate) fn writable(&self, share: u16) -> Result<(), Errno> {
        let readonly = self
            .config
            .shares
            .get(usize::from(share))
            .is_none_or(|share| share.readonly);
        if self.config.readonly || readonly {
            return Err(Errno::EROFS);
        }
        Ok(())
    }

    /// An inode's number for the guest. Several shares are one file system to a guest that does not make mounts of them
    /// (FUSE_SUBMOUNTS), and files always are: there numbers must differ.
    pub(crate) fn ino(&self, ino: u64, share: u16) -> u64 {
        let shares = &self.config.shares;
        match shares.get(usize::from(share)) {
            Some(found) if found.name.is_some() => ino ^ ((u64::from(share) + 1) << 48),
            _ => ino,
        }
    }

    /// Attributes for the guest of an inode in a share.
    pub(crate) fn attr(&self, stat: &Stat, share: u16, submount: bool) -> Attr {
        let mut attr = stat.attr(submount && self.config.announce_submounts);
        attr.ino = self.ino(attr.ino, share);
        let Identities { uids, gids, .. } = &self.identities;
        self.view.show(&mut attr, uids, gids);
        attr
    }

    /// The entry of a name in a directory, from what statx(2) said of it. Counts a lookup.
    pub(crate) fn entry(
        &self,
        directory: impl AsFd,
        parent: Located,
        name: &CName,
        stat: &Stat,
    ) -> Result<Entry, Errno> {
        self.known(directory, parent, name, stat, Hold::Always)
    }

    /// The same of one name of many.
    pub(crate) fn listed(
        &self,
        directory: impl AsFd,
        parent: Located,
        name: &CName,
        stat: &Stat,
    ) -> Result<Entry, Errno> {
        self.known(directory, parent, name, stat, Hold::IfRoom)
    }

    /// `unopened`: how a file is held that the guest may open without a message, and the host replace meanwhile.
    fn known(
        &self,
        directory: impl AsFd,
        parent: Located,
        name: &CName,
        stat: &Stat,
        unopened: Hold,
    ) -> Result<Entry, Errno> {
        self.inodes.look_at_mount(&directory, parent.id, name, stat)?;
        let node = self.inodes.remember(parent, name.as_c_str().to_bytes(), stat)?;
        let hold = match self.config.zero_open && stat.kind() == libc::S_IFREG {
            true => unopened,
            false => Hold::AsNeeded,
        };
        self.inodes.hold(node, directory, name, stat, hold);
        Ok(Entry {
            node,
            attr: self.attr(stat, parent.share, parent.ends_at(stat)),
        })
    }

    /// The entry of a name in a directory. Counts a lookup.
    pub(crate) fn entry_at(&self, parent: &Held, name: &CName) -> Result<Entry, Errno> {
        let stat = stat_at(parent, name.as_c_str())?;
        self.entry(parent, parent.located(), name, &stat)
    }

    /// Attributes of a node, by a handle if there is one.
    pub(crate) fn node_attr(&self, id: NodeId, handle: Option<Handle>) -> Result<Attr, Errno> {
        if let Some(handle) = handle {
            let open = self.open_file(handle)?;
            return Ok(self.attr(&stat(&*open)?, open.node.share, false));
        }
        match self.inodes.stat(id) {
            Ok(Seen {
                stat,
                share,
                submount,
            }) => Ok(self.attr(&stat, share, submount)),
            Err(Errno::ESTALE) => {
                let held = self.held(id)?;
                Ok(self.attr(&stat(&held)?, held.share, false))
            }
            Err(error) => Err(error),
        }
    }

    /// The open file of a handle, or what a node's own handle stands for. EAGAIN for the latter as [`ops::open::by_node`].
    pub(crate) fn open_file(&self, handle: Handle) -> Result<Shared<Open>, Errno> {
        match handle.node() {
            None => self.handles.get(handle),
            Some(_) if !self.config.zero_open => Err(Errno::EBADF),
            Some(node) => match self.by_node.get(node) {
                Some(open) => Ok(open),
                None => ops::open::by_node(self, node, false),
            },
        }
    }

    /// Runs `write`, which allocates at most `bytes` for a file, without taking what its file system keeps for root.
    pub(crate) fn writing<T>(
        &self,
        open: &Open,
        bytes: u64,
        write: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if self.identities.own_uid != 0 || self.reserve.spares(open, open.node.mount, bytes)? {
            return write();
        }
        self.identities.as_nobody(write)
    }

    /// Whether an inode lies on the mount that its share begins with, which stays as long as the share is served.
    pub(crate) fn is_at_home(&self, node: Located) -> bool {
        let root = self.roots.get(usize::from(node.share));
        root.is_some_and(|&root| self.held(root).is_ok_and(|root| root.mount == node.mount))
    }

    /// Hands out a handle.
    pub(crate) fn open_handle(&self, open: Open) -> Result<Handle, Errno> {
        let node = open.node.id;
        let handle = self.handles.insert(open)?;
        self.inodes.opened(node);
        Ok(handle)
    }

    /// Ends a handle.
    pub(crate) fn close_handle(&self, handle: Handle) -> Result<(), Errno> {
        let node = self.handles.close(handle)?;
        self.inodes.closed(node.id);
        Ok(())
    }
}

/// Opens the inode behind a descriptor anew. Only for regular files and directories, unless with O_PATH.
pub(crate) fn reopen(descriptor: impl AsFd, flags: OFlag) -> Result<OwnedFd, Errno> {
    let path = ProcPath::new(descriptor);
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    Ok(open(path.as_c_str(), flags, Mode::empty())?)
}

/// The key of the directory over several shares: no device has number 0, and no inode.
pub(crate) const SYNTHETIC: Identity = Identity {
    key: Key {
        ino: 0,
        mount: 0,
        dev: 0,
        share: u16::MAX,
    },
    birth: (0, 0),
    kind: libc::S_IFDIR,
};
