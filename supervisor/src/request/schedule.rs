//! How much is done at a time, and in which order: so that neither the guest nor the worker falls asleep meanwhile, or is kept
//! from the CPU that it needs. All of it is about speed; what is right does not depend on it.

use std::time::Duration;

use airlockfs_ipc::ring::SupervisorLane;

use super::value::{Awaits, Request};

/// Most chains taken before completions are looked at and published.
pub(super) const BATCH: u16 = 32;
/// Bytes of file data after which they are, too.
const DATA_BATCH: usize = 512 << 10;
/// Rounds of work after which the thread looks at its other events: its end, above all.
pub(super) const ROUNDS: usize = 1000;
/// How long FORGETs may lie in the high-priority ring, and how many of them at most, while they come in numbers: a kick
/// for each costs the guest and this thread more than the FORGET.
pub(super) const FORGETS_LIE: (Duration, u16) = (Duration::from_millis(1), 32);

/// Most answers that lie ready, or quick requests that the worker is given at a time, while the guest is awake on another
/// CPU; and most requests of any kind for which it pays to have the worker answer the first before the others.
pub(super) const AT_A_TIME: usize = 8;

/// Requests found while another thread ran here, after which the guest counts as one that runs here. The worker may have been
/// that thread, now and then.
const UNSURE: u8 = 16;

/// What a queue's thread knows of where the others run, and of the batch that it is at.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The guest's last requests were found by looking, so it runs on another CPU.
    pub(super) apart: bool,
    /// How often they were, since it was plain, while another thread ran on this CPU: it may have been the guest's.
    unsure: u8,
    /// The worker answered in its last turn on this CPU.
    pub(super) turns: bool,
    /// The last request given to the worker is [quick](crate::fuse::Row::quick).
    pub(super) quick: bool,
    /// The worker is to have its turn on this CPU before it gets more.
    pub(super) turn: bool,
    /// The queue whose heads are looked at first.
    pub(super) first: usize,
    /// Bytes of file data moved since used elements were last published.
    moved: usize,
    /// Nothing but FORGETs was taken since the thread slept, from the ring that is meant for them.
    only_forgets: bool,
}

impl Schedule {
    /// Of queues that have not served any.
    pub(super) const fn new() -> Self {
        Self {
            apart: false,
            unsure: 0,
            turns: true,
            quick: false,
            turn: false,
            first: 0,
            moved: 0,
            only_forgets: false,
        }
    }

    /// The thread woke. Is the group's first ring that which is meant for FORGETs?
    pub(super) const fn woke(&mut self, high_priority: bool) {
        self.only_forgets = high_priority;
    }

    /// The thread looked for requests, which another thread on this CPU may have brought if `gave_way`.
    pub(super) const fn looked(&mut self, found: bool, gave_way: bool) {
        self.unsure = match gave_way {
            true => self.unsure.saturating_add(1),
            false => 0,
        };
        self.apart = found && (!gave_way || self.apart && self.unsure <= UNSURE);
    }

    /// A request was taken.
    pub(super) const fn took(&mut self, forgets: bool) {
        self.only_forgets &= forgets;
    }

    /// The worker is given this one. A descriptor is not had as quickly as what is asked for.
    pub(super) const fn gave(&mut self, request: &Request) {
        self.quick = request.row.quick && !matches!(request.awaits, Awaits::Donation(_));
    }

    /// So many bytes of file data were moved.
    pub(super) const fn moved(&mut self, bytes: u32) {
        self.moved += bytes as usize;
    }

    /// Used elements were published.
    pub(super) const fn published(&mut self) {
        self.moved = 0;
    }

    /// Whether so much data was moved that used elements are to be published first.
    pub(super) const fn is_heavy(&self) -> bool {
        self.moved >= DATA_BATCH
    }

    /// After how long the thread looks again at rings that it asks no kick of, if at all, and how many elements it asks none for.
    pub(super) fn rest(&self, served: bool) -> (Option<Duration>, u16) {
        match served && self.only_forgets {
            true => (Some(FORGETS_LIE.0), FORGETS_LIE.1),
            false => (None, 0),
        }
    }

    /// Whether a guest on another CPU is better served by what was done of its requests, of which there were `few`, than
    /// by looking at more of them first: `answered` lie ready, `given` are the worker's. If it waits for an answer it falls asleep
    /// (`sleeps`), and to wake it costs as much as some ten requests, but next to nothing in the first microseconds. Where
    /// this thread and the worker's share a CPU, the worker does all it was given before this thread runs again.
    pub(super) fn enough(
        &self,
        answered: usize,
        given: usize,
        (sleeps, few): (bool, bool),
        lane: &SupervisorLane,
    ) -> bool {
        if !self.apart {
            return false;
        }
        match given {
            _ if sleeps && answered > 0 => true,
            0 => answered >= AT_A_TIME,
            _ if !self.turns || !lane.shares_cpu() => false,
            _ if self.quick => sleeps || given >= AT_A_TIME,
            _ => sleeps && few,
        }
    }
}
