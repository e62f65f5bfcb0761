//! A guest's FUSE client: who calls, on which queue, and requests whose errors are errnos.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use nix::errno::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{InHeader, OUT_HEADER, init_flags};
use super::session::{Outcome, Session, SessionConfig, goes_to_hiprio};
use crate::vmm::HIPRIO;

/// The process of the guest that makes a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// fsuid.
    pub uid: u32,
    /// fsgid.
    pub gid: u32,
    /// Process id.
    pub pid: u32,
}

/// A caller on a connection. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    session: Arc<Session>,
    queue: usize,
    caller: Caller,
    umask: u32,
    extensions: Vec<u8>,
}

impl Client {
    /// Connects as root to a daemon's socket. [`Client::init`] comes next.
    pub fn connect(socket: &Path) -> Result<Self> {
        Self::connect_with(socket, &SessionConfig::default())
    }

    /// The same with a configuration.
    pub fn connect_with(socket: &Path, config: &SessionConfig) -> Result<Self> {
        Ok(Self::new(Arc::new(Session::connect(socket, config)?)))
    }

    /// As root on a connection, on the first request queue.
    pub fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            queue: HIPRIO + 1,
            caller: Caller {
                uid: 0,
                gid: 0,
                pid: 1,
            },
            umask: 0o022,
            extensions: Vec::new(),
        }
    }

    /// The same connection for another user.
    #[must_use]
    pub fn as_user(&self, uid: u32, gid: u32) -> Self {
        let caller = Caller {
            uid,
            gid,
            ..self.caller
        };
        Self {
            caller,
            ..self.clone()
        }
    }

    /// The same connection on another queue, counted from 1.
    #[must_use]
    pub fn on_queue(&self, queue: usize) -> Self {
        Self {
            queue,
            ..self.clone()
        }
    }

    /// The same connection with another umask in requests that create (022 otherwise).
    #[must_use]
    pub fn with_umask(&self, umask: u32) -> Self {
        Self {
            umask,
            ..self.clone()
        }
    }

    /// The same connection with extensions (security context, groups) on requests that create.
    #[must_use]
    pub fn with_extensions(&self, extensions: &[u8]) -> Self {
        let mut extensions = extensions.to_vec();
        extensions.resize(extensions.len().next_multiple_of(8), 0);
        Self {
            extensions,
            ..self.clone()
        }
    }

    /// The connection.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The mode and the umask sent with creations. The kernel applies the umask itself unless INIT
    /// agreed on DONT_MASK.
    pub(super) fn creation(&self, mode: u32) -> (u32, u32) {
        let applied = if self.negotiated() & init_flags::DONT_MASK == 0 {
            self.umask
        } else {
            0
        };
        (mode & !applied, self.umask)
    }

    /// The flags agreed on by INIT.
    pub fn negotiated(&self) -> u64 {
        self.session.negotiated.load(Ordering::Relaxed)
    }

    /// A header for the next request of this caller.
    pub fn header(&self, opcode: u32, nodeid: u64) -> InHeader {
        InHeader {
            opcode,
            nodeid,
            unique: self.session.unique(),
            uid: self.caller.uid,
            gid: self.caller.gid,
            pid: self.caller.pid,
            ..InHeader::default()
        }
    }

    /// Sends a request whose header fits its body; `reply_room` counts bytes behind the reply's
    /// header.
    pub fn raw(&self, opcode: u32, nodeid: u64, body: &[u8], reply_room: usize) -> Outcome {
        let queue = if goes_to_hiprio(opcode) {
            HIPRIO
        } else {
            self.queue
        };
        self.session.call(
            queue,
            self.header(opcode, nodeid),
            &[body],
            OUT_HEADER + reply_room,
        )
    }

    /// Sends a whole request, header included, as it is; `reply_room` counts all bytes of the
    /// reply.
    pub fn send(&self, request: &[u8], reply_room: usize) -> Outcome {
        self.session.send(self.queue, request, reply_room)
    }

    /// A request that is never answered (FORGET and the like).
    pub(super) fn post(&self, opcode: u32, nodeid: u64, parts: &[&[u8]]) {
        let outcome = self.session.call(HIPRIO, self.header(opcode, nodeid), parts, 0);
        assert_eq!(outcome, Outcome::Empty, "opcode {opcode} is never answered");
    }

    /// A request that is answered with bytes, at most `reply_room` of them.
    ///
    /// # Errors
    /// The errno of the reply.
    ///
    /// # Panics
    /// When there is no reply. A guest would see EIO; a test should see why.
    pub fn call(
        &self,
        opcode: u32,
        nodeid: u64,
        parts: &[&[u8]],
        reply_room: usize,
    ) -> Result<Vec<u8>, Errno> {
        self.finish(self.header(opcode, nodeid), parts, reply_room)
    }

    /// The same for a request that creates: it carries the extensions.
    pub(super) fn call_creating(
        &self,
        opcode: u32,
        nodeid: u64,
        parts: &[&[u8]],
        reply_room: usize,
    ) -> Result<Vec<u8>, Errno> {
        let mut header = self.header(opcode, nodeid);
        header.total_extlen = (self.extensions.len() / 8) as u16;
        let mut all = parts.to_vec();
        all.push(&self.extensions);
        self.finish(header, &all, reply_room)
    }

    fn finish(&self, header: InHeader, parts: &[&[u8]], reply_room: usize) -> Result<Vec<u8>, Errno> {
        match self
            .session
            .call(self.queue, header, parts, OUT_HEADER + reply_room)
        {
            Outcome::Reply { error: 0, body } => Ok(body),
            Outcome::Reply { error, .. } => Err(Errno::from_raw(-error)),
            Outcome::Empty => panic!("no reply to {header:?}"),
            Outcome::Gone => panic!("the daemon was gone at {header:?}"),
        }
    }

    /// A request answered with exactly one structure.
    pub(super) fn call_struct<T: FromBytes>(
        &self,
        opcode: u32,
        nodeid: u64,
        parts: &[&[u8]],
    ) -> Result<T, Errno> {
        self.call(opcode, nodeid, parts, size_of::<T>())
            .map(|body| exact(&body))
    }

    /// A request answered with a bare header.
    pub(super) fn call_empty(&self, opcode: u32, nodeid: u64, parts: &[&[u8]]) -> Result<(), Errno> {
        self.call(opcode, nodeid, parts, 0).map(|body| {
            assert!(body.is_empty(), "opcode {opcode} answered with a body");
        })
    }
}

/// A reply's body as one structure.
///
/// # Panics
/// When the body has another size.
pub(super) fn exact<T: FromBytes>(body: &[u8]) -> T {
    match T::read_from_bytes(body) {
        Ok(value) => value,
        Err(_) => panic!("a reply of {} bytes instead of {}", body.len(), size_of::<T>()),
    }
}

/// The bytes of a request's structure.
pub(super) fn bytes<T: IntoBytes + zerocopy::Immutable>(value: &T) -> &[u8] {
    value.as_bytes()
}
