//! Lets go of mounts beneath the share that nobody uses.
//!
//! A descriptor kept for a hot inode keeps its mount busy: the host could not unmount a volume, or after a lazy unmount
//! its device would stay in use. So a thread cools inodes on such mounts soon after their last use. It sleeps while
//! there are none.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::{Inodes, mounts::Kept};
use crate::gate::Gate;

/// An inode is cooled after between one and two of these without use.
const PERIOD: Duration = Duration::from_secs(2);
/// How often it looks, at the least, whether a mount is still there whose inodes are held.
const LONGEST_PERIOD: Duration = Duration::from_secs(30);
/// Hot inodes looked at under one lock.
const AT_ONCE: usize = 4096;

/// Tells the sweeper that there are hot inodes on other mounts.
#[derive(Default)]
pub(super) struct Away {
    /// It knows already.
    known: AtomicBool,
    sleeping: Mutex<()>,
    wake: Condvar,
}

impl Away {
    /// Wakes the sweeper if it sleeps. Costs a load otherwise.
    pub(super) fn noticed(&self) {
        if !self.known.load(Relaxed) {
            // The sweeper looks at the mark under this lock before it sleeps.
            let sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
            self.known.store(true, Relaxed);
            drop(sleeping);
            self.wake.notify_one();
        }
    }

    /// Waits until there is something to do, or for so long.
    fn wait(&self, limit: Option<Duration>) {
        let sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = |(): &mut ()| !self.known.load(Relaxed);
        match limit {
            None => drop(self.wake.wait_while(sleeping, nothing)),
            Some(limit) => drop(self.wake.wait_timeout_while(sleeping, limit, nothing)),
        }
    }

    fn pause(&self) {
        let sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        // By the lock's own means: the system call for sleeping is not among those allowed.
        drop(self.wake.wait_timeout_while(sleeping, PERIOD, |()| true));
    }

    /// Nothing is left to be done until it is noticed again.
    fn rest(&self) {
        let _sleeping = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        self.known.store(false, Relaxed);
    }
}

impl Inodes {
    /// Starts the sweeper behind `gate`; it runs as long as the process. It does `first` before it comes to the gate.
    pub(crate) fn start_sweeper(
        inodes: Arc<impl AsRef<Self> + Send + Sync + 'static>,
        gate: Arc<Gate>,
        first: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        thread::Builder::new().name("sweeper".into()).spawn(move || {
            first();
            gate.pass();
            let inodes = (*inodes).as_ref();
            let mut limit = None;
            loop {
                inodes.away.wait(limit);
                inodes.away.pause();
                // Marked before the sweep, so that what gets hot from here on is noticed.
                inodes.away.rest();
                // Nobody says when a mount goes.
                limit = inodes
                    .let_go_of_mounts_that_are_gone()
                    .then(|| limit.map_or(PERIOD, |limit| (limit * 2).min(LONGEST_PERIOD)));
                if inodes.sweep() > 0 {
                    inodes.away.noticed();
                }
            }
        })?;
        Ok(())
    }

    /// Cools what was not used since the last time. How many were.
    fn sweep(&self) -> usize {
        let (mut place, mut used) = (usize::MAX, 0);
        while place > 0 {
            let hold = |mount| self.mounts.kept(mount) == Kept::Nothing;
            let (next, more) = self.change(|table, dropped| table.cool_away(place, AT_ONCE, hold, dropped));
            (place, used) = (next, used + more);
        }
        used
    }
}
