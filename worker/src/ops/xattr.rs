//! GETXATTR, SETXATTR, LISTXATTR and REMOVEXATTR, of any kind of inode.

use std::os::fd::AsFd;

use airlockfs_ipc::{
    Errno, NodeId,
    message::{Reply, XattrName},
    ring::BulkBuffer,
};
use nix::{
    fcntl::AT_FDCWD,
    sys::stat::{FchmodatFlags, Mode, fchmodat},
};

use super::{attr::drop_set_ids, io::data};
use crate::{
    inode::Held,
    sys::{ProcPath, get_xattr, list_xattrs, remove_xattr, set_xattr, stat},
    volume::Volume,
    xattr_ids::{Holds, Ids},
    xattr_map::HostName,
};

/// Largest value or list in bytes (XATTR_SIZE_MAX, XATTR_LIST_MAX).
pub(crate) const XATTR_MAX: usize = 65_536;

const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// ENOSYS where attributes are off: the guest's kernel then stops asking.
fn enabled(volume: &Volume) -> Result<(), Errno> {
    if volume.config.xattr {
        Ok(())
    } else {
        Err(Errno::ENOSYS)
    }
}

/// Whether the guest has nothing to do with an attribute, by its name in the guest and its name here.
fn is_hidden(volume: &Volume, name: &[u8], host: &[u8]) -> bool {
    let is_acl = [name, host].map(Holds::of).contains(&Holds::Acl);
    // Ids in one of another kind would pass untranslated.
    let unknown = Holds::of(host) == Holds::Unknown && ids(volume).differ();
    is_acl && !volume.config.posix_acl || unknown
}

const fn ids(volume: &Volume) -> Ids<'_> {
    Ids {
        uids: &volume.identities.uids,
        gids: &volume.identities.gids,
    }
}

/// The host's name of an attribute. ENOTSUP where the guest has nothing to do with it.
fn host_name(volume: &Volume, name: XattrName<'_>) -> Result<HostName, Errno> {
    let name = name.as_bytes();
    let host = match &volume.xattr_map {
        Some(map) => map.to_host(name),
        None => HostName::new(b"", name),
    };
    let known = host.as_ref().map_or(name, |host| host.as_bytes());
    if is_hidden(volume, name, known) {
        return Err(Errno::ENOTSUP);
    }
    host
}

/// The same for an attribute that is set. With `--no-setuid` ENOTSUP for capabilities that the host's kernel would honour.
fn settable(volume: &Volume, name: XattrName<'_>) -> Result<HostName, Errno> {
    let host = host_name(volume, name)?;
    match volume.config.no_setuid && host.as_c_str() == c"security.capability" {
        true => Err(Errno::ENOTSUP),
        false => Ok(host),
    }
}

fn held(volume: &Volume, node: NodeId) -> Result<Held, Errno> {
    enabled(volume)?;
    match volume.held(node) {
        // The directory over several shares.
        Err(Errno::EROFS) => Err(Errno::ENOTSUP),
        result => result,
    }
}

/// The value of an attribute, or how long it is. `room` takes any whole value, whatever the guest asks for.
pub(crate) fn get(
    volume: &Volume,
    node: NodeId,
    name: XattrName<'_>,
    size: usize,
    room: &mut [u8],
    buffer: Option<&BulkBuffer>,
) -> Result<Reply<'static>, Errno> {
    let held = held(volume, node)?;
    let name = host_name(volume, name)?;
    let path = ProcPath::new(&held);
    let holds = Holds::of(name.as_bytes());
    if holds == Holds::Data {
        let size = size.min(room.len());
        let room = room.get_mut(..size).unwrap_or_default();
        let length = get_xattr(path.as_c_str(), name.as_c_str(), room)?;
        return Ok(answer(room, length, buffer));
    }
    let length = get_xattr(path.as_c_str(), name.as_c_str(), room)?;
    let length = ids(volume).to_guest(holds, room, length).ok_or(Errno::ENODATA)?;
    if buffer.is_some() && length > size {
        return Err(Errno::ERANGE);
    }
    Ok(answer(room, length, buffer))
}

