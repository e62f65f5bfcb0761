//! Step 1 and 7: one virtqueue and the lane that belongs to it, served by one thread. Takes descriptor chains, has
//! them dispatched, collects completions from the worker and from the data threads, and publishes the used ring and
//! interrupts the guest once for a batch.

mod pace;
mod scratch;
mod vring;

use std::{sync::Arc, time::Duration};

use airlockfs_ipc::{
    Bytes, Errno,
    message::Request,
    ring::{Bulk, SupervisorLane},
};
use vm_memory::GuestAddressSpace;

use crate::{
    backend::Vring,
    chain::{Chain, DESCRIPTORS_MAX},
    data::{Job, Port},
    guest_memory::Memory,
    pending::{Awaits, Caller, Pending, PendingTable},
    rings::Rings,
    session::View,
    shared::{FailureReason, Shared},
};

use self::pace::{AT_A_TIME, Pace};
pub(crate) use self::scratch::{Room, Scratch};

/// The high-priority queue.
const HIPRIO: usize = 0;
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

/// One queue.
pub(crate) struct Queue {
    pub(crate) number: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) lane: SupervisorLane,
    pub(crate) port: Arc<Port>,
    pub(crate) pending: PendingTable,
    /// The buffers of the request at hand.
    pub(crate) chain: Chain,
    pub(crate) view: View,
    /// FORGETs not yet sent, in the layout of [`Request::Forget`].
    pub(crate) forgets: Vec<u8>,
    /// Jobs that the data threads have.
    pub(crate) in_pool: usize,
    /// Jobs to be used again.
    #[expect(clippy::vec_box, reason = "the boxes go round between the queue and the pool")]
    pub(crate) spare_jobs: Vec<Box<Job>>,
    /// Bytes of file data moved since used elements were last published.
    pub(crate) moved: usize,
    /// Heads taken from the available ring and not looked at yet, the next one last.
    heads: Vec<u16>,
    /// Nothing but FORGETs was taken since the thread slept, from the ring that is meant for them.
    pub(crate) only_forgets: bool,
    /// The guest waits for something that the worker was not told of yet.
    hurry: bool,
    /// Used elements to be published: head and length.
    used: Vec<(u16, u32)>,
    /// The ring may be used, as it was at the last look.
    enabled: bool,
    /// Where the ring was left: next available, next used.
    position: (u16, u16),
    /// Locks that were had while the ring was stopped: 0 or an errno for each.
    held: Vec<(Caller, Option<Errno>, Chain)>,
    pace: Pace,
    /// The worker is to have its turn on this CPU before it gets more.
    turn: bool,
}

/// A lane that cannot take a request now.
pub(crate) struct NoRoom;

impl Queue {
    /// The queue whose requests travel in `lane`.
    pub(crate) fn new(number: usize, shared: Arc<Shared>, lane: SupervisorLane, port: Arc<Port>) -> Self {
        Self {
            number,
            shared,
            lane,
            port,
            pending: PendingTable::new(),
            chain: Chain::default(),
            view: View::default(),
            forgets: Vec::with_capacity(FORGETS),
            in_pool: 0,
            spare_jobs: Vec::new(),
            moved: 0,
            heads: Vec::with_capacity(BATCH.into()),
            only_forgets: false,
            hurry: false,
            used: Vec::with_capacity(DESCRIPTORS_MAX),
            enabled: false,
            position: (0, 0),
            held: Vec::new(),
            pace: Pace::new(),
            turn: false,
        }
    }

