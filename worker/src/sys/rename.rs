//! renameat2(2). glibc's function makes another call when there are no flags; this is always the one.
#![expect(unsafe_code, reason = "a raw system call with pointers to strings")]

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd},
};

use airlockfs_ipc::Errno;

use super::check;

/// Renames `from` to `to`, each a name in a directory.
pub(crate) fn rename(from: (impl AsFd, &CStr), to: (impl AsFd, &CStr), flags: u32) -> Result<(), Errno> {
    // SAFETY: both strings are terminated.
    check(unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from.0.as_fd().as_raw_fd(),
            from.1.as_ptr(),
            to.0.as_fd().as_raw_fd(),
            to.1.as_ptr(),
            flags,
        )
    })?;
    Ok(())
}
