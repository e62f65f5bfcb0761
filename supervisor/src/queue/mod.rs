//! Step 1 and 7: a group of virtqueues and the lane that belongs to it, served by one thread. Takes descriptor chains, has
//! them dispatched, collects completions from the worker and from the data threads, and publishes the used rings and
//! interrupts the guest once for a batch.

mod answer;
mod batch;
mod pace;
mod scratch;
mod submit;
mod vring;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use airlockfs_ipc::{message::Request, ring::SupervisorLane};
use vm_memory::GuestAddressSpace;

use crate::{
    backend::Vring,
    chain::Chain,
    data::{Job, Jobs, Port},
    guest_memory::Memory,
    pending::{Awaits, Caller, Pending, PendingTable},
    rings::Rings,
    session::View,
    shared::{FailureReason, Shared},
};

pub(crate) use self::scratch::{Room, Scratch};
use self::{
    batch::Batch,
    pace::{AT_A_TIME, Pace},
    vring::Queue,
};

/// The high-priority queue.
const HIPRIO: usize = 0;
/// Most virtqueues of a group.
pub(crate) const QUEUES_MAX: usize = 8;
/// Most chains taken before completions are looked at and published.
const BATCH: u16 = 32;
/// Bytes of file data after which they are, too.
const DATA_BATCH: usize = 512 << 10;
/// Rounds of work after which the thread looks at its other events: its end, above all.
const ROUNDS: usize = 1000;
/// How long FORGETs may lie in the high-priority ring, and how many of them at most, while they come in numbers: a kick
/// for each costs the guest and this thread more than the FORGET.
const FORGETS_LIE: (Duration, u16) = (Duration::from_millis(1), 32);
/// Bytes of FORGETs in one message.
const FORGETS: usize = 500 * 16;

/// Jobs kept for use again.
pub(crate) const SPARE_JOBS: usize = 64;

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

/// Virtqueues that one thread serves through one lane.
pub(crate) struct Group {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lane: SupervisorLane,
    pub(crate) port: Arc<Port>,
    pub(crate) pending: PendingTable,
    /// The buffers of the request at hand.
    pub(crate) chain: Chain,
    pub(crate) view: View,
    /// FORGETs not yet sent, in the layout of [`airlockfs_ipc::message::Request::Forget`].
    pub(crate) forgets: Vec<u8>,
    /// A long BATCH_FORGET that was taken in part.
    batch: Option<Batch>,
    /// Jobs that the data threads have.
    pub(crate) jobs: Jobs,
    /// Jobs that this process may not do, until the lane has room for them.
    #[expect(clippy::vec_box, reason = "the boxes go round between the group and the pool")]
    pub(crate) denied: Vec<Box<Job>>,
    /// Jobs to be used again.
    #[expect(clippy::vec_box, reason = "the boxes go round between the group and the pool")]
    pub(crate) spare_jobs: Vec<Box<Job>>,
    /// Bytes of file data moved since used elements were last published.
    pub(crate) moved: usize,
    /// Nothing but FORGETs was taken since the thread slept, from the ring that is meant for them.
    pub(crate) only_forgets: bool,
    /// A guest waits for something that the worker was not told of yet.
    hurry: bool,
    /// At most [`QUEUES_MAX`].
    queues: Vec<Queue>,
    /// The one whose heads are looked at first.
    first: usize,
    pace: Pace,
    /// The worker is to have its turn on this CPU before it gets more.
    turn: bool,
    /// The VMM is gone: every answer is awaited, also those that no guest waits for.
    closing: bool,
}

/// A virtqueue's rings and, if more heads would be welcome, where the next one will be.
struct Offer<'m> {
    rings: Rings<'m>,
    next: Option<u16>,
}

/// One for each of the group's queues that can be used.
type Offers<'m> = [Option<Offer<'m>>; QUEUES_MAX];

/// A lane that cannot take a request now.
pub(crate) struct NoRoom;

