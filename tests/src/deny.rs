//! A kernel, or a launcher's filter, that lacks a system call or lies about it: a filter
//! (seccomp(2)), inherited over execve(2).
#![allow(unsafe_code, reason = "a filter is installed by a raw system call")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Instructions of classic BPF (linux/filter.h) over `struct seccomp_data`.
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// From now on `call` fails with `errno` in this process and those that it starts.
/// Async-signal-safe. Needs root, or no_new_privs.
pub fn deny(call: libc::c_long, errno: i32) -> io::Result<()> {
    install(&[
        instruction(LOAD, 0, 0, 0),
        instruction(IF_EQUAL, 0, 1, call as u32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ])
}

/// A filter that answers some calls in the kernel's place: they succeed without any effect
/// (SECCOMP_RET_ERRNO with error 0).
#[derive(Debug)]
pub struct Lies(Vec<libc::sock_filter>);

impl Lies {
    /// A filter for these calls, by number. For a number that no call has, it allows everything.
    pub fn new(calls: &[libc::c_long]) -> Self {
        let mut program = vec![instruction(LOAD, 0, 0, 0)];
        for call in calls {
            program.push(instruction(IF_EQUAL, 0, 1, *call as u32));
            program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO));
        }
        program.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
        Self(program)
    }

    /// Installs it on the calling thread. Async-signal-safe. Root needs no no_new_privs for it.
    pub fn install(&self) -> io::Result<()> {
        // SAFETY: numbers only.
        let root = unsafe { libc::geteuid() } == 0;
        // SAFETY: numbers only.
        if !root && unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        install(&self.0)
    }

    /// Has a program begin with it.
    pub fn for_program(self, command: &mut Command) {
        // SAFETY: what it calls between fork and exec is async-signal-safe.
        unsafe { command.pre_exec(move || self.install()) };
    }
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `program` describes `filter`; the kernel reads both during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
