//! The vhost-user back end, on the crate `vhost-user-backend`.
//!
//! The crate's threads are started before the system call filter: one for each group of queues, which waits for its events
//! ([`Seat`]), and one that carries out vhost-user messages. The VMM does not speak to that thread. The main thread reads what
//! it says ([`Connection`]), checks it, and passes it on through a socket of our own ([`Link`]). So one VMM after another is
//! served by the same threads, under one filter.
//!
//! The crate never holds a descriptor that the VMM gave for events ([`Vring`]): it would read a kick, which may wait for
//! ever, and end a queue's thread when that fails.

mod connection;
mod link;
mod memory;
mod rest;
mod seat;
mod vring;

use std::{io, sync::Arc};

use airlockfs_options::REQUEST_QUEUES_MAX;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon};
use vmm_sys_util::epoll::EventSet;

use crate::{chain::DESCRIPTORS_MAX, crew::Crew, device::Device, guest_memory::SharedMemory};

pub(crate) use self::{connection::Connection, link::Link, seat::Seat, vring::Vring};

/// Most entries of a ring, a power of two.
pub(crate) const MAX_QUEUE_SIZE: u16 = DESCRIPTORS_MAX as u16;
const _: () = assert!(MAX_QUEUE_SIZE.is_power_of_two() && MAX_QUEUE_SIZE as usize == DESCRIPTORS_MAX);

/// Events of a queue's thread besides kicks, whose numbers are those of the rings. The crate has the next one for itself.
const DOORBELL: u64 = 16;
const BELL: u64 = 17;
const _: () = assert!(DOORBELL > 1 + REQUEST_QUEUES_MAX as u64);

/// Starts the crate's threads for the device, whose guest memory appears in `memory`: gives the way to the one that carries
/// out messages.
pub(crate) fn start(
    device: &Arc<Device>,
    memory: SharedMemory,
    crew: &mut Crew,
) -> io::Result<&'static Link> {
    let daemon = VhostUserDaemon::new("vhost-user".to_owned(), device.clone(), memory);
    let mut daemon = daemon.map_err(|error| io::Error::other(error.to_string()))?;
    for (seat, thread) in device.seats().iter().zip(daemon.get_epoll_handlers()) {
        seat.listen(&thread, crew.newcomer())?;
    }
    device.expect(crew.newcomer());
    let link = Link::start(&mut daemon, device.offered_protocol_features())?;
    // The threads live as long as the process. To drop the daemon is to wait for their end; to drop the link ends one of them,
    // by calls that the filter does not allow.
    std::mem::forget(daemon);
    Ok(Box::leak(Box::new(link)))
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.queues()
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE.into()
    }

    fn features(&self) -> u64 {
        // The connection thread is here.
        self.greet();
        self.offered_features()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.offered_protocol_features()
    }

    fn acked_features(&self, _features: u64) {
        self.set_negotiated();
    }

    fn reset_device(&self) {
        self.reset();
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The rings know. Those that were enabled before they did are looked at anew once the message is carried out.
    }

    fn update_memory(&self, _memory: SharedMemory) -> io::Result<()> {
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        self.seats().iter().map(Seat::mask).collect()
    }

    fn stop_vring(&self, index: u32) -> io::Result<()> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some((seat, place)) = self.queue(index) {
            self.stopped(seat, place);
        }
        Ok(())
    }

    fn handle_event(&self, _event: u16, _set: EventSet, vrings: &[Vring], thread: usize) -> io::Result<()> {
        // An error would end the thread.
        if let Some(seat) = self.seats().get(thread) {
            seat.serve(vrings);
        }
        Ok(())
    }
}
