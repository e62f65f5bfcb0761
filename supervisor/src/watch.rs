//! The watching thread: it waits for a signal, for the worker's end and for a broken boundary, and ends the daemon in
//! good order and in bounded time, whatever hangs.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use airlockfs_ipc::message::ConfinementReport;
use airlockfs_policy::{ExitKind, StartError};
use nix::sys::{
    eventfd::EventFd,
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
    wait::{Id, WaitPidFlag, WaitStatus, waitid},
};

use crate::{
    device::Device,
    end::end,
    fault, logging,
    shared::{FailureReason, Shared},
    wait::Waiter,
    worker_process::{Control, START_LIMIT},
};

/// How long requests in flight may take once a signal asked the daemon to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the answer EIO may take to reach everybody.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long the threads may take to end after that.
const LAST_STEPS: Duration = Duration::from_secs(2);
/// How long a worker may take from closing its channel to its end.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// What can end the daemon from outside its connection.
pub(crate) struct Ends {
    /// The control channel to the worker: it tells that it serves, and its end is the worker's.
    pub(crate) worker: Control,
    /// The worker's process (pidfd_open(2)).
    pub(crate) worker_process: OwnedFd,
    /// From [`signals`].
    pub(crate) signals: SignalFd,
}

/// Blocks SIGTERM, SIGINT and SIGHUP for this thread and those it starts from now on. The watching thread reads them.
pub(crate) fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// What is said of this process and of the worker once both serve: what each found true of itself.
pub(crate) type Greeting = Box<dyn FnOnce(&ConfinementReport, &ConfinementReport) + Send>;

/// What launchers wait for, as virtiofsd says it.
pub(crate) const READY: &str = "Waiting for vhost-user socket connection...";

/// [`Ends`], waited for.
pub(crate) struct Outside {
    control: Control,
    process: OwnedFd,
    /// Never read: the first one ends it all.
    _signals: SignalFd,
    /// Waits for a signal, the worker's end and a failure of the boundary, and of the VMM's memory.
    any: Waiter,
    /// Waits for the end of the worker's process.
    exit: Waiter,
    /// Waits for nothing, for a while.
    clock: Waiter,
}

/// [`Outside::any`]'s number of the control channel.
const CONTROL: u32 = 1;
const CONTROL_ONLY: u32 = 1 << CONTROL;
/// That of the bell that tells of the VMM's memory.
const MEMORY: u64 = 3;
const MEMORY_ONLY: u32 = 1 << MEMORY;

impl Outside {
    /// Waits for `ends`, and for a failure that `watch` shows.
    pub(crate) fn new(ends: Ends, watch: &Watch) -> io::Result<Self> {
        let failure = watch.shared.failure.bell();
        let any = Waiter::level([&ends.signals, &ends.worker, &failure])?;
        if let Some(bell) = fault::bell() {
            any.add_edge(bell, MEMORY)?;
        }
        Ok(Self {
            any,
            exit: Waiter::level([&ends.worker_process])?,
            clock: Waiter::new()?,
            control: ends.worker,
            process: ends.worker_process,
            _signals: ends.signals,
        })
    }

    /// Waits until the worker serves: what it found true of itself. None if the end comes before: a signal did.
    fn worker_serves(&self) -> Result<Option<ConfinementReport>, StartError> {
        let limit = Instant::now() + START_LIMIT;
        while let Some(left) = limit.checked_duration_since(Instant::now()) {
            let told = self.any.wait(Some(left));
            match told.map_err(|error| StartError::new(ExitKind::OsError, format!("epoll_wait: {error}")))? {
                0 | MEMORY_ONLY => {}
                CONTROL_ONLY => return self.control.started().map(Some),
                _ => return Ok(None),
            }
        }
        Err(StartError::new(
            ExitKind::Software,
            format!("the worker did not answer within {} s", START_LIMIT.as_secs()),
        ))
    }

    /// Waits for anything of [`Outside::any`] that ends the daemon: their numbers, as bits. None if that is impossible.
    /// `memory_failed` is called at first, since that may have been told before, and whenever it is told.
    fn anything(&self, memory_failed: impl Fn()) -> Option<u32> {
        loop {
            memory_failed();
            match self.any.wait(None) {
                Ok(told) if told & !MEMORY_ONLY == 0 => {}
                told => return told.ok(),
            }
        }
    }

    /// How the worker ended, whose control channel did.
    fn how_it_ended(&self) -> String {
        // Its channel is closed a moment before it is a zombie.
        let _ = self.exit.wait(Some(LAST_BREATH));
        how_it_ended(&self.process)
    }
}

/// How a process ended, if it has.
fn how_it_ended(process: &OwnedFd) -> String {
    match waitid(
        Id::PIDFd(process.as_fd()),
        WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
    ) {
        Ok(WaitStatus::Exited(_, code)) if code == i32::from(airlockfs_policy::TRAPPED) => {
            "made a system call that its filter forbids (see the line above)".to_owned()
        }
        Ok(WaitStatus::Exited(_, code)) => format!("ended with exit code {code}"),
        Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _)) => {
            "made a system call that its filter forbids (SIGSYS), which the kernel's log names".to_owned()
        }
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("was ended by {signal}"),
        _ => "closed its channel".to_owned(),
    }
}

