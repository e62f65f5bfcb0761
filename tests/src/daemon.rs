//! Starts the real daemon, confined as in production, and watches it.
#![allow(unsafe_code, reason = "descriptors are handed down between fork and exec")]

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::deny::Lies;
use crate::fuse::{Client, SessionConfig};
use crate::procfs::Process;
use crate::tempdir::TempDir;

/// The line that launchers wait for.
pub const READY: &str = "Waiting for vhost-user socket connection";
/// What the hostile suites pass for `--on-disconnect`, by the name of their crate. Each suite
/// exists twice; the second is a link whose name ends with `_listen`. A daemon that ends with its
/// VMM must end by itself. One that listens again must serve the next VMM.
pub fn on_disconnect(suite: &str) -> &'static str {
    if suite.ends_with("_listen") {
        "--on-disconnect=listen"
    } else {
        "--on-disconnect=exit"
    }
}

/// How long a daemon may take to start or to end before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the daemon's binaries are: `$AIRLOCKFS_BIN_DIR`, or the target directory that this program
/// was built in.
pub fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("AIRLOCKFS_BIN_DIR") {
        return Ok(dir.into());
    }
    let own = std::env::current_exe().context("current_exe")?;
    let mut dir = own.parent().context("a directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("a directory")?;
    }
    Ok(dir.to_owned())
}

/// The virtiofsd to compare with: `$AIRLOCKFS_PEER`.
pub fn peer() -> Option<PathBuf> {
    std::env::var_os("AIRLOCKFS_PEER").map(PathBuf::from)
}

/// What the child does between fork and exec.
struct Hook(Box<dyn FnMut() -> std::io::Result<()> + Send + Sync>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

/// How to start a daemon.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    share: Option<PathBuf>,
    shared_dir: bool,
    socket: Option<PathBuf>,
    by_fd: bool,
    listener: Option<UnixListener>,
    umask: Option<u32>,
    user: Option<u32>,
    limits: Vec<(Resource, u64)>,
    before: Vec<Hook>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    inherit: Vec<OwnedFd>,
    log: Option<OwnedFd>,
}

impl Launch {
    /// airlockfsd. With `$AIRLOCKFS_TEST_PEER` set, the peer: so the suites can run on virtiofsd.
    pub fn airlockfs() -> Self {
        let program = match peer() {
            Some(peer) if std::env::var_os("AIRLOCKFS_TEST_PEER").is_some() => peer,
            _ => bin_dir().expect("a place for binaries").join("airlockfsd"),
        };
        Self::program(&program)
    }

