//! 5 serve: a thread takes requests of a lane, and answers each by its operation.
//!
//! Any of them may take long, or hang: see [`crate::crew`]. Those that are known to take long give the lane away beforehand.

use std::time::Duration;

use airlockfs_ipc::{
    Errno, Handle, ProtocolError,
    message::{FileOperation, Reply, Request},
    ring::{BULK_SIZE, BulkBuffer, Hand, MessageBuffer, Next, Ticket, WorkerLane},
};
use nix::unistd::UnlinkatFlags;

use crate::{
    crew::Crew,
    handle::Open,
    ops::{
        attr, create, dir, file_flags, io, link,
        lock::{self, Change, Set},
        lookup, open, statfs, xattr,
    },
    session,
    volume::Volume,
};

type Answer<'a> = Result<Reply<'a>, Errno>;

/// How long a reset waits for what was open to be closed.
const CLOSING: Duration = Duration::from_secs(1);

/// A thread with what it serves lanes with.
pub(crate) struct Server {
    hand: Hand,
    message: MessageBuffer,
    /// Room for values and lists of extended attributes.
    room: Vec<u8>,
}

impl Server {
    /// The thread of this hand; with room for attributes of inodes if there are any. What it keeps is there before the first
    /// request, as whose turn it is depends on the time that others take.
    pub(crate) fn new(hand: Hand, xattr: bool) -> Self {
        let room = if xattr { xattr::XATTR_MAX } else { 0 };
        Self {
            hand,
            message: MessageBuffer::new(),
            room: Vec::with_capacity(room),
        }
    }

    /// Serves a lane until another thread does, or the other process breaks the boundary's rules.
    pub(crate) fn serve(&mut self, crew: &Crew, number: usize) -> Result<(), ProtocolError> {
        let Some(lane) = crew.lane(number) else {
            return Ok(());
        };
        let Self { hand, message, room } = self;
        lane.join(hand);
        loop {
            match lane.next(hand, message)? {
                Next::Request(ticket, request) => {
                    session::enter();
                    let mut serving = Serving {
                        crew,
                        number,
                        lane,
                        volume: crew.volume(),
                        hand,
                        room,
                    };
                    serving.request(ticket, &request)?;
                }
                Next::Wait => lane.wait(hand),
                Next::Leave => return Ok(()),
            }
        }
    }
}

/// A lane at the thread that serves it now.
struct Serving<'a> {
    crew: &'a Crew,
    /// The lane's.
    number: usize,
    lane: &'a WorkerLane,
    volume: &'a Volume,
    hand: &'a Hand,
    room: &'a mut Vec<u8>,
}

