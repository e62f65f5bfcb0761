//! Starting the worker: found, opened once, executed by that descriptor, told what to serve, confined.

use std::{
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use airlockfs_ipc::{
    channel::{self, Channel},
    message::{self, ConfinementReport, Farewell, Start, Started, WorkerConfig},
    ring::{SupervisorLane, SupervisorRing},
};
use airlockfs_options::{NamedPath, Share};
use airlockfs_policy::{
    Advised, ExitKind, StartError, UserNamespace, installed,
    spawn::{SpawnedWorker, WorkerLaunch, spawn_worker},
};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::stat::{Mode, fstat},
};

const EXECUTABLE: &str = if cfg!(feature = "breach") {
    "airlockfs-worker-breach"
} else {
    "airlockfs-worker"
};
/// How long a worker may take to confine itself: far more than it ever needs.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);

/// A worker that confines itself.
pub(crate) struct Worker {
    /// The ring's ends of this side.
    pub(crate) lanes: Vec<SupervisorLane>,
    /// At its end, the worker has ended.
    pub(crate) control: Control,
    /// The process.
    pub(crate) process: SpawnedWorker,
}

/// The control channel. Wherever it is dropped first, the worker learns that this process ends in good order.
#[derive(Debug)]
pub(crate) struct Control(Arc<Channel>);

impl Control {
    /// The same channel.
    pub(crate) fn again(&self) -> Self {
        Self(self.0.clone())
    }

    /// Waits for what the worker says of its start: that it serves, and what it found true of itself.
    ///
    /// # Errors
    /// It does not serve: why.
    pub(crate) fn started(&self) -> Result<ConfinementReport, StartError> {
        match self.0.receive::<Started>(0) {
            Ok(Some((Started::Ready(report), _))) => Ok(report),
            Ok(Some((Started::Failed { kind, message }, _))) => {
                let kind = ExitKind::ALL
                    .into_iter()
                    .find(|known| known.code() == kind)
                    .unwrap_or(ExitKind::Software);
                Err(StartError::new(kind, message))
            }
            Ok(None) | Err(_) => Err(gone()),
        }
    }

    /// The last message.
    pub(crate) fn farewell(&self) {
        // A worker that is gone already needs none.
        let _ = self.0.send(&Farewell::Farewell, &[]);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.farewell();
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is shared, as the worker gets it.
pub(crate) fn shares(options: &Share) -> Result<Vec<message::Share>, StartError> {
    let only = options.shared_dir.iter().map(|directory| {
        let shown = format!("--shared-dir {}", directory.display());
        share(&shown, directory, None, options.readonly)
    });
    let named = options.named().map(|(named, readonly)| {
        let NamedPath { name, path } = named;
        let shown = format!("--share {}={}", name.display(), path.display());
        share(&shown, path, Some(name.as_bytes().to_vec()), readonly)
    });
    only.chain(named).collect()
}

/// A directory; with a name it may be a regular file. It is looked up once: the path is the one that leads to what was
/// found there, without links. The worker takes that path in its own mount namespace, without following links, and starts
/// with what was found here or not at all.
fn share(
    shown: &str,
    path: &Path,
    name: Option<Vec<u8>>,
    readonly: bool,
) -> Result<message::Share, StartError> {
    let missing = |what: String| StartError::new(ExitKind::NoInput, format!("{shown}: {what}"));
    let open = |kind: OFlag| nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC | kind, Mode::empty());
    let found = match (open(OFlag::O_DIRECTORY), &name) {
        (Err(Errno::ENOTDIR), Some(_)) => open(OFlag::empty()),
        (Err(Errno::ENOTDIR), None) if path.exists() => {
            return Err(missing(
                "not a directory (a file is shared by --share NAME=FILE)".to_owned(),
            ));
        }
        (found, _) => found,
    };
    let failed = |error: Errno| missing(std::io::Error::from(error).to_string());
    let found = found.map_err(failed)?;
    let status = fstat(&found).map_err(failed)?;
    if !matches!(status.st_mode & libc::S_IFMT, libc::S_IFDIR | libc::S_IFREG) {
        return Err(missing("neither a directory nor a regular file".to_owned()));
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let path = path.map_err(|error| missing(error.to_string()))?;
    Ok(message::Share {
        path: path.as_os_str().as_bytes().to_vec(),
        identity: (status.st_dev, status.st_ino),
        name,
        readonly,
    })
}

/// Starts the worker, with `log` as its descriptor 2, and tells it what to serve; the process' `executing` must be waited
/// for and [`Control::started`] heard.
pub(crate) fn start(
    config: WorkerConfig,
    user_namespace: UserNamespace,
    lanes: u16,
    poll_limit: Duration,
    log: OwnedFd,
) -> Result<Worker, StartError> {
    let failed = |what: &str, error: std::io::Error| {
        StartError::new(ExitKind::OsError, format!("{what}: {}", Advised(&error)))
    };
    let program = installed::companion(&installed::own_path()?, EXECUTABLE)?;
    let (control, worker_control) =
        channel::pair().map_err(|error| failed("cannot make the control channel", error))?;
    let mut process = spawn_worker(&WorkerLaunch {
        executable: program.file.as_fd(),
        control: worker_control.as_fd(),
        log: log.as_fd(),
        sandbox: config.sandbox,
        user_namespace,
        allow_missing: &config.allow_missing,
        joins_network: true,
    })?;
    drop(log);
    // While the worker is loaded.
    let ring = match SupervisorRing::create(lanes, poll_limit) {
        Ok(ring) => ring,
        Err(error) => {
            process.end();
            return Err(failed("cannot make the memory that both processes share", error));
        }
    };
    let network = process.network.take();
    let mut handed: Vec<_> = network.iter().map(AsFd::as_fd).collect();
    handed.extend(ring.worker.descriptors());
    #[cfg(feature = "breach")]
    let breach = airlockfs_breach::inherited(airlockfs_breach::WORKER);
    #[cfg(feature = "breach")]
    handed.extend(breach.as_ref().map(AsFd::as_fd));
    let start = Start {
        lanes,
        network: network.is_some(),
        config,
    };
    match control.send(&start, &handed) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            process.end();
            return Err(StartError::new(
                ExitKind::Usage,
                "paths, maps and rules on the command line are too long: more than 64 KiB",
            ));
        }
        // It has ended.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            process.executing.wait()?;
            return Err(gone());
        }
        Err(error) => {
            process.end();
            return Err(failed("cannot tell the worker what to serve", error));
        }
    }
    Ok(Worker {
        lanes: ring.lanes,
        control: Control(Arc::new(control)),
        process,
    })
}

fn gone() -> StartError {
    StartError::new(
        ExitKind::Software,
        "the worker ended before it was confined; see the lines above",
    )
}
