//! The worker's system calls: those of a file server that names one component at a time, beneath descriptors.
//! Numbers of descriptors are paths relative to the working directory, `/proc/self/fd`.

use crate::rule::{Pin, SyscallRule, rule};
use crate::runtime::{FALLOCATE, NOT_LOG, PLACED};

/// A path relative to the working directory: a descriptor's number.
const BY_NUMBER: Pin = Pin::int(0, libc::AT_FDCWD);

/// Of openat(2): it never follows a symbolic link.
const NO_FOLLOW: Pin = Pin::int_bits(2, libc::O_NOFOLLOW as u32, libc::O_NOFOLLOW as u32);

/// Of openat(2): a file without a name.
const TEMPORARY: Pin = Pin::int_bits(2, libc::O_TMPFILE as u32, libc::O_TMPFILE as u32);

/// Of openat(2): nothing is created.
const NOT_CREATING: Pin = Pin::int_bits(2, libc::O_CREAT as u32, 0);

/// Of openat(2): nothing is changed.
const NOT_CHANGING: Pin = Pin::int_bits(2, CHANGING, 0);

/// The bits with which a program gets its owner's or its group's rights.
const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;

/// Of openat(2): a new file has none of them.
const NO_SET_ID: Pin = Pin::int_bits(3, SET_IDS, 0);

/// File type in the mode of mknodat(2).
const fn kind(mode: u32) -> Pin {
    Pin::int_bits(2, libc::S_IFMT, mode)
}

/// Flags of openat(2) that change something.
const CHANGING: u32 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