/// The value in the bulk buffer, or how long it is.
fn answer(value: &[u8], length: usize, buffer: Option<&BulkBuffer>) -> Reply<'static> {
    match buffer {
        None => Reply::Size(u32::try_from(length).unwrap_or(u32::MAX)),
        Some(buffer) => data(buffer.copy_from_slice(0, value.get(..length).unwrap_or_default())),
    }
}

/// Names of attributes, or how long the list is. `room` takes the whole list, whatever the guest asks for.
pub(crate) fn list(
    volume: &Volume,
    node: NodeId,
    size: usize,
    room: &mut [u8],
    buffer: Option<&BulkBuffer>,
) -> Result<Reply<'static>, Errno> {
    let held = held(volume, node)?;
    let length = list_xattrs(ProcPath::new(&held).as_c_str(), room)?;
    let length = filter(volume, room, length);
    if buffer.is_some() && length > size {
        return Err(Errno::ERANGE);
    }
    Ok(answer(room, length, buffer))
}

/// Leaves what the guest may see of a list, under its names. The new length.
fn filter(volume: &Volume, list: &mut [u8], length: usize) -> usize {
    let (mut read, mut written) = (0, 0);
    while let Some(rest) = list.get(read..length).filter(|rest| !rest.is_empty()) {
        let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
        let name = rest.get(..end).unwrap_or_default();
        let shown = match &volume.xattr_map {
            Some(map) => map.to_guest(name),
            None => Some(name),
        };
        if let Some(shown) = shown.filter(|shown| !is_hidden(volume, shown, name)) {
            // A suffix of what stands there, and the NUL after it.
            let start = read + end - shown.len();
            let stop = (read + end + 1).min(list.len());
            list.copy_within(start..stop, written);
            written += stop - start;
        }
        read += end + 1;
    }
    written
}

/// Sets an attribute. `kill_sgid`: an access ACL set by somebody outside the file's group takes the setgid bit.
pub(crate) fn set(
    volume: &Volume,
    node: NodeId,
    name: XattrName<'_>,
    value: &[u8],
    flags: u32,
    kill_sgid: bool,
) -> Result<Reply<'static>, Errno> {
    let held = held(volume, node)?;
    volume.writable(held.share)?;
    let host = settable(volume, name)?;
    let path = ProcPath::new(&held);
    put(volume, &path, &host, value, flags)?;
    if volume.config.no_setuid && host.as_c_str().to_bytes() == ACCESS_ACL {
        // It says who may execute the file.
        drop_set_ids(&held)?;
    } else if kill_sgid && name.as_bytes() == ACCESS_ACL {
        let mode = stat(&held)?.mode();
        if mode & libc::S_ISGID != 0 {
            let mode = Mode::from_bits_truncate(mode & !libc::S_ISGID);
            fchmodat(AT_FDCWD, path.as_c_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
    }
    Ok(Reply::Done)
}

/// Sets a value on the host, with the host's ids in it.
fn put(volume: &Volume, path: &ProcPath, name: &HostName, value: &[u8], flags: u32) -> Result<(), Errno> {
    let value = ids(volume).to_host(Holds::of(name.as_bytes()), value)?;
    set_xattr(path.as_c_str(), name.as_c_str(), &value, flags.cast_signed())
}

/// Removes an attribute.
pub(crate) fn remove(volume: &Volume, node: NodeId, name: XattrName<'_>) -> Result<Reply<'static>, Errno> {
    let held = held(volume, node)?;
    volume.writable(held.share)?;
    let name = host_name(volume, name)?;
    remove_xattr(ProcPath::new(&held).as_c_str(), name.as_c_str())?;
    Ok(Reply::Done)
}

/// Sets the security attribute of a new inode.
pub(crate) fn label(volume: &Volume, new: impl AsFd, name: XattrName<'_>, value: &[u8]) -> Result<(), Errno> {
    if !volume.config.xattr {
        return Err(Errno::ENOTSUP);
    }
    let name = settable(volume, name)?;
    put(volume, &ProcPath::new(new), &name, value, 0)
}
