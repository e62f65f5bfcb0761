//! The user that the supervisor becomes when root starts it: one of its own, so that no other process may signal it and the
//! kernel's limits for a user's processes are not shared.
//!
//! Whoever has a user id holds a lock on a file that stands for it, by the protocol of systemd's dynamic users
//! (systemd.exec(5), DynamicUser=): in the same directory where there is systemd, so that neither takes the other's. The
//! lock lives with the process. Nothing is written to the file, the process can only read it, and executes nothing of it.

use std::{
    ffi::OsString,
    fs,
    hash::{BuildHasher, RandomState},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use airlockfs_options::{DYNAMIC, NOBODY, SupervisorUid};
use airlockfs_policy::{ExitKind, StartError};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, openat},
    sys::stat::{Mode, fstat, mkdirat},
    unistd::geteuid,
};

/// The user to become.
#[derive(Debug)]
pub(crate) struct OwnUser {
    /// Number of the user and of its group.
    pub(crate) id: u32,
    lock: Option<OwnedFd>,
    /// What a person should know.
    pub(crate) note: Option<String>,
}

impl OwnUser {
    /// The user that the command line and the system give. An ordinary user stays who he is.
    pub(crate) fn take(wanted: Option<SupervisorUid>, as_root: bool) -> Result<Self, StartError> {
        let alone = |id| Self {
            id,
            lock: None,
            note: None,
        };
        match (wanted, as_root) {
            (None, false) => Ok(alone(geteuid().as_raw())),
            (Some(_), false) => Err(StartError::new(
                ExitKind::Usage,
                "--supervisor-uid is root's to give: started by an ordinary user the supervisor is that user",
            )),
            (Some(SupervisorUid::This(id)), true) => Ok(alone(id)),
            (Some(SupervisorUid::OneOf { first, count }), true) => {
                one_of(first, count)?.ok_or_else(|| none_exists(first, count))
            }
            (None, true) => {
                let SupervisorUid::OneOf { first, count } = DYNAMIC else {
                    return Ok(alone(NOBODY));
                };
                // In a small user namespace none may exist.
                Ok(one_of(first, count)?.unwrap_or_else(|| Self {
                    note: Some(
                        "the supervisor shares nobody's user id: of its own (--supervisor-uid) none exists here"
                            .to_owned(),
                    ),
                    ..alone(NOBODY)
                }))
            }
        }
    }

    /// The lock, to be held as long as the process lives.
    pub(crate) fn lock(&self) -> Option<(BorrowedFd<'_>, &'static str)> {
        let lock = self.lock.as_ref()?;
        Some((lock.as_fd(), "the lock on its user id"))
    }
}

fn none_exists(first: u32, count: u32) -> StartError {
    let message =
        format!("--supervisor-uid {first}:{count}: none of these exists here and belongs to nobody by name");
    StartError::new(ExitKind::Config, message)
}

/// Most that are tried: a range may have millions.
const TRIES: u32 = 65_536;

/// One of these that is nobody's, if any is there in this user namespace.
fn one_of(first: u32, count: u32) -> Result<Option<OwnUser>, StartError> {
    let given = Given::read();
    // Anywhere: who cannot see the others' locks is most likely not to meet them.
    let start = RandomState::new().hash_one(std::process::id()) % u64::from(count);
    let places = (0..count.min(TRIES)).map(|step| (start + u64::from(step)) % u64::from(count));
    let mut ids = places
        .filter_map(|place| first.checked_add(u32::try_from(place).ok()?))
        .filter(|id| !given.has(*id))
        .peekable();
    let Some(&any) = ids.peek() else {
        return Ok(None);
    };
    let Some(locks) = locks() else {
        return Ok(Some(OwnUser {
            id: any,
            lock: None,
            note: Some(format!(
                "user id {any} is not locked, as /run cannot be written to: another airlockfsd may have it too"
            )),
        }));
    };
    for id in ids {
        match lock(&locks, id) {
            Ok(Some(lock)) => {
                return Ok(Some(OwnUser {
                    id,
                    lock: Some(lock),
                    note: None,
                }));
            }
            Ok(None) => {}
            Err(error) => {
                let message = format!("cannot lock user id {id}: {error}; or name one by --supervisor-uid");
                return Err(StartError::new(ExitKind::OsError, message));
            }
        }
    }
    let message = format!("every user id of {first}:{count} is in use; name more by --supervisor-uid");
    Err(StartError::new(ExitKind::Unavailable, message))
}

