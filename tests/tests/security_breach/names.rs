//! Every call that takes a name, on names of what lies outside: by paths and beneath every held descriptor.

use airlockfs_breach::Argument;
use libc::*;

use crate::pair::{Filter, Outcome, Pair, USER, Who};
use crate::road::args;

/// A call with a directory's descriptor and a name.
type At = (i64, fn(i32, &str) -> Vec<Argument>);

/// A call with a path alone.
type Path = (i64, fn(&str) -> Vec<Argument>);

/// Calls that newer kernels have than the C library's headers know: setxattrat, getxattrat, listxattrat, removexattrat,
/// open_tree_attr, file_getattr, file_setattr.
const NEW: [i64; 7] = [463, 464, 465, 466, 467, 468, 469];

/// `struct open_how` for O_PATH, which needs the fewest rights.
fn open_how() -> Vec<u8> {
    let mut how = (O_PATH as u64).to_ne_bytes().to_vec();
    how.resize(24, 0);
    how
}

/// Calls that find or change something by a descriptor and a name beneath it.
#[rustfmt::skip]
const AT: &[At] = &[
    (SYS_openat, |fd, name| args![fd, name, O_RDONLY].to_vec()),
    (SYS_openat, |fd, name| args![fd, name, O_RDONLY | O_NOFOLLOW].to_vec()),
    (SYS_openat, |fd, name| args![fd, name, O_RDWR | O_NOFOLLOW].to_vec()),
    (SYS_openat, |fd, name| args![fd, name, O_PATH | O_NOFOLLOW].to_vec()),
    (SYS_openat, |fd, name| args![fd, name, O_WRONLY | O_CREAT | O_NOFOLLOW, 0o600].to_vec()),
    (SYS_openat2, |fd, name| args![fd, name, open_how(), 24].to_vec()),
    (SYS_open_tree, |fd, name| args![fd, name, 0].to_vec()),
    (SYS_execveat, |fd, name| args![fd, name, 0, 0, 0].to_vec()),
    (SYS_name_to_handle_at, |fd, name| {
        let handle = [128_u32.to_ne_bytes().to_vec(), vec![0; 132]].concat();
        args![fd, name, handle, vec![0_u8; 4], 0].to_vec()
    }),
    (SYS_newfstatat, |fd, name| args![fd, name, vec![0_u8; 256], 0].to_vec()),
    (SYS_statx, |fd, name| args![fd, name, 0, STATX_ALL, vec![0_u8; 256]].to_vec()),
    (SYS_statx, |fd, name| {
        args![fd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_ALL, vec![0_u8; 256]].to_vec()
    }),
    (SYS_faccessat, |fd, name| args![fd, name, F_OK].to_vec()),
    (SYS_faccessat2, |fd, name| args![fd, name, F_OK, 0].to_vec()),
    (SYS_readlinkat, |fd, name| args![fd, name, vec![0_u8; 64], 64].to_vec()),
    (SYS_mkdirat, |fd, name| args![fd, name, 0o700].to_vec()),
    (SYS_mknodat, |fd, name| args![fd, name, S_IFREG | 0o600, 0].to_vec()),
    (SYS_symlinkat, |fd, name| args!["target", fd, name].to_vec()),
    (SYS_linkat, |fd, name| args![fd, name, fd, name, 0].to_vec()),
    (SYS_linkat, |fd, name| args![AT_FDCWD, name, fd, name, AT_SYMLINK_FOLLOW].to_vec()),
    (SYS_renameat2, |fd, name| args![fd, name, fd, name, 0].to_vec()),
    (SYS_unlinkat, |fd, name| args![fd, name, 0].to_vec()),
    (SYS_unlinkat, |fd, name| args![fd, name, AT_REMOVEDIR].to_vec()),
    (SYS_fchmodat, |fd, name| args![fd, name, 0o777].to_vec()),
    (SYS_fchmodat2, |fd, name| args![fd, name, 0o777, 0].to_vec()),
    (SYS_fchownat, |fd, name| args![fd, name, 0, 0, 0].to_vec()),
    (SYS_utimensat, |fd, name| args![fd, name, 0, 0].to_vec()),
    (SYS_inotify_add_watch, |fd, name| args![fd, name, IN_ALL_EVENTS].to_vec()),
    (SYS_fanotify_mark, |fd, name| args![fd, FAN_MARK_ADD, FAN_OPEN, fd, name].to_vec()),
    (SYS_mount_setattr, |fd, name| args![fd, name, 0, vec![0_u8; 32], 32].to_vec()),
    (SYS_fspick, |fd, name| args![fd, name, 0].to_vec()),
    (SYS_move_mount, |fd, name| args![fd, name, fd, name, 0].to_vec()),
    (NEW[1], |fd, name| args![fd, name, 0, "user.a", vec![0_u8; 16], 16].to_vec()),
    (NEW[2], |fd, name| args![fd, name, 0, vec![0_u8; 64], 64].to_vec()),
    (NEW[3], |fd, name| args![fd, name, 0, "user.a"].to_vec()),
    (NEW[4], |fd, name| args![fd, name, 0, vec![0_u8; 32], 32].to_vec()),
    (NEW[5], |fd, name| args![fd, name, vec![0_u8; 24], 24, 0].to_vec()),
];

