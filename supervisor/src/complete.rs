//! Step 7: from a reply of the worker to an answer in guest memory.

use std::sync::Once;

use airlockfs_ipc::{
    Errno, Handle, ProtocolError,
    message::Reply,
    recycle,
    ring::{BULK_SIZE, Bulk, SlotId},
};

use crate::{
    data::{Access, DonatedFile},
    dispatch::opened,
    fuse::{self, InitOutcome, Io, OUT_HEADER_LEN, ReplyShape},
    guest_io,
    guest_memory::Memory,
    pending::{Awaits, Caller, Pending, Then},
    queue::{Group, Room},
};

impl Group {
    /// Handles one completion of the lane.
    pub(crate) fn completed(
        &mut self,
        slot: SlotId,
        reply: &Reply<'_>,
        memory: &Memory,
        room: &mut Room,
    ) -> Result<(), ProtocolError> {
        let pending = self.pending.take(slot, &mut self.chain);
        let Some(pending) = pending else {
            return Err(ProtocolError("a reply to no request"));
        };
        if pending.late {
            return self.came_late(pending, reply, room);
        }
        let Pending {
            caller, bulk, awaits, ..
        } = pending;
        let handled = match awaits {
            Awaits::Nothing => {
                return match reply {
                    Reply::Done | Reply::Error(_) => Ok(()),
                    _ => Err(ProtocolError("another answer than done")),
                };
            }
            Awaits::Lock => match reply {
                Reply::Done => {
                    self.answer_lock(caller, None, memory);
                    Ok(())
                }
                Reply::Error(errno) => {
                    self.answer_lock(caller, Some(*errno), memory);
                    Ok(())
                }
                _ => Err(ProtocolError("another answer than a lock")),
            },
            Awaits::StaleLock => return Ok(()),
            Awaits::Clean => return is_done(reply),
            Awaits::Begin(negotiated) => {
                let reset = is_done(reply);
                if reset.is_ok() {
                    self.shared.session.run(negotiated);
                    self.answer_init(caller, &InitOutcome::Accepted(negotiated), memory, room);
                }
                reset
            }
            Awaits::End => {
                let reset = is_done(reply);
                if reset.is_ok() {
                    self.answer(caller, &fuse::reply::header(caller.unique, 0), 0, memory);
                }
                reset
            }
            Awaits::Answer { shape, then } => {
                self.follow(then, reply);
                self.encode(caller, shape, reply, bulk.as_ref(), memory, room)
            }
            Awaits::Data { io, done, piece } => {
                return self.data_came(caller, io, done, piece, bulk, reply, memory, room);
            }
            Awaits::Donation { io, data_at, access } => {
                return self.donation_came(caller, io, data_at, access, bulk, reply, memory, room);
            }
        };
        self.give_back(bulk);
        if handled.is_err() {
            self.answer_error(caller, Errno::EIO, memory);
        }
        handled
    }

    /// What success means for the handle table.
    fn follow(&self, then: Then, reply: &Reply<'_>) {
        let Some(handles) = &self.shared.handles else {
            return;
        };
        match then {
            Then::Opened(access) => {
                if let Some(handle) = opened(reply) {
                    handles.opened(handle, access);
                }
            }
            Then::OpenedDirectory => {
                if let Some(handle) = opened(reply) {
                    handles.opened_directory(handle);
                }
            }
            Then::ModeChanged => handles.mode_changed(),
            Then::Nothing => {}
        }
    }