    /// Requests taken and not answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.awaited() + self.in_pool + self.heads.len() + self.held.len()
    }

    /// Those of them that end by themselves: a lock may never be had, and nobody who stops the ring waits for that. When
    /// the boundary failed, locks end as all others do.
    pub(crate) fn must_finish(&self) -> usize {
        let may_wait = match self.shared.failure.is_set() {
            true => 0,
            false => self.pending.locks(),
        };
        self.in_flight() - self.held.len() - may_wait
    }

    /// Serves until there is nothing to do, or for long enough. When it returns, every source of work will wake the
    /// thread again, the kick, the lane's doorbell and the port's bell, or it is to run again after the time that it gives.
    pub(crate) fn run(&mut self, vring: &Vring, scratch: &mut Scratch) -> Option<Duration> {
        self.only_forgets = self.number == HIPRIO;
        let mut served = false;
        self.lane.after_sleep();
        self.port.after_sleep();
        let mut kicks_refused = false;
        for _ in 0..ROUNDS {
            // The memory map of this round: a change waits for no longer than the round takes.
            let memory = self.shared.memory.memory();
            let taken = self.take_heads(vring, &memory);
            let mut progress = self.release_held(&memory);
            progress |= self.collect(&memory, scratch);
            if let Some((rings, _)) = &taken {
                if self.pace.apart {
                    // Now: the guest may be about to fall asleep.
                    progress |= self.publish(vring, &memory);
                }
                if !std::mem::replace(&mut kicks_refused, true) {
                    rings.refuse_kicks();
                }
                let some = self.serve_heads(&memory, rings, scratch);
                progress |= some;
                served |= some;
            }
            self.send_forgets();
            if std::mem::take(&mut self.hurry) {
                self.lane.flush();
            }
            progress |= self.publish(vring, &memory);
            self.lane.flush();
            if std::mem::take(&mut self.turn) {
                // The worker's, on this CPU; if it has nothing then, it waits for something itself, and gets the rest.
                std::thread::yield_now();
                self.pace.turns = self.lane.has_completion();
                continue;
            }
            let avail = taken.as_ref().and_then(|(rings, next)| Some((rings, (*next)?)));
            // Another round only for what it would find: at one request at a time it is as long as the first.
            let found = || self.lane.has_completion() || self.more(avail);
            if progress && (avail.is_none() || !self.took_all() || found()) {
                continue;
            }
            // What nobody waits for is collected at the next request; the worker need not wake this thread for it.
            let awaited = self.awaited() > 0
                || !self.forgets.is_empty()
                || taken.as_ref().is_some_and(|(_, next)| next.is_none());
            if self.look(avail, awaited) {
                continue;
            }
            let (limit, after) = match served && self.only_forgets {
                true => (Some(FORGETS_LIE.0), FORGETS_LIE.1),
                false => (None, 0),
            };
            if let Some((rings, next)) = avail
                && rings.ask_for_kick(next, after)
            {
                rings.refuse_kicks();
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

    /// Whether everything that was taken is under way, and more could be.
    fn took_all(&self) -> bool {
        self.heads.is_empty()
            && self.held.is_empty()
            && self.forgets.is_empty()
            && self.lane.free_slots() > 0
            && self.in_flight() < BATCH.into()
            && !self.shared.failure.is_set()
    }

    /// Whether there is work besides the lane's.
    fn more(&self, avail: Option<(&Rings<'_>, u16)>) -> bool {
        more(&self.port, avail)
    }

    /// Looks at all sources of work for as long as that pays. Between requests that is where the guest runs on another
    /// CPU: found awake, this thread need not be woken, which costs the guest more than a request.
    fn look(&mut self, avail: Option<(&Rings<'_>, u16)>, awaited: bool) -> bool {
        if self.shared.failure.is_set() {
            return self.more(avail);
        }
        let port = &self.port;
        let other = || more(port, avail);
        if awaited || self.in_pool > 0 {
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
            self.in_pool -= 1;
            self.job_done(job, memory, &mut scratch.room);
        }
        progress
    }

    /// Dispatches the heads taken, as far as there is room for their requests.
    fn serve_heads(&mut self, memory: &Memory, rings: &Rings<'_>, scratch: &mut Scratch) -> bool {
        let mut progress = false;
        let sleeps = rings.is_awaited(self.position.1);
        let few = self.heads.len() <= AT_A_TIME;
        let before = self.awaited();
        while let Some(&head) = self.heads.last() {
            let given = self.awaited() - before;
            if self
                .pace
                .enough(self.used.len(), given, (sleeps, few), &self.lane)
            {
                self.turn = given > 0;
                break;
            }
            if self.moved >= DATA_BATCH || self.accept(head, memory, rings, scratch).is_err() {
                break;
            }
            progress = true;
            self.heads.pop();
        }
        progress
    }

    /// Requests that the worker has and somebody waits for.
    const fn awaited(&self) -> usize {
        self.pending.len() - self.pending.unawaited()
    }

    /// Sends FORGETs on, as far as there are slots.
    fn send_forgets(&mut self) {
        if self.forgets.is_empty() || self.shared.failure.is_set() {
            self.forgets.clear();
            return;
        }
        let mut sent = 0;
        for records in self.forgets.chunks(FORGETS) {
            if !notify(
                &mut self.lane,
                &mut self.pending,
                &mut self.chain,
                &Request::Forget(Bytes(records)),
            ) {
                break;
            }
            sent += records.len();
        }
        self.forgets.drain(..sent);
    }

    /// Sends a request whose answer nobody awaits, if there is a slot for it.
    pub(crate) fn notify(&mut self, request: &Request<'_>) {
        notify(&mut self.lane, &mut self.pending, &mut self.chain, request);
    }

    /// Puts a request of the guest into the lane, with the buffers at hand.
    pub(crate) fn submit(
        &mut self,
        request: &Request<'_>,
        caller: Caller,
        bulk: Option<Bulk>,
        awaits: Awaits,
        memory: &Memory,
    ) {
        // Asking for a descriptor holds a buffer that the worker needs not know of.
        let shown = bulk
            .as_ref()
            .filter(|_| !matches!(awaits, Awaits::Donation { .. }));
        self.hurry = true;
        self.pace.gave(request);
        match self.lane.submit(request, shown) {
            Ok(slot) => self
                .pending
                .put(slot, Pending { caller, bulk, awaits }, &mut self.chain),
            Err(error) => {
                self.give_back(bulk);
                self.answer_error(caller, SupervisorLane::errno(&error), memory);
            }
        }
    }

    pub(crate) fn give_back(&mut self, bulk: Option<Bulk>) {
        if let Some(bulk) = bulk {
            self.lane.give_bulk(bulk);
        }
    }
}

/// False: there is no slot.
fn notify(
    lane: &mut SupervisorLane,
    table: &mut PendingTable,
    chain: &mut Chain,
    request: &Request<'_>,
) -> bool {
    let Ok(slot) = lane.submit(request, None) else {
        return false;
    };
    chain.readable.clear();
    chain.writable.clear();
    let pending = Pending {
        caller: Caller { head: 0, unique: 0 },
        bulk: None,
        awaits: Awaits::Nothing,
    };
    table.put(slot, pending, chain);
    true
}

fn more(port: &Port, avail: Option<(&Rings<'_>, u16)>) -> bool {
    port.any_finished()
        || avail.is_some_and(|(rings, next)| rings.avail_index().is_some_and(|index| index != next))
}

#[cfg(test)]
mod tests;
