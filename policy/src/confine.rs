//! The two functions that give up everything a process does not need, each read from top to bottom.

use std::os::fd::{BorrowedFd, OwnedFd};

use airlockfs_ipc::message::{ConfinementReport, WorkerConfig};

use crate::{ExitKind, Features, Namespaces, StartError};

/// Proof that this process is confined; serving demands it.
#[derive(Debug)]
pub struct Confined(());

/// What the worker confines itself with.
#[derive(Debug)]
pub struct WorkerPlan<'a> {
    /// What the command line asked.
    pub config: &'a WorkerConfig,
    /// The namespaces it was started in: [`Namespaces::parse`] of its first argument.
    pub namespaces: Namespaces,
    /// Descriptors it holds, each with what it is; all others but 0, 1 and 2 are closed.
    pub expected: &'a [(BorrowedFd<'a>, &'a str)],
    /// Limit of open files, soft and hard.
    pub nofile: u64,
}

/// The directories the confined worker works from.
#[derive(Debug)]
pub struct WorkerRoots {
    /// The root of each share, in the order of [`WorkerConfig::shares`], opened with O_PATH.
    pub shares: Vec<OwnedFd>,
    /// `/proc/self/fd`, opened with O_PATH: also the working directory, so that `AT_FDCWD` and a descriptor's decimal
    /// number name the inode behind an O_PATH descriptor.
    pub proc_self_fd: OwnedFd,
}

/// What the supervisor confines itself with.
#[derive(Debug)]
pub struct SupervisorPlan<'a> {
    /// What the command line turned on.
    pub features: &'a Features,
    /// Descriptors it holds, each with what it is; all others but 0, 1 and 2 are closed.
    pub expected: &'a [(BorrowedFd<'a>, &'a str)],
    /// User id to become when started as root; 65534 (nobody) unless told.
    pub uid: u32,
    /// Group id to become when started as root; 65534 unless told.
    pub gid: u32,
    /// Limit of open files, soft and hard.
    pub nofile: u64,
}

/// Confines the calling worker for ever. It has one thread and has received its `Start` message.
///
/// # Errors
/// What could not be given up, and what to do; the process must then exit.
pub fn confine_worker(
    plan: &WorkerPlan<'_>,
) -> Result<(Confined, ConfinementReport, WorkerRoots), StartError> {
    let _ = plan;
    Err(StartError::new(
        ExitKind::Software,
        "the worker cannot confine itself in this version",
    ))
}

/// Confines the calling supervisor for ever. It has one thread and has not read a guest byte.
///
/// # Errors
/// What could not be given up, and what to do; the process must then exit.
pub fn confine_supervisor(plan: &SupervisorPlan<'_>) -> Result<(Confined, ConfinementReport), StartError> {
    let _ = plan;
    Err(StartError::new(
        ExitKind::Software,
        "the supervisor cannot confine itself in this version",
    ))
}
