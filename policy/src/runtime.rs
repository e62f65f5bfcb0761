//! System calls that both processes share, of the C library and Rust. All threads run before the filter is in force: no call
//! makes, names or ends one, and memory is never executable.

use crate::rule::{Pin, SyscallRule, rule};

const EXEC: u64 = libc::PROT_EXEC as u64;

/// No PROT_EXEC in argument 2 of mmap(2) and mprotect(2).
pub(crate) const NOT_EXECUTABLE: Pin = Pin::long_bits(2, EXEC, 0);

/// Every mode of fallocate(2) that a guest may ask for; FALLOC_FL_NO_HIDE_STALE would show others' data.
pub(crate) const FALLOCATE: Pin = Pin::int_bits(1, !0xfb, 0);

/// Not descriptor 2 as argument 0: the log is written to by write(2) and nothing else. It may be the launcher's file, pipe,
/// terminal or socket: nothing is read there, no hole punched, no place chosen, no message with an address sent, and no
/// second number made for it by which all that could be done.
pub(crate) const NOT_LOG: Pin = Pin::int_not(0, libc::STDERR_FILENO);

/// Of preadv2(2) and pwritev2(2), whose offset is one register here (the next one's bits are shifted out of 64): no negative
/// one. -1 would be the descriptor's own position, so that a terminal, a pipe or a socket could be read.
pub(crate) const PLACED: Pin = Pin::long_bits(3, 1 << 63, 0);

/// Private anonymous memory, flags of mmap(2): what malloc takes.
const ANONYMOUS: Pin = Pin::long(3, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64);

/// An operation of futex(2), private to the process or not, by either clock.
const fn futex(operation: i32) -> Pin {
    let options = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    Pin::int_bits(1, !(options as u32), operation as u32)
}

/// Calls of the C library and Rust's runtime in any process whose threads all run before it is filtered.
#[rustfmt::skip]
pub(crate) const RUNTIME: &[SyscallRule] = &[
    rule!(Base, SYS_futex, "locks and waiting between threads; no lock that inherits priority, no moving of waiters",
        [futex(libc::FUTEX_WAIT)], [futex(libc::FUTEX_WAKE)], [futex(libc::FUTEX_WAIT_BITSET)],
    ),
    rule!(Base, SYS_sched_yield, "whoever else wants this CPU goes first: the worker in its turn, anybody while a thread looks for work"),
    rule!(Base, SYS_restart_syscall, "a wait goes on after SIGSTOP and SIGCONT",
        unseen: "a process that is stopped (a debugger, a cgroup's freezer) while it waits for a limited time: the log's thread, the worker's watch",
    ),
    rule!(Base, SYS_munmap, "gives memory back",
        unseen: "a table or buffer that grows past 128 KiB, and outgrows its mapping: shares of many thousand inodes",
    ),
    rule!(Base, SYS_brk, "malloc's heap"),
    rule!(Base, SYS_fcntl, "debug builds of Rust check a descriptor before closing it", [Pin::int(1, libc::F_GETFD)]),
    #[cfg(not(target_arch = "x86_64"))]
    rule!(Base, SYS_getcpu, "which CPU a thread runs on, where the C library has no rseq (glibc before 2.35)"),
    rule!(Base, SYS_clock_gettime, "time, where the vDSO cannot tell",
        unseen: "a host whose clock source is none of the CPU's (hpet, acpi_pm, Xen's)",
    ),
    rule!(Base, SYS_exit_group, "the process ends"),
];

/// Calls for large blocks of memory. glibc makes them where it is not told to keep to its heap, musl always does.
#[rustfmt::skip]
pub(crate) const LARGE_BLOCKS: &[SyscallRule] = &[
    rule!(Base, SYS_mmap, "memory for malloc, never executable", [NOT_EXECUTABLE, ANONYMOUS]),
    rule!(Base, SYS_mremap, "realloc of large blocks, moved by the kernel",
        [Pin::long(3, libc::MREMAP_MAYMOVE as u64)],
        unseen: "a table or buffer that grows past 128 KiB (M_MMAP_THRESHOLD, mallopt(3)): shares of many thousand inodes",
    ),
    #[cfg(not(target_env = "gnu"))]
    rule!(Base, SYS_mprotect, "heaps begin inaccessible; never executable", [NOT_EXECUTABLE],
        unseen: "malloc of musl",
    ),
    #[cfg(not(target_env = "gnu"))]
    rule!(Base, SYS_madvise, "free gives memory back", [Pin::int(2, libc::MADV_FREE)],
        unseen: "malloc of musl",
    ),
];
