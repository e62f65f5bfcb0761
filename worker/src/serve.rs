//! Step 5 of a request's life: a lane's thread takes requests, and each is answered by its operation, here or by the
//! pool, in any order.

use std::sync::Arc;

use airlockfs_ipc::{
    Errno, Handle, ProtocolError,
    message::{Reply, Request},
    ring::{BULK_SIZE, BulkBuffer, MessageBuffer, Ticket, WorkerLane},
};
use airlockfs_policy::confine::Confined;
use nix::unistd::UnlinkatFlags;

use crate::{
    handle::Open,
    ops::{
        attr, create, dir, file_flags, io, link,
        lock::{self, Change, Set},
        lookup, open, statfs, xattr,
    },
    pool::Pool,
    volume::Volume,
};

type Answer<'a> = Result<Reply<'a>, Errno>;

/// A lane with what its thread needs.
pub(crate) struct Server {
    lane: WorkerLane,
    volume: Arc<Volume>,
    pool: Arc<Pool>,
    /// Room for values and lists of extended attributes.
    room: Vec<u8>,
}

/// Takes requests until the other process breaks the boundary's rules. Needs proof that this process is confined.
pub(crate) fn serve(_: &Confined, lane: WorkerLane, volume: Arc<Volume>, pool: Arc<Pool>) -> ProtocolError {
    let mut server = Server {
        lane,
        volume,
        pool,
        room: Vec::new(),
    };
    let mut buffer = MessageBuffer::new();
    loop {
        let served = match server.lane.next(&mut buffer) {
            Ok(Some((ticket, request))) => server.request(ticket, &request),
            Ok(None) => {
                server.lane.wait();
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            return error;
        }
    }
}

impl Server {
    fn request(&mut self, ticket: Ticket, request: &Request<'_>) -> Result<(), ProtocolError> {
        let volume = &*self.volume;
        let answer = match *request {
            Request::Ping => Ok(Reply::Done),
            Request::Forget(records) => Ok(lookup::forget(volume, records.0)),
            Request::Reset => Ok(lookup::reset(volume)),
            Request::Lookup { parent, name } => lookup::lookup(volume, parent, name),
            Request::LookupKnown { node, above } => lookup::known(volume, node, above),
            Request::GetAttr { node, handle } => attr::get(volume, node, handle),
            Request::SetAttr {
                node,
                handle,
                ref change,
            } => attr::set(volume, node, handle, change),
            Request::ReadLink { node } => {
                let mut room = [0; libc::PATH_MAX as usize - 1];
                let reply = link::target(volume, node, &mut room).unwrap_or_else(Reply::Error);
                self.lane.complete(ticket, &reply);
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
                    self.slow(ticket, move |volume| {
                        open::open(volume, node, flags, kill_suidgid, true)
                    });
                    return Ok(());
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
            Request::Read { handle, offset, size } => return self.read(ticket, handle, offset, size),
            Request::Write {
                handle,
                offset,
                size,
                kill_suidgid,
            } => return self.write(ticket, handle, offset, size, kill_suidgid),
            Request::Donate { handle } => {
                // The channel may be full (net.unix.max_dgram_qlen) until the supervisor looks at what was answered.
                self.lane.flush();
                open::donate(volume, handle, &self.lane.completer())
            }
            Request::Release { handle, flock_owner } => open::release(volume, handle, flock_owner),
            Request::ReleaseDir { handle } => open::release(volume, handle, None),
            Request::Flush { handle, lock_owner } => lock::flush(volume, handle, lock_owner),
            Request::Fsync { handle, datasync } | Request::FsyncDir { handle, datasync } => {
                return self.slow_on(ticket, handle, move |volume, open| {
                    io::sync(volume, open, datasync)
                });
            }
            Request::Lseek {
                handle,
                offset,
                whence,
            } => io::seek(volume, handle, offset, whence),
            Request::Fallocate {
                handle,
                offset,
                length,
                mode,
                kill_suidgid,
            } => {
                return self.slow_on(ticket, handle, move |volume, open| {
                    io::allocate(volume, open, (offset, length), mode, kill_suidgid)
                });
            }
            Request::CopyFileRange {
                source,
                source_offset,
                target,
                target_offset,
                length,
                kill_suidgid,
            } => {
                return self.slow_on(ticket, source, move |volume, from| {
                    let to = volume.open_file(target)?;
                    io::copy(
                        volume,
                        (from, source_offset),
                        (&to, target_offset),
                        length,
                        kill_suidgid,
                    )
                });
            }
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
                self.slow(ticket, move |volume| statfs::sync(volume, node));
                return Ok(());
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
                xattr::get(volume, node, name, size, &mut self.room, buffer.as_ref())
            }
            Request::ListXattr { node, size } => {
                let (buffer, size) = self.bulk_or_size(&ticket, size)?;
                self.room.resize(xattr::XATTR_MAX, 0);
                xattr::list(volume, node, size, &mut self.room, buffer.as_ref())
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
        self.lane.complete(ticket, &answer.unwrap_or_else(Reply::Error));
        Ok(())
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

    /// Has the pool answer a request.
    fn slow(&mut self, ticket: Ticket, operation: impl FnOnce(&Volume) -> Answer<'static> + Send + 'static) {
        let completer = self.lane.completer();
        let volume = self.volume.clone();
        self.pool.submit(move || {
            completer.complete(ticket, &operation(&volume).unwrap_or_else(Reply::Error));
        });
    }

    /// Has the pool answer a request on an open file.
    fn slow_on(
        &mut self,
        ticket: Ticket,
        handle: Handle,
        operation: impl FnOnce(&Volume, &Open) -> Answer<'static> + Send + 'static,
    ) -> Result<(), ProtocolError> {
        match self.volume.open_file(handle) {
            Ok(open) => self.slow(ticket, move |volume| operation(volume, &open)),
            Err(error) => self.lane.complete(ticket, &Reply::Error(error)),
        }
        Ok(())
    }

    /// Answers now, or when the lock that is in the way is given up.
    fn set_lock(&mut self, ticket: Ticket, change: &Change, wait: Option<u64>) {
        let reply = match (lock::set(&self.volume, change), wait) {
            (Ok(Set::Waits(holder, wanted)), Some(name)) => {
                let completer = self.lane.completer();
                let answer = move |result: Result<(), Errno>| {
                    let reply = result.map_or_else(Reply::Error, |()| Reply::Done);
                    completer.complete(ticket, &reply);
                };
                return self.volume.locks.wait(name, holder, wanted, Box::new(answer));
            }
            (Ok(Set::Waits(..)), None) => Reply::Error(Errno::EAGAIN),
            (Ok(Set::Done), _) => Reply::Done,
            (Err(error), _) => Reply::Error(error),
        };
        self.lane.complete(ticket, &reply);
    }

    fn read(&mut self, ticket: Ticket, handle: Handle, offset: u64, size: u32) -> Result<(), ProtocolError> {
        let (buffer, size) = self.bulk(&ticket, size)?;
        let result = self.volume.open_file(handle).and_then(|open| {
            let read = io::read_at_hand(&self.volume, &open, offset, size, &buffer)?;
            Ok((open, read))
        });
        match result {
            Ok((_, io::Read::Done(length))) => self.lane.complete(ticket, &io::data(length)),
            Ok((open, io::Read::Waits(done))) => {
                self.slow(ticket, move |_| io::read_rest(&open, offset, size, done, &buffer));
            }
            // A program of the host has a lease on it.
            Err(Errno::EAGAIN) if handle.node().is_some() => self.slow(ticket, move |volume| {
                let node = handle.node().ok_or(Errno::EBADF)?;
                let open = open::by_node(volume, node, true)?;
                io::read_rest(io::data_file(&open)?, offset, size, 0, &buffer)
            }),
            Err(error) => self.lane.complete(ticket, &Reply::Error(error)),
        }
        Ok(())
    }

    fn write(
        &mut self,
        ticket: Ticket,
        handle: Handle,
        offset: u64,
        size: u32,
        kill: bool,
    ) -> Result<(), ProtocolError> {
        let (buffer, size) = self.bulk(&ticket, size)?;
        let answer = match self.volume.open_file(handle) {
            Ok(open) if io::write_is_slow(&open, size) => {
                self.slow(ticket, move |volume| {
                    io::write(volume, &open, offset, size, kill, &buffer)
                });
                return Ok(());
            }
            Ok(open) => io::write(&self.volume, &open, offset, size, kill, &buffer),
            Err(error) => Err(error),
        };
        self.lane.complete(ticket, &answer.unwrap_or_else(Reply::Error));
        Ok(())
    }
}
