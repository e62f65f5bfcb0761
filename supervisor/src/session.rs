//! The FUSE session, shared by all queues: from INIT to DESTROY, or until INIT comes again after the virtqueues were
//! stopped (a guest that rebooted). A pause that is followed by no INIT leaves it as it is.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use crate::fuse::{Negotiated, Options};

/// The session's state.
#[derive(Debug, Default)]
pub(crate) struct Session {
    state: Mutex<State>,
    /// Changes with the state, so that a queue's [`SessionView`] costs a load.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// The virtqueues were stopped since INIT.
    stopped: bool,
    /// The worker may hold inodes and handles of an earlier session.
    worker_used: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    None,
    /// INIT was accepted and waits for the worker to forget the session before.
    Starting,
    Running(Negotiated),
}

impl State {
    fn may_begin(&self) -> bool {
        match self.phase {
            Phase::None => true,
            Phase::Starting => false,
            Phase::Running(_) => self.stopped,
        }
    }
}

/// What is to be done about an INIT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// A session runs: EIO.
    Refused,
    /// The worker must be reset first; then [`Session::run`].
    ResetFirst,
    /// The session runs.
    Running,
}

impl Session {
    /// Whether INIT is welcome.
    pub(crate) fn may_begin(&self) -> bool {
        self.lock().may_begin()
    }

    /// An acceptable INIT came.
    pub(crate) fn begin(&self, negotiated: Negotiated) -> Begin {
        let mut state = self.lock();
        if !state.may_begin() {
            return Begin::Refused;
        }
        state.stopped = false;
        let begin = if state.worker_used {
            Begin::ResetFirst
        } else {
            Begin::Running
        };
        state.phase = if state.worker_used {
            Phase::Starting
        } else {
            self.running(negotiated)
        };
        state.worker_used = true;
        self.changed(state);
        begin
    }

    /// The worker was reset for the INIT that was answered [`Begin::ResetFirst`].
    pub(crate) fn run(&self, negotiated: Negotiated) {
        let mut state = self.lock();
        if state.phase == Phase::Starting {
            state.phase = self.running(negotiated);
        }
        self.changed(state);
    }

    /// Nobody waits any more for the INIT that was answered [`Begin::ResetFirst`].
    pub(crate) fn not_begun(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Starting {
            state.phase = Phase::None;
        }
        self.changed(state);
    }

    /// DESTROY came. The worker is to be reset.
    pub(crate) fn destroy(&self) {
        let mut state = self.lock();
        state.phase = Phase::None;
        self.changed(state);
    }

    /// The virtqueues were stopped: the next INIT is welcome.
    pub(crate) fn rings_stopped(&self) {
        self.lock().stopped = true;
    }

    /// The VMM went or reset the device: no session runs. True if the worker may hold something of one, and must be
    /// reset before the next.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.lock();
        let before = std::mem::take(&mut *state);
        self.changed(state);
        before.worker_used
    }

    /// The worker may hold something of a session that is over: it is to be reset before the next.
    pub(crate) fn worker_may_hold(&self) {
        self.lock().worker_used = true;
    }

    /// With `--file-handles` no two sessions have one generation of nodes. Without it all have 0: an overlay in the guest with
    /// an index compares handles of its directories with those of an earlier session, and is to be mounted all the same.
    fn running(&self, mut negotiated: Negotiated) -> Phase {
        let Options {
            cache, file_handles, ..
        } = &mut negotiated.options;
        if *file_handles {
            cache.generation = cache
                .generation
                .wrapping_add(self.generation.load(Acquire) as u32);
        }
        Phase::Running(negotiated)
    }

    fn changed(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.generation.fetch_add(1, Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue's copy of what was negotiated.
#[derive(Debug, Default)]
pub(crate) struct SessionView {
    generation: u64,
    negotiated: Option<Negotiated>,
}

impl SessionView {
    /// What was negotiated; `None` when no session runs.
    pub(crate) fn of(&mut self, session: &Session) -> Option<&Negotiated> {
        let generation = session.generation.load(Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.negotiated = match session.lock().phase {
                Phase::Running(negotiated) => Some(negotiated),
                Phase::None | Phase::Starting => None,
            };
        }
        self.negotiated.as_ref()
    }
}
