//! Virtqueues that one thread serves through one lane, and what there is of their requests.

use std::{os::fd::BorrowedFd, sync::Arc};

use airlockfs_ipc::ring::SupervisorLane;

use super::{
    buffers::ReplyBuffers,
    lane::Lane,
    queue::Virtqueue,
    schedule::Schedule,
    value::{Batch, Head, Request, SPARE, Spare},
};
use crate::{
    backend::Vring,
    data::{CompletionQueue, Jobs},
    guest_memory::Memory,
    session::SessionView,
    shared::Shared,
};

/// Most virtqueues of a group.
pub(crate) const QUEUES_MAX: usize = 8;

/// Virtqueues that one thread serves through one lane.
pub(crate) struct Group {
    pub(super) shared: Arc<Shared>,
    /// What INIT agreed on.
    pub(super) session: SessionView,
    /// At most [`QUEUES_MAX`].
    pub(super) queues: Vec<Virtqueue>,
    pub(super) lane: Lane,
    /// Where data threads' requests come back.
    pub(super) completions: Arc<CompletionQueue>,
    /// Requests that data threads have.
    pub(super) jobs: Jobs,
    /// Requests that wait until the lane has room for them.
    #[expect(clippy::vec_box, reason = "the boxes are what goes round")]
    pub(super) waiting: Vec<Box<Request>>,
    /// A long BATCH_FORGET that was taken in part.
    pub(super) batch: Option<Batch>,
    /// Requests to be used again.
    pub(super) spare: Spare,
    pub(super) schedule: Schedule,
    /// The VMM is gone: every answer is awaited, also those that no guest waits for.
    pub(super) closing: bool,
}

/// What a round of work has besides the group.
pub(super) struct Round<'m> {
    /// The guest's memory map of this round: a change waits for no longer than the round takes.
    pub(super) memory: &'m Memory,
    /// For building answers.
    pub(super) buffers: &'m mut ReplyBuffers,
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

    /// The request is over: what it holds goes back.
    pub(super) fn over(&mut self, mut request: Box<Request>) {
        self.lane.give_back(request.bulk.take());
        self.spare.keep(request);
    }

    /// The chain goes back to the guest, which finds `length` bytes written.
    pub(super) fn put_used(&mut self, head: Head, length: usize) {
        if let Some(queue) = self.queues.get_mut(usize::from(head.queue)) {
            queue.put_used(head.index, length);
        }
    }

    /// The chain is not given back: the guest's ring is gone, or it was answered already.
    pub(super) fn drop_taken(&mut self, head: Head) {
        if let Some(queue) = self.queues.get_mut(usize::from(head.queue)) {
            queue.drop_taken();
        }
    }

    /// The chain's request makes no sense: why.
    pub(super) fn malformed(&self, head: Head, why: &str) {
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
        if let Some(batch) = self.batch.take() {
            self.put_used(batch.request.head, 0);
            self.over(batch.request);
        }
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

    /// Publishes what was answered in all queues.
    pub(super) fn publish(&mut self, vrings: &[Vring], memory: &Memory) -> bool {
        self.schedule.published();
        let queues = self.queues.iter_mut().zip(vrings);
        queues.fold(false, |any, (queue, vring)| queue.publish(vring, memory) | any)
    }
}
