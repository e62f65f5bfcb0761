//! Step 2 to 4: from a descriptor chain to a request in the lane, a file operation made here, or an answer at once.

use airlockfs_ipc::{
    Errno, Handle,
    message::{Reply, Request},
    recycle,
    ring::{BULK_SIZE, Bulk},
};

use crate::{
    data::{Access, DonatedFile, Route},
    fuse::{self, IN_HEADER_LEN, InitOutcome, Io, Operation, ReplyShape},
    guest_io,
    guest_memory::Memory,
    pending::{Awaits, Caller, Head, Then},
    queue::{Group, NoRoom, Room, Scratch},
    rings::Rings,
    session::Begin,
};

/// FORGETs waiting to be sent, in bytes, beyond which no more are taken.
const FORGETS_WAITING: usize = 64 << 10;

impl Group {
    /// Takes the request that begins at `head`, or leaves it for later and untouched when the lane has no room.
    pub(crate) fn accept(
        &mut self,
        head: Head,
        memory: &Memory,
        rings: &Rings<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), NoRoom> {
        if !self.has_slot() || self.forgets.len() > FORGETS_WAITING {
            return Err(NoRoom);
        }
        if let Err(error) = self.chain.walk(memory, rings, head.index) {
            self.malformed(head, &error);
            self.put_used(head, 0);
            return Ok(());
        }
        let Scratch { control, room, .. } = scratch;
        let lengths = fuse::Chain {
            readable: self.chain.readable.len(),
            writable: self.chain.writable.len(),
        };
        let mut header = [0; IN_HEADER_LEN];
        control.clear();
        // What is too short for a header stays empty, and is refused by decode.
        if self.chain.readable.read(memory, 0, &mut header).is_ok() {
            control.extend_from_slice(&header);
            control.resize(fuse::control_len(&header, lengths.readable).max(IN_HEADER_LEN), 0);
            if let Some(rest) = control.get_mut(IN_HEADER_LEN..)
                && self.chain.readable.read(memory, IN_HEADER_LEN, rest).is_err()
            {
                // The VMM took that memory away meanwhile.
                control.clear();
            }
        }
        let session = self.view.of(&self.shared.session);
        match fuse::decode(control, lengths, session) {
            Ok(decoded) => {
                let caller = Caller {
                    head,
                    unique: decoded.unique,
                };
                self.dispatch(caller, decoded.operation, control.len(), memory, room)
            }
            Err(refusal) => {
                if refusal.malformed {
                    self.malformed(head, &refusal.why);
                }
                match refusal.answer {
                    Some((unique, errno)) => self.answer_error(Caller { head, unique }, errno, memory),
                    None => self.put_used(head, 0),
                }
                Ok(())
            }
        }
    }

    fn dispatch(
        &mut self,
        caller: Caller,
        operation: Operation<'_>,
        data_at: usize,
        memory: &Memory,
        room: &mut Room,
    ) -> Result<(), NoRoom> {
        self.only_forgets &= matches!(operation, Operation::Forget(_) | Operation::ForgetBatch { .. });
        match operation {
            Operation::Interrupt { unique } => self.interrupt(caller, unique),
            Operation::Forget(forgets) => {
                self.forgets.extend_from_slice(forgets.as_bytes());
                if let Some(handles) = &self.shared.handles {
                    handles.forgotten(forgets.as_bytes());
                }
                self.put_used(caller.head, 0);
            }
            Operation::ForgetBatch { length } => return self.begin_batch(caller.head, data_at, length),
            _ if self.shared.failure.is_set() => self.answer_error(caller, Errno::EIO, memory),
            Operation::Init(init) => self.init(caller, &init, memory, room),
            Operation::Destroy => {
                self.shared.session.destroy();
                self.clear_handles();
                self.submit(&Request::Reset, caller, None, Awaits::End, memory);
            }
            Operation::Io(io) => return self.io(caller, io, data_at, memory, room),
            Operation::Control { request, reply, bulk } => {
                return self.control(caller, &request, reply, bulk, memory);
            }
        }
        Ok(())
    }

