//! GETLK, SETLK, SETLKW, FLUSH, and what RELEASE does to locks.

use std::os::fd::OwnedFd;

use airlockfs_ipc::{
    Errno, Handle,
    message::{FileLock, Reply},
};
use nix::fcntl::OFlag;

use super::io::data_file;
use crate::{
    handle::Open,
    locks::{Holder, Wanted},
    sys::{find_lock, set_whole_lock},
    volume::{Volume, reopen},
};

/// What names no process: -1, as the kernel says of a lock that belongs to an open file description (fcntl(2)).
const NO_PROCESS: u32 = u32::MAX;

/// A lock to set or to clear.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    /// The open file it is set through.
    pub(crate) handle: Handle,
    /// Who sets it.
    pub(crate) owner: u64,
    /// Which, and of which kind.
    pub(crate) lock: FileLock,
    /// The whole file, as flock(2) does.
    pub(crate) flock: bool,
}

/// The first lock in the way of one.
pub(crate) fn get(
    volume: &Volume,
    handle: Handle,
    owner: u64,
    lock: &FileLock,
) -> Result<Reply<'static>, Errno> {
    let open = volume.handles.get(handle)?;
    enabled(volume.config.posix_lock)?;
    let holder = Holder {
        node: data_file(&open)?.node.id,
        owner,
    };
    // Where the owner has no description of its own it has no locks either, and any other serves.
    let mut found = match volume.locks.existing(holder) {
        Some(file) => find_lock(file, lock)?,
        None => find_lock(&*open, lock)?,
    };
    // The kernel knows descriptions, and processes of the host, whose numbers are others' in the guest. Of the guest's own
    // processes the holder is known here.
    if found.kind != libc::F_UNLCK as u32 {
        let pid = volume.locks.who_holds(holder, &found);
        found.pid = pid.unwrap_or(NO_PROCESS);
    }
    Ok(Reply::Lock(found))
}

/// ENOSYS where locks are the guest's own business.
fn enabled(option: bool) -> Result<(), Errno> {
    if option { Ok(()) } else { Err(Errno::ENOSYS) }
}

/// What became of a lock.
pub(crate) enum Set {
    /// It is set or cleared.
    Done,
    /// Another is in the way.
    Waits(Holder, Wanted),
}

/// Sets or clears a lock.
pub(crate) fn set(volume: &Volume, change: &Change) -> Result<Set, Errno> {
    let open = volume.handles.get(change.handle)?;
    let holder = Holder {
        node: open.node.id,
        owner: change.owner,
    };
    let clears = change.lock.kind == libc::F_UNLCK as u32;
    let wanted = if change.flock {
        enabled(volume.config.flock)?;
        if clears {
            set_whole_lock(&*open, change.lock.kind)?;
            volume.locks.given_up();
            return Ok(Set::Done);
        }
        Wanted::Whole(open, change.lock.kind)
    } else {
        enabled(volume.config.posix_lock)?;
        data_file(&open)?;
        if clears {
            clear(volume, holder, &change.lock)?;
            return Ok(Set::Done);
        }
        let file = volume
            .locks
            .of_owner(holder, change.handle, || describe(volume, &open))?;
        Wanted::Record(file, change.lock)
    };
    match volume.locks.try_now(holder, &wanted) {
        Ok(()) => Ok(Set::Done),
        Err(Errno::EAGAIN) => Ok(Set::Waits(holder, wanted)),
        Err(error) => Err(error),
    }
}

fn clear(volume: &Volume, holder: Holder, lock: &FileLock) -> Result<(), Errno> {
    let Some(file) = volume.locks.existing(holder) else {
        return Ok(());
    };
    volume.locks.try_now(holder, &Wanted::Record(file, *lock))?;
    volume.locks.given_up();
    Ok(())
}

/// A new open file description for an owner's record locks: for both kinds where the share allows it, as the owner may
/// use handles of either.
fn describe(volume: &Volume, open: &Open) -> Result<OwnedFd, Errno> {
    let both = volume.writable(open.node.share).map(|()| OFlag::O_RDWR);
    let flags = OFlag::O_NONBLOCK;
    match both.and_then(|both| reopen(open, flags | both)) {
        Ok(file) => Ok(file),
        Err(_) => {
            let own = OFlag::from_bits_truncate(open.flags) & OFlag::O_ACCMODE;
            reopen(open, flags | own)
        }
    }
}

/// One of an open file's holders closed it: its record locks on the inode go (close(2), fcntl(2)).
pub(crate) fn flush(volume: &Volume, handle: Handle, owner: u64) -> Result<Reply<'static>, Errno> {
    let open = volume.handles.get(handle)?;
    if volume.config.posix_lock {
        let node = open.node.id;
        volume.locks.drop_owner(Holder { node, owner });
    }
    Ok(Reply::Done)
}

/// The last holder closed an open file: the record locks that belong to it go, and its flock, even where the supervisor
/// still has the description.
pub(crate) fn release(volume: &Volume, handle: Handle, owner: Option<u64>) -> Result<(), Errno> {
    if volume.config.posix_lock {
        let open = volume.handles.get(handle)?;
        volume.locks.drop_handle(open.node.id, handle);
    }
    if let Some(owner) = owner.filter(|_| volume.config.flock) {
        let open = volume.handles.get(handle)?;
        set_whole_lock(&*open, libc::F_UNLCK as u32)?;
        let node = open.node.id;
        volume.locks.drop_owner(Holder { node, owner });
        volume.locks.given_up();
    }
    Ok(())
}
