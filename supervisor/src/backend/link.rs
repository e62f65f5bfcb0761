//! The way to the connection thread of `vhost-user-backend`: a socket of our own, on which messages go that were checked.
//! Each is acknowledged once it is carried out. None has a descriptor: where this process has none left, its receipt fails.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, recvmsg, sendmsg,
        socket,
    },
};
use vhost::vhost_user::{
    Error, Listener, Result,
    message::{FrontendReq, VhostUserProtocolFeatures},
};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon};

/// Flags of a header (QEMU's docs/interop/vhost-user.rst): version 1; this is a reply; one is wanted.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Numbers in a reply: request, flags, size of the body, and the body.
const WORDS: usize = 5;
/// Bytes of the body of all messages that are passed on and have one, and of all replies.
const BODY: usize = 8;

/// A number as a body.
pub(super) fn number(value: u64) -> [u8; BODY] {
    value.to_ne_bytes()
}

/// The number of a ring, and one of it.
pub(super) fn state(index: u32, value: u32) -> [u8; BODY] {
    let mut body = [0; BODY];
    let (first, second) = body.split_at_mut(BODY / 2);
    first.copy_from_slice(&index.to_ne_bytes());
    second.copy_from_slice(&value.to_ne_bytes());
    body
}

/// The socket's end.
pub(crate) struct Link {
    socket: UnixStream,
}

impl Link {
    /// Starts the connection thread. It answered when this returns.
    pub(super) fn start<T>(
        daemon: &mut VhostUserDaemon<T>,
        features: VhostUserProtocolFeatures,
    ) -> io::Result<Self>
    where
        T: VhostUserBackend<Bitmap = ()> + Clone + 'static,
        T::Vring: Clone + Send + Sync,
    {
        // The crate accepts a connection, so a pair of sockets will not do. The kernel chooses the address; if somebody else
        // was there first, nobody answers here.
        let listener = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        bind(listener.as_raw_fd(), &UnixAddr::new_unnamed())?;
        listen(&listener, Backlog::new(1)?)?;
        let listener = UnixListener::from(listener);
        let socket = UnixStream::connect_addr(&listener.local_addr()?)?;
        let started = daemon.start(&mut Listener::from(listener));
        started.map_err(|error| io::Error::other(error.to_string()))?;
        let link = Self { socket };
        let agree = || -> Result<()> {
            // From here on the thread acknowledges what it is asked to.
            link.ask(FrontendReq::GET_FEATURES, &[])?;
            link.pass(FrontendReq::SET_PROTOCOL_FEATURES, &number(features.bits()))
        };
        agree().map_err(io::Error::other)?;
        Ok(link)
    }

    /// Passes on a message that is acknowledged.
    pub(super) fn pass(&self, request: FrontendReq, body: &[u8]) -> Result<()> {
        match self.ask(request, body)? {
            [0, 0] => Ok(()),
            _ => Err(Error::BackendInternalError),
        }
    }

    /// Passes on a message: what is answered, in two numbers.
    pub(super) fn ask(&self, request: FrontendReq, body: &[u8]) -> Result<[u32; 2]> {
        self.exchange(request as u32, body)
            .map_err(Error::ReqHandlerError)
    }

    fn exchange(&self, request: u32, body: &[u8]) -> io::Result<[u32; 2]> {
        let header = [request, VERSION | NEED_REPLY, body.len() as u32].map(u32::to_ne_bytes);
        let parts = [IoSlice::new(header.as_flattened()), IoSlice::new(body)];
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, &[], MsgFlags::MSG_NOSIGNAL, None)?;
        let mut reply = [[0; size_of::<u32>()]; WORDS];
        let mut have = 0;
        while let Some(rest) = reply.as_flattened_mut().get_mut(have..)
            && !rest.is_empty()
        {
            let mut rest = [IoSliceMut::new(rest)];
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut rest, None, MsgFlags::empty()) {
                Ok(message) if message.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(message) => have += message.bytes,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match reply.map(u32::from_ne_bytes) {
            [to, flags, size, first, second]
                if to == request && flags & REPLY != 0 && size as usize == BODY =>
            {
                Ok([first, second])
            }
            _ => Err(io::Error::other("an answer to something else")),
        }
    }
}