    fn init(&mut self, caller: Caller, init: &fuse::Init, memory: &Memory, room: &mut Room) {
        if !self.shared.session.may_begin() {
            return self.answer_error(caller, Errno::EIO, memory);
        }
        let outcome = fuse::negotiate(init, &self.shared.options);
        if let InitOutcome::Accepted(negotiated) = outcome {
            match self.shared.session.begin(negotiated) {
                Begin::Refused => return self.answer_error(caller, Errno::EIO, memory),
                Begin::ResetFirst => {
                    self.clear_handles();
                    return self.submit(&Request::Reset, caller, None, Awaits::Begin(negotiated), memory);
                }
                Begin::Running => self.clear_handles(),
            }
        }
        self.answer_init(caller, &outcome, memory, room);
    }

    /// Only a wait for a lock ends early; the guest gets the answer of any other request when it is done.
    fn interrupt(&mut self, caller: Caller, wait: u64) {
        let options = &self.shared.options;
        if (options.posix_lock || options.flock) && !self.shared.failure.is_set() {
            self.notify(&Request::Interrupt { wait });
        }
        self.put_used(caller.head, 0);
    }

    fn clear_handles(&self) {
        if let Some(handles) = &self.shared.handles {
            handles.clear();
        }
    }

    fn control(
        &mut self,
        caller: Caller,
        request: &Request<'_>,
        shape: ReplyShape,
        value: &[u8],
        memory: &Memory,
    ) -> Result<(), NoRoom> {
        let needs_bulk = matches!(shape, ReplyShape::Bytes { .. } | ReplyShape::Dirents { .. })
            || matches!(request, Request::SetXattr { .. });
        let bulk = if needs_bulk {
            Some(self.lane.take_bulk().ok_or(NoRoom)?)
        } else {
            None
        };
        if let Some(bulk) = &bulk {
            self.lane.bulk(bulk).copy_from_slice(0, value);
        }
        let then = match *request {
            Request::Open { flags, .. } | Request::Create { flags, .. } | Request::TmpFile { flags, .. } => {
                Then::Opened(Access::of_flags(flags))
            }
            Request::SetAttr { change, .. } if change.mode.is_some_and(|mode| mode & 0o6000 != 0) => {
                Then::ModeChanged
            }
            Request::OpenDir { .. } => Then::OpenedDirectory,
            Request::Release { handle, flock_owner } => {
                let known = self.released(handle);
                if known && flock_owner.is_none() && !self.shared.options.posix_lock {
                    return self.done_before(caller, request, memory);
                }
                Then::Nothing
            }
            Request::ReleaseDir { handle } => {
                if self.released(handle) {
                    return self.done_before(caller, request, memory);
                }
                Then::Nothing
            }
            _ => Then::Nothing,
        };
        let awaits = match request {
            Request::SetLock { wait: Some(_), .. } => Awaits::Lock,
            _ => Awaits::Answer { shape, then },
        };
        self.submit(request, caller, bulk, awaits, memory);
        Ok(())
    }

    /// Takes a handle out of the table; false if it was not in it.
    fn released(&self, handle: Handle) -> bool {
        let handles = self.shared.handles.as_ref();
        handles.is_some_and(|handles| handles.released(handle))
    }

    /// Answers what cannot fail and gives the guest nothing to wait for, then has the worker do it: the end of a handle
    /// that is in the table. Linux does not wait for it either; where it ends locks, others do.
    fn done_before(&mut self, caller: Caller, request: &Request<'_>, memory: &Memory) -> Result<(), NoRoom> {
        self.answer(caller, &fuse::reply::header(caller.unique, 0), 0, memory);
        self.notify(request);
        Ok(())
    }

    fn io(
        &mut self,
        caller: Caller,
        io: Io,
        data_at: usize,
        memory: &Memory,
        room: &mut Room,
    ) -> Result<(), NoRoom> {
        let (Io::Read { size, .. } | Io::Write { size, .. }) = io else {
            self.io_without_data(caller, io, data_at, memory, room);
            return Ok(());
        };
        let Some(bulk) = self.lane.take_bulk() else {
            // No data can go through the ring now.
            let file = self.donated(io).ok_or(NoRoom)?;
            self.local(caller, io, &file, data_at, memory, room);
            return Ok(());
        };
        let route = match &self.shared.handles {
            Some(handles) => handles.route(io.handle(), size),
            None => Route::Ring,
        };
        match route {
            Route::File(file) if self.may_operate(io, &file) => {
                self.lane.give_bulk(bulk);
                self.local(caller, io, &file, data_at, memory, room);
            }
            Route::AskFirst(access) => {
                let awaits = Awaits::Donation { io, data_at, access };
                self.submit(
                    &Request::Donate { handle: io.handle() },
                    caller,
                    Some(bulk),
                    awaits,
                    memory,
                );
            }
            Route::File(_) | Route::Ring => self.data_through_ring(caller, io, data_at, 0, bulk, memory),
        }
        Ok(())
    }

