//! Datagrams with descriptors between the two processes: a `SOCK_SEQPACKET` socketpair (unix(7), SCM_RIGHTS).
//! A datagram arrives whole or not at all, and its descriptors with it.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
        socketpair,
    },
};
use serde::{Serialize, de::DeserializeOwned};

/// Longest datagram in bytes.
const DATAGRAM_MAX: usize = 64 * 1024;
/// Longest one sent without allocating.
const SMALL: usize = 64;
/// Most descriptors beside one (SCM_MAX_FD is 253).
const DESCRIPTORS_MAX: usize = 64;

/// One end of a pair.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// A connected pair of ends, close-on-exec.
pub fn pair() -> io::Result<(Channel, Channel)> {
    let (one, other) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    Ok((Channel(one), Channel(other)))
}

impl Channel {
    /// Sends `message` and `descriptors` as one datagram.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut small = [0; SMALL];
        match postcard::to_slice(message, &mut small) {
            Ok(bytes) => self.send_bytes(bytes, descriptors),
            Err(_) => self.send_bytes(
                &postcard::to_allocvec(message).map_err(io::Error::other)?,
                descriptors,
            ),
        }
    }

    fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.len() > DATAGRAM_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut raw = [0; DESCRIPTORS_MAX];
        for (place, descriptor) in raw.iter_mut().zip(descriptors) {
            *place = descriptor.as_raw_fd();
        }
        let rights = [ControlMessage::ScmRights(
            raw.get(..descriptors.len()).unwrap_or_default(),
        )];
        let control = if descriptors.is_empty() {
            &[][..]
        } else {
            &rights[..]
        };
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
        Ok(())
    }

    /// Waits for a datagram with at most `descriptors` descriptors. `None` at the end: the other process closed its end.
    pub fn receive<T: DeserializeOwned>(&self, descriptors: usize) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.receive_with(&mut vec![0; DATAGRAM_MAX], descriptors, MsgFlags::empty())
    }

    /// As [`Self::receive`] for datagrams of at most 64 bytes, but an error of kind `WouldBlock` when there is none.
    pub fn try_receive<T: DeserializeOwned>(
        &self,
        descriptors: usize,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.receive_with(&mut [0; SMALL], descriptors, MsgFlags::MSG_DONTWAIT)
    }

    fn receive_with<T: DeserializeOwned>(
        &self,
        bytes: &mut [u8],
        descriptors: usize,
        flags: MsgFlags,
    ) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; DESCRIPTORS_MAX]);
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let mut buffers = [IoSliceMut::new(&mut *bytes)];
        let (length, truncated, received) = loop {
            match recvmsg::<()>(self.0.as_raw_fd(), &mut buffers, Some(&mut control), flags) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(message) => {
                    let truncated = message
                        .flags
                        .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
                    break (message.bytes, truncated, own(message.cmsgs()));
                }
            }
        };
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let received = received.map_err(|_| invalid("control data cut off"))?;
        if length == 0 && received.is_empty() {
            return Ok(None);
        }
        if truncated || received.len() > descriptors {
            return Err(invalid("a datagram that is too large"));
        }
        match postcard::take_from_bytes(bytes.get(..length).unwrap_or_default()) {
            Ok((message, [])) => Ok(Some((message, received))),
            _ => Err(invalid("a datagram that does not decode")),
        }
    }
}

/// Takes ownership of descriptors the kernel just installed for us.
#[expect(unsafe_code, reason = "SCM_RIGHTS hands descriptors over as numbers")]
fn own(messages: nix::Result<nix::sys::socket::CmsgIterator<'_>>) -> nix::Result<Vec<OwnedFd>> {
    use std::os::fd::FromRawFd;
    let mut owned = Vec::new();
    for message in messages? {
        if let ControlMessageOwned::ScmRights(descriptors) = message {
            // SAFETY: the kernel made these for this process in this very call; nothing else knows their numbers.
            owned.extend(
                descriptors
                    .into_iter()
                    .map(|number| unsafe { OwnedFd::from_raw_fd(number) }),
            );
        }
    }
    Ok(owned)
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}
