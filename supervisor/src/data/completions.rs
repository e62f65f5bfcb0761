//! The way back from the data threads.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::bounce::GivenUp;
use crate::request::{QUEUES_MAX, Request};

/// Where requests of a group arrive that data threads are done with, and what wakes its thread for anything but the ring.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    #[expect(clippy::vec_box, reason = "the boxes are what goes round")]
    finished: Mutex<Vec<Box<Request>>>,
    any: AtomicBool,
    asleep: AtomicBool,
    bell: EventFd,
    given_up: GivenUp,
    left_behind: AtomicBool,
}

impl CompletionQueue {
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

    /// Which requests were given up.
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

    /// Whether requests are finished.
    pub(crate) fn any_finished(&self) -> bool {
        self.any.load(Acquire)
    }

    /// Moves the finished requests to `to`.
    #[expect(clippy::vec_box, reason = "the boxes are what goes round")]
    pub(crate) fn take_finished(&self, to: &mut Vec<Box<Request>>) {
        if self.any_finished() {
            let mut finished = self.finished();
            self.any.store(false, Relaxed);
            to.append(&mut finished);
        }
    }

    /// Announces that the queue's thread will sleep. False: a request was finished meanwhile, and it must not.
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

    /// A data thread is done with it.
    pub(super) fn finish(&self, request: Box<Request>) {
        let mut finished = self.finished();
        finished.push(request);
        self.any.store(true, Release);
        drop(finished);
        fence(SeqCst);
        if self.asleep.load(Relaxed) && self.asleep.swap(false, SeqCst) {
            self.ring();
        }
    }

    #[expect(clippy::vec_box, reason = "the boxes are what goes round")]
    fn finished(&self) -> MutexGuard<'_, Vec<Box<Request>>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
