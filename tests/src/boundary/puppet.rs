//! A worker that is the test itself. `airlockfsd` executes the worker beside it. Here that is
//! `airlockfs-puppet`, which passes everything it got to the test and lives until the test ends it.

use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use airlockfs_ipc::Handle;
use airlockfs_ipc::channel::Channel;
use airlockfs_ipc::message::{ConfinementReport, Reply, Request, Start, Started};
use anyhow::{Context, Result, ensure};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::raw::{NO_BULK, RawLane, RawRequest, entry};
use crate::daemon::{Daemon, Failure, Launch, bin_dir};
use crate::tempdir::TempDir;

/// How long the daemon may take for its next step.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The worker's half of everything.
#[derive(Debug)]
pub struct Puppet {
    /// What it was told to serve.
    pub start: Start,
    /// The lanes, the high-priority one first.
    pub lanes: Vec<RawLane>,
    /// Rung when something was completed.
    pub doorbells: Vec<OwnedFd>,
    /// Where donated descriptors go.
    pub donations: Vec<Channel>,
    /// The ring's memory.
    pub memory: OwnedFd,
    /// The control channel.
    pub control: Channel,
    /// Where the daemon listens.
    pub socket: PathBuf,
    /// Its end is the process's.
    process: UnixStream,
    _home: Option<TempDir>,
}

impl Puppet {
    /// Takes the next request of a lane.
    ///
    /// # Panics
    /// When none comes.
    pub fn next(&mut self, lane: usize) -> RawRequest {
        match self.lanes[lane].next(PATIENCE) {
            Some(request) => request,
            None => panic!("no request came on lane {lane}"),
        }
    }

    /// Answers a request with these bytes.
    pub fn reply_bytes(&self, lane: usize, request: &RawRequest, bytes: &[u8]) {
        self.lanes[lane].write_message(request.slot, bytes);
        self.complete(lane, entry(request.slot, request.bulk, bytes.len() as u32));
    }

    /// Answers a request.
    pub fn reply(&self, lane: usize, request: &RawRequest, reply: &Reply<'_>) {
        self.reply_bytes(lane, request, &encoded(reply));
    }

    /// Announces a completion and rings the doorbell, asleep or not.
    pub fn complete(&self, lane: usize, entry: u64) {
        self.lanes[lane].complete(entry);
        self.ring(lane);
    }

    /// Rings a lane's doorbell.
    pub fn ring(&self, lane: usize) {
        // A full counter is readable, too.
        let _ = nix::unistd::write(&self.doorbells[lane], &1u64.to_ne_bytes());
    }

    /// Donates descriptors for a handle.
    pub fn donate(&self, lane: usize, handle: Handle, descriptors: &[&OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        self.donations[lane]
            .send(&handle, &descriptors)
            .expect("a donation");
    }

    /// Fills a request's bulk buffer from its start.
    pub fn fill(&self, lane: usize, request: &RawRequest, bytes: &[u8]) {
        assert_ne!(request.bulk, NO_BULK);
        self.lanes[lane].write_bulk(request.bulk, 0, bytes);
    }

    /// Says that it serves.
    pub fn serves(&self, report: ConfinementReport) {
        self.says(&Started::Ready(report));
    }

    /// Says something of its start.
    pub fn says(&self, what: &Started) {
        self.control.send(what, &[]).expect("the control channel");
    }

    /// Ends the process, and this side of all channels.
    pub fn die(self) {}

    /// Ends the process; this side of the channels stays.
    pub fn leave(&self) {
        // What cannot be shut down is so already.
        let _ = self.process.shutdown(std::net::Shutdown::Both);
    }

    /// The socket that keeps the process alive.
    pub fn process(&self) -> &UnixStream {
        &self.process
    }
}

/// A message as it travels.
pub fn encoded(message: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(message).expect("a message")
}

/// A request, decoded.
///
/// # Panics
/// When it does not decode: the supervisor is honest in these tests.
pub fn decoded(request: &RawRequest) -> Request<'_> {
    postcard::from_bytes(&request.bytes).expect("a request of the real supervisor")
}

