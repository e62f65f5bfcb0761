//! A guest's connection to a daemon: a lane per queue, and single requests with whatever comes of
//! them.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Result;
use zerocopy::FromBytes;

use super::abi::{BATCH_FORGET, FORGET, INTERRUPT, InHeader, OUT_HEADER};
use super::lane::{Lane, Wait};
use crate::vmm::{HIPRIO, Vmm, VmmConfig};

/// How long a daemon may take to complete a request before the test fails. Not an expectation of
/// speed: a daemon that forgets a request is what this finds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a connection is made of.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The VMM's side.
    pub vmm: VmmConfig,
    /// Requests in flight per queue.
    pub depth: usize,
    /// Bytes of the largest request, and of the largest reply.
    pub room: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            vmm: VmmConfig {
                memory: 256 << 20,
                ..VmmConfig::default()
            },
            depth: 4,
            room: (1 << 20) + 4096,
        }
    }
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A reply: 0 or a negative errno, and its body.
    Reply {
        /// As in the header.
        error: i32,
        /// What follows the header.
        body: Vec<u8>,
    },
    /// Completed without a byte written.
    Empty,
    /// The daemon closed the connection.
    Gone,
}

impl Outcome {
    /// The errno of an error reply.
    pub fn errno(&self) -> Option<nix::errno::Errno> {
        match self {
            Self::Reply { error, .. } if *error < 0 => Some(nix::errno::Errno::from_raw(-error)),
            _ => None,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Session {
    vmm: Arc<Vmm>,
    lanes: Vec<Mutex<Lane>>,
    unique: AtomicU64,
    /// Flags agreed on by INIT.
    pub(super) negotiated: AtomicU64,
}

impl Session {
    /// Connects to a daemon's socket.
    pub fn connect(socket: &Path, config: &SessionConfig) -> Result<Self> {
        Self::new(Vmm::connect(socket, &config.vmm)?, config)
    }

    /// On a VMM that is connected.
    pub fn new(vmm: Vmm, config: &SessionConfig) -> Result<Self> {
        let vmm = Arc::new(vmm);
        let lanes = (0..=vmm.request_queues())
            .map(|queue| {
                // BATCH_FORGET is the longest request of the first queue.
                let room = if queue == HIPRIO { 64 << 10 } else { config.room };
                Lane::new(&vmm, queue, config.depth, room, room).map(Mutex::new)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            vmm,
            lanes,
            unique: AtomicU64::new(2),
            negotiated: AtomicU64::new(0),
        })
    }

    /// The VMM underneath.
    pub fn vmm(&self) -> &Arc<Vmm> {
        &self.vmm
    }

    /// The lane of a queue.
    pub fn lane(&self, queue: usize) -> MutexGuard<'_, Lane> {
        self.lanes[queue].lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A name for the next request; the kernel's are even too.
    pub fn unique(&self) -> u64 {
        self.unique.fetch_add(2, Ordering::Relaxed)
    }

    /// Sends a well-formed request and waits for what comes of it.
    ///
    /// # Panics
    /// When the reply is not one a guest would accept, or none comes.
    pub fn call(&self, queue: usize, header: InHeader, parts: &[&[u8]], reply_room: usize) -> Outcome {
        let mut lane = self.lane(queue);
        let slot = lane.acquire().expect("a free slot");
        let len = lane.write(slot, header, parts);
        lane.submit(slot, len, reply_room);
        lane.flush();
        let done = match lane.wait_for(slot, PATIENCE) {
            Wait::Done(done) => done,
            Wait::Gone => return Outcome::Gone,
            Wait::Timeout => panic!("request {header:?} was never completed"),
        };
        let outcome = read_reply(&lane, slot, done.len, reply_room, header.unique);
        lane.release(slot);
        outcome
    }

    /// Sends bytes as they are, right or wrong.
    pub fn send(&self, queue: usize, request: &[u8], reply_room: usize) -> Outcome {
        let mut lane = self.lane(queue);
        let slot = lane.acquire().expect("a free slot");
        lane.write_bytes(slot, 0, request);
        lane.submit(slot, request.len(), reply_room);
        lane.flush();
        let done = match lane.wait_for(slot, PATIENCE) {
            Wait::Done(done) => done,
            Wait::Gone => return Outcome::Gone,
            Wait::Timeout => panic!("request {request:02x?} was never completed"),
        };
        // Too short for a header: the name is whatever the daemon made of it.
        let unique = InHeader::read_from_prefix(request)
            .map_or_else(|_| lane.reply_header(slot).unique, |(header, _)| header.unique);
        let outcome = read_reply(&lane, slot, done.len, reply_room, unique);
        lane.release(slot);
        outcome
    }
}

/// The queue on which the Linux driver sends an opcode.
pub(super) fn goes_to_hiprio(opcode: u32) -> bool {
    matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT)
}

fn read_reply(lane: &Lane, slot: super::SlotId, used: usize, room: usize, unique: u64) -> Outcome {
    if used == 0 {
        return Outcome::Empty;
    }
    assert!(used <= room, "{used} bytes written into {room}");
    assert!(used >= OUT_HEADER, "a reply of {used} bytes");
    let header = lane.reply_header(slot);
    assert_eq!(header.len as usize, used, "length in the reply's header");
    assert_eq!(header.unique, unique, "the reply's name");
    assert!((-4095..=0).contains(&header.error), "error {}", header.error);
    assert!(
        header.error == 0 || used == OUT_HEADER,
        "an error reply with a body of {} bytes",
        used - OUT_HEADER
    );
    let mut body = vec![0; used - OUT_HEADER];
    lane.reply_body(slot, 0, &mut body);
    Outcome::Reply {
        error: header.error,
        body,
    }
}
