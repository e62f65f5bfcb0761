//! Requests that wait in a lane for the worker's reply, by their slot.

use airlockfs_ipc::ring::{Bulk, SLOTS, SlotId};

use crate::{
    chain::Chain,
    data::Access,
    fuse::{Io, Negotiated, ReplyShape},
};

/// A request in flight, besides its buffers.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Who waits.
    pub(crate) caller: Caller,
    /// The bulk buffer it holds.
    pub(crate) bulk: Option<Bulk>,
    /// What the reply is for.
    pub(crate) awaits: Awaits,
    /// Nobody waits any more: the guest was answered EIO, or is gone. What the reply brings is given back.
    pub(crate) late: bool,
}

impl Pending {
    /// What somebody waits for.
    pub(crate) const fn new(caller: Caller, bulk: Option<Bulk>, awaits: Awaits) -> Self {
        Self {
            caller,
            bulk,
            awaits,
            late: false,
        }
    }
}

/// The descriptor chain and the request that an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Caller {
    /// The chain.
    pub(crate) head: Head,
    /// `unique` of the FUSE header.
    pub(crate) unique: u64,
}

/// A descriptor chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Head {
    /// Which of the group's virtqueues it came in.
    pub(crate) queue: u8,
    /// Its first descriptor.
    pub(crate) index: u16,
}

/// What a reply is for.
#[derive(Debug)]
pub(crate) enum Awaits {
    /// Nobody: a FORGET, or what was answered before it was done.
    Nothing,
    /// A lock, which may be as long in coming as another holds it.
    Lock,
    /// A lock nobody wants any more: the driver began anew with its ring.
    StaleLock,
    /// INIT, whose session begins once the worker forgot the one before.
    Begin(Negotiated),
    /// DESTROY.
    End,
    /// The end of all that a VMM's session left in the worker: nobody in the guest waits for it.
    Clean,
    /// An operation.
    Answer {
        /// How its answer is laid out.
        shape: ReplyShape,
        /// What else follows from success.
        then: Then,
    },
    /// Data through the ring: `piece` bytes of it, `done` bytes having been moved before.
    Data {
        /// The whole operation.
        io: Io,
        /// Bytes moved.
        done: u32,
        /// Bytes asked for.
        piece: u32,
    },
    /// A descriptor, for the operation that is then carried out on it.
    Donation {
        /// The operation.
        io: Io,
        /// Where in the readable buffers a write's data begins.
        data_at: usize,
        /// What the descriptor must be open for.
        access: Access,
    },
}

/// What follows from success besides the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    Nothing,
    /// A handle on a regular file is to be entered in the handle table.
    Opened(Access),
    /// A handle on a directory likewise.
    OpenedDirectory,
    /// Some file may have a setuid or setgid bit now.
    ModeChanged,
}

/// The table. Buffers keep their room from request to request.
#[derive(Debug)]
pub(crate) struct PendingTable {
    slots: Vec<(Option<Pending>, Chain)>,
    count: usize,
    unawaited: usize,
    late: usize,
}

impl PendingTable {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self {
            slots: std::iter::repeat_with(Default::default).take(SLOTS).collect(),
            count: 0,
            unawaited: 0,
            late: 0,
        }
    }

    /// How many requests are in it.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// How many of them nobody waits for any more, while they may never end.
    pub(crate) const fn late(&self) -> usize {
        self.late
    }

    /// Nobody waits any more for these, but for waits for locks. Calls `each` with them and their buffers, which are gone then.
    pub(crate) fn give_up(
        &mut self,
        which: impl Fn(&Pending) -> bool,
        mut each: impl FnMut(&Pending, &mut Chain),
    ) {
        for (place, chain) in &mut self.slots {
            if let Some(pending) = place
                && !pending.late
                && !pending.is_for_lock()
                && which(pending)
            {
                self.unawaited += usize::from(!pending.is_unawaited());
                pending.late = true;
                self.late += 1;
                each(pending, chain);
                chain.readable.clear();
                chain.writable.clear();
            }
        }
    }

    /// How many requests of a queue wait for a lock.
    pub(crate) fn locks(&self, queue: u8) -> usize {
        let all = self.slots.iter().filter_map(|(place, _)| place.as_ref());
        all.filter(|pending| pending.is_lock_of(queue)).count()
    }

    /// How many requests waited for a lock that nobody wants any more.
    pub(crate) fn stale_locks(&self) -> usize {
        let all = self.slots.iter().filter_map(|(place, _)| place.as_ref());
        all.filter(|pending| matches!(pending.awaits, Awaits::StaleLock))
            .count()
    }

    /// How many of them nobody waits for.
    pub(crate) const fn unawaited(&self) -> usize {
        self.unawaited
    }

    /// The chains of a queue's requests that wait for a lock are gone: how many.
    pub(crate) fn forget_locks(&mut self, queue: u8) -> usize {
        let all = self.slots.iter_mut().filter_map(|(place, _)| place.as_mut());
        all.filter(|pending| pending.is_lock_of(queue))
            .map(|pending| pending.awaits = Awaits::StaleLock)
            .count()
    }

    /// Enters a request that was just submitted to `slot`, exchanging `chain` for an unused one.
    pub(crate) fn put(&mut self, slot: SlotId, pending: Pending, chain: &mut Chain) {
        if let Some((place, room)) = self.slots.get_mut(slot.index()) {
            self.count += 1;
            self.unawaited += usize::from(pending.is_unawaited());
            *place = Some(pending);
            std::mem::swap(room, chain);
        }
    }

    /// Takes the request in `slot` out, and its buffers into `chain`.
    pub(crate) fn take(&mut self, slot: SlotId, chain: &mut Chain) -> Option<Pending> {
        let (place, room) = self.slots.get_mut(slot.index())?;
        let pending = place.take()?;
        std::mem::swap(room, chain);
        self.count -= 1;
        self.unawaited -= usize::from(pending.is_unawaited());
        self.late -= usize::from(pending.late);
        Some(pending)
    }

    /// Takes any request out, as [`Self::take`] does: the worker will not answer any more.
    pub(crate) fn take_any(&mut self, chain: &mut Chain) -> Option<Pending> {
        let (place, room) = self.slots.iter_mut().find(|(place, _)| place.is_some())?;
        let pending = place.take()?;
        std::mem::swap(room, chain);
        self.count -= 1;
        self.unawaited -= usize::from(pending.is_unawaited());
        self.late -= usize::from(pending.late);
        Some(pending)
    }
}

impl Pending {
    const fn is_unawaited(&self) -> bool {
        self.late || matches!(self.awaits, Awaits::Nothing)
    }

    const fn is_for_lock(&self) -> bool {
        matches!(self.awaits, Awaits::Lock | Awaits::StaleLock)
    }

    const fn is_lock_of(&self, queue: u8) -> bool {
        matches!(self.awaits, Awaits::Lock) && self.caller.head.queue == queue
    }
}
