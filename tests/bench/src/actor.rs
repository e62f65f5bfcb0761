//! One request in flight: what it asks, and what it makes of the reply.

use anyhow::{Result, ensure};
use nix::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use airlockfs_tests::fuse::abi::{IN_HEADER, InHeader, OUT_HEADER, OutHeader};
use airlockfs_tests::vmm::memory::Memory;

/// A process of the guest that repeats one operation, which takes one or more requests, one after the other.
pub trait Actor: Send {
    /// Whether it goes on with another operation. It is asked before each.
    fn more(&mut self) -> bool {
        true
    }

    /// Writes the request of a step of the operation, counted from 0.
    fn request(&mut self, step: usize, request: &mut Request);

    /// Takes the reply to a step.
    fn reply(&mut self, step: usize, reply: &Reply<'_>, forgets: &mut Vec<u64>) -> Result<Step>;

    /// Nodes to forget when the measurement ends; that too is measured.
    fn finish(&mut self) -> Vec<u64> {
        Vec::new()
    }

    /// False for what only keeps the daemon busy beside the operations that are measured.
    fn counts(&self) -> bool {
        true
    }
}

/// What comes after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The operation's next request.
    Next,
    /// The operation is done and came to so many units (operations, entries or bytes).
    Done(u64),
}

/// A request being written. Its buffer is used again and again.
#[derive(Debug)]
pub struct Request {
    bytes: Vec<u8>,
    /// Bytes of file data behind the request.
    pub(super) data_out: usize,
    /// Room for the reply behind its header.
    pub(super) reply_room: usize,
}

impl Request {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(1024),
            data_out: 0,
            reply_room: 0,
        }
    }

    /// Begins a request of root.
    pub fn begin(&mut self, opcode: u32, nodeid: u64) -> &mut Self {
        let header = InHeader {
            opcode,
            nodeid,
            pid: 1,
            ..InHeader::default()
        };
        self.bytes.clear();
        self.bytes.extend_from_slice(header.as_bytes());
        self.data_out = 0;
        self.reply_room = 0;
        self
    }

    /// Adds a structure.
    pub fn body<T: IntoBytes + Immutable>(&mut self, body: &T) -> &mut Self {
        self.bytes.extend_from_slice(body.as_bytes());
        self
    }

    /// Adds a name and its NUL.
    pub fn name(&mut self, name: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self
    }

    /// Adds file data, which is in guest memory already.
    pub fn data(&mut self, len: usize) -> &mut Self {
        self.data_out = len;
        self
    }

    /// Wants a reply with up to so many bytes behind its header.
    pub fn reply(&mut self, room: usize) {
        self.reply_room = room;
    }

    /// Gives it its number and its length; returns header and body.
    pub(super) fn finish(&mut self, unique: u64) -> &[u8] {
        let len = (self.bytes.len() + self.data_out) as u32;
        // fuse_in_header: the length is at 0, the number at 8.
        self.bytes[0..4].copy_from_slice(&len.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&unique.to_le_bytes());
        debug_assert!(self.bytes.len() >= IN_HEADER);
        &self.bytes
    }
}

/// A reply in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    memory: &'a Memory,
    body: u64,
    header: OutHeader,
}

impl<'a> Reply<'a> {
    pub(super) fn read(memory: &'a Memory, head: u64, body: u64, used: u32, unique: u64) -> Result<Self> {
        let mut bytes = [0; OUT_HEADER];
        memory.read(head, &mut bytes);
        let header = OutHeader::read_from_bytes(&bytes).unwrap_or_default();
        ensure!(
            header.unique == unique && header.len == used,
            "a reply of {used} bytes to request {unique} is not one: {header:?}"
        );
        Ok(Self { memory, body, header })
    }

    /// Bytes behind the header.
    pub fn len(&self) -> usize {
        (self.header.len as usize).saturating_sub(OUT_HEADER)
    }

    /// Whether nothing follows the header.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The errno, if it is an error.
    pub fn errno(&self) -> Option<Errno> {
        (self.header.error != 0).then(|| Errno::from_raw(-self.header.error))
    }

    /// An error unless the reply is a success.
    pub fn ok(&self) -> Result<()> {
        match self.errno() {
            None => Ok(()),
            Some(errno) => Err(errno.into()),
        }
    }

    /// A structure of a successful reply, at an offset behind the header.
    pub fn body<T: FromBytes + IntoBytes>(&self, at: usize) -> Result<T> {
        self.ok()?;
        let mut value = T::new_zeroed();
        ensure!(
            at + size_of::<T>() <= self.len(),
            "a reply of {} bytes is too short",
            self.len()
        );
        self.memory.read(self.body + at as u64, value.as_mut_bytes());
        Ok(value)
    }

    /// All of a successful reply behind the header.
    pub fn bytes(&self, into: &mut Vec<u8>) -> Result<()> {
        self.ok()?;
        into.resize(self.len(), 0);
        self.memory.read(self.body, into);
        Ok(())
    }
}
