//! Threads for operations that may take long, so that no lane waits for a disk.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use crate::gate::Gate;

/// One slow operation with its answer.
type Job = Box<dyn FnOnce() + Send>;

/// A queue of jobs. Its length is bounded by the ring's slots: each job holds one.
#[derive(Default)]
pub(crate) struct Pool {
    jobs: Mutex<VecDeque<Job>>,
    ready: Condvar,
}

impl Pool {
    /// Starts `threads` threads behind `gate`; they run as long as the process.
    pub(crate) fn start(threads: u16, gate: &Arc<Gate>) -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self::default());
        for number in 0..threads {
            let (pool, gate) = (pool.clone(), gate.clone());
            thread::Builder::new()
                .name(format!("slow-{number}"))
                .spawn(move || {
                    gate.pass();
                    pool.run();
                })?;
        }
        Ok(pool)
    }

    /// Adds a job.
    pub(crate) fn submit(&self, job: impl FnOnce() + Send + 'static) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.push_back(Box::new(job));
        drop(jobs);
        self.ready.notify_one();
    }

    fn run(&self) {
        let _guard = crate::EndsWithPanic;
        loop {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let job = loop {
                match jobs.pop_front() {
                    Some(job) => break job,
                    None => jobs = self.ready.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(jobs);
            job();
        }
    }
}
