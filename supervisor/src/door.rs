//! The listening socket. One VMM after another comes through it; a socket that nobody can come through any more is told
//! from one that is out of something for a while.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use crate::{logging::Rate, wait::Waiter};

/// How long to wait before the next try to accept, at first and at most: nobody is told when there is a free descriptor
/// or memory again.
const PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// Lines about connections that could not be accepted.
static REFUSED: Rate = Rate::new();

/// The door for VMMs.
pub(crate) struct Door {
    listener: UnixListener,
    /// Waits for a connection, and for the end of the daemon.
    arrivals: Waiter,
    /// Waits for the end alone.
    end: Waiter,
}

/// Who came.
pub(crate) enum Arrival {
    /// Somebody connected: the connection, and a duplicate to end it by.
    Somebody(UnixStream, UnixStream),
    /// It is to be seen whether the daemon ends.
    Nobody,
}

impl Door {
    /// Who comes to `listener`; `bell` is readable when the daemon ends.
    pub(crate) fn new(listener: UnixListener, bell: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            arrivals: Waiter::level([&bell, &listener.as_fd()])?,
            end: Waiter::level([&bell])?,
            listener,
        })
    }

    /// Waits for the next connection or for the end.
    ///
    /// # Errors
    /// No connection will ever come: the socket was shut down by whoever holds it too (accept(2): EINVAL).
    pub(crate) fn next(&self) -> io::Result<Arrival> {
        self.next_by(|| self.accept())
    }

    fn accept(&self) -> io::Result<Arrival> {
        let (socket, _) = self.listener.accept()?;
        Ok(Arrival::Somebody(socket.try_clone()?, socket))
    }

    fn next_by(&self, mut accept: impl FnMut() -> io::Result<Arrival>) -> io::Result<Arrival> {
        let [mut pause, most] = PAUSE;
        loop {
            let told = self.arrivals.wait(None)?;
            if told & 1 != 0 {
                return Ok(Arrival::Nobody);
            }
            if told == 0 {
                continue;
            }
            match accept() {
                Ok(arrival) => return Ok(arrival),
                Err(error) if is_final(&error) => return Err(error),
                // Whoever came is gone again: another is waited for.
                Err(error) if is_nothing(&error) => {}
                Err(error) => {
                    if let Some(more) = REFUSED.admit() {
                        log::warn!("a connection cannot be accepted now: {error}{more}");
                    }
                    if self.end.wait(Some(pause))? != 0 {
                        return Ok(Arrival::Nobody);
                    }
                    pause = (pause * 2).min(most);
                }
            }
        }
    }
}

/// accept(2) will never do anything else.
fn is_final(error: &io::Error) -> bool {
    let finals = [libc::EINVAL, libc::EBADF, libc::ENOTSOCK, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|errno| finals.contains(&errno))
}

/// Nobody is at the door, or a signal came.
fn is_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::{net::Shutdown, os::fd::AsRawFd, time::Instant};

    use nix::sys::{
        eventfd::EventFd,
        socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr},
    };

    use super::*;

    fn listener() -> UnixListener {
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        socket::bind(listener.as_raw_fd(), &UnixAddr::new_unnamed()).unwrap();
        socket::listen(&listener, Backlog::new(2).unwrap()).unwrap();
        UnixListener::from(listener)
    }

    /// Whoever waits keeps the socket readable: without a pause each failure would be followed by the next at once.
    #[test]
    fn what_cannot_be_accepted_now_is_tried_again_after_a_pause() {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let bell = EventFd::new().unwrap();
        let door = Door::new(listener, bell.as_fd()).unwrap();
        let _waiting = UnixStream::connect_addr(&address).unwrap();
        let begun = Instant::now();
        let errors = [
            libc::EMFILE,
            libc::ENFILE,
            libc::ECONNABORTED,
            libc::EINTR,
            libc::ENOMEM,
        ];
        let mut left = errors.into_iter();
        let arrival = door.next_by(|| match left.next() {
            Some(error) => Err(io::Error::from_raw_os_error(error)),
            None => door.accept(),
        });
        assert!(matches!(arrival, Ok(Arrival::Somebody(..))));
        // 100, 200 and 400 ms: two of the errors are none.
        assert!(begun.elapsed() >= Duration::from_millis(700));
        // The end is not waited for.
        bell.write(1).unwrap();
        let arrival = door.next_by(|| Err(io::Error::from_raw_os_error(libc::EMFILE)));
        assert!(matches!(arrival, Ok(Arrival::Nobody)));
    }

    #[test]
    fn those_who_wait_come_in_before_it_is_known_that_nobody_else_can() {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let launchers = UnixStream::from(listener.as_fd().try_clone_to_owned().unwrap());
        let bell = EventFd::new().unwrap();
        let door = Door::new(listener, bell.as_fd()).unwrap();
        let _somebody = UnixStream::connect_addr(&address).unwrap();
        launchers.shutdown(Shutdown::Both).unwrap();
        assert!(matches!(door.next(), Ok(Arrival::Somebody(..))));
        for _ in 0..2 {
            assert!(door.next().is_err());
        }
        bell.write(1).unwrap();
        assert!(matches!(door.next(), Ok(Arrival::Nobody)));
    }
}
