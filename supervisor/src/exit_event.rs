//! The event that ends a queue's thread when its connection is over.
#![expect(
    unsafe_code,
    reason = "vhost-user-backend takes events as numbers and never closes them"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use vmm_sys_util::event::{EventConsumer, EventNotifier};

/// One for each queue, used again from connection to connection.
pub(crate) struct ExitEvent(EventFd);

impl ExitEvent {
    /// Not yet signalled.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?))
    }

    /// Its two ends for a new connection, not signalled. The consumer is for `VringEpollHandler::new` alone, which
    /// turns it into a bare number and registers that, so that it is never closed; it stays ours.
    pub(crate) fn ends(&self) -> io::Result<(EventConsumer, EventNotifier)> {
        // Empty already, unless an earlier connection ended.
        let _ = self.0.read();
        let notifier = self.0.as_fd().try_clone_to_owned()?;
        // SAFETY: a fresh duplicate, given away.
        let notifier = unsafe { EventNotifier::from_raw_fd(notifier.into_raw_fd()) };
        // SAFETY: the descriptor is open as long as `self`, which outlives the connection; the consumer's only user
        // gives up its ownership at once (see above; the test below notices if that changes).
        let consumer = unsafe { EventConsumer::from_raw_fd(self.0.as_raw_fd()) };
        Ok((consumer, notifier))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    impl ExitEvent {
        /// Whether our descriptor is still the event it was.
        pub(crate) fn is_intact(&self) -> bool {
            self.0.write(1).is_ok() && self.0.read().is_ok()
        }
    }
}
