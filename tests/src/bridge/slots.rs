//! Buffers for requests and replies in guest memory, taken by readers and given back by completers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use anyhow::Result;
use zerocopy::FromBytes;

use super::room::reply_room;
use crate::fuse::abi::{IN_HEADER, InHeader, OUT_HEADER, WriteIn};
use crate::vmm::memory::{GuestSlice, Memory};

/// Most bytes of data in a request or reply: 256 pages, the kernel's own limit.
pub(super) const MAX_DATA: u32 = 1 << 20;
/// Pages of that.
pub(super) const MAX_PAGES: u16 = 256;
/// Data and headers.
pub(super) const ROOM: usize = MAX_DATA as usize + 4096;
/// Requests under way; the kernel holds back the others.
const COUNT: usize = 256;
/// Guest memory for all of them. Only what is used takes room.
pub(super) const MEMORY: usize = 2 * COUNT * (ROOM + PAGE);
/// A page: what O_DIRECT wants data to be aligned to.
const PAGE: usize = 4096;

/// All buffers.
#[derive(Debug)]
pub(super) struct Slots {
    /// Guest addresses of request and reply.
    addresses: Vec<(u64, u64)>,
    /// Which reader took the request: its reply goes back the same way.
    readers: Vec<AtomicUsize>,
    /// The one used last is taken first: it is warm.
    free: Mutex<Vec<usize>>,
    freed: Condvar,
}

impl Slots {
    pub(super) fn new(memory: &Memory) -> Result<Self> {
        // The data of a WRITE and of the reply to a READ begins a page, as it does when the
        // virtio-fs driver queues it.
        let alloc = |headers: usize| -> Result<u64> {
            Ok(memory.alloc(ROOM + PAGE, PAGE as u64)? + (PAGE - headers) as u64)
        };
        let addresses = (0..COUNT)
            .map(|_| Ok((alloc(IN_HEADER + size_of::<WriteIn>())?, alloc(OUT_HEADER)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            addresses,
            readers: (0..COUNT).map(|_| AtomicUsize::new(0)).collect(),
            free: Mutex::new((0..COUNT).rev().collect()),
            freed: Condvar::new(),
        })
    }

    /// Takes a slot for a reader, waiting while none is free.
    pub(super) fn take(&self, reader: usize) -> usize {
        let free = self.free.lock().unwrap_or_else(|e| e.into_inner());
        let mut free = self
            .freed
            .wait_while(free, |free| free.is_empty())
            .unwrap_or_else(|e| e.into_inner());
        let slot = free.pop().expect("waited for one");
        self.readers[slot].store(reader, Ordering::Relaxed);
        slot
    }

    /// Gives a slot back.
    pub(super) fn give(&self, slot: usize) {
        self.free.lock().unwrap_or_else(|e| e.into_inner()).push(slot);
        self.freed.notify_one();
    }

    /// Guest addresses of a slot's request and reply.
    pub(super) fn addresses(&self, slot: usize) -> (u64, u64) {
        self.addresses[slot]
    }

    /// The reader that took the slot.
    pub(super) fn reader(&self, slot: usize) -> usize {
        self.readers[slot].load(Ordering::Relaxed)
    }

    /// The room for a request.
    pub(super) fn request<'m>(&self, memory: &'m Memory, slot: usize) -> GuestSlice<'m> {
        memory.slice(self.addresses[slot].0, ROOM)
    }

    /// The first `len` bytes of a reply.
    pub(super) fn reply<'m>(&self, memory: &'m Memory, slot: usize, len: usize) -> GuestSlice<'m> {
        memory.slice(self.addresses[slot].1, len)
    }

    /// The header of a request.
    pub(super) fn header(&self, memory: &Memory, slot: usize) -> InHeader {
        let mut bytes = [0; IN_HEADER];
        memory.read(self.addresses[slot].0, &mut bytes);
        InHeader::read_from_bytes(&bytes).expect("as many bytes as the header has")
    }

    /// How many bytes the reply to a request of `len` bytes needs behind its header.
    pub(super) fn reply_room(&self, memory: &Memory, slot: usize, opcode: u32, len: usize) -> usize {
        let mut body = [0; 40];
        let known = len.saturating_sub(IN_HEADER).min(body.len());
        let body = &mut body[..known];
        memory.read(self.addresses[slot].0 + IN_HEADER as u64, body);
        reply_room(opcode, body).min(ROOM - OUT_HEADER)
    }
}
