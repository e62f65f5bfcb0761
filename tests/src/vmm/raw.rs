//! A vhost-user connection that sends any message, also those that no VMM would send.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use self::requests::*;
use crate::daemon::Daemon;

/// Requests (QEMU's docs/interop/vhost-user.rst).
#[expect(missing_docs, reason = "the specification's names")]
pub mod requests {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GPU_SET_SOCKET: u32 = 33;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

/// Flags of a message: version 1.
pub const VERSION: u32 = 1;
/// Flags of a message: an answer is wanted.
pub const NEED_REPLY: u32 = 8;
/// VHOST_USER_PROTOCOL_F_BACKEND_REQ.
pub const BACKEND_REQ: u64 = 1 << 5;
/// VHOST_USER_F_PROTOCOL_FEATURES.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// A page.
pub const PAGE: u64 = 4096;

/// A connection on which anything can be said.
#[derive(Debug)]
pub struct Raw(pub UnixStream);

impl Raw {
    /// One on which nothing was said.
    pub fn silent(daemon: &Daemon) -> Self {
        let raw = Self(UnixStream::connect(daemon.socket()).expect("connect"));
        raw.0
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("SO_RCVTIMEO");
        raw
    }

    /// A connection that has claimed the device and agreed on all features.
    pub fn connect(daemon: &Daemon) -> Self {
        let raw = Self::silent(daemon);
        raw.send(SET_OWNER, &[], &[]);
        let offered = raw.ask(GET_PROTOCOL_FEATURES, &[]);
        raw.send(SET_PROTOCOL_FEATURES, &offered.to_ne_bytes(), &[]);
        let features = raw.ask(GET_FEATURES, &[]);
        raw.send(SET_FEATURES, &features.to_ne_bytes(), &[]);
        raw
    }

    /// On the connection of a VMM that does not say anything meanwhile.
    pub fn of(socket: &UnixStream) -> Self {
        Self(socket.try_clone().expect("a duplicate"))
    }

    /// A message with these flags.
    pub fn say(&self, request: u32, flags: u32, body: &[u8], files: &[&dyn AsFd]) {
        let header = [request, flags, body.len() as u32].map(u32::to_ne_bytes).concat();
        let message = [&header[..], body].concat();
        let files: Vec<i32> = files.iter().map(|file| file.as_fd().as_raw_fd()).collect();
        // The connection may be closed; then nothing arrives either.
        let _ = self.0.send_with_fds(&[&message[..]], &files);
    }

    /// A message.
    pub fn send(&self, request: u32, body: &[u8], files: &[&dyn AsFd]) {
        self.say(request, VERSION, body, files);
    }

    /// The number that is answered.
    pub fn ask(&self, request: u32, body: &[u8]) -> u64 {
        self.send(request, body, &[]);
        self.answer(request).expect("an answer")
    }

    /// The number in the answer to a request; none at the end of the connection.
    pub fn answer(&self, request: u32) -> Option<u64> {
        let mut answer = [0; 20];
        (&self.0).read_exact(&mut answer).ok()?;
        assert_eq!(answer[..4], request.to_ne_bytes());
        Some(u64::from_ne_bytes(answer[12..].try_into().expect("8 bytes")))
    }

    /// Whether it is accepted (REPLY_ACK).
    pub fn accepts(&self, request: u32, body: &[u8], files: &[&dyn AsFd]) -> bool {
        self.say(request, VERSION | NEED_REPLY, body, files);
        self.answer(request) == Some(0)
    }

    /// The daemon ends the connection.
    pub fn assert_ends(&self, what: &str) {
        let mut rest = [0; 64];
        loop {
            match (&self.0).read(&mut rest) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{what}: the connection lasts: {error}"),
            }
        }
    }
}

/// Numbers of 64 bits, as bytes.
pub fn numbers<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.map(u64::to_ne_bytes).concat()
}

/// `struct vhost_vring_state`.
pub fn state(index: u32, number: u32) -> Vec<u8> {
    [index, number].map(u32::to_ne_bytes).concat()
}

/// A memory file of so many pages.
pub fn memory(pages: u64) -> OwnedFd {
    let memory = memfd_create(c"airlockfs-guest", MFdFlags::empty()).expect("memfd_create");
    nix::unistd::ftruncate(&memory, (pages * PAGE) as i64).expect("ftruncate");
    memory
}
