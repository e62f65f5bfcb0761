//! STATFS and SYNCFS.

use airlockfs_ipc::{Errno, NodeId, message::Reply};
use nix::fcntl::OFlag;

use crate::{
    inode::Held,
    sys::file_system,
    volume::{Volume, reopen},
};

/// The file system a node lies on.
pub(crate) fn statfs(volume: &Volume, node: NodeId) -> Result<Reply<'static>, Errno> {
    file_system(volume.held(or_first_share(volume, node))?).map(Reply::StatFs)
}

/// The directory over several shares lies on no file system: the first share's stands for it.
fn or_first_share(volume: &Volume, node: NodeId) -> NodeId {
    match volume.roots.first() {
        Some(&first) if volume.is_synthetic(node) => first,
        _ => node,
    }
}

/// Writes a file system's changes to disk. Slow.
pub(crate) fn sync(volume: &Volume, node: NodeId) -> Result<Reply<'static>, Errno> {
    let held = volume.held(or_first_share(volume, node))?;
    sync_held(&held)?;
    Ok(Reply::Done)
}

fn sync_held(held: &Held) -> Result<(), Errno> {
    if !matches!(held.kind, libc::S_IFDIR | libc::S_IFREG) {
        return Err(Errno::EINVAL);
    }
    // syncfs(2) refuses O_PATH descriptors.
    let file = reopen(held, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    Ok(nix::unistd::syncfs(&file)?)
}
