//! The vhost-user virtio-fs device (virtio 1.3, 5.11): features, config space, and a thread for each virtqueue.
//! Queue 0 is the high-priority one.

use std::{
    io,
    os::fd::AsRawFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{
            AtomicBool, AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use airlockfs_ipc::ring::SupervisorLane;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon};
use virtio_bindings::bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventNotifier},
};

use crate::{
    chain::DESCRIPTORS_MAX,
    data::Port,
    exit_event::ExitEvent,
    guest_memory::{Memory, SharedMemory},
    queue::{Queue, Scratch, Vring},
    shared::Shared,
};

/// The longest tag, in bytes (`struct virtio_fs_config`).
pub(crate) const TAG_MAX: usize = 36;

/// Events of a queue's thread besides its kick; the numbers up to the number of queues are vhost-user-backend's.
const DOORBELL: u16 = 1000;
const BELL: u16 = 1001;

/// The device, for all connections of the daemon.
pub(crate) struct Device {
    shared: Arc<Shared>,
    seats: Vec<Seat>,
    /// Given only with `--tag`: QEMU has its own and warns of a device that offers a config space.
    tag: Option<[u8; TAG_MAX]>,
    /// The connection came as far as SET_FEATURES.
    negotiated: AtomicBool,
}

/// A queue's place at its thread.
struct Seat {
    queue: Mutex<(Queue, Scratch)>,
    /// Notified when the queue has no request in flight and somebody waits for that.
    idle: Condvar,
    waiting: AtomicU32,
    port: Arc<Port>,
    exit: ExitEvent,
}

impl Device {
    /// The device whose queues use `lanes`, in that order.
    pub(crate) fn new(
        shared: Arc<Shared>,
        lanes: Vec<SupervisorLane>,
        tag: Option<[u8; TAG_MAX]>,
    ) -> io::Result<Self> {
        let mut seats = Vec::new();
        for (number, lane) in lanes.into_iter().enumerate() {
            let port = Arc::new(Port::new()?);
            let queue = Queue::new(number, shared.clone(), lane, port.clone());
            seats.push(Seat {
                queue: Mutex::new((queue, Scratch::new())),
                idle: Condvar::new(),
                waiting: AtomicU32::new(0),
                port,
                exit: ExitEvent::new()?,
            });
        }
        Ok(Self {
            shared,
            seats,
            tag,
            negotiated: AtomicBool::new(false),
        })
    }

    /// Whether the connection that just ended was a VMM's. Who only looks if somebody listens (another daemon on the
    /// same path, a launcher that waits for the socket) sets no features.
    pub(crate) fn take_negotiated(&self) -> bool {
        self.negotiated.swap(false, Relaxed)
    }

    /// Has each queue's thread woken by its lane and its data threads, too.
    pub(crate) fn register(&self, daemon: &VhostUserDaemon<Arc<Self>>) -> io::Result<()> {
        for (seat, handler) in self.seats.iter().zip(daemon.get_epoll_handlers()) {
            let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
            let doorbell = seat.lock().0.lane.doorbell().as_raw_fd();
            handler.register_listener(doorbell, events, DOORBELL.into())?;
            handler.register_listener(seat.port.bell().as_raw_fd(), events, BELL.into())?;
        }
        Ok(())
    }

    /// Wakes all queues' threads.
    pub(crate) fn wake(&self) {
        for seat in &self.seats {
            seat.port.ring();
        }
    }

    /// Waits until no queue has a request in flight; false if that takes longer than `limit`.
    pub(crate) fn wait_idle(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        self.seats.iter().all(|seat| seat.wait_idle(Some(deadline)))
    }

