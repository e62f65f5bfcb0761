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
    let c_name = CName::new(new_name);
    // By the descriptor's link in /proc, which needs no capability; it leads to the inode itself, symbolic link or not.
    let path = ProcPath::new(&held);
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    linkat(AT_FDCWD, path.as_c_str(), &directory, c_name.as_c_str(), follow)?;
    volume.entry_at(&directory, new_name, &c_name).map(Reply::Entry)
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
    let known = spare(volume, place);
    unlinkat(&directory, CName::new(name).as_c_str(), flags)?;
    if let Some(id) = known {
        volume.inodes.removed(id, place);
    }
    Ok(Reply::Done)
}

/// The inode known under a name that is about to go, held by its descriptor: the guest may have it open, or as a
/// working directory.
fn spare(volume: &Volume, place: Place<'_>) -> Option<NodeId> {
    let id = volume.inodes.known_at(place)?;
    let _ = volume.inodes.held(id);
    Some(id)
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
    let source = volume.inodes.known_at(from);
    let target = if exchange {
        volume.inodes.known_at(to)
    } else {
        spare(volume, to)
    };
    sys::rename(
        (&directory, CName::new(name).as_c_str()),
        (&new_directory, CName::new(new_name).as_c_str()),
        flags.bits(),
    )?;
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
