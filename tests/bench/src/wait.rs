//! How the front end waits for completions, and who wakes it when none can come any more.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};

use airlockfs_tests::vmm::fds;
use airlockfs_tests::vmm::queue::{CallFd, Queue};

/// How the front end waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Wait {
    /// Asleep in read(2) on the queue's eventfd, until the daemon calls: one system call per wake-up.
    Sleep,
    /// Looking at the ring all the time, calls switched off by EVENT_IDX: for a processor of its own only.
    Busy,
}

/// The call descriptors of a connection, blocking for as long as this lives. The harness's own waits need them non-blocking.
#[derive(Debug)]
pub struct Blocking(Vec<Arc<CallFd>>);

impl Blocking {
    /// Makes them blocking.
    pub fn new(calls: Vec<Arc<CallFd>>) -> Result<Self> {
        for call in &calls {
            call.clear();
            fcntl(call.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).context("F_SETFL")?;
        }
        Ok(Self(calls))
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        for call in &self.0 {
            // Cannot fail on a descriptor that is open; a later wait would hang, which its watchdog ends.
            let _ = fcntl(call.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        }
    }
}

/// Waits until the queue has a completion to take.
pub fn completion(queue: &mut Queue, call: &CallFd, wait: Wait, alarm: &Alarm) -> Result<()> {
    if wait == Wait::Busy {
        // The caller takes from the ring again at once.
        std::hint::spin_loop();
    } else if queue.ask() {
        let mut count = [0; 8];
        nix::unistd::read(call, &mut count).context("wait for the daemon")?;
    }
    if alarm.0.load(Ordering::Relaxed) {
        bail!("the daemon ended or completes nothing any more");
    }
    Ok(())
}

/// Says that waiting has no sense any more.
#[derive(Clone, Debug, Default)]
pub struct Alarm(Arc<AtomicBool>);

/// A thread that wakes the front end when the daemon ends or `patience` is over.
#[derive(Debug)]
pub struct Watchdog {
    alarm: Alarm,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches a connection's socket, on which a daemon says nothing until it ends.
    pub fn new(socket: OwnedFd, calls: Vec<Arc<CallFd>>, patience: Duration) -> Result<Self> {
        let alarm = Alarm::default();
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let (rung, stopped) = (alarm.clone(), Arc::clone(&stop));
        let millis = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
        let thread = std::thread::spawn(move || {
            let [stop, _] = fds::wait([stopped.as_fd(), socket.as_fd()], millis);
            if !stop {
                rung.0.store(true, Ordering::Relaxed);
                for call in calls {
                    // A full counter wakes as well.
                    let _ = nix::unistd::write(&*call, &1u64.to_ne_bytes());
                }
            }
        });
        Ok(Self {
            alarm,
            stop,
            thread: Some(thread),
        })
    }

    /// What to look at after waking.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // A full counter stops it as well.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