/// Lines besides [`crate::runtime::RUNTIME`].
#[rustfmt::skip]
pub(crate) const TABLE: &[SyscallRule] = &[
    rule!(Trap, SYS_rt_sigreturn, "a handler of SIGSYS returns",
        unseen: "ours ends the process; that of the test which tries every call returns",
    ),
    // The supervisor.
    rule!(Base, SYS_write, "doorbells; log lines on stderr"),
    rule!(Base, SYS_recvmsg, "the control channel's end of file: the supervisor is gone",
        [NOT_LOG, Pin::int(2, libc::MSG_CMSG_CLOEXEC)],
    ),
    rule!(Base, SYS_sendmsg, "answers start-up; donates descriptors of regular files",
        [NOT_LOG, Pin::int(2, libc::MSG_NOSIGNAL)],
    ),
    rule!(Base, SYS_close, "RELEASE, RELEASEDIR, FORGET and cold inodes"),
    // Names and attributes.
    rule!(Base, SYS_statx, "LOOKUP, GETATTR, and proof that an inode is still the same; never through a link",
        [Pin::int(2, libc::AT_EMPTY_PATH)], [Pin::int(2, libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT)],
    ),
    rule!(SetId, SYS_openat, "LOOKUP, CREATE, TMPFILE without following links; OPEN, OPENDIR by a descriptor's number",
        [NO_FOLLOW], [TEMPORARY], [BY_NUMBER, NOT_CREATING],
    ),
    rule!(NoSetId, SYS_openat, "the same, without set-user-ID and set-group-ID bits for a new file",
        [NO_FOLLOW, NO_SET_ID], [TEMPORARY, NO_SET_ID], [BY_NUMBER, NOT_CREATING],
    ),
    rule!(ReadOnly, SYS_openat, "the same for reading, nothing created or cut",
        [NO_FOLLOW, NOT_CHANGING], [BY_NUMBER, NOT_CHANGING],
    ),
    rule!(Base, SYS_getdents64, "READDIR, READDIRPLUS"),
    rule!(Base, SYS_readlinkat, "READLINK"),
    rule!(Base, SYS_fstatfs, "STATFS; how much room is left before root's part of it"),
    // The caller's identity.
    rule!(Base, SYS_setfsuid, "acts as the caller where it creates or checks access, as nobody where room for data is scarce"),
    rule!(Base, SYS_setfsgid, "acts as the caller where it creates or checks access"),
    rule!(Base, SYS_setgroups, "the caller's group that owns a setgid directory, and none again",
        [Pin::int(0, 0)], [Pin::int(0, 1)],
    ),
    rule!(Base, SYS_capget, "before capset"),
    rule!(Base, SYS_capset, "CAP_DAC_OVERRIDE comes back where the caller's fsuid alone may not, CAP_FSETID where nobody's takes it"),
    // File data.
    rule!(Base, SYS_preadv2, "READ to the ring; its own state in /proc, read back once the filter is in force",
        [NOT_LOG, PLACED, Pin::int(5, 0)], [NOT_LOG, PLACED, Pin::int(5, libc::RWF_NOWAIT)],
    ),
    rule!(Base, SYS_lseek, "LSEEK; READDIR at an offset",
        [NOT_LOG, Pin::int(2, libc::SEEK_SET)], [NOT_LOG, Pin::int(2, libc::SEEK_DATA)],
        [NOT_LOG, Pin::int(2, libc::SEEK_HOLE)],
    ),
    rule!(Base, SYS_fsync, "FSYNC, FSYNCDIR"),
    rule!(Base, SYS_fdatasync, "FSYNC, FSYNCDIR"),
    rule!(Base, SYS_syncfs, "SYNCFS"),
    rule!(Write, SYS_pwritev2, "WRITE from the ring", [NOT_LOG, PLACED, Pin::int(5, 0)]),
    rule!(Write, SYS_truncate, "SETATTR of the size, by the descriptor's link"),
    rule!(Write, SYS_ftruncate, "SETATTR of the size, by handle", [NOT_LOG]),
    rule!(Write, SYS_fallocate, "FALLOCATE", [NOT_LOG, FALLOCATE]),
    rule!(Write, SYS_copy_file_range, "COPY_FILE_RANGE", [NOT_LOG, Pin::int_not(2, libc::STDERR_FILENO), Pin::int(5, 0)]),
    // Changes of the tree.
    rule!(Write, SYS_mkdirat, "MKDIR"),
    rule!(SetId, SYS_mknodat, "MKNOD of regular files", [kind(libc::S_IFREG)]),
    rule!(NoSetId, SYS_mknodat, "the same, without set-user-ID and set-group-ID bits",
        [Pin::int_bits(2, libc::S_IFMT | SET_IDS, libc::S_IFREG)],
    ),
    rule!(Write, SYS_mknodat, "MKNOD of FIFOs and sockets", [kind(libc::S_IFIFO)], [kind(libc::S_IFSOCK)]),
    rule!(Write, SYS_mknodat, "MKNOD of whiteouts (0:0), which overlayfs leaves where it removed something",
        [kind(libc::S_IFCHR), Pin::int(3, 0)],
    ),
    rule!(DeviceNodes, SYS_mknodat, "MKNOD of devices", [kind(libc::S_IFCHR)], [kind(libc::S_IFBLK)]),
    rule!(Write, SYS_symlinkat, "SYMLINK"),
    rule!(Write, SYS_linkat, "LINK; a name for a file made by TMPFILE",
        [BY_NUMBER, Pin::int(4, libc::AT_SYMLINK_FOLLOW)],
    ),
    rule!(Write, SYS_renameat2, "RENAME, RENAME2",
        [Pin::int_bits(4, !(libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT), 0)],
    ),
    rule!(Write, SYS_unlinkat, "UNLINK, RMDIR", [Pin::int(2, 0)], [Pin::int(2, libc::AT_REMOVEDIR)]),
    rule!(SetId, SYS_fchmodat, "SETATTR of the mode, by the descriptor's link", [BY_NUMBER]),
    rule!(NoSetId, SYS_fchmodat, "the same, without the set-user-ID bit; set-group-ID is for directories",
        [BY_NUMBER, Pin::int_bits(2, libc::S_ISUID, 0)],
    ),
    rule!(Owner, SYS_fchownat, "SETATTR of owner and group, of a descriptor itself",
        [Pin::int(4, libc::AT_EMPTY_PATH)],
    ),
    rule!(Write, SYS_utimensat, "SETATTR of times, by the descriptor's link", [BY_NUMBER, Pin::int(3, 0)]),
    // Extended attributes.
    rule!(Xattr, SYS_getxattr, "GETXATTR"),
    rule!(Xattr, SYS_listxattr, "LISTXATTR"),
    rule!(XattrWrite, SYS_setxattr, "SETXATTR; security context of new files"),
    rule!(XattrWrite, SYS_removexattr, "REMOVEXATTR"),
    // Flags of inodes.
    rule!(FileFlags, SYS_ioctl, "IOCTL: flags of an inode are read",
        [Pin::int(1, GET_FLAGS)], [Pin::int(1, GET_FS_XATTR)],
    ),
    rule!(FileFlagsWrite, SYS_ioctl, "IOCTL: flags of an inode are set",
        [NOT_LOG, Pin::int(1, SET_FLAGS)],
    ),
    rule!(ProjectIds, SYS_ioctl, "IOCTL: project ids are set", [NOT_LOG, Pin::int(1, SET_FS_XATTR)]),
    // Locks.
    rule!(PosixLock, SYS_fcntl, "GETLK, SETLK: record locks that belong to the open file",
        [Pin::int(1, libc::F_OFD_GETLK)], [NOT_LOG, Pin::int(1, libc::F_OFD_SETLK)],
    ),
    rule!(Flock, SYS_flock, "SETLK of whole files, never waiting",
        [NOT_LOG, Pin::int(1, libc::LOCK_SH | libc::LOCK_NB)], [NOT_LOG, Pin::int(1, libc::LOCK_EX | libc::LOCK_NB)],
        [NOT_LOG, Pin::int(1, libc::LOCK_UN | libc::LOCK_NB)],
    ),
];

/// FS_IOC_GETFLAGS: `_IOR('f', 1, long)` (linux/fs.h).
const GET_FLAGS: i32 = 0x8008_6601_u32 as i32;
/// FS_IOC_SETFLAGS: `_IOW('f', 2, long)`.
const SET_FLAGS: i32 = 0x4008_6602;
/// FS_IOC_FSGETXATTR: `_IOR('X', 31, struct fsxattr)`.
const GET_FS_XATTR: i32 = 0x801c_581f_u32 as i32;
/// FS_IOC_FSSETXATTR: `_IOW('X', 32, struct fsxattr)`.
const SET_FS_XATTR: i32 = 0x401c_5820;
