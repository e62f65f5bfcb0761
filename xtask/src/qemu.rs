//! Runs a guest in QEMU: boots it, follows its console, collects its exit status.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::accel::{self, Accel};
use crate::image::{self, ALIVE_LINE, EXIT_LINE, Program};
use crate::kernel::Kernel;
use crate::paths::{self, Scratch};
use crate::{apt::Suites, command};

/// The virtual hardware.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// The vhost-user socket behind a virtio-fs device, and the device's tag; none is a guest
    /// without one.
    pub share: Option<(PathBuf, String)>,
    /// The device's request queues.
    pub request_queues: u32,
    /// Descriptors per queue.
    pub queue_size: u32,
    /// A reboot of the guest starts it again instead of ending QEMU.
    pub reboots: bool,
    /// KVM or emulation; none takes what works here.
    pub accel: Option<Accel>,
    /// The terminal's input goes to the guest's console, and QEMU's escape key is Ctrl-A.
    pub interactive: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            cpus: 2,
            memory: 512,
            share: None,
            request_queues: 1,
            queue_size: 1024,
            reboots: false,
            accel: None,
            interactive: false,
        }
    }
}

/// The newest kernel that Debian 12's QEMU emulates well, and the oldest QEMU that emulates all
/// well.
const OLD_KERNEL: (u32, u32) = (6, 1);
const SOUND: u32 = 8;
/// Where a newer QEMU is fetched from on a Debian that has an older one, and the package.
const NEWER: [&str; 2] = ["bookworm", "bookworm-backports"];
const PACKAGE: &str = "qemu-system-x86";

/// QEMU, as that kernel needs it: the system's, or a newer one under `target/guest/`.
fn emulator(kernel: &Kernel) -> Result<Command> {
    let system = paths::require("qemu-system-x86_64")?;
    let version = command::output(Command::new(&system).arg("--version"))?;
    let major = version
        .split_whitespace()
        .nth(3)
        .and_then(|word| word.split('.').next()?.parse().ok());
    if kernel.version() <= OLD_KERNEL || major.is_none_or(|major: u32| major >= SOUND) {
        return Ok(Command::new(system));
    }
    let root = paths::guest_cache().join("qemu");
    if !root.is_dir() {
        let [_, backports] = NEWER;
        Suites::get(&NEWER)?.unpack_with_needs(PACKAGE, backports, &root)?;
    }
    let mut qemu = Command::new(root.join("usr/bin/qemu-system-x86_64"));
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|dir| root.join(dir));
    qemu.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    for dir in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        qemu.arg("-L").arg(root.join(dir));
    }
    Ok(qemu)
}

/// QEMU's standard error, in the scratch directory.
const STDERR: &str = "stderr";

/// A running guest; ends with the value.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    output: Receiver<Vec<u8>>,
    /// Output that is not a whole line yet.
    partial: Vec<u8>,
    /// Every line so far.
    console: String,
    /// Holds the initramfs, which QEMU reads while starting, and QEMU's standard error.
    scratch: Scratch,
}

/// What became of a wait for console output.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without its end.
    Text(String),
    /// None within the time allowed.
    Late,
    /// QEMU has closed its output.
    End,
}

/// How long an emulated kernel may take to its first program, and how often one that does not get
/// there is started again: now and then two emulated processors wait for each other for ever,
/// before any driver has begun.
const ALIVE: Duration = Duration::from_secs(180);
const STARTS: usize = 4;

impl Vm {
    /// Starts QEMU with `program` as the guest's whole user space, and waits until that begins.
    /// `again` restarts the daemon behind the share before QEMU is started another time: a daemon
    /// ends with its VMM.
    pub fn boot(
        kernel: &Kernel,
        program: &Program,
        machine: &Machine,
        mut again: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        for _ in 1..STARTS {
            let mut vm = Self::start(kernel, program, machine)?;
            if vm.is_alive(Instant::now() + ALIVE) {
                return Ok(vm);
            }
            eprintln!("the guest's kernel did not come up within {ALIVE:?}: starting it again");
            drop(vm);
            again().context("cannot restart the daemon for another start of its guest")?;
        }
        Self::start(kernel, program, machine)
    }

    /// Whether the guest's first program began. Also true if the guest ended: who waits for it
    /// reports why.
    fn is_alive(&mut self, deadline: Instant) -> bool {
        loop {
            match self.line(deadline) {
                Line::Text(line) if line == ALIVE_LINE => return true,
                Line::Text(_) => {}
                Line::Late => return false,
                Line::End => return true,
            }
        }
    }

