//! What wakes the worker's watching thread: it sleeps while no request is being served, and costs nothing then.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// Rung by whoever takes a request while the watching thread sleeps.
#[derive(Debug, Default)]
pub struct Alarm {
    /// Set before the watching thread looks at each lane under its lock for the last time; read under that lock by who takes a
    /// request. So one of the two sees the other.
    asleep: AtomicBool,
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Alarm {
    /// Sleeps until it is rung, or for `limit`. Not at all if there is work: `at_rest` looks at every lane.
    pub fn sleep(&self, limit: Option<Duration>, at_rest: impl FnOnce() -> bool) {
        *self.rung() = false;
        self.asleep.store(true, Relaxed);
        if at_rest() {
            let rung = self.rung();
            let still = |rung: &mut bool| !*rung;
            match limit {
                None => drop(self.bell.wait_while(rung, still)),
                Some(limit) => drop(self.bell.wait_timeout_while(rung, limit, still)),
            }
        }
        self.asleep.store(false, Relaxed);
    }

    /// Lets that much time pass.
    pub fn pause(&self, time: Duration) {
        // By the lock's own means: the system call for sleeping is not among those allowed.
        drop(self.bell.wait_timeout_while(self.rung(), time, |_| true));
    }

    /// Whether it must be rung. Asked under a lane's lock.
    pub(super) fn is_awaited(&self) -> bool {
        self.asleep.load(Relaxed)
    }

    /// Wakes the watching thread.
    pub(super) fn ring(&self) {
        self.asleep.store(false, Relaxed);
        *self.rung() = true;
        self.bell.notify_one();
    }

    fn rung(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
