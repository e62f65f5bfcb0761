//! `--syslog`: descriptor 2 becomes a socket to the system's log, for this process and the worker it starts.
//! A line is a datagram (syslog(3), RFC 3164): the logger writes each with one write(2).

use std::os::unix::net::UnixDatagram;

use airlockfs_policy::{ExitKind, StartError};

const LOG_SOCKET: &str = "/dev/log";

/// Sends everything written to stderr to the system's log from now on.
pub(crate) fn redirect_stderr() -> Result<(), StartError> {
    let unavailable = |error: &dyn std::fmt::Display| {
        StartError::new(
            ExitKind::Unavailable,
            format!("cannot reach {LOG_SOCKET}: {error}; leave the option out"),
        )
    };
    let socket = UnixDatagram::unbound().map_err(|error| unavailable(&error))?;
    socket.connect(LOG_SOCKET).map_err(|error| unavailable(&error))?;
    nix::unistd::dup2_stderr(socket).map_err(|error| unavailable(&error))
}