    fn encode(
        &mut self,
        caller: Caller,
        shape: ReplyShape,
        reply: &Reply<'_>,
        bulk: Option<&Bulk>,
        memory: &Memory,
        room: &mut Room,
    ) -> Result<(), ProtocolError> {
        let Some(session) = self.view.of(&self.shared.session) else {
            // DESTROY overtook it.
            self.answer_error(caller, Errno::EIO, memory);
            return Ok(());
        };
        if let (ReplyShape::Dirents { plus, max }, Reply::Entries { size }, Some(bulk)) = (shape, reply, bulk)
        {
            let size = *size as usize;
            let max = (max as usize)
                .min(self.chain.writable.len().saturating_sub(OUT_HEADER_LEN))
                .min(BULK_SIZE);
            grow(&mut room.entries, size.min(BULK_SIZE));
            grow(&mut room.records, max);
            let (Some(entries), Some(records)) = (room.entries.get_mut(..size), room.records.get_mut(..max))
            else {
                return Err(ProtocolError("more directory entries than a buffer holds"));
            };
            // Copied before they are looked at.
            self.lane.bulk(bulk).copy_to_slice(0, entries);
            let body = fuse::dirent::encode(entries, plus, &session.options.cache, records)?;
            let written = records
                .get(..body)
                .map(|records| self.chain.writable.write(memory, OUT_HEADER_LEN, records));
            if written != Some(Ok(())) {
                self.no_room(caller);
                return Ok(());
            }
            self.answer(caller, &fuse::reply::header(caller.unique, body), body, memory);
            return Ok(());
        }
        let encoded = fuse::reply::encode(shape, reply, caller.unique, session, &mut room.head)?;
        if encoded.bulk > 0 {
            let bulk = bulk.ok_or(ProtocolError("data without a buffer"))?;
            let bulk = self.lane.bulk(bulk);
            let to = &self.chain.writable;
            if encoded.bulk > BULK_SIZE {
                return Err(ProtocolError("more data than a buffer holds"));
            }
            if guest_io::bulk_to_guest(&bulk, memory, to, encoded.head, encoded.bulk).is_err() {
                self.no_room(caller);
                return Ok(());
            }
        }
        self.answer(
            caller,
            room.head.get(..encoded.head).unwrap_or_default(),
            encoded.bulk,
            memory,
        );
        Ok(())
    }

    /// A piece of a READ's or WRITE's data went through the ring.
    #[expect(clippy::too_many_arguments, reason = "a request in flight, taken apart")]
    fn data_came(
        &mut self,
        caller: Caller,
        io: Io,
        done: u32,
        piece: u32,
        bulk: Option<Bulk>,
        reply: &Reply<'_>,
        memory: &Memory,
        room: &mut Room,
    ) -> Result<(), ProtocolError> {
        let bulk = bulk.ok_or(ProtocolError("data without a buffer"))?;
        let result = match (io, reply) {
            (Io::Read { .. }, Reply::Data { size }) | (Io::Write { .. }, Reply::Written { size })
                if *size <= piece =>
            {
                Ok(*size)
            }
            (_, Reply::Error(errno)) => Err(*errno),
            _ => {
                self.lane.give_bulk(bulk);
                self.answer_error(caller, Errno::EIO, memory);
                return Err(ProtocolError("another answer than data"));
            }
        };
        let moved = result.unwrap_or(0);
        self.moved += moved as usize;
        if matches!(io, Io::Read { .. }) && moved > 0 {
            let (to, skip) = (&self.chain.writable, OUT_HEADER_LEN + done as usize);
            if guest_io::bulk_to_guest(&self.lane.bulk(&bulk), memory, to, skip, moved as usize).is_err() {
                self.lane.give_bulk(bulk);
                self.no_room(caller);
                return Ok(());
            }
        }
        let done = done.saturating_add(moved);
        let (Io::Read { size, .. } | Io::Write { size, .. }) = io else {
            return Err(ProtocolError("another answer than data"));
        };
        if moved == piece && done < size && moved > 0 {
            // Only a READ is larger than a buffer.
            self.data_through_ring(caller, io, 0, done, bulk, memory);
            return Ok(());
        }
        self.lane.give_bulk(bulk);
        let reply = match (result, io) {
            (Err(errno), _) if done == 0 => Reply::Error(errno),
            (_, Io::Read { .. }) => Reply::Data { size: done },
            _ => Reply::Written { size: done },
        };
        self.answer_io(caller, io, &reply, memory, room);
        Ok(())
    }

