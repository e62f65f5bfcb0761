//! Runs a suite in a Linux guest on airlockfs's share; a suite of two daemons gets two guests. What
//! a suite has done on the host is done there by agent.sh.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::results::{Outcome, Results, SCRIPT};
use super::script::{cache_directory, directory, script};
use super::suites::{Second, Suite};
use super::{Setup, tools};
use crate::daemon::Daemon;
use crate::image::Program;
use crate::kernel;
use crate::paths::{self, Scratch};
use crate::qemu::{Machine, Vm};

const TAG: &str = "conformance";

/// How long the second guest may take to end once the first has.
const END: Duration = Duration::from_secs(60);

/// How much longer than anywhere else a suite may take in a guest, which may be emulated.
const SLOWER: u64 = 3;

/// Users that a suite changes to.
const PASSWD: &str = "root:x:0:0::/:/bin/sh\ndaemon:x:1:1::/:/bin/sh\ngames:x:5:60::/:/bin/sh\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\ngames:x:60:\n";

/// What a suite takes in a guest.
#[derive(Debug)]
pub(super) struct Guest {
    /// Programs of the host to take along; busybox stands in for all others.
    pub(super) tools: &'static [&'static str],
    /// A directory of the host to take along, for such a program.
    pub(super) tree: Option<&'static str>,
    /// Whether the script finds on the share, in `cache`, what its run on the host has downloaded.
    pub(super) cache: bool,
    /// The oldest kernel that it can run with there: major and minor version.
    pub(super) since: (u32, u32),
    /// Request queues of its device.
    pub(super) queues: u32,
}

/// Does on the host what the guest's script asks for. The guest is ours, and runs nothing but that
/// script.
#[derive(Debug)]
struct Agent(Child);

impl Agent {
    fn start(share: &Path) -> Result<Self> {
        let agent = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "sh"])
            .arg(directory().join("agent.sh"))
            .arg(share)
            .stdin(Stdio::null())
            .spawn();
        Ok(Self(agent.context("cannot run setpriv")?))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Guest {
    /// Takes programs along, and nothing else.
    pub(super) const fn with(tools: &'static [&'static str]) -> Self {
        Self {
            tools,
            tree: None,
            cache: false,
            since: (0, 0),
            queues: 1,
        }
    }
}

/// Boots, runs, collects. An error is a failure to run it at all.
pub(super) fn run(
    suite: &Suite,
    guest: &Guest,
    setup: &Setup,
    options: &[&str],
    log: &Path,
) -> Result<Results> {
    let share = Scratch::new()?;
    let _grounds = suite.grounds(share.path(), setup)?;
    if guest.cache {
        let cache = share.path().join("cache");
        fs::create_dir(&cache)?;
        for entry in fs::read_dir(cache_directory())? {
            let entry = entry?;
            fs::copy(entry.path(), cache.join(entry.file_name()))?;
        }
    }
    let airlockfsd = setup.binaries.join("airlockfsd");
    let start = || Daemon::start(&airlockfsd, share.path(), TAG, options);

    let _agent = match suite.second {
        Second::Host => Some(Agent::start(share.path())?),
        Second::Daemon | Second::None => None,
    };
    let mut first = start()?;
    let mut vm = boot(
        &mut first,
        suite,
        guest,
        setup,
        &format!("/tools/dash /suite/{}.sh /mnt", suite.script),
    )?;
    let second = match suite.second {
        Second::Daemon => {
            let mut daemon = start()?;
            let vm = boot(
                &mut daemon,
                suite,
                guest,
                setup,
                "/tools/dash /suite/agent.sh /mnt",
            )?;
            Some((daemon, vm))
        }
        Second::Host | Second::None => None,
    };

    let mut results = Results::default();
    let mut console = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    let ended = vm.follow(Duration::from_secs(60 * suite.minutes * SLOWER), |line| {
        results.line(line);
        Ok(writeln!(console, "{line}")?)
    });
    let mut text = String::new();
    let mut outcome = match ended {
        Ok(0) => Outcome::Pass,
        Ok(status) => Outcome::Fail(format!("ended with status {status}")),
        Err(error) => {
            text.push_str(&format!("--- the guest did not come to its end:\n{error:#}"));
            Outcome::Fail(format!("{error:#}").lines().next().unwrap_or_default().to_owned())
        }
    };
    drop(vm);
    text.push_str(&format!("--- the daemon said:\n{}", first.log()));
    if let Some((daemon, mut vm)) = second {
        if let Err(error) = vm.finish(END) {
            outcome = Outcome::Fail(
                format!("the second guest: {error:#}")
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
        text.push_str(&format!("--- the second guest:\n{}", vm.console()));
        text.push_str(&format!("--- its daemon said:\n{}", daemon.log()));
    }
    console.write_all(text.as_bytes())?;
    results.tests.insert(SCRIPT.to_owned(), outcome);
    Ok(results)
}

/// Starts a guest that runs `command` with a suite's environment.
fn boot(daemon: &mut Daemon, suite: &Suite, guest: &Guest, setup: &Setup, command: &str) -> Result<Vm> {
    let agent = match suite.second {
        Second::None => "",
        Second::Daemon | Second::Host => "/mnt/agent",
    };
    let program = format!(
        "export SUITE={} SCRATCH=/tmp/scratch CACHE=/mnt/cache MOUNT=/mnt SECOND=/mnt AGENT={agent} PRELOAD=/tools/{} LEVEL={} OPERATIONS={}\n\
         mkdir $SCRATCH\n{command}\n",
        suite.name,
        setup.preload.file_name().unwrap_or_default().display(),
        // Emulated, a guest is many times slower than the bridge.
        setup.guest_level(),
        setup.operations / suite.share / 100
    );
    let mut program = Program::new(TAG, &program);
    program.files = vec![
        ("/etc/passwd".to_owned(), PASSWD.as_bytes().to_vec()),
        ("/etc/group".to_owned(), GROUP.as_bytes().to_vec()),
    ];
    for file in [
        script(suite),
        directory().join("lib.sh"),
        directory().join("agent.sh"),
    ] {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        program.files.push((format!("/suite/{name}"), content));
    }
    if let Some(tree) = guest.tree {
        add_tree(Path::new(tree), &mut program.files)?;
    }
    let crates = tools::directories(suite)
        .into_iter()
        .zip(suite.crates)
        .map(|(dir, (name, _))| dir.join(name));
    let [locks, files] = ["lock-tool", "file-tool"].map(|name| setup.tools.join(name));
    let own = [locks, files, setup.preload.clone()];
    let host: Vec<PathBuf> = std::iter::once(&"dash")
        .chain(guest.tools)
        .map(|name| paths::require(name))
        .collect::<Result<_>>()?;
    program.tools = crates.chain(own).chain(host).collect();
    let machine = Machine {
        memory: 1024,
        share: Some((daemon.socket().to_path_buf(), TAG.to_owned())),
        request_queues: guest.queues,
        ..Machine::default()
    };
    Vm::boot(&kernel::get()?, &program, &machine, || daemon.restart())
}

/// Adds every file beneath a directory, what links point to in their place.
fn add_tree(dir: &Path, files: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            add_tree(&path, files)?;
        } else {
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.push((path.to_string_lossy().into_owned(), content));
        }
    }
    Ok(())
}
