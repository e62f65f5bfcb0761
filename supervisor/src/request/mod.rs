//! Requests of the guest on their way from a virtqueue to their answer: steps 1 to 4, 6 and 7 of docs/ARCHITECTURE.md, each in
//! a file that begins with its number; step 5 is the worker's.
//!
//! A [`Request`] moves by ownership. A step is a function that takes it and says what comes [`Next`]; [`Group::drive`] is the
//! loop that carries it from step to step. [`rounds`] is the loop around that, of a thread with its virtqueues.

mod answer;
mod buffers;
mod collect;
mod complete;
mod decode;
mod donation;
mod forget;
mod given_up;
mod lane;
mod local;
mod pending;
mod queue;
mod rounds;
mod route;
mod schedule;
mod value;

use std::{os::fd::BorrowedFd, sync::Arc};

use airlockfs_ipc::ring::SupervisorLane;

pub(crate) use self::{
    buffers::Buffers,
    value::{Head, Request},
};
use self::{
    buffers::ReplyBuffers,
    forget::Batch,
    lane::Lane,
    queue::Virtqueue,
    schedule::Schedule,
    value::{Next, SPARE, Spare},
};
use crate::{
    data::{CompletionQueue, Jobs},
    guest_memory::Memory,
    session::SessionView,
    shared::Shared,
};

/// Most virtqueues of a group.
pub(crate) const QUEUES_MAX: usize = 8;

/// Virtqueues that one thread serves through one lane.
pub(crate) struct Group {
    shared: Arc<Shared>,
    /// What INIT agreed on.
    session: SessionView,
    /// At most [`QUEUES_MAX`].
    queues: Vec<Virtqueue>,
    lane: Lane,
    /// Where data threads' requests come back.
    completions: Arc<CompletionQueue>,
    /// Requests that data threads have.
    jobs: Jobs,
    /// Requests that wait until the lane has room for them.
    #[expect(clippy::vec_box, reason = "the boxes are what goes round")]
    waiting: Vec<Box<Request>>,
    /// A long BATCH_FORGET that was taken in part.
    batch: Option<Batch>,
    /// Requests to be used again.
    spare: Spare,
    schedule: Schedule,
    /// The VMM is gone: every answer is awaited, also those that no guest waits for.
    closing: bool,
}

/// What a round of work has besides the group.
struct Round<'m> {
    /// The guest's memory map of this round: a change waits for no longer than the round takes.
    memory: &'m Memory,
    /// For building answers.
    buffers: &'m mut ReplyBuffers,
}

/// What a group has not finished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// Requests that must finish, by their queues' places.
    requests: [usize; QUEUES_MAX],
    /// Requests that the worker has, besides waits for locks that nobody wants any more and what was given up.
    in_lane: usize,
    /// Those waits.
    stale_locks: usize,
}

impl Unfinished {
    /// Requests of the queue at `place` that must finish.
    pub(crate) fn at(&self, place: usize) -> usize {
        self.requests.get(place).copied().unwrap_or(0)
    }

    /// No queue has a request that must finish.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests == [0; QUEUES_MAX]
    }

    /// The worker has nothing of this group, but perhaps waits for locks that nobody wants any more.
    pub(crate) fn is_drained(&self) -> bool {
        self.is_idle() && self.in_lane == 0
    }

    /// The worker has nothing of this group.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_drained() && self.stale_locks == 0
    }
}

impl Group {
    /// The device's queues of these numbers, whose requests travel in `lane`.
    pub(crate) fn new(
        numbers: impl IntoIterator<Item = usize>,
        shared: Arc<Shared>,
        lane: SupervisorLane,
        completions: Arc<CompletionQueue>,
    ) -> Self {
        let queues = (0..).zip(numbers).take(QUEUES_MAX);
        Self {
            shared,
            session: SessionView::default(),
            queues: queues
                .map(|(place, number)| Virtqueue::new(number, place))
                .collect(),
            lane: Lane::new(lane),
            completions,
            jobs: Jobs::new(SPARE),
            waiting: Vec::new(),
            batch: None,
            spare: Spare::default(),
            schedule: Schedule::new(),
            closing: false,
        }
    }

