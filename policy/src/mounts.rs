//! The mounts of a confined process: the worker's root is the share, the supervisor's is empty.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use airlockfs_ipc::message::Share;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::sys::statvfs::FsFlags;
use nix::unistd::{chroot, fchdir, pivot_root};

use crate::proof::no_effect;
use crate::{Advised, ExitKind, StartError, gather, sys};

const HARDENED: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// The directory in a mount of its own, from which nothing is executed, by the way of executable memory either (nosuid,
/// nodev, noexec). It is attached nowhere.
///
/// # Errors
/// Mounts are not this process's to make.
pub fn harden(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let copy = sys::clone_tree(directory, c"", false)?;
    sys::set_mount_attributes(copy.as_fd(), HARDENED, false)?;
    Ok(copy)
}

/// Mounts that come and go on the host are followed; nothing done here reaches the host (MS_SLAVE).
pub(crate) fn follow_host() -> Result<(), StartError> {
    propagation(MsFlags::MS_SLAVE)
}

/// Mounts that come and go on the host are not seen (MS_PRIVATE).
pub(crate) fn leave_host() -> Result<(), StartError> {
    propagation(MsFlags::MS_PRIVATE)
}

fn propagation(kind: MsFlags) -> Result<(), StartError> {
    let propagate = |kind: MsFlags| mount(None::<&CStr>, "/", None::<&CStr>, kind, None::<&CStr>);
    // Two kinds at once are none. What follows would otherwise change the host's own mounts.
    if propagate(MsFlags::MS_SHARED | MsFlags::MS_SLAVE).is_ok() {
        return Err(no_effect("mount", "it was asked for what no kernel does"));
    }
    propagate(kind | MsFlags::MS_REC)
        .map_err(|error| failed("cannot cut mount propagation to the host", error.into()))
}

/// Opens the share's directory, or regular file if it has a name to stand under, and checks that it is the one the
/// supervisor saw.
///
/// # Errors
/// It is gone, a link stands in its path, or it is another one.
fn open_share(share: &Share) -> Result<OwnedFd, StartError> {
    let shown = String::from_utf8_lossy(&share.path);
    let path = CString::new(share.path.as_slice())
        .map_err(|_| StartError::new(ExitKind::Usage, format!("{shown}: a NUL byte in the path")))?;
    let directory = sys::open_path(&path, share.name.is_none()).map_err(|error| {
        StartError::new(
            ExitKind::NoInput,
            format!("cannot open the shared directory {shown}: {error}"),
        )
    })?;
    let found =
        fstat(&directory).map_err(|error| failed("cannot look at the shared directory", error.into()))?;
    if !matches!(found.st_mode & libc::S_IFMT, libc::S_IFDIR | libc::S_IFREG) {
        return Err(StartError::new(
            ExitKind::NoInput,
            format!("{shown} is neither a directory nor a regular file"),
        ));
    }
    if (found.st_dev, found.st_ino) != share.identity {
        return Err(StartError::new(
            ExitKind::NoInput,
            format!("{shown} was replaced by another while starting; start again"),
        ));
    }
    Ok(directory)
}

/// Makes the shares the root directory and forgets every other mount. A single share is the root itself; several
/// stand by name in a small read-only tmpfs. Returns each share's root as seen from inside, in order.
pub(crate) fn enter_shares(shares: &[Share], readonly: bool) -> Result<Vec<OwnedFd>, StartError> {
    let mut copies = Vec::with_capacity(shares.len());
    for share in shares {
        let directory = open_share(share)?;
        let copy = sys::clone_tree(directory.as_fd(), c"", true)
            .map_err(|error| failed("cannot copy the share's mounts (open_tree)", error))?;
        let attributes = match readonly || share.readonly {
            true => HARDENED | libc::MOUNT_ATTR_RDONLY,
            false => HARDENED,
        };
        sys::set_mount_attributes(copy.as_fd(), attributes, true).map_err(|error| {
            failed(
                "cannot set the share's mount flags (mount_setattr, Linux 5.12)",
                error,
            )
        })?;
        let found = fstatfs(&copy).map_err(|error| failed("cannot look at a share", error.into()))?;
        if !found.flags().contains(flags(attributes)) {
            return Err(no_effect("mount_setattr", "the share's mount lacks flags"));
        }
        copies.push(copy);
    }
    let shelf;
    let root = match (shares, copies.as_slice()) {
        ([Share { name: None, .. }], [copy]) => {
            enter(copy.as_fd())?;
            copy.as_fd()
        }
        _ => {
            shelf = enter_shelf(shares, &copies)?;
            shelf.as_fd()
        }
    };
    detach_host(root)?;
    Ok(copies)
}

