//! Where a suite runs: a directory of the host, airlockfs's share of one, on the host or in a guest, virtiofsd's.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::mounted::Mounted;
use super::results::Results;
use super::script::Script;
use super::suites::{Second, Suite};
use super::{Setup, guest};
use crate::kernel;
use crate::paths::{self, Scratch};

/// A place to run at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Place {
    /// A plain directory of the host: the reference
    Host,
    /// airlockfs's share, mounted on the host by the bridge
    Bridge,
    /// virtiofsd's share, mounted on the host by the bridge
    Peer,
    /// airlockfs's share in a Linux guest, for the suites that can
    Guest,
}

impl Place {
    pub(super) const ALL: [Self; 4] = [Self::Host, Self::Bridge, Self::Peer, Self::Guest];

    /// As the command line and the excuses say it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Bridge => "bridge",
            Self::Peer => "peer",
            Self::Guest => "guest",
        }
    }

    /// Whether a difference here is ours to answer for.
    pub(super) fn counts(self) -> bool {
        matches!(self, Self::Bridge | Self::Guest)
    }

    /// Runs a suite's script; nothing where it can't run. An error is a failure to run it at all.
    pub(super) fn run(self, suite: &Suite, setup: &Setup) -> Result<Option<Results>> {
        let logs = paths::target().join("conformance");
        fs::create_dir_all(&logs)?;
        let log = logs.join(format!("{}.{}.log", suite.name, self.word()));
        let ours = [suite.options, suite.own_options].concat();
        let results = match self {
            Self::Host => {
                let dir = Scratch::new()?;
                let _grounds = suite.grounds(dir.path(), setup)?;
                Script::new(suite, setup, dir.path(), &log).run(|| ())?
            }
            Self::Bridge => on_share(&setup.binaries.join("airlockfsd"), &ours, suite, setup, &log)?,
            Self::Peer => {
                let program = setup.peer.as_deref().context("there is no virtiofsd")?;
                on_share(program, suite.options, suite, setup, &log)?
            }
            Self::Guest => {
                let Some(guest) = &suite.guest else {
                    return Ok(None);
                };
                let kernel = kernel::get()?;
                if kernel.version() < guest.since {
                    let (major, minor) = guest.since;
                    println!(
                        "== {} not in a guest of Linux {}: it takes {major}.{minor}",
                        suite.name, kernel.release
                    );
                    return Ok(None);
                }
                guest::run(suite, guest, setup, &ours, &log)?
            }
        };
        Ok(Some(results))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Host => "host directory",
            Self::Bridge => "airlockfs",
            Self::Peer => "virtiofsd",
            Self::Guest => "airlockfs, guest",
        })
    }
}

/// Runs a script on a daemon's share of a fresh directory.
fn on_share(program: &Path, options: &[&str], suite: &Suite, setup: &Setup, log: &Path) -> Result<Results> {
    let share = Scratch::new()?;
    let _grounds = suite.grounds(share.path(), setup)?;
    let first = Mounted::start(program, share.path(), options, setup)?;
    let second = match suite.second {
        Second::Daemon => Some(Mounted::start(program, share.path(), options, setup)?),
        Second::Host | Second::None => None,
    };
    let mut script = Script::new(suite, setup, first.path(), log);
    script.mount = Some(first.path());
    script.daemon = Some((program, options));
    script.second = match suite.second {
        Second::Host => Some(share.path()),
        Second::Daemon | Second::None => second.as_ref().map(Mounted::path),
    };
    let results = script.run(|| {
        first.abort();
        second.iter().for_each(Mounted::abort);
    })?;
    first.end(log)?;
    second.map_or(Ok(()), |second| second.end(log))?;
    Ok(results)
}
