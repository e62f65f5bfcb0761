//! How a batch of requests is dealt out so that neither the guest nor the worker falls asleep meanwhile, or is kept from the
//! CPU that it needs.

use airlockfs_ipc::{
    message::{FileOperation, Request},
    ring::SupervisorLane,
};

/// Most answers that lie ready, or quick requests that the worker is given at a time, while the guest is awake on another
/// CPU; and most requests of any kind for which it pays to have the worker answer the first before the others.
pub(super) const AT_A_TIME: usize = 8;

/// Requests found while another thread ran here, after which the guest counts as one that runs here. The worker may have been
/// that thread, now and then.
const UNSURE: u8 = 16;

/// What a queue's thread knows of where the others run.
#[derive(Debug)]
pub(super) struct Pace {
    /// The guest's last requests were found by looking, so it runs on another CPU.
    pub(super) apart: bool,
    /// How often they were, since it was plain, while another thread ran on this CPU: it may have been the guest's.
    unsure: u8,
    /// The worker answered in its last turn on this CPU.
    pub(super) turns: bool,
    /// The last request given to the worker is [quick](Pace::gave).
    pub(super) quick: bool,
}

impl Pace {
    /// Of a queue that has not served any.
    pub(super) const fn new() -> Self {
        Self {
            apart: false,
            unsure: 0,
            turns: true,
            quick: false,
        }
    }

    /// The thread looked for requests, which another thread on this CPU may have brought if `gave_way`.
    pub(super) const fn looked(&mut self, found: bool, gave_way: bool) {
        self.unsure = match gave_way {
            true => self.unsure.saturating_add(1),
            false => 0,
        };
        self.apart = found && (!gave_way || self.apart && self.unsure <= UNSURE);
    }

    /// The worker was given this one.
    pub(super) const fn gave(&mut self, request: &Request<'_>) {
        self.quick = is_quick(request);
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

/// The worker has the answer in about the time that it takes to fall asleep: requests that open and change nothing. Of
/// slower ones a long batch is better given as a whole.
const fn is_quick(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Lookup { .. }
            | Request::LookupKnown { .. }
            | Request::GetAttr { .. }
            | Request::ReadLink { .. }
            | Request::File(FileOperation::Read { .. } | FileOperation::GetAttr { .. })
            | Request::StatFs { .. }
            | Request::Access { .. }
            | Request::GetXattr { .. }
            | Request::ListXattr { .. }
    )
}
