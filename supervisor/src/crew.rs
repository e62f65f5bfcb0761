//! The threads of the daemon's life: all of them are started before the system call filter is in force, which therefore
//! needs to let nothing through that only starting a thread takes.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// Starts threads, and waits until the C library and Rust's runtime have done all they do for a new one.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    here: Arc<Here>,
    started: usize,
    /// Where threads may run, once they are here.
    anywhere: Option<CpuSet>,
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
    /// One whose threads come on this thread's processor. The kernel spreads new threads over all, also where another
    /// process is busy, behind which a newcomer waits for half a millisecond while this processor has nothing to do.
    pub(crate) fn gathered() -> Self {
        let anywhere = sched_getaffinity(Pid::from_raw(0)).ok();
        let mut one = CpuSet::new();
        let gathered = sched_getcpu()
            .and_then(|cpu| one.set(cpu))
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &one));
        Self {
            anywhere: anywhere.filter(|_| gathered.is_ok()),
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
            spread(anywhere);
            here.come();
        }
    }

    /// Returns when all are here.
    pub(crate) fn wait(self) {
        let threads = self.here.threads.lock();
        let threads = threads.unwrap_or_else(PoisonError::into_inner);
        drop(self.here.came.wait_while(threads, |here| *here < self.started));
        spread(self.anywhere);
    }
}

/// Has the calling thread run where it may.
fn spread(anywhere: Option<CpuSet>) {
    if let Some(anywhere) = anywhere {
        // What was allowed a moment ago.
        let _ = sched_setaffinity(Pid::from_raw(0), &anywhere);
    }
}
