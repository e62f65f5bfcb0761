//! CREATE, TMPFILE, MKDIR, MKNOD and SYMLINK: as the guest's caller, with the guest's umask.

use std::os::fd::{AsFd, OwnedFd};

use airlockfs_ipc::{
    Bytes, Errno, Name, NodeId,
    message::{Creation, Entry, Reply},
};
use nix::{
    fcntl::{OFlag, openat},
    sys::stat::{Mode, SFlag, mkdirat, mknodat},
    unistd::{UnlinkatFlags, symlinkat, unlinkat},
};

use super::{open, xattr};
use crate::{
    handle::Open,
    inode::Held,
    sys::{CName, ProcPath, Stat, get_xattr, stat, stat_at},
    volume::Volume,
};

/// Creates and opens a regular file; without O_EXCL what is there is opened, if it is a regular file.
pub(crate) fn create(
    volume: &Volume,
    parent: NodeId,
    name: Name<'_>,
    flags: u32,
    kill: bool,
    creation: &Creation<'_>,
) -> Result<Reply<'static>, Errno> {
    let directory = volume.directory(parent)?;
    let c_name = CName::new(name);
    let exclusive = flags & libc::O_EXCL as u32 != 0;
    let may_be_made = volume
        .writable(directory.share)
        .and_then(|()| volume.inodes.room_for(name.as_bytes()));
    if let Err(error) = may_be_made {
        return match stat_at(&directory, c_name.as_c_str()) {
            Ok(_) if exclusive => Err(Errno::EEXIST),
            Ok(stat) => attach(volume, &directory, &c_name, &stat, flags, kill),
            Err(_) => Err(error),
        };
    }
    let host = open::host_flags(volume, flags)? - OFlag::O_TRUNC;
    let new = host | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = mode(volume, &directory, libc::S_IFREG, creation);
    let make = || Ok(openat(&directory, c_name.as_c_str(), new, mode)?);
    let mut patience = 8;
    let file = loop {
        match volume.identities.as_caller(creation.caller, make) {
            Ok(file) => break file,
            Err(Errno::EEXIST) if !exclusive => match stat_at(&directory, c_name.as_c_str()) {
                Ok(stat) => return attach(volume, &directory, &c_name, &stat, flags, kill),
                // It went as it came.
                Err(Errno::ENOENT) if patience > 0 => patience -= 1,
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    };
    if let Err(error) = label(volume, &file, creation) {
        let _ = unlinkat(&directory, c_name.as_c_str(), UnlinkatFlags::NoRemoveDir);
        return Err(error);
    }
    let stat = stat(&file)?;
    let entry = volume.entry(&directory, directory.located(), &c_name, &stat)?;
    hand_out(volume, &directory, entry, file, host)
}

/// Hands out a handle on what was just looked up, or takes the lookup back.
fn hand_out(
    volume: &Volume,
    directory: &Held,
    entry: Entry,
    file: OwnedFd,
    flags: OFlag,
) -> Result<Reply<'static>, Errno> {
    let mut located = directory.located();
    located.id = entry.node;
    let handle = volume.open_handle(Open::file(file, located, flags.bits()));
    created(volume, entry, handle)
}

fn created(
    volume: &Volume,
    entry: Entry,
    handle: Result<airlockfs_ipc::Handle, Errno>,
) -> Result<Reply<'static>, Errno> {
    match handle {
        Ok(handle) => Ok(Reply::Created { entry, handle }),
        Err(error) => {
            volume.inodes.forget([(entry.node, 1)].into_iter());
            Err(error)
        }
    }
}

/// Opens what already stands under the name.
fn attach(
    volume: &Volume,
    directory: &Held,
    name: &CName,
    found: &Stat,
    flags: u32,
    kill: bool,
) -> Result<Reply<'static>, Errno> {
    let mut entry = volume.entry(directory, directory.located(), name, found)?;
    let handle = volume.held(entry.node).and_then(|held| {
        let handle = open::open_held(volume, &held, flags, kill, false)?;
        if flags & libc::O_TRUNC as u32 != 0 {
            // Size and times are others now.
            let stat = stat(&held)?;
            entry.attr = volume.attr(&stat, directory.share, directory.located().ends_at(&stat));
        }
        Ok(handle)
    });
    created(volume, entry, handle)
}

/// Makes a file without a name.
pub(crate) fn temporary(
    volume: &Volume,
    parent: NodeId,
    flags: u32,
    creation: &Creation<'_>,
) -> Result<Reply<'static>, Errno> {
    let directory = directory_for(volume, parent, b"")?;
    let host = open::host_flags(volume, flags)? - OFlag::O_TRUNC;
    let exclusive = OFlag::from_bits_truncate(flags.cast_signed()) & OFlag::O_EXCL;
    let new = host | exclusive | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
    let mode = mode(volume, &directory, libc::S_IFREG, creation);
    let file = volume
        .identities
        .as_caller(creation.caller, || Ok(openat(&directory, c".", new, mode)?))?;
    label(volume, &file, creation)?;
    let stat = stat(&file)?;
    let entry = Entry {
        node: volume.inodes.remember_nameless(directory.share, &stat)?,
        attr: volume.attr(&stat, directory.share, false),
    };
    hand_out(volume, &directory, entry, file, host)
}