    /// Attributes are asked for again and again, as data is: the second time is worth a descriptor. All else is done
    /// where the file is.
    fn io_without_data(&mut self, caller: Caller, io: Io, data_at: usize, memory: &Memory, room: &mut Room) {
        let route = match (&self.shared.handles, io) {
            (Some(handles), Io::GetAttr { handle, .. }) if self.knows_attributes(io) => {
                handles.route(handle, 0)
            }
            (Some(_), Io::GetAttr { .. }) | (None, _) => Route::Ring,
            (Some(_), _) => self.donated(io).map_or(Route::Ring, Route::File),
        };
        match route {
            Route::File(file) => self.local(caller, io, &file, data_at, memory, room),
            Route::AskFirst(access) => {
                let awaits = Awaits::Donation { io, data_at, access };
                self.submit(
                    &Request::Donate { handle: io.handle() },
                    caller,
                    None,
                    awaits,
                    memory,
                );
            }
            Route::Ring => self.through_ring(caller, io, memory),
        }
    }

    /// Sends what moves no data on.
    pub(crate) fn through_ring(&mut self, caller: Caller, io: Io, memory: &Memory) {
        let (shape, then) = (io.reply(), Then::Nothing);
        self.submit(
            &io.to_operation().into(),
            caller,
            None,
            Awaits::Answer { shape, then },
            memory,
        );
    }

    /// Whether fstat(2) tells this process what the guest is to see. It does not tell what STATX asks for.
    fn knows_attributes(&self, io: Io) -> bool {
        self.shared.attributes_alike && io.reply() == ReplyShape::Attr
    }

    /// The donated file that `io` may be carried out on.
    fn donated(&self, io: Io) -> Option<recycle::Shared<DonatedFile>> {
        let file = self.shared.handles.as_ref()?.file(io.handle())?;
        self.may_operate(io, &file).then_some(file)
    }

    /// Whether `io` may be carried out here: what is not open for writing gives the worker's error, and what a
    /// change leaves of a setuid or setgid bit is the worker's to decide.
    pub(crate) fn may_operate(&self, io: Io, file: &DonatedFile) -> bool {
        let changes = self
            .shared
            .handles
            .as_ref()
            .map_or(0, |handles| handles.mode_changes());
        match io {
            Io::Write { .. } | Io::Fallocate { .. } => file.is_writable() && file.keeps_mode(changes),
            _ => true,
        }
    }

    /// Sends the part of a READ or WRITE on that follows the first `done` bytes.
    pub(crate) fn data_through_ring(
        &mut self,
        caller: Caller,
        io: Io,
        data_at: usize,
        done: u32,
        bulk: Bulk,
        memory: &Memory,
    ) {
        let part = io.to_operation().part(done, BULK_SIZE as u32);
        let piece = part.size().unwrap_or(0);
        if matches!(io, Io::Write { .. }) {
            let buffer = self.lane.bulk(&bulk);
            let from = data_at + done as usize;
            if guest_io::guest_to_bulk(&buffer, memory, &self.chain.readable, from, piece as usize).is_err() {
                self.lane.give_bulk(bulk);
                return self.answer_error(caller, Errno::EIO, memory);
            }
        }
        self.moved += piece as usize;
        self.submit(
            &part.into(),
            caller,
            Some(bulk),
            Awaits::Data { io, done, piece },
            memory,
        );
    }
}

/// The handle a reply opened.
pub(crate) fn opened(reply: &Reply<'_>) -> Option<Handle> {
    match *reply {
        Reply::Opened { handle } | Reply::Created { handle, .. } => Some(handle),
        _ => None,
    }
}
