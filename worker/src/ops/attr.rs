//! GETATTR, SETATTR and ACCESS.

use std::os::fd::AsFd;

use airlockfs_ipc::{
    Errno, Handle, NodeId,
    message::{Attr, AttrChange, Caller, Reply, SetTime},
};
use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    sys::{
        stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchownat, ftruncate, truncate},
};

use super::dir;
use crate::{
    creds::Identities,
    inode::Held,
    sys::{ProcPath, stat},
    view::PERMISSIONS,
    volume::Volume,
};

/// Attributes by node or by handle.
pub(crate) fn get(volume: &Volume, node: NodeId, handle: Option<Handle>) -> Result<Reply<'static>, Errno> {
    attributes(volume, node, handle).map(Reply::Attr)
}

/// What the guest sees of an inode, by node or by handle.
pub(super) fn attributes(volume: &Volume, node: NodeId, handle: Option<Handle>) -> Result<Attr, Errno> {
    if volume.is_synthetic(node) {
        return Ok(dir::synthetic_attr(volume));
    }
    volume.node_attr(node, handle)
}

/// Changes attributes, in the order in which no change undoes another: the owner's clears setuid, the size's sets the
/// time. Each goes to the inode itself, never through a symbolic link.
pub(crate) fn set(
    volume: &Volume,
    node: NodeId,
    handle: Option<Handle>,
    change: &AttrChange,
) -> Result<Reply<'static>, Errno> {
    let held = volume.held(node)?;
    let open = match handle {
        Some(handle) => Some(volume.handles.get(handle)?),
        None => None,
    };
    volume.writable(held.share)?;
    let view = &volume.view;
    let uid = view
        .uid
        .change(change.uid)?
        .map(|uid| volume.identities.uids.to_host(uid))
        .transpose()?;
    let gid = view
        .gid
        .change(change.gid)?
        .map(|gid| volume.identities.gids.to_host(gid))
        .transpose()?;
    // Refused before anything is changed.
    let mut mode = permissions(volume, &held, change)?;
    let path = ProcPath::new(&held);
    let path = path.as_c_str();
    if uid.is_some() || gid.is_some() {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        // chown(2) clears the bits whoever calls it. Where the guest's kernel decides, and sends no mode, they stay.
        let kept = match change.kill_suidgid || change.mode.is_some() || volume.config.no_setuid {
            true => None,
            false => suidgid(stat(&held)?.mode()),
        };
        if volume.config.no_setuid {
            // The kernel leaves setgid where the group may not execute.
            drop_set_ids(&held)?;
        }
        fchownat(&held, c"", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        if let Some(mode) = kept {
            fchmodat(AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink)?;
        }
        forget_capability(volume, &held)?;
    }
    if let Some(size) = change.size {
        let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
        before_change(volume, &held, change.kill_suidgid)?;
        match open.filter(|open| open.is_writable()) {
            Some(open) => ftruncate(&*open, size)?,
            None => truncate(path, size)?,
        }
        forget_capability(volume, &held)?;
    }
    if (uid.is_some() || gid.is_some() || change.size.is_some()) && !view.hides_no_permissions() {
        // What the guest does not see, and so keeps, may have gone.
        mode = permissions(volume, &held, change)?;
    }
    if let Some(mode) = mode {
        fchmodat(AT_FDCWD, path, mode, FchmodatFlags::FollowSymlink)?;
    }
    if change.atime.is_some() || change.mtime.is_some() {
        let (atime, mtime) = (time(change.atime)?, time(change.mtime)?);
        utimensat(AT_FDCWD, path, &atime, &mtime, UtimensatFlags::FollowSymlink)?;
    }
    let stat = stat(&held)?;
    Ok(Reply::Attr(volume.attr(&stat, held.share, false)))
}

/// The permissions to set, if any.
fn permissions(volume: &Volume, held: &Held, change: &AttrChange) -> Result<Option<Mode>, Errno> {
    let Some(mode) = change.mode else { return Ok(None) };
    if held.kind == libc::S_IFLNK {
        return Err(Errno::ENOTSUP);
    }
    if volume.view.hides_no_permissions() {
        let mode = mode & PERMISSIONS & !volume.view.never(held.kind);
        return Ok(Some(Mode::from_bits_truncate(mode)));
    }
    let Identities { uids, gids, .. } = &volume.identities;
    let mode = volume.view.changed(mode, &stat(held)?.attr(false), uids, gids)?;
    Ok(mode.map(Mode::from_bits_truncate))
}

fn time(change: Option<SetTime>) -> Result<TimeSpec, Errno> {
    match change {
        None => Ok(TimeSpec::UTIME_OMIT),
        Some(SetTime::Now) => Ok(TimeSpec::UTIME_NOW),
        Some(SetTime::To(time)) if time.nanoseconds < 1_000_000_000 => {
            Ok(TimeSpec::new(time.seconds, i64::from(time.nanoseconds)))
        }
        Some(SetTime::To(_)) => Err(Errno::EINVAL),
    }
}

