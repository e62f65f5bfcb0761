//! A descriptor of a regular file that the worker donated.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed},
};

use airlockfs_ipc::ProtocolError;
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::statfs::{TMPFS_MAGIC, fstatfs},
};

use super::Access;
use crate::sys::fstat;

/// How reads of a file behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// They wait for a device when the page cache lacks something; RWF_NOWAIT tells.
    MayWait,
    /// They never wait.
    NeverWaits,
    /// They wait each time, or it cannot be told.
    Waits,
}

/// The descriptor and what is known of it.
#[derive(Debug)]
pub(crate) struct DonatedFile {
    descriptor: OwnedFd,
    /// It is open for writing.
    writable: bool,
    /// Writes wait for the device (O_DIRECT, O_SYNC, O_DSYNC).
    writes_wait: bool,
    /// [`Reading`] as a number.
    reading: AtomicU8,
    /// It has a setuid or setgid bit, which a write from this process would clear.
    special_mode: AtomicBool,
    /// [`super::HandleTable::mode_changes`] when that was last looked up.
    mode_seen: AtomicU32,
}

impl DonatedFile {
    /// Checks what the worker sent: a regular file, open for exactly what the guest opened it for. With `writeback` a
    /// file opened for writing only may be readable too, since the guest's page cache fills pages.
    ///
    /// `None`: this process may not know what it is, and so cannot use it. A FUSE mount without `allow_other` refuses
    /// fstat(2) to all but who mounted it, a security module may refuse anything.
    pub(crate) fn check(
        descriptor: OwnedFd,
        access: Access,
        writeback: bool,
        mode_seen: u32,
    ) -> Result<Option<Self>, ProtocolError> {
        // The file system is not asked for these.
        let Ok(flags) = fcntl(&descriptor, FcntlArg::F_GETFL) else {
            return Ok(None);
        };
        if flags & libc::O_PATH != 0 {
            return Err(ProtocolError("a donated descriptor that is a mere path"));
        }
        let mode = flags & libc::O_ACCMODE;
        let wider = writeback && access.mode == libc::O_WRONLY && mode == libc::O_RDWR;
        if mode != access.mode && !wider {
            return Err(ProtocolError(
                "a donated descriptor open for something else than the guest's",
            ));
        }
        let Ok(status) = fstat(&descriptor) else {
            return Ok(None);
        };
        if status.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(ProtocolError("a donated descriptor that is no regular file's"));
        }
        let direct = flags & libc::O_DIRECT != 0;
        Ok(Some(Self {
            descriptor,
            writable: mode != libc::O_RDONLY,
            // O_SYNC includes O_DSYNC's bit.
            writes_wait: direct || flags & libc::O_DSYNC != 0,
            reading: AtomicU8::new(if direct { Reading::Waits } else { Reading::MayWait } as u8),
            special_mode: AtomicBool::new(is_special(status.st_mode)),
            mode_seen: AtomicU32::new(mode_seen),
        }))
    }

    /// How reads behave, as far as is known.
    pub(crate) fn reading(&self) -> Reading {
        let reading = self.reading.load(Relaxed);
        [Reading::MayWait, Reading::NeverWaits]
            .into_iter()
            .find(|known| *known as u8 == reading)
            .unwrap_or(Reading::Waits)
    }

    /// The file system does not know RWF_NOWAIT. One in memory needs it not.
    pub(crate) fn no_nowait(&self) {
        let in_memory = fstatfs(&self.descriptor).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
        let reading = if in_memory {
            Reading::NeverWaits
        } else {
            Reading::Waits
        };
        self.reading.store(reading as u8, Relaxed);
    }

    /// Whether it can be written to. Where nothing is, the filter lacks the system calls.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether a write ends in the page cache.
    pub(crate) fn can_write_at_once(&self) -> bool {
        !self.writes_wait
    }

    /// Whether a write that is to leave setuid and setgid bits alone may be made here: a process without CAP_FSETID
    /// clears them (`file_remove_privs`). If not it is the worker's. `mode_changes`: of the handle table.
    pub(crate) fn keeps_mode(&self, mode_changes: u32) -> bool {
        if self.mode_seen.swap(mode_changes, Relaxed) != mode_changes {
            let special = fstat(&self.descriptor).map_or(true, |status| is_special(status.st_mode));
            self.special_mode.store(special, Relaxed);
        }
        !self.special_mode.load(Relaxed)
    }
}

/// setuid or setgid. The latter goes even where the group may not execute, since this process is in no group.
fn is_special(mode: libc::mode_t) -> bool {
    mode & (libc::S_ISUID | libc::S_ISGID) != 0
}

impl AsFd for DonatedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
impl DonatedFile {
    pub(crate) fn for_test() -> Self {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let file = memfd_create(c"test", MFdFlags::empty()).unwrap();
        let checked = Self::check(file, Access { mode: libc::O_RDWR }, false, 0);
        checked.unwrap().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::OpenOptionsExt};

    use super::*;

    fn check(descriptor: impl Into<OwnedFd>, mode: i32, writeback: bool) -> Result<(), ProtocolError> {
        DonatedFile::check(descriptor.into(), Access { mode }, writeback, 0).map(|_| ())
    }

    fn open(mode: i32, flags: i32) -> File {
        let write = mode != libc::O_RDONLY;
        let read = mode != libc::O_WRONLY;
        let path = std::env::current_exe().unwrap();
        let path = if write {
            std::env::temp_dir().join(format!("airlockfs-{}", std::process::id()))
        } else {
            path
        };
        File::options()
            .read(read)
            .write(write)
            .create(write)
            .custom_flags(flags)
            .open(path)
            .unwrap()
    }

    #[test]
    fn only_a_regular_file_with_the_guests_access_is_taken() {
        assert!(check(open(libc::O_RDONLY, 0), libc::O_RDONLY, false).is_ok());
        assert!(check(open(libc::O_RDONLY, 0), libc::O_RDWR, false).is_err());
        assert!(check(open(libc::O_RDWR, 0), libc::O_RDONLY, false).is_err());
        assert!(check(open(libc::O_RDWR, 0), libc::O_WRONLY, false).is_err());
        assert!(check(open(libc::O_RDWR, 0), libc::O_WRONLY, true).is_ok());
        assert!(check(open(libc::O_RDWR, 0), libc::O_RDONLY, true).is_err());
        assert!(check(open(libc::O_RDONLY, libc::O_PATH), libc::O_RDONLY, false).is_err());
        assert!(check(File::open("/").unwrap(), libc::O_RDONLY, false).is_err());
        assert!(check(File::open("/dev/null").unwrap(), libc::O_RDONLY, false).is_err());
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(check(socket, libc::O_RDWR, false).is_err());
    }

    #[test]
    fn a_setuid_bit_given_later_is_noticed() {
        let file = DonatedFile::for_test();
        assert!(file.keeps_mode(0));
        nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_truncate(0o4755)).unwrap();
        assert!(file.keeps_mode(0), "nobody said so");
        assert!(!file.keeps_mode(1));
        nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_truncate(0o2745)).unwrap();
        assert!(!file.keeps_mode(2));
        nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_truncate(0o1755)).unwrap();
        assert!(file.keeps_mode(3));
    }
}
