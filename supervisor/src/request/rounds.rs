//! The rounds of a thread with its virtqueues: it takes heads, has their requests carried on, collects what the worker and the
//! data threads are done with, and publishes the used rings and interrupts the guest once for a batch.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use vm_memory::GuestAddressSpace;

use super::{
    Buffers, Head, QUEUES_MAX, collect, decode, drive, forget,
    group::{Group, Round},
    queue::{AvailRing, Virtqueue},
    schedule::{AT_A_TIME, BATCH, ROUNDS},
};
use crate::{backend::Vring, data::CompletionQueue, guest_memory::Memory, rings::Rings};

/// The high-priority queue.
pub(super) const HIPRIO: usize = 0;

/// One for each of the group's queues that can be used.
type AvailRings<'m> = [Option<AvailRing<'m>>; QUEUES_MAX];

impl Group {
    /// Serves until there is nothing to do, for long enough, or until it is `interrupted`. When it returns, every source of
    /// work will wake the thread again, the kicks, the lane's doorbell and the completions' bell, or it is to run again after
    /// the time that it gives.
    pub(crate) fn run(
        &mut self,
        vrings: &[Vring],
        buffers: &mut Buffers,
        interrupted: impl Fn() -> bool,
    ) -> Option<Duration> {
        let first = self.queues.first();
        self.schedule
            .woke(first.is_some_and(|queue| queue.number() == HIPRIO));
        let mut served = false;
        self.lane.ring.after_sleep();
        self.completions.after_sleep();
        let mut kicks_refused = [false; QUEUES_MAX];
        for count in 0..ROUNDS {
            if count > 0 && interrupted() {
                break;
            }
            let memory = self.shared.memory.memory();
            let mut avail = [const { None }; QUEUES_MAX];
            self.take_heads(vrings, &memory, &mut avail);
            let avail = avail.get(..self.queues.len()).unwrap_or_default();
            let mut progress = collect::collect(self, &memory, buffers);
            if avail.iter().any(Option::is_some) {
                if self.schedule.apart {
                    // Now: the guest may be about to fall asleep.
                    progress |= self.publish(vrings, &memory);
                }
                for (ring, refused) in avail.iter().zip(&mut kicks_refused) {
                    if let Some(ring) = ring
                        && !std::mem::replace(refused, true)
                    {
                        ring.rings.refuse_kicks();
                    }
                }
                let some = self.serve_heads(&memory, avail, buffers);
                progress |= some;
                served |= some;
            }
            if self.completions.take_left_behind() {
                // The rings are another VMM's by now, and what was taken is nobody's.
                self.discard();
                self.give_up_all();
                self.clean();
                continue;
            }
            progress |= self.send_forgets(&memory, buffers);
            self.lane.hurry();
            progress |= self.publish(vrings, &memory);
            self.lane.ring.flush();
            if std::mem::take(&mut self.schedule.turn) {
                // The worker's, on this CPU; if it has nothing then, it waits for something itself, and gets the rest.
                std::thread::yield_now();
                self.schedule.turns = self.lane.ring.has_completion();
                continue;
            }
            let withheld = avail.iter().flatten().any(|ring| ring.next.is_none());
            let open = !withheld && avail.iter().any(Option::is_some);
            // Another round only for what it would find: at one request at a time it is as long as the first.
            let found = || self.lane.ring.has_completion() || more(&self.completions, avail);
            if progress && (!open || !self.took_all() || found()) {
                continue;
            }
            let (limit, after) = self.schedule.rest(served);
            if self.falls_asleep(avail, withheld, after) {
                return limit;
            }
        }
        self.completions.ring();
        None
    }

    /// Looks for more work, and makes sure that whatever comes later wakes the thread. False: there is some now.
    fn falls_asleep(&mut self, avail: &[Option<AvailRing<'_>>], withheld: bool, after: u16) -> bool {
        // What nobody waits for is collected at the next request; the worker need not wake this thread for it.
        let forgets = !self.lane.forgets.is_empty() || self.batch.is_some();
        let awaited = self.lane.pending.awaited() > 0
            || forgets
            || withheld
            || self.closing
            || !self.waiting.is_empty();
        if self.look(avail, awaited) || ask_for_kicks(avail, after) || !self.completions.before_sleep() {
            return false;
        }
        // A lane that failed is not looked at any more.
        let sleeps = self.shared.failure.is_set() || self.lane.ring.before_sleep(awaited);
        if !sleeps {
            self.completions.after_sleep();
        }
        sleeps
    }

    /// Takes heads from all available rings, if the lane has room for their requests.
    fn take_heads<'m>(&mut self, vrings: &[Vring], memory: &'m Memory, avail: &mut AvailRings<'m>) {
        let may = !self.shared.draining.load(Relaxed);
        let room = self.has_slot();
        for ((queue, vring), ring) in self.queues.iter_mut().zip(vrings).zip(avail) {
            let before = queue.heads();
            *ring = queue.take_heads(vring, memory, &mut self.lane.pending, (may, room));
            self.schedule.turns |= queue.heads() > before;
        }
    }

    /// Whether a request can be taken: there is a slot for it, or it will not need one, for a lane that failed takes no more.
    fn has_slot(&self) -> bool {
        self.lane.has_slot() || self.shared.failure.is_set()
    }

