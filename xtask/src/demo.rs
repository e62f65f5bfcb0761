//! `cargo xtask demo`: a guest works on a directory of the host, both sides are compared, the two processes are shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::accel::{self, Accel};
use crate::binaries::{self, Binaries, Profile};
use crate::daemon::Daemon;
use crate::image::Program;
use crate::kernel::{self, Kernel};
use crate::paths::{self, Scratch};
use crate::qemu::{Machine, Vm};
use crate::{command, process, provision};

const TAG: &str = "airlock";

/// Time for the guest to boot and work; it takes a few seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// What the command line says.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Share this directory instead of a fresh one; the guest works in `airlockfs-demo` in there, which stays
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Leave you in a shell in the guest, with the share at /mnt
    #[arg(long)]
    shell: bool,
}

/// Runs the demo; an error is what failed.
pub fn run(options: &Options) -> Result<()> {
    provision::install(&[provision::GUEST])?;
    let kernel = kernel::get()?;
    head("Building");
    let binaries = binaries::build(Profile::Release)?;
    show(options, &kernel, &binaries)
}

/// The demo proper, once everything is there.
pub fn show(options: &Options, kernel: &Kernel, binaries: &Binaries) -> Result<()> {
    let start = Instant::now();

    let scratch = Scratch::new()?;
    let shared = match &options.dir {
        Some(dir) => {
            fs::canonicalize(dir).with_context(|| format!("cannot share {}", dir.display()))?
        }
        None => scratch.path().to_path_buf(),
    };
    let work = Work::prepare(&shared)?;

    head(&format!("Starting airlockfsd on {}", shared.display()));
    let daemon = Daemon::start(&binaries.airlockfsd, &shared, TAG, &["--xattr"])?;
    print!("{}", daemon.log());

    let how = match accel::choose() {
        Accel::Kvm => "with KVM",
        Accel::Tcg => "by emulation: no guest boots with KVM here",
    };
    head(&format!("Booting Linux {} {how}", kernel.release));
    let mut program = Program::new(TAG, &script()?);
    program.tools = vec![
        binaries.guest_tool.clone(),
        tool("setfattr")?,
        tool("getfattr")?,
    ];
    program.files = vec![(
        "/view.sh".to_owned(),
        fs::read(paths::guest_script("view.sh"))?,
    )];
    program.shell = options.shell;
    let machine = Machine {
        share: Some((daemon.socket().to_path_buf(), TAG.to_owned())),
        interactive: options.shell,
        ..Machine::default()
    };
    let mut vm = Vm::boot(kernel, &program, &machine)?;
    let guest_view = work.follow(&mut vm)?;

    head("The same directory, seen by host and guest");
    work.compare(&guest_view)?;

    head("The two processes, as the kernel describes them");
    let supervisor = daemon.supervisor();
    let worker = daemon.worker()?;
    let columns = [
        (
            format!("supervisor {supervisor}"),
            process::rights(supervisor)?,
        ),
        (format!("worker {worker}"), process::rights(worker)?),
    ];
    print!("{}", process::table(&columns));

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

/// The workload, told where to work.
fn script() -> Result<String> {
    let workload = paths::guest_script("workload.sh");
    let text = fs::read_to_string(&workload)
        .with_context(|| format!("cannot read {}", workload.display()))?;
    Ok(format!("WORK={}\n{text}", Work::NAME))
}

fn tool(name: &str) -> Result<PathBuf> {
    paths::program(name).with_context(|| format!("{name} is not installed"))
}

fn head(text: &str) {
    println!("== {text}");
}

/// The host's half of the workload.
struct Work {
    dir: PathBuf,
}

impl Work {
    const NAME: &str = "airlockfs-demo";

    /// Makes the directory that the guest works in, with what the host puts there before the guest boots.
    fn prepare(shared: &Path) -> Result<Self> {
        let dir = shared.join(Self::NAME);
        fs::create_dir(&dir)
            .with_context(|| format!("cannot make {} (left by an earlier demo?)", dir.display()))?;
        fs::write(
            dir.join("host.txt"),
            "written by the host before the guest booted\n",
        )?;
        fs::write(dir.join("change.txt"), "before\n")?;
        Ok(Self { dir })
    }

    /// Shows the guest's steps, changes a file when the guest asks for it, and returns the guest's view.
    fn follow(&self, vm: &mut Vm) -> Result<Vec<String>> {
        let mut view = Vec::new();
        let mut failed = None;
        let status = vm.follow(LIMIT, |line| {
            match (line, line.strip_prefix("VIEW ")) {
                (_, Some(entry)) => view.push(entry.to_owned()),
                ("ASK", _) => self.change()?,
                _ => println!("{line}"),
            }
            if line.starts_with("  FAIL ") {
                failed = Some(line.trim().to_owned());
            }
            Ok(())
        })?;
        if status != 0 {
            bail!(
                "the guest's workload ended with {status}: {}",
                failed.unwrap_or_default()
            );
        }
        Ok(view)
    }

    /// Changes the file that the guest has read, once the guest has asked for it through the share.
    fn change(&self) -> Result<()> {
        if !self.dir.join("guest-ready").exists() {
            bail!("the guest has made guest-ready, and the host does not see it");
        }
        fs::write(self.dir.join("change.txt"), "after, and longer\n")?;
        Ok(fs::write(self.dir.join("host-done"), "")?)
    }

    /// Shows both views; an error names the first line that differs.
    fn compare(&self, guest: &[String]) -> Result<()> {
        let mut busybox = Command::new(tool("busybox")?);
        let text = command::output(
            busybox
                .arg("sh")
                .arg(paths::guest_script("view.sh"))
                .arg(&self.dir),
        )?;
        let host: Vec<&str> = text.lines().collect();
        for (at, line) in host.iter().enumerate() {
            let same = guest.get(at).is_some_and(|other| other == line);
            println!("  {} {line}", if same { "both " } else { "host " });
            if !same {
                bail!("the host sees '{line}', the guest {:?}", guest.get(at));
            }
        }
        if let Some(extra) = guest.get(host.len()) {
            bail!("the guest sees '{extra}', and the host does not");
        }
        let mut getfattr = Command::new(tool("getfattr")?);
        getfattr
            .args(["--only-values", "--name=user.airlock"])
            .arg(self.dir.join("notes.txt"));
        let value = command::output(&mut getfattr)?;
        if value != "set in the guest" {
            bail!("the host sees the extended attribute user.airlock as '{value}'");
        }
        println!("  both  notes.txt has user.airlock=\"{value}\"");
        Ok(())
    }
}
