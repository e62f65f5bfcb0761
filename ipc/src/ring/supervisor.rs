//! The supervisor's end of a lane.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
    time::Instant,
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{
    layout::{self, Announcement, BULK_BUFFERS, MAX_LANES, SLOTS},
    memory::{self, BulkBuffer, LaneMemory, MessageBuffer},
};
use crate::{
    Errno, Handle, ProtocolError,
    channel::{Attached, Channel, pair},
    message::{Reply, Request},
    poll::AdaptivePoll,
};

/// The ring as made by the supervisor: its own ends, and what the worker is given.
pub struct SupervisorRing {
    /// One for each lane.
    pub lanes: Vec<SupervisorLane>,
    /// For the worker.
    pub worker: WorkerEnds,
}

/// The descriptors that go to the worker beside [`crate::message::Start`]: the ring's memory, then for each lane the
/// supervisor's doorbell (an eventfd) and the worker's end of the donation channel.
pub struct WorkerEnds {
    memory: File,
    lanes: Vec<(OwnedFd, Channel)>,
}

impl WorkerEnds {
    /// In the order of [`crate::message::Start`].
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let lanes = self
            .lanes
            .iter()
            .flat_map(|(doorbell, channel)| [doorbell.as_fd(), channel.as_fd()]);
        std::iter::once(self.memory.as_fd()).chain(lanes).collect()
    }
}

impl SupervisorRing {
    /// Makes the memory, doorbells and donation channels of `lanes` lanes (1..=[`MAX_LANES`]). `poll` is each
    /// supervisor thread's longest look before sleeping.
    pub fn create(lanes: u16, poll: std::time::Duration) -> io::Result<Self> {
        if lanes == 0 || lanes > MAX_LANES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let memory = memory::create(lanes)?;
        let mut ring = Self {
            lanes: Vec::new(),
            worker: WorkerEnds {
                memory,
                lanes: Vec::new(),
            },
        };
        for index in 0..lanes {
            let doorbell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
            let (channel, worker_channel) = pair()?;
            let their_doorbell = doorbell.as_fd().try_clone_to_owned()?;
            ring.worker.lanes.push((their_doorbell, worker_channel));
            ring.lanes.push(SupervisorLane {
                memory: LaneMemory::map(&ring.worker.memory, index)?,
                doorbell,
                channel,
                submitted: 0,
                completed: 0,
                unannounced: false,
                in_flight: [None; SLOTS],
                free_slots: (0..SLOTS as u16).rev().collect(),
                free_bulk: (0..BULK_BUFFERS as u16).rev().map(Bulk).collect(),
                outgoing: MessageBuffer::new(),
                poll: AdaptivePoll::new(poll),
                idle_poll: AdaptivePoll::new(poll * 2),
                idle: false,
                fell_asleep: None,
                strays: Vec::new(),
            });
        }
        Ok(ring)
    }
}

/// A request in flight, by its slot: 0..[`SLOTS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotId(u16);

impl SlotId {
    /// For a table with [`SLOTS`] places.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A bulk buffer that the supervisor has taken; give it back with [`SupervisorLane::give_bulk`].
#[derive(Debug)]
pub struct Bulk(u16);

/// Why a request was not submitted.
#[derive(Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// All slots are in flight: take completions first.
    Full,
    /// The message is longer than [`super::MESSAGE_MAX`]; the guest gets E2BIG or the like.
    TooLong,
}

#[derive(Clone, Copy)]
struct InFlight {
    bulk: Option<u16>,
}

/// One virtqueue's lane, owned by that queue's thread.
pub struct SupervisorLane {
    memory: Arc<LaneMemory>,
    doorbell: EventFd,
    channel: Channel,
    submitted: u32,
    completed: u32,
    unannounced: bool,
    in_flight: [Option<InFlight>; SLOTS],
    free_slots: Vec<u16>,
    free_bulk: Vec<Bulk>,
    outgoing: MessageBuffer,
    /// While the worker has something to answer.
    poll: AdaptivePoll,
    /// While it has not: then what comes, comes from elsewhere.
    idle_poll: AdaptivePoll,
    /// The last look was of the latter kind.
    idle: bool,
    fell_asleep: Option<Instant>,
    strays: Vec<(Handle, Option<OwnedFd>)>,
}

impl SupervisorLane {
    /// How many more requests can be submitted now.
    pub const fn free_slots(&self) -> usize {
        self.free_slots.len()
    }

