//! Borrowed descriptors of types that only know raw ones, and waiting on them.
#![allow(unsafe_code, reason = "vmm-sys-util and vhost expose raw descriptors only")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The descriptor of a value that owns it, for as long as the value is borrowed.
pub fn borrow<T: AsRawFd>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner keeps the descriptor open, and it is borrowed for the result's lifetime.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

/// Waits until one of the descriptors is readable or hung up, or `millis` are over. Returns one
/// flag per descriptor.
pub fn wait<const N: usize>(fds: [BorrowedFd<'_>; N], millis: u16) -> [bool; N] {
    let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut polled, PollTimeout::from(millis)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => panic!("poll: {errno}"),
    }
    polled.map(|fd| fd.any().unwrap_or(false))
}
