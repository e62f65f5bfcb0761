//! Threads that wait for devices, so that the queues' threads need not.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
};

use airlockfs_ipc::{Errno, message::Reply, recycle};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{
    Attempt, DonatedFile, carry_out,
    detour::{Detour, GivenUp, room},
};
use crate::{
    chain::Chain, crew::Crew, fuse::Io, guest_memory::SharedMemory, pending::Caller, queue::QUEUES_MAX,
};

/// Room for a call with its vectors.
const STACK: usize = 64 << 10;

/// An operation that waits, with all that its answer needs.
#[derive(Debug)]
pub(crate) struct Job {
    /// Who waits.
    pub(crate) caller: Caller,
    /// What to do.
    pub(crate) io: Io,
    /// Its buffers.
    pub(crate) chain: Chain,
    /// Where in the readable buffers a write's data begins.
    pub(crate) data_at: usize,
    /// Bytes moved so far.
    pub(crate) done: usize,
    /// On what; none once it is done.
    pub(crate) file: Option<recycle::Shared<DonatedFile>>,
    /// The answer; none if this process may not do it.
    pub(crate) reply: Option<Reply<'static>>,
    /// Its number among the group's.
    pub(crate) number: u64,
    /// [`GivenUp::count`] of its queue when it was entered.
    pub(crate) given_up: u32,
}

impl Job {
    /// One to be filled in.
    pub(crate) fn empty() -> Box<Self> {
        Box::new(Self {
            caller: Caller::default(),
            io: Io::Fsync {
                handle: airlockfs_ipc::Handle(0),
                datasync: false,
            },
            chain: Chain::default(),
            data_at: 0,
            done: 0,
            file: None,
            reply: None,
            number: 0,
            given_up: 0,
        })
    }

    fn run(&mut self, memory: &SharedMemory, given_up: &GivenUp, room: &mut [u8]) {
        let Some(file) = self.file.take() else { return };
        let mut detour = Detour::new(room, memory, given_up, (self.caller.head.queue, self.given_up));
        self.reply = match carry_out(self.io, &file, &self.chain, self.data_at, self.done, &mut detour) {
            Attempt::Done(reply) => Some(reply),
            Attempt::WouldWait(_) => Some(Reply::Error(Errno::EIO)),
            Attempt::Denied(done) => {
                self.done = done;
                None
            }
        };
    }
}

/// Where a queue's finished jobs arrive, and what wakes its thread for anything but the ring.
#[derive(Debug)]
pub(crate) struct Port {
    #[expect(clippy::vec_box, reason = "the boxes go round between the queue and the pool")]
    finished: Mutex<Vec<Box<Job>>>,
    any: AtomicBool,
    asleep: AtomicBool,
    bell: EventFd,
    given_up: GivenUp,
    left_behind: AtomicBool,
}