impl Group {
    /// The device's queues of these numbers, whose requests travel in `lane`.
    pub(crate) fn new(
        numbers: impl IntoIterator<Item = usize>,
        shared: Arc<Shared>,
        lane: SupervisorLane,
        port: Arc<Port>,
    ) -> Self {
        let queues = (0..).zip(numbers).take(QUEUES_MAX);
        Self {
            shared,
            lane,
            port,
            pending: PendingTable::new(),
            chain: Chain::default(),
            view: View::default(),
            forgets: Vec::with_capacity(FORGETS),
            batch: None,
            jobs: Jobs::new(SPARE_JOBS),
            denied: Vec::new(),
            spare_jobs: Vec::new(),
            moved: 0,
            only_forgets: false,
            hurry: false,
            queues: queues.map(|(place, number)| Queue::new(number, place)).collect(),
            first: 0,
            pace: Pace::new(),
            turn: false,
            closing: false,
        }
    }

    /// Requests taken and not answered that end by themselves, of the queue at `place` in the group: a lock may never be had,
    /// and nobody who stops the ring waits for that. When the boundary failed, locks end as all others do.
    pub(crate) fn must_finish(&self, place: usize) -> usize {
        let Some(queue) = self.queues.get(place) else {
            return 0;
        };
        let may_wait = match (self.shared.failure.is_set(), u8::try_from(place)) {
            (false, Ok(place)) => self.pending.locks(place),
            _ => 0,
        };
        queue.taken().saturating_sub(queue.held() + may_wait)
    }

    /// All of it.
    pub(crate) fn unfinished(&self) -> Unfinished {
        let stale_locks = self.pending.stale_locks();
        Unfinished {
            requests: std::array::from_fn(|place| self.must_finish(place)),
            in_lane: self
                .pending
                .len()
                .saturating_sub(stale_locks + self.pending.late()),
            stale_locks,
        }
    }

    /// Forgets what was to be published, who waits for locks, and FORGETs that were not sent: the rings are gone. From
    /// here on every answer of the worker wakes the thread, until [`Self::clean`].
    pub(crate) fn discard(&mut self) {
        self.end_batch();
        for queue in &mut self.queues {
            queue.discard(&mut self.pending);
        }
        self.forgets.clear();
        self.closing = true;
    }

    /// Has the worker drop all that the guest has there. False: there is no room in the lane.
    pub(crate) fn reset_worker(&mut self) -> bool {
        let Ok(slot) = self.lane.submit(&Request::Reset, None) else {
            return false;
        };
        self.chain.readable.clear();
        self.chain.writable.clear();
        let clean = Pending::new(Caller::default(), None, Awaits::Clean);
        self.pending.put(slot, clean, &mut self.chain);
        self.lane.flush();
        true
    }

    /// Nothing is left of the VMM that went: the group is as it was before the first one came.
    pub(crate) fn clean(&mut self) {
        self.closing = false;
    }

