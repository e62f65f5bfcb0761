//! Obeying.
#![expect(unsafe_code, reason = "makes arbitrary system calls, as an attacker would")]

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::{Mutex, OnceLock, mpsc};

use crate::order::{Answer, Argument, Order};

/// A call, and where its answer goes.
type Job = (i64, Vec<Argument>, mpsc::Sender<Answer>);

static HELPER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();

/// Starts the thread that obeys [`Order::CallOnThread`], once for a process: filtered, it may not be able to. Returns
/// when it waits.
///
/// # Errors
/// It cannot be started.
pub fn start_helper() -> io::Result<()> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let (ready, waits) = mpsc::channel();
    // Set once.
    let _ = HELPER.set(Mutex::new(sender));
    std::thread::Builder::new().spawn(move || {
        // These fail when nobody waits any more.
        let _ = ready.send(());
        for (number, arguments, answer) in jobs {
            let _ = answer.send(call(number, arguments));
        }
    })?;
    waits.recv().map_err(io::Error::other)
}

/// Does what it is told.
///
/// # Panics
/// A text holds a NUL byte, or a thread cannot be started: mistakes of the suite.
pub fn obey(order: Order, descriptors: Vec<OwnedFd>) -> Answer {
    match order {
        Order::Call(number, arguments) => call(number, arguments),
        Order::CallOnThread(number, arguments) => {
            let (answer, answered) = mpsc::channel();
            let helper = HELPER.get().and_then(|helper| helper.lock().ok());
            let job = (number, arguments, answer);
            helper.expect("a helper").send(job).expect("a helper that lives");
            answered.recv().expect("an answer")
        }
        Order::Calls(calls) => {
            let results = calls.iter().map(|(number, registers)| raw(*number, registers));
            let bytes: Vec<u8> = results.flat_map(i64::to_ne_bytes).collect();
            (0, bytes)
        }
        Order::Legacy(number) => (legacy(number), Vec::new()),
        Order::Thread => {
            let thread = std::thread::Builder::new().name("another".to_owned());
            let thread = thread.spawn(|| {
                (0..10_000_usize)
                    .map(|n| (n, vec![n; 100]))
                    .collect::<HashMap<_, _>>()
                    .len()
            });
            let done = thread.expect("a thread").join().expect("its end");
            (i64::try_from(done).unwrap_or(-1), Vec::new())
        }
        Order::Place(bytes) => (
            Box::leak(bytes.into_boxed_slice()).as_mut_ptr() as i64,
            Vec::new(),
        ),
        Order::Look(address, length) => {
            // SAFETY: not sound, and not meant to be: the suite asks for what it placed.
            let bytes = unsafe { std::slice::from_raw_parts(address as *const u8, length as usize) };
            (0, bytes.to_vec())
        }
        Order::Keep => {
            let kept = descriptors.into_iter().next().map_or(-1, IntoRawFd::into_raw_fd);
            (i64::from(kept), Vec::new())
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn legacy(number: u32) -> i64 {
    let mut result = u64::from(number);
    // SAFETY: the kernel changes rax and, on this entry, r8 to r11; the arguments are null.
    unsafe {
        std::arch::asm!(
            "push rbx", "xor ebx, ebx", "int 0x80", "pop rbx",
            inout("rax") result, in("rcx") 0, in("rdx") 0, in("rsi") 0, in("rdi") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    i64::from(result as i32)
}

#[cfg(not(target_arch = "x86_64"))]
fn legacy(_: u32) -> i64 {
    -i64::from(libc::ENOSYS)
}

fn call(number: i64, mut arguments: Vec<Argument>) -> Answer {
    let mut strings = Vec::new();
    let mut registers = [0_u64; 6];
    for (register, argument) in registers.iter_mut().zip(&mut arguments) {
        if let Argument::Buffer(size) = *argument {
            *argument = Argument::Bytes(vec![0; size]);
        }
        *register = match argument {
            Argument::Number(number) => *number,
            Argument::Text(text) => {
                strings.push(CString::new(text.as_str()).expect("text without NUL"));
                strings.last().map_or(0, |text| text.as_ptr() as u64)
            }
            Argument::Bytes(bytes) => bytes.as_mut_ptr() as u64,
            Argument::Buffer(_) => 0,
        };
    }
    let result = raw(number, &registers);
    let buffer = arguments.into_iter().rev().find_map(|argument| match argument {
        Argument::Bytes(bytes) => Some(bytes),
        _ => None,
    });
    (result, buffer.unwrap_or_default())
}

fn raw(number: i64, registers: &[u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = *registers;
    // SAFETY: not sound, and not meant to be: this is the attacker.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        // SAFETY: the C library's errno of this thread.
        -1 => -i64::from(unsafe { *libc::__errno_location() }),
        result => result,
    }
}
