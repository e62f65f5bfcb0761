//! READLINK, LINK, UNLINK, RMDIR and RENAME.

use airlockfs_ipc::{Bytes, Errno, Name, NodeId, message::Reply};
use nix::{
    fcntl::{AT_FDCWD, AtFlags, RenameFlags},
    unistd::{UnlinkatFlags, linkat, unlinkat},
};

use crate::{
    inode::Place,
    sys::{self, CName, ProcPath, read_link},
    volume::Volume,
};

/// A symbolic link's target.
pub(crate) fn target<'a>(volume: &Volume, node: NodeId, room: &'a mut [u8]) -> Result<Reply<'a>, Errno> {
    let held = volume.held(node)?;
    if held.kind != libc::S_IFLNK {
        return Err(Errno::EINVAL);
    }
    let length = read_link(&held, room)?;
    Ok(Reply::Target(Bytes(room.get(..length).unwrap_or_default())))
}

/// Gives an inode a further name.
pub(crate) fn link(
    volume: &Volume,
    node: NodeId,
    new_parent: NodeId,
    new_name: Name<'_>,
) -> Result<Reply<'static>, Errno> {
    let held = volume.held(node)?;
    let directory = volume.writable_directory(new_parent)?;
    if held.share != directory.share {
        return Err(Errno::EXDEV);
    }
    volume.inodes.room_for_link(node, new_name.as_bytes())?;
    let c_name = CName::new(new_name);
    // By the descriptor's link in /proc, which needs no capability; it leads to the inode itself, symbolic link or not.
    let path = ProcPath::new(&held);
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    linkat(AT_FDCWD, path.as_c_str(), &directory, c_name.as_c_str(), follow)?;
    volume.entry_at(&directory, &c_name).map(Reply::Entry)
}

/// Removes a name.
pub(crate) fn unlink(
    volume: &Volume,
    parent: NodeId,
    name: Name<'_>,
    flags: UnlinkatFlags,
) -> Result<Reply<'static>, Errno> {
    let directory = volume.writable_directory(parent)?;
    let place = Place {
        parent,
        name: name.as_bytes(),
    };
    let c_name = CName::new(name);
    let spared = volume.inodes.spare(&directory, place, &c_name);
    let result = unlinkat(&directory, c_name.as_c_str(), flags);
    if let Some(spared) = spared {
        match result {
            Ok(()) => volume.inodes.removed(spared.id, place),
            Err(_) => volume.inodes.not_removed(spared),
        }
    }
    result?;
    Ok(Reply::Done)
}

/// renameat2(2). Node ids go with their inodes.
pub(crate) fn rename(
    volume: &Volume,
    (parent, name): (NodeId, Name<'_>),
    (new_parent, new_name): (NodeId, Name<'_>),
    flags: u32,
) -> Result<Reply<'static>, Errno> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let directory = volume.directory(parent)?;
    let new_directory = volume.directory(new_parent)?;
    // The kernel's order: another mount, then a read-only one.
    if directory.share != new_directory.share {
        return Err(Errno::EXDEV);
    }
    volume.writable(directory.share)?;
    let from = Place {
        parent,
        name: name.as_bytes(),
    };
    let to = Place {
        parent: new_parent,
        name: new_name.as_bytes(),
    };
    let exchange = flags.contains(RenameFlags::RENAME_EXCHANGE);
    let (c_name, c_new_name) = (CName::new(name), CName::new(new_name));
    let source = volume.inodes.known_at(from);
    if source.is_some() && !exchange {
        // Before anything has moved. Of two nodes that change places, one makes room for the other.
        volume.inodes.room_to_rename(from.name, to.name)?;
    }
    let (target, spared) = if exchange {
        (volume.inodes.known_at(to), None)
    } else {
        let spared = volume.inodes.spare(&new_directory, to, &c_new_name);
        (spared.map(|spared| spared.id), spared)
    };
    let result = sys::rename(
        (&directory, c_name.as_c_str()),
        (&new_directory, c_new_name.as_c_str()),
        flags.bits(),
    );
    if let Some(spared) = spared.filter(|_| result.is_err() || source == target) {
        volume.inodes.not_removed(spared);
    }
    result?;
    if source == target {
        return Ok(Reply::Done);
    }
    if let Some(target) = target {
        volume.inodes.removed(target, to);
    }
    if let Some(source) = source {
        volume.inodes.moved(source, from, to);
    }
    if let Some(target) = target.filter(|_| exchange) {
        volume.inodes.placed(target, from);
    }
    Ok(Reply::Done)
}
