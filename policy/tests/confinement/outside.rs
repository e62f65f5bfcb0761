//! The tests' side: starts processes, gives them orders, sees how they end.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use airlockfs_breach::{Answer, Argument, Order};
use airlockfs_ipc::channel::{self, Channel};
use airlockfs_ipc::message::{ConfinementReport, Sandbox, SeccompMode, Share, Start, Started, WorkerConfig};
use airlockfs_policy::spawn::{WorkerLaunch, spawn_worker};
use airlockfs_policy::{StartError, UserNamespace};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

/// An ordinary user without any rights.
pub(crate) const USER: u32 = 4242;

/// Mounts of the tests stay with them. They are shared from here on, as systemd makes them on most hosts.
pub(crate) fn leave_the_host() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests start processes as several users: run them as root"
    );
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    for flags in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            flags | MsFlags::MS_REC,
            None::<&str>,
        )
        .unwrap();
    }
}

/// A directory that goes with its value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("airlockfs-policy-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A share as the supervisor describes it.
pub(crate) fn share(path: &Path) -> Share {
    let found = fs::metadata(path).unwrap();
    Share {
        path: path.to_str().unwrap().as_bytes().to_vec(),
        identity: (found.dev(), found.ino()),
        name: None,
        readonly: false,
    }
}

/// Everything on, one share.
pub(crate) fn config(path: &Path) -> WorkerConfig {
    WorkerConfig {
        shares: vec![share(path)],
        readonly: false,
        xattr: true,
        xattr_map: None,
        posix_acl: false,
        no_setuid: false,
        device_nodes: false,
        project_ids: false,
        immutable_flags: false,
        donate: true,
        writeback: false,
        direct_io: false,
        preserve_noatime: false,
        announce_submounts: true,
        zero_open: false,
        posix_lock: true,
        flock: true,
        lock_wait_ms: 0,
        file_handles: false,
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        view: airlockfs_ipc::message::View::default(),
        sandbox: Sandbox::Namespace,
        seccomp: SeccompMode::Kill,
        allow_missing: Vec::new(),
        spare_threads: 1,
        stall_limit: 30,
        max_descriptors: 256,
        max_memory: 1 << 30,
        poll_us: 0,
        informs: true,
    }
}

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Returned(i64),
    Killed(i32),
    Exited(i32),
}

/// Ended by the system call filter.
pub(crate) const KILLED: Outcome = Outcome::Killed(libc::SIGSYS);

/// A confined process that takes orders.
pub(crate) struct Session {
    channel: Channel,
    pub(crate) pidfd: OwnedFd,
    pub(crate) pid: i32,
    pub(crate) report: ConfinementReport,
    /// Of the worker: numbers of `/proc/self/fd` and of the share.
    pub(crate) descriptors: [i32; 2],
    _child: Option<std::process::Child>,
}

/// Starts a worker as root.
pub(crate) fn worker(config: &WorkerConfig) -> Session {
    try_worker(config, UserNamespace::Auto, &[]).unwrap()
}

/// Starts a worker as root; the error is its exit code and line.
pub(crate) fn try_worker(
    config: &WorkerConfig,
    user_namespace: UserNamespace,
    handed: &[&File],
) -> Result<Session, String> {
    worker_with_log(config, user_namespace, handed, std::io::stderr().as_fd())
}

/// The same, started as root's is by airlockfsd, but not given the network namespace to join.
pub(crate) fn worker_without_network(config: &WorkerConfig) -> Result<Session, String> {
    let stderr = std::io::stderr();
    launched_worker(config, (UserNamespace::Auto, true), &[], stderr.as_fd())
}

/// The same with a descriptor for its log.
pub(crate) fn worker_with_log(
    config: &WorkerConfig,
    user_namespace: UserNamespace,
    handed: &[&File],
    log: BorrowedFd<'_>,
) -> Result<Session, String> {
    launched_worker(config, (user_namespace, false), handed, log)
}

fn launched_worker(
    config: &WorkerConfig,
    (user_namespace, joins_network): (UserNamespace, bool),
    handed: &[&File],
    log: BorrowedFd<'_>,
) -> Result<Session, String> {
    let (channel, other) = channel::pair().unwrap();
    let executable = File::open("/proc/self/exe").unwrap();
    let launch = WorkerLaunch {
        executable: executable.as_fd(),
        control: other.as_fd(),
        log,
        sandbox: config.sandbox,
        user_namespace,
        allow_missing: &config.allow_missing,
        joins_network,
    };
    let refused = |error: StartError| format!("{} {error}", error.kind.code());
    let spawned = spawn_worker(&launch).map_err(refused)?;
    spawned.executing.wait().map_err(refused)?;
    drop(other);
    begin(channel, config, handed, |_| (spawned.pidfd, spawned.pid, None))
}

/// Starts a process in another role, by its argument.
fn start(role: &str, prepare: impl FnOnce(&mut Command)) -> (Channel, std::process::Child) {
    let (channel, other) = channel::pair().unwrap();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(role)
        .stdin(Stdio::from(other.as_fd().try_clone_to_owned().unwrap()));
    prepare(&mut command);
    (channel, command.spawn().unwrap())
}

/// Starts a supervisor that confines itself, as root or as the ordinary user.
pub(crate) fn supervisor(config: &WorkerConfig, uid: u32, handed: &[&File]) -> Session {
    try_supervisor(config, uid, handed).unwrap()
}

