//! What comes before `main` in either program, in place of Rust's own (`std::rt`), with the same effect but one: no
//! handler of stack overflows. It could not do its work under the filter, and costs each start a reading of
//! /proc/self/maps and every thread a second stack, five system calls. A guard page ends the process as before.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::panic::{UnwindSafe, catch_unwind};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::ExitKind;

/// What a process that panicked ends with, as all of Rust do.
const PANICKED: u8 = 101;

/// Runs a program's `main`, which gives its exit code. The caller is C's `main`: it has one thread, and has done nothing.
pub fn run(main: impl FnOnce() -> u8 + UnwindSafe) -> u8 {
    if let Err(error) = all_standard_streams() {
        // Where standard error is not one of those that are missing, it tells.
        crate::log::say(format_args!(
            "airlockfs: a standard stream is closed, and /dev/null cannot take its place: {error}"
        ));
        return ExitKind::Unavailable.code();
    }
    crate::sys::ignore_broken_pipes();
    settle();
    let code = catch_unwind(main).unwrap_or(PANICKED);
    // Nobody to tell if stdout is closed.
    let _ = std::io::stdout().flush();
    code
}

/// Makes harmless what a launcher leaves behind over execve(2) and what would end the process later without a word: a
/// limit of file sizes, which ends by a signal, a small stack, timers, and a SIGCHLD that is ignored, with which no child can
/// be waited for. To be called first, by the only thread.
pub fn settle() {
    crate::sys::ignore_file_size_signal();
    crate::sys::stop_timers();
    crate::sys::hear_of_children();
    // The kernel lets it grow by the limit of the moment. Where even the hard limit is too low, nothing helps.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_STACK)
        && soft < STACK
    {
        let _ = setrlimit(Resource::RLIMIT_STACK, STACK.min(hard), hard);
    }
}

/// Bytes of the main thread's stack, as most systems have it.
const STACK: u64 = 8 << 20;

/// Opens /dev/null in place of standard streams that the launcher closed: what is opened next would be taken for them.
fn all_standard_streams() -> std::io::Result<()> {
    for number in (0..=2).filter(|number| !is_open(*number)) {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        // The lowest free number.
        if null.into_raw_fd() != number {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "asking whether a number names a descriptor")]
fn is_open(number: i32) -> bool {
    // SAFETY: only used to ask the kernel whether it is open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(descriptor, FcntlArg::F_GETFD).is_ok()
}
