//! One datagram with descriptors, without memory of the heap: sendmsg(2) and recvmsg(2).
#![expect(
    unsafe_code,
    reason = "SCM_RIGHTS hands descriptors over as numbers in a buffer of headers (cmsg(3))"
)]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    slice,
};

/// Most descriptors beside one (SCM_MAX_FD is 253).
pub(super) const DESCRIPTORS_MAX: usize = 64;

const NUMBER: usize = size_of::<RawFd>();

/// Bytes of control data with `descriptors` descriptors, at most [`DESCRIPTORS_MAX`].
const fn space(descriptors: usize) -> usize {
    // SAFETY: arithmetic.
    unsafe { libc::CMSG_SPACE((descriptors * NUMBER) as u32) as usize }
}

/// Room for control data, aligned as its headers want it.
#[repr(C, align(8))]
struct Control([u8; space(DESCRIPTORS_MAX)]);

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

/// What was received.
pub(super) struct Received<'a> {
    /// The message.
    pub(super) message: &'a [u8],
    /// There was more.
    pub(super) truncated: bool,
    /// There were more descriptors: more than there is room for, or the kernel did not hand them over (MSG_CTRUNC).
    pub(super) lost: bool,
}

/// A header for `bytes` without control data. It is valid as long as `part`, which it points to, and `bytes` are.
fn header(part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: numbers and null pointers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    header
}

/// Sends `bytes` and `descriptors`. EINVAL (InvalidInput) for too many of these.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut header = header(&mut part);
    let mut control = Control([0; space(DESCRIPTORS_MAX)]);
    if !descriptors.is_empty() {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = space(descriptors.len()) as _;
        // SAFETY: `control` has room for one header and so many numbers, of which there are at most DESCRIPTORS_MAX; it is
        // aligned for the header, and the numbers are written unaligned.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN((descriptors.len() * NUMBER) as u32) as _;
            let numbers = libc::CMSG_DATA(first).cast::<RawFd>();
            for (index, descriptor) in descriptors.iter().enumerate() {
                numbers.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    // SAFETY: the header points to `part`, that to `bytes`, and to `control`; the kernel writes to none of them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    match sent {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Receives a datagram into `bytes`, which need not be anything before; `take` owns each descriptor that came with it,
/// whatever else is wrong with it.
pub(super) fn receive<'a>(
    socket: BorrowedFd<'_>,
    bytes: &'a mut [MaybeUninit<u8>],
    flags: libc::c_int,
    mut take: impl FnMut(OwnedFd),
) -> io::Result<Received<'a>> {
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control([0; space(DESCRIPTORS_MAX)]);
    let mut header = header(&mut part);
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    let length = loop {
        let flags = flags | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the header points to `part`, that to `bytes`, and to `control`, each with its length.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        match usize::try_from(length) {
            Ok(length) => break length,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                // The other end is closed, with something from here unread: told once, before what it left.
                error if error.kind() == io::ErrorKind::ConnectionReset => {}
                error => return Err(error),
            },
        }
    };
    // SAFETY: the kernel filled in the control data and its length; the macros stay within that.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(&raw const header);
        while !next.is_null() {
            if (*next).cmsg_level == libc::SOL_SOCKET && (*next).cmsg_type == libc::SCM_RIGHTS {
                let numbers = libc::CMSG_DATA(next).cast::<RawFd>();
                let bytes = ((*next).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                for index in 0..bytes / NUMBER {
                    // SAFETY: the kernel made it for this process in this very call; nothing else knows its number.
                    take(OwnedFd::from_raw_fd(numbers.add(index).read_unaligned()));
                }
            }
            next = libc::CMSG_NXTHDR(&raw const header, next);
        }
    }
    // SAFETY: the kernel wrote so many bytes there, from the first on.
    let message = unsafe { slice::from_raw_parts(bytes.as_ptr().cast(), length.min(bytes.len())) };
    Ok(Received {
        message,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        lost: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}
