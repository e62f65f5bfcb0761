//! Starting the worker: clone(2) into its namespaces and execveat(2) of its opened executable.

use std::os::fd::{BorrowedFd, OwnedFd};

use airlockfs_ipc::message::{Barrier, Sandbox};

use crate::{ExitKind, Namespaces, StartError, UserNamespace};

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
    /// What is weaker than the default, a line each.
    pub weakened: Vec<String>,
}

/// Starts the worker. The caller has one thread and has not confined itself yet.
///
/// The child has an empty environment, the arguments `airlockfs-worker` and the list of its namespaces, descriptors 0
/// to 3 and no others, its own session, and SIGKILL as parent-death signal.
///
/// # Errors
/// Says which step failed and what to do.
pub fn spawn_worker(launch: &WorkerLaunch<'_>) -> Result<SpawnedWorker, StartError> {
    let _ = launch;
    Err(StartError::new(
        ExitKind::Software,
        "the worker cannot be started by this version",
    ))
}
