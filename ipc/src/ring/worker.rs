//! The worker's end of a lane, which any of its threads may serve ([`super::hands`]).

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
    time::{Duration, Instant},
};

use super::{
    alarm::Alarm,
    hands::{Hands, Idle},
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

/// Maps the ring from the descriptors that came beside [`crate::message::Start`]. `alarm` is rung when a request is taken
/// while nobody watches.
pub fn map(descriptors: Vec<OwnedFd>, lanes: u16, alarm: &Arc<Alarm>) -> io::Result<Vec<WorkerLane>> {
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
        mapped.push(WorkerLane(Arc::new(Shared {
            memory: LaneMemory::map(&memory, index)?,
            doorbell,
            channel: Channel::from(channel),
            alarm: alarm.clone(),
            state: Mutex::new(State {
                taken: 0,
                begun: 0,
                completed: 0,
                unannounced: 0,
                slots: [Use::Free; SLOTS],
                parked: VecDeque::with_capacity(SLOTS),
                hands: Hands::new(),
                buffer: MessageBuffer::new(),
            }),
        })));
    }
    Ok(mapped)
}

pub(super) struct Shared {
    pub(super) memory: Arc<LaneMemory>,
    doorbell: OwnedFd,
    channel: Channel,
    pub(super) alarm: Arc<Alarm>,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    /// Entries read from the ring, modulo 2³².
    pub(super) taken: u32,
    /// Requests that a thread took to serve them, modulo 2³².
    pub(super) begun: u32,
    /// Requests answered, modulo 2³².
    completed: u32,
    /// Those of them that a sleeping supervisor was not woken for.
    unannounced: u32,
    pub(super) slots: [Use; SLOTS],
    /// Taken from the ring since when, and waiting for a thread: no lane is served without one.
    pub(super) parked: VecDeque<(Announcement, Instant)>,
    pub(super) hands: Hands,
    /// For replies on their way to the slot.
    buffer: MessageBuffer,
}

/// Whose a slot is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The supervisor's.
    Free,
    /// Ours, and nobody serves it.
    Parked,
    /// Ours: number of the request that it is ([`State::begun`]).
    Begun(u32),
}

/// A request taken and not yet answered. Dropping it unanswered keeps its slot forever.
#[must_use]
#[derive(Debug)]
pub struct Ticket {
    slot: u16,
    bulk: Option<u16>,
}

/// What a thread needs of its own to serve lanes.
#[derive(Debug)]
pub struct Hand {
    /// Which thread it is.
    number: u16,
    poll: AdaptivePoll,
    /// It has joined the lane and taken nothing yet.
    new: bool,
    /// [`State::taken`] when there was nothing left.
    seen: u32,
}

impl Hand {
    /// The thread of this number, below `u16::MAX`. `poll` is its longest look before it sleeps.
    pub const fn new(number: u16, poll: Duration) -> Self {
        Self {
            number,
            poll: AdaptivePoll::new(poll),
            new: true,
            seen: 0,
        }
    }
}

/// What a thread is to do next.
#[derive(Debug)]
pub enum Next<'a> {
    /// Serve this.
    Request(Ticket, Request<'a>),
    /// Wait for a request, with [`WorkerLane::wait`].
    Wait,
    /// Leave the lane, which another thread serves. It has left.
    Leave,
}

/// A lane. Clones are the same one.
#[derive(Clone)]
pub struct WorkerLane(pub(super) Arc<Shared>);

impl WorkerLane {
    /// Joins the lane, by a thread that was called ([`Self::call`]) or is the lane's first.
    pub fn join(&self, hand: &mut Hand) {
        hand.new = true;
        self.0.state().hands.join();
    }

