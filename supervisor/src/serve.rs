//! Serves one VMM after another until the VMM goes, a signal comes or the worker fails. Everything this process does
//! with guest bytes begins here, and only for one that is confined.

use std::{
    fmt, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use airlockfs_ipc::ring::SupervisorLane;
use airlockfs_policy::{ExitKind, confine::Confined};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
};
use vhost::vhost_user::{
    Error::{Disconnected, PartialMessage},
    Listener,
};
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};

use crate::{
    data::{HandleTable, Pool},
    device::{Device, TAG_MAX},
    fuse,
    guest_memory::{Memory, SharedMemory},
    logging,
    session::Session,
    shared::{Failure, FailureReason, Shared},
    worker_process::Control,
};

/// How long requests in flight may take once a signal asked the daemon to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the answer EIO may take to reach everybody.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long the threads may take to end after that.
const LAST_STEPS: Duration = Duration::from_secs(2);
/// How long a worker may take from closing its channel to its end, in milliseconds.
const LAST_BREATH: u16 = 1000;

/// What to serve with.
pub(crate) struct Ends {
    /// Where VMMs connect.
    pub(crate) listener: UnixListener,
    /// The ring, a lane for each virtqueue: the high-priority one first.
    pub(crate) lanes: Vec<SupervisorLane>,
    /// The control channel to the worker: its end is the worker's.
    pub(crate) worker: Control,
    /// The worker's process (pidfd_open(2)).
    pub(crate) worker_process: OwnedFd,
    /// From [`signals`].
    pub(crate) signals: SignalFd,
}

/// How to serve.
#[derive(Debug, Clone)]
pub(crate) struct ServeOptions {
    /// The tag in the config space, if the VMM is to learn it from there.
    pub(crate) tag: Option<[u8; TAG_MAX]>,
    /// What INIT grants.
    pub(crate) fuse: fuse::Options,
    /// Descriptors of regular files are asked for.
    pub(crate) donate: bool,
    /// How many of them may be of files that the guest uses without opening them.
    pub(crate) used_by_node: usize,
    /// The guest sees a file's attributes as this process does.
    pub(crate) attributes_alike: bool,
    /// What happens when the VMM goes.
    pub(crate) on_disconnect: OnDisconnect,
    /// Most threads that wait for devices.
    pub(crate) data_threads: usize,
}

/// `--on-disconnect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnDisconnect {
    /// The daemon ends.
    Exit,
    /// It waits for the next one.
    Listen,
}