/// Calls that take a path alone.
#[rustfmt::skip]
const PATH: &[Path] = &[
    (SYS_execve, |path| args![path, 0, 0].to_vec()),
    (SYS_chdir, |path| args![path].to_vec()),
    (SYS_chroot, |path| args![path].to_vec()),
    (SYS_pivot_root, |path| args![path, path].to_vec()),
    (SYS_mount, |path| args![path, path, "", MS_BIND, 0].to_vec()),
    (SYS_umount2, |path| args![path, 0].to_vec()),
    (SYS_truncate, |path| args![path, 0].to_vec()),
    (SYS_statfs, |path| args![path, vec![0_u8; 256]].to_vec()),
    (SYS_getxattr, |path| args![path, "user.a", vec![0_u8; 16], 16].to_vec()),
    (SYS_lgetxattr, |path| args![path, "user.a", vec![0_u8; 16], 16].to_vec()),
    (SYS_listxattr, |path| args![path, vec![0_u8; 64], 64].to_vec()),
    (SYS_llistxattr, |path| args![path, vec![0_u8; 64], 64].to_vec()),
    (SYS_setxattr, |path| args![path, "user.a", "x", 1, 0].to_vec()),
    (SYS_lsetxattr, |path| args![path, "user.a", "x", 1, 0].to_vec()),
    (SYS_removexattr, |path| args![path, "user.a"].to_vec()),
    (SYS_lremovexattr, |path| args![path, "user.a"].to_vec()),
    (SYS_swapon, |path| args![path, 0].to_vec()),
    (SYS_swapoff, |path| args![path].to_vec()),
    (SYS_acct, |path| args![path].to_vec()),
    // Q_GETFMT of user quotas
    (SYS_quotactl, |path| args![0x8000_0400_u32, path, 0, vec![0_u8; 8]].to_vec()),
    // BPF_OBJ_GET needs a pointer in memory; its number is in the sweep.
    #[cfg(target_arch = "x86_64")]
    (SYS_open, |path| args![path, O_RDONLY].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_creat, |path| args![path, 0o600].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_stat, |path| args![path, vec![0_u8; 256]].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_lstat, |path| args![path, vec![0_u8; 256]].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_access, |path| args![path, F_OK].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_readlink, |path| args![path, vec![0_u8; 64], 64].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_mkdir, |path| args![path, 0o700].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_rmdir, |path| args![path].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_mknod, |path| args![path, S_IFREG | 0o600, 0].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_unlink, |path| args![path].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_rename, |path| args![path, path].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_link, |path| args![path, path].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_symlink, |path| args!["target", path].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_chmod, |path| args![path, 0o777].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_chown, |path| args![path, 0, 0].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_lchown, |path| args![path, 0, 0].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_utime, |path| args![path, 0].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_utimes, |path| args![path, 0].to_vec()),
    #[cfg(target_arch = "x86_64")]
    (SYS_futimesat, |path| args![AT_FDCWD, path, 0].to_vec()),
];

/// What says that there is no way to what a name means: it is not there, not a directory, not allowed, or a link that
/// is not followed. The kernel may also not know the call, and some calls ask for rights first.
const NO_WAY: [i32; 7] = [ENOENT, ENOTDIR, EACCES, EPERM, ELOOP, EROFS, ENOSYS];

/// Tries every call on every name, from every directory and from none.
pub(crate) fn nothing_outside_is_named(who: Who, directories: &[i32], names: &[String], pair: &Pair) {
    let tried = |number: i64, arguments: &[Argument]| {
        let outcome = pair.call(who, number, arguments);
        let no_way = match outcome {
            Outcome::Returned(result) => {
                // These want a descriptor of their own kind first.
                let watching = [SYS_inotify_add_watch, SYS_fanotify_mark].contains(&number);
                let errnos: &[i32] = if watching { &[EBADF, EINVAL] } else { &NO_WAY };
                errnos.iter().any(|errno| result == -i64::from(*errno))
            }
            Outcome::Trapped | Outcome::Killed => true,
        };
        assert!(
            no_way,
            "{who:?}, {:?}: {number} {arguments:?} ended with {outcome:?}",
            pair.filter
        );
        pair.denied(who, outcome);
    };
    for name in names {
        for directory in [&[AT_FDCWD], directories].concat() {
            for (number, arguments) in AT {
                tried(*number, &arguments(directory, name));
            }
        }
        for (number, arguments) in PATH {
            tried(*number, &arguments(name));
        }
    }
}

/// With the filter that traps and without any, as root and as an ordinary user starts it.
pub(crate) fn each_way(who: Who, check: impl Fn(Who, &Pair)) {
    for (filter, user) in [
        (Filter::Trap, None),
        (Filter::None, None),
        (Filter::None, Some(USER)),
    ] {
        check(who, &Pair::started(filter, &[], user));
    }
}