    /// Serves until there is nothing to do, for long enough, or until it is `interrupted`. When it returns, every source of
    /// work will wake the thread again, the kicks, the lane's doorbell and the port's bell, or it is to run again after the
    /// time that it gives.
    pub(crate) fn run(
        &mut self,
        vrings: &[Vring],
        scratch: &mut Scratch,
        interrupted: impl Fn() -> bool,
    ) -> Option<Duration> {
        self.only_forgets = self.queues.first().is_some_and(|queue| queue.number == HIPRIO);
        let mut served = false;
        self.lane.after_sleep();
        self.port.after_sleep();
        let mut kicks_refused = [false; QUEUES_MAX];
        for round in 0..ROUNDS {
            if round > 0 && interrupted() {
                break;
            }
            // The memory map of this round: a change waits for no longer than the round takes.
            let memory = self.shared.memory.memory();
            let mut offers = [const { None }; QUEUES_MAX];
            self.take_heads(vrings, &memory, &mut offers);
            let offers = offers.get(..self.queues.len()).unwrap_or_default();
            let mut progress = self.release_held(&memory);
            progress |= self.collect(&memory, scratch);
            if offers.iter().any(Option::is_some) {
                if self.pace.apart {
                    // Now: the guest may be about to fall asleep.
                    progress |= self.publish(vrings, &memory);
                }
                for (offer, refused) in offers.iter().zip(&mut kicks_refused) {
                    if let Some(offer) = offer
                        && !std::mem::replace(refused, true)
                    {
                        offer.rings.refuse_kicks();
                    }
                }
                let some = self.serve_heads(&memory, offers, scratch);
                progress |= some;
                served |= some;
            }
            if self.port.take_left_behind() {
                // The rings are another VMM's by now, and what was taken is nobody's.
                self.discard();
                self.give_up_all();
                self.clean();
                continue;
            }
            progress |= self.take_batch(&memory);
            self.send_forgets();
            if std::mem::take(&mut self.hurry) {
                self.lane.flush();
            }
            progress |= self.publish(vrings, &memory);
            self.lane.flush();
            if std::mem::take(&mut self.turn) {
                // The worker's, on this CPU; if it has nothing then, it waits for something itself, and gets the rest.
                std::thread::yield_now();
                self.pace.turns = self.lane.has_completion();
                continue;
            }
            let withheld = offers.iter().flatten().any(|offer| offer.next.is_none());
            let open = !withheld && offers.iter().any(Option::is_some);
            // Another round only for what it would find: at one request at a time it is as long as the first.
            let found = || self.lane.has_completion() || more(&self.port, offers);
            if progress && (!open || !self.took_all() || found()) {
                continue;
            }
            // What nobody waits for is collected at the next request; the worker need not wake this thread for it.
            let forgets = !self.forgets.is_empty() || self.batch.is_some();
            let awaited =
                self.awaited() > 0 || forgets || withheld || self.closing || !self.denied.is_empty();
            if self.look(offers, awaited) {
                continue;
            }
            let (limit, after) = match served && self.only_forgets {
                true => (Some(FORGETS_LIE.0), FORGETS_LIE.1),
                false => (None, 0),
            };
            if ask_for_kicks(offers, after) {
                continue;
            }
            if !self.port.before_sleep() {
                continue;
            }
            // A lane that failed is not looked at any more.
            if self.shared.failure.is_set() || self.lane.before_sleep(awaited) {
                return limit;
            }
            self.port.after_sleep();
        }
        self.port.ring();
        None
    }

