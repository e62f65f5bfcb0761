//! Waiting for descriptors (epoll(7)), the one way this process waits for anything but a lock.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use crate::sys;

/// Most events that one wait takes; others come with the next.
const EVENTS: usize = 4;

/// A set of descriptors, made before the system call filter is in force. Each has a number below 32.
#[derive(Debug)]
pub(crate) struct Waiter(Epoll);

impl Waiter {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// The set that a crate made, under a number of our own.
    pub(crate) fn of(set: &impl AsRawFd) -> io::Result<Self> {
        Ok(Self(Epoll(sys::duplicate(set)?)))
    }

    /// One that tells while any of these is readable or at its end, the first as number 0.
    pub(crate) fn level<const N: usize>(sources: [&dyn AsFd; N]) -> io::Result<Self> {
        let waiter = Self::new()?;
        for (number, source) in (0..).zip(sources) {
            waiter.add(source.as_fd(), number, EpollFlags::EPOLLIN)?;
        }
        Ok(waiter)
    }

    /// From now on tells once each time that something is written to `source`, and at once if something was. It need not
    /// be read: an eventfd that is written to anew is an event, whatever its count.
    ///
    /// # Errors
    /// It is of a kind that is never waited for, like a regular file (epoll_ctl(2)).
    pub(crate) fn add_edge(&self, source: impl AsFd, number: u64) -> io::Result<()> {
        self.add(source, number, EpollFlags::EPOLLIN | EpollFlags::EPOLLET)
    }

    /// From now on `source` tells nothing.
    pub(crate) fn remove(&self, source: impl AsFd) {
        // What is not in the set tells nothing either.
        let _ = self.0.delete(source);
    }

    /// Waits, for no longer than `limit` if there is one: the numbers of those that have something to tell, as bits. None
    /// at its end, or if a signal came between.
    ///
    /// # Errors
    /// None that is expected.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> io::Result<u32> {
        let limit = match limit {
            None => EpollTimeout::NONE,
            // In milliseconds, of which it waits for none too few.
            Some(limit) => EpollTimeout::try_from(limit.saturating_add(Duration::from_millis(1)))
                .unwrap_or(EpollTimeout::MAX),
        };
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = match self.0.wait(&mut events, limit) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let numbers = events.iter().take(count).map(EpollEvent::data);
        Ok(numbers.fold(0, |all, number| all | 1 << (number % 32)))
    }

    fn add(&self, source: impl AsFd, number: u64, flags: EpollFlags) -> io::Result<()> {
        Ok(self.0.add(source, EpollEvent::new(flags, number))?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::{sys::eventfd::EventFd, unistd::pipe};

    use super::*;

    const NOW: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn every_write_to_an_edge_is_told_though_it_is_never_read() {
        let waiter = Waiter::new().unwrap();
        let event = EventFd::new().unwrap();
        event.write(1).unwrap();
        waiter.add_edge(&event, 3).unwrap();
        assert_eq!(waiter.wait(NOW).unwrap(), 1 << 3, "what came before");
        for _ in 0..1000 {
            assert_eq!(waiter.wait(NOW).unwrap(), 0);
            event.write(1).unwrap();
            event.write(1).unwrap();
            assert_eq!(waiter.wait(None).unwrap(), 1 << 3);
        }
        waiter.remove(&event);
        event.write(1).unwrap();
        assert_eq!(waiter.wait(NOW).unwrap(), 0);
        waiter.add_edge(&event, 3).unwrap();
        assert_eq!(waiter.wait(NOW).unwrap(), 1 << 3, "what came meanwhile");
    }

    #[test]
    fn an_edge_of_another_kind_tells_each_write_and_its_end_once() {
        let waiter = Waiter::new().unwrap();
        let (read, write) = pipe().unwrap();
        waiter.add_edge(&read, 0).unwrap();
        let mut write = std::fs::File::from(write);
        for _ in 0..100 {
            write.write_all(&[1]).unwrap();
            assert_eq!(waiter.wait(NOW).unwrap(), 1);
            assert_eq!(waiter.wait(NOW).unwrap(), 0);
        }
        drop(write);
        assert_eq!(waiter.wait(NOW).unwrap(), 1);
        assert_eq!(waiter.wait(NOW).unwrap(), 0);
    }

    #[test]
    fn a_level_is_told_as_long_as_it_lasts() {
        let (one, other) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        let waiter = Waiter::level([&one, &other]).unwrap();
        assert_eq!(waiter.wait(Some(Duration::from_millis(1))).unwrap(), 0);
        other.write(1).unwrap();
        for _ in 0..3 {
            assert_eq!(waiter.wait(None).unwrap(), 2);
        }
    }
}
