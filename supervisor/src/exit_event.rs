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
mod tests {
    use std::sync::Arc;

    use vhost::vhost_user::message::VhostUserProtocolFeatures;
    use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock};
    use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
    use vmm_sys_util::epoll::EventSet;

    use super::*;

    type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

    /// One queue that does nothing.
    struct Idle(ExitEvent);

    impl VhostUserBackend for Idle {
        type Bitmap = ();
        type Vring = VringRwLock;

        fn num_queues(&self) -> usize {
            1
        }

        fn max_queue_size(&self) -> usize {
            1
        }

        fn features(&self) -> u64 {
            0
        }

        fn protocol_features(&self) -> VhostUserProtocolFeatures {
            VhostUserProtocolFeatures::empty()
        }

        fn set_event_idx(&self, _enabled: bool) {}

        fn update_memory(&self, _memory: Memory) -> io::Result<()> {
            Ok(())
        }

        fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
            self.0.ends().ok()
        }

        fn handle_event(&self, _: u16, _: EventSet, _: &[VringRwLock], _: usize) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_event_ends_a_connection_and_is_still_ours_for_the_next() {
        let back_end = Arc::new(Idle(ExitEvent::new().unwrap()));
        for _connection in 0..3 {
            let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
            // Its end waits for the queue's thread, which the event ends.
            drop(VhostUserDaemon::new("idle".to_owned(), back_end.clone(), memory).unwrap());
            let ExitEvent(event) = &back_end.0;
            assert!(
                event.write(1).is_ok() && event.read().is_ok(),
                "closed by its user"
            );
        }
    }
}