    /// Takes heads from all available rings, if the lane has room for their requests.
    fn take_heads<'m>(&mut self, vrings: &[Vring], memory: &'m Memory, offers: &mut Offers<'m>) {
        let may = !self.shared.draining.load(Relaxed);
        let room = self.has_slot();
        for ((queue, vring), offer) in self.queues.iter_mut().zip(vrings).zip(offers) {
            let before = queue.heads();
            *offer = queue.take_heads(vring, memory, &mut self.pending, (may, room));
            self.pace.turns |= queue.heads() > before;
        }
    }

    /// Whether a request can be taken: there is a slot for it, or it will not need one, for a lane that failed takes no more.
    pub(crate) fn has_slot(&self) -> bool {
        self.lane.free_slots() > 0 || self.shared.failure.is_set()
    }

    /// Whether everything that was taken is under way, and more could be.
    fn took_all(&self) -> bool {
        let queues = &self.queues;
        queues.iter().all(|queue| queue.heads() == 0 && queue.held() == 0)
            && self.forgets.is_empty()
            && self.batch.is_none()
            && self.lane.free_slots() > 0
            && queues.iter().map(Queue::taken).sum::<usize>() < BATCH.into()
            && !self.shared.failure.is_set()
    }

    /// Looks at all sources of work for as long as that pays. Between requests that is where the guest runs on another
    /// CPU: found awake, this thread need not be woken, which costs the guest more than a request.
    fn look(&mut self, offers: &[Option<Offer<'_>>], awaited: bool) -> bool {
        let port = &self.port;
        let other = || more(port, offers);
        if self.shared.failure.is_set() {
            return other();
        }
        if awaited || self.jobs.len() > 0 {
            self.lane.look(other)
        } else {
            let found = self.lane.look_idle(other);
            self.pace.looked(found, self.lane.gave_way());
            found
        }
    }

    /// Completions: from the worker, then from the data threads.
    pub(crate) fn collect(&mut self, memory: &Memory, scratch: &mut Scratch) -> bool {
        let mut progress = false;
        if self.shared.failure.is_set() {
            while let Some(pending) = self.pending.take_any(&mut self.chain) {
                progress = true;
                self.fail(&pending, memory);
            }
            progress |= self.fail_denied(memory);
        }
        while !self.shared.failure.is_set() {
            let completed = match self.lane.next_completion(&mut scratch.message) {
                Ok(None) => break,
                Ok(Some((slot, reply))) => self.completed(slot, &reply, memory, &mut scratch.room),
                Err(error) => Err(error),
            };
            progress = true;
            if let Err(error) = completed {
                self.shared.failure.set(FailureReason::Violation(error));
            }
        }
        self.port.take_finished(&mut scratch.finished);
        for job in scratch.finished.drain(..) {
            progress = true;
            self.job_done(job, memory, &mut scratch.room);
        }
        progress | self.send_denied(memory)
    }

    /// Dispatches the heads taken, as far as there is room for their requests; another queue's first each time.
    fn serve_heads(&mut self, memory: &Memory, offers: &[Option<Offer<'_>>], scratch: &mut Scratch) -> bool {
        let mut progress = false;
        let before = self.awaited();
        let (later, sooner) = offers.split_at_checked(self.first).unwrap_or((offers, &[]));
        for (place, offer) in (self.first..).zip(sooner).chain((0..).zip(later)) {
            if let Some(offer) = offer {
                progress |= self.serve_queue(place, before, memory, &offer.rings, scratch);
            }
            if self.turn {
                break;
            }
        }
        self.first = match sooner {
            [_, _, ..] => self.first + 1,
            _ => 0,
        };
        progress
    }

    /// The same for one queue; the worker had `before` requests that somebody waits for.
    fn serve_queue(
        &mut self,
        place: usize,
        before: usize,
        memory: &Memory,
        rings: &Rings<'_>,
        scratch: &mut Scratch,
    ) -> bool {
        let Some(queue) = self.queues.get(place) else {
            return false;
        };
        let mut progress = false;
        let sleeps = rings.is_awaited(queue.next_used());
        let few = queue.heads() <= AT_A_TIME;
        let given_up = self.port.given_up().count(place as u8);
        while let Some(queue) = self.queues.get(place)
            && let Some(head) = queue.head()
        {
            let given = self.awaited() - before;
            let answered = queue.answered();
            if self.pace.enough(answered, given, (sleeps, few), &self.lane) {
                self.turn = given > 0;
                break;
            }
            if self.port.is_left_behind()
                || self.moved >= DATA_BATCH
                || self.accept(head, memory, rings, scratch).is_err()
            {
                break;
            }
            progress = true;
            if let Some(queue) = self.queues.get_mut(place) {
                queue.next_head();
                if self.port.given_up().count(place as u8) != given_up {
                    queue.withhold();
                    break;
                }
            }
        }
        progress
    }

    /// Requests that the worker has and somebody waits for.
    const fn awaited(&self) -> usize {
        self.pending.len() - self.pending.unawaited()
    }
}

/// Whether there is work besides the lane's.
fn more(port: &Port, offers: &[Option<Offer<'_>>]) -> bool {
    port.any_finished() || offers.iter().flatten().any(Offer::has_more)
}

/// Has every driver kick when it adds something, or `after` more than that. True: some have already.
fn ask_for_kicks(offers: &[Option<Offer<'_>>], after: u16) -> bool {
    let ask = |offer: &Offer<'_>| {
        offer
            .next
            .is_some_and(|next| offer.rings.ask_for_kick(next, after))
    };
    let any = offers.iter().flatten().fold(false, |any, offer| ask(offer) | any);
    if any {
        offers
            .iter()
            .flatten()
            .for_each(|offer| offer.rings.refuse_kicks());
    }
    any
}

impl Offer<'_> {
    /// The driver added something that was not taken, and is welcome.
    fn has_more(&self) -> bool {
        self.next
            .is_some_and(|next| self.rings.avail_index().is_some_and(|index| index != next))
    }
}

#[cfg(test)]
mod tests;
