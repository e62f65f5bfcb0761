//! What comes before `main` in either program, in place of Rust's own (`std::rt`), with the same effect but one: no
//! handler of stack overflows. It could not do its work under the filter, and costs each start a reading of
//! /proc/self/maps and every thread a second stack, five system calls. A guard page ends the process as before.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::panic::{UnwindSafe, catch_unwind};

use nix::fcntl::{FcntlArg, fcntl};

/// What a process that panicked ends with, as all of Rust do.
const PANICKED: u8 = 101;

/// Runs a program's `main`, which gives its exit code. The caller is C's `main`: it has one thread, and has done nothing.
pub fn run(main: impl FnOnce() -> u8 + UnwindSafe) -> u8 {
    if !all_standard_streams() {
        // There is nowhere to say so.
        std::process::abort();
    }
    crate::sys::ignore_broken_pipes();
    let code = catch_unwind(main).unwrap_or(PANICKED);
    // Nobody to tell if stdout is closed.
    let _ = std::io::stdout().flush();
    code
}

/// Opens /dev/null in place of standard streams that the launcher closed: what is opened next would be taken for them.
fn all_standard_streams() -> bool {
    (0..=2).all(|number| {
        is_open(number)
            || OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")
                .is_ok_and(|null| null.into_raw_fd() == number)
    })
}

#[expect(unsafe_code, reason = "asking whether a number names a descriptor")]
fn is_open(number: i32) -> bool {
    // SAFETY: only used to ask the kernel whether it is open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(descriptor, FcntlArg::F_GETFD).is_ok()
}
