//! The process's last words and its end.
#![expect(unsafe_code, reason = "_exit(2)")]

/// A line of the log: in one piece, for the supervisor writes to the same file.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    // Nobody reads it any more: nothing to be done about it.
    let _ = std::io::stderr().write_all(format!("airlockfs-worker: {line}\n").as_bytes());
}

/// Ends the process at once, all threads with it. What Rust and the C library do before takes system calls that the
/// filter does not let through, and there is nothing to be written.
pub(crate) fn end(code: u8) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(i32::from(code)) }
}
