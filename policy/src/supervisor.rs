//! The supervisor's system calls: it waits, moves bytes between guest memory and descriptors it was handed, and talks
//! to the VMM. No call here takes a path, makes a socket or controls a device.

use crate::rule::{Pin, SyscallRule, refuse, rule};
use crate::runtime::{FALLOCATE, NOT_LOG, PLACED};

/// Protection and flags of mmap(2) for guest memory as the VMM hands it over.
const READ_WRITE: Pin = Pin::long(2, (libc::PROT_READ | libc::PROT_WRITE) as u64);
const SHARED: Pin = Pin::long(3, (libc::MAP_SHARED | libc::MAP_NORESERVE) as u64);
/// Flags of mmap(2) for empty memory in the place of what the VMM took away.
const REPLACED: Pin = Pin::long(
    3,
    (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE) as u64,
);

/// Lines besides [`crate::runtime::RUNTIME`].
#[rustfmt::skip]
pub(crate) const TABLE: &[SyscallRule] = &[
    // Waiting and doorbells. What rings is never read.
    rule!(Base, SYS_write, "eventfds: calls and doorbells; log lines on stderr"),
    #[cfg(target_arch = "x86_64")]
    rule!(Base, SYS_epoll_wait, "waits for the VMM, kicks and doorbells, the worker and signals"),
    #[cfg(not(target_arch = "x86_64"))]
    rule!(Base, SYS_epoll_pwait, "waits for the VMM, kicks and doorbells, the worker and signals"),
    rule!(Base, SYS_epoll_ctl, "kick descriptors come and go with the VMM",
        [Pin::int(1, libc::EPOLL_CTL_ADD)], [Pin::int(1, libc::EPOLL_CTL_DEL)],
    ),
    rule!(Base, SYS_close, "what the VMM or the worker handed over is closed after use"),
    rule!(Base, SYS_fcntl, "a duplicate of the VMM's connection, to end it by; the access mode of donated descriptors",
        [NOT_LOG, Pin::int(1, libc::F_DUPFD_CLOEXEC)], [Pin::int(1, libc::F_GETFL)],
    ),
    rule!(Base, SYS_rt_sigreturn, "handlers return: of SIGIO, which ends a write that the VMM lets block, and of SIGBUS, for guest memory \
        that it took away"),
    // The VMM: vhost-user.
    rule!(Base, SYS_accept4, "the VMM connects, and again after a reboot", [Pin::int(3, libc::SOCK_CLOEXEC)]),
    rule!(Base, SYS_recvmsg, "vhost-user messages with descriptors; donated descriptors",
        [NOT_LOG, Pin::int(2, 0)],
        [NOT_LOG, Pin::int_bits(2, !libc::MSG_DONTWAIT as u32, libc::MSG_CMSG_CLOEXEC as u32)],
    ),
    rule!(Base, SYS_sendmsg, "vhost-user replies, and messages passed on to the thread that carries them out", [NOT_LOG, Pin::int(2, libc::MSG_NOSIGNAL)]),
    refuse!(Base, SYS_getsockopt, ENOPROTOOPT,
        "the crate vhost asks what it is that GPU_SET_SOCKET brings, before this back end can refuse it"
    ),
    rule!(Base, SYS_shutdown, "ends the VMM's connection", [NOT_LOG, Pin::int(1, libc::SHUT_RDWR)]),
    rule!(Base, SYS_mmap, "guest memory, never executable; empty memory in its place when the VMM truncated its file",
        [READ_WRITE, SHARED], [READ_WRITE, REPLACED, Pin::int(4, -1)],
    ),
    rule!(Base, SYS_fstat, "size of the files of guest memory; kind of what the VMM gives for kicks and interrupts, and of donated \
        descriptors; GETATTR of a donated file, and whether it is setuid"),
    rule!(Donate, SYS_lseek, "LSEEK for data and holes of donated files",
        [NOT_LOG, Pin::int(2, libc::SEEK_DATA)], [NOT_LOG, Pin::int(2, libc::SEEK_HOLE)],
    ),
    // The worker.
    rule!(Base, SYS_waitid, "says how the worker ended",
        [Pin::int(0, libc::P_PIDFD as i32), Pin::int(3, libc::WEXITED | libc::WNOHANG)],
    ),
    // File data.
    rule!(Base, SYS_preadv2, "its own state in /proc, read back once the filter is in force; READ that waits",
        [NOT_LOG, PLACED, Pin::int(5, 0)],
    ),
    rule!(Donate, SYS_preadv2, "READ from a donated file to guest memory",
        [NOT_LOG, PLACED, Pin::int(5, libc::RWF_NOWAIT)],
        unseen: "what is not in the page cache is read without RWF_NOWAIT",
    ),
    rule!(Donate, SYS_fstatfs, "whether a file that knows no RWF_NOWAIT lies in memory, so that reading never waits",
        unseen: "a share on a file system without RWF_NOWAIT",
    ),
    rule!(Donate, SYS_fsync, "FSYNC of a donated file, which may be open for reading only"),
    rule!(Donate, SYS_fdatasync, "FSYNC of a donated file"),
    rule!(DonateWrite, SYS_pwritev2, "WRITE from guest memory to a donated file",
        [NOT_LOG, PLACED, Pin::int(5, 0)],
    ),
    rule!(DonateWrite, SYS_fallocate, "FALLOCATE on a donated file", [NOT_LOG, FALLOCATE]),
];
