//! Threads that wait for devices, so that the queues' threads need not.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use airlockfs_ipc::{Errno, message::Reply};

use super::{
    Attempt, CompletionQueue,
    bounce::{BounceBuffer, GivenUp, room},
    carry_out,
};
use crate::{crew::Crew, guest_memory::SharedMemory, request::Request};

/// Room for a call with its vectors.
const STACK: usize = 64 << 10;

/// Carries a file operation out, and leaves the result in it.
fn run(request: &mut Request, memory: &SharedMemory, given_up: &GivenUp, room: &mut [u8]) {
    let Some(file) = request.file.take() else { return };
    let mut bounce = BounceBuffer::new(room, memory, given_up, (request.head.queue, request.given_up));
    let (operation, chain) = (request.operation, &request.chain);
    request.reply = match carry_out(
        operation,
        &file,
        chain,
        request.data_at,
        request.done,
        &mut bounce,
    ) {
        Attempt::Done(reply) => Some(reply),
        Attempt::WouldWait(_) => Some(Reply::Error(Errno::EIO)),
        Attempt::Denied(done) => {
            request.done = done;
            None
        }
    };
}

/// The threads. They end when the pool is dropped.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    memory: SharedMemory,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    requests: VecDeque<(Box<Request>, Arc<CompletionQueue>)>,
    idle: usize,
    over: bool,
}

impl Pool {
    /// One of so many threads.
    pub(crate) fn new(memory: SharedMemory, threads: usize, crew: &mut Crew) -> io::Result<Self> {
        let shared = Arc::new(Inner {
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

    /// Carries a request's file operation out; then it arrives at `completions`.
    pub(crate) fn submit(&self, request: Box<Request>, completions: &Arc<CompletionQueue>) {
        let mut state = self.shared.state();
        state.requests.push_back((request, completions.clone()));
        // Those at work look for another request before they rest.
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

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, room: &mut [u8]) {
        let mut state = self.state();
        loop {
            if let Some((mut request, completions)) = state.requests.pop_front() {
                drop(state);
                run(&mut request, &self.memory, completions.given_up(), room);
                completions.finish(request);
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

    use airlockfs_ipc::recycle;

    use super::*;
    use crate::{data::DonatedFile, guest_memory::tests::memory};

    #[test]
    fn requests_come_back_and_wake_a_sleeper() {
        let memory = SharedMemory::new(memory());
        let pool = Pool::new(memory.clone(), 3, &mut Crew::default()).unwrap();
        let completions = Arc::new(CompletionQueue::new().unwrap());
        for unique in 0..100 {
            let mut request = Request::empty();
            request.unique = unique;
            request.file = Some(recycle::Shared::new(DonatedFile::for_test()));
            pool.submit(request, &completions);
        }
        let mut finished = Vec::new();
        while finished.len() < 100 {
            if completions.before_sleep() {
                poll(
                    &mut [PollFd::new(completions.bell(), PollFlags::POLLIN)],
                    PollTimeout::from(10_000u16),
                )
                .unwrap();
                nix::unistd::read(completions.bell(), &mut [0; 8]).unwrap();
            }
            completions.after_sleep();
            completions.take_finished(&mut finished);
        }
        let mut uniques: Vec<_> = finished.iter().map(|request| request.unique).collect();
        uniques.sort_unstable();
        assert_eq!(uniques, (0..100).collect::<Vec<_>>());
        assert!(
            finished
                .iter()
                .all(|request| request.reply == Some(Reply::Done) && request.file.is_none())
        );
    }
}