/// Makes a directory.
pub(crate) fn mkdir(
    volume: &Volume,
    parent: NodeId,
    name: Name<'_>,
    creation: &Creation<'_>,
) -> Result<Reply<'static>, Errno> {
    let directory = directory_for(volume, parent, name.as_bytes())?;
    let c_name = CName::new(name);
    let mode = mode(volume, &directory, libc::S_IFDIR, creation);
    volume.identities.as_caller(creation.caller, || {
        Ok(mkdirat(&directory, c_name.as_c_str(), mode)?)
    })?;
    made(volume, &directory, &c_name, creation, UnlinkatFlags::RemoveDir)
}

/// Makes a regular file, a FIFO or a socket; a device only where that is allowed, but a whiteout (character device 0:0,
/// which nobody can open) always.
pub(crate) fn mknod(
    volume: &Volume,
    parent: NodeId,
    name: Name<'_>,
    rdev: u32,
    creation: &Creation<'_>,
) -> Result<Reply<'static>, Errno> {
    let directory = directory_for(volume, parent, name.as_bytes())?;
    let c_name = CName::new(name);
    let kind = SFlag::from_bits_truncate(creation.mode & libc::S_IFMT);
    let kind = match kind {
        SFlag::S_IFREG | SFlag::S_IFIFO | SFlag::S_IFSOCK => kind,
        SFlag::S_IFCHR if rdev == 0 || volume.config.device_nodes => kind,
        SFlag::S_IFBLK if volume.config.device_nodes => kind,
        SFlag::S_IFCHR | SFlag::S_IFBLK => return Err(Errno::EPERM),
        _ if creation.mode & libc::S_IFMT == 0 => SFlag::S_IFREG,
        _ => return Err(Errno::EINVAL),
    };
    // The kernel's encoding: 12 bits of major between 8 low and 12 high bits of minor.
    let device = libc::makedev(rdev >> 8 & 0xfff, rdev & 0xff | rdev >> 12 & 0xf_ff00);
    let mode = mode(volume, &directory, kind.bits(), creation);
    volume.identities.as_caller(creation.caller, || {
        Ok(mknodat(&directory, c_name.as_c_str(), kind, mode, device)?)
    })?;
    made(volume, &directory, &c_name, creation, UnlinkatFlags::NoRemoveDir)
}

/// Makes a symbolic link; its target is the guest's to understand.
pub(crate) fn symlink(
    volume: &Volume,
    parent: NodeId,
    name: Name<'_>,
    target: &[u8],
    creation: &Creation<'_>,
) -> Result<Reply<'static>, Errno> {
    let directory = directory_for(volume, parent, name.as_bytes())?;
    let c_name = CName::new(name);
    volume.identities.as_caller(creation.caller, || {
        Ok(symlinkat(target, &directory, c_name.as_c_str())?)
    })?;
    made(volume, &directory, &c_name, creation, UnlinkatFlags::NoRemoveDir)
}

/// The directory to make something in. ENOMEM, before anything is made, if the guest knows too many inodes to know it.
fn directory_for(volume: &Volume, parent: NodeId, name: &[u8]) -> Result<Held, Errno> {
    let directory = volume.writable_directory(parent)?;
    volume.inodes.room_for(name)?;
    Ok(directory)
}

/// Finishes what has just been made under a name: its label, its node.
fn made(
    volume: &Volume,
    directory: &Held,
    name: &CName,
    creation: &Creation<'_>,
    undo: UnlinkatFlags,
) -> Result<Reply<'static>, Errno> {
    if creation.security.is_some() {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let new = openat(directory, name.as_c_str(), flags, Mode::empty())?;
        if let Err(error) = label(volume, &new, creation) {
            let _ = unlinkat(directory, name.as_c_str(), undo);
            return Err(error);
        }
    }
    volume.entry_at(directory, name).map(Reply::Entry)
}

/// Sets the security attribute that comes with a creation.
fn label(volume: &Volume, new: impl AsFd, creation: &Creation<'_>) -> Result<(), Errno> {
    match creation.security {
        Some((name, Bytes(value))) => xattr::label(volume, new, name, value),
        None => Ok(()),
    }
}

/// Permissions for the host. Its own umask is 0: the guest's is taken off here, unless the directory has a default ACL
/// that takes its place (acl(5)).
fn mode(volume: &Volume, directory: &Held, kind: u32, creation: &Creation<'_>) -> Mode {
    let acl_decides = volume.config.posix_acl && creation.mode & creation.umask & 0o777 != 0 && {
        let path = ProcPath::new(directory);
        get_xattr(path.as_c_str(), c"system.posix_acl_default", &mut []).is_ok()
    };
    let umask = if acl_decides { 0 } else { creation.umask & 0o777 };
    Mode::from_bits_truncate(volume.view.created(kind, creation.mode & !umask))
}
