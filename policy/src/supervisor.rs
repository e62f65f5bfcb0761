//! The supervisor's system calls: it waits, moves bytes between guest memory and descriptors it was handed, and talks
//! to the VMM. No call here takes a path, makes a socket or controls a device.

use crate::rule::{Pin, SyscallRule, rule};
use crate::runtime::{FALLOCATE, NOT_EXECUTABLE};

/// Shared mappings of descriptors, flags of mmap(2): guest memory as the VMM hands it over.
const SHARED: Pin = Pin::long_bits(3, !(libc::MAP_NORESERVE as u64), libc::MAP_SHARED as u64);

/// Lines besides [`crate::runtime::RUNTIME`].
#[rustfmt::skip]
pub(crate) const TABLE: &[SyscallRule] = &[
    // Waiting and doorbells.
    rule!(Base, SYS_read, "eventfds: kicks and doorbells; signalfd"),
    rule!(Base, SYS_write, "eventfds: calls and doorbells; log lines on stderr"),
    #[cfg(target_arch = "x86_64")]
    rule!(Base, SYS_poll, "waits for the VMM, the worker and signals"),
    #[cfg(not(target_arch = "x86_64"))]
    rule!(Base, SYS_ppoll, "waits for the VMM, the worker and signals"),
    #[cfg(target_arch = "x86_64")]
    rule!(Base, SYS_epoll_wait, "each queue's thread waits for kicks and doorbells"),
    #[cfg(not(target_arch = "x86_64"))]
    rule!(Base, SYS_epoll_pwait, "each queue's thread waits for kicks and doorbells"),
    rule!(Base, SYS_epoll_ctl, "kick descriptors come and go with the VMM",
        [Pin::int(1, libc::EPOLL_CTL_ADD)], [Pin::int(1, libc::EPOLL_CTL_DEL)],
    ),
    rule!(Base, SYS_epoll_create1, "each queue's thread makes its own set", [Pin::int(0, libc::EPOLL_CLOEXEC)]),
    rule!(Base, SYS_eventfd2, "ends the threads of queues, for each connection of a VMM",
        [Pin::int(0, 0), Pin::int(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)],
    ),
    rule!(Base, SYS_close, "what the VMM or the worker handed over is closed after use"),
    rule!(Base, SYS_fcntl, "copies of descriptors; the access mode of those handed over",
        [Pin::int(1, libc::F_DUPFD_CLOEXEC)], [Pin::int(1, libc::F_GETFL)],
    ),
    // The VMM: vhost-user.
    rule!(Base, SYS_accept4, "the VMM connects, and again after a reboot", [Pin::int(3, libc::SOCK_CLOEXEC)]),
    rule!(Base, SYS_recvmsg, "vhost-user messages with descriptors; donated descriptors",
        [Pin::int(2, 0)], [Pin::int_bits(2, !libc::MSG_DONTWAIT as u32, libc::MSG_CMSG_CLOEXEC as u32)],
    ),
    rule!(Base, SYS_sendmsg, "vhost-user replies", [Pin::int(2, libc::MSG_NOSIGNAL)]),
    rule!(Base, SYS_shutdown, "ends the VMM's connection", [Pin::int(1, libc::SHUT_RDWR)]),
    rule!(Base, SYS_mmap, "guest memory, never executable", [NOT_EXECUTABLE, SHARED]),
    rule!(Donate, SYS_lseek, "LSEEK for data and holes of donated files",
        [Pin::int(2, libc::SEEK_DATA)], [Pin::int(2, libc::SEEK_HOLE)],
    ),
    rule!(Base, SYS_fstat, "a descriptor handed over must be a regular file"),
    // The worker.
    rule!(Base, SYS_waitid, "says how the worker ended",
        [Pin::int(0, libc::P_PIDFD as i32), Pin::int(3, libc::WEXITED | libc::WNOHANG)],
    ),
    // File data.
    rule!(Donate, SYS_preadv2, "READ from a donated file to guest memory",
        [Pin::int(5, 0)], [Pin::int(5, libc::RWF_NOWAIT)],
        unseen: "what is not in the page cache is read without RWF_NOWAIT",
    ),
    rule!(Donate, SYS_fstatfs, "whether a file that knows no RWF_NOWAIT lies in memory, so that reading never waits",
        unseen: "a share on a file system without RWF_NOWAIT",
    ),
    rule!(Donate, SYS_fsync, "FSYNC of a donated file, which may be open for reading only"),
    rule!(Donate, SYS_fdatasync, "FSYNC of a donated file"),
    rule!(DonateWrite, SYS_pwritev2, "WRITE from guest memory to a donated file", [Pin::int(5, 0)]),
    rule!(DonateWrite, SYS_fallocate, "FALLOCATE on a donated file", [FALLOCATE]),
];
