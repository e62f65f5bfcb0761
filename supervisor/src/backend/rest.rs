//! Moments at which a queue's thread is not at work. Whoever waits for one does not need the group's lock, which a thread
//! that is busy with other queues hardly lets go of.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering::SeqCst},
};

use nix::sys::eventfd::EventFd;

use crate::request::Unfinished;

/// A thread's rests.
pub(super) struct Rests {
    /// What was unfinished at the last one that somebody waited for.
    last: Mutex<Rest>,
    /// Rung at each of them, for waiting with a limit.
    bell: Arc<EventFd>,
    /// How many wait.
    waiting: AtomicU32,
}

#[derive(Debug, Default)]
struct Rest {
    /// Which one it was.
    count: u64,
    unfinished: Unfinished,
}

impl Rests {
    /// None yet.
    pub(super) fn new(bell: Arc<EventFd>) -> Self {
        Self {
            last: Mutex::default(),
            bell,
            waiting: AtomicU32::new(0),
        }
    }

    /// Whether somebody waits: then the thread soon has a rest, and tells.
    pub(super) fn are_awaited(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }

    /// From now on somebody does.
    pub(super) fn watch(&self) {
        self.waiting.fetch_add(1, SeqCst);
    }

    /// Somebody does as long as what this gives lives.
    pub(super) fn await_them(&self) -> Awaited<'_> {
        self.watch();
        Awaited(self)
    }

    /// The number of the last one.
    pub(super) fn last(&self) -> u64 {
        self.lock().count
    }

    /// What was unfinished at the last one, if that was not number `last`.
    pub(super) fn since(&self, last: u64) -> Option<Unfinished> {
        let rest = self.lock();
        (rest.count != last).then_some(rest.unfinished)
    }

    /// The thread has a rest.
    pub(super) fn tell(&self, unfinished: Unfinished) {
        let mut rest = self.lock();
        rest.count = rest.count.wrapping_add(1);
        rest.unfinished = unfinished;
        drop(rest);
        // A counter that is full is an event, too.
        let _ = self.bell.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for the thread's rests.
pub(super) struct Awaited<'a>(&'a Rests);

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}
