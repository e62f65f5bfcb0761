//! Runs a suite's script on the host: its environment, its log, its time limit.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::results::{Outcome, Results, SCRIPT};
use super::suites::Suite;
use super::{Setup, tools};
use crate::paths::{self, Scratch};

/// A script about to run.
#[derive(Debug)]
pub(super) struct Script<'a> {
    suite: &'a Suite,
    setup: &'a Setup,
    dir: &'a Path,
    log: &'a Path,
    /// Where the share is mounted, if it is one.
    pub(super) mount: Option<&'a Path>,
    /// The daemon and its options, for a script that mounts shares itself.
    pub(super) daemon: Option<(&'a Path, &'a [&'a str])>,
    /// The same directory by way of another daemon.
    pub(super) second: Option<&'a Path>,
}

impl<'a> Script<'a> {
    /// A suite's script to run on `dir`, with its output in `log`.
    pub(super) fn new(suite: &'a Suite, setup: &'a Setup, dir: &'a Path, log: &'a Path) -> Self {
        Self {
            suite,
            setup,
            dir,
            log,
            mount: None,
            daemon: None,
            second: None,
        }
    }

    /// Runs it. `abort` has to end whatever could keep a process of it from being killed.
    pub(super) fn run(self, abort: impl FnOnce()) -> Result<Results> {
        let scratch = Scratch::new()?;
        let cache = cache_directory();
        std::fs::create_dir_all(&cache)?;
        let (reader, writer) = pipe().context("cannot make a pipe")?;
        // Whatever ends, its processes end with it, and what it has mounted is gone.
        let mut command = Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                // Not to keep alive what others unmount meanwhile.
                "--propagation",
                "slave",
                "--pid",
                "--mount-proc",
                "--fork",
                "--kill-child",
                "sh",
            ])
            .arg(script(self.suite))
            .arg(self.dir)
            .env("PATH", self.path()?)
            .env("SUITE", self.suite.name)
            .env("SCRATCH", scratch.path())
            .env("CACHE", &cache)
            .env("MOUNT", self.mount.unwrap_or(Path::new("")))
            .env("SECOND", self.second.unwrap_or(self.dir))
            .env(
                "DAEMON",
                self.daemon.map_or(Path::new(""), |(program, _)| program),
            )
            .env(
                "OPTIONS",
                self.daemon
                    .map_or(String::new(), |(_, options)| options.join(" ")),
            )
            .env("BRIDGE", self.setup.binaries.join("airlockfs-bridge"))
            .env("XFSTESTS", self.setup.source.as_deref().unwrap_or(Path::new("")))
            .env("AGENT", "")
            .env("PRELOAD", &self.setup.preload)
            .env("LEVEL", self.setup.level())
            .env(
                "OPERATIONS",
                (self.setup.operations / self.suite.share).to_string(),
            )
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = command.spawn().context("cannot run setpriv and unshare")?;
        // The command holds the pipe's other end as long as it lives.
        drop(command);

        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
                line.clear();
            }
        });
        let limit = Duration::from_secs(60 * self.suite.minutes);
        let deadline = Instant::now() + limit;
        let mut log =
            File::create(self.log).with_context(|| format!("cannot make {}", self.log.display()))?;
        let mut results = Results::default();
        let in_time = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    log.write_all(line.as_bytes())?;
                    results.line(line.trim_end());
                }
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        if !in_time {
            // Fails only when it has ended.
            let _ = child.kill();
            abort();
        }
        let status = child.wait().context("cannot wait for the script")?;
        let outcome = match (in_time, status.success()) {
            (false, _) => Outcome::Fail(format!("was not done within {limit:?}")),
            (true, false) => Outcome::Fail(format!("ended with {status}")),
            (true, true) => Outcome::Pass,
        };
        results.tests.insert(SCRIPT.to_owned(), outcome);
        Ok(results)
    }

    /// `PATH` with the suite's programs from crates.io, and the directories that an ordinary user's may lack.
    fn path(&self) -> Result<OsString> {
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let dirs = tools::directories(self.suite)
            .into_iter()
            .chain(std::env::split_paths(&inherited))
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
            .chain([self.setup.tools.clone()]);
        std::env::join_paths(dirs).context("a PATH")
    }
}

/// Where the scripts are.
pub(super) fn directory() -> PathBuf {
    paths::workspace().join("tests/conformance")
}

/// What scripts keep between runs.
pub(super) fn cache_directory() -> PathBuf {
    paths::target().join("conformance/cache")
}

/// The file of a suite's script.
pub(super) fn script(suite: &Suite) -> PathBuf {
    directory().join(format!("{}.sh", suite.script))
}
