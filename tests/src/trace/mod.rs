//! What a daemon's processes do for a request, counted exactly: their system calls, and their calls of the allocator.
//!
//! [`Tracer`] is a debugger (ptrace(2)) on the production binaries, confined as they are: nothing is built in for it and
//! nothing is switched off. System calls are seen as they are entered, before any filter. The C library's allocating
//! functions, where every allocation of a Rust program ends too, are seen by breakpoints in the processor's debug
//! registers, which leave the program's text alone.

mod names;
mod tracer;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::RawFd;

use anyhow::{Context, Result};

pub use tracer::Tracer;

/// What one process did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// System calls by name, without those below.
    pub calls: BTreeMap<&'static str, u64>,
    /// System calls that only wait or wake: how many there are depends on who happens to be awake. These are futex, the
    /// polls, and read and write of an eventfd (kicks, interrupts, doorbells).
    pub waits: u64,
    /// Waits of the worker's watching thread, some 250 in each second in which requests are served.
    pub ticks: u64,
    /// Calls of malloc, calloc, realloc and posix_memalign.
    pub allocations: u64,
}

impl Count {
    /// What was done since an earlier count; or what one run did more than another, where less counts as nothing.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let calls = self.calls.iter().map(|(name, count)| {
            let before = earlier.calls.get(name).copied().unwrap_or(0);
            (*name, count.saturating_sub(before))
        });
        Self {
            calls: calls.filter(|(_, count)| *count > 0).collect(),
            waits: self.waits.saturating_sub(earlier.waits),
            ticks: self.ticks.saturating_sub(earlier.ticks),
            allocations: self.allocations.saturating_sub(earlier.allocations),
        }
    }

    fn call(&mut self, pid: i32, number: u64, arguments: &[u64; 6]) {
        let name = names::name(number);
        let waits = match name {
            "futex" | "epoll_wait" | "epoll_pwait" | "poll" | "ppoll" | "restart_syscall" => true,
            "read" | "write" => is_eventfd(pid, arguments[0] as RawFd),
            _ => false,
        };
        // A debug build of the standard library looks whether a descriptor is open before it closes it.
        let checks = name == "fcntl" && arguments[1] == libc::F_GETFD as u64;
        // While a thread looks for work; the tracer makes that long.
        let gives_way = name == "sched_yield";
        if waits {
            self.waits += 1;
        } else if !checks && !gives_way {
            *self.calls.entry(name).or_default() += 1;
        }
    }
}

fn is_eventfd(pid: i32, fd: RawFd) -> bool {
    fs::read_link(format!("/proc/{pid}/fd/{fd}"))
        .is_ok_and(|path| path.to_string_lossy().contains("[eventfd]"))
}

/// A mapping of a file at its beginning, in /proc/PID/maps.
#[derive(Debug, PartialEq, Eq)]
struct Mapped {
    start: u64,
    /// Device and inode number, as text.
    file: String,
}

/// The first mappings of the files a process has mapped, and the file that holds an address.
fn mapped(maps: &str) -> Vec<Mapped> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let (start, _) = fields.next()?.split_once('-')?;
        let (_, offset) = (fields.next()?, fields.next()?);
        let file = format!("{} {}", fields.next()?, fields.next()?);
        let start = u64::from_str_radix(start, 16).ok()?;
        let begins = offset.bytes().all(|byte| byte == b'0') && !file.ends_with(" 0");
        begins.then_some(Mapped { start, file })
    };
    maps.lines().filter_map(parse).collect()
}

/// Where a function of a library lies in another process that has mapped the same file.
fn elsewhere(address: u64, own: &[Mapped], theirs: &[Mapped]) -> Result<u64> {
    let here = own
        .iter()
        .filter(|mapped| mapped.start <= address)
        .max_by_key(|mapped| mapped.start)
        .context("a function in no file")?;
    let there = theirs
        .iter()
        .find(|mapped| mapped.file == here.file)
        .context("a process with another C library")?;
    Ok(address - here.start + there.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_found_in_another_process() {
        let ours = "10000-11000 r--p 00000000 fe:00 5 /a\n\
                    20000-21000 r--p 00000000 fe:00 7 /libc.so.6\n\
                    21000-25000 r-xp 00001000 fe:00 7 /libc.so.6\n\
                    30000-31000 rw-p 00000000 00:00 0\n";
        let theirs = "70000-71000 r--p 00000000 fe:00 7 /somewhere/else\n";
        let address = elsewhere(0x21234, &mapped(ours), &mapped(theirs));
        assert_eq!(address.expect("the same library"), 0x71234);
        assert!(elsewhere(0x10001, &mapped(ours), &mapped(theirs)).is_err());
    }

    #[test]
    fn counts_are_of_what_came_between() {
        let mut early = Count::default();
        early.calls.insert("statx", 2);
        early.calls.insert("close", 1);
        let mut late = early.clone();
        *late.calls.entry("statx").or_default() += 3;
        late.allocations = 4;
        let between = late.since(&early);
        assert_eq!(between.calls, BTreeMap::from([("statx", 3)]));
        assert_eq!((between.waits, between.allocations), (0, 4));
    }
}
