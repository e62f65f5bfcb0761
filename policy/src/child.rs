//! The child between clone(2) and execveat(2). It lives in its parent's memory, which waits meanwhile, as posix_spawn(3)
//! does it; or in a copy, where it needs something of its parent that runs. Either way only async-signal-safe calls are made
//! (signal-safety(7)): no allocation, no panic, no destructor.
#![allow(
    unsafe_code,
    reason = "clone, and system calls between clone and exec; each block says why it is sound"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::gather::Elsewhere;
use crate::{Namespaces, sys};

/// What the child was doing when it failed.
pub(crate) const STEPS: &[&str] = &[
    "set the parent-death signal",
    "make a session",
    "become root of the user namespace",
    "place its descriptors",
    "close all other descriptors (close_range, Linux 5.9)",
    "set no_new_privs",
    "execute airlockfs-worker",
    "have its control channel wake it",
];

/// What the child needs, made ready by the parent. All descriptors it owns are above 9; what is borrowed is for the child to
/// close before anything else, and is the only one of its kind.
pub(crate) struct Child<'a> {
    pub(crate) null: OwnedFd,
    pub(crate) log: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) executable: OwnedFd,
    /// In a user namespace of its own: a byte comes when the id maps are written, or the end of the file if the parent gave
    /// up; and the other end.
    pub(crate) go: Option<(OwnedFd, BorrowedFd<'a>)>,
    /// A pipe's end that is closed once it runs.
    pub(crate) here: BorrowedFd<'a>,
    /// Where it runs then.
    pub(crate) elsewhere: Option<Elsewhere>,
    /// Where it tells what failed: the step's index and errno.
    pub(crate) outcome: OwnedFd,
    pub(crate) name: CString,
    pub(crate) namespaces: CString,
}

