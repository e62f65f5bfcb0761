//! Requests that nobody waits for any more, while a call of the worker hangs: the VMM stopped the ring and was not to wait for
//! ever, or it went. The guest was answered EIO where it could be. Slot and bulk buffer are the worker's until its reply comes, as
//! the call may write there. What the reply brings then, the guest does not know of: it is given back.

use airlockfs_ipc::{
    Errno, ProtocolError,
    message::{DirEntry, Reply},
    ring::{BULK_SIZE, Bulk},
};
use vm_memory::GuestAddressSpace;

use super::{
    buffers::ReplyBuffers,
    group::{Group, QUEUES_MAX},
    lane::Lane,
    value::{Awaits, Request},
};
use crate::{backend::Vring, fuse, guest_memory::Memory};

impl Group {
    /// Answers EIO to what is in flight of the queue at `place` and may never end. Its answers go nowhere from here on.
    pub(crate) fn give_up(&mut self, place: usize, vrings: &[Vring]) {
        let shared = self.shared.clone();
        let memory = shared.memory.memory();
        let Ok(queue) = u8::try_from(place) else {
            return;
        };
        self.completions.given_up().give_up(place);
        let mut chains = Vec::new();
        self.lane.pending.give_up(Some(queue), |request| {
            if matches!(request.awaits, Awaits::Begin(_)) {
                shared.session.not_begun();
            }
            chains.push((request.head, write_error(request, &memory)));
        });
        self.jobs.give_up(queue, |job| {
            let written = job.header.write_error(&memory, job.unique, Errno::EIO);
            chains.push((job.head, written));
        });
        let (gone, stay) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|request| request.head.queue == queue);
        self.waiting = stay;
        for request in gone {
            chains.push((request.head, write_error(&request, &memory)));
            self.over(request);
        }
        let count = chains.len();
        for (head, written) in chains {
            self.put_used(head, written);
        }
        self.publish(vrings, &memory);
        if count > 0 {
            log::warn!("a ring was stopped while {count} of its requests hung: they were answered EIO");
        }
    }

    /// The VMM is gone: nobody waits for anything that is in flight, but for waits for locks, which a reset ends.
    pub(crate) fn give_up_all(&mut self) {
        let mut heads = Vec::new();
        self.lane.pending.give_up_the_rest();
        self.lane
            .pending
            .give_up(None, |request| heads.push(request.head));
        for place in 0..QUEUES_MAX {
            self.completions.given_up().give_up(place);
            // At most 256.
            self.jobs.give_up(place as u8, |job| heads.push(job.head));
        }
        heads.into_iter().for_each(|head| self.drop_taken(head));
    }
}

fn write_error(request: &Request, memory: &Memory) -> usize {
    let head = fuse::reply::error(request.unique, Errno::EIO);
    let written = request.chain.writable.write(memory, 0, &head);
    written.map_or(0, |()| head.len())
}

/// The reply came after all.
pub(super) fn came_late(
    request: Box<Request>,
    reply: &Reply<'_>,
    group: &mut Group,
    buffers: &mut ReplyBuffers,
) -> Result<(), ProtocolError> {
    let result = give_back_what_came(&request, reply, &mut group.lane, &mut buffers.entries);
    group.over(request);
    result
}

fn give_back_what_came(
    request: &Request,
    reply: &Reply<'_>,
    lane: &mut Lane,
    buffer: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    match (reply, &request.awaits) {
        (Reply::Donated, Awaits::Donation(_)) => {
            drop(lane.ring.receive_donation(request.operation.handle())?);
        }
        (Reply::Opened { handle }, _) => lane.release(*handle),
        (Reply::Created { entry, handle }, _) => {
            lane.release(*handle);
            lane.forget(entry.node);
        }
        (Reply::Entry(entry), _) => lane.forget(entry.node),
        (Reply::Entries { size }, _) => {
            forget_listed(*size as usize, request.bulk.as_ref(), lane, buffer)?;
        }
        _ => {}
    }
    Ok(())
}

/// A READDIRPLUS counted a lookup for each name.
fn forget_listed(
    size: usize,
    bulk: Option<&Bulk>,
    lane: &mut Lane,
    buffer: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    let (Some(bulk), true) = (bulk, size <= BULK_SIZE) else {
        return Err(ProtocolError("more directory entries than a buffer holds"));
    };
    buffer.resize(size.max(buffer.len()), 0);
    let entries = buffer.get_mut(..size).unwrap_or_default();
    lane.ring.bulk(bulk).copy_to_slice(0, entries);
    let mut rest = &*entries;
    while !rest.is_empty() {
        let (DirEntry { entry, .. }, after) = DirEntry::decode(rest)?;
        rest = after;
        if let Some(entry) = entry {
            lane.forget(entry.node);
        }
    }
    Ok(())
}
