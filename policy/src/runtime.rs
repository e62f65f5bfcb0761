//! System calls that both processes share, of the C library and Rust: memory is never executable, threads are only threads.

use crate::rule::{Pin, SyscallRule, refuse, rule};

const EXEC: u64 = libc::PROT_EXEC as u64;

/// No PROT_EXEC in argument 2 of mmap(2) and mprotect(2).
pub(crate) const NOT_EXECUTABLE: Pin = Pin::long_bits(2, EXEC, 0);

/// Every mode of fallocate(2) that a guest may ask for; FALLOC_FL_NO_HIDE_STALE would show others' data.
pub(crate) const FALLOCATE: Pin = Pin::int_bits(1, !0xfb, 0);

/// Private anonymous memory, flags of mmap(2): what malloc and thread stacks take.
const ANONYMOUS: Pin = Pin::long_bits(
    3,
    !(libc::MAP_STACK as u64),
    (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64,
);

/// Flags of clone(2) as pthread_create(3) gives them, in glibc and musl (which adds CLONE_DETACHED).
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;

/// Lightweight guard pages for thread stacks (MADV_GUARD_INSTALL, Linux 6.13, glibc 2.42).
const GUARD_INSTALL: i32 = 102;

/// An operation of futex(2), private to the process or not, by either clock.
const fn futex(operation: i32) -> Pin {
    let options = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    Pin::int_bits(1, !(options as u32), operation as u32)
}

/// GRND_INSECURE of getrandom(2): what Rust asks for, so that it never waits.
const INSECURE: i32 = 4;

/// Calls of the C library and Rust's runtime in any process whose threads all run before it is filtered.
#[rustfmt::skip]
pub(crate) const RUNTIME: &[SyscallRule] = &[
    rule!(Base, SYS_futex, "locks and waiting between threads; no lock that inherits priority, no moving of waiters",
        [futex(libc::FUTEX_WAIT)], [futex(libc::FUTEX_WAKE)], [futex(libc::FUTEX_WAIT_BITSET)],
    ),
    rule!(Base, SYS_mmap, "memory for malloc, never executable", [NOT_EXECUTABLE, ANONYMOUS]),
    rule!(Base, SYS_munmap, "gives memory back"),
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
    rule!(Base, SYS_brk, "malloc's first heap"),
    rule!(Trap, SYS_rt_sigreturn, "a handler of SIGSYS returns; otherwise there are no signal handlers",
        unseen: "ours ends the process; that of the test which tries every call returns",
    ),
    rule!(Base, SYS_restart_syscall, "a wait goes on after SIGSTOP and SIGCONT",
        unseen: "a process that is stopped (a debugger, a cgroup's freezer) while it waits for a limited time",
    ),
    rule!(Base, SYS_fcntl, "debug builds of Rust check a descriptor before closing it", [Pin::int(1, libc::F_GETFD)]),
    #[cfg(not(target_arch = "x86_64"))]
    rule!(Base, SYS_getcpu, "which CPU a thread runs on, where the C library has no rseq (glibc before 2.35)"),
    rule!(Base, SYS_clock_gettime, "time, where the vDSO cannot tell",
        unseen: "a host whose clock source is none of the CPU's (hpet, acpi_pm, Xen's)",
    ),
    rule!(Base, SYS_exit_group, "the process ends"),
];

/// Calls that starting and ending threads takes, of the C library and Rust's runtime.
#[rustfmt::skip]
pub(crate) const THREADS: &[SyscallRule] = &[
    rule!(Base, SYS_clone, "threads, with exactly the flags of pthread_create: no process, no namespace",
        [Pin::long(0, THREAD)],
    ),
    #[cfg(not(target_env = "gnu"))]
    rule!(Base, SYS_clone, "the same in musl", [Pin::long(0, THREAD | libc::CLONE_DETACHED as u64)],
        unseen: "musl's pthread_create(3)",
    ),
    refuse!(Base, SYS_clone3, ENOSYS, "its flags lie where no filter sees them; the C library falls back on clone"),
    #[cfg(target_env = "gnu")]
    rule!(Base, SYS_mprotect, "thread stacks begin inaccessible; never executable", [NOT_EXECUTABLE]),
    #[cfg(target_env = "gnu")]
    rule!(Base, SYS_madvise, "ended threads give memory back", [Pin::int(2, libc::MADV_DONTNEED)]),
    #[cfg(target_env = "gnu")]
    rule!(Base, SYS_madvise, "guard pages of thread stacks", [Pin::int(2, GUARD_INSTALL)],
        unseen: "glibc 2.42 on Linux 6.13",
    ),
    rule!(Base, SYS_set_robust_list, "each new thread of glibc"),
    rule!(Base, SYS_rseq, "each new thread of glibc; tells the CPU without a call"),
    rule!(Base, SYS_rt_sigprocmask, "signals are blocked while a thread starts or ends"),
    rule!(Base, SYS_sigaltstack, "each thread of Rust has a stack for the overflow handler"),
    rule!(Base, SYS_gettid, "each new thread of Rust asks for its number"),
    rule!(Base, SYS_prctl, "names of threads", [Pin::int(0, libc::PR_SET_NAME)]),
    rule!(Base, SYS_sched_getaffinity, "each new thread of Rust asks the C library for its stack, which asks this too"),
    rule!(Base, SYS_getrandom, "keys of a thread's hash tables, so that a guest cannot make them collide",
        [Pin::int(2, INSECURE)],
    ),
    rule!(Base, SYS_exit, "a thread ends"),
];