/// What a file loses before its content changes: as the guest asks, or all where no file of the guest's is to have any.
pub(crate) fn before_change(volume: &Volume, file: impl AsFd, kill: bool) -> Result<(), Errno> {
    match (volume.config.no_setuid, kill) {
        (true, _) => drop_set_ids(file),
        (false, true) => kill_suidgid(file),
        (false, false) => Ok(()),
    }
}

/// Clears setuid and setgid of a regular file, whoever may execute it.
pub(crate) fn drop_set_ids(file: impl AsFd) -> Result<(), Errno> {
    if let Some(mode) = suidgid(stat(&file)?.mode()) {
        let path = ProcPath::new(&file);
        let mode = mode - (Mode::S_ISUID | Mode::S_ISGID);
        fchmodat(AT_FDCWD, path.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}

/// Clears setuid, and setgid where the group may execute, as the kernel does when a file is written by somebody without
/// CAP_FSETID. This process has it, so the kernel does not do it by itself.
pub(crate) fn kill_suidgid(file: impl AsFd) -> Result<(), Errno> {
    let before = stat(&file)?.mode();
    let after = without_suidgid(before);
    if before == after || before & libc::S_IFMT != libc::S_IFREG {
        return Ok(());
    }
    let path = ProcPath::new(&file);
    let mode = Mode::from_bits_truncate(after);
    fchmodat(AT_FDCWD, path.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
    Ok(())
}

/// The permissions of a regular file that has setuid or setgid.
fn suidgid(mode: u32) -> Option<Mode> {
    let set = mode & libc::S_IFMT == libc::S_IFREG && mode & (libc::S_ISUID | libc::S_ISGID) != 0;
    set.then(|| Mode::from_bits_truncate(mode))
}

const fn without_suidgid(mode: u32) -> u32 {
    let lost = if mode & libc::S_IXGRP != 0 {
        libc::S_ISUID | libc::S_ISGID
    } else {
        libc::S_ISUID
    };
    mode & !lost
}

/// Removes `security.capability` where it is kept under another name: the kernel removes only its own (CVE-2021-20263).
pub(crate) fn forget_capability(volume: &Volume, file: impl AsFd) -> Result<(), Errno> {
    let Some(name) = volume.xattr_map.as_ref().and_then(|map| map.capability()) else {
        return Ok(());
    };
    match crate::sys::remove_xattr(ProcPath::new(file).as_c_str(), name) {
        Err(Errno::ENODATA | Errno::ENOTSUP) => Ok(()),
        result => result,
    }
}

/// Whether `caller` may: by owner, group and mode. For clients that do not decide themselves; ACLs are theirs.
pub(crate) fn access(
    volume: &Volume,
    node: NodeId,
    mask: u32,
    caller: Caller,
) -> Result<Reply<'static>, Errno> {
    let attr = attributes(volume, node, None)?;
    if mask & libc::W_OK as u32 != 0 {
        match volume.held(node) {
            Ok(held) => volume.writable(held.share)?,
            Err(error) => return Err(error),
        }
    }
    if permits(&attr, mask, caller) {
        Ok(Reply::Done)
    } else {
        Err(Errno::EACCES)
    }
}

fn permits(attr: &Attr, mask: u32, caller: Caller) -> bool {
    let bits = if caller.uid == 0 {
        let executable = attr.mode & 0o111 != 0 || attr.mode & libc::S_IFMT == libc::S_IFDIR;
        0o6 | u32::from(executable)
    } else if caller.uid == attr.uid {
        attr.mode >> 6
    } else if caller.gid == attr.gid || caller.group == Some(attr.gid) {
        attr.mode >> 3
    } else {
        attr.mode
    };
    mask & 0o7 & !bits == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setuid_goes_and_setgid_where_the_group_executes() {
        for (before, after) in [
            (0o6755, 0o755),
            (0o6745, 0o2745),
            (0o4644, 0o644),
            (0o2770, 0o770),
            (0o1777, 0o1777),
        ] {
            assert_eq!(without_suidgid(before), after, "{before:o}");
        }
    }

    #[test]
    fn access_goes_by_the_class_of_the_caller() {
        let attr = |mode| Attr {
            mode,
            uid: 1,
            gid: 2,
            ..Attr::default()
        };
        let caller = |uid, gid| Caller {
            uid,
            gid,
            group: None,
        };
        assert!(permits(&attr(0o100_400), 4, caller(1, 9)));
        assert!(!permits(&attr(0o100_077), 4, caller(1, 2)));
        assert!(permits(&attr(0o100_070), 7, caller(9, 2)));
        assert!(!permits(&attr(0o100_770), 1, caller(9, 9)));
        assert!(permits(&attr(0o100_000), 6, caller(0, 0)));
        assert!(!permits(&attr(0o100_000), 1, caller(0, 0)));
        assert!(permits(&attr(0o040_000), 1, caller(0, 0)));
    }
}
