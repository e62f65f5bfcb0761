//! System calls that no library here wraps, or that the C library makes in a way the filter does not let through.
#![expect(unsafe_code, reason = "raw system calls")]

use std::{
    alloc::{Layout, alloc_zeroed},
    ffi::CString,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use airlockfs_ipc::Errno;

/// fstat(2) itself. glibc 2.33 to 2.38 asks newfstatat(2) instead, which takes a path.
pub(crate) fn fstat(descriptor: impl AsFd) -> Result<libc::stat, Errno> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    let number = descriptor.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the kernel writes no more than the structure.
    let result = unsafe { libc::syscall(libc::SYS_fstat, number, status.as_mut_ptr()) };
    if result == 0 {
        // SAFETY: success says that the kernel filled it; on 64-bit Linux its layout is the C library's.
        Ok(unsafe { status.assume_init() })
    } else {
        Err(Errno::last())
    }
}

/// So many bytes of zeros, which take memory of the host only once they are written.
///
/// # Errors
/// ENOMEM: a limit of the process. `vec![0; length]` would end it.
pub(crate) fn zeroed(length: usize) -> nix::Result<Vec<u8>> {
    let layout = Layout::array::<u8>(length).map_err(|_| nix::Error::ENOMEM)?;
    if length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(nix::Error::ENOMEM);
    }
    // SAFETY: the global allocator gave this memory for this layout, and each byte has a value.
    Ok(unsafe { Vec::from_raw_parts(memory, length, length) })
}

/// Takes an exclusive lock on an open file (flock(2)), which lives as long as the file is open. EAGAIN: somebody has it. For
/// the start, before the filter.
pub(crate) fn try_lock(file: impl AsFd) -> nix::Result<()> {
    // SAFETY: numbers only; the descriptor is open.
    let result = unsafe { libc::flock(file.as_fd().as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    nix::Error::result(result).map(drop)
}

/// Removes a directory's default ACL (acl(5)), if it has one: what is made in it then has the permissions it is made with.
/// For the start, before the filter.
pub(crate) fn remove_default_acl(path: &Path) -> nix::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| nix::Error::EINVAL)?;
    // SAFETY: both strings are terminated and outlive the call.
    let result = unsafe { libc::removexattr(path.as_ptr(), c"system.posix_acl_default".as_ptr()) };
    match nix::Error::result(result) {
        Err(nix::Error::ENODATA | nix::Error::ENOTSUP) => Ok(()),
        result => result.map(drop),
    }
}