/// Flags of a mount as statfs(2) shows them.
fn flags(attributes: u64) -> FsFlags {
    [
        (libc::MOUNT_ATTR_RDONLY, FsFlags::ST_RDONLY),
        (libc::MOUNT_ATTR_NOSUID, FsFlags::ST_NOSUID),
        (libc::MOUNT_ATTR_NODEV, FsFlags::ST_NODEV),
        (libc::MOUNT_ATTR_NOEXEC, FsFlags::ST_NOEXEC),
    ]
    .into_iter()
    .filter(|(attribute, _)| attributes & attribute != 0)
    .map(|(_, flag)| flag)
    .collect()
}

/// Several shares: each by its name in a tmpfs.
fn enter_shelf(shares: &[Share], copies: &[OwnedFd]) -> Result<OwnedFd, StartError> {
    let options = [(c"size", c"64k"), (c"nr_inodes", c"1k"), (c"mode", c"0555")];
    let shelf = sys::new_mount(c"tmpfs", &options, HARDENED)
        .map_err(|error| failed("cannot make a root for several shares (tmpfs)", error))?;
    attach_over_root(shelf.as_fd())?;
    for (share, copy) in shares.iter().zip(copies) {
        let name = share.name.as_deref().and_then(|name| CString::new(name).ok());
        let name = name.filter(|name| !matches!(name.to_bytes(), b"" | b"." | b".."));
        let name = name
            .filter(|name| !name.to_bytes().contains(&b'/'))
            .ok_or_else(|| {
                StartError::new(
                    ExitKind::Usage,
                    "each of several shares needs a name of one path component",
                )
            })?;
        let mode = Mode::from_bits_truncate(0o555);
        let point = fstat(copy).and_then(|found| match found.st_mode & libc::S_IFMT {
            libc::S_IFDIR => mkdirat(&shelf, name.as_c_str(), mode),
            _ => mknodat(&shelf, name.as_c_str(), SFlag::S_IFREG, mode, 0),
        });
        point.map_err(|error| failed("cannot make a share's mount point", error.into()))?;
        sys::attach(copy.as_fd(), shelf.as_fd(), &name)
            .map_err(|error| failed("cannot attach a share (move_mount)", error))?;
    }
    sys::set_mount_attributes(shelf.as_fd(), HARDENED | libc::MOUNT_ATTR_RDONLY, false)
        .map_err(|error| failed("cannot make the root of several shares read-only", error))?;
    pivot(shelf.as_fd())?;
    Ok(shelf)
}

/// Makes the only share the root directory by chroot(2).
pub(crate) fn chroot_to_share(shares: &[Share]) -> Result<Vec<OwnedFd>, StartError> {
    let [share] = shares else {
        return Err(StartError::new(
            ExitKind::Usage,
            "--sandbox chroot takes one shared directory",
        ));
    };
    let directory = open_share(share)?;
    chroot_to(directory.as_fd())?;
    Ok(vec![directory])
}

/// The shares where they are.
pub(crate) fn open_shares(shares: &[Share]) -> Result<Vec<OwnedFd>, StartError> {
    shares.iter().map(open_share).collect()
}

/// Makes an empty directory the root and begins to forget every other mount.
pub(crate) fn enter_nothing() -> Result<Leaving, StartError> {
    let root = empty()?;
    enter(root.as_fd())?;
    let thread = gather::aside("leaving", move || detach_host(root.as_fd()));
    thread.map(Leaving).map_err(|error| {
        StartError::new(
            ExitKind::OsError,
            format!("cannot start a thread: {}", Advised(&error)),
        )
    })
}

/// The host's mounts, on their way out of this namespace. The kernel waits there until no processor looks at them any more,
/// for up to a millisecond while the worker is loaded, and the supervisor has other things to give up meanwhile. The thread
/// keeps its own ids and capabilities until it has ended; nothing from outside is read before.
#[derive(Debug)]
pub(crate) struct Leaving(JoinHandle<Result<(), StartError>>);

impl Leaving {
    /// Waits until they are gone, and the thread is.
    pub(crate) fn finish(self) -> Result<(), StartError> {
        let detached = self.0.join();
        detached.unwrap_or_else(|_| Err(failed(DETACH, Errno::ECANCELED.into())))
    }
}

const DETACH: &str = "cannot detach the host's mounts (umount)";

/// Makes an empty directory the root by chroot(2), which needs no mount namespace but leaves the mounts in place.
pub(crate) fn chroot_to_nothing() -> Result<(), StartError> {
    chroot_to(empty()?.as_fd())
}

