//! Names of system calls.

/// Pairs of number and name.
macro_rules! calls {
    ($($name:ident)*) => {
        &[$((libc::$name, stringify!($name))),*]
    };
}

/// Those that a file server makes; what is missing here is counted under one name, which says so.
const CALLS: &[(i64, &str)] = calls! {
    SYS_accept4 SYS_access SYS_brk SYS_capget SYS_capset SYS_chdir SYS_chroot SYS_clock_gettime SYS_clock_nanosleep SYS_clone
    SYS_clone3 SYS_close SYS_close_range SYS_copy_file_range SYS_dup SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait
    SYS_epoll_wait SYS_eventfd2 SYS_execve SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fallocate SYS_fchdir
    SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr SYS_flistxattr
    SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_getdents64
    SYS_getegid SYS_geteuid SYS_getgid SYS_getpid SYS_getrandom SYS_gettid SYS_getuid SYS_getxattr SYS_ioctl SYS_lgetxattr
    SYS_linkat SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_mkdirat SYS_mknodat
    SYS_mmap SYS_mprotect SYS_mremap SYS_munmap SYS_name_to_handle_at SYS_newfstatat SYS_open SYS_open_by_handle_at
    SYS_openat SYS_openat2 SYS_pipe2 SYS_poll SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2 SYS_pwrite64
    SYS_pwritev SYS_pwritev2 SYS_read SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmsg SYS_removexattr SYS_renameat
    SYS_renameat2 SYS_restart_syscall SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_sched_getaffinity
    SYS_sched_setaffinity SYS_sched_yield SYS_sendmsg SYS_sendto SYS_setfsgid SYS_setfsuid SYS_setgroups SYS_setresgid
    SYS_setresuid SYS_setxattr SYS_sigaltstack SYS_socketpair SYS_statfs SYS_statx SYS_symlinkat SYS_sync_file_range
    SYS_syncfs SYS_umask SYS_unlinkat SYS_utimensat SYS_write SYS_writev
};

/// The name of a system call.
pub(super) fn name(number: u64) -> &'static str {
    let found = CALLS.iter().find(|(known, _)| *known as u64 == number);
    found.map_or("a call without a name here", |(_, name)| {
        name.strip_prefix("SYS_").unwrap_or(name)
    })
}
