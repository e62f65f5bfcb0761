//! Starting the worker: into its namespaces by clone(2), its id maps or its network namespace made by the parent.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use airlockfs_ipc::message::{Barrier, Sandbox};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::pipe2;

use crate::child::{self, Child, STEPS};
use crate::gather::Elsewhere;
use crate::{ExitKind, Namespaces, StartError, UserNamespace, namespaces, report};

/// What the worker is started with.
#[derive(Debug)]
pub struct WorkerLaunch<'a> {
    /// The executable, opened (O_PATH is enough); it is executed by this descriptor.
    pub executable: BorrowedFd<'a>,
    /// The worker's end of the SOCK_SEQPACKET control socketpair; becomes its descriptor 3.
    pub control: BorrowedFd<'a>,
    /// Where its log lines go; becomes its descriptor 2. Descriptors 0 and 1 are /dev/null.
    pub log: BorrowedFd<'a>,
    /// How namespaces are used; only [`Sandbox::Namespace`] makes any.
    pub sandbox: Sandbox,
    /// The user namespace.
    pub user_namespace: UserNamespace,
    /// Barriers that the kernel may lack.
    pub allow_missing: &'a [Barrier],
    /// It may join its network namespace later: [`SpawnedWorker::network`].
    pub joins_network: bool,
}

/// A started worker.
#[derive(Debug)]
pub struct SpawnedWorker {
    /// Its process id in the caller's pid namespace.
    pub pid: i32,
    /// Readable once it has ended (pidfd_open(2)).
    pub pidfd: OwnedFd,
    /// Namespaces of its own. The worker learns them from its first argument.
    pub namespaces: Namespaces,
    /// Another one, for it to join before it confines itself. To make it takes the kernel most of the time that a new
    /// process in namespaces of its own takes, so the caller did it while the worker is loaded. The caller is in it
    /// until it confines itself, and makes nothing there.
    pub network: Option<OwnedFd>,
    /// What is weaker than the default, a line each.
    pub weakened: Vec<String>,
    /// What the user should know besides, a line each.
    pub notes: Vec<String>,
    /// On its way to the worker's program: to be waited for.
    pub executing: Executing,
}

/// A child that is about to execute the worker: a pipe that execve(2) closes, and that tells before what failed.
#[derive(Debug)]
pub struct Executing(OwnedFd);

impl Executing {
    /// Waits until the child runs the worker.
    ///
    /// # Errors
    /// Says which step on the way failed and what to do.
    pub fn wait(self) -> Result<(), StartError> {
        let mut said = Vec::new();
        std::fs::File::from(self.0)
            .read_to_end(&mut said)
            .map_err(|error| failed("hear from the new process", error))?;
        match *said.as_slice() {
            [] => Ok(()),
            [step, a, b, c, d] => {
                let error = io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]));
                let what = STEPS.get(usize::from(step)).copied().unwrap_or("start");
                Err(failed(what, error))
            }
            _ => Err(failed(
                "hear from the new process",
                io::ErrorKind::InvalidData.into(),
            )),
        }
    }
}

impl SpawnedWorker {
    /// Ends a worker that is not told what to serve, before it can miss that. Waits for its end.
    pub fn end(self) {
        child::end(self.pidfd.as_fd());
    }
}

