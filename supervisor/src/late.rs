//! Requests that nobody waits for any more, while a call of the worker hangs: the VMM stopped the ring and was not to wait for
//! ever, or it went. The guest was answered EIO where it could be. Slot and bulk buffer are the worker's until its reply comes, as
//! the call may write there. What the reply brings then, the guest does not know of: it is given back.

use airlockfs_ipc::{
    Errno, Handle, NodeId, ProtocolError,
    message::{DirEntry, Reply, Request},
    ring::{BULK_SIZE, Bulk},
};
use vm_memory::GuestAddressSpace;

use crate::{
    backend::Vring,
    data::Job,
    fuse,
    pending::{Awaits, Pending},
    queue::{Group, QUEUES_MAX, Room},
};

impl Group {
    /// Answers EIO to what is in flight of the queue at `place` and may never end. Its answers go nowhere from here on.
    pub(crate) fn give_up(&mut self, place: usize, vrings: &[Vring]) {
        let shared = self.shared.clone();
        let memory = shared.memory.memory();
        let Ok(queue) = u8::try_from(place) else {
            return;
        };
        self.port.given_up().give_up(place);
        let mut callers = Vec::new();
        let session = &shared.session;
        self.pending.give_up(
            |pending| !matches!(pending.awaits, Awaits::Nothing) && pending.caller.head.queue == queue,
            |pending, chain| {
                if matches!(pending.awaits, Awaits::Begin(_)) {
                    session.not_begun();
                }
                let head = fuse::reply::error(pending.caller.unique, Errno::EIO);
                let written = chain.writable.write(&memory, 0, &head).map_or(0, |()| head.len());
                callers.push((pending.caller, written));
            },
        );
        self.jobs.give_up(queue, |caller, header| {
            callers.push((caller, header.write_error(&memory, caller.unique, Errno::EIO)));
        });
        for job in self.take_denied(|job| job.caller.head.queue == queue) {
            let head = fuse::reply::error(job.caller.unique, Errno::EIO);
            let written = job.chain.writable.write(&memory, 0, &head);
            callers.push((job.caller, written.map_or(0, |()| head.len())));
        }
        let count = callers.len();
        for (caller, written) in callers {
            self.put_used(caller.head, written);
        }
        self.publish(vrings, &memory);
        if count > 0 {
            log::warn!("a ring was stopped while {count} of its requests hung: they were answered EIO");
        }
    }

    /// The VMM is gone: nobody waits for anything that is in flight, but for waits for locks, which a reset ends.
    pub(crate) fn give_up_all(&mut self) {
        let mut heads = Vec::new();
        self.pending.give_up(
            |_| true,
            |pending, _| {
                if !matches!(pending.awaits, Awaits::Nothing) {
                    heads.push(pending.caller.head);
                }
            },
        );
        for place in 0..QUEUES_MAX {
            self.port.given_up().give_up(place);
            // At most 256.
            self.jobs
                .give_up(place as u8, |caller, _| heads.push(caller.head));
        }
        heads.into_iter().for_each(|head| self.drop_taken(head));
    }

    #[expect(clippy::vec_box, reason = "the boxes go round between the group and the pool")]
    fn take_denied(&mut self, which: impl Fn(&Job) -> bool) -> Vec<Box<Job>> {
        let (taken, left) = std::mem::take(&mut self.denied)
            .into_iter()
            .partition(|job| which(job));
        self.denied = left;
        taken
    }

    /// The reply came after all.
    pub(crate) fn came_late(
        &mut self,
        pending: Pending,
        reply: &Reply<'_>,
        room: &mut Room,
    ) -> Result<(), ProtocolError> {
        let result = self.give_back_what_came(&pending, reply, room);
        self.give_back(pending.bulk);
        result
    }

    fn give_back_what_came(
        &mut self,
        pending: &Pending,
        reply: &Reply<'_>,
        room: &mut Room,
    ) -> Result<(), ProtocolError> {
        match (reply, &pending.awaits) {
            (Reply::Donated, Awaits::Donation { io, .. }) => {
                drop(self.lane.receive_donation(io.handle())?);
            }
            (Reply::Opened { handle }, _) => self.release_unknown(*handle),
            (Reply::Created { entry, handle }, _) => {
                self.release_unknown(*handle);
                self.forget_node(entry.node);
            }
            (Reply::Entry(entry), _) => self.forget_node(entry.node),
            (Reply::Entries { size }, _) => {
                self.forget_listed(*size as usize, pending.bulk.as_ref(), room)?
            }
            _ => {}
        }
        Ok(())
    }

    fn release_unknown(&mut self, handle: Handle) {
        self.notify(&Request::ReleaseDir { handle });
    }

    /// As [`Request::Forget`] has it.
    fn forget_node(&mut self, node: NodeId) {
        self.forgets.extend(node.0.to_le_bytes());
        self.forgets.extend(1u64.to_le_bytes());
    }

    /// A READDIRPLUS counted a lookup for each name.
    fn forget_listed(
        &mut self,
        size: usize,
        bulk: Option<&Bulk>,
        room: &mut Room,
    ) -> Result<(), ProtocolError> {
        let (Some(bulk), true) = (bulk, size <= BULK_SIZE) else {
            return Err(ProtocolError("more directory entries than a buffer holds"));
        };
        room.entries.resize(size.max(room.entries.len()), 0);
        let entries = room.entries.get_mut(..size).unwrap_or_default();
        self.lane.bulk(bulk).copy_to_slice(0, entries);
        let mut nodes = Vec::new();
        let mut rest = &*entries;
        while !rest.is_empty() {
            let (DirEntry { entry, .. }, after) = DirEntry::decode(rest)?;
            rest = after;
            if let Some(entry) = entry {
                nodes.push(entry.node);
            }
        }
        nodes.into_iter().for_each(|node| self.forget_node(node));
        Ok(())
    }
}
