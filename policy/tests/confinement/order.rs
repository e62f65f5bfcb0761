//! What the tests order a confined process to do, and how it does it.
#![expect(unsafe_code, reason = "makes arbitrary system calls, as an attacker would")]

use std::collections::HashMap;
use std::ffi::CString;

use serde::{Deserialize, Serialize};

/// An order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Make a system call.
    Call(i64, Vec<Argument>),
    /// Make a system call without arguments by the 32-bit entry.
    #[cfg(target_arch = "x86_64")]
    Legacy(u32),
    /// Start a thread that allocates, hashes and ends.
    Thread,
    /// Make the system call on a thread of its own.
    CallOnThread(i64, Vec<Argument>),
}

/// An argument of a system call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Argument {
    /// A number.
    Number(u64),
    /// The address of a terminated string.
    Text(String),
    /// The address of a zeroed buffer of this size.
    Buffer(usize),
    /// The address of these bytes.
    Bytes(Vec<u8>),
}

impl From<i32> for Argument {
    fn from(number: i32) -> Self {
        Self::Number(number as i64 as u64)
    }
}

impl From<i64> for Argument {
    fn from(number: i64) -> Self {
        Self::Number(number as u64)
    }
}

impl From<u64> for Argument {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// The result, `-errno` for an error, and what the last buffer holds.
pub(crate) type Answer = (i64, Vec<u8>);

/// What a trapped call returns: no error number of the kernel.
pub(crate) const TRAPPED: i64 = -4000;

pub(crate) fn obey(order: Order) -> Answer {
    match order {
        Order::Call(number, arguments) => call(number, arguments),
        #[cfg(target_arch = "x86_64")]
        Order::Legacy(number) => (legacy(number), Vec::new()),
        Order::CallOnThread(number, arguments) => std::thread::spawn(move || call(number, arguments))
            .join()
            .unwrap(),
        Order::Thread => {
            let thread = std::thread::Builder::new().name("another".to_owned());
            let thread = thread.spawn(|| {
                (0..10_000_usize)
                    .map(|n| (n, vec![n; 100]))
                    .collect::<HashMap<_, _>>()
                    .len()
            });
            (thread.unwrap().join().unwrap() as i64, Vec::new())
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
    result as i32 as i64
}

fn call(number: i64, mut arguments: Vec<Argument>) -> Answer {
    let mut strings = Vec::new();
    let mut registers = [0_u64; 6];
    for (register, argument) in registers.iter_mut().zip(&mut arguments) {
        *register = match argument {
            Argument::Number(number) => *number,
            Argument::Text(text) => {
                strings.push(CString::new(text.as_str()).unwrap());
                strings.last().unwrap().as_ptr() as u64
            }
            Argument::Buffer(size) => {
                *argument = Argument::Bytes(vec![0; *size]);
                let Argument::Bytes(bytes) = argument else {
                    unreachable!()
                };
                bytes.as_mut_ptr() as u64
            }
            Argument::Bytes(bytes) => bytes.as_mut_ptr() as u64,
        };
    }
    let [a, b, c, d, e, f] = registers;
    // SAFETY: not sound, and not meant to be: this is the attacker. The tests order calls whose pointers are good.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    let result = match result {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()),
        result => result,
    };
    let buffer = arguments.into_iter().rev().find_map(|argument| match argument {
        Argument::Bytes(bytes) => Some(bytes),
        _ => None,
    });
    (result, buffer.unwrap_or_default())
}

/// From now on a call trapped by the filter returns [`TRAPPED`].
pub(crate) fn survive_traps() {
    extern "C" fn handler(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: with SA_SIGINFO the third argument is the interrupted context, ours to change.
        let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        // -4000 is within the range the C library takes for error numbers.
        #[cfg(target_arch = "x86_64")]
        {
            context.uc_mcontext.gregs[libc::REG_RAX as usize] = TRAPPED;
        }
        #[cfg(target_arch = "aarch64")]
        {
            context.uc_mcontext.regs[0] = TRAPPED as u64;
        }
    }
    // SAFETY: the handler only writes to its own context.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut());
    }
}