    /// Starts QEMU, once, and waits for nothing.
    pub(crate) fn start(kernel: &Kernel, program: &Program, machine: &Machine) -> Result<Self> {
        let scratch = Scratch::new()?;
        let initramfs = scratch.path().join("initramfs");
        fs::write(&initramfs, image::build(kernel, program)?)
            .context("cannot write the guest's initramfs")?;
        let memory = machine.memory;

        let mut qemu = emulator(kernel)?;
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(machine.accel.unwrap_or_else(accel::choose).arguments())
            .args(["-smp", &machine.cpus.to_string(), "-m", &format!("{memory}M")])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&initramfs)
            // A panic ends QEMU at once, by -no-reboot. On a busy host the emulated timer may be
            // too late for the kernel's check of it, which then panics.
            .args([
                "-append",
                "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check",
            ])
            .args(["-serial", if machine.interactive { "mon:stdio" } else { "stdio" }])
            // vhost-user: the back end maps the guest's memory, so it has to be a file that both
            // share.
            .args([
                "-object",
                &format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
            ])
            .args(["-numa", "node,memdev=memory"]);
        if !machine.reboots {
            qemu.arg("-no-reboot");
        }
        if let Some((socket, tag)) = &machine.share {
            let device = format!(
                "vhost-user-fs-pci,chardev=fs,tag={tag},num-request-queues={},queue-size={}",
                machine.request_queues, machine.queue_size
            );
            qemu.args([
                "-chardev",
                &format!("socket,id=fs,path={}", socket.display()),
                "-device",
                &device,
            ]);
        }
        let stdin = if machine.interactive {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let mut child = qemu
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(scratch.path().join(STDERR))?)
            .spawn()
            .context("cannot start QEMU")?;
        let mut stdout = child.stdout.take().context("QEMU has no output")?;
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                let Some(chunk) = buffer.get(..count) else {
                    break;
                };
                if sender.send(chunk.to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            output,
            partial: Vec::new(),
            console: String::new(),
            scratch,
        })
    }

    /// The next line of the console, waiting until `deadline`.
    pub fn line(&mut self, deadline: Instant) -> Line {
        loop {
            if let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                return Line::Text(self.keep(&line));
            }
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(chunk) => self.partial.extend_from_slice(&chunk),
                Err(RecvTimeoutError::Timeout) => return Line::Late,
                Err(RecvTimeoutError::Disconnected) if self.partial.is_empty() => return Line::End,
                Err(RecvTimeoutError::Disconnected) => {
                    let line = std::mem::take(&mut self.partial);
                    return Line::Text(self.keep(&line));
                }
            }
        }
    }

    fn keep(&mut self, line: &[u8]) -> String {
        let line = String::from_utf8_lossy(line).trim_end().to_owned();
        self.console.push_str(&line);
        self.console.push('\n');
        line
    }

    /// Follows the console up to the script's end and returns the script's exit status.
    pub fn finish(&mut self, limit: Duration) -> Result<i32> {
        self.follow(limit, |_| Ok(()))
    }

    /// As [`Vm::finish`], and hands each line to `see`, whose error ends the wait.
    pub fn follow(&mut self, limit: Duration, mut see: impl FnMut(&str) -> Result<()>) -> Result<i32> {
        let deadline = Instant::now() + limit;
        loop {
            match self.line(deadline) {
                Line::Text(line) => match line.strip_prefix(EXIT_LINE) {
                    Some(status) => {
                        return status.parse().context("the guest's exit status is not a number");
                    }
                    None => see(&line)?,
                },
                Line::Late => bail!("the guest was not done within {limit:?}; {}", self.story()),
                Line::End => bail!("the guest ended before its script did; {}", self.story()),
            }
        }
    }

    /// Every whole line that the console has shown.
    pub fn console(&self) -> &str {
        &self.console
    }

    /// What a person needs to see why the guest failed.
    fn story(&self) -> String {
        let stderr = fs::read_to_string(self.scratch.path().join(STDERR)).unwrap_or_default();
        format!("its console:\n{}QEMU said:\n{stderr}", self.console)
    }

    /// Waits for QEMU to end after the guest has powered off.
    pub fn power_off(mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while self.line(deadline) != Line::End {
            if Instant::now() >= deadline {
                bail!("the guest did not power off within {limit:?}; {}", self.story());
            }
        }
        let status = self.child.wait().context("cannot wait for QEMU")?;
        if !status.success() {
            bail!("QEMU ended with {status}; {}", self.story());
        }
        Ok(())
    }

    /// Shows the console byte by byte until QEMU ends: a shell's prompt is no whole line.
    pub fn show(mut self) -> Result<()> {
        let mut terminal = std::io::stdout();
        let mut chunk = std::mem::take(&mut self.partial);
        loop {
            terminal.write_all(&chunk)?;
            terminal.flush()?;
            match self.output.recv() {
                Ok(next) => chunk = next,
                Err(_) => return Ok(()),
            }
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
