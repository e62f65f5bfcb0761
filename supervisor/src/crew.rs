//! The threads of the daemon's life: all of them are started before the system call filter is in force, which therefore
//! needs to let nothing through that only starting a thread takes.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use airlockfs_policy::gather::Gathered;

/// Told by a thread that it has begun, and whether it could prepare itself.
pub(crate) type Newcomer = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Starts threads, and waits until the C library and Rust's runtime have done all they do for a new one.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    here: Arc<Here>,
    started: usize,
    /// Where threads may run, once they are here.
    anywhere: Gathered,
}

#[derive(Debug, Default)]
struct Here {
    /// How many threads, and why one of them is not prepared.
    state: Mutex<(usize, Option<io::Error>)>,
    came: Condvar,
}

impl Here {
    fn come(&self, prepared: io::Result<()>) {
        let mut state = self.state();
        state.0 += 1;
        if let Err(error) = prepared {
            state.1 = Some(error);
        }
        drop(state);
        self.came.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, (usize, Option<io::Error>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crew {
    /// One whose threads come on this thread's processor.
    pub(crate) fn gathered() -> Self {
        Self {
            anywhere: Gathered::here(),
            ..Self::default()
        }
    }

    /// Starts a thread with `stack` bytes of stack, which works for ever.
    pub(crate) fn start(
        &mut self,
        name: &str,
        stack: usize,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let come = self.newcomer();
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(stack);
        thread
            .spawn(move || {
                come(Ok(()));
                work();
            })
            .map(drop)
    }

    /// What a thread that is started elsewhere does first, with whether it could prepare itself.
    pub(crate) fn newcomer(&mut self) -> Newcomer {
        self.started += 1;
        let (here, anywhere) = (self.here.clone(), self.anywhere);
        Box::new(move |prepared| {
            anywhere.spread();
            here.come(prepared);
        })
    }

    /// Returns when all are here.
    ///
    /// # Errors
    /// One of them could not prepare itself.
    pub(crate) fn wait(self) -> io::Result<()> {
        let all = |state: &mut (usize, _)| state.0 < self.started;
        let state = self.here.came.wait_while(self.here.state(), all);
        let failed = state.unwrap_or_else(PoisonError::into_inner).1.take();
        self.anywhere.spread();
        failed.map_or(Ok(()), Err)
    }
}
