//! System calls that neither std nor nix wraps: descriptors, mounts, securebits.
#![allow(unsafe_code, reason = "raw system calls; each block says why it is sound")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// A return value of a system call as a result.
pub(crate) fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value)
}

/// A new descriptor as a result.
fn descriptor(value: libc::c_long) -> io::Result<OwnedFd> {
    let number = RawFd::try_from(check(value)?).map_err(io::Error::other)?;
    // The standard streams are open: this is an answer that is not the kernel's.
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::other("success, but there is no new descriptor"));
    }
    // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// prctl(2) with an integer argument.
pub(crate) fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<libc::c_long> {
    // SAFETY: the options used here take integers, no pointers.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, argument, 0, 0, 0) })
}

/// From now on no memory of this process becomes executable that was not, and none is writable and executable
/// (PR_SET_MDWE, Linux 6.3; earlier kernels leave it to the filter).
pub(crate) fn no_new_code() -> io::Result<()> {
    match prctl(libc::PR_SET_MDWE, libc::PR_MDWE_REFUSE_EXEC_GAIN.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        _ => Ok(()),
    }
}

/// A write beyond RLIMIT_FSIZE is to fail with EFBIG, not to end the process (SIGXFSZ, setrlimit(2)): how large a file
/// grows is the guest's choice.
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: no handler of ours is installed.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// A write to a pipe or socket that nobody reads is to fail with EPIPE, not to end the process (SIGPIPE).
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: no handler of ours is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// A child's end is kept for its parent, whatever the launcher had (SIGCHLD, waitid(2)).
pub(crate) fn hear_of_children() {
    // SAFETY: no handler of ours is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// No timer of the launcher's raises a signal any more: execve(2) keeps those of setitimer(2) and alarm(2).
pub(crate) fn stop_timers() {
    // SAFETY: plain data, for which all-zero is valid: no timer.
    let none: libc::itimerval = unsafe { std::mem::zeroed() };
    for kind in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: the kernel reads `none`. It refuses other kinds only.
        unsafe {
            libc::syscall(
                libc::SYS_setitimer,
                kind,
                &raw const none,
                ptr::null_mut::<libc::itimerval>(),
            )
        };
    }
}

/// A line of the log on a terminal that other processes have is not to stop the process (SIGTTOU, `stty tostop`).
pub(crate) fn ignore_background_writes() {
    // SAFETY: no handler of ours is installed.
    unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
}

/// Whether this is the master of a pseudoterminal: only that tells the terminal's number (TIOCGPTN, ioctl_tty(2)).
pub(crate) fn is_terminal_master(descriptor: BorrowedFd<'_>) -> bool {
    let mut number: libc::c_uint = 0;
    // SAFETY: the kernel stores an unsigned int.
    unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::TIOCGPTN, &raw mut number) == 0 }
}

/// close_range(2): closes every descriptor from `first` to `last`. None of them may belong to a living `OwnedFd`.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no pointers; the caller vouches for the descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// openat2(2) as an O_PATH descriptor, with no symbolic link on the way; `directory`: nothing else will do.
pub(crate) fn open_path(path: &CStr, directory: bool) -> io::Result<OwnedFd> {
    // SAFETY: `open_how` is plain data and all-zero is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    let kind = if directory { libc::O_DIRECTORY } else { 0 };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC | kind) as u64;
    how.resolve = libc::RESOLVE_NO_SYMLINKS;
    // SAFETY: the path is NUL-terminated and `how` outlives the call, which is told its size.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            &raw const how,
            size_of::<libc::open_how>(),
        )
    })
}

/// open_tree(2): a detached copy of the mount at `path` beneath `directory`, with the mounts beneath it if `recursive`.
/// An empty path is the directory itself.
pub(crate) fn clone_tree(directory: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: the path is NUL-terminated and outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })
}

