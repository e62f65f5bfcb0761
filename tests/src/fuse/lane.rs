//! One virtqueue with preallocated request and reply buffers: many requests in flight without an
//! allocation each.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{IN_HEADER, InHeader, OUT_HEADER, OutHeader};
use crate::vmm::Vmm;
use crate::vmm::fds;
use crate::vmm::queue::{CallFd, Segment};

/// A request's buffers in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId(pub usize);

/// A request that the daemon completed.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Its buffers, which are the caller's until [`Lane::release`].
    pub slot: SlotId,
    /// Bytes the daemon says it wrote.
    pub len: usize,
}

/// What waiting came to.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// A request is done.
    Done(Done),
    /// The daemon closed its socket and completes nothing more.
    Gone,
    /// Time is up.
    Timeout,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    request: u64,
    reply: u64,
}

/// Requests of one queue.
#[derive(Debug)]
pub struct Lane {
    vmm: Arc<Vmm>,
    queue: usize,
    call: Arc<CallFd>,
    slots: Vec<Slot>,
    free: Vec<SlotId>,
    /// Completions taken from the ring while waiting for another one.
    done: VecDeque<Done>,
    request_room: usize,
    reply_room: usize,
}

impl Lane {
    /// Takes `depth` pairs of buffers for a queue.
    pub fn new(
        vmm: &Arc<Vmm>,
        queue: usize,
        depth: usize,
        request_room: usize,
        reply_room: usize,
    ) -> Result<Self> {
        let size = usize::from(vmm.queue(queue).ring().size);
        ensure!(
            depth * 4 <= size,
            "a ring of {size} is too small for {depth} requests"
        );
        let slots = (0..depth)
            .map(|_| {
                Ok(Slot {
                    request: vmm.memory().alloc(request_room, 4096)?,
                    reply: vmm.memory().alloc(reply_room, 4096)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let call = vmm.queue(queue).call_fd();
        Ok(Self {
            vmm: Arc::clone(vmm),
            queue,
            call,
            free: (0..depth).rev().map(SlotId).collect(),
            done: VecDeque::with_capacity(depth),
            slots,
            request_room,
            reply_room,
        })
    }

    /// Room of a request, header included.
    pub fn request_room(&self) -> usize {
        self.request_room
    }

    /// Room of a reply, header included.
    pub fn reply_room(&self) -> usize {
        self.reply_room
    }

    /// Takes a pair of buffers, if one is free.
    pub fn acquire(&mut self) -> Option<SlotId> {
        self.free.pop()
    }

    /// Gives buffers back.
    pub fn release(&mut self, slot: SlotId) {
        self.free.push(slot);
    }

    /// Guest addresses of a slot's request and reply buffers.
    pub fn addresses(&self, slot: SlotId) -> (u64, u64) {
        let slot = self.slots[slot.0];
        (slot.request, slot.reply)
    }

    /// Writes a request: the header, with its length set, and the parts of the body. Returns its
    /// length.
    pub fn write(&self, slot: SlotId, mut header: InHeader, parts: &[&[u8]]) -> usize {
        let len = IN_HEADER + parts.iter().map(|p| p.len()).sum::<usize>();
        assert!(len <= self.request_room, "a request of {len} bytes has no room");
        header.len = len as u32;
        self.write_bytes(slot, 0, header.as_bytes());
        let mut at = IN_HEADER;
        for part in parts {
            self.write_bytes(slot, at, part);
            at += part.len();
        }
        len
    }

    /// Writes bytes of a request as they are.
    pub fn write_bytes(&self, slot: SlotId, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.request_room);
        self.vmm
            .memory()
            .write(self.slots[slot.0].request + at as u64, bytes);
    }

    /// Queues a request with room for a reply of `reply` bytes, header included (0: no reply
    /// wanted). The buffers are split as the Linux driver does: header and rest, each way. The
    /// daemon sees it after [`Lane::flush`].
    pub fn submit(&mut self, slot: SlotId, request: usize, reply: usize) {
        assert!(reply <= self.reply_room, "a reply of {reply} bytes has no room");
        let Slot {
            request: from,
            reply: to,
        } = self.slots[slot.0];
        let mut segments = [Segment::request(from, 0); 4];
        let mut count = 0;
        let mut add = |segment: Segment| {
            segments[count] = segment;
            count += 1;
        };
        let head = request.min(IN_HEADER);
        add(Segment::request(from, head));
        if request > head {
            add(Segment::request(from + head as u64, request - head));
        }
        let head = reply.min(OUT_HEADER);
        if reply > 0 {
            add(Segment::reply(to, head));
        }
        if reply > head {
            add(Segment::reply(to + head as u64, reply - head));
        }
        self.submit_segments(slot, &segments[..count]);
    }

    /// Queues a chain of the caller's making under a slot's name.
    pub fn submit_segments(&mut self, slot: SlotId, segments: &[Segment]) {
        let added = self.vmm.queue(self.queue).add(segments, slot.0 as u64);
        assert!(added, "the ring is full");
    }

    /// Shows the daemon what was queued, and kicks it if it asks for that.
    pub fn flush(&self) {
        self.vmm.queue(self.queue).publish();
    }

    /// The next completion that is there already.
    pub fn poll(&mut self) -> Option<Done> {
        self.done.pop_front().or_else(|| self.take())
    }

    fn take(&mut self) -> Option<Done> {
        let used = self.vmm.queue(self.queue).take()?;
        Some(Done {
            slot: SlotId(used.token as usize),
            len: used.len as usize,
        })
    }

    /// Waits for the next completion.
    pub fn wait(&mut self, timeout: Duration) -> Wait {
        match self.done.pop_front() {
            Some(done) => Wait::Done(done),
            None => self.wait_ring(Instant::now() + timeout),
        }
    }

    /// Waits for the completion of one slot; others that come meanwhile are kept.
    pub fn wait_for(&mut self, slot: SlotId, timeout: Duration) -> Wait {
        if let Some(at) = self.done.iter().position(|done| done.slot == slot) {
            return self.done.remove(at).map_or(Wait::Timeout, Wait::Done);
        }
        let deadline = Instant::now() + timeout;
        loop {
            match self.wait_ring(deadline) {
                Wait::Done(done) if done.slot != slot => self.done.push_back(done),
                other => return other,
            }
        }
    }

    fn wait_ring(&mut self, deadline: Instant) -> Wait {
        loop {
            if let Some(done) = self.take() {
                return Wait::Done(done);
            }
            if !self.vmm.queue(self.queue).arm() {
                continue;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Wait::Timeout;
            };
            let millis = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
            let [called, socket] = fds::wait([self.call.as_fd(), self.vmm.socket().as_fd()], millis);
            // The daemon says nothing on its socket unasked: readable means closed. What it
            // completed before that still counts.
            if socket && !called && self.vmm.queue(self.queue).arm() && self.socket_closed() {
                return Wait::Gone;
            }
        }
    }

    fn socket_closed(&self) -> bool {
        use nix::sys::socket::{MsgFlags, recv};
        use std::os::fd::AsRawFd;
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        !matches!(
            recv(self.vmm.socket().as_raw_fd(), &mut [0], flags),
            Ok(1) | Err(nix::errno::Errno::EAGAIN)
        )
    }

    /// The header of a reply.
    pub fn reply_header(&self, slot: SlotId) -> OutHeader {
        let mut bytes = [0; OUT_HEADER];
        self.vmm.memory().read(self.slots[slot.0].reply, &mut bytes);
        OutHeader::read_from_bytes(&bytes).expect("as many bytes as the header has")
    }

    /// Copies bytes of a reply's body, from `at` bytes behind its header.
    pub fn reply_body(&self, slot: SlotId, at: usize, bytes: &mut [u8]) {
        assert!(OUT_HEADER + at + bytes.len() <= self.reply_room);
        let from = self.slots[slot.0].reply + (OUT_HEADER + at) as u64;
        self.vmm.memory().read(from, bytes);
    }
}
