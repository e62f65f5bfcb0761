//! What all queues' threads share.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{
    OnceLock,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use airlockfs_ipc::ProtocolError;
use airlockfs_policy::{ExitKind, StartError};
use nix::sys::eventfd::EventFd;

use crate::{
    data::{HandleTable, Pool},
    fuse,
    guest_memory::SharedMemory,
    logging::Rate,
    session::Session,
};

/// One for a daemon's life.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The guest's memory as the VMM shows it.
    pub(crate) memory: SharedMemory,
    /// The FUSE session.
    pub(crate) session: Session,
    /// Open regular files; none with `--no-donate`.
    pub(crate) handles: Option<HandleTable>,
    /// The guest sees a file's attributes as this process does.
    pub(crate) attributes_alike: bool,
    /// Set once the worker is confined and serves: no request is taken before.
    pub(crate) worker_serves: OnceLock<()>,
    /// Threads that wait for devices.
    pub(crate) pool: Pool,
    /// What INIT grants.
    pub(crate) options: fuse::Options,
    /// Why it must end.
    pub(crate) failure: Failure,
    /// No more requests are taken: the daemon ends.
    pub(crate) draining: AtomicBool,
    /// Malformed requests so far.
    pub(crate) malformed: AtomicU64,
}

/// Lines about malformed requests.
static MALFORMED: Rate = Rate::new();

impl Shared {
    /// Counts and logs what no lawful guest sends.
    pub(crate) fn count_malformed(&self, queue: usize, what: &dyn std::fmt::Display) {
        let count = self.malformed.fetch_add(1, Relaxed).wrapping_add(1);
        if let Some(more) = MALFORMED.admit() {
            log::warn!("malformed request number {count}, on queue {queue}: {what}{more}");
        }
    }
}

/// Why the worker cannot be trusted or asked any more; the first reason counts.
#[derive(Debug)]
pub(crate) struct Failure {
    failed: AtomicBool,
    reason: OnceLock<FailureReason>,
    bell: EventFd,
}

/// How the boundary failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FailureReason {
    /// The worker did not come to serving.
    NotStarted(StartError),
    /// The worker ended: how.
    WorkerGone(String),
    /// The worker broke the rules.
    Violation(ProtocolError),
}

impl std::fmt::Display for FailureReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotStarted(error) => write!(f, "{error}"),
            Self::WorkerGone(how) => write!(f, "the worker {how}"),
            Self::Violation(error) => write!(f, "the worker broke the rules: {error}"),
        }
    }
}

impl std::error::Error for FailureReason {}

impl FailureReason {
    /// What the exit code tells.
    pub(crate) fn kind(&self) -> ExitKind {
        match self {
            Self::NotStarted(error) => error.kind,
            Self::WorkerGone(_) | Self::Violation(_) => ExitKind::Software,
        }
    }
}

impl Failure {
    /// None yet. `bell` is rung at the first.
    pub(crate) fn new(bell: EventFd) -> Self {
        Self {
            failed: AtomicBool::new(false),
            reason: OnceLock::new(),
            bell,
        }
    }

    /// Whether there is one: then no request reaches the worker, and all are answered EIO.
    pub(crate) fn is_set(&self) -> bool {
        self.failed.load(Acquire)
    }

    /// The first one.
    pub(crate) fn reason(&self) -> Option<&FailureReason> {
        self.reason.get()
    }

    /// Readable once there is one.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Notes one.
    pub(crate) fn set(&self, reason: FailureReason) {
        if self.reason.set(reason).is_ok() {
            self.failed.store(true, Release);
            // A full counter is readable, too.
            let _ = self.bell.write(1);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        crew::Crew,
        fuse::{CacheMode, CachePolicy, Options},
    };

    pub(crate) const OPTIONS: Options = Options {
        cache: CachePolicy::new(CacheMode::Auto),
        readdirplus: true,
        writeback: false,
        announce_submounts: true,
        xattr: false,
        posix_acl: false,
        security_label: false,
        posix_lock: false,
        flock: false,
        killpriv_v2: false,
        allow_mmap: false,
        zero_open: false,
        forward_flush: false,
        forward_access: false,
        idmapped_mounts: false,
        file_handles: false,
    };

    impl Shared {
        pub(crate) fn for_test(memory: SharedMemory, donate: bool, options: Options) -> Self {
            Self {
                memory: memory.clone(),
                session: Session::default(),
                handles: donate.then(|| HandleTable::new(1 << 16, 0)),
                attributes_alike: true,
                worker_serves: OnceLock::from(()),
                pool: Pool::new(memory, 2, &mut Crew::default()).unwrap(),
                options,
                failure: Failure::new(EventFd::new().unwrap()),
                draining: AtomicBool::new(false),
                malformed: AtomicU64::new(0),
            }
        }
    }
}
