//! Serves one VMM after another until the VMM goes, a signal comes or the worker fails. Everything this process does
//! with guest bytes begins here, and only for one that is confined.

use std::{
    fmt, io,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
};

use airlockfs_ipc::{message::ConfinementReport, ring::SupervisorLane};
use airlockfs_policy::{Advised, confine::Confined};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost::vhost_user::{
    BackendReqHandler,
    Error::{Disconnected, PartialMessage, SocketBroken},
};

use crate::{
    backend::{self, Connection, Link},
    crew::Crew,
    data::{HandleTable, Pool},
    device::{Device, TAG_MAX},
    door::{Arrival, Door},
    fault, fuse,
    guest_memory::{Memory, SharedMemory},
    logging,
    session::Session,
    shared::{Failure, FailureReason, Shared},
    watch::{Ends, Greeting, Outside, READY, Watch},
};

/// Room for what the watching thread does.
const STACK: usize = 128 << 10;

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
    /// Most files and directories that the guest has open.
    pub(crate) handles: usize,
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
    /// No VMM came, and none can come any more.
    NoVmm(io::Error),
    /// The VMM's memory is not there any more.
    Memory,
    /// The VMM broke the vhost-user protocol.
    Vmm(vhost::vhost_user::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boundary(reason @ FailureReason::NotStarted(_)) => write!(f, "{reason}"),
            Self::Boundary(reason) => write!(f, "the session ended: {reason}"),
            Self::System(what, error) => write!(f, "{what}: {}", Advised(error)),
            Self::NoVmm(error) => write!(
                f,
                "no VMM came, and none can: the listening socket was shut down ({error})"
            ),
            Self::Memory => write!(
                f,
                "the VMM's memory failed: a file that it shares was truncated, or its file system has no room or no \
                 huge page for it"
            ),
            Self::Vmm(error) => write!(f, "the VMM's vhost-user messages make no sense: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// What serves, made before the system call filter is in force, which lets none of this be made.
pub(crate) struct Prepared {
    watch: Arc<Watch>,
    door: Door,
    link: &'static Link,
    on_disconnect: OnDisconnect,
}

/// Makes what serves VMMs that come to `listener`, through the ring's `lanes`, the high-priority queue's
/// first. Starts all threads, into `crew`. Nothing that a VMM, a guest or the worker says is read before [`serve`], and no
/// guest's request before the worker serves.
pub(crate) fn prepare(
    listener: UnixListener,
    lanes: Vec<SupervisorLane>,
    ends: Ends,
    greeting: Greeting,
    options: &ServeOptions,
    crew: &mut Crew,
) -> Result<Prepared, ServeError> {
    let system = |what| move |error| ServeError::System(what, error);
    fault::handle().map_err(system("no handler of SIGBUS"))?;
    let failure_bell = event().map_err(system("no eventfd"))?;
    let memory = SharedMemory::new(Memory::new());
    let pool = Pool::new(memory.clone(), options.data_threads.max(1), crew);
    let shared = Arc::new(Shared {
        memory,
        session: Session::default(),
        handles: options
            .donate
            .then(|| HandleTable::new(options.handles, options.used_by_node)),
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
    let link = backend::start(&device, shared.memory.clone(), crew);
    let link = link.map_err(system("no thread for the queues or for what a VMM says"))?;
    let bell = event().map_err(system("no eventfd"))?;
    let watch = Arc::new(Watch::new(shared, device, bell));
    let outside = Outside::new(ends, &watch);
    let outside = outside.map_err(system("no epoll set"))?;
    let watching = watch.clone();
    crew.start("watch", STACK, move || watching.run(&outside, greeting))
        .map_err(system("no watching thread"))?;
    let door = Door::new(listener, watch.bell.as_fd()).map_err(system("no epoll set"))?;
    Ok(Prepared {
        watch,
        door,
        link,
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
    // Nobody else sets it.
    let _ = prepared.watch.confined.set(report);
    let result = prepared.serve_all();
    // Before the worker is told: that it ends then is no failure.
    let failed = prepared.watch.shared.failure.reason();
    match prepared.watch.over(failed) {
        Ok(()) => result,
        Err(reason) => Err(ServeError::Boundary(reason.clone())),
    }
}

impl Prepared {
    /// Serves one VMM after another.
    fn serve_all(&self) -> Result<(), ServeError> {
        let watch = &self.watch;
        let mut any_vmm = false;
        loop {
            let arrival = self.door.next();
            if watch.is_over() {
                return Ok(());
            }
            let result = match arrival {
                Ok(Arrival::Somebody(socket, duplicate)) => self.serve_one(socket, duplicate),
                Ok(Arrival::Nobody) => continue,
                Err(error) if any_vmm => {
                    log::info!("no other VMM can come: the listening socket was shut down ({error})");
                    return Ok(());
                }
                Err(error) => return Err(ServeError::NoVmm(error)),
            };
            if watch.is_over() {
                return Ok(());
            }
            let was_a_vmm = watch.device.take_claimed();
            any_vmm |= was_a_vmm;
            log::info!("{} is gone", if was_a_vmm { "the VMM" } else { "a visitor" });
            if watch.shared.failure.is_set() {
                // Nobody waits for an answer any more, and no other could be served.
                return result;
            }
            match self.on_disconnect {
                // The process ends, and with it all that the VMM left here; nothing is waited for.
                OnDisconnect::Exit if was_a_vmm => return result,
                OnDisconnect::Exit | OnDisconnect::Listen => {
                    if let Err(error) = result {
                        log::warn!("{error}");
                    }
                    watch.device.abandon();
                    logging::announce(READY);
                }
            }
        }
    }

    /// Carries out what a VMM says until it goes, or all is over.
    fn serve_one(&self, socket: UnixStream, duplicate: UnixStream) -> Result<(), ServeError> {
        let result = match self.watch.connected(duplicate) {
            true => self.carry_out(socket),
            false => Ok(()),
        };
        self.watch.disconnected();
        result
    }

    fn carry_out(&self, socket: UnixStream) -> Result<(), ServeError> {
        log::info!("a VMM is connected");
        let watch = &self.watch;
        let connection = Connection::new(watch.device.clone(), self.link, watch.shared.memory.clone());
        let connection = connection.map_err(ServeError::Vmm)?;
        // The lock is the crate's wish; there is one thread.
        let mut messages = BackendReqHandler::from_stream(socket, Arc::new(Mutex::new(connection)));
        loop {
            let carried_out = messages.handle_request();
            // What the VMM took away, nobody may use any more.
            watch.device.mappings().sweep();
            match carried_out {
                _ if fault::happened() => return Err(ServeError::Memory),
                Ok(()) => {}
                Err(Disconnected | PartialMessage | SocketBroken(_)) => return Ok(()),
                Err(_) if watch.is_over() => return Ok(()),
                Err(error) => return Err(ServeError::Vmm(error)),
            }
        }
    }
}

fn event() -> io::Result<EventFd> {
    Ok(EventFd::from_flags(
        EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
    )?)
}
