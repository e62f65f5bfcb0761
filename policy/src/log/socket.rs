//! `--syslog`: sockets to the system's log in place of descriptor 2, one for each process. They belong to a network namespace
//! where nobody else has a socket, so that without an address they reach the log, and with the name of an abstract socket of
//! the host's nobody, also where Landlock has no scope for that (before ABI 6).
#![expect(unsafe_code, reason = "fork(2)")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use airlockfs_ipc::channel;
use caps::Capability;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, shutdown, socket};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, dup2_stderr, fork};

use crate::{ExitKind, StartError, capabilities};

/// The journal's socket for streams: who the lines are from and how urgent they are is said once, by us, now. Nothing that
/// a process writes later changes that.
const JOURNAL: &str = "/run/systemd/journal/stdout";
/// Everybody else's log: each line is a datagram, whatever it says (syslog(3)).
const LOG: &str = "/dev/log";

/// Makes descriptor 2 this process's own socket to the system's log, and another one for the worker. With what is weaker than
/// by default, if something is.
///
/// `isolated`: in a network namespace made for them, where that can be. The caller has one thread.
///
/// # Errors
/// There is no log.
pub fn system(isolated: bool) -> Result<(OwnedFd, Option<String>), StartError> {
    let failed = |error: &dyn std::fmt::Display| {
        StartError::new(
            ExitKind::Unavailable,
            format!("--syslog: cannot reach {LOG}: {error}; leave the option out"),
        )
    };
    let (ours, theirs) = channel::pair().map_err(|error| failed(&error))?;
    // SAFETY: there is one thread, so the child is as good a process as this one; it returns nowhere.
    let child = match unsafe { fork() }.map_err(|error| failed(&error))? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(ours);
            // The parent sees the end of the channel if this fails.
            let _ = make(isolated, &theirs);
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
    };
    drop(theirs);
    let made = ours.receive::<Result<bool, i32>>(2);
    // It has ended or is about to.
    let _ = waitpid(child, None);
    let (alone, sockets) = match made {
        Ok(Some((Ok(alone), sockets))) => (alone, sockets),
        Ok(Some((Err(errno), _))) => return Err(failed(&io::Error::from_raw_os_error(errno))),
        Ok(None) | Err(_) => return Err(failed(&"the process that makes the sockets ended")),
    };
    let Ok([own, workers]) = <[OwnedFd; 2]>::try_from(sockets) else {
        return Err(failed(&"there are not two sockets"));
    };
    dup2_stderr(own).map_err(|error| failed(&error))?;
    let weaker = isolated && !alone;
    let weaker = weaker
        .then(|| "the sockets to the system's log are in the network namespace of the start".to_owned());
    Ok((workers, weaker))
}

/// What the child does: it goes, and its namespace stays with the sockets.
fn make(isolated: bool, parent: &channel::Channel) -> io::Result<()> {
    let users = match capabilities::has(Capability::CAP_SYS_ADMIN) {
        true => CloneFlags::empty(),
        false => CloneFlags::CLONE_NEWUSER,
    };
    let alone = isolated && unshare(users | CloneFlags::CLONE_NEWNET).is_ok();
    let sockets = connected("airlockfsd").and_then(|one| Ok([one, connected("airlockfs-worker")?]));
    match sockets {
        Ok([one, other]) => parent.send(&Ok::<_, i32>(alone), &[one.as_fd(), other.as_fd()]),
        Err(error) => parent.send(&Err::<bool, _>(error as i32), &[]),
    }
}

fn connected(process: &str) -> nix::Result<OwnedFd> {
    to_journal(process).or_else(|_| to(LOG, SockType::Datagram))
}

fn to_journal(process: &str) -> nix::Result<OwnedFd> {
    let journal = to(JOURNAL, SockType::Stream)?;
    // Identifier, unit, priority (informational), no priority in front of a line, and where else it goes (sd-journal,
    // stdout stream protocol).
    let header = format!("{process}\n\n6\n0\n0\n0\n0\n");
    match nix::unistd::write(&journal, header.as_bytes())? == header.len() {
        true => Ok(journal),
        false => Err(nix::errno::Errno::EAGAIN),
    }
}

/// One that waits for nothing and hears nothing.
fn to(path: &str, kind: SockType) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, kind, flags, None)?;
    connect(made.as_raw_fd(), &UnixAddr::new(path)?)?;
    shutdown(made.as_raw_fd(), Shutdown::Read)?;
    Ok(made)
}
