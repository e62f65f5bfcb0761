//! The threads of the daemon's life: all of them are started before the system call filter is in force, which therefore
//! needs to let nothing through that only starting a thread takes.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use airlockfs_policy::gather::Gathered;

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
    threads: Mutex<usize>,
    came: Condvar,
}

impl Here {
    fn come(&self) {
        *self.threads.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.came.notify_one();
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
                come();
                work();
            })
            .map(drop)
    }

    /// What a thread that is started elsewhere does first.
    pub(crate) fn newcomer(&mut self) -> impl FnOnce() + Send + 'static {
        self.started += 1;
        let (here, anywhere) = (self.here.clone(), self.anywhere);
        move || {
            anywhere.spread();
            here.come();
        }
    }

    /// Returns when all are here.
    pub(crate) fn wait(self) {
        let threads = self.here.threads.lock();
        let threads = threads.unwrap_or_else(PoisonError::into_inner);
        drop(self.here.came.wait_while(threads, |here| *here < self.started));
        self.anywhere.spread();
    }
}