    /// Takes the next request: copied to `buffer`, decoded, its slot checked not to be in use. When there is none, the
    /// supervisor is told of all completions so far.
    pub fn next<'a>(
        &self,
        hand: &mut Hand,
        buffer: &'a mut MessageBuffer,
    ) -> Result<Next<'a>, ProtocolError> {
        let shared = &*self.0;
        let mut state = shared.state();
        if !hand.new && state.hands.leaves(hand.number) {
            return Ok(Next::Leave);
        }
        let Some(taken) = shared.take(&mut state)? else {
            let idle = state.hands.finds_nothing(hand.number);
            hand.seen = state.taken;
            let unannounced = std::mem::take(&mut state.unannounced);
            drop(state);
            shared.announce(unannounced);
            return Ok(match idle {
                Idle::Wait => Next::Wait,
                Idle::Leave => Next::Leave,
            });
        };
        hand.new = false;
        state.hands.takes(hand.number);
        let rouse = shared.alarm.is_awaited();
        drop(state);
        if rouse {
            shared.alarm.ring();
        }
        let (ticket, request) = shared.read(taken, buffer)?;
        Ok(Next::Request(ticket, request))
    }

    /// Answers a request by the thread that took it. A sleeping supervisor is woken when nothing more waits (by
    /// [`Self::next`] or [`Self::flush`]) or after a few, at once if others serve the lane as well: flush before anything that
    /// is known to be slow.
    pub fn complete(&self, hand: &Hand, ticket: Ticket, reply: &Reply<'_>) {
        self.0.publish(&ticket, reply, Some(hand.number));
    }

    /// Answers a request by a thread that does not serve the lane, and wakes the supervisor if it sleeps.
    pub fn answer(&self, ticket: Ticket, reply: &Reply<'_>) {
        self.0.publish(&ticket, reply, None);
    }

    /// Wakes the supervisor's thread if it sleeps and completions were published since the last call.
    pub fn flush(&self) {
        let unannounced = std::mem::take(&mut self.0.state().unannounced);
        self.0.announce(unannounced);
    }

    /// The bulk buffer that came with a request.
    pub fn bulk(&self, ticket: &Ticket) -> Option<BulkBuffer> {
        ticket.bulk.map(|index| BulkBuffer::new(&self.0.memory, index))
    }

    /// Waits for a request: looks for as long as that pays, then sleeps. May return without one. Only when
    /// [`Self::next`] said so.
    pub fn wait(&self, hand: &mut Hand) {
        let memory = &self.0.memory;
        memory
            .word(layout::WORKER_CPU)
            .store(memory::current_cpu(), Relaxed);
        let peer = memory.word(layout::SUPERVISOR_CPU).load(Relaxed);
        let seen = hand.seen;
        let comes = || memory.word(layout::SUBMITTED).load(Acquire) != seen;
        if hand.poll.look(peer, comes) {
            return;
        }
        let asleep = memory.word(layout::WORKER_ASLEEP);
        asleep.store(1, SeqCst);
        std::sync::atomic::fence(SeqCst);
        if !comes() {
            let since = Instant::now();
            memory::futex_wait(asleep, 1);
            hand.poll.slept(since.elapsed());
        }
        asleep.store(0, SeqCst);
    }

    /// What this end holds, each with what it is, for the list of expected descriptors.
    pub fn descriptors(&self) -> [(BorrowedFd<'_>, &'static str); 2] {
        [
            (self.0.doorbell.as_fd(), "a lane's doorbell"),
            (self.0.channel.as_fd(), "a lane's donation channel"),
        ]
    }

    /// Where donated descriptors go, marked with their handle, before the request is answered with `Donated`.
    pub fn channel(&self) -> &Channel {
        &self.0.channel
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request for a thread to serve: what was parked comes first.
    pub(super) fn take(&self, state: &mut State) -> Result<Option<Announcement>, ProtocolError> {
        let begun = Use::Begun(state.begun);
        let taken = match state.parked.pop_front() {
            Some((parked, _)) => {
                if let Some(used) = state.slots.get_mut(usize::from(parked.slot)) {
                    *used = begun;
                }
                Some(parked)
            }
            None => self.take_from_ring(state, begun)?,
        };
        state.begun = state.begun.wrapping_add(u32::from(taken.is_some()));
        Ok(taken)
    }

    pub(super) fn take_from_ring(
        &self,
        state: &mut State,
        to: Use,
    ) -> Result<Option<Announcement>, ProtocolError> {
        let announced = self
            .memory
            .word(layout::SUBMITTED)
            .load(Acquire)
            .wrapping_sub(state.taken);
        if announced == 0 {
            return Ok(None);
        }
        if announced as usize > SLOTS {
            return Err(ProtocolError("more requests than slots"));
        }
        let word = self.memory.entry(layout::submission(state.taken)).load(Relaxed);
        let announcement = Announcement::unpack(word).ok_or(ProtocolError("a request out of range"))?;
        match state.slots.get_mut(usize::from(announcement.slot)) {
            Some(used) if *used == Use::Free => *used = to,
            _ => return Err(ProtocolError("a request in a slot that is in use")),
        }
        state.taken = state.taken.wrapping_add(1);
        Ok(Some(announcement))
    }

    /// Reads the message of a request that was taken, whose slot nobody else uses.
    pub(super) fn read<'a>(
        &self,
        Announcement { slot, bulk, length }: Announcement,
        buffer: &'a mut MessageBuffer,
    ) -> Result<(Ticket, Request<'a>), ProtocolError> {
        let message = self
            .memory
            .copy_out(layout::message(slot), length as usize, buffer);
        match postcard::take_from_bytes(message) {
            Ok((request, [])) => Ok((Ticket { slot, bulk }, request)),
            _ => Err(ProtocolError("a request that does not decode")),
        }
    }

    /// Publishes an answer. The supervisor is woken at once, unless it is the answer of a `hand` that goes on alone.
    fn publish(&self, ticket: &Ticket, reply: &Reply<'_>, hand: Option<u16>) {
        let mut guard = self.state();
        let state = &mut *guard;
        // Only a symlink's target makes a reply long, and that is bounded by PATH_MAX.
        let length = state
            .buffer
            .encode(reply)
            .or_else(|| state.buffer.encode(&Reply::Error(crate::Errno::EIO)))
            .unwrap_or(0);
        if let Some(used) = state.slots.get_mut(usize::from(ticket.slot)) {
            *used = Use::Free;
        }
        self.memory
            .copy_in(layout::message(ticket.slot), length, &state.buffer);
        let announcement = Announcement {
            slot: ticket.slot,
            bulk: ticket.bulk,
            length: length as u32,
        };
        self.memory
            .entry(layout::completion(state.completed))
            .store(announcement.pack(), Relaxed);
        state.completed = state.completed.wrapping_add(1);
        self.memory
            .word(layout::COMPLETED)
            .store(state.completed, Release);
        state.unannounced += 1;
        let alone = hand.is_some_and(|hand| state.hands.is_alone(hand));
        if !alone || state.unannounced >= WAKE_AFTER {
            let unannounced = std::mem::take(&mut state.unannounced);
            drop(guard);
            self.announce(unannounced);
        }
    }

    /// Wakes the supervisor if it sleeps and was not told of so many answers.
    fn announce(&self, unannounced: u32) {
        if unannounced == 0 {
            return;
        }
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
        self.0.memory.entry(layout::completion(0)).store(entry, Relaxed);
        self.0.memory.word(layout::COMPLETED).store(count, Release);
    }
}
