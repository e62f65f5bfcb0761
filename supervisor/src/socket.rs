//! The listening vhost-user socket: bound to a path, or inherited.

use std::{
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use airlockfs_options::Device;
use airlockfs_policy::{ExitKind, StartError};
use nix::sys::socket::{
    AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt::AcceptConn,
};

mod place;

use place::Place;

/// The socket that the command line names.
pub(crate) fn listen(device: &Device) -> Result<UnixListener, StartError> {
    match (&device.socket_path, device.fd) {
        (Some(path), None) => bind(path, device.socket_group.as_deref()),
        (None, Some(number)) => inherit(number),
        _ => Err(StartError::new(
            ExitKind::Usage,
            "either --socket-path or --fd is needed",
        )),
    }
}

/// Whoever connects is the VMM: nobody but the user (and the group) may.
fn bind(path: &Path, group: Option<&str>) -> Result<UnixListener, StartError> {
    let place = Place::of(path)?;
    place.clear()?;
    match group {
        None => place.bind(),
        Some(group) => place.bind_for(group),
    }
}

/// Takes over descriptor `number`, which the launcher left open for us.
#[expect(
    unsafe_code,
    reason = "a launcher names the descriptor it leaves open by number"
)]
fn inherit(number: i32) -> Result<UnixListener, StartError> {
    let wrong = |what: &str| {
        StartError::new(
            ExitKind::Usage,
            format!(
                "--fd={number}: {what}; it must be a listening Unix stream socket, left open by the launcher"
            ),
        )
    };
    if nix::fcntl::fcntl(borrow(number), nix::fcntl::FcntlArg::F_GETFD).is_err() {
        return Err(wrong("not an open descriptor"));
    }
    // SAFETY: it is open (just checked), was opened by the launcher for this purpose, and no other code of this
    // process knows it: the command line is read before anything else opens descriptors that stay.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let unix = getsockname::<SockaddrStorage>(descriptor.as_raw_fd())
        .is_ok_and(|address| address.family() == Some(AddressFamily::Unix));
    if !unix {
        return Err(wrong("not a Unix socket"));
    }
    match getsockopt(&descriptor, AcceptConn) {
        Ok(true) => {}
        _ => return Err(wrong("not a listening socket")),
    }
    let close_on_exec = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(descriptor.as_fd(), close_on_exec).map_err(|_| wrong("cannot be set close-on-exec"))?;
    Ok(UnixListener::from(descriptor))
}

#[expect(unsafe_code, reason = "asking whether a number names a descriptor")]
fn borrow(number: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: only used to ask the kernel whether it is open; the range is checked by the command line (3 and up).
    unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }
}
