//! The vhost-user virtio-fs device (virtio 1.3, 5.11): features, config space, and seats for the virtqueues. Queue 0 is
//! the high-priority one, which has a seat for itself.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use airlockfs_ipc::{ProtocolError, ring::SupervisorLane};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

use crate::{
    backend::{Seat, Vring},
    crew::Newcomer,
    fault,
    guest_memory::Memory,
    mappings::Mappings,
    shared::{FailureReason, Shared},
    wait::Waiter,
};

/// The longest tag, in bytes (`struct virtio_fs_config`).
pub(crate) const TAG_MAX: usize = 36;
/// How often a thread that does not come to rest is looked at.
const NUDGE: Duration = Duration::from_millis(100);
/// How long a VMM that stops a ring, or went, is kept waiting for what is in flight. What takes longer hangs, for all that is
/// known, and a VMM that waits does nothing else meanwhile: its monitor does not answer, its guest stands still.
const STOP: Duration = Duration::from_secs(2);
/// The same for the next rings that are stopped within a time, when something hung in one.
const STOP_AGAIN: Duration = Duration::from_millis(200);
const STOPS_TOGETHER: Duration = Duration::from_secs(10);
/// How long a reset of the worker may take, which closes what was open.
const RESET: Duration = Duration::from_secs(5);

/// The device, for all connections of the daemon.
pub(crate) struct Device {
    shared: Arc<Shared>,
    /// The high-priority queue's first.
    seats: Vec<Seat>,
    request_queues: usize,
    /// Tells the watching thread when queues may be idle.
    idle: Waiter,
    /// Tells the main thread.
    rests: Waiter,
    /// When requests of a ring were last given up because they hung.
    gave_up: Mutex<Option<Instant>>,
    /// Given only with `--tag`: QEMU has its own and warns of a device that offers a config space.
    tag: Option<[u8; TAG_MAX]>,
    /// What is mapped of guest memory.
    mappings: Arc<Mappings>,
    /// Whom the connection thread tells that it has begun.
    newcomer: Mutex<Option<Newcomer>>,
    /// The connection is a VMM's.
    claimed: AtomicBool,
    /// It came as far as SET_FEATURES.
    negotiated: AtomicBool,
}

