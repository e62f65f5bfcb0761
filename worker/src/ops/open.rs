//! OPEN, OPENDIR, RELEASE and donation.

use std::os::fd::{AsFd, OwnedFd};

use airlockfs_ipc::{Errno, Handle, NodeId, message::Reply, recycle::Shared, ring::WorkerLane};
use nix::fcntl::OFlag;

use super::{
    attr::{before_change, forget_capability},
    lock,
};
use crate::{
    handle::Open,
    inode::Held,
    sys::stat,
    volume::{Volume, reopen},
};

/// Opens a regular file. EAGAIN if a program of the host has a lease on it (F_SETLEASE, fcntl(2)), unless `wait`: then
/// slow.
pub(crate) fn open(
    volume: &Volume,
    node: NodeId,
    flags: u32,
    kill_suidgid: bool,
    wait: bool,
) -> Result<Reply<'static>, Errno> {
    let held = volume.held(node)?;
    let handle = open_held(volume, &held, flags, kill_suidgid, wait)?;
    Ok(Reply::Opened { handle })
}

/// Opens a regular file in hand. Never anything else: what a FIFO or a device does when it is opened is the guest's.
pub(crate) fn open_held(
    volume: &Volume,
    held: &Held,
    flags: u32,
    kill: bool,
    wait: bool,
) -> Result<Handle, Errno> {
    volume.open_handle(regular(volume, held, flags, kill, wait)?)
}

fn regular(volume: &Volume, held: &Held, flags: u32, kill: bool, wait: bool) -> Result<Open, Errno> {
    match held.kind {
        libc::S_IFREG => {}
        libc::S_IFDIR => return Err(Errno::EISDIR),
        libc::S_IFLNK => return Err(Errno::ELOOP),
        _ => return Err(Errno::ENXIO),
    }
    let only_written = flags.cast_signed() & libc::O_ACCMODE == libc::O_WRONLY;
    let mut flags = host_flags(volume, flags)?;
    flags.set(OFlag::O_NONBLOCK, !wait);
    if only_written && flags.contains(OFlag::O_RDWR) {
        // Reads that fill a page around what a program writes are no accesses of its own.
        flags |= OFlag::O_NOATIME;
    }
    if flags.intersects(OFlag::O_WRONLY | OFlag::O_RDWR | OFlag::O_TRUNC) {
        volume.writable(held.share)?;
    }
    let file = open_file(held, flags)?;
    if flags.contains(OFlag::O_TRUNC) {
        before_change(volume, &file, kill)?;
        forget_capability(volume, &file)?;
    }
    Ok(Open::file(file, held.located(), flags.bits()))
}

/// Opens a regular file or a directory for reading that is used without OPEN, and keeps it for the next time. EAGAIN as
/// for [`open`].
pub(crate) fn by_node(volume: &Volume, node: NodeId, wait: bool) -> Result<Shared<Open>, Errno> {
    let open = if volume.is_synthetic(node) {
        directory(volume, node, 0)?
    } else {
        let held = volume.held(node)?;
        match held.kind {
            libc::S_IFDIR => directory(volume, node, 0)?,
            _ => regular(volume, &held, libc::O_RDONLY as u32, false, wait)?,
        }
    };
    let open = volume.handles.share(open);
    // Nobody could unmount what is kept open on another mount, and nobody would know why.
    if volume.is_at_home(open.node) {
        volume.by_node.keep(node, &open);
    }
    Ok(open)
}

fn open_file(held: &Held, flags: OFlag) -> Result<OwnedFd, Errno> {
    match reopen(held, flags) {
        // Only owners may ask for it, and who the guest's owner is may not be known here.
        Err(Errno::EPERM) if flags.contains(OFlag::O_NOATIME) => reopen(held, flags - OFlag::O_NOATIME),
        result => result,
    }
}