/// Why serving ended in another way than it should.
#[derive(Debug)]
pub(crate) enum ServeError {
    /// The boundary failed. Requests in flight were answered EIO.
    Boundary(FailureReason),
    /// A system call that must not fail did, or a thread could not be started.
    System(&'static str, io::Error),
    /// The VMM broke the vhost-user protocol.
    Vmm(vhost_user_backend::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boundary(reason) => write!(f, "the session ended: {reason}"),
            Self::System(what, error) => write!(f, "{what}: {error}"),
            Self::Vmm(error) => write!(f, "the VMM's vhost-user messages make no sense: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// Blocks SIGTERM, SIGINT and SIGHUP for this thread and those it starts from now on, to be read by [`serve`].
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

/// What serves, made before the system call filter is in force, which lets none of this be made.
pub(crate) struct Ready {
    watch: Arc<Watch>,
    memory: SharedMemory,
    door: UnixListener,
    listener: Listener,
    on_disconnect: OnDisconnect,
}

/// Makes what serves and starts its first threads. No byte of a VMM or guest is read before [`serve`].
pub(crate) fn prepare(ends: Ends, options: &ServeOptions) -> Result<Ready, ServeError> {
    let system = |what| move |error| ServeError::System(what, error);
    let memory = SharedMemory::new(Memory::new());
    let failure_bell = event().map_err(system("no eventfd"))?;
    let shared = Arc::new(Shared {
        memory: memory.clone(),
        session: Session::default(),
        handles: options.donate.then(|| HandleTable::new(options.used_by_node)),
        pool: Pool::new(memory.clone(), options.data_threads.max(1)).map_err(system("no data thread"))?,
        attributes_alike: options.attributes_alike,
        options: options.fuse,
        failure: Failure::new(failure_bell),
        draining: AtomicBool::new(false),
        malformed: AtomicU64::new(0),
    });
    let device = Device::new(shared.clone(), ends.lanes, options.tag).map_err(system("no eventfd"))?;
    let watch = Arc::new(Watch {
        shared,
        device: Arc::new(device),
        connection: Mutex::new(None),
        ended: OnceLock::new(),
        bell: event().map_err(system("no eventfd"))?,
    });
    let watcher = watch.clone();
    let (worker, process, signals) = (ends.worker, ends.worker_process, ends.signals);
    thread::Builder::new()
        .name("watch".into())
        .stack_size(128 << 10)
        .spawn(move || watcher.run(&worker, &process, &signals))
        .map_err(system("no watching thread"))?;
    let door = ends
        .listener
        .try_clone()
        .map_err(system("the listening socket"))?;
    Ok(Ready {
        watch,
        memory,
        door,
        listener: Listener::from(ends.listener),
        on_disconnect: options.on_disconnect,
    })
}

/// Serves until it is over. Returns without error when the VMM went (with [`OnDisconnect::Exit`]) or on a signal, once
/// the requests in flight were answered.
pub(crate) fn serve(_confined: Confined, ready: Ready) -> Result<(), ServeError> {
    let Ready {
        watch,
        memory,
        door,
        mut listener,
        on_disconnect,
    } = ready;
    loop {
        logging::announce("Waiting for vhost-user socket connection...");
        match watch.wait_for(&door) {
            Ok(true) => {}
            Ok(false) => return watch.outcome(),
            Err(error) => return Err(ServeError::System("poll", error.into())),
        }
        let result = watch.serve_one(&mut listener, &memory);
        if watch.ended.get().is_some() {
            return watch.outcome();
        }
        let was_a_vmm = watch.device.take_negotiated();
        log::info!("{} is gone", if was_a_vmm { "the VMM" } else { "a visitor" });
        match on_disconnect {
            OnDisconnect::Exit if was_a_vmm => return result,
            OnDisconnect::Exit | OnDisconnect::Listen => {
                if let Err(error) = result {
                    log::warn!("{error}");
                }
                watch.device.abandon();
            }
        }
    }
}

fn event() -> io::Result<EventFd> {
    Ok(EventFd::from_flags(
        EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
    )?)
}

/// How a process ended whose control channel did.
fn how_it_ended(process: &OwnedFd) -> String {
    // Its channel is closed a moment before it is a zombie.
    let _ = poll(
        &mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)],
        PollTimeout::from(LAST_BREATH),
    );
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

/// What ends the daemon from outside its connection.
struct Watch {
    shared: Arc<Shared>,
    device: Arc<Device>,
    connection: Mutex<Option<ShutdownHandle>>,
    ended: OnceLock<Result<(), FailureReason>>,
    /// Rung when it ended.
    bell: EventFd,
}

impl Watch {
    /// Waits for a signal or a failure of the boundary, and has it all end in good order.
    fn run(&self, control: &Control, process: &OwnedFd, signals: &SignalFd) {
        let failure = self.shared.failure.bell();
        let mut sources =
            [signals.as_fd(), control.as_fd(), failure].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        while let Err(Errno::EINTR) = poll(&mut sources, PollTimeout::NONE) {}
        let [_, worker, _] = sources.map(|source| source.any().unwrap_or(true));
        if worker {
            // It says nothing once it serves; so this is its end.
            self.shared
                .failure
                .set(FailureReason::WorkerGone(how_it_ended(process)));
        }
        let outcome = match self.shared.failure.reason() {
            Some(reason) => {
                log::error!("{reason}; answering EIO to all requests in flight");
                self.device.wake();
                self.device.wait_idle(LAST_ANSWERS);
                Err(reason.clone())
            }
            None => {
                log::info!("asked to end");
                self.shared.draining.store(true, Relaxed);
                self.device.wake();
                if !self.device.wait_idle(DRAIN) {
                    log::warn!("requests in flight did not end in time");
                }
                Ok(())
            }
        };
        let code = match outcome {
            Ok(()) => 0,
            Err(_) => i32::from(ExitKind::Software.code()),
        };
        // Set once, here.
        let _ = self.ended.set(outcome);
        let _ = self.bell.write(1);
        if let Some(connection) = self.connection().as_ref() {
            connection.shutdown();
        }
        // The process ends with the main thread. That may wait for a VMM's message to be carried out, which waits for what
        // is in flight, or for a queue's thread: nobody's silence is to keep a daemon from its end.
        let over = Instant::now() + LAST_STEPS;
        while let Some(left) = over.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
        log::warn!("something in flight does not end; ending without it");
        control.farewell();
        std::process::exit(code);
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Option<ShutdownHandle>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a VMM. False: it is over.
    fn wait_for(&self, door: &UnixListener) -> nix::Result<bool> {
        let mut sources = [self.bell.as_fd(), door.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        while let Err(error) = poll(&mut sources, PollTimeout::NONE) {
            if error != Errno::EINTR {
                return Err(error);
            }
        }
        Ok(self.ended.get().is_none())
    }

    fn serve_one(&self, listener: &mut Listener, memory: &SharedMemory) -> Result<(), ServeError> {
        let device = self.device.clone();
        let mut daemon =
            VhostUserDaemon::new("vhost-user".into(), device, memory.clone()).map_err(ServeError::Vmm)?;
        self.device
            .register(&daemon)
            .map_err(|error| ServeError::System("epoll", error))?;
        daemon.start(listener).map_err(ServeError::Vmm)?;
        log::info!("a VMM is connected");
        *self.connection() = daemon.shutdown_handle();
        if self.ended.get().is_some() {
            // It ended between the two.
            daemon.request_shutdown();
        }
        let result = daemon.wait();
        *self.connection() = None;
        match result {
            Ok(()) | Err(vhost_user_backend::Error::HandleRequest(Disconnected | PartialMessage)) => Ok(()),
            Err(error) => Err(ServeError::Vmm(error)),
        }
    }

    fn outcome(&self) -> Result<(), ServeError> {
        match self.ended.get() {
            Some(Err(reason)) => Err(ServeError::Boundary(reason.clone())),
            Some(Ok(())) | None => Ok(()),
        }
    }
}