impl Device {
    /// The device. The high-priority queue uses the first of the `lanes`, the request queues the others by turns.
    pub(crate) fn new(
        shared: Arc<Shared>,
        lanes: Vec<SupervisorLane>,
        request_queues: usize,
        tag: Option<[u8; TAG_MAX]>,
    ) -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (idle, rests) = (Waiter::new()?, Waiter::new()?);
        idle.add_edge(&bell, 0)?;
        rests.add_edge(&bell, 0)?;
        let bell = Arc::new(bell);
        let turns = lanes.len().saturating_sub(1).max(1);
        let seats = lanes
            .into_iter()
            .enumerate()
            .map(|(seat, lane)| {
                let numbers = match seat {
                    0 => vec![0],
                    first => (first..=request_queues).step_by(turns).collect(),
                };
                Seat::new(numbers, shared.clone(), lane, bell.clone())
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            shared,
            seats,
            request_queues,
            idle,
            rests,
            gave_up: Mutex::default(),
            tag,
            mappings: Arc::default(),
            newcomer: Mutex::default(),
            claimed: AtomicBool::new(false),
            negotiated: AtomicBool::new(false),
        })
    }

    /// Groups of queues, each with its thread.
    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Whom the connection thread tells that it has begun.
    pub(crate) fn expect(&self, newcomer: Newcomer) {
        *self.newcomer() = Some(newcomer);
    }

    /// The connection thread has begun.
    pub(crate) fn greet(&self) {
        if let Some(newcomer) = self.newcomer().take() {
            newcomer(Ok(()));
        }
    }

    fn newcomer(&self) -> MutexGuard<'_, Option<Newcomer>> {
        self.newcomer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many virtqueues there are.
    pub(crate) const fn queues(&self) -> usize {
        1 + self.request_queues
    }

    /// The virtqueue of this number: its seat and its place there.
    pub(crate) fn queue(&self, number: usize) -> Option<(&Seat, usize)> {
        let turns = self.seats.len().saturating_sub(1);
        let (seat, place) = match number.checked_sub(1) {
            None => (0, 0),
            Some(request) => (1 + request.checked_rem(turns)?, request.checked_div(turns)?),
        };
        let seat = self.seats.get(seat)?;
        (place < seat.queues()).then_some((seat, place))
    }

    /// All virtqueues' rings, each with its seat.
    pub(crate) fn vrings(&self) -> impl Iterator<Item = (&Seat, &Vring)> {
        let of = |seat| Seat::vrings(seat).iter().map(move |vring| (seat, vring));
        self.seats.iter().flat_map(of)
    }

    /// Whoever is connected claimed the device or set something of it.
    pub(crate) fn set_claimed(&self) {
        self.claimed.store(true, Relaxed);
    }

    /// Whether the connection came as far as SET_FEATURES.
    pub(crate) fn is_negotiated(&self) -> bool {
        self.negotiated.load(Relaxed)
    }

    /// The VMM said which features it uses: it is about to drive the device.
    pub(crate) fn set_negotiated(&self) {
        self.negotiated.store(true, Relaxed);
    }

    /// Whether the connection that just ended was a VMM's. Who only looks if somebody listens (another daemon on the
    /// same path, a launcher that waits for the socket) says nothing, or asks and sets nothing.
    pub(crate) fn take_claimed(&self) -> bool {
        self.negotiated.store(false, Relaxed);
        self.claimed.swap(false, Relaxed)
    }

    /// What is mapped of guest memory, for all connections.
    pub(crate) fn mappings(&self) -> &Arc<Mappings> {
        &self.mappings
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
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            match self.idle.wait(Some(left.min(NUDGE))) {
                Ok(0) => self.seats.iter().for_each(Seat::nudge),
                Ok(_) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// The VMM stopped the ring at this place: waits for what it has in flight, but not for what hangs.
    pub(crate) fn stopped(&self, seat: &Seat, place: usize) {
        self.shared.session.rings_stopped();
        self.stop(seat, place);
    }

    fn stop(&self, seat: &Seat, place: usize) {
        let mut gave_up = self.gave_up.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // A VMM stops one ring after the other.
        let again = gave_up.is_some_and(|last| now.duration_since(last) < STOPS_TOGETHER);
        let limit = if again { STOP_AGAIN } else { STOP };
        if !seat.wait_stopped(&self.rests, place, now + limit) {
            *gave_up = Some(Instant::now());
        }
    }

    /// The VMM reset the device and disabled the rings: waits for what is in flight, and ends the session.
    pub(crate) fn reset(&self) {
        for seat in &self.seats {
            (0..seat.queues()).for_each(|place| self.stop(seat, place));
        }
        self.end_session();
    }

    /// The VMM went: nothing is done in its memory any more. Waits for what is in flight, for nobody, and ends the session.
    /// Then everything is as it was before the first VMM came, in this process and in the worker, but for calls that hang: what
    /// they bring when they return is given back. Ends early when the boundary failed.
    pub(crate) fn abandon(&self) {
        self.vrings().for_each(|(_, vring)| vring.stop());
        // Answers must not reach memory that another VMM maps by then.
        let guard = self.shared.memory.lock();
        guard
            .unwrap_or_else(PoisonError::into_inner)
            .replace(Memory::new());
        let until = Instant::now() + STOP;
        self.seats
            .iter()
            .for_each(|seat| seat.abandon(&self.rests, until));
        self.end_session();
        self.mappings.sweep();
        fault::forget();
    }

    /// Drops all that the guest has here and in the worker: nodes, handles, locks it holds or waits for, donated files,
    /// what INIT agreed on, FORGETs on their way. No ring is used meanwhile.
    fn end_session(&self) {
        let rests = &self.rests;
        let until = Instant::now() + STOP;
        self.seats.iter().for_each(|seat| seat.discard(rests, until));
        // What is in flight may still open files or begin a session.
        self.seats.iter().for_each(|seat| seat.wait_drained(rests, until));
        let used = self.shared.session.end();
        if let Some(handles) = &self.shared.handles {
            handles.clear();
        }
        // This ends waits for locks, too.
        let until = Instant::now() + RESET;
        if used
            && !self.shared.failure.is_set()
            && let Some(seat) = self.seats.first()
            && !seat.reset_worker(rests, until)
        {
            let full = ProtocolError("waits for locks that do not end");
            self.shared.failure.set(FailureReason::Violation(full));
        }
        let mut clean = true;
        for seat in &self.seats {
            clean &= seat.clean(rests, until);
        }
        if !clean {
            // It may not be reset: before the next session it is.
            self.shared.session.worker_may_hold();
        }
    }

    /// The virtio features that are offered.
    pub(crate) fn offered_features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    /// The vhost-user protocol features that are offered.
    pub(crate) fn offered_protocol_features(&self) -> VhostUserProtocolFeatures {
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
    pub(crate) fn config_space(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = self.tag.unwrap_or([0; TAG_MAX]).to_vec();
        config.extend((self.request_queues as u32).to_le_bytes());
        let end = offset.saturating_add(size) as usize;
        config.get(offset as usize..end).unwrap_or_default().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use airlockfs_ipc::ring::SupervisorRing;

    use super::*;
    use crate::{guest_memory::SharedMemory, shared::tests::OPTIONS};

    fn device(lanes: u16, request_queues: usize, tag: Option<[u8; TAG_MAX]>) -> Arc<Device> {
        let memory = SharedMemory::new(Memory::new());
        let shared = Arc::new(Shared::for_test(memory, true, OPTIONS));
        let ring = SupervisorRing::create(lanes, Duration::ZERO).unwrap();
        Arc::new(Device::new(shared, ring.lanes, request_queues, tag).unwrap())
    }

    #[test]
    fn the_config_space_is_the_tag_and_the_number_of_request_queues() {
        let device = device(2, 4, Some([b'x'; TAG_MAX]));
        let mut expected = vec![b'x'; TAG_MAX];
        expected.extend(4u32.to_le_bytes());
        assert_eq!(device.config_space(0, 40), expected);
        assert_eq!(device.config_space(36, 4), [4, 0, 0, 0]);
        for (offset, size) in [(0, 41), (40, 1), (u32::MAX, 1), (1, u32::MAX)] {
            assert!(device.config_space(offset, size).is_empty(), "{offset} {size}");
        }
    }

    #[test]
    fn every_queue_has_one_place_and_the_high_priority_one_a_seat_for_itself() {
        for lanes in 2..=9 {
            for request_queues in usize::from(lanes) - 1..=8 {
                let device = device(lanes, request_queues, None);
                let places: Vec<_> = (0..device.queues())
                    .map(|number| device.queue(number).unwrap())
                    .map(|(seat, place)| (&raw const *seat, place))
                    .collect();
                let all = device.seats.iter().flat_map(|seat| {
                    let places = 0..seat.queues();
                    places.map(move |place| (&raw const *seat, place))
                });
                let mut all: Vec<_> = all.collect();
                assert_eq!(places[0], all[0]);
                assert_eq!(device.seats[0].queues(), 1);
                all.sort_unstable();
                let mut sorted = places;
                sorted.sort_unstable();
                assert_eq!(sorted, all, "{lanes} lanes, {request_queues} request queues");
                let masks = device.seats.iter().map(Seat::mask);
                let together = masks.fold((0, 0), |(any, sum), mask| (any | mask, sum + mask));
                assert_eq!(together, (u64::MAX >> (64 - device.queues()), together.0));
                assert!(device.queue(device.queues()).is_none());
                assert!(device.queue(usize::MAX).is_none());
            }
        }
    }
}
