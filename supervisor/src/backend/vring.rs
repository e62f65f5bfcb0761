//! A virtqueue's state as the VMM sets it, shared by the main thread, which carries out what the VMM says, and by the
//! queue's own.

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use virtio_queue::{Queue, QueueT};

use super::{KICK, MAX_QUEUE_SIZE};
use crate::wait::Waiter;

/// The state, and where its kick arrives.
#[derive(Debug)]
pub(crate) struct Vring {
    state: Mutex<State>,
    /// What the state says of that, for who need not know more.
    used: AtomicBool,
    /// The queue's thread writes to the call, which may make it wait.
    interrupting: AtomicBool,
    /// What the queue's thread waits for.
    waiter: Arc<Waiter>,
}

/// The state. A ring is used when it was started and is enabled ("Ring states" in QEMU's docs/interop/vhost-user.rst).
#[derive(Debug)]
pub(crate) struct State {
    /// Size, addresses and positions, and whether it was started.
    queue: Queue,
    enabled: bool,
    /// Written to by the guest's driver or the VMM. It is never read: it may be of any kind, and the VMM may take a kick
    /// back, so that a read could wait for ever.
    kick: Option<File>,
    /// The kick is waited for.
    awaited: bool,
    /// Interrupts the guest.
    call: Option<Arc<File>>,
}

impl State {
    fn new() -> Self {
        Self {
            // The size is a power of two.
            queue: Queue::new(MAX_QUEUE_SIZE).unwrap_or_default(),
            enabled: false,
            kick: None,
            awaited: false,
            call: None,
        }
    }

    /// Whether it is started and enabled.
    pub(crate) fn is_used(&self) -> bool {
        self.enabled && self.queue.ready()
    }

    /// Where it is, and how far.
    pub(crate) fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// What interrupts the guest, if the VMM gave a descriptor for that: for [`Vring::interrupt`], without this lock.
    pub(crate) fn call(&self) -> Option<Arc<File>> {
        self.call.clone()
    }
}

impl Vring {
    /// One that was not started. Its kicks arrive at `waiter` as event [`KICK`].
    pub(crate) fn new(waiter: Arc<Waiter>) -> Self {
        Self {
            state: Mutex::new(State::new()),
            used: AtomicBool::new(false),
            interrupting: AtomicBool::new(false),
            waiter,
        }
    }

    /// The state; held for no longer than it takes to look or to change it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the ring is used, as far as this thread has heard.
    pub(crate) fn may_be_used(&self) -> bool {
        self.used.load(Relaxed)
    }

    /// Interrupts the guest. The state's lock must not be held: the VMM may have given something that makes the write
    /// wait for ever, and nobody else is to wait for that.
    ///
    /// # Errors
    /// EINTR when it was nudged out of it ([`crate::nudge`]); whatever write(2) says of the VMM's descriptor.
    pub(crate) fn interrupt(&self, mut call: Arc<File>) -> io::Result<()> {
        loop {
            self.interrupting.store(true, Relaxed);
            let told = nix::unistd::write(&*call, &1_u64.to_ne_bytes());
            self.interrupting.store(false, Relaxed);
            match self.lock().call() {
                // Exchanged meanwhile: whoever listens now may not have looked at the ring since.
                Some(other) if !Arc::ptr_eq(&other, &call) => call = other,
                _ => return Ok(told.map(drop)?),
            }
        }
    }

    /// Whether the queue's thread is in [`Self::interrupt`].
    pub(crate) fn is_interrupting(&self) -> bool {
        self.interrupting.load(Relaxed)
    }

    /// SET_VRING_KICK; a ring that has a kick is started.
    ///
    /// # Errors
    /// The ring is enabled, and the descriptor is of a kind that is never waited for.
    pub(crate) fn set_kick(&self, kick: Option<File>) -> io::Result<bool> {
        let mut state = self.lock();
        self.forget_kick(&mut state);
        state.kick = kick;
        self.start(&mut state)
    }

    /// SET_VRING_CALL.
    ///
    /// # Errors
    /// As [`Vring::set_kick`].
    pub(crate) fn set_call(&self, call: Option<File>) -> io::Result<bool> {
        let mut state = self.lock();
        state.call = call.map(Arc::new);
        self.start(&mut state)
    }