/// Where the locks are, if this process may make any: nobody else may.
fn locks() -> Option<OwnedFd> {
    let systemd = Path::new("/run/systemd").is_dir();
    let path = if systemd {
        "/run/systemd/dynamic-uid"
    } else {
        "/run/airlockfs"
    };
    match mkdirat(AT_FDCWD, path, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(_) => return None,
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = openat(AT_FDCWD, path, flags, Mode::empty()).ok()?;
    let status = fstat(&directory).ok()?;
    let sound = status.st_uid == 0 && status.st_mode & 0o022 == 0;
    // What is held of it is not to be mapped executable, empty as it is. Who may not make mounts goes without that.
    sound.then(|| airlockfs_policy::harden(directory.as_fd()).unwrap_or(directory))
}

/// Locks what stands for a user id. None: it is somebody's.
fn lock(locks: &OwnedFd, id: u32) -> nix::Result<Option<OwnedFd>> {
    let name = OsString::from(id.to_string());
    let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    loop {
        let file = openat(locks, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        match crate::sys::try_lock(&file) {
            Ok(()) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error),
        }
        // systemd removes it when it gives an id back.
        if fstat(&file)?.st_nlink > 0 {
            return Ok(Some(file));
        }
    }
}

/// User and group ids that are not to be taken: given to somebody by name, or not there in this user namespace.
struct Given {
    names: Vec<u32>,
    maps: [String; 2],
}

impl Given {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let names = ["/etc/passwd", "/etc/group"].map(read);
        Self {
            names: names.iter().flat_map(|text| numbers(text)).collect(),
            maps: ["/proc/self/uid_map", "/proc/self/gid_map"].map(read),
        }
    }

    fn has(&self, id: u32) -> bool {
        // The last one is -1 to a program that knows 16 bits.
        id == 0
            || id == u32::MAX
            || matches!(id, NOBODY | 65_535)
            || self.names.contains(&id)
            || !self.maps.iter().all(|map| maps(map, id))
    }
}

/// The ids in the text of passwd(5) or group(5).
fn numbers(text: &str) -> impl Iterator<Item = u32> {
    text.lines()
        .filter_map(|line| line.split(':').nth(2)?.parse().ok())
}

/// Whether an id is inside, by the text of a map (user_namespaces(7)).
fn maps(text: &str, id: u32) -> bool {
    text.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (Some(Some(first)), Some(Some(count))) = (numbers.next(), numbers.nth(1)) else {
            return false;
        };
        id.checked_sub(first).is_some_and(|at| at < count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_somebody_or_does_not_exist_is_not_taken() {
        let given = Given {
            names: numbers("root:x:0:0:\nlibvirt-qemu:x:64055:994::/:/bin/sh\nbroken\n").collect(),
            maps: [
                "0 0 4294967295\n".to_owned(),
                "0 100000 64000\n65530 1 20".to_owned(),
            ],
        };
        for taken in [0, 64_055, 64_001, NOBODY, 65_535, u32::MAX] {
            assert!(given.has(taken), "{taken}");
        }
        for free in [61_184, 63_999, 65_533] {
            assert!(!given.has(free), "{free}");
        }
        assert!(DYNAMIC.contains(65_519) && !DYNAMIC.contains(65_520) && !DYNAMIC.contains(61_183));
    }
}
