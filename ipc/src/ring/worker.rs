//! The worker's end of a lane.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
    time::{Duration, Instant},
};

use super::{
    layout::{self, Announcement, MAX_LANES, SLOTS},
    memory::{self, BulkBuffer, LaneMemory, MessageBuffer},
};
use crate::{
    ProtocolError,
    channel::Channel,
    message::{Reply, Request},
    poll::AdaptivePoll,
};

/// Completions after which a sleeping supervisor is woken though more requests wait.
const WAKE_AFTER: u32 = 8;

/// Maps the ring from the descriptors that came beside [`crate::message::Start`]. `poll` is the longest look of each
/// lane's thread before it sleeps.
pub fn map(descriptors: Vec<OwnedFd>, lanes: u16, poll: Duration) -> io::Result<Vec<WorkerLane>> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "not the descriptors of a ring");
    if lanes == 0 || lanes > MAX_LANES || descriptors.len() != 1 + 2 * usize::from(lanes) {
        return Err(wrong());
    }
    let mut descriptors = descriptors.into_iter();
    let memory = File::from(descriptors.next().ok_or_else(wrong)?);
    memory::check(&memory, lanes)?;
    let mut mapped = Vec::new();
    for index in 0..lanes {
        let (Some(doorbell), Some(channel)) = (descriptors.next(), descriptors.next()) else {
            return Err(wrong());
        };
        let shared = Arc::new(Shared {
            memory: LaneMemory::map(&memory, index)?,
            doorbell,
            channel: Channel::from(channel),
            completions: Mutex::new(Completions {
                completed: 0,
                taken: [false; SLOTS],
                buffer: MessageBuffer::new(),
            }),
        });
        mapped.push(WorkerLane {
            shared,
            taken: 0,
            unannounced: 0,
            poll: AdaptivePoll::new(poll),
        });
    }
    Ok(mapped)
}

struct Shared {
    memory: Arc<LaneMemory>,
    doorbell: OwnedFd,
    channel: Channel,
    completions: Mutex<Completions>,
}

struct Completions {
    completed: u32,
    taken: [bool; SLOTS],
    buffer: MessageBuffer,
}

/// A request taken and not yet answered. Dropping it unanswered keeps its slot forever.
#[must_use]
#[derive(Debug)]
pub struct Ticket {
    slot: u16,
    bulk: Option<u16>,
}

/// One virtqueue's lane, owned by the thread that serves it.
pub struct WorkerLane {
    shared: Arc<Shared>,
    taken: u32,
    unannounced: u32,
    poll: AdaptivePoll,
}

impl WorkerLane {
    fn has_request(&self) -> bool {
        self.shared.memory.word(layout::SUBMITTED).load(Acquire) != self.taken
    }

