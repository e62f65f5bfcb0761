//! 4 lane: the worker is asked, in the lane of the group.

use airlockfs_ipc::{
    Bytes, Handle, NodeId, message,
    ring::{Bulk, SupervisorLane},
};

use super::{
    pending::{Pending, PendingTable},
    value::{Answer, Awaits, Next, Request},
};

/// Bytes of FORGETs in one message.
pub(super) const FORGETS: usize = 500 * 16;
/// FORGETs waiting to be sent, in bytes, beyond which no more are taken.
const FORGETS_WAITING: usize = 64 << 10;

/// The lane, and what waits in it for a reply.
pub(super) struct Lane {
    pub(super) ring: SupervisorLane,
    pub(super) pending: PendingTable,
    /// FORGETs not yet sent, in the layout of [`message::Request::Forget`].
    pub(super) forgets: Vec<u8>,
    /// A guest waits for something that the worker was not told of yet.
    hurry: bool,
}

impl Lane {
    /// An empty one.
    pub(super) fn new(ring: SupervisorLane) -> Self {
        Self {
            ring,
            pending: PendingTable::new(),
            forgets: Vec::with_capacity(FORGETS),
            hurry: false,
        }
    }

    /// Puts a request of the guest into a slot.
    pub(super) fn ask(&mut self, request: Box<Request>, message: &message::Request<'_>) -> Next<'static> {
        // Asking for a descriptor holds a buffer that the worker needs not know of.
        let shown = match request.awaits {
            Awaits::Donation(_) => None,
            _ => request.bulk.as_ref(),
        };
        self.hurry = true;
        match self.ring.submit(message, shown) {
            Ok(slot) => {
                self.pending.put(slot, Pending::Request(request));
                Next::Away
            }
            Err(error) => Next::Answer(request, Answer::Error(SupervisorLane::errno(&error))),
        }
    }

    /// Sends what no guest waits for. False: there is no slot.
    pub(super) fn notify(&mut self, message: &message::Request<'_>) -> bool {
        self.put(message, Pending::Unawaited)
    }

    /// Has the worker drop all that the guest has there. False: there is no slot.
    pub(super) fn clean(&mut self) -> bool {
        let put = self.put(&message::Request::Reset, Pending::Clean);
        self.ring.flush();
        put
    }

    fn put(&mut self, message: &message::Request<'_>, pending: Pending) -> bool {
        let slot = self.ring.submit(message, None);
        slot.map(|slot| self.pending.put(slot, pending)).is_ok()
    }

    /// Sends FORGETs on, as far as there are slots.
    pub(super) fn send_forgets(&mut self) {
        let mut sent = 0;
        while let Some(rest) = self.forgets.get(sent..)
            && !rest.is_empty()
        {
            let length = rest.len().min(FORGETS);
            let records = rest.get(..length).unwrap_or_default();
            let Ok(slot) = self.ring.submit(&message::Request::Forget(Bytes(records)), None) else {
                break;
            };
            self.pending.put(slot, Pending::Unawaited);
            sent += length;
        }
        self.forgets.drain(..sent);
    }

    /// Whether more FORGETs may be taken.
    pub(super) fn may_forget(&self) -> bool {
        self.forgets.len() <= FORGETS_WAITING
    }

    /// The guest does not know of a handle that came late.
    pub(super) fn release(&mut self, handle: Handle) {
        self.notify(&message::Request::ReleaseDir { handle });
    }

    /// Nor of a lookup.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.forgets.extend(node.0.to_le_bytes());
        self.forgets.extend(1u64.to_le_bytes());
    }

    /// Whether a request can be put into it.
    pub(super) const fn has_slot(&self) -> bool {
        self.ring.free_slots() > 0
    }

    /// Tells a worker that sleeps of what a guest waits for.
    pub(super) fn hurry(&mut self) {
        if std::mem::take(&mut self.hurry) {
            self.ring.flush();
        }
    }

    pub(super) fn give_back(&mut self, bulk: Option<Bulk>) {
        if let Some(bulk) = bulk {
            self.ring.give_bulk(bulk);
        }
    }
}