impl AsFd for Executing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Starts the worker; [`Executing::wait`] must follow. The caller has one thread and has not confined itself yet.
///
/// The child has an empty environment, the arguments `airlockfs-worker` and the list of its namespaces, descriptors 0
/// to 3 and no others, its own session, no_new_privs, and SIGKILL as parent-death signal.
///
/// The parent-death signal ends the worker only until the supervisor is confined. The kernel sends it with the rights
/// of the dying parent and says nothing when it refuses: root's worker has another uid, and Landlock's signal scope
/// holds also for an ordinary user (seen on Linux 6.18). What counts is the end of file on descriptor 3, which the
/// kernel delivers however the supervisor ends: a thread of the worker must wait for it and exit. A worker that is stopped
/// by then is continued by the kernel: descriptor 3 sends it SIGCONT (F_SETSIG) when something comes.
///
/// # Errors
/// Says which step of the caller's failed and what to do.
pub fn spawn_worker(launch: &WorkerLaunch<'_>) -> Result<SpawnedWorker, StartError> {
    report::require_one_thread()?;
    let mut weakened = Vec::new();
    let maps = match launch.sandbox {
        Sandbox::Namespace => launch.user_namespace.maps(),
        Sandbox::Chroot | Sandbox::None => None,
    };
    let mut wanted = match launch.sandbox {
        Sandbox::Namespace => {
            namespaces::of_this_kernel(maps.is_some(), true, launch.allow_missing, &mut weakened)?
        }
        Sandbox::Chroot | Sandbox::None => Namespaces::NONE,
    };

    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null =
        null.map_err(|error| StartError::new(ExitKind::OsError, format!("cannot open /dev/null: {error}")))?;
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|error| failed("make a pipe", error.into()));
    let ((go_child, go), (here, here_child), (outcome, outcome_child)) = (pipe()?, pipe()?, pipe()?);
    // One that belongs to a user namespace of the worker's must be made in that.
    let joins_network =
        launch.joins_network && !wanted.has(libc::CLONE_NEWUSER) && wanted.has(libc::CLONE_NEWNET);
    if joins_network {
        wanted = wanted.without(libc::CLONE_NEWNET);
    }
    let clone = |wanted: Namespaces| {
        let child = Child {
            null: out_of_the_way(null.as_fd())?,
            log: out_of_the_way(launch.log)?,
            control: out_of_the_way(launch.control)?,
            executable: out_of_the_way(launch.executable)?,
            go: match wanted.has(libc::CLONE_NEWUSER) {
                true => Some((out_of_the_way(go_child.as_fd())?, go.as_fd())),
                false => None,
            },
            here: here_child.as_fd(),
            elsewhere: Elsewhere::than_here(),
            outcome: out_of_the_way(outcome_child.as_fd())?,
            name: c"airlockfs-worker".to_owned(),
            namespaces: CString::new(wanted.to_string())?,
        };
        child.clone_into(wanted)
    };

    let cloned = match clone(wanted) {
        Err(error) if namespaces::may_do_without(wanted, launch.allow_missing) => {
            weakened.push(format!("the worker has no namespaces of its own: {error}"));
            wanted = Namespaces::NONE;
            clone(wanted)
        }
        cloned => cloned,
    };
    let (pid, pidfd) = cloned.map_err(|error| namespaces::refused(wanted, "the worker", &error))?;
    drop((go_child, here_child, outcome_child));

    let mut notes = Vec::new();
    let may_go = match maps {
        Some(maps) if wanted.has(libc::CLONE_NEWUSER) => {
            maps.write(pid).map(|said| notes = said).and_then(|()| {
                let told = std::fs::File::from(go).write_all(&[1]);
                told.map_err(|error| failed("reach the new process", error))
            })
        }
        _ => Ok(()),
    };
    let started = may_go.and_then(|()| runs(here));
    if let Err(error) = started {
        child::end(pidfd.as_fd());
        return Err(error);
    }
    let network = match joins_network.then(new_network) {
        None => None,
        Some(Ok(network)) => Some(network),
        Some(Err(_)) => {
            child::end(pidfd.as_fd());
            // What is wrong is told, and what may be missing is done without, where all are made at once.
            return spawn_worker(&WorkerLaunch {
                user_namespace: launch.user_namespace.clone(),
                joins_network: false,
                ..*launch
            });
        }
    };
    Ok(SpawnedWorker {
        pid,
        pidfd,
        namespaces: wanted,
        network,
        weakened,
        notes,
        executing: Executing(outcome),
    })
}

/// Opens the worker's executable for [`WorkerLaunch::executable`], by the path it was found at.
///
/// # Errors
/// It is not there or cannot be opened.
pub fn open_executable(path: &Path) -> Result<OwnedFd, StartError> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty()).map_err(|error| {
        StartError::new(
            ExitKind::Unavailable,
            format!(
                "cannot open the worker's executable {}: {error}; reinstall airlockfs",
                path.display()
            ),
        )
    })
}

/// Makes a network namespace, and moves there.
fn new_network() -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    Ok(std::fs::File::open("/proc/self/ns/net")?.into())
}

/// Waits until the child runs. A new process gets the processor that its parent has, and waits there until the parent sleeps;
/// it moves to another one then.
fn runs(here: OwnedFd) -> Result<(), StartError> {
    std::fs::File::from(here)
        .read_to_end(&mut Vec::new())
        .map_err(|error| failed("hear from the new process", error))?;
    Ok(())
}

/// A copy above the numbers the child uses, closed by execve(2).
fn out_of_the_way(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    child::owned(fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(10))?)
}

fn failed(what: &str, error: io::Error) -> StartError {
    StartError::new(
        ExitKind::OsError,
        format!("cannot start the worker: {what}: {error}"),
    )
}
