//! A virtqueue's state as the VMM sets it, shared by the connection thread of `vhost-user-backend`, which carries out what
//! the VMM says, and by the queue's own. Size, addresses and positions are the crate's.
//!
//! What the VMM gave for kicks and interrupts is not: the crate would read a kick and write an interrupt under the ring's lock, and
//! either may wait for ever. It finds that there is no kick, and this type has the kick waited for in the crate's epoll set.

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error, Queue, QueueT};

use super::MAX_QUEUE_SIZE;
use crate::{guest_memory::SharedMemory, wait::Waiter};

/// The state, and where its kick arrives.
#[derive(Clone)]
pub(crate) struct Vring(Arc<Parts>);

struct Parts {
    /// Where the ring is, how far, whether it was started and is enabled.
    ring: VringMutex<SharedMemory>,
    kick: Mutex<Kick>,
    /// Interrupts the guest.
    call: Mutex<Option<Arc<File>>>,
    /// What the state says of that, for who need not know more.
    used: AtomicBool,
    /// The queue's thread writes to the call, which may make it wait.
    interrupting: AtomicBool,
    /// What the queue's thread waits for, and the ring's number there.
    home: OnceLock<(Arc<Waiter>, u64)>,
}

#[derive(Default)]
struct Kick {
    /// Written to by the guest's driver or the VMM. It is never read: it may be of any kind, and the VMM may take a kick
    /// back, so that a read could wait for ever.
    file: Option<File>,
    /// It is waited for.
    awaited: bool,
    /// It is of a kind that cannot be waited for.
    refused: Option<io::Error>,
}

/// The ring, held for no longer than it takes to look or to change it. It is used when it was started and is enabled ("Ring
/// states" in QEMU's docs/interop/vhost-user.rst).
pub(crate) struct State<'a> {
    ring: MutexGuard<'a, VringState<SharedMemory>>,
    call: &'a Mutex<Option<Arc<File>>>,
}

impl State<'_> {
    /// Whether it is started and enabled.
    pub(crate) fn is_used(&self) -> bool {
        is_used(&self.ring)
    }

    /// Where it is, and how far.
    pub(crate) fn queue_mut(&mut self) -> &mut Queue {
        self.ring.get_queue_mut()
    }

    /// What interrupts the guest, if the VMM gave a descriptor for that: for [`Vring::interrupt`], without this lock.
    pub(crate) fn call(&self) -> Option<Arc<File>> {
        lock(self.call).clone()
    }
}

fn is_used(ring: &VringState<SharedMemory>) -> bool {
    ring.is_enabled() && ring.get_queue().ready()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vring {
    /// From now on its kicks arrive at `waiter` as event `number`.
    pub(crate) fn arrive(&self, waiter: Arc<Waiter>, number: u64) {
        // Said once.
        let _ = self.0.home.set((waiter, number));
    }

    /// The state.
    pub(crate) fn lock(&self) -> State<'_> {
        State {
            ring: self.0.ring.get_mut(),
            call: &self.0.call,
        }
    }

    /// Whether the ring is used, as far as this thread has heard.
    pub(crate) fn may_be_used(&self) -> bool {
        self.0.used.load(Relaxed)
    }

    /// Interrupts the guest. The state's lock must not be held: the VMM may have given something that makes the write
    /// wait for ever, and nobody else is to wait for that.
    ///
    /// # Errors
    /// EINTR when it was nudged out of it ([`crate::nudge`]); whatever write(2) says of the VMM's descriptor.
    pub(crate) fn interrupt(&self, mut call: Arc<File>) -> io::Result<()> {
        loop {
            self.0.interrupting.store(true, Relaxed);
            let told = nix::unistd::write(&*call, &1_u64.to_ne_bytes());
            self.0.interrupting.store(false, Relaxed);
            match lock(&self.0.call).clone() {
                // Exchanged meanwhile: whoever listens now may not have looked at the ring since.
                Some(other) if !Arc::ptr_eq(&other, &call) => call = other,
                _ => return Ok(told.map(drop)?),
            }
        }
    }

    /// Whether the queue's thread is in [`Self::interrupt`].
    pub(crate) fn is_interrupting(&self) -> bool {
        self.0.interrupting.load(Relaxed)
    }

    /// Tells of a kick that cannot be waited for, once.
    pub(crate) fn refusal(&self) -> io::Result<()> {
        lock(&self.0.kick).refused.take().map_or(Ok(()), Err)
    }

    /// Nothing is taken from the ring any more.
    pub(crate) fn stop(&self) {
        self.set_queue_ready(false);
    }

    /// The VMM is gone, and all it said with it.
    pub(crate) fn reset(&self) {
        self.set_kick(None);
        self.set_call(None);
        let mut state = self.lock();
        // The size is a power of two.
        *state.queue_mut() = Queue::new(MAX_QUEUE_SIZE).unwrap_or_default();
        drop(state);
        self.set_enabled(false);
        let _ = self.refusal();
    }

    /// A ring that has a kick is started.
    fn start(&self, kick: &mut Kick) {
        if kick.file.is_some() {
            self.0.ring.set_queue_ready(true);
        }
        self.update(kick);
    }

    /// Has the kick waited for exactly while the ring is used. What was written to it before is told then, too.
    fn update(&self, kick: &mut Kick) {
        let used = is_used(&self.0.ring.get_ref());
        self.0.used.store(used, Relaxed);
        if !used {
            self.forget(kick);
        } else if let (Some(file), false) = (&kick.file, kick.awaited)
            && let Some((waiter, number)) = self.0.home.get()
        {
            match waiter.add_edge(file, *number) {
                Ok(()) => kick.awaited = true,
                Err(error) => kick.refused = Some(error),
            }
        }
    }

    /// The kick tells nothing any more. Closing it would not do: the VMM has it open as well.
    fn forget(&self, kick: &mut Kick) {
        if let Some(file) = &kick.file
            && std::mem::take(&mut kick.awaited)
            && let Some((waiter, _)) = self.0.home.get()
        {
            waiter.remove(file);
        }
    }
}

