//! `cargo xtask demo`: a guest works on a directory of the host. The demo compares both sides and
//! shows the two processes.

use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::accel::{self, Accel};
use crate::binaries::{self, Binaries};
use crate::daemon::Daemon;
use crate::kernel::{self, Kernel};
use crate::paths::Scratch;
use crate::qemu::{Machine, Vm};
use crate::workload::{LIMIT, Workload};
use crate::{process, provision};

const TAG: &str = "airlock";

/// What the command line says.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Share this directory instead of a new one. The guest works in its subdirectory
    /// `airlockfs-demo`, which stays
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// End in a shell in the guest, with the share at /mnt
    #[arg(long)]
    shell: bool,
}

/// Runs the demo; an error is what failed.
pub fn run(options: &Options) -> Result<()> {
    if options.shell && !std::io::stdin().is_terminal() {
        bail!("--shell needs a terminal");
    }
    provision::install(&[provision::GUEST])?;
    let kernel = kernel::get()?;
    head("Building");
    show(options, &kernel, &binaries::build()?)
}

/// The demo proper, once everything is there.
pub fn show(options: &Options, kernel: &Kernel, binaries: &Binaries) -> Result<()> {
    let start = Instant::now();
    let scratch = Scratch::new()?;
    let shared = match &options.dir {
        Some(dir) => fs::canonicalize(dir).with_context(|| format!("cannot share {}", dir.display()))?,
        None => scratch.path().to_path_buf(),
    };
    let work = Workload::prepare(&shared)?;

    head(&format!("Starting airlockfsd on {}", shared.display()));
    let mut daemon = Daemon::start(&binaries.airlockfsd, &shared, TAG, &["--xattr"])?;
    print!("{}", daemon.log());

    let how = match accel::choose() {
        Accel::Kvm => "with KVM",
        Accel::Tcg => "by emulation, as no guest boots with KVM here",
    };
    head(&format!("Booting Linux {} {how}", kernel.release));
    let mut program = Workload::program(TAG, &binaries.guest_tool)?;
    program.shell = options.shell;
    let machine = Machine {
        share: Some((daemon.socket().to_path_buf(), TAG.to_owned())),
        interactive: options.shell,
        ..Machine::default()
    };
    let mut vm = Vm::boot(kernel, &program, &machine, || daemon.restart())?;
    let mut table = String::new();
    let look = || {
        table = processes(&daemon)?;
        Ok(())
    };
    let guest_view = work.follow(&mut vm, |line| println!("{line}"), look)?;

    head("The directory as host and guest see it: kind, mode, links, size, checksum or target");
    work.compare(&guest_view, |line| println!("  both  {line}"))?;

    head("The processes while the guest worked, as the kernel describes them");
    print!("{table}");

    if options.shell {
        vm.show()?;
    } else {
        vm.power_off(LIMIT)?;
    }
    let status = daemon.terminate()?;
    if !status.success() {
        bail!("airlockfsd ended with {status}");
    }
    head(&format!("Done in {:.1} s", start.elapsed().as_secs_f32()));
    Ok(())
}

/// The rights of both processes next to ours; an error if they have too many.
fn processes(daemon: &Daemon) -> Result<String> {
    let supervisor = process::rights(daemon.supervisor())?;
    let worker = process::rights(daemon.worker()?)?;
    for (name, rights) in [("supervisor", &supervisor), ("worker", &worker)] {
        if let Some(lack) = rights.unconfined().first() {
            bail!("the {name} lacks {lack}");
        }
    }
    if !supervisor.without_capabilities() {
        bail!("the supervisor has capabilities");
    }
    let ours = process::rights(std::process::id())?;
    let mut text = process::table(&[
        ("this command".to_owned(), ours),
        (format!("supervisor {}", daemon.supervisor()), supervisor),
        (format!("worker {}", daemon.worker()?), worker),
    ]);
    text.push_str("  Landlock is not in /proc; as each found of itself once confined:\n");
    for line in daemon.log().lines().filter(|line| line.contains("is confined:")) {
        text.push_str(&format!("  {line}\n"));
    }
    Ok(text)
}

fn head(text: &str) {
    println!("== {text}");
}
