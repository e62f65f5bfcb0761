//! How the channels of orders get in: the supervisor inherits both, and hands the worker its own beside the ring's
//! descriptors, so that the worker is started exactly as in production.
#![expect(unsafe_code, reason = "an inherited descriptor is known by its number only")]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use airlockfs_ipc::channel::Channel;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::trap::survive_traps;

/// The variable that tells the number of the supervisor's channel.
pub const SUPERVISOR: &str = "AIRLOCKFS_BREACH_SUPERVISOR";
/// The same for the worker's.
pub const WORKER: &str = "AIRLOCKFS_BREACH_WORKER";

/// The channel whose number stands in a variable of the environment. Call it once for each, before confinement.
pub fn inherited(variable: &str) -> Option<Channel> {
    let number = std::env::var(variable).ok()?.parse().ok()?;
    // SAFETY: only looked at to see whether it is open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    survive_traps();
    // SAFETY: it is open, and whoever started this process put it there for this call alone.
    Some(Channel::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// The worker's channel, if it came last and beyond the `expected` number of descriptors.
pub fn handed_over(descriptors: &mut Vec<OwnedFd>, expected: usize) -> Option<Channel> {
    if descriptors.len() <= expected {
        return None;
    }
    survive_traps();
    descriptors.pop().map(Channel::from)
}