    /// How many requests wait for their reply.
    pub const fn in_flight(&self) -> usize {
        SLOTS - self.free_slots.len()
    }

    /// Puts a request into a free slot, where an awake worker sees it at once; [`Self::flush`] wakes a sleeping one.
    pub fn submit(&mut self, request: &Request<'_>, bulk: Option<&Bulk>) -> Result<SlotId, SubmitError> {
        let slot = *self.free_slots.last().ok_or(SubmitError::Full)?;
        let length = self.outgoing.encode(request).ok_or(SubmitError::TooLong)?;
        self.free_slots.pop();
        let bulk = bulk.map(|bulk| bulk.0);
        if let Some(place) = self.in_flight.get_mut(slot as usize) {
            *place = Some(InFlight { bulk });
        }
        self.memory.copy_in(layout::message(slot), length, &self.outgoing);
        let announcement = Announcement {
            slot,
            bulk,
            length: length as u32,
        };
        self.memory
            .entry(layout::submission(self.submitted))
            .store(announcement.pack(), Relaxed);
        self.submitted = self.submitted.wrapping_add(1);
        self.memory.word(layout::SUBMITTED).store(self.submitted, Release);
        self.unannounced = true;
        Ok(SlotId(slot))
    }

    /// Wakes the worker if it sleeps and something was submitted since the last call. Once for a batch.
    pub fn flush(&mut self) {
        if !std::mem::take(&mut self.unannounced) {
            return;
        }
        // The store of SUBMITTED must be seen before this load, or the worker could fall asleep unseen.
        std::sync::atomic::fence(SeqCst);
        let asleep = self.memory.word(layout::WORKER_ASLEEP);
        if asleep.load(Relaxed) == 1 && asleep.swap(0, SeqCst) == 1 {
            memory::futex_wake(asleep);
        }
    }

    /// Whether a completion waits.
    pub fn has_completion(&self) -> bool {
        self.memory.word(layout::COMPLETED).load(Acquire) != self.completed
    }