/// Makes `directory` the root by chroot(2).
fn chroot_to(directory: BorrowedFd<'_>) -> Result<(), StartError> {
    fchdir(directory)
        .and_then(|()| chroot("."))
        .map_err(|error| failed("cannot change the root directory (chroot)", error.into()))?;
    is_at(directory, &[c"/", c"."], "chroot")
}

/// An empty read-only tmpfs, not attached anywhere.
fn empty() -> Result<OwnedFd, StartError> {
    let options = [(c"size", c"4k"), (c"nr_inodes", c"1"), (c"mode", c"0000")];
    sys::new_mount(c"tmpfs", &options, HARDENED | libc::MOUNT_ATTR_RDONLY)
        .map_err(|error| failed("cannot make an empty root (tmpfs)", error))
}

fn enter(mount: BorrowedFd<'_>) -> Result<(), StartError> {
    attach_over_root(mount)?;
    pivot(mount)
}

fn attach_over_root(mount: BorrowedFd<'_>) -> Result<(), StartError> {
    sys::attach(mount, AT_FDCWD, c"/")
        .map_err(|error| failed("cannot attach the new root (move_mount)", error))
}

/// Makes `root`, attached over `/`, the root directory (pivot_root(2): new and old root may be the same directory, the old
/// one then lies on top). [`detach_host`] must follow.
fn pivot(root: BorrowedFd<'_>) -> Result<(), StartError> {
    fchdir(root).and_then(|()| pivot_root(".", ".")).map_err(|error| {
        failed(
            "cannot change the root directory (pivot_root; an initramfs cannot be left this way)",
            error.into(),
        )
    })
}

/// Detaches all that was there before [`pivot`]: what lies on top of the root directory is what umount(2) means by it.
/// Then no path leads out of `root`: the way up from the root directory would lead to what lies on top of it.
fn detach_host(root: BorrowedFd<'_>) -> Result<(), StartError> {
    umount2("/", MntFlags::MNT_DETACH).map_err(|error| failed(DETACH, error.into()))?;
    is_at(root, &[c"/", c"/..", c"."], "pivot_root or umount2")
}

/// Each of these paths leads to `directory`, or `call` had no effect.
pub(crate) fn is_at(directory: BorrowedFd<'_>, paths: &[&CStr], call: &str) -> Result<(), StartError> {
    let look = |from: BorrowedFd<'_>, path: &CStr| {
        sys::mount_and_inode(from, path).map_err(|error| failed("cannot look at the root directory", error))
    };
    let wanted = look(directory, c"")?;
    for path in paths {
        if look(AT_FDCWD, path)? != wanted {
            let but = format!("{} is another directory", path.to_string_lossy());
            return Err(no_effect(call, &but));
        }
    }
    Ok(())
}

/// An O_PATH descriptor of `/proc/self/fd`, and what is weaker than it should be.
///
/// It is a detached copy of that one directory: nothing else of procfs can be reached from it, not even by `..`. A
/// process that may not copy mounts (`--sandbox none` without capabilities) works from the host's directory.
pub(crate) fn proc_self_fd() -> Result<(OwnedFd, Option<String>), StartError> {
    let copied = sys::clone_tree(AT_FDCWD, c"/proc/self/fd", false).and_then(own_descriptors);
    if let Ok(directory) = copied {
        return Ok((directory, None));
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open("/proc/self/fd", flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(own_descriptors)
        .map_err(|error| failed("cannot open /proc/self/fd (is /proc mounted?)", error))?;
    let weakness = "the host's procfs can be named by relative paths (no right to copy a mount)";
    Ok((directory, Some(weakness.to_owned())))
}

/// Checks that `directory` is procfs and lists this process's own descriptors.
fn own_descriptors(directory: OwnedFd) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;

    let name = directory.as_raw_fd().to_string();
    let kind = fstatfs(&directory)?.filesystem_type();
    let reopened = openat(
        &directory,
        name.as_str(),
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let (here, there) = (fstat(&directory)?, fstat(&reopened)?);
    if kind != PROC_SUPER_MAGIC || (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino) {
        return Err(io::Error::other("not this process's descriptors"));
    }
    Ok(directory)
}

fn failed(what: &str, error: io::Error) -> StartError {
    let kind = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ExitKind::Permission,
        Some(libc::ENOSYS | libc::EINVAL) => ExitKind::Unavailable,
        _ => ExitKind::OsError,
    };
    let hint = match kind {
        ExitKind::Permission => {
            "; where a container or AppArmor forbids mounts (kernel.apparmor_restrict_unprivileged_userns), allow them \
             or use --sandbox none"
        }
        _ => "",
    };
    StartError::new(kind, format!("{what}: {error}{hint}"))
}