impl<'a> VringStateGuard<'a, SharedMemory> for Vring {
    type G = MutexGuard<'a, VringState<SharedMemory>>;
}

impl<'a> VringStateMutGuard<'a, SharedMemory> for Vring {
    type G = MutexGuard<'a, VringState<SharedMemory>>;
}

/// What the crate asks for. All but the last six and [`Self::set_enabled`] and [`Self::set_queue_ready`] is its own type's.
impl VringT<SharedMemory> for Vring {
    fn new(memory: SharedMemory, max_queue_size: u16) -> Result<Self, Error> {
        Ok(Self(Arc::new(Parts {
            ring: VringMutex::new(memory, max_queue_size)?,
            kick: Mutex::default(),
            call: Mutex::default(),
            used: AtomicBool::new(false),
            interrupting: AtomicBool::new(false),
            home: OnceLock::new(),
        })))
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, SharedMemory>>::G {
        self.0.ring.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, SharedMemory>>::G {
        self.0.ring.get_mut()
    }

    fn add_used(&self, head: u16, length: u32) -> Result<(), Error> {
        self.0.ring.add_used(head, length)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        let call = lock(&self.0.call).clone();
        call.map_or(Ok(()), |call| self.interrupt(call))
    }

    fn enable_notification(&self) -> Result<bool, Error> {
        self.0.ring.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), Error> {
        self.0.ring.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, Error> {
        self.0.ring.needs_notification()
    }

    fn set_queue_info(&self, table: u64, avail: u64, used: u64) -> Result<(), Error> {
        self.0.ring.set_queue_info(table, avail, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.0.ring.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.0.ring.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, index: u16) {
        self.0.ring.set_queue_next_used(index);
    }

    fn queue_used_idx(&self) -> Result<u16, Error> {
        self.0.ring.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.0.ring.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.0.ring.set_queue_event_idx(enabled);
    }

    fn set_enabled(&self, enabled: bool) {
        let mut kick = lock(&self.0.kick);
        self.0.ring.set_enabled(enabled);
        self.update(&mut kick);
    }

    fn set_queue_ready(&self, ready: bool) {
        let mut kick = lock(&self.0.kick);
        self.0.ring.set_queue_ready(ready);
        self.update(&mut kick);
    }

    fn set_kick(&self, file: Option<File>) {
        let mut kick = lock(&self.0.kick);
        self.forget(&mut kick);
        kick.file = file;
        self.start(&mut kick);
    }

    fn read_kick(&self) -> io::Result<bool> {
        // The thread looks at a ring that was disabled meanwhile, and sees that.
        Ok(true)
    }

    fn set_call(&self, file: Option<File>) {
        *lock(&self.0.call) = file.map(Arc::new);
        let mut kick = lock(&self.0.kick);
        self.start(&mut kick);
    }

    fn set_err(&self, _file: Option<File>) {
        // Nothing is ever written to it.
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, time::Duration};

    use nix::sys::eventfd::EventFd;

    use super::*;
    use crate::guest_memory::Memory;

    impl Vring {
        /// One that was not started, the first of its thread.
        pub(crate) fn new(waiter: Arc<Waiter>) -> Self {
            let memory = SharedMemory::new(Memory::new());
            let vring = <Self as VringT<_>>::new(memory, MAX_QUEUE_SIZE).unwrap();
            vring.arrive(waiter, 0);
            vring
        }

        /// SET_VRING_ENABLE.
        pub(crate) fn enable(&self, enabled: bool) -> io::Result<()> {
            self.set_enabled(enabled);
            self.refusal()
        }
    }

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
        vring.set_kick(copy(&event));
        assert!(!kicked(), "not enabled");
        vring.enable(true).unwrap();
        assert!(heard(), "the kick from before");
        assert!(kicked());
        vring.enable(true).unwrap();
        assert!(!heard(), "nothing new");
        assert!(kicked() && !heard());
        vring.enable(false).unwrap();
        assert!(!kicked(), "disabled");
        vring.enable(true).unwrap();
        assert!(heard());
        vring.stop();
        assert!(!kicked(), "stopped");
        // As the crate does once the ring is stopped.
        vring.set_kick(None);
        vring.set_call(None);
        assert!(!vring.may_be_used(), "there is nothing to start it");
        vring.set_kick(copy(&event));
        assert!(vring.may_be_used(), "still enabled");
        assert!(heard() && kicked());
        let other = EventFd::new().unwrap();
        vring.set_kick(copy(&other));
        assert!(!kicked(), "another took its place");
        other.write(1).unwrap();
        assert!(heard());
        vring.set_kick(None);
        other.write(1).unwrap();
        assert!(!heard(), "it was taken away");
        vring.set_kick(copy(&event));
        assert!(heard());
        vring.reset();
        assert!(!kicked(), "the VMM is gone");
        assert!(vring.get_ref().get_kick().is_none(), "the crate never has it");
    }

    #[test]
    fn a_kick_that_is_never_told_is_refused_when_it_is_to_be_waited_for() {
        let vring = Vring::new(Arc::new(Waiter::new().unwrap()));
        let null = || Some(File::open("/dev/null").unwrap());
        vring.set_kick(null());
        vring.refusal().unwrap();
        assert!(vring.enable(true).is_err());
        vring.refusal().unwrap();
        vring.set_kick(null());
        assert!(vring.refusal().is_err());
        vring.enable(false).unwrap();
        vring.set_kick(None);
        vring.refusal().unwrap();
    }
}