    /// The worker gave a descriptor, or did not: the operation that asked for it is carried out either way.
    #[expect(clippy::too_many_arguments, reason = "a request in flight, taken apart")]
    fn donation_came(
        &mut self,
        caller: Caller,
        io: Io,
        data_at: usize,
        access: Access,
        bulk: Option<Bulk>,
        reply: &Reply<'_>,
        memory: &Memory,
        room: &mut Room,
    ) -> Result<(), ProtocolError> {
        let Some(handles) = &self.shared.handles else {
            return Err(ProtocolError("a donation nobody asked for"));
        };
        let handle = io.handle();
        let file = match reply {
            Reply::Donated => {
                let mode_seen = handles.mode_changes();
                match self.take_donation(handle, access, mode_seen) {
                    Ok(file) => file,
                    Err(error) => {
                        self.give_back(bulk);
                        self.answer_error(caller, Errno::EIO, memory);
                        return Err(error);
                    }
                }
            }
            Reply::NotDonated | Reply::Error(_) => None,
            _ => {
                self.give_back(bulk);
                self.answer_error(caller, Errno::EIO, memory);
                return Err(ProtocolError("another answer than a donation"));
            }
        };
        let file = self.settle(handle, file);
        match (file, bulk) {
            (Some(file), bulk) if self.may_operate(io, &file) => {
                self.give_back(bulk);
                self.local(caller, io, &file, data_at, memory, room);
            }
            (_, Some(bulk)) => self.data_through_ring(caller, io, data_at, 0, bulk, memory),
            (_, None) => self.through_ring(caller, io, memory),
        }
        Ok(())
    }

    /// The file that the worker donated for `handle`; none if this process cannot take it. That breaks no rules, and the
    /// worker serves the file.
    fn take_donation(
        &mut self,
        handle: Handle,
        access: Access,
        mode_seen: u32,
    ) -> Result<Option<DonatedFile>, ProtocolError> {
        static NOT_HANDED_OVER: Once = Once::new();
        static UNKNOWN: Once = Once::new();
        let Some(descriptor) = self.lane.receive_donation(handle)? else {
            NOT_HANDED_OVER.call_once(|| {
                log::info!(
                    "a file's descriptor is not handed over: this process holds as many as its limit allows, or a security \
                     module forbids it; the data of such files goes through the worker"
                );
            });
            return Ok(None);
        };
        let file = DonatedFile::check(descriptor, access, self.shared.options.writeback, mode_seen)?;
        if file.is_none() {
            UNKNOWN.call_once(|| {
                log::info!(
                    "only the worker may look at a file (on a FUSE mount without allow_other?); the data of such files goes \
                     through the worker"
                );
            });
        }
        Ok(file)
    }

    /// What is known of `handle` from now on: its file, or that it has none.
    fn settle(&self, handle: Handle, file: Option<DonatedFile>) -> Option<recycle::Shared<DonatedFile>> {
        let handles = self.shared.handles.as_ref()?;
        if file.is_none() {
            handles.refused(handle);
        }
        file.map(|file| handles.donated(handle, file))
    }

    /// The worker will not answer this request any more.
    pub(crate) fn fail(&mut self, pending: &Pending, memory: &Memory) {
        match pending.awaits {
            _ if pending.late => {}
            Awaits::Nothing | Awaits::StaleLock | Awaits::Clean => {}
            Awaits::Lock => self.answer_lock(pending.caller, Some(Errno::EIO), memory),
            _ => self.answer_error(pending.caller, Errno::EIO, memory),
        }
    }

    /// Answers INIT.
    pub(crate) fn answer_init(
        &mut self,
        caller: Caller,
        outcome: &InitOutcome,
        memory: &Memory,
        room: &mut Room,
    ) {
        let length = fuse::reply::init(outcome, caller.unique, &mut room.head);
        self.answer(caller, room.head.get(..length).unwrap_or_default(), 0, memory);
    }

    /// Answers with an errno.
    pub(crate) fn answer_error(&mut self, caller: Caller, errno: Errno, memory: &Memory) {
        self.answer(caller, &fuse::reply::error(caller.unique, errno), 0, memory);
    }

    /// Writes `head` to the request's buffers, behind which `body` bytes stand already, and gives the chain back.
    pub(crate) fn answer(&mut self, caller: Caller, head: &[u8], body: usize, memory: &Memory) {
        match self.chain.writable.write(memory, 0, head) {
            Ok(()) => self.put_used(caller.head, head.len() + body),
            Err(_) => self.no_room(caller),
        }
    }

    fn no_room(&mut self, caller: Caller) {
        self.malformed(caller.head, &"no room for the answer");
        self.put_used(caller.head, 0);
    }
}

fn is_done(reply: &Reply<'_>) -> Result<(), ProtocolError> {
    match reply {
        Reply::Done => Ok(()),
        _ => Err(ProtocolError("a reset was not done")),
    }
}

fn grow(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
}
