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
    queue::{Group, Scratch},
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
    /// Notified when the thread has done what there was to do, if somebody waits for that.
    idle: Condvar,
    /// Rung at the same time, for whoever does not wait for ever.
    idle_bell: Arc<EventFd>,
    waiting: AtomicU32,
    shared: Arc<Shared>,
}

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
            idle: Condvar::new(),
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
            limit = group.run(&self.vrings, scratch);
            drop(place);
            // Who waits counts itself first and takes the lock then: it sees what was left behind, or is seen here.
            if self.waiting.load(SeqCst) > 0 {
                self.idle.notify_all();
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
        self.wait_while(|group| group.must_finish(place) > 0);
    }

    /// The same for all of them.
    pub(crate) fn wait_idle(&self) {
        self.wait_while(|group| !group.is_idle());
    }

    /// The VMM is gone and the rings are stopped: nothing is written to them any more. What the thread is at ends before.
    pub(crate) fn abandon(&self) {
        let mut place = self.lock();
        place.0.discard();
        self.vrings.iter().for_each(Vring::reset);
    }

    /// Waits for what is in flight for nobody. Ends early when the boundary failed.
    pub(crate) fn wait_abandoned(&self) {
        self.wait_while(|group| !group.is_idle() && !self.shared.failure.is_set());
        self.lock().0.discard();
    }

    /// Whether no request is in flight that ends by itself. If there is, or the thread is at work, which may never end
    /// where a file's data is on a disk or a server that does not answer, the idle bell tells when to ask again.
    pub(crate) fn is_idle(&self) -> bool {
        match self.group.try_lock() {
            Ok(place) => place.0.is_idle(),
            Err(TryLockError::Poisoned(error)) => error.into_inner().0.is_idle(),
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// From now on the idle bell is rung.
    pub(crate) fn watch(&self) {
        self.waiting.fetch_add(1, SeqCst);
    }

    fn wait_while(&self, busy: impl Fn(&Group) -> bool) {
        self.waiting.fetch_add(1, SeqCst);
        let place = self.lock();
        let place = self.idle.wait_while(place, |place| busy(&place.0));
        drop(place);
        self.waiting.fetch_sub(1, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, (Group, Scratch)> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
