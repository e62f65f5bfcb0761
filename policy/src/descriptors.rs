//! Which descriptors survive: those that have a name.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{dup2_stdin, dup2_stdout};

use crate::proof::no_effect;
use crate::{ExitKind, StartError, sys};

/// Closes all descriptors but 0, 1, 2 and those named.
pub(crate) fn close_all_but(expected: &[(BorrowedFd<'_>, &str)]) -> Result<(), StartError> {
    for (descriptor, name) in expected {
        let found =
            fstat(descriptor).map_err(|error| failed(&format!("look at descriptor '{name}'"), error))?;
        if found.st_mode & libc::S_IFMT == libc::S_IFDIR {
            let message = format!("descriptor '{name}' is a directory, which nothing but a share may be");
            return Err(StartError::new(ExitKind::Usage, message));
        }
    }
    let witness = Witness::new()?;
    let mut kept: Vec<u32> = (0..3).collect();
    kept.extend(
        expected
            .iter()
            .filter_map(|(fd, _)| u32::try_from(fd.as_raw_fd()).ok()),
    );
    kept.sort_unstable();
    let ends = kept
        .iter()
        .skip(1)
        .map(|next| next.saturating_sub(1))
        .chain([u32::MAX]);
    for (before, last) in kept.iter().zip(ends) {
        let first = before.saturating_add(1);
        if first <= last {
            sys::close_range(first, last).map_err(|error| {
                StartError::new(
                    ExitKind::Unavailable,
                    format!("cannot close inherited descriptors (close_range, Linux 5.9): {error}"),
                )
            })?;
        }
    }
    witness.expect_closed()
}

/// A descriptor that nobody names.
struct Witness(i32);

impl Witness {
    fn new() -> Result<Self, StartError> {
        let number = fcntl(std::io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(3))
            .map_err(|error| failed("copy a descriptor", error))?;
        match number {
            3.. => Ok(Self(number)),
            _ => Err(no_effect("fcntl(F_DUPFD_CLOEXEC)", "there is no new descriptor")),
        }
    }

    #[expect(unsafe_code, reason = "asking whether a number names a descriptor")]
    fn expect_closed(self) -> Result<(), StartError> {
        // SAFETY: only used to ask the kernel whether it is open.
        let number = unsafe { BorrowedFd::borrow_raw(self.0) };
        match fcntl(number, FcntlArg::F_GETFD) {
            Err(Errno::EBADF) => Ok(()),
            _ => Err(no_effect("close_range", "what nobody named is open")),
        }
    }
}

/// Standard input and output become /dev/null; the worker was born so.
pub(crate) fn close_standard_streams(expected: &[(BorrowedFd<'_>, &str)]) -> Result<(), StartError> {
    let named = |number: i32| expected.iter().any(|(fd, _)| fd.as_raw_fd() == number);
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|error| failed("open /dev/null", error))?;
    if !named(libc::STDIN_FILENO) {
        dup2_stdin(&null).map_err(|error| failed("close standard input", error))?;
    }
    if !named(libc::STDOUT_FILENO) {
        dup2_stdout(&null).map_err(|error| failed("close standard output", error))?;
    }
    let device = |found: nix::sys::stat::FileStat| (found.st_mode & libc::S_IFMT, found.st_rdev);
    let wanted = fstat(&null).map(device);
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let closed = |stream: BorrowedFd<'_>| named(stream.as_raw_fd()) || fstat(stream).map(device) == wanted;
    match closed(stdin.as_fd()) && closed(stdout.as_fd()) {
        true => Ok(()),
        false => Err(no_effect(
            "dup2",
            "the launcher's standard input or output is open",
        )),
    }
}

fn failed(what: &str, error: Errno) -> StartError {
    StartError::new(ExitKind::OsError, format!("cannot {what}: {error}"))
}
