//! Descriptor 2 as the launcher left it is the launcher's: perhaps a terminal to read from, a file to write over, a mode that
//! others rely on. Each process gets a file description of its own of what lies behind it, for writing at its end alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use nix::unistd::dup2_stderr;

use crate::{ExitKind, StartError, sys};

/// Of the null device and of the kernel's log (Linux's Documentation/admin-guide/devices.txt).
const PLAIN_DEVICES: [libc::dev_t; 2] = [libc::makedev(1, 3), libc::makedev(1, 11)];

/// Makes descriptor 2 this process's own, and another one of the same for the worker.
///
/// What cannot be opened anew (another user's, say) stays the launcher's if nothing could be read there anyway: a pipe, file
/// or device that is open for writing, a connected local socket; the filters let nothing but write(2) use it. Anything else
/// becomes /dev/null, after a line that says so.
///
/// # Errors
/// There is no /dev/null, or no descriptor left.
pub fn own() -> Result<OwnedFd, StartError> {
    sys::ignore_background_writes();
    let stderr = io::stderr();
    let inherited = stderr.as_fd();
    let failed = |error: &dyn std::fmt::Display| {
        StartError::new(
            ExitKind::OsError,
            format!("cannot make a log of its own: {error}"),
        )
    };
    let (ours, workers) = match (again(inherited), again(inherited)) {
        (Ok(ours), Ok(workers)) => (ours, workers),
        _ if is_harmless(inherited) => {
            let workers = inherited.try_clone_to_owned();
            return workers.map_err(|error| failed(&error));
        }
        (Err(why), _) | (_, Err(why)) => {
            super::say(format_args!(
                "airlockfsd: WARN: stderr cannot be opened anew for writing alone ({why}): this log ends here; use a pipe, a \
                 file or --syslog"
            ));
            let null = || OpenOptions::new().append(true).open("/dev/null");
            let both = null().and_then(|ours| Ok((ours, null()?)));
            both.map_err(|error| failed(&error))?
        }
    };
    dup2_stderr(ours).map_err(|error| failed(&error))?;
    Ok(workers.into())
}

/// A description of one's own of what is behind descriptor 2: for writing, at the end, without waiting.
fn again(inherited: BorrowedFd<'_>) -> io::Result<File> {
    let unfit = |what: &str| Err(io::Error::other(what.to_owned()));
    let was = File::from(inherited.try_clone_to_owned()?);
    let (found, kind) = (was.metadata()?, was.metadata()?.file_type());
    let plain = kind.is_char_device() && PLAIN_DEVICES.contains(&found.rdev());
    if !plain && !is_writable(inherited) {
        return unfit("it is not open for writing");
    }
    // A master, opened anew, would be another terminal's.
    let terminal = || nix::unistd::isatty(inherited) == Ok(true) && !sys::is_terminal_master(inherited);
    if !(kind.is_file() || kind.is_fifo() || plain || kind.is_char_device() && terminal()) {
        return unfit("it is of another kind than a file, pipe, terminal or local stream socket");
    }
    let opened = OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open("/proc/self/fd/2")?;
    let now = opened.metadata()?;
    if (now.dev(), now.ino(), now.rdev()) != (found.dev(), found.ino(), found.rdev()) {
        return unfit("it is another file by now");
    }
    Ok(opened)
}

/// Whether the launcher's own description gives a confined process nothing but a log to write to.
fn is_harmless(inherited: BorrowedFd<'_>) -> bool {
    let Ok(kind) = inherited
        .try_clone_to_owned()
        .map(File::from)
        .and_then(|file| file.metadata())
    else {
        return false;
    };
    let kind = kind.file_type();
    match kind.is_socket() {
        // Of a datagram's sender each message may have another addressee.
        true => is_local_stream(inherited),
        false => is_write_only(inherited) && (kind.is_file() || kind.is_fifo()),
    }
}

fn is_local_stream(socket: BorrowedFd<'_>) -> bool {
    let kind = getsockopt(&socket, sockopt::SockType);
    let family = getsockname::<SockaddrStorage>(socket.as_raw_fd());
    matches!(kind, Ok(SockType::Stream | SockType::SeqPacket))
        && family.is_ok_and(|address| address.family() == Some(AddressFamily::Unix))
}

fn mode(descriptor: BorrowedFd<'_>) -> Option<i32> {
    let flags = fcntl(descriptor, FcntlArg::F_GETFL).ok()?;
    (flags & libc::O_PATH == 0).then_some(flags & libc::O_ACCMODE)
}

fn is_writable(descriptor: BorrowedFd<'_>) -> bool {
    matches!(mode(descriptor), Some(libc::O_WRONLY | libc::O_RDWR))
}

fn is_write_only(descriptor: BorrowedFd<'_>) -> bool {
    mode(descriptor) == Some(libc::O_WRONLY)
}
