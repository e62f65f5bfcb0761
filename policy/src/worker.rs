//! The worker's system calls: those of a file server that names one component at a time, beneath descriptors.
//! Numbers of descriptors are paths relative to the working directory, `/proc/self/fd`.

use crate::rule::{Pin, SyscallRule, rule};

const fn kind(mode: u32) -> Pin {
    Pin::int_bits(2, libc::S_IFMT, mode)
}

/// Flags of openat(2) that change something.
const CHANGING: u32 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

/// Lines besides [`crate::runtime::RUNTIME`].
#[rustfmt::skip]
pub(crate) const TABLE: &[SyscallRule] = &[
    // The supervisor.
    rule!(Base, SYS_read, "its own state in /proc, read back once the filter is in force"),
    rule!(Base, SYS_write, "doorbells; log lines on stderr"),
    rule!(Base, SYS_recvmsg, "the control channel's end of file: the supervisor is gone"),
    rule!(Base, SYS_sendmsg, "answers start-up; donates descriptors of regular files"),
    rule!(Base, SYS_close, "RELEASE, RELEASEDIR, FORGET and cold inodes"),
    // Names and attributes.
    rule!(Base, SYS_statx, "LOOKUP, GETATTR, and proof that an inode is still the same"),
    rule!(Write, SYS_openat, "LOOKUP, OPEN, CREATE, TMPFILE, OPENDIR"),
    rule!(ReadOnly, SYS_openat, "LOOKUP, OPEN, OPENDIR: for reading, nothing created or cut",
        [Pin::int_bits(2, CHANGING, 0)],
    ),
    rule!(Base, SYS_getdents64, "READDIR, READDIRPLUS"),
    rule!(Base, SYS_readlinkat, "READLINK"),
    rule!(Base, SYS_fstatfs, "STATFS"),
    // The caller's identity.
    rule!(Base, SYS_setfsuid, "acts as the caller where it creates or checks access"),
    rule!(Base, SYS_setfsgid, "acts as the caller where it creates or checks access"),
    rule!(Base, SYS_setgroups, "the caller's group that owns a setgid directory"),
    rule!(Base, SYS_capget, "before capset"),
    rule!(Base, SYS_capset, "CAP_DAC_OVERRIDE comes back where the caller's fsuid alone may not"),
    // File data.
    rule!(Base, SYS_preadv2, "READ to the ring"),
    rule!(Base, SYS_lseek, "LSEEK; READDIR at an offset"),
    rule!(Base, SYS_fsync, "FSYNC, FSYNCDIR"),
    rule!(Base, SYS_fdatasync, "FSYNC, FSYNCDIR"),
    rule!(Base, SYS_syncfs, "SYNCFS"),
    rule!(Write, SYS_pwritev2, "WRITE from the ring"),
    rule!(Write, SYS_truncate, "SETATTR of the size, by the descriptor's link"),
    rule!(Write, SYS_ftruncate, "SETATTR of the size, by handle"),
    rule!(Write, SYS_fallocate, "FALLOCATE"),
    rule!(Write, SYS_copy_file_range, "COPY_FILE_RANGE"),
    // Changes of the tree.
    rule!(Write, SYS_mkdirat, "MKDIR"),
    rule!(Write, SYS_mknodat, "MKNOD of regular files, FIFOs and sockets",
        [kind(0)], [kind(libc::S_IFREG)], [kind(libc::S_IFIFO)], [kind(libc::S_IFSOCK)],
    ),
    rule!(Write, SYS_mknodat, "MKNOD of whiteouts (0:0), which overlayfs leaves where it removed something",
        [kind(libc::S_IFCHR), Pin::int(3, 0)],
    ),
    rule!(DeviceNodes, SYS_mknodat, "MKNOD of devices", [kind(libc::S_IFCHR)], [kind(libc::S_IFBLK)]),
    rule!(Write, SYS_symlinkat, "SYMLINK"),
    rule!(Write, SYS_linkat, "LINK; a name for a file made by TMPFILE"),
    rule!(Write, SYS_renameat2, "RENAME, RENAME2"),
    rule!(Write, SYS_unlinkat, "UNLINK, RMDIR"),
    rule!(Write, SYS_fchmodat, "SETATTR of the mode, by the descriptor's link"),
    rule!(Write, SYS_fchownat, "SETATTR of owner and group"),
    rule!(Write, SYS_utimensat, "SETATTR of times"),
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
        [Pin::int(1, SET_FLAGS)], [Pin::int(1, SET_FS_XATTR)],
    ),
    // Locks.
    rule!(PosixLock, SYS_fcntl, "GETLK, SETLK: record locks that belong to the open file",
        [Pin::int(1, libc::F_OFD_GETLK)], [Pin::int(1, libc::F_OFD_SETLK)],
    ),
    rule!(Flock, SYS_flock, "SETLK of whole files"),
];

/// FS_IOC_GETFLAGS: `_IOR('f', 1, long)` (linux/fs.h).
const GET_FLAGS: i32 = 0x8008_6601_u32 as i32;
/// FS_IOC_SETFLAGS: `_IOW('f', 2, long)`.
const SET_FLAGS: i32 = 0x4008_6602;
/// FS_IOC_FSGETXATTR: `_IOR('X', 31, struct fsxattr)`.
const GET_FS_XATTR: i32 = 0x801c_581f_u32 as i32;
/// FS_IOC_FSSETXATTR: `_IOW('X', 32, struct fsxattr)`.
const SET_FS_XATTR: i32 = 0x401c_5820;
