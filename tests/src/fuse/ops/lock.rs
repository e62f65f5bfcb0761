//! Locks: GETLK and SETLK. SETLKW may wait for long and goes through a lane instead.

use nix::errno::Errno;

use super::file::Opened;
use crate::fuse::abi::{FileLock, GETLK, LkIn, LkOut, SETLK, lock_flags};
use crate::fuse::client::{Client, bytes};

impl Client {
    /// GETLK: the lock in the way of this one, or F_UNLCK.
    pub fn getlk(&self, file: Opened, owner: u64, lk: FileLock) -> Result<FileLock, Errno> {
        let body = LkIn {
            fh: file.fh,
            owner,
            lk,
            ..LkIn::default()
        };
        let out: LkOut = self.call_struct(GETLK, file.node, &[bytes(&body)])?;
        Ok(out.lk)
    }

    /// SETLK of a POSIX lock.
    pub fn setlk(&self, file: Opened, owner: u64, lk: FileLock) -> Result<(), Errno> {
        let body = LkIn {
            fh: file.fh,
            owner,
            lk,
            ..LkIn::default()
        };
        self.call_empty(SETLK, file.node, &[bytes(&body)])
    }

    /// SETLK of a flock(2) lock; `kind` is F_RDLCK, F_WRLCK or F_UNLCK.
    pub fn flock(&self, file: Opened, owner: u64, kind: u32) -> Result<(), Errno> {
        let lk = FileLock {
            start: 0,
            end: i64::MAX as u64,
            kind,
            pid: 0,
        };
        let body = LkIn {
            fh: file.fh,
            owner,
            lk,
            lk_flags: lock_flags::FLOCK,
            padding: 0,
        };
        self.call_empty(SETLK, file.node, &[bytes(&body)])
    }
}