    /// Takes the next completion: copied to `buffer`, decoded, checked to belong to a request in flight. Its slot is
    /// free again; the bulk buffer, if it had one, is still the caller's.
    pub fn next_completion<'a>(
        &mut self,
        buffer: &'a mut MessageBuffer,
    ) -> Result<Option<(SlotId, Reply<'a>)>, ProtocolError> {
        let announced = self
            .memory
            .word(layout::COMPLETED)
            .load(Acquire)
            .wrapping_sub(self.completed);
        if announced == 0 {
            return Ok(None);
        }
        if announced as usize > self.in_flight() {
            return Err(ProtocolError("more completions than requests"));
        }
        let word = self
            .memory
            .entry(layout::completion(self.completed))
            .load(Relaxed);
        let Announcement { slot, bulk, length } =
            Announcement::unpack(word).ok_or(ProtocolError("a completion out of range"))?;
        match self.in_flight.get_mut(slot as usize).and_then(Option::take) {
            Some(request) if request.bulk == bulk => {}
            _ => return Err(ProtocolError("a completion for no request in flight")),
        }
        self.completed = self.completed.wrapping_add(1);
        let message = self
            .memory
            .copy_out(layout::message(slot), length as usize, buffer);
        let reply = match postcard::take_from_bytes(message) {
            Ok((reply, [])) => reply,
            _ => return Err(ProtocolError("a reply that does not decode")),
        };
        self.free_slots.push(slot);
        Ok(Some((SlotId(slot), reply)))
    }

    /// Takes a bulk buffer; `None` while all are in use.
    pub fn take_bulk(&mut self) -> Option<Bulk> {
        self.free_bulk.pop()
    }

    /// Gives a bulk buffer back, once its request was completed.
    pub fn give_bulk(&mut self, bulk: Bulk) {
        self.free_bulk.push(bulk);
    }

    /// The buffer's memory.
    pub fn bulk(&self, bulk: &Bulk) -> BulkBuffer {
        BulkBuffer::new(&self.memory, bulk.0)
    }

    /// The descriptor that came with [`Reply::Donated`] for `handle`. `None`: it was sent, and the kernel does not hand it
    /// over. Others found on the way are kept for theirs.
    pub fn receive_donation(&mut self, handle: Handle) -> Result<Option<OwnedFd>, ProtocolError> {
        if let Some(place) = self.strays.iter().position(|(stray, _)| *stray == handle) {
            return Ok(self.strays.swap_remove(place).1);
        }
        loop {
            // Sent before the reply was published, so it is there, or the worker lies.
            let (owner, descriptor) = match self.channel.try_receive::<Handle>() {
                Ok(Some((owner, Attached::One(descriptor)))) => (owner, Some(descriptor)),
                Ok(Some((owner, Attached::Lost))) => (owner, None),
                Ok(_) => return Err(ProtocolError("a donation without its descriptor")),
                // The kernel lacks memory, most likely; what it says of the worker is that there is nothing.
                Err(error) if error.raw_os_error().is_some_and(|number| number != libc::EAGAIN) => {
                    return Ok(None);
                }
                Err(_) => return Err(ProtocolError("a donation without its descriptor")),
            };
            if owner == handle {
                return Ok(descriptor);
            }
            if self.strays.len() >= SLOTS {
                return Err(ProtocolError("donations nobody asked for"));
            }
            self.strays.push((owner, descriptor));
        }
    }

    /// Becomes readable when the worker completes something while this side sleeps. Meant for an edge-triggered
    /// epoll(7): it is never read.
    pub fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    /// What this end holds, each with what it is, for the list of expected descriptors.
    pub fn descriptors(&self) -> [(BorrowedFd<'_>, &'static str); 2] {
        [
            (self.doorbell.as_fd(), "a lane's doorbell"),
            (self.channel.as_fd(), "a lane's donation channel"),
        ]
    }

    /// Whether the worker's thread, when it last waited, ran on the CPU that this one runs on.
    pub fn shares_cpu(&self) -> bool {
        self.memory.word(layout::WORKER_CPU).load(Relaxed) == memory::current_cpu()
    }

    /// Looks for `other` work for as long as it pays, when no completion is awaited. True if there is some.
    pub fn look_idle(&mut self, other: impl FnMut() -> bool) -> bool {
        self.idle = true;
        self.idle_poll.look(0, other)
    }

    /// Another thread ran on this CPU during the last [`Self::look_idle`].
    pub const fn gave_way(&self) -> bool {
        self.idle_poll.gave_way()
    }

    /// Looks for a completion or for `other` work for as long as it pays. True if there is some.
    pub fn look(&mut self, mut other: impl FnMut() -> bool) -> bool {
        self.idle = false;
        self.memory
            .word(layout::SUPERVISOR_CPU)
            .store(memory::current_cpu(), Relaxed);
        let peer = self.memory.word(layout::WORKER_CPU).load(Relaxed);
        let Self {
            memory,
            poll,
            completed,
            ..
        } = self;
        poll.look(peer, || {
            memory.word(layout::COMPLETED).load(Acquire) != *completed || other()
        })
    }

    /// Announces that this side will sleep until its doorbell or another event of its epoll instance. True if it may:
    /// false when a completion came meanwhile (then it counts as awake). Look once more at other sources of work after.
    /// The doorbell stays silent when no completion is `awaited`.
    pub fn before_sleep(&mut self, awaited: bool) -> bool {
        if awaited {
            let asleep = self.memory.word(layout::SUPERVISOR_ASLEEP);
            asleep.store(1, SeqCst);
            std::sync::atomic::fence(SeqCst);
            if self.has_completion() {
                asleep.store(0, SeqCst);
                return false;
            }
        }
        self.fell_asleep = Some(Instant::now());
        true
    }

    /// Tells that this side is awake again, whatever woke it. Cheap when it did not sleep.
    pub fn after_sleep(&mut self) {
        if let Some(since) = self.fell_asleep.take() {
            self.memory.word(layout::SUPERVISOR_ASLEEP).store(0, SeqCst);
            let poll = if self.idle {
                &mut self.idle_poll
            } else {
                &mut self.poll
            };
            poll.slept(since.elapsed());
        }
    }

    /// The errno that a guest gets for a request that could not be submitted.
    pub const fn errno(error: &SubmitError) -> Errno {
        match error {
            SubmitError::Full => Errno::EAGAIN,
            SubmitError::TooLong => Errno::E2BIG,
        }
    }
}

#[cfg(test)]
impl SupervisorLane {
    pub(super) fn scribble_submitted(&self, count: u32, entry: u64) {
        self.memory
            .entry(layout::submission(count.wrapping_sub(1)))
            .store(entry, Relaxed);
        self.memory.word(layout::SUBMITTED).store(count, Release);
    }
}