    /// Whether everything that was taken is under way, and more could be.
    fn took_all(&self) -> bool {
        let queues = &self.queues;
        queues.iter().all(|queue| queue.heads() == 0 && queue.held() == 0)
            && self.lane.forgets.is_empty()
            && self.batch.is_none()
            && self.lane.has_slot()
            && queues.iter().map(Virtqueue::taken).sum::<usize>() < BATCH.into()
            && !self.shared.failure.is_set()
    }

    /// Looks at all sources of work for as long as that pays. Between requests that is where the guest runs on another
    /// CPU: found awake, this thread need not be woken, which costs the guest more than a request.
    fn look(&mut self, avail: &[Option<AvailRing<'_>>], awaited: bool) -> bool {
        let completions = &self.completions;
        let other = || more(completions, avail);
        if self.shared.failure.is_set() {
            return other();
        }
        if awaited || self.jobs.len() > 0 {
            self.lane.ring.look(other)
        } else {
            let found = self.lane.ring.look_idle(other);
            self.schedule.looked(found, self.lane.ring.gave_way());
            found
        }
    }

    /// Sends FORGETs on, and takes more of a long batch.
    fn send_forgets(&mut self, memory: &Memory, buffers: &mut Buffers) -> bool {
        let next = forget::go_on(self, memory);
        let progress = next.is_some();
        if let Some(next) = next {
            let buffers = &mut buffers.reply;
            drive(self, next, &mut Round { memory, buffers });
        }
        match self.shared.failure.is_set() {
            true => self.lane.forgets.clear(),
            false => self.lane.send_forgets(),
        }
        progress
    }

    /// Serves the heads taken, as far as there is room for their requests; another queue's first each time.
    fn serve_heads(
        &mut self,
        memory: &Memory,
        avail: &[Option<AvailRing<'_>>],
        buffers: &mut Buffers,
    ) -> bool {
        let mut progress = false;
        let before = self.lane.pending.awaited();
        let first = self.schedule.first;
        let (later, sooner) = avail.split_at_checked(first).unwrap_or((avail, &[]));
        for (place, ring) in (first..).zip(sooner).chain((0..).zip(later)) {
            if let Some(ring) = ring {
                progress |= self.serve_queue((place, before), memory, &ring.rings, buffers);
            }
            if self.schedule.turn {
                break;
            }
        }
        self.schedule.first = match sooner {
            [_, _, ..] => first + 1,
            _ => 0,
        };
        progress
    }

    /// The same for the queue at `place`; the worker had `before` requests that somebody waits for.
    fn serve_queue(
        &mut self,
        (place, before): (usize, usize),
        memory: &Memory,
        rings: &Rings<'_>,
        buffers: &mut Buffers,
    ) -> bool {
        let Some(queue) = self.queues.get(place) else {
            return false;
        };
        let mut progress = false;
        let sleeps = rings.is_awaited(queue.next_used());
        let few = queue.heads() <= AT_A_TIME;
        let given_up = self.completions.given_up().count(place as u8);
        while let Some(queue) = self.queues.get(place)
            && let Some(head) = queue.head()
        {
            let given = self.lane.pending.awaited() - before;
            let answered = queue.answered();
            if self
                .schedule
                .enough(answered, given, (sleeps, few), &self.lane.ring)
            {
                self.schedule.turn = given > 0;
                break;
            }
            if self.completions.is_left_behind()
                || self.schedule.is_heavy()
                || !self.serve(head, memory, rings, buffers)
            {
                break;
            }
            progress = true;
            if let Some(queue) = self.queues.get_mut(place) {
                queue.next_head();
                if self.completions.given_up().count(place as u8) != given_up {
                    queue.withhold();
                    break;
                }
            }
        }
        progress
    }

    /// Takes the request that begins at `head`. False: it stays in its ring, untouched, as the lane has no room.
    fn serve(&mut self, head: Head, memory: &Memory, rings: &Rings<'_>, buffers: &mut Buffers) -> bool {
        if !self.has_slot() || !self.lane.may_forget() {
            return false;
        }
        let request = self.spare.take(head);
        let session = self.session.of(&self.shared.session);
        let next = decode::decode(request, memory, rings, session, &mut buffers.control);
        let mut round = Round {
            memory,
            buffers: &mut buffers.reply,
        };
        drive(self, next, &mut round)
    }
}

/// Whether there is work besides the lane's.
fn more(completions: &CompletionQueue, avail: &[Option<AvailRing<'_>>]) -> bool {
    completions.any_finished() || avail.iter().flatten().any(AvailRing::has_more)
}

/// Has every driver kick when it adds something, or `after` more than that. True: some have already.
fn ask_for_kicks(avail: &[Option<AvailRing<'_>>], after: u16) -> bool {
    let ask = |ring: &AvailRing<'_>| ring.next.is_some_and(|next| ring.rings.ask_for_kick(next, after));
    let any = avail.iter().flatten().fold(false, |any, ring| ask(ring) | any);
    if any {
        avail.iter().flatten().for_each(|ring| ring.rings.refuse_kicks());
    }
    any
}
