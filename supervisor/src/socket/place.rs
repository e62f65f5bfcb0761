//! Where the socket stands: a directory that may be another user's, who changes it meanwhile.
//!
//! The directory is opened once. What is done by name is done beneath it, and to what has been looked at by a descriptor.
//! Nothing is done to a socket by its name once others can see it: it is born with its permissions, and one for a group
//! gets that group in a directory of our own and is moved from there, complete.

use std::{
    ffi::{OsStr, OsString},
    hash::{BuildHasher, RandomState},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use airlockfs_policy::{ExitKind, StartError};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2},
    sys::{
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket},
        stat::{FileStat, Mode, fchmod, fstat, fstatat, mkdirat, umask},
    },
    unistd::{Gid, Group, UnlinkatFlags, fchownat, geteuid, unlinkat},
};

/// The place of a socket.
pub(super) struct Place<'a> {
    path: &'a Path,
    directory: OwnedFd,
    name: &'a OsStr,
}

const PATH_ONLY: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl<'a> Place<'a> {
    /// Looks up the directory, for the only time.
    pub(super) fn of(path: &'a Path) -> Result<Self, StartError> {
        let Some(name) = path.file_name() else {
            let message = format!("{} does not end with a name for a socket", path.display());
            return Err(StartError::new(ExitKind::Usage, message));
        };
        let directory = match path.parent() {
            None => Path::new("/"),
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = openat(AT_FDCWD, directory, flags, Mode::empty()).map_err(|error| {
            let message = format!("cannot look at the directory of {}: {error}", path.display());
            StartError::new(kind(error), message)
        })?;
        Ok(Self {
            path,
            directory,
            name,
        })
    }

    /// Removes a socket that nobody listens on. It is an error if somebody does, or if something else is there.
    pub(super) fn clear(&self) -> Result<(), StartError> {
        let shown = self.path.display();
        let refused = |kind, message| Err(StartError::new(kind, message));
        // While it is held, its inode number is nobody else's.
        let found = openat(&self.directory, self.name, PATH_ONLY, Mode::empty())
            .and_then(|found| Ok((fstat(&found)?, found)));
        let (status, found) = match found {
            Ok(found) => found,
            Err(Errno::ENOENT) => return Ok(()),
            Err(error) => return refused(ExitKind::NoInput, format!("cannot look at {shown}: {error}")),
        };
        if status.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            let message = format!("{shown} is there already and no socket; name another --socket-path");
            return refused(ExitKind::NoInput, message);
        }
        match listens(&found) {
            Ok(false) => {}
            Ok(true) => return Err(self.in_use()),
            Err(error) => {
                return refused(
                    ExitKind::NoInput,
                    format!("cannot tell if {shown} is in use: {error}"),
                );
            }
        }
        self.remove(&status)
    }

    /// Removes the socket with this status, and no other that came in its place. Aside nobody puts another there.
    fn remove(&self, stale: &FileStat) -> Result<(), StartError> {
        let failed = |error: Errno| {
            let message = format!("cannot remove the stale socket {}: {error}", self.path.display());
            StartError::new(ExitKind::Permission, message)
        };
        let aside = unlikely_name();
        let (directory, only) = (&self.directory, RenameFlags::RENAME_NOREPLACE);
        match renameat2(directory, self.name, directory, aside.as_os_str(), only) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        let moved = fstatat(directory, aside.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
        if (moved.st_dev, moved.st_ino) == (stale.st_dev, stale.st_ino) {
            return unlinkat(directory, aside.as_os_str(), UnlinkatFlags::NoRemoveDir).map_err(failed);
        }
        renameat2(directory, aside.as_os_str(), directory, self.name, only).map_err(failed)?;
        Err(self.in_use())
    }

    /// A socket that its owner alone may connect to.
    pub(super) fn bind(&self) -> Result<UnixListener, StartError> {
        let listener = bound(self.path, Mode::S_IRUSR | Mode::S_IWUSR);
        listener.map_err(|error| self.not_bound(error))
    }

    /// A socket that members of `group` may connect to, too.
    pub(super) fn bind_for(&self, group: &str) -> Result<UnixListener, StartError> {
        let shown = self.path.display();
        let refused = |error: Errno| {
            let message = format!("cannot give {shown} to group {group}: {error}");
            StartError::new(ExitKind::Permission, message)
        };
        let Some(Group { gid, .. }) = Group::from_name(group).map_err(refused)? else {
            let message = format!("there is no group {group}");
            return Err(StartError::new(ExitKind::NoInput, message));
        };
        let nursery = Nursery::new(self).map_err(|error| self.not_bound(error))?;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IWGRP;
        let listener = bound(&nursery.path_of(self.name), mode).map_err(|error| self.not_bound(error))?;
        nursery.give(self.name, gid).map_err(refused)?;
        match nursery.publish() {
            Ok(()) => Ok(listener),
            Err(Errno::EEXIST) => Err(self.in_use()),
            Err(error) => Err(self.not_bound(error)),
        }
    }

    fn not_bound(&self, error: Errno) -> StartError {
        let shown = self.path.display();
        let message = format!(
            "cannot bind {shown}: {}; does its directory exist, and is it yours?",
            std::io::Error::from(error)
        );
        StartError::new(kind(error), message)
    }

    fn in_use(&self) -> StartError {
        let shown = self.path.display();
        let message = format!("{shown} is in use by another process; end it or name another --socket-path");
        StartError::new(ExitKind::Unavailable, message)
    }
}

fn kind(error: Errno) -> ExitKind {
    match error {
        Errno::EACCES | Errno::EPERM => ExitKind::Permission,
        _ => ExitKind::NoInput,
    }
}

/// A path to what a descriptor stands for (proc_pid_fd(5)).
fn by_descriptor(descriptor: &impl AsRawFd) -> PathBuf {
    Path::new("/proc/self/fd").join(descriptor.as_raw_fd().to_string())
}

/// Whether a process listens on this socket. Never waits for it.
fn listens(found: &OwnedFd) -> nix::Result<bool> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let visitor = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(&by_descriptor(found))?;
    match connect(visitor.as_raw_fd(), &address) {
        // Others are before us.
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A socket that listens, whose inode is born with `mode`. That of the socket itself is what bind(2) begins with, and
/// takes away from, whatever default ACL (acl(5)) the directory has; the process's umask would not count beside one.
fn bound(path: &Path, mode: Mode) -> nix::Result<UnixListener> {
    let socket = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    fchmod(&socket, mode)?;
    let address = UnixAddr::new(path)?;
    // There is one thread yet.
    let before = umask(Mode::empty());
    let done = bind(socket.as_raw_fd(), &address);
    umask(before);
    done.and_then(|()| listen(&socket, Backlog::new(128)?))?;
    Ok(UnixListener::from(socket))
}

/// A name that nobody else has.
fn unlikely_name() -> OsString {
    format!(
        ".airlockfs-{:016x}",
        RandomState::new().hash_one(std::process::id())
    )
    .into()
}

/// A directory that nobody else can change, for a socket that is not complete; beside the place where it will stand.
struct Nursery<'a> {
    place: &'a Place<'a>,
    name: OsString,
    directory: OwnedFd,
}

impl<'a> Nursery<'a> {
    fn new(place: &'a Place<'a>) -> nix::Result<Self> {
        let name = unlikely_name();
        mkdirat(&place.directory, name.as_os_str(), Mode::S_IRWXU)?;
        let flags = PATH_ONLY | OFlag::O_DIRECTORY;
        let directory = openat(&place.directory, name.as_os_str(), flags, Mode::empty());
        let directory = directory.inspect_err(|_| remove_directory(place, &name))?;
        let own = Self {
            place,
            name,
            directory,
        };
        let status = fstat(&own.directory)?;
        if status.st_uid != geteuid().as_raw() || status.st_mode & 0o077 != 0 {
            // Another one came in its place, or the file system keeps no permissions.
            return Err(Errno::EPERM);
        }
        crate::sys::remove_default_acl(&by_descriptor(&own.directory))?;
        Ok(own)
    }

    fn path_of(&self, name: &OsStr) -> PathBuf {
        by_descriptor(&self.directory).join(name)
    }

    fn give(&self, name: &OsStr, group: Gid) -> nix::Result<()> {
        fchownat(
            self.directory.as_fd(),
            name,
            None,
            Some(group),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
    }

    /// Moves the socket to its place, unless something is there.
    fn publish(&self) -> nix::Result<()> {
        let (directory, name) = (&self.place.directory, self.place.name);
        renameat2(
            &self.directory,
            name,
            directory,
            name,
            RenameFlags::RENAME_NOREPLACE,
        )
    }
}

impl Drop for Nursery<'_> {
    fn drop(&mut self) {
        // It was moved, or is not to stay.
        let _ = unlinkat(&self.directory, self.place.name, UnlinkatFlags::NoRemoveDir);
        remove_directory(self.place, &self.name);
    }
}

fn remove_directory(place: &Place<'_>, name: &OsStr) {
    // Empty or not there, unless its owner put something there.
    let _ = unlinkat(&place.directory, name, UnlinkatFlags::RemoveDir);
}
