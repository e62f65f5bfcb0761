//! Where the worker's threads wait until they are filtered: each is started before the system call filter is in force,
//! so that the filter needs to let nothing through that only starting a thread takes.

use std::hash::RandomState;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use airlockfs_policy::confine::Confined;

/// Shut until there is proof that every thread is confined.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Threads that wait: the C library has done all it does for a new one.
    here: Mutex<usize>,
    came: Condvar,
    confined: OnceLock<Confined>,
}

impl Gate {
    /// A thread's first act; returns when the gate is open.
    pub(crate) fn pass(&self) -> &Confined {
        // A thread's first hash table takes its keys from the kernel.
        let _keys = RandomState::new();
        *self.here.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.came.notify_one();
        self.confined.wait()
    }

    /// Waits until so many threads are here.
    pub(crate) fn wait_for(&self, threads: usize) {
        let here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.came.wait_while(here, |here| *here < threads));
    }

    /// Lets all pass, for ever.
    pub(crate) fn open(&self, confined: Confined) {
        // Set once, by whoever confined the process.
        let _ = self.confined.set(confined);
    }
}
