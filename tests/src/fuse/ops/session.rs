//! INIT, DESTROY, and taking lookups back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::fuse::abi::{
    BATCH_FORGET, BatchForgetIn, DESTROY, FORGET, ForgetIn, ForgetOne, INIT, InitIn, InitOut, MAJOR, MINOR,
    init_flags,
};
use crate::fuse::client::{Client, bytes};
use zerocopy::IntoBytes;

/// How long a FORGET may take to show.
const PATIENCE: Duration = Duration::from_secs(60);

impl Client {
    /// INIT as the virtio-fs driver of Linux 6.18 does it.
    pub fn init(&self) -> Result<InitOut, Errno> {
        self.init_with(init_flags::LINUX_VIRTIOFS)
    }

    /// INIT with these flags.
    pub fn init_with(&self, flags: u64) -> Result<InitOut, Errno> {
        self.init_version(MAJOR, MINOR, flags)
    }

    /// INIT of a kernel of this version.
    pub fn init_version(&self, major: u32, minor: u32, flags: u64) -> Result<InitOut, Errno> {
        let body = InitIn {
            major,
            minor,
            max_readahead: 128 << 10,
            flags: flags as u32,
            flags2: (flags >> 32) as u32,
            ..InitIn::default()
        };
        let reply: InitOut = self.call_struct(INIT, 0, &[bytes(&body)])?;
        self.session()
            .negotiated
            .store(reply.all_flags() & flags, Ordering::Relaxed);
        Ok(reply)
    }

    /// DESTROY.
    pub fn destroy(&self) -> Result<(), Errno> {
        self.call_empty(DESTROY, 0, &[])
    }

    /// FORGET; returns once the daemon took it.
    pub fn forget(&self, nodeid: u64, nlookup: u64) {
        self.post(FORGET, nodeid, &[bytes(&ForgetIn { nlookup })]);
    }

    /// BATCH_FORGET of (node, lookups).
    pub fn batch_forget(&self, nodes: &[(u64, u64)]) {
        let items: Vec<ForgetOne> = nodes
            .iter()
            .map(|&(nodeid, nlookup)| ForgetOne { nodeid, nlookup })
            .collect();
        let head = BatchForgetIn {
            count: items.len() as u32,
            dummy: 0,
        };
        self.post(BATCH_FORGET, 0, &[bytes(&head), items.as_bytes()]);
    }

    /// Whether a node is forgotten soon. FORGET is never answered, and its effect shows later on
    /// another queue.
    pub fn is_forgotten(&self, node: u64) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.getattr(node) {
                Err(Errno::ESTALE) => return true,
                Err(errno) => panic!("GETATTR: {errno}"),
                Ok(_) => {}
            }
        }
        false
    }

    /// Whether a node is known, and stays so for a while.
    pub fn stays_known(&self, node: u64) -> bool {
        (0..100).all(|_| self.getattr(node).is_ok())
    }
}