/// A report such as an honest worker's.
pub fn report() -> ConfinementReport {
    ConfinementReport {
        landlock_abi: 1,
        syscalls: 1,
        ..ConfinementReport::default()
    }
}

/// Starts the real daemon on the puppet, which says that it is ready.
///
/// # Panics
/// When it does not come up.
pub fn start(args: &[&str]) -> (Daemon, Puppet) {
    let started = start_with(args, |puppet| puppet.serves(report()));
    match started.expect("a start") {
        (Ok(daemon), puppet) => (daemon, puppet),
        (Err(failure), _) => panic!("the daemon ended with {}: {:?}", failure.status, failure.log),
    }
}

/// Starts the real daemon on the puppet; `answer` is its answer to [`Start`].
pub fn start_with(
    args: &[&str],
    answer: impl FnOnce(&Puppet) + Send + 'static,
) -> Result<(Result<Daemon, Failure>, Puppet)> {
    let home = TempDir::new()?;
    let place = |name: &str| home.join(name);
    link(bin_dir()?.join("airlockfsd"), place("airlockfsd"))?;
    link(bin_dir()?.join("airlockfs-puppet"), place("airlockfs-worker"))?;
    let listener = UnixListener::bind(place("strings"))?;
    let socket = place("vhost-user");
    let vhost_user = socket.clone();
    let puppet = thread::spawn(move || -> Result<Puppet> {
        let mut door = [nix::poll::PollFd::new(
            listener.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        let ready = nix::poll::poll(&mut door, nix::poll::PollTimeout::from(60_000u16))?;
        ensure!(ready == 1, "the puppet was not started");
        let puppet = attach(listener.accept()?.0, vhost_user)?;
        answer(&puppet);
        Ok(puppet)
    });
    let launch = Launch::program(&place("airlockfsd")).socket(&socket);
    let daemon = launch.args(args).try_start();
    let mut puppet = puppet.join().expect("the puppet's thread")?;
    puppet._home = Some(home);
    Ok((daemon?, puppet))
}

fn link(from: PathBuf, to: PathBuf) -> Result<()> {
    // Another file system takes a copy.
    if fs::hard_link(&from, &to).is_err() {
        crate::program::copy(&from, &to);
    }
    Ok(())
}

/// What the puppet sent: the `Start` datagram, and beside it its descriptors, the control channel
/// last.
fn attach(process: UnixStream, socket: PathBuf) -> Result<Puppet> {
    let mut bytes = vec![0; 64 << 10];
    let mut control = nix::cmsg_space!([RawFd; 64]);
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(process.as_raw_fd(), &mut buffers, Some(&mut control), flags)?;
    let length = message.bytes;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            descriptors.extend(numbers.into_iter().map(owned));
        }
    }
    let start: Start = postcard::from_bytes(&bytes[..length]).context("a Start message")?;
    let lanes = usize::from(start.lanes);
    // It works from the host's network namespace.
    descriptors.drain(..usize::from(start.network).min(descriptors.len()));
    ensure!(
        descriptors.len() == 2 + 2 * lanes,
        "{} descriptors",
        descriptors.len()
    );
    let control = Channel::from(descriptors.pop().context("the control channel")?);
    let mut descriptors = descriptors.into_iter();
    let memory = descriptors.next().context("the ring's memory")?;
    let (mut doorbells, mut donations) = (Vec::new(), Vec::new());
    while let (Some(doorbell), Some(channel)) = (descriptors.next(), descriptors.next()) {
        doorbells.push(doorbell);
        donations.push(Channel::from(channel));
    }
    Ok(Puppet {
        start,
        lanes: (0..lanes).map(|lane| RawLane::map(&memory, lane)).collect(),
        doorbells,
        donations,
        memory,
        control,
        socket,
        process,
        _home: None,
    })
}

#[expect(unsafe_code, reason = "SCM_RIGHTS hands descriptors over as numbers")]
fn owned(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for this process.
    unsafe { OwnedFd::from_raw_fd(number) }
}
