//! The descriptor that this process is started with.
#![expect(unsafe_code, reason = "an inherited descriptor is known by its number only")]

use std::os::fd::{FromRawFd, OwnedFd};

use airlockfs_ipc::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Number of the control channel's descriptor.
const CONTROL: i32 = 3;

/// The control channel. Call it once. EBADF if it is not there.
pub(crate) fn control() -> Result<OwnedFd, Errno> {
    // SAFETY: only looked at to see whether it is open.
    let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(CONTROL) };
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(CONTROL) })
}
