//! `airlockfs-bridge`: mounts a vhost-user virtio-fs daemon on a host directory, without a virtual
//! machine.

use std::path::PathBuf;
use std::process::ExitCode;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

const USAGE: &str = "usage: airlockfs-bridge --socket SOCKET --mount DIR [OPTIONS]

Mounts the vhost-user virtio-fs daemon that listens on SOCKET on DIR, through /dev/fuse.
  --queues N      request queues [default: all that the device has]
  --private       for root alone
  --source NAME   what the mount says that it is of
Prints `mounted` once the daemon has answered INIT; ends on SIGTERM, SIGINT or umount.";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("airlockfs-bridge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut socket, mut mount) = (None, None);
    let mut config = BridgeConfig::default();
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg:?} needs a value"));
        match arg.to_str() {
            Some("--socket") => socket = Some(PathBuf::from(value()?)),
            Some("--mount") => mount = Some(PathBuf::from(value()?)),
            Some("--queues") => {
                let count = value()?;
                let count = count.to_str().and_then(|n| n.parse().ok());
                config.queues = Some(count.context("--queues needs a number")?);
            }
            Some("--source") => {
                let name = value()?.into_string();
                config.source = Some(name.map_err(|name| anyhow!("{name:?} is no text"))?);
            }
            Some("--private") => config.private = true,
            Some("--help" | "-h") => {
                println!("{USAGE}");
                return Ok(());
            }
            _ => bail!("unknown argument {arg:?}\n{USAGE}"),
        }
    }
    let socket = socket.with_context(|| format!("--socket is missing\n{USAGE}"))?;
    let mount = mount.with_context(|| format!("--mount is missing\n{USAGE}"))?;

    // Before any thread starts, so that none of them takes the signal instead.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("block signals")?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("signalfd")?;

    let bridge = Bridge::mount(&socket, &mount, &config)?;
    println!("mounted");
    bridge.wait_unmounted_or(signals.as_fd());
    bridge.unmount()
}
