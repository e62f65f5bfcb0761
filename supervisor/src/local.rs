//! Step 3: an operation on a donated file: at once, by a data thread, or by the worker where this process may not.

use airlockfs_ipc::{Errno, message::Reply, recycle};

use crate::{
    data::{Attempt, DonatedFile, Job, attempt},
    fuse::{self, Io},
    guest_memory::Memory,
    pending::Caller,
    queue::{Group, Room, SPARE_JOBS},
};

impl Group {
    /// Carries `io` out here, at once or by a data thread.
    pub(crate) fn local(
        &mut self,
        caller: Caller,
        io: Io,
        file: &recycle::Shared<DonatedFile>,
        data_at: usize,
        memory: &Memory,
        room: &mut Room,
    ) {
        // The worker may begin with what was submitted while this thread moves data.
        self.lane.flush();
        let queue = caller.head.queue;
        let given_up = self.port.given_up().count(queue);
        let attempted = attempt(io, file, memory, &self.chain, data_at);
        if self.port.given_up().count(queue) != given_up {
            // A call that should not wait did, and the VMM did not.
            return self.drop_taken(caller.head);
        }
        match attempted {
            Attempt::Done(reply) => self.answer_io(caller, io, &reply, memory, room),
            Attempt::WouldWait(done) => {
                let mut job = self.job(caller, io, data_at, done);
                job.file = Some(file.clone());
                job.given_up = given_up;
                self.jobs.enter(&mut job);
                self.shared.pool.submit(job, &self.port);
            }
            Attempt::Denied(done) => {
                let job = self.job(caller, io, data_at, done);
                self.denied(job, memory);
            }
        }
    }

    /// A data thread finished a job.
    pub(crate) fn job_done(&mut self, mut job: Box<Job>, memory: &Memory, room: &mut Room) {
        if !self.jobs.done(&job) {
            return self.keep(job);
        }
        let Some(reply) = job.reply.take() else {
            return self.denied(job, memory);
        };
        std::mem::swap(&mut job.chain, &mut self.chain);
        self.answer_io(job.caller, job.io, &reply, memory, room);
        self.keep(job);
    }

    /// This process may not do a job. The worker is asked for it, and for all that follows on this handle.
    fn denied(&mut self, job: Box<Job>, memory: &Memory) {
        if let Some(handles) = &self.shared.handles {
            handles.refused(job.io.handle());
        }
        self.denied.push(job);
        self.send_denied(memory);
    }

    /// Gives the worker what this process may not do, as far as the lane has room. True if there was some.
    pub(crate) fn send_denied(&mut self, memory: &Memory) -> bool {
        let mut progress = false;
        while self.lane.free_slots() > 0
            && let Some(mut job) = self.denied.pop()
        {
            let bulk = match job.io {
                Io::Read { .. } | Io::Write { .. } => match self.lane.take_bulk() {
                    None => {
                        self.denied.push(job);
                        break;
                    }
                    bulk => bulk,
                },
                _ => None,
            };
            progress = true;
            std::mem::swap(&mut job.chain, &mut self.chain);
            match bulk {
                // What was moved is less than the request's 32 bits say.
                Some(bulk) => {
                    self.data_through_ring(job.caller, job.io, job.data_at, job.done as u32, bulk, memory);
                }
                None => self.through_ring(job.caller, job.io, memory),
            }
            self.keep(job);
        }
        progress
    }

    /// The worker does nothing any more.
    pub(crate) fn fail_denied(&mut self, memory: &Memory) -> bool {
        let mut progress = false;
        while let Some(mut job) = self.denied.pop() {
            progress = true;
            std::mem::swap(&mut job.chain, &mut self.chain);
            self.answer_error(job.caller, Errno::EIO, memory);
            self.keep(job);
        }
        progress
    }

    /// A job with the buffers at hand.
    fn job(&mut self, caller: Caller, io: Io, data_at: usize, done: usize) -> Box<Job> {
        let mut job = self.spare_jobs.pop().unwrap_or_else(Job::empty);
        job.caller = caller;
        job.io = io;
        job.data_at = data_at;
        job.done = done;
        std::mem::swap(&mut job.chain, &mut self.chain);
        job
    }

    fn keep(&mut self, job: Box<Job>) {
        if self.spare_jobs.len() < SPARE_JOBS {
            self.spare_jobs.push(job);
        }
    }

    /// Answers an operation on an open file.
    pub(crate) fn answer_io(
        &mut self,
        caller: Caller,
        io: Io,
        reply: &Reply<'_>,
        memory: &Memory,
        room: &mut Room,
    ) {
        if let Reply::Data { size } | Reply::Written { size } = reply {
            self.moved += *size as usize;
        }
        let Some(session) = self.view.of(&self.shared.session) else {
            return self.answer_error(caller, Errno::EIO, memory);
        };
        match fuse::reply::encode(io.reply(), reply, caller.unique, session, &mut room.head) {
            // The data stands behind the header already.
            Ok(encoded) => self.answer(
                caller,
                room.head.get(..encoded.head).unwrap_or_default(),
                encoded.bulk,
                memory,
            ),
            // Not the worker's doing, and impossible while both sides of it are right.
            Err(_) => self.answer_error(caller, Errno::EIO, memory),
        }
    }
}
