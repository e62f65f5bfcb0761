//! The process's end.
#![expect(unsafe_code, reason = "_exit(2)")]

/// Ends the process at once, all threads with it. What Rust and the C library do before takes system calls that the
/// filter does not let through, and there is nothing to be written.
pub(crate) fn end(code: u8) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(i32::from(code)) }
}
