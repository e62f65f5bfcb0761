//! FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR on open files.

use airlockfs_ipc::{
    Errno, Handle,
    message::{FsXattr, Reply},
};

use crate::{sys, volume::Volume};

/// Flags, short or extended.
pub(crate) fn get(volume: &Volume, handle: Handle, extended: bool) -> Result<Reply<'static>, Errno> {
    let open = volume.open_file(handle)?;
    if extended {
        sys::fs_xattr(&*open).map(Reply::FsXattr)
    } else {
        sys::file_flags(&*open).map(Reply::FileFlags)
    }
}

/// Sets the short flags.
pub(crate) fn set(volume: &Volume, handle: Handle, flags: u32) -> Result<Reply<'static>, Errno> {
    let open = volume.open_file(handle)?;
    volume.writable(open.node.share)?;
    sys::set_file_flags(&*open, flags)?;
    Ok(Reply::Done)
}

/// Sets the extended ones.
pub(crate) fn set_extended(volume: &Volume, handle: Handle, value: FsXattr) -> Result<Reply<'static>, Errno> {
    let open = volume.open_file(handle)?;
    volume.writable(open.node.share)?;
    sys::set_fs_xattr(&*open, value)?;
    Ok(Reply::Done)
}
