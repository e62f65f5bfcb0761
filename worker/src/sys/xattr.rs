//! Extended attributes by path: `path` is a [`super::ProcPath`], so the last link followed is the one to the
//! descriptor's own inode, be it a symbolic link.
#![expect(unsafe_code, reason = "the calls take pointers to strings and buffers")]

use std::ffi::CStr;

use airlockfs_ipc::Errno;

use super::check;

/// getxattr(2): bytes written to `value`, or with an empty one how long the value is.
pub(crate) fn get_xattr(path: &CStr, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: both strings are terminated, `value` has the room that is said.
    check(unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    } as i64)
}

/// setxattr(2).
pub(crate) fn set_xattr(path: &CStr, name: &CStr, value: &[u8], flags: i32) -> Result<(), Errno> {
    // SAFETY: both strings are terminated, `value` has the length that is said.
    check(unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags,
        )
    })?;
    Ok(())
}

/// listxattr(2): bytes written to `list`, or with an empty one how long the list is.
pub(crate) fn list_xattrs(path: &CStr, list: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the string is terminated, `list` has the room that is said.
    check(unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) } as i64)
}

/// removexattr(2).
pub(crate) fn remove_xattr(path: &CStr, name: &CStr) -> Result<(), Errno> {
    // SAFETY: both strings are terminated.
    check(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) })?;
    Ok(())
}