    /// Any program with virtiofsd's options.
    pub fn program(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            share: None,
            shared_dir: true,
            socket: None,
            by_fd: false,
            listener: None,
            umask: None,
            user: None,
            limits: Vec::new(),
            before: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            inherit: Vec::new(),
            log: None,
        }
    }

    /// More options.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Shares this directory instead of a fresh one.
    #[must_use]
    pub fn share(mut self, dir: &Path) -> Self {
        self.share = Some(dir.to_owned());
        self
    }

    /// Does not name the directory to the daemon: options such as `--share` say what is shared.
    #[must_use]
    pub fn by_name(mut self) -> Self {
        self.shared_dir = false;
        self
    }

    /// Binds this socket instead of a fresh one.
    #[must_use]
    pub fn socket(mut self, path: &Path) -> Self {
        self.socket = Some(path.to_owned());
        self
    }

    /// Hands down a listening socket (`--fd`) instead of its path.
    #[must_use]
    pub fn by_fd(mut self) -> Self {
        self.by_fd = true;
        self
    }

    /// Hands this listening socket down, which the launcher keeps as well.
    #[must_use]
    pub fn listener(mut self, listener: &UnixListener) -> Self {
        self.listener = Some(listener.try_clone().expect("a duplicate"));
        self.by_fd = true;
        self
    }

    /// Starts it with this umask.
    #[must_use]
    pub fn umask(mut self, umask: u32) -> Self {
        self.umask = Some(umask);
        self
    }

    /// Starts it as an ordinary user, with a group of the same number and no others.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// Starts it with this limit of descriptors.
    #[must_use]
    pub fn nofile(self, limit: u64) -> Self {
        self.limit(Resource::RLIMIT_NOFILE, limit)
    }

    /// Starts it with this limit, soft and hard.
    #[must_use]
    pub fn limit(mut self, resource: Resource, limit: u64) -> Self {
        self.limits.push((resource, limit));
        self
    }

    /// Runs this in the child, last of all before it becomes the daemon. It must be
    /// async-signal-safe.
    #[must_use]
    pub fn before(mut self, hook: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        self.before.push(Hook(Box::new(hook)));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it with this limit of file sizes. The ring is a file too.
    #[must_use]
    pub fn file_size(self, limit: u64) -> Self {
        self.limit(Resource::RLIMIT_FSIZE, limit)
    }

    /// Lets the daemon inherit a descriptor, under its number here.
    #[must_use]
    pub fn inherit(mut self, fd: OwnedFd) -> Self {
        self.inherit.push(fd);
        self
    }

    /// Makes these system calls, by number, return 0 without any effect: a filter of the launcher
    /// answers them.
    #[must_use]
    pub fn answered(self, calls: &[i64]) -> Self {
        let lies = Lies::new(calls);
        self.before(move || lies.install())
    }

    /// Starts it, as root, with this supplementary group.
    #[must_use]
    pub fn group(self, gid: u32) -> Self {
        // SAFETY: the kernel reads one group, which outlives the call; async-signal-safe as a raw
        // call.
        self.before(
            move || match unsafe { libc::syscall(libc::SYS_setgroups, 1, &raw const gid) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        )
    }

    /// Its stderr, in place of a pipe that is read here: only [`Self::spawn`] starts it then.
    #[must_use]
    pub fn stderr(mut self, log: OwnedFd) -> Self {
        self.log = Some(log);
        self
    }

    /// Starts it with this directory as its /dev, in a mount namespace of its own. Needs root.
    ///
    /// # Panics
    /// When no null device can be made in it.
    #[must_use]
    pub fn dev(self, dir: &Path) -> Self {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&dir.join("null"), SFlag::S_IFCHR, mode, makedev(1, 3)).expect("a null device");
        let dir = dir.to_owned();
        // System calls; paths as short as these take no memory.
        self.before(move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let (none, slave) = (None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC);
            mount(none, "/", none, slave, none)?;
            mount(Some(dir.as_path()), "/dev", none, MsFlags::MS_BIND, none)?;
            Ok(())
        })
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up; with its log.
    pub fn start(self) -> Daemon {
        match self.try_start() {
            Ok(Ok(daemon)) => daemon,
            Ok(Err(failure)) => panic!(
                "the daemon ended with {}:\n{}",
                failure.status,
                failure.log.join("\n")
            ),
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Starts it and waits until it listens. Returns how it ended if it does not come up.
    pub fn try_start(self) -> Result<Result<Daemon, Failure>> {
        self.spawn()?.listening()
    }

    /// Starts it and waits for nothing.
    pub fn spawn(mut self) -> Result<Daemon> {
        let home = TempDir::new()?;
        let share = match self.share.take() {
            Some(dir) => dir,
            None => {
                let dir = home.join("share");
                std::fs::create_dir(&dir)?;
                dir
            }
        };
        let socket = self.socket.take().unwrap_or_else(|| home.join("vhost-user.sock"));
        let mut command = Command::new(&self.program);
        if self.shared_dir {
            command.arg("--shared-dir").arg(&share);
        }
        command.args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut inherit = std::mem::take(&mut self.inherit);
        if self.by_fd {
            let listener = match self.listener.take() {
                Some(listener) => listener,
                None => UnixListener::bind(&socket)?,
            };
            command.arg(format!("--fd={}", listener.as_raw_fd()));
            inherit.push(listener.into());
        } else {
            command.arg("--socket-path").arg(&socket);
        }
        let repeatable = inherit.is_empty() && self.log.is_none() && self.before.is_empty();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log.take().map_or_else(Stdio::piped, Stdio::from));
        let numbers: Vec<i32> = inherit.iter().map(AsRawFd::as_raw_fd).collect();
        let umask = self.umask;
        let limits = std::mem::take(&mut self.limits);
        let mut hooks = std::mem::take(&mut self.before);
        if let Some(uid) = self.user {
            // setgroups is implied; the socket's directory must be the user's own.
            command.uid(uid).gid(uid);
            for path in [&*home, &*share] {
                std::os::unix::fs::chown(path, Some(uid), Some(uid))?;
            }
        }
        // SAFETY: between fork and exec only fcntl, umask and setrlimit are called, which are
        // async-signal-safe, and hooks that promise the same; the descriptors are kept open by
        // `inherit` until the child has them.
        unsafe {
            command.pre_exec(move || {
                if let Some(umask) = umask {
                    libc::umask(umask);
                }
                for (resource, limit) in &limits {
                    setrlimit(*resource, *limit, *limit)?;
                }
                for fd in &numbers {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                hooks.iter_mut().try_for_each(|hook| (hook.0)())
            });
        }
        let begun = Instant::now();
        let (child, process, log) = spawn(&mut command)?;
        drop(inherit);
        Ok(Daemon {
            command: repeatable.then_some(command),
            child,
            process,
            log,
            program: self.program,
            socket,
            share,
            begun,
            waited: false,
            _home: home,
        })
    }
}

fn spawn(command: &mut Command) -> Result<(Child, Process, Arc<Log>)> {
    let mut child = command.spawn().with_context(|| {
        format!(
            "start {} (built by `cargo build -p airlockfsd -p airlockfs-worker`)",
            command.get_program().display()
        )
    })?;
    let log = match child.stderr.take() {
        Some(stderr) => Log::read(stderr),
        None => Arc::default(),
    };
    let process = Process::open(child.id() as i32)?;
    Ok((child, process, log))
}

/// A daemon that ended instead of listening.
#[derive(Debug)]
pub struct Failure {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said on stderr.
    pub log: Vec<String>,
}

/// A running daemon. Dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    /// What starts another one like it; none where that holds what only the first may have.
    command: Option<Command>,
    child: Child,
    process: Process,
    log: Arc<Log>,
    program: PathBuf,
    socket: PathBuf,
    share: PathBuf,
    begun: Instant,
    waited: bool,
    _home: TempDir,
}

impl Daemon {
    /// airlockfsd on a fresh directory with these options.
    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Launch::airlockfs().args(args).start()
    }

    /// Waits until it listens. Returns how it ended if it does not come up.
    pub fn listening(mut self) -> Result<Result<Self, Failure>> {
        if self.log.wait_for(READY) {
            return Ok(Ok(self));
        }
        if !self.process.ended_within(PATIENCE.as_millis() as u16) {
            bail!("the daemon neither listens nor ends:\n{}", self.log().join("\n"));
        }
        Ok(Err(Failure {
            status: self.child.wait()?,
            log: self.log(),
        }))
    }

    /// Starts it once more with the same command line, for another VMM.
    pub fn restart(&mut self) -> Result<()> {
        // Both fail only when it ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let command = self
            .command
            .as_mut()
            .context("it inherited what it cannot be given again")?;
        (self.child, self.process, self.log) = spawn(command)?;
        ensure!(
            self.log.wait_for(READY),
            "the daemon does not come up again:\n{}",
            self.log().join("\n")
        );
        Ok(())
    }

    /// When it was about to be started.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// The same with a client after INIT.
    pub fn with_client<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> (Self, Client) {
        let daemon = Self::start(args);
        let client = daemon.client();
        (daemon, client)
    }

    /// The socket it listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The shared directory on the host.
    pub fn share(&self) -> &Path {
        &self.share
    }

    /// A path in the shared directory on the host.
    pub fn host(&self, path: impl AsRef<Path>) -> PathBuf {
        self.share.join(path)
    }

    /// The process that was started.
    pub fn supervisor(&self) -> &Process {
        &self.process
    }

    /// The worker: the process below the supervisor that runs the worker's binary.
    pub fn worker(&self) -> Result<Process> {
        let name = self.program.file_name().context("a program")?.to_string_lossy();
        let name = name.replace("airlockfsd", "airlockfs-worker");
        let binary = std::fs::metadata(self.program.with_file_name(name))?;
        for process in Process::open(self.process.pid())?.tree()? {
            let Ok(exe) = std::fs::metadata(format!("/proc/{}/exe", process.pid())) else {
                continue;
            };
            if (exe.dev(), exe.ino()) == (binary.dev(), binary.ino()) {
                return Ok(process);
            }
        }
        bail!("no worker below process {}", self.process.pid())
    }

    /// A connected client, before INIT.
    pub fn connect(&self) -> Client {
        self.connect_with(&SessionConfig::default())
    }

    /// The same with a configuration.
    ///
    /// # Panics
    /// When the connection fails; with the daemon's log.
    pub fn connect_with(&self, config: &SessionConfig) -> Client {
        match Client::connect_with(&self.socket, config) {
            Ok(client) => client,
            Err(error) => panic!("{error:#}; the daemon's log:\n{}", self.log().join("\n")),
        }
    }

    /// A connected client after INIT.
    pub fn client(&self) -> Client {
        let client = self.connect();
        client.init().expect("INIT");
        client
    }

    /// What it said so far on stderr, line by line.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap_or_else(|e| e.into_inner()).0.clone()
    }

    /// Waits for a line that contains a text. False when the daemon ends without it.
    pub fn wait_for_log(&self, text: &str) -> bool {
        self.log.wait_for(text)
    }

    /// Whether the process started still runs.
    pub fn is_alive(&self) -> bool {
        !self.process.ended_within(0)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        assert!(
            self.process.ended_within(PATIENCE.as_millis() as u16),
            "the daemon does not end:\n{}",
            self.log().join("\n")
        );
        self.waited = true;
        self.child.wait().expect("wait")
    }

    /// Sends SIGTERM and waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::SIGTERM).expect("SIGTERM");
        self.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}\n---", self.log().join("\n"));
        }
        let ended = self.child.try_wait().ok().flatten();
        // Both fail only when it ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A test that waited for its end judges it. Otherwise report a death by a signal.
        let died = ended.and_then(|status| status.signal()).filter(|_| !self.waited);
        if let Some(signal) = died.filter(|signal| FATAL.iter().any(|fatal| *fatal as i32 == *signal))
            && !std::thread::panicking()
        {
            panic!("the daemon died of signal {signal}:\n{}", self.log().join("\n"));
        }
    }
}

/// Signals that no test sends.
const FATAL: [Signal; 6] = [
    Signal::SIGBUS,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGABRT,
    Signal::SIGILL,
    Signal::SIGFPE,
];

/// The lines of a daemon's stderr, and whether it is closed.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Log {
    fn read(stderr: impl std::io::Read + Send + 'static) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let writer = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                writer
                    .lines
                    .lock()
                    .unwrap_or_else(|e| e.into_inner())
                    .0
                    .push(text);
                writer.more.notify_all();
            }
            writer.lines.lock().unwrap_or_else(|e| e.into_inner()).1 = true;
            writer.more.notify_all();
        });
        log
    }

    fn wait_for(&self, text: &str) -> bool {
        let lines = self.lines.lock().unwrap_or_else(|e| e.into_inner());
        let (lines, _) = self
            .more
            .wait_timeout_while(lines, PATIENCE, |(lines, closed)| {
                !*closed && !lines.iter().any(|line| line.contains(text))
            })
            .unwrap_or_else(|e| e.into_inner());
        lines.0.iter().any(|line| line.contains(text))
    }
}