    /// The VMM went, and the queues' threads with it: waits for what is still in flight, for nobody, so that the next
    /// connection begins with empty lanes. Ends early when the boundary failed.
    pub(crate) fn abandon(&self) {
        self.shared.session.rings_stopped();
        // Answers must not reach memory that another VMM maps by then.
        if let Ok(guard) = self.shared.memory.lock() {
            guard.replace(Memory::new());
        }
        for seat in &self.seats {
            let mut place = seat.lock();
            let (queue, scratch) = &mut *place;
            loop {
                let memory = self.shared.memory.memory();
                queue.collect(&memory, scratch);
                queue.discard();
                if queue.must_finish() == 0 || self.shared.failure.is_set() {
                    break;
                }
                queue.sleep();
            }
        }
    }
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, (Queue, Scratch)> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, unless its thread holds it until `deadline`: what it does may never return, where a file's data is on a
    /// disk or a server that does not answer.
    fn lock_until(&self, deadline: Instant) -> Option<MutexGuard<'_, (Queue, Scratch)>> {
        loop {
            match self.queue.try_lock() {
                Ok(place) => return Some(place),
                Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }

    fn wait_idle(&self, deadline: Option<Instant>) -> bool {
        self.waiting.fetch_add(1, SeqCst);
        let place = match deadline {
            None => Some(self.lock()),
            Some(deadline) => self.lock_until(deadline),
        };
        let Some(mut place) = place else {
            self.waiting.fetch_sub(1, SeqCst);
            return false;
        };
        while place.0.must_finish() > 0 {
            place = match deadline {
                None => self.idle.wait(place).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.idle
                        .wait_timeout(place, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        self.waiting.fetch_sub(1, SeqCst);
        place.0.must_finish() == 0
    }
}

impl Queue {
    /// Sleeps until the lane or a data thread has a completion.
    pub(crate) fn sleep(&mut self) {
        if self.port.before_sleep() {
            if self.lane.before_sleep(true) {
                let mut wakers =
                    [self.lane.doorbell(), self.port.bell()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                // Whatever ends it, the caller looks again.
                let _ = poll(&mut wakers, PollTimeout::NONE);
                // Outside of an edge-triggered epoll(7) they have to be emptied.
                for waker in [self.lane.doorbell(), self.port.bell()] {
                    let _ = nix::unistd::read(waker, &mut [0; 8]);
                }
                self.lane.after_sleep();
            }
            self.port.after_sleep();
        }
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.seats.len()
    }

    fn max_queue_size(&self) -> usize {
        DESCRIPTORS_MAX
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        use VhostUserProtocolFeatures as Feature;
        let features =
            Feature::MQ | Feature::REPLY_ACK | Feature::RESET_DEVICE | Feature::CONFIGURE_MEM_SLOTS;
        if self.tag.is_some() {
            features | Feature::CONFIG
        } else {
            features
        }
    }

    fn acked_features(&self, _features: u64) {
        self.negotiated.store(true, Relaxed);
    }

    fn reset_device(&self) {
        self.shared.session.rings_stopped();
        for seat in &self.seats {
            seat.wait_idle(None);
        }
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The queues read it from their vring.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = self.tag.unwrap_or([0; TAG_MAX]).to_vec();
        let request_queues = self.seats.len().saturating_sub(1);
        config.extend((request_queues as u32).to_le_bytes());
        let end = offset.saturating_add(size) as usize;
        // Nothing at all for what is out of bounds: the front end sees an error.
        config.get(offset as usize..end).unwrap_or_default().to_vec()
    }

    fn update_memory(&self, _memory: SharedMemory) -> io::Result<()> {
        // The one given to the daemon, which the queues read anew each round.
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.seats.len()).map(|number| 1 << number).collect()
    }

    fn exit_event(&self, thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.seats.get(thread_index)?.exit.ends().ok()
    }

    fn stop_vring(&self, queue_index: u32) -> io::Result<()> {
        self.shared.session.rings_stopped();
        if let Some(seat) = self.seats.get(queue_index as usize) {
            seat.wait_idle(None);
        }
        Ok(())
    }

    fn handle_event(
        &self,
        _event: u16,
        _events: EventSet,
        vrings: &[Vring],
        thread_id: usize,
    ) -> io::Result<()> {
        if let (Some(seat), [vring]) = (self.seats.get(thread_id), vrings) {
            let mut place = seat.lock();
            let (queue, scratch) = &mut *place;
            queue.run(vring, scratch);
            if seat.waiting.load(SeqCst) > 0 && queue.must_finish() == 0 {
                seat.idle.notify_all();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use airlockfs_ipc::ring::SupervisorRing;

    use super::*;
    use crate::shared::tests::OPTIONS;

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
        assert_eq!(device.get_config(0, 40), expected);
        assert_eq!(device.get_config(36, 4), [4, 0, 0, 0]);
        for (offset, size) in [(0, 41), (40, 1), (u32::MAX, 1), (1, u32::MAX)] {
            assert!(device.get_config(offset, size).is_empty(), "{offset} {size}");
        }
    }
}