    /// SET_VRING_ENABLE, or what amounts to it. True: there may be something to do that nobody kicks for.
    ///
    /// # Errors
    /// As [`Vring::set_kick`].
    pub(crate) fn enable(&self, enabled: bool) -> io::Result<bool> {
        let mut state = self.lock();
        state.enabled = enabled;
        self.update(&mut state)
    }

    /// The first half of GET_VRING_BASE: nothing is taken from the ring any more.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.queue.set_ready(false);
        self.used.store(false, Relaxed);
        self.forget_kick(&mut state);
    }

    /// The second half, once what was taken is answered: the next position in the available ring.
    pub(crate) fn close(&self) -> u16 {
        let mut state = self.lock();
        self.forget_kick(&mut state);
        state.kick = None;
        state.call = None;
        state.queue.next_avail()
    }

    /// The VMM is gone, and all it said with it.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        self.forget_kick(&mut state);
        *state = State::new();
        self.used.store(false, Relaxed);
    }

    fn start(&self, state: &mut State) -> io::Result<bool> {
        if state.kick.is_some() {
            state.queue.set_ready(true);
        }
        self.update(state)
    }

    /// Has the kick waited for exactly while the ring is used. True: from now on it is. What was written to the kick
    /// before is told then, too.
    fn update(&self, state: &mut State) -> io::Result<bool> {
        self.used.store(state.is_used(), Relaxed);
        if !state.is_used() {
            self.forget_kick(state);
            return Ok(false);
        }
        match &state.kick {
            Some(kick) if !state.awaited => {
                self.waiter.add_edge(kick, KICK)?;
                state.awaited = true;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The kick tells nothing any more. Closing it would not do: the VMM has it open as well.
    fn forget_kick(&self, state: &mut State) {
        if let Some(kick) = &state.kick
            && std::mem::take(&mut state.awaited)
        {
            self.waiter.remove(kick);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, time::Duration};

    use nix::sys::eventfd::EventFd;

    use super::*;

    fn copy(event: &EventFd) -> Option<File> {
        Some(event.as_fd().try_clone_to_owned().unwrap().into())
    }

    #[test]
    fn a_kick_is_heard_exactly_while_the_ring_is_used() {
        let waiter = Arc::new(Waiter::new().unwrap());
        let vring = Vring::new(waiter.clone());
        let event = EventFd::new().unwrap();
        let heard = || waiter.wait(Some(Duration::ZERO)).unwrap() != 0;
        let kicked = || {
            event.write(1).unwrap();
            heard()
        };
        assert!(!vring.set_kick(copy(&event)).unwrap());
        assert!(!kicked(), "not enabled");
        assert!(vring.enable(true).unwrap());
        assert!(heard(), "the kick from before");
        assert!(kicked());
        assert!(!vring.enable(true).unwrap(), "nothing new");
        assert!(kicked() && !heard());
        vring.enable(false).unwrap();
        assert!(!kicked(), "disabled");
        vring.enable(true).unwrap();
        assert!(heard());
        vring.stop();
        assert!(!kicked(), "stopped");
        assert_eq!(vring.close(), 0);
        assert!(!vring.set_call(None).unwrap(), "there is nothing to start it");
        assert!(vring.set_kick(copy(&event)).unwrap(), "still enabled");
        assert!(heard() && kicked());
        let other = EventFd::new().unwrap();
        assert!(vring.set_kick(copy(&other)).unwrap());
        assert!(!kicked(), "another took its place");
        other.write(1).unwrap();
        assert!(heard());
        vring.set_kick(None).unwrap();
        other.write(1).unwrap();
        assert!(!heard(), "it was taken away");
        vring.set_kick(copy(&event)).unwrap();
        assert!(heard());
        vring.reset();
        assert!(!kicked(), "the VMM is gone");
    }

    #[test]
    fn a_kick_that_is_never_told_is_refused_when_it_is_to_be_waited_for() {
        let vring = Vring::new(Arc::new(Waiter::new().unwrap()));
        let null = || Some(File::open("/dev/null").unwrap());
        vring.set_kick(null()).unwrap();
        assert!(vring.enable(true).is_err());
        assert!(vring.set_kick(null()).is_err());
        vring.enable(false).unwrap();
        assert!(!vring.set_kick(None).unwrap());
    }
}