/// mount_setattr(2): sets `attributes` (MOUNT_ATTR_*) on the mount, and on those beneath it if `recursive`.
pub(crate) fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
) -> io::Result<()> {
    // SAFETY: `mount_attr` is plain data and all-zero is valid.
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = attributes;
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is NUL-terminated; `attr` outlives the call, which is told its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// move_mount(2): attaches a detached mount at `path`, relative to `directory`.
pub(crate) fn attach(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: the paths are NUL-terminated and outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            directory.as_raw_fd(),
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// A new file system of `kind` with `options` (fsopen(2), fsconfig(2)), as a detached mount with `attributes`
/// (fsmount(2)).
pub(crate) fn new_mount(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
    let configure = |command: u32, key: *const libc::c_char, value: *const libc::c_char| {
        // SAFETY: key and value are null or NUL-terminated strings that outlive the call.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) })
    };
    for (key, value) in options {
        configure(libc::FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?;
    }
    configure(libc::FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
    // SAFETY: no pointers.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes,
        )
    })
}

/// landlock_restrict_self(2) without a ruleset, which must fail.
pub(crate) fn restrict_by_no_ruleset() -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, -1, 0) }).map(drop)
}

/// Soft and hard value of a resource limit (prlimit(2)). Where a filter answers for the kernel, no limit that anybody sets.
pub(crate) fn limit(resource: libc::__rlimit_resource_t) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: u64::MAX - 1,
        rlim_max: u64::MAX - 2,
    };
    // SAFETY: the kernel writes to `limit`, which outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Number of the mount that `path` relative to `directory` leads to, links not followed, and of the inode (statx(2)).
/// An empty path is the directory itself.
pub(crate) fn mount_and_inode(directory: BorrowedFd<'_>, path: &CStr) -> io::Result<(u64, u64)> {
    // SAFETY: `statx` is plain data and all-zero is valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let wanted = libc::STATX_INO | libc::STATX_MNT_ID;
    // SAFETY: the path is NUL-terminated; the kernel writes to `found`, which outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_statx,
            directory.as_raw_fd(),
            path.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW,
            wanted,
            &raw mut found,
        )
    })?;
    match found.stx_mask & wanted == wanted {
        true => Ok((found.stx_mnt_id, found.stx_ino)),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// No supplementary groups for the calling thread and those that it starts (setgroups(2)). The C library's function would
/// have all threads do it.
pub(crate) fn drop_own_groups() -> io::Result<()> {
    // SAFETY: no groups, so nothing is read.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) }).map(drop)
}

/// All ids of the calling thread and those that it starts (setresgid(2), setresuid(2)), likewise.
pub(crate) fn set_own_ids(uid: libc::uid_t, gid: libc::gid_t) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: likewise.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// setdomainname(2).
pub(crate) fn set_domain_name(name: &CStr) -> io::Result<()> {
    // SAFETY: pointer and length describe the string.
    check(unsafe { libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.count_bytes()) }).map(drop)
}

/// preadv2(2) from the beginning of a file. How many bytes.
pub(crate) fn read_at_start(file: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<usize> {
    let vector = libc::iovec {
        iov_base: to.as_mut_ptr().cast(),
        iov_len: to.len(),
    };
    // SAFETY: the vector describes `to`, which outlives the call; offset (in two halves) and flags are 0.
    let length =
        check(unsafe { libc::syscall(libc::SYS_preadv2, file.as_raw_fd(), &raw const vector, 1, 0, 0, 0) })?;
    usize::try_from(length).map_err(io::Error::other)
}

/// One heap for all threads. With several, glibc would open `/proc/sys/vm/overcommit_memory` and ask for the number of
/// CPUs at some later time, which no filter here lets through.
pub(crate) fn one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers only; it fails only for values out of range.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// From now on malloc takes all memory from its heap (brk(2)), large blocks too, which are few in the supervisor: no call
/// maps anonymous memory or moves any. Other C libraries than glibc know no such wish.
pub(crate) fn only_heap() {
    one_heap();
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers only.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
    }
}