/// The same; the error is its exit code and line.
pub(crate) fn try_supervisor(config: &WorkerConfig, uid: u32, handed: &[&File]) -> Result<Session, String> {
    let (channel, child) = start("--supervisor", |command| {
        command.uid(uid).gid(uid);
    });
    begin(channel, config, handed, |_| own(child))
}

/// Starts a launcher: a supervisor that starts a worker and then confines itself. Returns the worker's report,
/// descriptors and pidfd, and the supervisor.
pub(crate) fn launcher(
    config: &WorkerConfig,
    prepare: impl FnOnce(&mut Command),
) -> Result<(Launched, Session), String> {
    let (channel, child) = start("--launcher", prepare);
    channel
        .send(
            &Start {
                lanes: 1,
                network: false,
                config: config.clone(),
            },
            &[],
        )
        .unwrap();
    let Some(((started, _), mut pidfds)) = channel.receive::<(Started, [i32; 2])>(1).unwrap() else {
        return Err("the launcher died".to_owned());
    };
    let report = match started {
        Started::Ready(report) => report,
        Started::Failed { kind, message } => return Err(format!("{kind} {message}")),
    };
    let launched = Launched {
        report,
        pidfd: pidfds.pop().unwrap(),
    };
    receive(channel, own(child)).map(|session| (launched, session))
}

/// A worker started by a launcher.
pub(crate) struct Launched {
    pub(crate) report: ConfinementReport,
    pub(crate) pidfd: OwnedFd,
}

type Owned = (OwnedFd, i32, Option<std::process::Child>);

fn own(child: std::process::Child) -> Owned {
    let pid = child.id() as i32;
    (pidfd(pid), pid, Some(child))
}

#[expect(unsafe_code, reason = "nix has no pidfd_open")]
fn pidfd(pid: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: a new descriptor that nothing else knows.
    unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32) }
}

fn begin(
    channel: Channel,
    config: &WorkerConfig,
    handed: &[&File],
    owned: impl FnOnce(()) -> Owned,
) -> Result<Session, String> {
    let handed: Vec<_> = handed.iter().map(|file| file.as_fd()).collect();
    channel
        .send(
            &Start {
                lanes: 1,
                network: false,
                config: config.clone(),
            },
            &handed,
        )
        .unwrap();
    receive(channel, owned(()))
}

fn receive(channel: Channel, (pidfd, pid, child): Owned) -> Result<Session, String> {
    match channel.receive::<(Started, [i32; 2])>(0).unwrap() {
        Some(((Started::Ready(report), descriptors), _)) => Ok(Session {
            channel,
            pidfd,
            pid,
            report,
            descriptors,
            _child: child,
        }),
        Some(((Started::Failed { kind, message }, _), _)) => Err(format!("{kind} {message}")),
        None => panic!("the process died while starting: {:?}", ended(&pidfd)),
    }
}

/// Waits for a child's end.
fn ended(pidfd: &OwnedFd) -> WaitStatus {
    waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED).unwrap()
}

/// Waits until a process, child or not, has ended.
pub(crate) fn wait_for_end(pidfd: &OwnedFd) -> bool {
    let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut set, PollTimeout::from(20_000_u16)).unwrap() == 1
}

impl Session {
    /// Gives an order.
    pub(crate) fn order(&self, order: Order) -> Result<Answer, Outcome> {
        self.send(order);
        self.answer()
    }

    /// Gives an order without waiting for its answer.
    pub(crate) fn send(&self, order: Order) {
        self.channel.send(&order, &[]).unwrap();
    }

    /// The answer to the order that was sent.
    pub(crate) fn answer(&self) -> Result<Answer, Outcome> {
        match self.channel.receive(0) {
            Ok(Some((answer, _))) => Ok(answer),
            _ => Err(match ended(&self.pidfd) {
                WaitStatus::Signaled(_, signal, _) => Outcome::Killed(signal as i32),
                WaitStatus::Exited(_, code) => Outcome::Exited(code),
                other => panic!("ended by itself: {other:?}"),
            }),
        }
    }

    /// Has a system call made.
    pub(crate) fn call(&self, number: i64, arguments: &[Argument]) -> Outcome {
        match self.order(Order::Call(number, arguments.to_vec())) {
            Ok((result, _)) => Outcome::Returned(result),
            Err(outcome) => outcome,
        }
    }

    /// Has a system call made that must succeed; its result and buffer.
    pub(crate) fn must(&self, number: i64, arguments: &[Argument]) -> (i64, Vec<u8>) {
        let answer = self.order(Order::Call(number, arguments.to_vec())).unwrap();
        assert!(
            answer.0 >= 0,
            "{number} {arguments:?}: {}",
            std::io::Error::from_raw_os_error(-answer.0 as i32)
        );
        answer
    }

    /// A file of the process's directory in /proc.
    pub(crate) fn proc(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.pid);
        match name.starts_with("ns/") || name == "root" || name == "cwd" {
            true => fs::read_link(path)
                .unwrap()
                .into_os_string()
                .into_string()
                .unwrap(),
            false => fs::read_to_string(path).unwrap(),
        }
    }

    /// A field of /proc/PID/status.
    pub(crate) fn status(&self, field: &str) -> String {
        let status = self.proc("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }
}
