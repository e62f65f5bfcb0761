//! System calls that no library here wraps, or that the C library makes in a way the filter does not let through.
#![expect(unsafe_code, reason = "raw system calls")]

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    num::NonZeroUsize,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    slice,
};

use airlockfs_ipc::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

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

/// Memory of zeros, `length` bytes from the start of a page, for the rest of the process's life. It takes memory of
/// the host only once it is written. Not malloc's: its heap would grow by all of it, and the first byte that is
/// written behind it would take a huge page.
///
/// # Errors
/// ENOMEM: a limit of the process.
pub(crate) fn zeroed(length: NonZeroUsize) -> nix::Result<&'static mut [u8]> {
    let (access, flags) = (
        ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        MapFlags::MAP_PRIVATE,
    );
    // SAFETY: the kernel chooses the address, so nothing is replaced.
    let memory = unsafe { mmap_anonymous(None, length, access, flags) }?;
    // SAFETY: the mapping is as long, every byte has a value, nobody else knows it, and it is never unmapped.
    Ok(unsafe { slice::from_raw_parts_mut(memory.as_ptr().cast(), length.get()) })
}

/// A duplicate of a descriptor that a crate tells the number of. For the start, before the filter.
pub(crate) fn duplicate(descriptor: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: it is open as long as its owner lives, which is borrowed here.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor.as_raw_fd()) };
    borrowed.try_clone_to_owned()
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
