//! The system call filters of another process, as the kernel shows them (PTRACE_SECCOMP_GET_FILTER, ptrace(2)).
#![allow(unsafe_code, reason = "ptrace(2) and waitpid(2)")]

use std::io;

use crate::{Profile, StartError, seccomp, sys};

/// An instruction of classic BPF.
pub use seccompiler::sock_filter as Instruction;

/// A filter.
pub type Program = Vec<Instruction>;

/// PTRACE_SECCOMP_GET_FILTER.
const GET_FILTER: libc::c_uint = 0x420c;

/// Most instructions of a program (BPF_MAXINSNS).
const LONGEST: usize = 4096;

/// Most filters that are read of a thread.
const MOST: usize = 64;

/// The program that a process with this profile installs; none with `--seccomp none`.
///
/// # Errors
/// It does not compile.
pub fn of_profile(profile: &Profile) -> Result<Option<Program>, StartError> {
    seccomp::compile(profile)
}

/// The programs in force on a thread, the oldest first; none if it has no filter, or if this kernel shows none
/// (without CONFIG_CHECKPOINT_RESTORE). The thread is stopped meanwhile, as by a debugger: a wait of its goes on or is
/// interrupted (EINTR).
///
/// # Errors
/// EPERM: it may not be traced, or is traced already. EACCES: the caller has no CAP_SYS_ADMIN, or a filter of its own.
/// ESRCH: it has ended.
pub fn of_thread(thread: i32) -> io::Result<Vec<Program>> {
    let stopped = Stopped::new(thread)?;
    let mut programs = Vec::new();
    for index in 0..MOST {
        let none = Instruction {
            code: 0,
            jt: 0,
            jf: 0,
            k: 0,
        };
        // Room for the longest: the kernel is not told how much there is.
        let mut program = vec![none; LONGEST];
        match request(GET_FILTER, stopped.thread, index, program.as_mut_ptr() as usize) {
            Ok(length) => program.truncate(length),
            // No more of them; or none at all.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => break,
            Err(error) => return Err(error),
        }
        programs.push(program);
    }
    Ok(programs)
}

fn request(request: libc::c_uint, thread: i32, address: usize, data: usize) -> io::Result<usize> {
    // SAFETY: `data` is a number, or points to room for the longest program.
    let result = sys::check(unsafe { libc::ptrace(request, thread, address, data) })?;
    usize::try_from(result).map_err(io::Error::other)
}

/// A thread that this one traces and that has stopped. It goes on when this is dropped, and however this process ends.
struct Stopped {
    thread: i32,
    /// A signal that was about to be delivered.
    signal: i32,
}

impl Stopped {
    fn new(thread: i32) -> io::Result<Self> {
        request(libc::PTRACE_SEIZE, thread, 0, 0)?;
        request(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
        let mut status = 0;
        loop {
            // SAFETY: the kernel writes to `status`, which outlives the call.
            let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
            match sys::check(waited.into()) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // Stops of ptrace's own have an event beside the signal.
        let signal = match status >> 16 {
            0 => libc::WSTOPSIG(status),
            _ => 0,
        };
        Ok(Self { thread, signal })
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It fails only when the thread is gone.
        let _ = request(libc::PTRACE_DETACH, self.thread, 0, self.signal as usize);
    }
}
