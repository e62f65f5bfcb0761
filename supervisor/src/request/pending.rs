//! What waits in a lane for the worker's reply, by its slot.

use airlockfs_ipc::ring::{SLOTS, SlotId};

use super::value::{Awaits, Request};

/// What a slot holds.
#[derive(Debug, Default)]
pub(super) enum Pending {
    /// Nothing is in flight.
    #[default]
    Free,
    /// A request of the guest.
    Request(Box<Request>),
    /// What nobody waits for: a FORGET, or what was answered before it was done.
    Unawaited,
    /// The end of all that a VMM's session left in the worker: nobody in the guest waits for it.
    Clean,
    /// Either of these, once nobody wants to know how it ends.
    GivenUp,
}

impl Pending {
    const fn is_unawaited(&self) -> bool {
        match self {
            Self::Unawaited | Self::GivenUp => true,
            Self::Request(request) => request.late,
            Self::Free | Self::Clean => false,
        }
    }

    const fn is_late(&self) -> bool {
        match self {
            Self::GivenUp => true,
            Self::Request(request) => request.late,
            _ => false,
        }
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct PendingTable {
    slots: Vec<Pending>,
    count: usize,
    unawaited: usize,
    late: usize,
}

impl PendingTable {
    /// An empty table.
    pub(super) fn new() -> Self {
        Self {
            slots: std::iter::repeat_with(Pending::default).take(SLOTS).collect(),
            count: 0,
            unawaited: 0,
            late: 0,
        }
    }

    /// How many slots are in flight.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// How many of them somebody waits for.
    pub(super) const fn awaited(&self) -> usize {
        self.count - self.unawaited
    }

    /// How many of them nobody waits for any more, while they may never end.
    pub(super) const fn late(&self) -> usize {
        self.late
    }

    fn requests(&self) -> impl Iterator<Item = &Request> {
        self.slots.iter().filter_map(|pending| match pending {
            Pending::Request(request) => Some(&**request),
            _ => None,
        })
    }

    fn requests_mut(&mut self) -> impl Iterator<Item = &mut Request> {
        self.slots.iter_mut().filter_map(|pending| match pending {
            Pending::Request(request) => Some(&mut **request),
            _ => None,
        })
    }

    /// Nobody waits any more for requests of a queue, or of any, but for waits for locks. Calls `each` with them; their
    /// buffers are gone then.
    pub(super) fn give_up(&mut self, queue: Option<u8>, mut each: impl FnMut(&Request)) {
        let mut count = 0;
        for request in self.requests_mut() {
            let is_lock = matches!(request.awaits, Awaits::Lock | Awaits::StaleLock);
            if !request.late && !is_lock && queue.is_none_or(|queue| request.head.queue == queue) {
                request.late = true;
                count += 1;
                each(request);
                request.chain.clear();
            }
        }
        self.unawaited += count;
        self.late += count;
    }

    /// Nobody wants to know any more how that ends which no guest waits for.
    pub(super) fn give_up_the_rest(&mut self) {
        for pending in &mut self.slots {
            if let Pending::Unawaited | Pending::Clean = pending {
                self.unawaited += usize::from(!pending.is_unawaited());
                self.late += 1;
                *pending = Pending::GivenUp;
            }
        }
    }

    /// How many requests of a queue wait for a lock.
    pub(super) fn locks(&self, queue: u8) -> usize {
        self.requests()
            .filter(|request| request.is_lock_of(queue))
            .count()
    }

    /// How many requests waited for a lock that nobody wants any more.
    pub(super) fn stale_locks(&self) -> usize {
        let is_stale = |request: &&Request| matches!(request.awaits, Awaits::StaleLock);
        self.requests().filter(is_stale).count()
    }

    /// The chains of a queue's requests that wait for a lock are gone: how many.
    pub(super) fn forget_locks(&mut self, queue: u8) -> usize {
        let locks = self.requests_mut().filter(|request| request.is_lock_of(queue));
        locks.map(|request| request.awaits = Awaits::StaleLock).count()
    }

    /// Enters what was just submitted to `slot`.
    pub(super) fn put(&mut self, slot: SlotId, pending: Pending) {
        if let Some(place) = self.slots.get_mut(slot.index()) {
            self.count += 1;
            self.unawaited += usize::from(pending.is_unawaited());
            *place = pending;
        }
    }

    /// Takes out what is in `slot`.
    pub(super) fn take(&mut self, slot: SlotId) -> Pending {
        self.take_at(slot.index())
    }

    /// Takes anything out: the worker will not answer any more.
    pub(super) fn take_any(&mut self) -> Option<Pending> {
        let at = self
            .slots
            .iter()
            .position(|pending| !matches!(pending, Pending::Free))?;
        Some(self.take_at(at))
    }

    fn take_at(&mut self, at: usize) -> Pending {
        let pending = self.slots.get_mut(at).map(std::mem::take).unwrap_or_default();
        self.count -= usize::from(!matches!(pending, Pending::Free));
        self.unawaited -= usize::from(pending.is_unawaited());
        self.late -= usize::from(pending.is_late());
        pending
    }
}