    /// Takes the next request: copied to `buffer`, decoded, its slot checked not to be in use. When there is none, the
    /// supervisor is told of all completions so far.
    pub fn next<'a>(
        &mut self,
        buffer: &'a mut MessageBuffer,
    ) -> Result<Option<(Ticket, Request<'a>)>, ProtocolError> {
        let memory = &self.shared.memory;
        let announced = memory
            .word(layout::SUBMITTED)
            .load(Acquire)
            .wrapping_sub(self.taken);
        if announced == 0 {
            self.flush();
            return Ok(None);
        }
        if announced as usize > SLOTS {
            return Err(ProtocolError("more requests than slots"));
        }
        let word = memory.entry(layout::submission(self.taken)).load(Relaxed);
        let Announcement { slot, bulk, length } =
            Announcement::unpack(word).ok_or(ProtocolError("a request out of range"))?;
        {
            let mut completions = self
                .shared
                .completions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match completions.taken.get_mut(slot as usize) {
                Some(taken) if !*taken => *taken = true,
                _ => return Err(ProtocolError("a request in a slot that is in use")),
            }
        }
        self.taken = self.taken.wrapping_add(1);
        let message = memory.copy_out(layout::message(slot), length as usize, buffer);
        match postcard::take_from_bytes(message) {
            Ok((request, [])) => Ok(Some((Ticket { slot, bulk }, request))),
            _ => Err(ProtocolError("a request that does not decode")),
        }
    }

    /// Answers a request of this lane from its own thread. A sleeping supervisor is woken when nothing more waits (by
    /// [`Self::next`] or [`Self::flush`]) or after a few: flush before anything slow.
    pub fn complete(&mut self, ticket: Ticket, reply: &Reply<'_>) {
        self.shared.publish(&ticket, reply);
        self.unannounced += 1;
        if self.unannounced >= WAKE_AFTER {
            self.flush();
        }
    }

    /// Wakes the supervisor's thread if it sleeps and completions were published since the last call.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.unannounced) > 0 {
            self.shared.ring_doorbell();
        }
    }

    /// The bulk buffer that came with a request.
    pub fn bulk(&self, ticket: &Ticket) -> Option<BulkBuffer> {
        ticket
            .bulk
            .map(|index| BulkBuffer::new(&self.shared.memory, index))
    }

    /// Waits for a request: looks for as long as that pays, then sleeps. May return without one.
    pub fn wait(&mut self) {
        self.flush();
        let memory = &self.shared.memory;
        memory
            .word(layout::WORKER_CPU)
            .store(memory::current_cpu(), Relaxed);
        let peer = memory.word(layout::SUPERVISOR_CPU).load(Relaxed);
        let taken = self.taken;
        if self
            .poll
            .look(peer, || memory.word(layout::SUBMITTED).load(Acquire) != taken)
        {
            return;
        }
        let asleep = memory.word(layout::WORKER_ASLEEP);
        asleep.store(1, SeqCst);
        std::sync::atomic::fence(SeqCst);
        if !self.has_request() {
            let since = Instant::now();
            memory::futex_wait(asleep, 1);
            self.poll.slept(since.elapsed());
        }
        self.shared.memory.word(layout::WORKER_ASLEEP).store(0, SeqCst);
    }

    /// What this end holds, each with what it is, for the list of expected descriptors.
    pub fn descriptors(&self) -> [(BorrowedFd<'_>, &'static str); 2] {
        [
            (self.shared.doorbell.as_fd(), "a lane's doorbell"),
            (self.shared.channel.as_fd(), "a lane's donation channel"),
        ]
    }

    /// For answers from other threads.
    pub fn completer(&self) -> Completer {
        Completer {
            shared: self.shared.clone(),
        }
    }
}

/// Answers a lane's requests from any thread.
#[derive(Clone)]
pub struct Completer {
    shared: Arc<Shared>,
}

impl Completer {
    /// Answers a request and wakes the supervisor if it sleeps.
    pub fn complete(&self, ticket: Ticket, reply: &Reply<'_>) {
        self.shared.publish(&ticket, reply);
        self.shared.ring_doorbell();
    }

    /// The bulk buffer that came with a request.
    pub fn bulk(&self, ticket: &Ticket) -> Option<BulkBuffer> {
        ticket
            .bulk
            .map(|index| BulkBuffer::new(&self.shared.memory, index))
    }

    /// Where donated descriptors go, marked with their handle, before the request is answered with `Donated`.
    pub fn channel(&self) -> &Channel {
        &self.shared.channel
    }
}

impl Shared {
    fn publish(&self, ticket: &Ticket, reply: &Reply<'_>) {
        let mut completions = self.completions.lock().unwrap_or_else(PoisonError::into_inner);
        let Completions {
            completed,
            taken,
            buffer,
        } = &mut *completions;
        // Only a symlink's target makes a reply long, and that is bounded by PATH_MAX.
        let length = buffer
            .encode(reply)
            .or_else(|| buffer.encode(&Reply::Error(crate::Errno::EIO)))
            .unwrap_or(0);
        if let Some(taken) = taken.get_mut(ticket.slot as usize) {
            *taken = false;
        }
        self.memory.copy_in(layout::message(ticket.slot), length, buffer);
        let announcement = Announcement {
            slot: ticket.slot,
            bulk: ticket.bulk,
            length: length as u32,
        };
        self.memory
            .entry(layout::completion(*completed))
            .store(announcement.pack(), Relaxed);
        *completed = completed.wrapping_add(1);
        self.memory.word(layout::COMPLETED).store(*completed, Release);
    }

    fn ring_doorbell(&self) {
        // The store of COMPLETED must be seen before this load, or the supervisor could fall asleep unseen.
        std::sync::atomic::fence(SeqCst);
        let asleep = self.memory.word(layout::SUPERVISOR_ASLEEP);
        if asleep.load(Relaxed) == 1 && asleep.swap(0, SeqCst) == 1 {
            // Not an error when the counter is full: it is readable then.
            let _ = nix::unistd::write(&self.doorbell, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
impl WorkerLane {
    pub(super) fn scribble_completed(&self, count: u32, entry: u64) {
        self.shared
            .memory
            .entry(layout::completion(0))
            .store(entry, Relaxed);
        self.shared.memory.word(layout::COMPLETED).store(count, Release);
    }
}
