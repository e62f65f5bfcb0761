//! Datagrams with descriptors between the two processes: a `SOCK_SEQPACKET` socketpair (unix(7), SCM_RIGHTS).
//! A datagram arrives whole or not at all, and its descriptors with it.

mod datagram;

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Serialize, de::DeserializeOwned};

use self::datagram::Received;

/// Longest datagram in bytes.
const DATAGRAM_MAX: usize = 64 * 1024;
/// Longest one sent without allocating.
const SMALL: usize = 64;

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
        if bytes.len() > DATAGRAM_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        datagram::send(self.as_fd(), bytes, descriptors)
    }

    /// Waits for a datagram with at most `most` descriptors. `None` at the end: the other process closed its end.
    pub fn receive<T: DeserializeOwned>(&self, most: usize) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        // Not zeroed: that would take the kernel's pages for all of it, at each start.
        let mut bytes = Box::new_uninit_slice(DATAGRAM_MAX);
        let mut descriptors = Vec::new();
        let received = datagram::receive(self.as_fd(), &mut bytes, 0, |descriptor| {
            descriptors.push(descriptor);
        })?;
        if received.lost || descriptors.len() > most {
            return Err(too_large());
        }
        let message = decode(&received, descriptors.len())?;
        Ok(message.map(|message| (message, descriptors)))
    }

    /// As [`Self::receive`] for datagrams of at most 64 bytes with at most one descriptor, but an error of kind `WouldBlock`
    /// when there is none. Takes no memory of the heap.
    pub fn try_receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Attached)>> {
        let mut bytes = [MaybeUninit::uninit(); SMALL];
        let (mut first, mut count) = (None, 0);
        let received = datagram::receive(self.as_fd(), &mut bytes, libc::MSG_DONTWAIT, |descriptor| {
            count += 1;
            first.get_or_insert(descriptor);
        })?;
        let message = decode(&received, count)?;
        let attached = match (first, count, received.lost) {
            (None, _, false) => Attached::Nothing,
            (None, _, true) => Attached::Lost,
            (Some(descriptor), 1, false) => Attached::One(descriptor),
            // One of several, whatever became of the others.
            (Some(_), ..) => return Err(too_large()),
        };
        Ok(message.map(|message| (message, attached)))
    }
}

/// What came beside a message that may bring one descriptor.
#[derive(Debug)]
pub enum Attached {
    /// None was sent.
    Nothing,
    /// This one.
    One(OwnedFd),
    /// One was sent at least, and the kernel did not hand it over: this process holds as many as it may, or a security
    /// module forbids it.
    Lost,
}

/// The message in what was received with `descriptors` descriptors; `None` at the end.
fn decode<T: DeserializeOwned>(received: &Received<'_>, descriptors: usize) -> io::Result<Option<T>> {
    if received.truncated {
        return Err(too_large());
    }
    if received.message.is_empty() && descriptors == 0 && !received.lost {
        return Ok(None);
    }
    match postcard::take_from_bytes(received.message) {
        Ok((message, [])) => Ok(Some(message)),
        _ => Err(invalid("a datagram that does not decode")),
    }
}

fn too_large() -> io::Error {
    invalid("a datagram that is too large")
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn descriptor() -> OwnedFd {
        File::open("/dev/null").expect("a file").into()
    }

    #[test]
    fn descriptors_come_with_their_message_in_order() {
        let (ours, theirs) = pair().expect("a pair");
        let (pipe, _) = nix::unistd::pipe().expect("a pipe");
        let sent = [descriptor(), pipe, descriptor()];
        let borrowed = sent.each_ref().map(|descriptor| descriptor.as_fd());
        ours.send(&7_u32, &borrowed).expect("send");
        let (message, received) = theirs.receive::<u32>(3).expect("a datagram").expect("no end");
        assert_eq!((message, received.len()), (7, 3));
        let kind = |descriptor: &OwnedFd| nix::sys::stat::fstat(descriptor).expect("fstat").st_rdev;
        assert_eq!(
            received.iter().map(kind).collect::<Vec<_>>(),
            sent.iter().map(kind).collect::<Vec<_>>()
        );
        ours.send(&8_u32, &borrowed[..1]).expect("send");
        let (message, received) = theirs.try_receive::<u32>().expect("a datagram").expect("no end");
        assert!(message == 8 && matches!(received, Attached::One(_)));
        ours.send(&9_u32, &[]).expect("send");
        let (message, received) = theirs.try_receive::<u32>().expect("a datagram").expect("no end");
        assert!(message == 9 && matches!(received, Attached::Nothing));
        let none = theirs.try_receive::<u32>().expect_err("there is none");
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert!(theirs.receive::<u32>(0).expect("the end").is_none());
    }

    /// As when a process ends: its last word counts, though it took no notice of what was said to it.
    #[test]
    fn a_last_word_is_heard_from_an_end_that_was_closed_with_messages_unread() {
        let (one, other) = pair().unwrap();
        one.send(&1_u8, &[]).unwrap();
        other.send(&2_u8, &[]).unwrap();
        drop(other);
        assert_eq!(one.receive::<u8>(0).unwrap().map(|(last, _)| last), Some(2));
        assert!(one.receive::<u8>(0).unwrap().is_none());
    }

    #[test]
    fn what_is_too_much_is_refused_and_its_descriptors_closed() {
        let (ours, theirs) = pair().expect("a pair");
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        ours.send(&7_u32, &[write.as_fd(), write.as_fd()]).expect("send");
        assert!(theirs.try_receive::<u32>().is_err());
        ours.send(&7_u32, &[write.as_fd(), write.as_fd()]).expect("send");
        assert!(theirs.receive::<u32>(1).is_err());
        ours.send(&vec![u64::MAX; 64], &[write.as_fd()]).expect("send");
        assert!(theirs.try_receive::<Vec<u64>>().is_err(), "cut off");
        drop(write);
        // Nobody holds the other end any more.
        assert_eq!(nix::unistd::read(&read, &mut [0]), Ok(0));
        let many: Vec<OwnedFd> = (0..=datagram::DESCRIPTORS_MAX).map(|_| descriptor()).collect();
        let many: Vec<_> = many.iter().map(AsFd::as_fd).collect();
        assert!(ours.send(&7_u32, &many).is_err());
    }
}
