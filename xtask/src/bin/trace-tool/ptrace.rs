//! ptrace(2) and the processes it takes: nix knows neither real-time signals nor PTRACE_LISTEN.
#![allow(
    unsafe_code,
    reason = "ptrace, fork and the descriptors of a process that has just been forked"
)]

use std::io;
use std::os::fd::AsRawFd;

use nix::unistd::{ForkResult, fork, setsid};

/// A stopped or ended thread.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    /// It ended.
    Ended,
    /// It enters or leaves a system call.
    Call,
    /// It is to get this signal.
    Signal(i32),
    /// It is stopped, with its process, until SIGCONT.
    Group,
    /// It has something else to say, and goes on.
    Event,
}

fn request(request: libc::c_uint, thread: i32, data: usize) -> io::Result<()> {
    // SAFETY: the requests used here take numbers.
    match unsafe { libc::ptrace(request, thread, 0_usize, data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Traces a process with one thread and all that come from it.
pub(crate) fn seize(process: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACEEXEC;
    request(libc::PTRACE_SEIZE, process, options as usize)?;
    request(libc::PTRACE_INTERRUPT, process, 0)
}

/// Lets a thread go on to its next system call, with a signal if it is not 0. Fails if it was killed meanwhile.
pub(crate) fn go_on(thread: i32, signal: i32) -> io::Result<()> {
    request(libc::PTRACE_SYSCALL, thread, signal as usize)
}

/// Leaves it stopped.
pub(crate) fn listen(thread: i32) -> io::Result<()> {
    request(libc::PTRACE_LISTEN, thread, 0)
}

/// The call that a thread enters: number and arguments; none when it leaves one.
pub(crate) fn entered(thread: i32) -> Option<(i64, [u64; 6])> {
    // SAFETY: plain data, all-zero is valid.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: the kernel writes at most `size` bytes to `info`.
    let read = unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, &raw mut info) };
    if read < 0 || info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: for an entry, this member is valid.
    let entry = unsafe { info.u.entry };
    Some((entry.nr as i64, entry.args))
}

/// Waits for the next stop of any thread; none when all have ended.
pub(crate) fn wait() -> io::Result<Option<(i32, Stop)>> {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
    if thread < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) => Ok(None),
            _ => Err(error),
        };
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Some((thread, Stop::Ended)));
    }
    let signal = libc::WSTOPSIG(status);
    let stop = match status >> 16 {
        libc::PTRACE_EVENT_STOP => match signal {
            libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Stop::Group,
            _ => Stop::Event,
        },
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Call,
        0 => Stop::Signal(signal),
        _ => Stop::Event,
    };
    Ok(Some((thread, stop)))
}

/// Runs `tracer` in a process that is nobody's child and has no descriptor of this one; returns once it said that it
/// is attached, by closing what it was given.
pub(crate) fn aside(tracer: impl FnOnce(std::os::fd::OwnedFd)) -> io::Result<()> {
    let (ready, attached) = nix::unistd::pipe()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(attached);
            nix::sys::wait::waitpid(child, None)?;
            // End of file.
            nix::unistd::read(&ready, &mut [0])?;
            Ok(())
        }
        ForkResult::Child => {
            drop(ready);
            // SAFETY: as above.
            if let Ok(ForkResult::Child) = unsafe { fork() } {
                let _ = setsid();
                leave(attached.as_raw_fd() as u32);
                tracer(attached);
            }
            // SAFETY: ends the process without running what its parent registered.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Others wait for the end of file on what this process holds.
fn leave(kept: u32) {
    // SAFETY: a process that has just been forked, in which nothing uses these descriptors.
    unsafe {
        if kept > 0 {
            libc::close_range(0, kept - 1, 0);
        }
        libc::close_range(kept + 1, u32::MAX, 0);
    }
}
