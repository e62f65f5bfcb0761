//! The vhost-user virtio-fs device (virtio 1.3, 5.11): features, config space, and a seat for each virtqueue.
//! Queue 0 is the high-priority one.

use std::{
    io,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use airlockfs_ipc::ring::SupervisorLane;
use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

use crate::{backend::Seat, crew::Crew, guest_memory::Memory, shared::Shared, wait::Waiter};

/// The longest tag, in bytes (`struct virtio_fs_config`).
pub(crate) const TAG_MAX: usize = 36;
/// Room for what a queue's thread does, from the ring to the answer.
const STACK: usize = 2 << 20;

/// The device, for all connections of the daemon.
pub(crate) struct Device {
    shared: Arc<Shared>,
    seats: Vec<Seat>,
    /// Tells when queues may be idle.
    idle: Waiter,
    /// Given only with `--tag`: QEMU has its own and warns of a device that offers a config space.
    tag: Option<[u8; TAG_MAX]>,
    /// The connection came as far as SET_FEATURES.
    negotiated: AtomicBool,
}

impl Device {
    /// The device whose queues use `lanes`, in that order.
    pub(crate) fn new(
        shared: Arc<Shared>,
        lanes: Vec<SupervisorLane>,
        tag: Option<[u8; TAG_MAX]>,
    ) -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let idle = Waiter::new()?;
        idle.add_edge(&bell, 0)?;
        let bell = Arc::new(bell);
        let seats = lanes
            .into_iter()
            .enumerate()
            .map(|(number, lane)| Seat::new(number, shared.clone(), lane, bell.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            shared,
            seats,
            idle,
            tag,
            negotiated: AtomicBool::new(false),
        })
    }

    /// Starts a thread for each queue.
    pub(crate) fn start(self: &Arc<Self>, crew: &mut Crew) -> io::Result<()> {
        for number in 0..self.seats.len() {
            let device = self.clone();
            crew.start(&format!("queue {number}"), STACK, move || {
                if let Some(seat) = device.seats.get(number) {
                    seat.serve();
                }
            })?;
        }
        Ok(())
    }

    /// The queues.
    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// The VMM said which features it uses.
    pub(crate) fn set_negotiated(&self) {
        self.negotiated.store(true, Relaxed);
    }

    /// Whether the connection that just ended was a VMM's. Who only looks if somebody listens (another daemon on the
    /// same path, a launcher that waits for the socket) sets no features.
    pub(crate) fn take_negotiated(&self) -> bool {
        self.negotiated.swap(false, Relaxed)
    }

    /// Wakes all queues' threads.
    pub(crate) fn wake(&self) {
        for seat in &self.seats {
            seat.wake();
        }
    }

    /// Waits until no queue has a request in flight; false if that takes longer than `limit`. Called at the end only:
    /// from then on each queue tells.
    pub(crate) fn wait_idle(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.seats.iter().for_each(Seat::watch);
        while !self.seats.iter().all(Seat::is_idle) {
            let left = deadline.checked_duration_since(Instant::now());
            if left.is_none() || self.idle.wait(left).is_err() {
                return false;
            }
        }
        true
    }

    /// The VMM stopped a ring: waits for what it has in flight.
    pub(crate) fn stopped(&self, seat: &Seat) {
        self.shared.session.rings_stopped();
        seat.wait_idle();
    }

    /// The VMM reset the device and disabled the rings: waits for what is in flight.
    pub(crate) fn reset(&self) {
        self.shared.session.rings_stopped();
        self.seats.iter().for_each(Seat::wait_idle);
    }

    /// The VMM went: nothing is done in its memory any more, and the queues are as they were before it came.
    pub(crate) fn abandon(&self) {
        self.shared.session.rings_stopped();
        self.seats.iter().for_each(|seat| seat.vring.stop());
        // Answers must not reach memory that another VMM maps by then.
        let guard = self.shared.memory.lock();
        guard
            .unwrap_or_else(PoisonError::into_inner)
            .replace(Memory::new());
        self.seats.iter().for_each(Seat::abandon);
    }

    /// After [`Device::abandon`]: waits for what is still in flight, for nobody, so that the next connection begins with
    /// empty lanes. Ends early when the boundary failed.
    pub(crate) fn wait_abandoned(&self) {
        self.seats.iter().for_each(Seat::wait_abandoned);
    }

    /// The virtio features that are offered.
    pub(crate) fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    /// The vhost-user protocol features that are offered.
    pub(crate) fn protocol_features(&self) -> VhostUserProtocolFeatures {
        use VhostUserProtocolFeatures as Feature;
        let features =
            Feature::MQ | Feature::REPLY_ACK | Feature::RESET_DEVICE | Feature::CONFIGURE_MEM_SLOTS;
        if self.tag.is_some() {
            features | Feature::CONFIG
        } else {
            features
        }
    }

    /// `size` bytes of the config space from `offset` on; nothing at all for what is out of bounds: the front end sees
    /// an error.
    pub(crate) fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = self.tag.unwrap_or([0; TAG_MAX]).to_vec();
        let request_queues = self.seats.len().saturating_sub(1);
        config.extend((request_queues as u32).to_le_bytes());
        let end = offset.saturating_add(size) as usize;
        config.get(offset as usize..end).unwrap_or_default().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use airlockfs_ipc::ring::SupervisorRing;

    use super::*;
    use crate::{guest_memory::SharedMemory, shared::tests::OPTIONS};

    fn device(lanes: u16, tag: Option<[u8; TAG_MAX]>) -> Arc<Device> {
        let memory = SharedMemory::new(Memory::new());
        let shared = Arc::new(Shared::for_test(memory, true, OPTIONS));
        let ring = SupervisorRing::create(lanes, Duration::ZERO).unwrap();
        Arc::new(Device::new(shared, ring.lanes, tag).unwrap())
    }

    #[test]
    fn the_config_space_is_the_tag_and_the_number_of_request_queues() {
        let device = device(5, Some([b'x'; TAG_MAX]));
        let mut expected = vec![b'x'; TAG_MAX];
        expected.extend(4u32.to_le_bytes());
        assert_eq!(device.config(0, 40), expected);
        assert_eq!(device.config(36, 4), [4, 0, 0, 0]);
        for (offset, size) in [(0, 41), (40, 1), (u32::MAX, 1), (1, u32::MAX)] {
            assert!(device.config(offset, size).is_empty(), "{offset} {size}");
        }
    }
}
