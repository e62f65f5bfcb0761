//! Starts `airlockfsd` as a launcher does, and stops it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::paths::Scratch;

/// What launchers wait for on standard error.
pub const READY: &str = "Waiting for vhost-user socket connection";

/// How long a start or an end may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A running daemon with its worker; ends with the value.
#[derive(Debug)]
pub struct Daemon {
    command: Command,
    child: Child,
    log: Arc<Mutex<String>>,
    /// A message for each [`READY`] line; hangs up once every process with its standard error has
    /// ended.
    events: Receiver<()>,
    socket: PathBuf,
    _scratch: Scratch,
}

impl Daemon {
    /// Starts `program` on `shared` with `tag` and more `options`; returns once it waits for a VMM.
    pub fn start(program: &Path, shared: &Path, tag: &str, options: &[&str]) -> Result<Self> {
        Self::start_untagged(program, shared, &[&["--tag", tag], options].concat())
    }

    /// The same with `options` alone; also for virtiofsd.
    pub fn start_untagged(program: &Path, shared: &Path, options: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let socket = scratch.path().join("socket");
        let mut command = Command::new(program);
        command
            .arg("--socket-path")
            .arg(&socket)
            .arg("--shared-dir")
            .arg(shared)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let log = Arc::default();
        let (child, events) = spawn(&mut command, &log)?;
        let daemon = Self {
            command,
            child,
            log,
            events,
            socket,
            _scratch: scratch,
        };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts it once more with the same command line, for another VMM. Of the one before nothing
    /// is left but its log.
    pub fn restart(&mut self) -> Result<()> {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
        self.child.wait().context("cannot wait for the daemon")?;
        (self.child, self.events) = spawn(&mut self.command, &self.log)?;
        self.wait_ready()
    }

    fn wait_ready(&self) -> Result<()> {
        match self.events.recv_timeout(LIMIT) {
            Ok(()) => Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the daemon did not say '{READY}'; it said:\n{}", self.log())
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the daemon ended while starting; it said:\n{}", self.log())
            }
        }
    }

    /// The vhost-user socket to point a VMM at.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The supervisor's process id.
    pub fn supervisor(&self) -> u32 {
        self.child.id()
    }

    /// The worker's process id, as seen from here: the supervisor's only child.
    pub fn worker(&self) -> Result<u32> {
        let parent = self.supervisor();
        let children: Vec<u32> = fs::read_dir("/proc")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| parent_of(*pid) == Some(parent))
            .collect();
        match children.as_slice() {
            [worker] => Ok(*worker),
            _ => bail!("the supervisor {parent} has {} children, not 1", children.len()),
        }
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends SIGTERM and returns the exit status.
    pub fn terminate(self) -> Result<ExitStatus> {
        kill(pid(&self.child)?, Signal::SIGTERM).context("cannot signal the daemon")?;
        self.wait()
    }

    /// Waits for it to end by itself, worker included.
    pub fn wait(mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!(
                    "the daemon did not end within {LIMIT:?}; it said:\n{}",
                    self.log()
                ),
            }
        }
        self.child.wait().context("cannot wait for the daemon")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only for a process that has ended. The worker dies with the supervisor.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts it; what it says is added to `log`, and each [`READY`] line is told.
fn spawn(command: &mut Command, log: &Arc<Mutex<String>>) -> Result<(Child, Receiver<()>)> {
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let stderr = child.stderr.take().context("the daemon has no standard error")?;
    let (ready, events) = channel();
    let keep = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines() {
            let Ok(line) = line else { break };
            let mut log = keep.lock().unwrap_or_else(PoisonError::into_inner);
            log.push_str(&line);
            log.push('\n');
            if line.contains(READY) {
                // Fails once the daemon is dropped, and then nobody needs to know.
                let _ = ready.send(());
            }
        }
    });
    Ok((child, events))
}

fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(
        child.id().try_into().context("a process id is positive")?,
    ))
}

/// The fourth field of /proc/PID/stat; the second is in parentheses and may hold anything
/// (proc(5)).
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(1)?.parse().ok()
}
