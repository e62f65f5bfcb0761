//! A system call that the C library makes in a way the filter does not let through.
#![expect(unsafe_code, reason = "a raw system call fills a structure")]

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd},
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