impl Serving<'_> {
    fn request(&mut self, ticket: Ticket, request: &Request<'_>) -> Result<(), ProtocolError> {
        let volume = self.volume;
        let answer = match *request {
            Request::Ping => Ok(Reply::Done),
            Request::Forget(records) => Ok(lookup::forget(volume, records.0)),
            Request::Reset => {
                // Descriptors closed are descriptors for the next session, but a close may hang.
                let _ = self.crew.reset()?.recv_timeout(CLOSING);
                Ok(Reply::Done)
            }
            Request::Lookup { parent, name } => lookup::lookup(volume, parent, name),
            Request::LookupKnown { node, above } => lookup::known(volume, node, above),
            Request::GetAttr { node } => attr::get(volume, node, None),
            Request::SetAttr {
                node,
                handle,
                ref change,
            } => attr::set(volume, node, handle, change),
            Request::ReadLink { node } => {
                let mut room = [0; libc::PATH_MAX as usize - 1];
                let reply = link::target(volume, node, &mut room).unwrap_or_else(Reply::Error);
                self.complete(ticket, &reply);
                return Ok(());
            }
            Request::Symlink {
                parent,
                name,
                target,
                ref creation,
            } => create::symlink(volume, parent, name, target.0, creation),
            Request::Mknod {
                parent,
                name,
                rdev,
                ref creation,
            } => create::mknod(volume, parent, name, rdev, creation),
            Request::Mkdir {
                parent,
                name,
                ref creation,
            } => create::mkdir(volume, parent, name, creation),
            Request::Unlink { parent, name } => {
                link::unlink(volume, parent, name, UnlinkatFlags::NoRemoveDir)
            }
            Request::Rmdir { parent, name } => link::unlink(volume, parent, name, UnlinkatFlags::RemoveDir),
            Request::Rename {
                parent,
                name,
                new_parent,
                new_name,
                flags,
            } => link::rename(volume, (parent, name), (new_parent, new_name), flags),
            Request::Link {
                node,
                new_parent,
                new_name,
            } => link::link(volume, node, new_parent, new_name),
            Request::Open {
                node,
                flags,
                kill_suidgid,
            } => match open::open(volume, node, flags, kill_suidgid, false) {
                Err(Errno::EAGAIN) => {
                    self.takes_long();
                    open::open(volume, node, flags, kill_suidgid, true)
                }
                answer => answer,
            },
            Request::Create {
                parent,
                name,
                flags,
                kill_suidgid,
                ref creation,
            } => create::create(volume, parent, name, flags, kill_suidgid, creation),
            Request::TmpFile {
                parent,
                flags,
                ref creation,
            } => create::temporary(volume, parent, flags, creation),
            Request::File(operation) => self.file(&ticket, operation)?,
            Request::Donate { handle } => {
                // The channel may be full (net.unix.max_dgram_qlen) until the supervisor looks at what was answered.
                self.lane.flush();
                open::donate(volume, handle, self.lane)
            }
            Request::Release { handle, flock_owner } => open::release(volume, handle, flock_owner),
            Request::ReleaseDir { handle } => open::release(volume, handle, None),
            Request::Flush { handle, lock_owner } => lock::flush(volume, handle, lock_owner),
            Request::FsyncDir { handle, datasync } => {
                self.long_on(handle, |open| io::sync(volume, open, datasync))
            }
            Request::CopyFileRange {
                source,
                source_offset,
                target,
                target_offset,
                length,
                kill_suidgid,
            } => self.long_on(source, |from| {
                let to = volume.open_file(target)?;
                io::copy(
                    volume,
                    (from, source_offset),
                    (&to, target_offset),
                    length,
                    kill_suidgid,
                )
            }),
            Request::OpenDir { node, flags } => open::open_dir(volume, node, flags),
            Request::ReadDir {
                handle,
                offset,
                size,
                plus,
            } => {
                let (buffer, size) = self.bulk(&ticket, size)?;
                dir::read(volume, handle, offset, size, plus, &buffer)
            }
            Request::StatFs { node } => statfs::statfs(volume, node),
            Request::SyncFs { node } => {
                self.takes_long();
                statfs::sync(volume, node)
            }
            Request::Access { node, mask, caller } => attr::access(volume, node, mask, caller),
            Request::SetXattr {
                node,
                name,
                size,
                flags,
                acl_kill_sgid,
            } => {
                let (buffer, size) = self.bulk(&ticket, size)?;
                self.room.resize(xattr::XATTR_MAX, 0);
                match self.room.get_mut(..size) {
                    None => Err(Errno::E2BIG),
                    Some(room) => {
                        let length = buffer.copy_to_slice(0, room);
                        let value = room.get(..length).unwrap_or_default();
                        xattr::set(volume, node, name, value, flags, acl_kill_sgid)
                    }
                }
            }
            Request::GetXattr { node, name, size } => {
                let (buffer, size) = self.bulk_or_size(&ticket, size)?;
                self.room.resize(xattr::XATTR_MAX, 0);
                xattr::get(volume, node, name, size, self.room, buffer.as_ref())
            }
            Request::ListXattr { node, size } => {
                let (buffer, size) = self.bulk_or_size(&ticket, size)?;
                self.room.resize(xattr::XATTR_MAX, 0);
                xattr::list(volume, node, size, self.room, buffer.as_ref())
            }
            Request::RemoveXattr { node, name } => xattr::remove(volume, node, name),
            Request::GetFileFlags { handle, extended, .. } => file_flags::get(volume, handle, extended),
            Request::SetFileFlags { handle, flags, .. } => file_flags::set(volume, handle, flags),
            Request::SetFsXattr { handle, value, .. } => file_flags::set_extended(volume, handle, value),
            Request::GetLock {
                handle,
                owner,
                ref lock,
            } => lock::get(volume, handle, owner, lock),
            Request::SetLock {
                handle,
                owner,
                lock,
                flock,
                wait,
            } => {
                let change = Change {
                    handle,
                    owner,
                    lock,
                    flock,
                };
                self.set_lock(ticket, &change, wait);
                return Ok(());
            }
            Request::Interrupt { wait } => {
                volume.locks.interrupt(wait);
                Ok(Reply::Done)
            }
        };
        self.complete(ticket, &answer.unwrap_or_else(Reply::Error));
        Ok(())
    }

    /// What needs nothing but the open file.
    fn file(&self, ticket: &Ticket, operation: FileOperation) -> Result<Answer<'static>, ProtocolError> {
        let volume = self.volume;
        Ok(match operation {
            FileOperation::Read { handle, offset, size } => self.read(ticket, handle, offset, size)?,
            FileOperation::Write {
                handle,
                offset,
                size,
                kill_suidgid,
            } => self.write(ticket, handle, offset, size, kill_suidgid)?,
            FileOperation::Fsync { handle, datasync } => {
                self.long_on(handle, |open| io::sync(volume, open, datasync))
            }
            FileOperation::Lseek {
                handle,
                offset,
                whence,
            } => io::seek(volume, handle, offset, whence),
            FileOperation::Fallocate {
                handle,
                offset,
                length,
                mode,
                kill_suidgid,
            } => self.long_on(handle, |open| {
                io::allocate(volume, open, (offset, length), mode, kill_suidgid)
            }),
            FileOperation::GetAttr { node, handle } => attr::get(volume, node, Some(handle)),
        })
    }

    /// The bulk buffer that must come with a request, and how much of it counts.
    fn bulk(&self, ticket: &Ticket, size: u32) -> Result<(BulkBuffer, usize), ProtocolError> {
        let buffer = self.lane.bulk(ticket);
        let buffer = buffer.ok_or(ProtocolError("a request without its bulk buffer"))?;
        match usize::try_from(size) {
            Ok(size) if size <= BULK_SIZE => Ok((buffer, size)),
            _ => Err(ProtocolError("more data than a bulk buffer holds")),
        }
    }

    /// The same, or none for a request that asks how large the answer is.
    fn bulk_or_size(&self, ticket: &Ticket, size: u32) -> Result<(Option<BulkBuffer>, usize), ProtocolError> {
        match size {
            0 => Ok((None, 0)),
            _ => self.bulk(ticket, size).map(|(buffer, size)| (Some(buffer), size)),
        }
    }

    fn complete(&self, ticket: Ticket, reply: &Reply<'_>) {
        self.lane.complete(self.hand, ticket, reply);
    }

    /// Gives the lane to another thread, if one is free, before what is known to take long. Without one the lane waits, and
    /// gets the first that is free.
    fn takes_long(&self) {
        self.lane.flush();
        self.crew.call(self.number);
    }

    /// An operation on an open file that takes long.
    fn long_on(&self, handle: Handle, operation: impl FnOnce(&Open) -> Answer<'static>) -> Answer<'static> {
        let open = self.volume.open_file(handle)?;
        self.takes_long();
        operation(&open)
    }

    /// Answers now, or when the lock that is in the way is given up.
    fn set_lock(&mut self, ticket: Ticket, change: &Change, wait: Option<u64>) {
        let reply = match (lock::set(self.volume, change), wait) {
            (Ok(Set::Waits(holder, wanted)), Some(name)) => {
                let lane = self.lane.clone();
                let answer = move |result: Result<(), Errno>| {
                    let reply = result.map_or_else(Reply::Error, |()| Reply::Done);
                    lane.answer(ticket, &reply);
                };
                return self.volume.locks.wait(name, holder, wanted, Box::new(answer));
            }
            (Ok(Set::Waits(..)), None) => Reply::Error(Errno::EAGAIN),
            (Ok(Set::Done), _) => Reply::Done,
            (Err(error), _) => Reply::Error(error),
        };
        self.complete(ticket, &reply);
    }

    fn read(
        &self,
        ticket: &Ticket,
        handle: Handle,
        offset: u64,
        size: u32,
    ) -> Result<Answer<'static>, ProtocolError> {
        let (buffer, size) = self.bulk(ticket, size)?;
        let mut opened = self.volume.open_file(handle);
        if let (Err(Errno::EAGAIN), Some(node)) = (&opened, handle.node()) {
            // A program of the host has a lease on it.
            self.takes_long();
            opened = open::by_node(self.volume, node, true);
        }
        Ok(opened.and_then(|open| {
            let done = match io::read_at_hand(self.volume, &open, offset, size, &buffer)? {
                io::Read::Done(length) => return Ok(io::data(length)),
                io::Read::Waits(done) => {
                    self.takes_long();
                    done
                }
                io::Read::MayWait => 0,
            };
            io::read_rest(&open, offset, size, done, &buffer)
        }))
    }

    fn write(
        &self,
        ticket: &Ticket,
        handle: Handle,
        offset: u64,
        size: u32,
        kill: bool,
    ) -> Result<Answer<'static>, ProtocolError> {
        let (buffer, size) = self.bulk(ticket, size)?;
        Ok(self.volume.open_file(handle).and_then(|open| {
            if io::write_is_slow(&open, size) {
                self.takes_long();
            }
            io::write(self.volume, &open, offset, size, kill, &buffer)
        }))
    }
}
