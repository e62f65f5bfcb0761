//! A group of queues at its thread, which sleeps until a ring is kicked, the worker rings the lane's doorbell, or a data
//! thread or the main thread the port's bell.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use airlockfs_ipc::ring::SupervisorLane;
use airlockfs_policy::ExitKind;
use nix::sys::eventfd::EventFd;

use super::{BELL, DOORBELL, Vring};
use crate::{
    data::Port,
    end::end,
    queue::{Group, QUEUES_MAX, Scratch, Unfinished},
    shared::Shared,
    wait::Waiter,
};

/// Queues, their rings and what their thread waits for, for all connections of the daemon.
pub(crate) struct Seat {
    /// As the VMM sets them.
    vrings: Vec<Vring>,
    group: Mutex<(Group, Scratch)>,
    waiter: Arc<Waiter>,
    port: Arc<Port>,
    /// What was unfinished when the thread last had a rest, if somebody waits for that. Whoever waits for it does not need the
    /// lock, which a thread that is busy with other queues hardly lets go of.
    rest: Mutex<Rest>,
    rested: Condvar,
    /// Rung at the same time, for whoever does not wait for ever.
    idle_bell: Arc<EventFd>,
    waiting: AtomicU32,
    shared: Arc<Shared>,
}

/// A moment at which the thread was not at work.
#[derive(Debug, Default)]
struct Rest {
    /// Which one it was.
    count: u64,
    unfinished: Unfinished,
}

/// No request that must finish.
const NOTHING: Unfinished = [0; QUEUES_MAX];

impl Seat {
    /// One for the device's queues of these `numbers`, whose thread runs [`Seat::serve`].
    pub(crate) fn new(
        numbers: Vec<usize>,
        shared: Arc<Shared>,
        lane: SupervisorLane,
        idle_bell: Arc<EventFd>,
    ) -> io::Result<Self> {
        let port = Arc::new(Port::new()?);
        let waiter = Arc::new(Waiter::new()?);
        waiter.add_edge(lane.doorbell(), DOORBELL)?;
        waiter.add_edge(port.bell(), BELL)?;
        let vrings = numbers.iter().map(|_| Vring::new(waiter.clone())).collect();
        let group = Group::new(numbers, shared.clone(), lane, port.clone());
        Ok(Self {
            vrings,
            group: Mutex::new((group, Scratch::new())),
            waiter,
            port,
            rest: Mutex::default(),
            rested: Condvar::new(),
            idle_bell,
            waiting: AtomicU32::new(0),
            shared,
        })
    }

    /// The rings, each at its place in the group.
    pub(crate) fn vrings(&self) -> &[Vring] {
        &self.vrings
    }

    /// Serves the queues for ever, once the worker serves.
    pub(crate) fn serve(&self) {
        self.shared.worker_serves.wait();
        let mut limit = None;
        loop {
            if let Err(error) = self.waiter.wait(limit) {
                log::error!("a queue's thread cannot wait: {error}");
                end(ExitKind::OsError.code());
            }
            let mut place = self.lock();
            let (group, scratch) = &mut *place;
            let awaited = || self.waiting.load(SeqCst) > 0;
            limit = group.run(&self.vrings, scratch, awaited);
            if self.shared.failure.is_set() {
                // A worker that broke the rules may ring without end.
                self.waiter.remove(group.lane.doorbell());
            }
            // Who waits counts itself first and tries the lock then: it sees what was left behind, or is seen here.
            if awaited() {
                let unfinished = group.unfinished();
                drop(place);
                let mut rest = self.rest();
                rest.count = rest.count.wrapping_add(1);
                rest.unfinished = unfinished;
                self.rested.notify_all();
                let _ = self.idle_bell.write(1);
            }
        }
    }

    /// Has the thread look at everything.
    pub(crate) fn wake(&self) {
        self.port.ring();
    }

    /// Waits until no request of the queue at `place` is in flight that ends by itself.
    pub(crate) fn wait_stopped(&self, place: usize) {
        self.wait_while(|unfinished| unfinished.get(place).is_some_and(|count| *count > 0));
    }

    /// The same for all of them.
    pub(crate) fn wait_idle(&self) {
        self.wait_while(|unfinished| *unfinished != NOTHING);
    }

    /// The VMM is gone and the rings are stopped: nothing is written to them any more. What the thread is at ends before.
    pub(crate) fn abandon(&self) {
        let mut place = self.lock();
        place.0.discard();
        self.vrings.iter().for_each(Vring::reset);
    }

    /// Waits for what is in flight for nobody. Ends early when the boundary failed.
    pub(crate) fn wait_abandoned(&self) {
        self.wait_while(|unfinished| *unfinished != NOTHING && !self.shared.failure.is_set());
        self.lock().0.discard();
    }

    /// Whether no request is in flight that ends by itself. If there is, or the thread is at work, which may never end
    /// where a file's data is on a disk or a server that does not answer, the idle bell tells when to ask again.
    pub(crate) fn is_idle(&self) -> bool {
        match self.group.try_lock() {
            Ok(place) => place.0.unfinished() == NOTHING,
            Err(TryLockError::Poisoned(error)) => error.into_inner().0.unfinished() == NOTHING,
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// From now on the idle bell is rung.
    pub(crate) fn watch(&self) {
        self.waiting.fetch_add(1, SeqCst);
    }

    fn wait_while(&self, busy: impl Fn(&Unfinished) -> bool) {
        let rest = self.rest();
        let last = rest.count;
        self.waiting.fetch_add(1, SeqCst);
        // A thread that sleeps, or has not begun, need not be asked.
        let now = match self.group.try_lock() {
            Ok(place) => Some(place.0.unfinished()),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner().0.unfinished()),
            Err(TryLockError::WouldBlock) => None,
        };
        if now.is_none_or(|unfinished| busy(&unfinished)) {
            let busy = |rest: &mut Rest| rest.count == last || busy(&rest.unfinished);
            drop(self.rested.wait_while(rest, busy));
        }
        self.waiting.fetch_sub(1, SeqCst);
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, (Group, Scratch)> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
