//! The listening vhost-user socket: bound to a path, or inherited.

use std::{
    fs,
    io::ErrorKind,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use airlockfs_policy::{ExitKind, StartError};
use nix::sys::{
    socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt::AcceptConn},
    stat::{Mode, umask},
};

use crate::cli::Device;

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

fn bind(path: &Path, group: Option<&str>) -> Result<UnixListener, StartError> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(StartError::new(
                ExitKind::NoInput,
                format!("cannot look at {shown}: {error}"),
            ));
        }
        Ok(found) if !found.file_type().is_socket() => {
            let message = format!("{shown} is there already and no socket; name another --socket-path");
            return Err(StartError::new(ExitKind::NoInput, message));
        }
        Ok(found) => remove_stale(path, (found.dev(), found.ino()))?,
    }
    // Whoever connects is the VMM: nobody but the user (and the group, below) may. There is one thread yet.
    let before = umask(Mode::from_bits_truncate(0o077));
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound.map_err(|error| {
        let kind = if error.kind() == ErrorKind::PermissionDenied {
            ExitKind::Permission
        } else {
            ExitKind::NoInput
        };
        StartError::new(
            kind,
            format!("cannot bind {shown}: {error}; does its directory exist, and is it yours?"),
        )
    })?;
    if let Some(group) = group {
        let refused = |error: String| {
            StartError::new(
                ExitKind::Permission,
                format!("cannot give {shown} to group {group}: {error}"),
            )
        };
        let id = match nix::unistd::Group::from_name(group) {
            Ok(Some(found)) => found.gid,
            Ok(None) => {
                return Err(StartError::new(
                    ExitKind::NoInput,
                    format!("there is no group {group}"),
                ));
            }
            Err(error) => return Err(refused(error.to_string())),
        };
        nix::unistd::chown(path, None, Some(id)).map_err(|error| refused(error.to_string()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))
            .map_err(|error| refused(error.to_string()))?;
    }
    Ok(listener)
}

/// Removes a socket that nobody listens on; it is an error if somebody does.
fn remove_stale(path: &Path, identity: (u64, u64)) -> Result<(), StartError> {
    let shown = path.display();
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) => {
            return Err(StartError::new(
                ExitKind::NoInput,
                format!("cannot tell if {shown} is in use: {error}"),
            ));
        }
        Ok(_) => {
            let message =
                format!("{shown} is in use by another process; end it or name another --socket-path");
            return Err(StartError::new(ExitKind::Unavailable, message));
        }
    }
    let same = fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == identity);
    if same {
        fs::remove_file(path).map_err(|error| {
            StartError::new(
                ExitKind::Permission,
                format!("cannot remove the stale socket {shown}: {error}"),
            )
        })?;
    }
    Ok(())
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
    let unix = getsockname::<SockaddrStorage>(number)
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
