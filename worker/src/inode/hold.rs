//! Inodes that are held by a descriptor as soon as they are known, since they would not be found again: on file systems
//! that number inodes as they come, and where the guest opens files without a message.

use std::os::fd::AsFd;

use airlockfs_ipc::{Errno, NodeId};
use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};

use super::{Descriptor, Inodes, dropped::Cooled, mounts::Kept, node::NONE};
use crate::sys::{CName, Stat, stat, stat_at};

const BY_PATH: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Whether a known inode is held by a descriptor from now on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Where its file system asks for that.
    AsNeeded,
    /// While there is room.
    IfRoom,
    /// In place of one that was not used for longer.
    Always,
}

impl Inodes {
    /// Looks at the mount of an inode of which `found` was seen under a name, if it was never seen before.
    pub(crate) fn look_at_mount(
        &self,
        directory: impl AsFd,
        parent: NodeId,
        name: &CName,
        found: &Stat,
    ) -> Result<(), Errno> {
        if !self.mounts.knows(found.mount()) {
            let inode = openat(&directory, name.as_c_str(), BY_PATH, Mode::empty())?;
            let place = (parent, name.as_c_str().to_bytes());
            self.mounts.look(inode, Some(place))?;
        }
        self.mounts.learn(found);
        Ok(())
    }

    /// Holds an inode that was just seen under a name, if it is to be.
    pub(crate) fn hold(&self, id: NodeId, directory: impl AsFd, name: &CName, found: &Stat, hold: Hold) {
        let needed = self.mounts.kept(found.mount()) == Kept::Nothing;
        if hold == Hold::AsNeeded && !needed {
            return;
        }
        {
            let table = self.read();
            let node = table.index(id).and_then(|index| table.node(index));
            let full = hold == Hold::IfRoom && !needed && table.hot.len() >= self.hot_max();
            if full || node.is_none_or(|node| node.descriptor.is_some()) {
                return;
            }
        }
        // What cannot be opened any more is not held: the guest learns of that when it uses it.
        let Ok(descriptor) = openat(directory, name.as_c_str(), BY_PATH, Mode::empty()) else {
            return;
        };
        // The number may be another when it is used, so it is compared now.
        let same =
            |now: &Stat| now.ino() == found.ino() && now.dev() == found.dev() && now.kind() == found.kind();
        if !needed || stat(&descriptor).is_ok_and(|now| same(&now)) {
            self.heat(id, Descriptor::new(descriptor, needed));
        }
    }

    /// Notes what an inode's descriptor shows of it before it is closed.
    pub(super) fn renumber(&self, cooled: &Cooled) {
        if cooled.descriptor.is_proven()
            && let Ok(found) = stat(&cooled.descriptor.file)
        {
            let identity = self.identity(&found, cooled.share);
            self.write().renumber(cooled.id, &identity);
        }
    }

    /// Where inodes are held on a mount that is not at its place any more, they need not be. True if one is still there.
    pub(super) fn let_go_of_mounts_that_are_gone(&self) -> bool {
        let mut left = false;
        for (mount, parent, name) in self.mounts.keeping_nothing() {
            if !self.holds_on(mount) {
                continue;
            }
            let there = self.held(parent).is_ok_and(|directory| {
                let name = airlockfs_ipc::Name::new(&name);
                name.is_ok_and(|name| {
                    let found = stat_at(&directory, CName::new(name).as_c_str());
                    found.is_ok_and(|found| found.mount() == mount)
                })
            });
            match there {
                true => left = true,
                false => self.mounts.gone(mount),
            }
        }
        left
    }

    /// Whether an inode on a mount is held.
    fn holds_on(&self, mount: u64) -> bool {
        let table = self.read();
        let mut hot = (0..table.hot.len()).filter_map(|place| table.node(table.hot.at(place)?));
        hot.any(|node| node.mount == mount && node.parent != NONE)
    }
}
