//! A group of queues at its thread, which `vhost-user-backend` has wait until a ring is kicked, the worker rings the lane's
//! doorbell, or a data thread or the main thread the completions' bell.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use airlockfs_ipc::ring::SupervisorLane;
use airlockfs_policy::ExitKind;
use nix::sys::{eventfd::EventFd, prctl};
use vhost_user_backend::{VhostUserBackend, VringEpollHandler};
use vmm_sys_util::epoll::EventSet;

use super::{BELL, DOORBELL, Vring, rest::Rests};
use crate::{
    crew::Newcomer,
    data::CompletionQueue,
    end::end,
    nudge::Nudge,
    request::{Buffers, Group, Unfinished},
    shared::Shared,
    wait::Waiter,
};

/// How long the main thread waits for a queue's thread before it looks at what that is at: at first, and at most.
const PATIENCE: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(500)];

/// How long a queue's thread may take at least to let go of its group, when it is asked to.
const LET_GO: Duration = Duration::from_millis(500);

/// Queues, their rings and what their thread waits for, for all connections of the daemon.
pub(crate) struct Seat {
    /// In the device.
    numbers: Vec<usize>,
    /// As the VMM sets them, once the thread has begun.
    vrings: OnceLock<Vec<Vring>>,
    group: Mutex<(Group, Buffers)>,
    /// The crate's epoll set, and whom the thread tells that it has begun, until then.
    newcomer: Mutex<Option<(Arc<Waiter>, Newcomer)>>,
    /// The crate's epoll set.
    waiter: OnceLock<Arc<Waiter>>,
    completions: Arc<CompletionQueue>,
    rests: Rests,
    /// Gets the thread out of a write to what the VMM gave for interrupts.
    nudge: Nudge,
    shared: Arc<Shared>,
}

impl Seat {
    /// One for the device's queues of these `numbers`, in order. `bell` is rung when its thread rests.
    pub(crate) fn new(
        numbers: Vec<usize>,
        shared: Arc<Shared>,
        lane: SupervisorLane,
        bell: Arc<EventFd>,
    ) -> io::Result<Self> {
        let completions = Arc::new(CompletionQueue::new()?);
        let group = Group::new(numbers.clone(), shared.clone(), lane, completions.clone());
        Ok(Self {
            numbers,
            vrings: OnceLock::new(),
            group: Mutex::new((group, Buffers::new())),
            newcomer: Mutex::default(),
            waiter: OnceLock::new(),
            completions,
            rests: Rests::new(bell),
            nudge: Nudge::new()?,
            shared,
        })
    }

    /// Its queues, a bit each.
    pub(crate) fn mask(&self) -> u64 {
        self.numbers.iter().fold(0, |mask, number| mask | 1 << number)
    }

    /// How many there are.
    pub(crate) fn queues(&self) -> usize {
        self.numbers.len()
    }

    /// The rings, each at its place in the group; none before the thread has begun.
    pub(crate) fn vrings(&self) -> &[Vring] {
        self.vrings.get().map_or(&[], Vec::as_slice)
    }

    /// Has the crate's `thread` wait for what concerns these queues, and begin, which it tells the `newcomer`.
    pub(crate) fn listen<T: VhostUserBackend>(
        &self,
        thread: &VringEpollHandler<T>,
        newcomer: Newcomer,
    ) -> io::Result<()> {
        let each_time = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        let doorbell = group.0.doorbell().as_raw_fd();
        thread.register_listener(doorbell, each_time, DOORBELL)?;
        drop(group);
        let waiter = Arc::new(Waiter::of(thread)?);
        *self.newcomer.lock().unwrap_or_else(PoisonError::into_inner) = Some((waiter, newcomer));
        thread.register_listener(self.completions.bell().as_fd().as_raw_fd(), each_time, BELL)?;
        self.wake();
        Ok(())
    }

    /// What the thread does first, before the system call filter is in force.
    fn begin(&self, vrings: &[Vring]) {
        let newcomer = self
            .newcomer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some((waiter, newcomer)) = newcomer else {
            return;
        };
        for (place, vring) in (0..).zip(vrings) {
            vring.arrive(waiter.clone(), place);
        }
        // Said once, as all of this is.
        let _ = self.waiter.set(waiter);
        let _ = self.vrings.set(vrings.to_vec());
        let name = format!("queue {}", self.numbers.first().copied().unwrap_or(0));
        let named = CString::new(name).map(|name| prctl::set_name(&name));
        newcomer(named.map_err(io::Error::from).and_then(|_| self.nudge.aim_here()));
    }

    /// Serves the queues, once the worker serves, until there is something to wait for. `vrings` are the crate's, for the
    /// first time that something happens.
    pub(crate) fn serve(&self, vrings: &[Vring]) {
        let Some(waiter) = self.waiter.get() else {
            return self.begin(vrings);
        };
        self.shared.worker_serves.wait();
        while let Some(limit) = self.run(waiter) {
            // The crate waits without a limit.
            if let Err(error) = waiter.wait(Some(limit)) {
                log::error!("a queue's thread cannot wait: {error}");
                end(ExitKind::OsError.code());
            }
        }
    }

    /// Serves the queues: for how long to wait at most.
    fn run(&self, waiter: &Waiter) -> Option<Duration> {
        let mut place = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        let (group, buffers) = &mut *place;
        let limit = group.run(self.vrings(), buffers, || self.rests.are_awaited());
        if self.shared.failure.is_set() {
            // A worker that broke the rules may ring without end.
            waiter.remove(group.doorbell());
        }
        // Who waits counts itself first and tries the lock then: it sees what was left behind, or is seen here.
        if self.rests.are_awaited() {
            let unfinished = group.unfinished();
            drop(place);
            self.rests.tell(unfinished);
        }
        limit
    }

