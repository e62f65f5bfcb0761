//! Serves one VMM after another until the VMM goes, a signal comes or the worker fails. Everything this process does
//! with guest bytes begins here, and only for one that is confined.

use std::{
    fmt, io,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use airlockfs_ipc::{message::ConfinementReport, ring::SupervisorLane};
use airlockfs_policy::{Advised, ExitKind, StartError, confine::Confined};
use nix::sys::{
    eventfd::{EfdFlags, EventFd},
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
    wait::{Id, WaitPidFlag, WaitStatus, waitid},
};
use vhost::vhost_user::{
    BackendReqHandler,
    Error::{Disconnected, PartialMessage, SocketBroken},
};

use crate::{
    backend::Connection,
    crew::Crew,
    data::{HandleTable, Pool},
    device::{Device, TAG_MAX},
    end::end,
    fuse,
    guest_memory::{Memory, SharedMemory},
    logging,
    session::Session,
    shared::{Failure, FailureReason, Shared},
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
/// Room for what the watching thread does.
const STACK: usize = 128 << 10;

/// What can end the daemon from outside its connection.
pub(crate) struct Ends {
    /// The control channel to the worker: it tells that it serves, and its end is the worker's.
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
    /// The guest sees a file's attributes as this process does.
    pub(crate) attributes_alike: bool,
    /// How many of them may be of files that the guest uses without opening them.
    pub(crate) used_by_node: usize,
    /// What happens when the VMM goes.
    pub(crate) on_disconnect: OnDisconnect,
    /// Threads that wait for devices.
    pub(crate) data_threads: usize,
    /// Request queues.
    pub(crate) request_queues: u16,
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
    Vmm(vhost::vhost_user::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boundary(reason @ FailureReason::NotStarted(_)) => write!(f, "{reason}"),
            Self::Boundary(reason) => write!(f, "the session ended: {reason}"),
            Self::System(what, error) => write!(f, "{what}: {}", Advised(error)),
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

/// What is said of this process and of the worker once both serve: what each found true of itself.
pub(crate) type Greeting = Box<dyn FnOnce(&ConfinementReport, &ConfinementReport) + Send>;

/// What launchers wait for, as virtiofsd says it.
const READY: &str = "Waiting for vhost-user socket connection...";

/// What serves, made before the system call filter is in force, which lets none of this be made.
pub(crate) struct Prepared {
    watch: Arc<Watch>,
    door: UnixListener,
    /// Waits for VMMs and for the end.
    arrivals: Waiter,
    on_disconnect: OnDisconnect,
}

/// Makes what serves VMMs that come to `door`, through the ring's `lanes`, the high-priority queue's
/// first. Starts all threads, into `crew`. Nothing that a VMM, a guest or the worker says is read before [`serve`], and no
/// guest's request before the worker serves.
pub(crate) fn prepare(
    door: UnixListener,
    lanes: Vec<SupervisorLane>,
    ends: Ends,
    greeting: Greeting,
    options: &ServeOptions,
    crew: &mut Crew,
) -> Result<Prepared, ServeError> {
    let system = |what| move |error| ServeError::System(what, error);
    let failure_bell = event().map_err(system("no eventfd"))?;
    let memory = SharedMemory::new(Memory::new());
    let pool = Pool::new(memory.clone(), options.data_threads.max(1), crew);
    let shared = Arc::new(Shared {
        memory,
        session: Session::default(),
        handles: options.donate.then(|| HandleTable::new(options.used_by_node)),
        pool: pool.map_err(system("no data thread"))?,
        attributes_alike: options.attributes_alike,
        worker_serves: OnceLock::new(),
        options: options.fuse,
        failure: Failure::new(failure_bell),
        draining: AtomicBool::new(false),
        malformed: AtomicU64::new(0),
    });
    let device = Device::new(shared.clone(), lanes, options.request_queues.into(), options.tag);
    let device = Arc::new(device.map_err(system("no eventfd or epoll set"))?);
    device.start(crew).map_err(system("no thread for a queue"))?;
    let watch = Arc::new(Watch {
        shared,
        device,
        connection: Mutex::new(None),
        confined: OnceLock::new(),
        ended: OnceLock::new(),
        bell: event().map_err(system("no eventfd"))?,
    });
    let outside = Outside::new(ends.worker, ends.worker_process, ends.signals, &watch);
    let outside = outside.map_err(system("no epoll set"))?;
    let watching = watch.clone();
    crew.start("watch", STACK, move || watching.run(&outside, greeting))
        .map_err(system("no watching thread"))?;
    let arrivals = Waiter::level([&watch.bell, &door]).map_err(system("no epoll set"))?;
    Ok(Prepared {
        watch,
        door,
        arrivals,
        on_disconnect: options.on_disconnect,
    })
}

/// Serves until it is over. Returns without error when the VMM went (with [`OnDisconnect::Exit`]) or on a signal, once
/// the requests in flight were answered.
pub(crate) fn serve(
    _confined: Confined,
    report: ConfinementReport,
    prepared: Prepared,
) -> Result<(), ServeError> {
    let Prepared {
        watch,
        door,
        arrivals,
        on_disconnect,
    } = prepared;
    // Nobody else sets it.
    let _ = watch.confined.set(report);
    loop {
        while arrivals
            .wait(None)
            .map_err(|error| ServeError::System("epoll_wait", error))?
            == 0
        {}
        if watch.ended.get().is_some() {
            return watch.outcome();
        }
        let result = watch.serve_one(&door);
        if watch.ended.get().is_some() {
            return watch.outcome();
        }
        let was_a_vmm = watch.device.take_negotiated();
        log::info!("{} is gone", if was_a_vmm { "the VMM" } else { "a visitor" });
        watch.device.abandon();
        match on_disconnect {
            OnDisconnect::Exit if was_a_vmm => return result,
            OnDisconnect::Exit | OnDisconnect::Listen => {
                if let Err(error) = result {
                    log::warn!("{error}");
                }
                watch.device.wait_abandoned();
                logging::announce(READY);
            }
        }
    }
}

fn event() -> io::Result<EventFd> {
    Ok(EventFd::from_flags(
        EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
    )?)
}

/// [`Ends`], waited for.
struct Outside {
    control: Control,
    process: OwnedFd,
    /// Never read: the first one ends it all.
    _signals: SignalFd,
    /// Waits for a signal, the worker's end and a failure of the boundary.
    any: Waiter,
    /// Waits for the end of the worker's process.
    exit: Waiter,
    /// Waits for nothing, for a while.
    clock: Waiter,
}

/// [`Outside::any`]'s number of the control channel.
const CONTROL: u32 = 1;
const CONTROL_ONLY: u32 = 1 << CONTROL;

impl Outside {
    fn new(control: Control, process: OwnedFd, signals: SignalFd, watch: &Watch) -> io::Result<Self> {
        let failure = watch.shared.failure.bell();
        Ok(Self {
            any: Waiter::level([&signals, &control, &failure])?,
            exit: Waiter::level([&process])?,
            clock: Waiter::new()?,
            control,
            process,
            _signals: signals,
        })
    }

    /// Waits until the worker serves: what it found true of itself. None if the end comes before: a signal did.
    fn worker_serves(&self) -> Result<Option<ConfinementReport>, StartError> {
        let limit = Instant::now() + START_LIMIT;
        while let Some(left) = limit.checked_duration_since(Instant::now()) {
            let told = self.any.wait(Some(left));
            match told.map_err(|error| StartError::new(ExitKind::OsError, format!("epoll_wait: {error}")))? {
                0 => {}
                CONTROL_ONLY => return self.control.started().map(Some),
                _ => return Ok(None),
            }
        }
        Err(StartError::new(
            ExitKind::Software,
            format!("the worker did not answer within {} s", START_LIMIT.as_secs()),
        ))
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
struct Watch {
    shared: Arc<Shared>,
    device: Arc<Device>,
    /// A duplicate of the VMM's socket.
    connection: Mutex<Option<UnixStream>>,
    /// Set once this process is confined: what it found true of itself.
    confined: OnceLock<ConfinementReport>,
    ended: OnceLock<Result<(), FailureReason>>,
    /// Rung when it ended.
    bell: EventFd,
}

impl Watch {
    /// Waits for the worker, then for a signal or a failure of the boundary, and has it all end in good order.
    fn run(&self, outside: &Outside, greeting: Greeting) {
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
        let mut told = Ok(0);
        while told.as_ref().is_ok_and(|told| *told == 0) {
            told = outside.any.wait(None);
        }
        // If it cannot wait, this is the end as well.
        if told.is_ok_and(|told| told & CONTROL_ONLY != 0) {
            // It says nothing once it serves; so this is its end.
            self.shared
                .failure
                .set(FailureReason::WorkerGone(outside.how_it_ended()));
        }
    }

    fn end(&self, outside: &Outside) {
        let outcome = match self.shared.failure.reason() {
            Some(reason @ FailureReason::NotStarted(_)) => Err(reason.clone()),
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
        let code = match &outcome {
            Ok(()) => 0,
            Err(reason) => reason.kind().code(),
        };
        // Set once, here; before it is looked whether there is a connection.
        let _ = self.ended.set(outcome);
        let _ = self.bell.write(1);
        if let Some(connection) = self.connection().as_ref() {
            // One that is closed already has ended.
            let _ = connection.shutdown(Shutdown::Both);
        }
        // The process ends with the main thread. That may wait for a VMM's message to be carried out, which waits for what
        // is in flight, or for a queue's thread: nobody's silence is to keep a daemon from its end.
        let over = Instant::now() + LAST_STEPS;
        while let Some(left) = over.checked_duration_since(Instant::now()) {
            let _ = outside.clock.wait(Some(left));
        }
        log::warn!("something in flight does not end; ending without it");
        outside.control.farewell();
        end(code);
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Option<UnixStream>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out what a VMM says until it goes, or all is over.
    fn serve_one(&self, door: &UnixListener) -> Result<(), ServeError> {
        let accepted = door.accept().and_then(|(socket, _)| {
            let duplicate = socket.try_clone()?;
            Ok((socket, duplicate))
        });
        let (socket, duplicate) = accepted.map_err(|error| ServeError::System("no connection", error))?;
        *self.connection() = Some(duplicate);
        let result = match self.ended.get() {
            // Whoever ended it shuts down the connection that was there by then, and this one was not or is shut down.
            Some(_) => Ok(()),
            None => self.carry_out(socket),
        };
        *self.connection() = None;
        result
    }

    fn carry_out(&self, socket: UnixStream) -> Result<(), ServeError> {
        log::info!("a VMM is connected");
        let connection = Connection::new(self.device.clone(), self.shared.memory.clone());
        // The lock is the crate's wish; there is one thread.
        let mut messages = BackendReqHandler::from_stream(socket, Arc::new(Mutex::new(connection)));
        loop {
            match messages.handle_request() {
                Ok(()) => {}
                Err(Disconnected | PartialMessage | SocketBroken(_)) => return Ok(()),
                Err(_) if self.ended.get().is_some() => return Ok(()),
                Err(error) => return Err(ServeError::Vmm(error)),
            }
        }
    }

    fn outcome(&self) -> Result<(), ServeError> {
        match self.ended.get() {
            Some(Err(reason)) => Err(ServeError::Boundary(reason.clone())),
            Some(Ok(())) | None => Ok(()),
        }
    }
}