    /// What the worker rings.
    pub(crate) fn doorbell(&self) -> BorrowedFd<'_> {
        self.lane.ring.doorbell()
    }

    /// Takes a request from step to step until it is answered, or another has it. False: it stays in its ring.
    fn drive(&mut self, mut next: Next<'_>, round: &mut Round<'_>) -> bool {
        loop {
            next = match next {
                Next::Route(request, operation) => route::route(request, operation, self, round.memory),
                Next::Local(request) => local::local(request, self, round.memory),
                Next::Ask(request, message) => {
                    self.schedule.gave(&request);
                    self.lane.ask(request, &message)
                }
                Next::Answer(request, answer) => {
                    answer::answer(request, answer, self, round);
                    return true;
                }
                Next::Wait(request) => {
                    self.waiting.push(request);
                    return true;
                }
                Next::Stay(request) => {
                    self.spare.keep(request);
                    return false;
                }
                Next::Drop(request) => {
                    self.drop_taken(request.head);
                    self.over(request);
                    return true;
                }
                Next::Away => return true,
            }
        }
    }

    /// The request is over: what it holds goes back.
    fn over(&mut self, mut request: Box<Request>) {
        self.lane.give_back(request.bulk.take());
        self.spare.keep(request);
    }

    /// The chain goes back to the guest, which finds `length` bytes written.
    fn put_used(&mut self, head: Head, length: usize) {
        if let Some(queue) = self.queues.get_mut(usize::from(head.queue)) {
            queue.put_used(head.index, length);
        }
    }

    /// The chain is not given back: the guest's ring is gone, or it was answered already.
    fn drop_taken(&mut self, head: Head) {
        if let Some(queue) = self.queues.get_mut(usize::from(head.queue)) {
            queue.drop_taken();
        }
    }

    /// The chain's request makes no sense: why.
    fn malformed(&self, head: Head, why: &str) {
        let number = self.queues.get(usize::from(head.queue)).map(Virtqueue::number);
        self.shared.count_malformed(number.unwrap_or_default(), &why);
    }

    /// Requests taken and not answered that end by themselves, of the queue at `place` in the group: a lock may never be had,
    /// and nobody who stops the ring waits for that. When the boundary failed, locks end as all others do.
    pub(crate) fn must_finish(&self, place: usize) -> usize {
        let Some(queue) = self.queues.get(place) else {
            return 0;
        };
        let may_wait = match (self.shared.failure.is_set(), u8::try_from(place)) {
            (false, Ok(place)) => self.lane.pending.locks(place),
            _ => 0,
        };
        queue.taken().saturating_sub(queue.held() + may_wait)
    }

    /// All of it.
    pub(crate) fn unfinished(&self) -> Unfinished {
        let pending = &self.lane.pending;
        let stale_locks = pending.stale_locks();
        Unfinished {
            requests: std::array::from_fn(|place| self.must_finish(place)),
            in_lane: pending.len().saturating_sub(stale_locks + pending.late()),
            stale_locks,
        }
    }

    /// Forgets what was to be published, who waits for locks, and FORGETs that were not sent: the rings are gone. From
    /// here on every answer of the worker wakes the thread, until [`Self::clean`].
    pub(crate) fn discard(&mut self) {
        forget::end(self);
        for queue in &mut self.queues {
            queue.discard(&mut self.lane.pending);
        }
        self.lane.forgets.clear();
        self.closing = true;
    }

    /// Has the worker drop all that the guest has there. False: there is no room in the lane.
    pub(crate) fn reset_worker(&mut self) -> bool {
        self.lane.clean()
    }

    /// Nothing is left of the VMM that went: the group is as it was before the first one came.
    pub(crate) fn clean(&mut self) {
        self.closing = false;
    }
}

#[cfg(test)]
mod tests;
