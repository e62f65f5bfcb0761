//! System calls that nix has no wrapper for: what a file server calls, for the plain limit.
#![allow(unsafe_code, reason = "statx and the xattr calls have no safe wrapper in nix")]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;

/// statx(2) of a name below a directory, or of the descriptor itself for an empty name; not following links.
pub(super) fn statx(dir: BorrowedFd<'_>, name: &CStr) -> Result<u64> {
    let mut stat = MaybeUninit::<libc::statx>::uninit();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    // SAFETY: the name ends with a NUL, and the kernel writes at most one structure where there is room for it.
    let result = unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), flags, mask, stat.as_mut_ptr()) };
    Errno::result(result).context("statx")?;
    // SAFETY: the call succeeded, so the structure is filled in; every bit pattern is valid in it.
    Ok(unsafe { stat.assume_init() }.stx_size)
}

/// fgetxattr(2).
pub(super) fn get_xattr(file: BorrowedFd<'_>, name: &CStr, value: &mut [u8]) -> Result<usize> {
    // SAFETY: the name ends with a NUL, and the kernel writes at most `value.len()` bytes to `value`.
    let len = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    Ok(Errno::result(len).context("fgetxattr")? as usize)
}

/// setxattr(2).
pub(super) fn set_xattr(path: &Path, name: &CStr, value: &[u8]) -> Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both strings end with a NUL, and the kernel reads `value.len()` bytes from `value`.
    let result = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).context("setxattr")?;
    Ok(())
}
