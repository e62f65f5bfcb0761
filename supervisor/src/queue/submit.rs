//! Step 4: requests on their way into the group's lane.

use airlockfs_ipc::{
    Bytes,
    message::Request,
    ring::{Bulk, SupervisorLane},
};

use super::{FORGETS, Group};
use crate::{
    chain::Chain,
    guest_memory::Memory,
    pending::{Awaits, Caller, Pending, PendingTable},
};

impl Group {
    /// Sends FORGETs on, as far as there are slots.
    pub(super) fn send_forgets(&mut self) {
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
                .put(slot, Pending::new(caller, bulk, awaits), &mut self.chain),
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
    let pending = Pending::new(Caller::default(), None, Awaits::Nothing);
    table.put(slot, pending, chain);
    true
}
