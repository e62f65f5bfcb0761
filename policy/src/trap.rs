//! What a forbidden call says of itself with `--seccomp trap`: the filter raises SIGSYS, and the handler writes which
//! process, call and arguments it was before it ends the process. With `--seccomp kill` only the kernel's log tells the
//! call (audit record 1326, where audit is on), and the supervisor the worker's end.
#![allow(unsafe_code, reason = "a signal handler: each block says why it is sound")]

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::profile::Process;

/// Exit code of a process whose forbidden call was trapped: that of a shell for a child that SIGSYS ended.
pub const TRAPPED: u8 = 128 + libc::SIGSYS as u8;

/// Whose the handler is: 0 the supervisor's.
static WORKER: AtomicU8 = AtomicU8::new(0);

/// Installs the handler, unless SIGSYS has one already.
pub(crate) fn report(process: Process) -> io::Result<()> {
    WORKER.store(u8::from(process == Process::Worker), Relaxed);
    // SAFETY: plain data, for which all-zero is valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes the action that is in force.
    if unsafe { libc::sigaction(libc::SIGSYS, std::ptr::null(), &raw mut action) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if action.sa_sigaction != libc::SIG_DFL {
        return Ok(());
    }
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler uses its own stack and the log, which it gets hold of or does without: nothing of the thread that it
    // interrupts. No memory is allocated: the log's thread has made room.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn handler(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the interrupted context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let mut line = Line::new();
    line.text(match WORKER.load(Relaxed) {
        0 => "airlockfsd",
        _ => "airlockfs-worker",
    });
    line.text(": ERROR: forbidden system call");
    let (number, arguments) = registers(context);
    line.hexadecimal(number);
    line.text(" with arguments");
    for argument in arguments {
        line.hexadecimal(argument);
    }
    crate::log::last_words(line.bytes.get(..line.length).unwrap_or_default());
    crate::log::end(TRAPPED);
}

/// Number and arguments of the call.
#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (u64, [u64; 6]) {
    let register = |index: i32| {
        context
            .uc_mcontext
            .gregs
            .get(index as usize)
            .copied()
            .unwrap_or(0) as u64
    };
    let arguments = [
        libc::REG_RDI,
        libc::REG_RSI,
        libc::REG_RDX,
        libc::REG_R10,
        libc::REG_R8,
        libc::REG_R9,
    ];
    (register(libc::REG_RAX), arguments.map(register))
}

/// Number and arguments of the call.
#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (u64, [u64; 6]) {
    let register = |index: usize| context.uc_mcontext.regs.get(index).copied().unwrap_or(0);
    (register(8), [0, 1, 2, 3, 4, 5].map(register))
}

/// A line made without memory of the heap.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Line {
    const fn new() -> Self {
        Self {
            bytes: [0; 256],
            length: 0,
        }
    }

    fn text(&mut self, text: &str) {
        for byte in text.bytes() {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
    }

    /// A space and the number.
    fn hexadecimal(&mut self, number: u64) {
        self.text(" 0x");
        let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let value = (number >> (digit * 4)) as usize & 0xf;
            self.text("0123456789abcdef".get(value..=value).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_whole() {
        let mut line = Line::new();
        for number in [0, 0xf, 0x10, 257, u64::MAX] {
            line.hexadecimal(number);
        }
        let text = std::str::from_utf8(&line.bytes[..line.length]).unwrap();
        assert_eq!(text, " 0x0 0xf 0x10 0x101 0xffffffffffffffff");
        for _ in 0..30 {
            line.hexadecimal(u64::MAX);
        }
        assert_eq!(line.length, 256);
    }
}