/// The flags for the host of a guest's open(2).
pub(crate) fn host_flags(volume: &Volume, flags: u32) -> Result<OFlag, Errno> {
    let config = &volume.config;
    let asked = OFlag::from_bits_truncate(flags.cast_signed());
    let mut kept = OFlag::O_ACCMODE | OFlag::O_TRUNC | OFlag::O_APPEND | OFlag::O_SYNC | OFlag::O_DSYNC;
    kept.set(OFlag::O_DIRECT, config.direct_io);
    kept.set(OFlag::O_NOATIME, config.preserve_noatime);
    let mut flags = asked & kept;
    match flags & OFlag::O_ACCMODE {
        OFlag::O_ACCMODE => return Err(Errno::EINVAL),
        OFlag::O_WRONLY if config.writeback => {
            // The guest fills the rest of a page from the file.
            flags = (flags - OFlag::O_WRONLY) | OFlag::O_RDWR;
        }
        _ => {}
    }
    if config.writeback {
        // The guest writes back pages in any order; where the end is, it knows itself.
        flags -= OFlag::O_APPEND;
    }
    Ok(flags | OFlag::O_NONBLOCK)
}

/// Opens a directory.
pub(crate) fn open_dir(volume: &Volume, node: NodeId, flags: u32) -> Result<Reply<'static>, Errno> {
    let handle = volume.open_handle(directory(volume, node, flags)?)?;
    Ok(Reply::Opened { handle })
}

fn directory(volume: &Volume, node: NodeId, flags: u32) -> Result<Open, Errno> {
    Ok(if volume.is_synthetic(node) {
        let root = volume.roots.first().ok_or(Errno::ESTALE)?;
        let mut located = volume.held(*root)?.located();
        let file = reopen(volume.held(*root)?, OFlag::O_PATH)?;
        located.id = node;
        Open::directory(file, located)
    } else {
        let held = volume.directory(node)?;
        let mut host = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
        let asked = OFlag::from_bits_truncate(flags.cast_signed());
        host.set(
            OFlag::O_NOATIME,
            volume.config.preserve_noatime && asked.contains(OFlag::O_NOATIME),
        );
        Open::directory(open_file(&held, host)?, held.located())
    })
}

/// Ends a handle; the file closes when nothing uses it any more. `flock_owner`: its lock on the whole file goes too.
pub(crate) fn release(
    volume: &Volume,
    handle: Handle,
    flock_owner: Option<u64>,
) -> Result<Reply<'static>, Errno> {
    lock::release(volume, handle, flock_owner)?;
    volume.close_handle(handle)?;
    Ok(Reply::Done)
}

/// Sends an open file to the supervisor, marked with its handle.
///
/// Not a directory. Nor a file of a network's file system or of one that a program serves: the threads of the supervisor that
/// serve the guest's queues write to what they are given, and no call of theirs may hang. Nor a file that is written to whose setuid or setgid bits or capabilities a write must treat in a
/// certain way: the kernel takes these bits at any write of the supervisor, which has no CAP_FSETID, and the guest's
/// root may keep them; and it does not know capabilities under a mapped name. (Bits that are set later, while the file
/// is open for writing, are lost at the next write through such a descriptor.)
pub(crate) fn donate(volume: &Volume, handle: Handle, lane: &WorkerLane) -> Result<Reply<'static>, Errno> {
    let open = volume.open_file(handle)?;
    // What nobody opened nobody will release.
    let for_ever = handle.node().is_some() && !volume.is_at_home(open.node);
    if !volume.config.donate || open.entries.is_some() || for_ever || !volume.is_local(&open)? {
        return Ok(Reply::NotDonated);
    }
    if open.is_writable() {
        let set_id = stat(&*open)?.mode() & (libc::S_ISUID | libc::S_ISGID) != 0;
        let mapped = volume
            .xattr_map
            .as_ref()
            .is_some_and(|map| map.capability().is_some());
        if set_id || mapped {
            return Ok(Reply::NotDonated);
        }
    }
    lane.channel().send(&handle, &[open.as_fd()])?;
    Ok(Reply::Donated)
}
