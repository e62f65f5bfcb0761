//! Gets a thread out of a system call that waits: the VMM chooses what the guest is interrupted by, and a write to that may
//! wait for ever (an eventfd at its limit, not O_NONBLOCK, which the VMM can take back at any time).
//!
//! A byte in a socket has the kernel send SIGIO to the thread (F_SETOWN_EX, O_ASYNC, fcntl(2)), whose handler does
//! nothing but end the call with EINTR. So the filter needs no call that sends a signal, and none can be sent to
//! anybody else.
#![expect(unsafe_code, reason = "a signal handler, and a signal's owner")]

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recvmsg, socketpair},
    unistd::gettid,
};

/// A way to one thread.
#[derive(Debug)]
pub(crate) struct Nudge {
    /// A byte written here …
    bell: OwnedFd,
    /// … arrives here, and with it the signal.
    ear: OwnedFd,
}

/// `struct f_owner_ex` (fcntl(2)).
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    id: libc::pid_t,
}

const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

impl Nudge {
    /// One that is aimed at nobody yet.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (bell, ear) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        Ok(Self { bell, ear })
    }

    /// Aims at the calling thread, before the system call filter is in force.
    pub(crate) fn aim_here(&self) -> io::Result<()> {
        handle()?;
        let owner = Owner {
            kind: F_OWNER_TID,
            id: gettid().as_raw(),
        };
        // SAFETY: the descriptor is open, and the kernel reads the structure during the call.
        if unsafe { libc::fcntl(self.ear.as_raw_fd(), F_SETOWN_EX, &raw const owner) } < 0 {
            return Err(io::Error::last_os_error());
        }
        fcntl(&self.ear, FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// Ends the call that the thread waits in. Without effect on one that is about to begin: try again while it lasts.
    pub(crate) fn nudge(&self) {
        // Full: the signal was sent.
        let _ = nix::unistd::write(&self.bell, &[0]);
        let mut byte = [0];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let _ = recvmsg::<()>(
            self.ear.as_raw_fd(),
            &mut [IoSliceMut::new(&mut byte)],
            None,
            flags,
        );
    }
}

/// SIGIO ends a waiting call (no SA_RESTART) and does nothing else.
fn handle() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: plain data, for which all-zero is valid.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: the handler touches nothing.
    match unsafe { libc::sigaction(libc::SIGIO, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::SeqCst},
            mpsc,
        },
        thread,
        time::Duration,
    };

    use nix::{errno::Errno, sys::eventfd::EventFd, unistd::write};

    use super::*;

    #[test]
    fn a_write_that_waits_for_ever_ends() {
        let nudge = Arc::new(Nudge::new().unwrap());
        let full = Arc::new(EventFd::new().unwrap());
        full.write(u64::MAX - 1).unwrap();
        let (sender, aimed) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let writer = {
            let (nudge, full, ended) = (nudge.clone(), full, ended.clone());
            thread::spawn(move || {
                nudge.aim_here().unwrap();
                sender.send(()).unwrap();
                let results = [(); 3].map(|()| write(&*full, &1_u64.to_ne_bytes()));
                ended.store(true, SeqCst);
                results
            })
        };
        aimed.recv().unwrap();
        // More often than a socket has room for bytes that nobody reads.
        for _ in 0..1000 {
            nudge.nudge();
        }
        while !ended.load(SeqCst) {
            nudge.nudge();
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(writer.join().unwrap(), [Err(Errno::EINTR); 3]);
    }
}