/// What the watching thread and the main one share.
pub(crate) struct Watch {
    pub(crate) shared: Arc<Shared>,
    pub(crate) device: Arc<Device>,
    /// A duplicate of the VMM's socket.
    connection: Mutex<Option<UnixStream>>,
    /// Set once this process is confined: what it found true of itself.
    pub(crate) confined: OnceLock<ConfinementReport>,
    /// How it ended. The watching thread sets it, or the main one when the VMM went: whoever is first.
    ended: OnceLock<Result<(), FailureReason>>,
    /// Rung when it ended.
    pub(crate) bell: EventFd,
}

impl Watch {
    /// Nothing has happened. The `bell` is rung when it ended.
    pub(crate) fn new(shared: Arc<Shared>, device: Arc<Device>, bell: EventFd) -> Self {
        Self {
            shared,
            device,
            connection: Mutex::new(None),
            confined: OnceLock::new(),
            ended: OnceLock::new(),
            bell,
        }
    }

    /// Waits for the worker, then for a signal or a failure of the boundary, and has it all end in good order.
    pub(crate) fn run(&self, outside: &Outside, greeting: Greeting) {
        let own = self.confined.wait();
        match outside.worker_serves() {
            Ok(Some(report)) => {
                // Nobody else sets it.
                let _ = self.shared.worker_serves.set(());
                logging::announce(READY);
                greeting(own, &report);
                self.wait_for_end(outside);
            }
            Ok(None) => {}
            Err(error) => self.shared.failure.set(FailureReason::NotStarted(error)),
        }
        self.end(outside);
    }

    fn wait_for_end(&self, outside: &Outside) {
        // If it cannot wait, this is the end as well.
        let told = outside.anything(|| self.memory_failed()).unwrap_or(0);
        // The worker says nothing once it serves, so this is its end. It is no failure when it was told to end: the main
        // thread says that it is over before the worker hears it.
        if told & CONTROL_ONLY != 0 && !self.is_over() {
            self.shared
                .failure
                .set(FailureReason::WorkerGone(outside.how_it_ended()));
        }
    }

    fn end(&self, outside: &Outside) {
        let failed = self.shared.failure.reason();
        if !self.is_over() {
            match failed {
                Some(FailureReason::NotStarted(_)) => {}
                Some(reason) => self.outlive_worker(reason, outside),
                None => {
                    log::info!("asked to end");
                    if !self.drain(DRAIN) {
                        log::warn!("requests in flight did not end in time");
                    }
                }
            }
        }
        let code = match self.over(failed) {
            Ok(()) => 0,
            Err(reason) => reason.kind().code(),
        };
        let _ = self.bell.write(1);
        // Only now: a connection that is not there yet finds that it is over.
        self.shut_down_connection(|| true);
        // The process ends with the main thread. That may wait for a VMM's message to be carried out, which waits for what
        // is in flight, or for a queue's thread: nobody's silence is to keep a daemon from its end.
        let over = Instant::now() + LAST_STEPS;
        while let Some(left) = over.checked_duration_since(Instant::now())
            && outside.clock.wait(Some(left)).is_ok()
        {}
        log::warn!("something in flight does not end; ending without it");
        outside.control.farewell();
        end(code);
    }

    /// The worker is gone or broke the rules. The guest gets EIO for all it asks and has asked until the VMM goes, which
    /// ends the main thread, or a signal comes: an unanswered request would hang its programs for good. Returns at once if
    /// no VMM has a guest there that could wait.
    fn outlive_worker(&self, reason: &FailureReason, outside: &Outside) {
        // One that broke the rules may still be there, stopped even.
        outside.control.farewell();
        if !self.has_vmm() {
            log::error!("{reason}");
            return;
        }
        log::error!("{reason}; answering EIO to all requests until the VMM goes");
        self.device.wake();
        outside.any.remove(&outside.control);
        outside.any.remove(self.shared.failure.bell());
        outside.anything(|| self.memory_failed());
        log::info!("asked to end");
        self.drain(LAST_ANSWERS);
    }

    /// Takes no more requests. False if those in flight took longer than `limit`.
    fn drain(&self, limit: Duration) -> bool {
        self.shared.draining.store(true, Relaxed);
        self.device.wake();
        self.device.wait_idle(limit)
    }

    /// It is over, because it `failed` or in good order. Gives what whoever said so first said.
    pub(crate) fn over(&self, failed: Option<&FailureReason>) -> Result<(), &FailureReason> {
        let ended = self.ended.get_or_init(|| failed.cloned().map_or(Ok(()), Err));
        ended.as_ref().copied()
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.get().is_some()
    }

    /// From now on the VMM's connection is shut down when it is over: `socket` is its duplicate. False if it is over already.
    pub(crate) fn connected(&self, socket: UnixStream) -> bool {
        *self.connection() = Some(socket);
        !self.is_over()
    }

    /// The VMM is gone.
    pub(crate) fn disconnected(&self) {
        *self.connection() = None;
    }

    /// Whether a VMM is connected that came as far as to drive the device.
    fn has_vmm(&self) -> bool {
        self.connection().is_some() && self.device.is_negotiated()
    }

    /// Shuts down the connection of a VMM whose memory failed.
    fn memory_failed(&self) {
        self.shut_down_connection(fault::happened);
    }

    /// Shuts down the connection, if there is `reason` to: seen under the lock, since the next one had no part in what the
    /// last one did.
    fn shut_down_connection(&self, reason: impl Fn() -> bool) {
        if let Some(connection) = self.connection().as_ref()
            && reason()
        {
            // One that is closed already has ended.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<UnixStream>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