impl Port {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            finished: Mutex::default(),
            any: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            bell: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            given_up: GivenUp::default(),
            left_behind: AtomicBool::new(false),
        })
    }

    /// Which jobs were given up.
    pub(crate) const fn given_up(&self) -> &GivenUp {
        &self.given_up
    }

    /// The VMM is gone while the queue's thread is in a call that hangs: nothing that it has taken counts any more.
    pub(crate) fn leave_behind(&self) {
        (0..QUEUES_MAX).for_each(|queue| self.given_up.give_up(queue));
        self.left_behind.store(true, Release);
    }

    /// Whether it was left behind.
    pub(crate) fn is_left_behind(&self) -> bool {
        self.left_behind.load(Acquire)
    }

    /// The same, told once.
    pub(crate) fn take_left_behind(&self) -> bool {
        self.is_left_behind() && self.left_behind.swap(false, Acquire)
    }

    /// Becomes readable at each ring; meant for an edge-triggered epoll(7).
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Wakes the queue's thread.
    pub(crate) fn ring(&self) {
        // A counter that is full is readable, too.
        let _ = self.bell.write(1);
    }

    /// Whether jobs are finished.
    pub(crate) fn any_finished(&self) -> bool {
        self.any.load(Acquire)
    }

    /// Moves the finished jobs to `to`.
    #[expect(clippy::vec_box, reason = "the boxes go round between the queue and the pool")]
    pub(crate) fn take_finished(&self, to: &mut Vec<Box<Job>>) {
        if self.any_finished() {
            let mut finished = self.finished();
            self.any.store(false, Relaxed);
            to.append(&mut finished);
        }
    }

    /// Announces that the queue's thread will sleep. False: a job was finished meanwhile, and it must not.
    pub(crate) fn before_sleep(&self) -> bool {
        self.asleep.store(true, SeqCst);
        fence(SeqCst);
        let sleeps = !self.any_finished();
        if !sleeps {
            self.asleep.store(false, Relaxed);
        }
        sleeps
    }

    /// The queue's thread is awake.
    pub(crate) fn after_sleep(&self) {
        if self.asleep.load(Relaxed) {
            self.asleep.store(false, Relaxed);
        }
    }

    fn finish(&self, job: Box<Job>) {
        let mut finished = self.finished();
        finished.push(job);
        self.any.store(true, Release);
        drop(finished);
        fence(SeqCst);
        if self.asleep.load(Relaxed) && self.asleep.swap(false, SeqCst) {
            self.ring();
        }
    }

    #[expect(clippy::vec_box, reason = "the boxes go round between the queue and the pool")]
    fn finished(&self) -> MutexGuard<'_, Vec<Box<Job>>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads. They end when the pool is dropped.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    memory: SharedMemory,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<(Box<Job>, Arc<Port>)>,
    idle: usize,
    over: bool,
}

impl Pool {
    /// One of so many threads.
    pub(crate) fn new(memory: SharedMemory, threads: usize, crew: &mut Crew) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            memory,
            state: Mutex::default(),
            work: Condvar::new(),
        });
        for _ in 0..threads {
            let shared = shared.clone();
            let room = room()?;
            crew.start("data", STACK, move || shared.serve(room))?;
        }
        Ok(Self { shared })
    }

    /// Runs `job`, which then arrives at `port`.
    pub(crate) fn submit(&self, job: Box<Job>, port: &Arc<Port>) {
        let mut state = self.shared.state();
        state.jobs.push_back((job, port.clone()));
        // Those at work look for another job before they rest.
        if state.idle > 0 {
            self.shared.work.notify_one();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state().over = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut room: Vec<u8>) {
        let mut state = self.state();
        loop {
            if let Some((mut job, port)) = state.jobs.pop_front() {
                drop(state);
                job.run(&self.memory, port.given_up(), &mut room);
                port.finish(job);
                state = self.state();
            } else if state.over {
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::guest_memory::tests::memory;

    #[test]
    fn jobs_come_back_and_wake_a_sleeper() {
        let memory = SharedMemory::new(memory());
        let pool = Pool::new(memory.clone(), 3, &mut Crew::default()).unwrap();
        let port = Arc::new(Port::new().unwrap());
        for unique in 0..100 {
            let mut job = Job::empty();
            job.caller.unique = unique;
            job.file = Some(recycle::Shared::new(DonatedFile::for_test()));
            pool.submit(job, &port);
        }
        let mut jobs = Vec::new();
        while jobs.len() < 100 {
            if port.before_sleep() {
                poll(
                    &mut [PollFd::new(port.bell(), PollFlags::POLLIN)],
                    PollTimeout::from(10_000u16),
                )
                .unwrap();
                port.bell.read().unwrap();
            }
            port.after_sleep();
            port.take_finished(&mut jobs);
        }
        let mut uniques: Vec<_> = jobs.iter().map(|job| job.caller.unique).collect();
        uniques.sort_unstable();
        assert_eq!(uniques, (0..100).collect::<Vec<_>>());
        assert!(
            jobs.iter()
                .all(|job| job.reply == Some(Reply::Done) && job.file.is_none())
        );
    }
}