impl Child<'_> {
    /// Makes the child in new namespaces; returns its pid and pidfd in the parent only.
    pub(crate) fn clone_into(&self, namespaces: Namespaces) -> io::Result<(i32, OwnedFd)> {
        let mut pidfd: RawFd = -1;
        let mut flags = namespaces.flags() | libc::CLONE_PIDFD | libc::SIGCHLD;
        if self.go.is_none() {
            // Nothing is copied, and no page of the parent's faults when it is written to again.
            flags |= libc::CLONE_VM | libc::CLONE_VFORK;
        }
        let mut stack = vec![0_u128; STACK / size_of::<u128>()];
        let top = stack.as_mut_ptr_range().end;
        // SAFETY: the child runs `main` on `stack`, which is aligned as any stack and outlives it here: in shared memory the
        // kernel lets this thread, the only one of the process, go on when the child has executed another program or
        // ended; otherwise the child has a copy. What it changes in shared memory is its stack and the C library's errno.
        // It keeps its parent's thread pointer, and no signal has a handler that could run there. It owns none of `self`'s
        // descriptors in the parent's sense: without CLONE_FILES it closes copies. The kernel stores the pidfd in `pidfd`.
        let pid = unsafe {
            libc::clone(
                Self::main,
                top.cast(),
                flags,
                ptr::from_ref(self).cast_mut().cast(),
                &raw mut pidfd,
            )
        };
        let pid = sys::check(pid.into())?;
        Ok((i32::try_from(pid).map_err(io::Error::other)?, owned(pidfd)?))
    }

    extern "C" fn main(child: *mut libc::c_void) -> libc::c_int {
        // SAFETY: from `clone_into`, which nobody changes meanwhile.
        let child = unsafe { &*child.cast::<Self>() };
        child.run()
    }

    fn run(&self) -> ! {
        let Err((step, error)) = self.steps();
        let [a, b, c, d] = error.to_ne_bytes();
        let message = [step, a, b, c, d];
        // The pipe has its first number until all but the placed descriptors are closed. Its later number may be anything
        // of the launcher's before, and the parent takes one message.
        let outcome = match step > CLOSING {
            true => OUTCOME,
            false => self.outcome.as_raw_fd(),
        };
        // SAFETY: pointer and length describe `message`, and `outcome` is the pipe.
        unsafe {
            libc::write(outcome, message.as_ptr().cast(), message.len());
            libc::_exit(1)
        }
    }

    fn steps(&self) -> Result<std::convert::Infallible, (u8, i32)> {
        let mut byte = 0_u8;
        // SAFETY: the pointers are to local or prepared data that lives until the exec, lengths match, and every
        // call is async-signal-safe. Descriptors are copied to fixed numbers and the old numbers never used again.
        unsafe {
            if let Some((go, go_write)) = &self.go {
                libc::close(go_write.as_raw_fd());
                if libc::read(go.as_raw_fd(), (&raw mut byte).cast(), 1) != 1 {
                    libc::_exit(1);
                }
            }
            libc::close(self.here.as_raw_fd());
            if let Some(elsewhere) = &self.elsewhere {
                elsewhere.go();
            }
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut signals);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const signals, ptr::null_mut());
            // Who ends all processes of a service ends the supervisor, which finishes what is in flight. The first process of
            // a pid namespace is spared these anyway.
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::signal(signal, libc::SIG_IGN);
            }

            step(1, libc::setsid())?;
            if self.go.is_some() {
                step(2, libc::syscall(libc::SYS_setresgid, 0, 0, 0) as i32)?;
                step(2, libc::syscall(libc::SYS_setresuid, 0, 0, 0) as i32)?;
            }
            // After the change of ids, which clears it.
            step(0, libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;

            step(3, libc::dup2(self.null.as_raw_fd(), 0))?;
            step(3, libc::dup2(self.null.as_raw_fd(), 1))?;
            step(3, libc::dup2(self.log.as_raw_fd(), 2))?;
            step(3, libc::dup2(self.control.as_raw_fd(), CONTROL))?;
            // What comes there, the end above all, sets going a process that was stopped (SIGSTOP). The kernel does that for
            // the process itself, so it needs no right of whoever closes the other end. A running one does not notice.
            step(7, libc::fcntl(CONTROL, libc::F_SETOWN, libc::getpid()))?;
            step(7, libc::fcntl(CONTROL, F_SETSIG, libc::SIGCONT))?;
            let flags = libc::fcntl(CONTROL, libc::F_GETFL);
            step(7, flags)?;
            step(7, libc::fcntl(CONTROL, libc::F_SETFL, flags | libc::O_ASYNC))?;
            step(
                3,
                libc::dup3(self.executable.as_raw_fd(), EXECUTABLE, libc::O_CLOEXEC),
            )?;
            step(3, libc::dup3(self.outcome.as_raw_fd(), OUTCOME, libc::O_CLOEXEC))?;
            step(
                CLOSING,
                libc::syscall(libc::SYS_close_range, OUTCOME + 1, u32::MAX, 0) as i32,
            )?;
            step(5, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;

            let arguments = [self.name.as_ptr(), self.namespaces.as_ptr(), ptr::null()];
            let environment = [ptr::null::<libc::c_char>()];
            let executed = libc::syscall(
                libc::SYS_execveat,
                EXECUTABLE,
                c"".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
            step(6, executed as i32)?;
        }
        Err((6, 0))
    }
}

/// Bytes of the child's stack: some hundred are used.
const STACK: usize = 32 << 10;

/// The step that closes all other descriptors.
const CLOSING: u8 = 4;

/// Which signal says that something came to a descriptor with O_ASYNC (fcntl(2)).
const F_SETSIG: libc::c_int = 10;

const CONTROL: RawFd = 3;
const EXECUTABLE: RawFd = 4;
const OUTCOME: RawFd = 5;

fn step(number: u8, returned: i32) -> Result<(), (u8, i32)> {
    if returned >= 0 {
        return Ok(());
    }
    // SAFETY: the C library's errno of this thread.
    Err((number, unsafe { *libc::__errno_location() }))
}

/// Ends a child that did not get as far as the worker, and collects it.
pub(crate) fn end(pidfd: BorrowedFd<'_>) {
    // SAFETY: no pointers but null, and a `siginfo_t` that is plain data.
    unsafe {
        let none = ptr::null::<libc::siginfo_t>();
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            none,
            0,
        );
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(
            libc::P_PIDFD,
            pidfd.as_raw_fd() as libc::id_t,
            &raw mut info,
            libc::WEXITED,
        );
    }
}

/// Owns a descriptor the kernel just made.
pub(crate) fn owned(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: callers pass a number that a system call just returned to them and nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
