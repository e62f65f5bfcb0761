//! Mounts a vhost-user virtio-fs daemon on the host through /dev/fuse: the bridge is the VMM, the
//! host's kernel the guest.
//!
//! A reader thread takes a request of the kernel straight into guest memory and queues it; a
//! completer thread per queue hands the daemon's reply back from where the daemon wrote it. No byte
//! of data is copied on the way.

mod device;
mod relay;
mod room;
mod slots;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::vmm::{Vmm, VmmConfig};
use relay::Relay;

/// How long the daemon may take to answer INIT.
const PATIENCE: Duration = Duration::from_secs(30);
/// Descriptors per queue: four for each of the most slots.
const QUEUE_SIZE: u16 = 1024;

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct BridgeConfig {
    /// Request queues; by default all that the device has.
    pub queues: Option<usize>,
    /// More mount options (`ro`, `nosuid`, …) as flags of mount(2).
    pub flags: Option<nix::mount::MsFlags>,
    /// Nobody but root may look at it, as `fusermount` mounts without `allow_other`.
    pub private: bool,
    /// What the mount says that it is of.
    pub source: Option<String>,
}

/// A mounted daemon. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Bridge {
    mount: PathBuf,
    relay: Arc<Relay>,
    threads: Vec<JoinHandle<()>>,
}

impl Bridge {
    /// Connects to a daemon's socket and mounts it on a directory; returns once INIT is done.
    ///
    /// # Errors
    /// When the connection or the mount fails, or the daemon refuses INIT.
    pub fn mount(socket: &Path, directory: &Path, config: &BridgeConfig) -> Result<Self> {
        let vmm = Vmm::connect(
            socket,
            &VmmConfig {
                memory: slots::MEMORY + (16 << 20),
                queue_size: QUEUE_SIZE,
                request_queues: config.queues,
                ..VmmConfig::default()
            },
        )?;
        let mount = directory
            .canonicalize()
            .with_context(|| format!("mount point {}", directory.display()))?;
        let device = device::mount(&mount, config)?;
        let relay = Relay::new(vmm, device).inspect_err(|_| {
            // Nobody will ever answer on this mount. Report the first error.
            let _ = umount2(&mount, MntFlags::MNT_DETACH);
        })?;
        let relay = Arc::new(relay);
        let threads = relay::start(&relay);
        let bridge = Self {
            mount,
            relay,
            threads,
        };
        match bridge.relay.wait_init(PATIENCE) {
            Some(Ok(())) => Ok(bridge),
            Some(Err(errno)) => bail!("the daemon refused INIT: {errno}"),
            None => bail!("the daemon did not answer INIT"),
        }
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// How many requests of an operation the kernel has sent.
    pub fn requests(&self, opcode: u32) -> u64 {
        self.relay.seen(opcode)
    }

    /// Blocks until somebody unmounts the directory, or `fd` is readable. True when it was
    /// unmounted.
    pub fn wait_unmounted_or(&self, fd: std::os::fd::BorrowedFd<'_>) -> bool {
        self.relay.wait_end_or(fd)
    }

    /// Unmounts, says DESTROY to the daemon and ends the threads.
    ///
    /// # Errors
    /// When the directory can't be unmounted.
    pub fn unmount(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.threads.is_empty() {
            return Ok(());
        }
        let unmounted = match umount2(&self.mount, MntFlags::empty()) {
            // Somebody else has unmounted it already.
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            // In use: abort what is under way and detach.
            Err(Errno::EBUSY) => umount2(&self.mount, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH),
            Err(errno) => Err(errno),
        };
        unmounted.with_context(|| format!("unmount {}", self.mount.display()))?;
        self.relay.wait_readers();
        self.relay.destroy();
        self.relay.stop();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said why.
            let _ = thread.join();
        }
        Ok(())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("airlockfs-bridge: {error:#}");
        }
    }
}