    /// Has the thread look at everything.
    pub(crate) fn wake(&self) {
        self.completions.ring();
    }

    /// Waits until no request of the queue at `place` is in flight that ends by itself, but not beyond `until`: then they
    /// are given up. All waiting of the main thread goes through `waiter`, which tells of the bell. False: they were.
    pub(crate) fn wait_stopped(&self, waiter: &Waiter, place: usize, until: Instant) -> bool {
        let ended = self.wait_while(waiter, until, |unfinished| unfinished.at(place) > 0);
        if !ended {
            match self.at_rest(waiter, until) {
                Some(mut at_rest) => at_rest.0.give_up(place, self.vrings()),
                None => self.completions.given_up().give_up(place),
            }
        }
        ended
    }

    /// The VMM is gone and the rings are stopped: they are as they were before the first one came. What the thread is at
    /// ends before, or is left behind.
    pub(crate) fn abandon(&self, waiter: &Waiter, until: Instant) {
        let at_rest = self.at_rest(waiter, until);
        if at_rest.is_none() {
            self.leave_behind();
        }
        self.vrings().iter().for_each(Vring::reset);
    }

    /// The rings are stopped or disabled, and the session ends: what was to be written to them is forgotten.
    pub(crate) fn discard(&self, waiter: &Waiter, until: Instant) {
        match self.at_rest(waiter, until) {
            Some(mut at_rest) => at_rest.0.discard(),
            None => self.leave_behind(),
        }
        self.wake();
    }

    /// After [`Self::discard`]: waits until the worker has nothing of this group, but perhaps waits for locks that nobody
    /// wants any more, and gives up what takes longer. Ends early when the boundary failed.
    pub(crate) fn wait_drained(&self, waiter: &Waiter, until: Instant) {
        let ended = self.wait_while(waiter, until, |unfinished| {
            !unfinished.is_drained() && !self.shared.failure.is_set()
        });
        if !ended && let Some(mut at_rest) = self.at_rest(waiter, until) {
            at_rest.0.give_up_all();
        }
    }

    /// Has the worker drop all that the guest has there. False: the lane is full of what the worker does not answer.
    pub(crate) fn reset_worker(&self, waiter: &Waiter, until: Instant) -> bool {
        let mut at_rest = self.at_rest(waiter, until);
        let asked = at_rest.as_mut().is_some_and(|at_rest| at_rest.0.reset_worker());
        drop(at_rest);
        self.wake();
        asked
    }

    /// Waits until the worker has nothing of this group at all, but for what was given up. Then the group is as it was
    /// before the first VMM came. Ends early when the boundary failed. False: it took longer, and is given up as well.
    pub(crate) fn clean(&self, waiter: &Waiter, until: Instant) -> bool {
        let ended = self.wait_while(waiter, until, |unfinished| {
            !unfinished.is_empty() && !self.shared.failure.is_set()
        });
        let at_rest = self.at_rest(waiter, until);
        if let Some(mut at_rest) = at_rest {
            if !ended {
                at_rest.0.give_up_all();
            }
            at_rest.0.clean();
        }
        ended
    }

    /// The thread is in a call on a file that hangs. It will find that nobody waits for anything.
    fn leave_behind(&self) {
        log::warn!("a call on a file hangs, and with it the thread of a queue");
        self.completions.leave_behind();
    }

    /// Whether no request is in flight that ends by itself. If there is, or the thread is at work, which may never end
    /// where a file's data is on a disk or a server that does not answer, the bell tells when to ask again.
    pub(crate) fn is_idle(&self) -> bool {
        self.try_lock()
            .is_some_and(|place| place.0.unfinished().is_idle())
    }

    /// From now on the bell is rung.
    pub(crate) fn watch(&self) {
        self.rests.watch();
    }

    /// Gets the thread out of a write to what the VMM gave for interrupts, if it has been in one for long. What it would
    /// have told there is told: what blocks has something to be read.
    pub(crate) fn nudge(&self) {
        if self.vrings().iter().any(Vring::is_interrupting) {
            self.nudge.nudge();
        }
    }

    /// False: it was busy for too long.
    fn wait_while(&self, waiter: &Waiter, until: Instant, busy: impl Fn(&Unfinished) -> bool) -> bool {
        let last = self.rests.last();
        let found = self.wait(waiter, until, || match self.try_lock() {
            // A thread that sleeps, or has not begun, need not be asked.
            Some(place) => (!busy(&place.0.unfinished())).then_some(()),
            None => self
                .rests
                .since(last)
                .and_then(|unfinished| (!busy(&unfinished)).then_some(())),
        });
        found.is_some()
    }

    /// The group, once the thread is not at work. None if that takes too long.
    fn at_rest(&self, waiter: &Waiter, until: Instant) -> Option<MutexGuard<'_, (Group, Buffers)>> {
        // One that does not hang soon has a rest.
        self.wait(waiter, until.max(Instant::now() + LET_GO), || self.try_lock())
    }

    /// Waits until `found` gives something. None if it takes too long.
    fn wait<T>(&self, waiter: &Waiter, until: Instant, found: impl Fn() -> Option<T>) -> Option<T> {
        let _awaited = self.rests.await_them();
        let [mut patience, most] = PATIENCE;
        loop {
            if let Some(found) = found() {
                return Some(found);
            }
            let left = until.checked_duration_since(Instant::now())?;
            match waiter.wait(Some(patience.min(left))) {
                Ok(0) => self.nudge(),
                Ok(_) => {}
                Err(error) => {
                    log::error!("cannot wait for a queue's thread: {error}");
                    end(ExitKind::OsError.code());
                }
            }
            patience = (patience * 2).min(most);
        }
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, (Group, Buffers)>> {
        match self.group.try_lock() {
            Ok(place) => Some(place),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
