//! The ioctls of file attributes (ioctl_iflags(2), linux/fs.h).
#![expect(unsafe_code, reason = "ioctl takes a pointer to what the request says")]

use std::os::fd::{AsFd, AsRawFd};

use airlockfs_ipc::{Errno, message::FsXattr};

use super::check;

/// FS_IOC_GETFLAGS, `_IOR('f', 1, long)`; the kernel moves an `int`.
const GET_FLAGS: libc::c_ulong = 0x8008_6601;
/// FS_IOC_SETFLAGS, `_IOW('f', 2, long)`.
const SET_FLAGS: libc::c_ulong = 0x4008_6602;
/// FS_IOC_FSGETXATTR, `_IOR('X', 31, struct fsxattr)`.
const GET_FS_XATTR: libc::c_ulong = 0x801c_581f;
/// FS_IOC_FSSETXATTR, `_IOW('X', 32, struct fsxattr)`.
const SET_FS_XATTR: libc::c_ulong = 0x401c_5820;

#[repr(C)]
#[derive(Default)]
struct RawFsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    padding: [u8; 8],
}

fn call<T>(file: impl AsFd, request: libc::c_ulong, value: &mut T) -> Result<(), Errno> {
    // SAFETY: each request below is given what the kernel moves for it: an `int`, or the structure.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), request as _, std::ptr::from_mut(value)) })?;
    Ok(())
}

/// FS_IOC_GETFLAGS.
pub(crate) fn file_flags(file: impl AsFd) -> Result<u32, Errno> {
    let mut flags = 0u32;
    call(file, GET_FLAGS, &mut flags)?;
    Ok(flags)
}

/// FS_IOC_SETFLAGS.
pub(crate) fn set_file_flags(file: impl AsFd, mut flags: u32) -> Result<(), Errno> {
    call(file, SET_FLAGS, &mut flags)
}

/// FS_IOC_FSGETXATTR.
pub(crate) fn fs_xattr(file: impl AsFd) -> Result<FsXattr, Errno> {
    let mut raw = RawFsXattr::default();
    call(file, GET_FS_XATTR, &mut raw)?;
    Ok(FsXattr {
        xflags: raw.xflags,
        extsize: raw.extsize,
        nextents: raw.nextents,
        projid: raw.projid,
        cowextsize: raw.cowextsize,
    })
}

/// FS_IOC_FSSETXATTR.
pub(crate) fn set_fs_xattr(file: impl AsFd, value: FsXattr) -> Result<(), Errno> {
    let mut raw = RawFsXattr {
        xflags: value.xflags,
        extsize: value.extsize,
        nextents: value.nextents,
        projid: value.projid,
        cowextsize: value.cowextsize,
        padding: [0; 8],
    };
    call(file, SET_FS_XATTR, &mut raw)
}
