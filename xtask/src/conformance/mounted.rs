//! A daemon and the bridge that mounts its share on the host.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Setup;
use crate::daemon::Daemon;
use crate::paths::Scratch;

/// A mounted share; unmounted with the value.
#[derive(Debug)]
pub(super) struct Mounted {
    bridge: Child,
    daemon: Daemon,
    mount: Scratch,
}

impl Mounted {
    /// Starts `program` with `options` on the directory `share` and mounts it.
    pub(super) fn start(program: &Path, share: &Path, options: &[&str], setup: &Setup) -> Result<Self> {
        Self::mount(program, share, options, setup, &[])
    }

    /// The same for root alone, as FUSE mounts without `allow_other`.
    pub(super) fn private(program: &Path, share: &Path, options: &[&str], setup: &Setup) -> Result<Self> {
        Self::mount(program, share, options, setup, &["--private"])
    }

    fn mount(program: &Path, share: &Path, options: &[&str], setup: &Setup, how: &[&str]) -> Result<Self> {
        let daemon = Daemon::start(program, share, "conformance", options)?;
        let mount = Scratch::new()?;
        let bridge = setup.binaries.join("airlockfs-bridge");
        let mut bridge = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(bridge)
            .arg("--socket")
            .arg(daemon.socket())
            .arg("--mount")
            .arg(mount.path())
            .args(how)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the bridge")?;
        let stdout = bridge.stdout.take().context("the bridge has no output")?;
        let mounted = Self {
            bridge,
            daemon,
            mount,
        };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line != "mounted\n" {
            bail!(
                "the bridge did not mount; the daemon said:\n{}",
                mounted.daemon.log()
            );
        }
        Ok(mounted)
    }

    /// The mount point.
    pub(super) fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Ends the bridge at once: whoever waits for an answer gets an error.
    pub(super) fn abort(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Unmounts and appends what the daemon said to `log`.
    pub(super) fn end(mut self, log: &Path) -> Result<()> {
        self.signal(Signal::SIGTERM);
        let status = self.bridge.wait().context("cannot wait for the bridge")?;
        let mut log = fs::File::options().append(true).open(log)?;
        write!(
            log,
            "--- the bridge ended with {status}; the daemon said:\n{}",
            self.daemon.log()
        )?;
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.bridge.id()) {
            // Fails only for a process that has ended.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !matches!(self.bridge.try_wait(), Ok(Some(_))) {
            self.signal(Signal::SIGKILL);
            // Fails only for a process that was waited for.
            let _ = self.bridge.wait();
        }
        // A bridge that was killed leaves the mount behind; one that ended has taken it away.
        match umount2(self.mount.path(), MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => eprintln!("cannot unmount {}: {errno}", self.mount.path().display()),
        }
    }
}
