//! Locks that belong to an open file description (fcntl(2) F_OFD_SETLK, flock(2)). None of these calls waits.
#![expect(
    unsafe_code,
    reason = "flock takes a raw descriptor; the structure for fcntl is zeroed"
)]

use std::os::fd::{AsFd, AsRawFd};

use airlockfs_ipc::{Errno, message::FileLock};
use nix::fcntl::{FcntlArg, fcntl};

use super::check;

/// The last byte there can be (OFFSET_MAX).
const LAST: u64 = i64::MAX as u64;

fn raw(lock: &FileLock) -> Result<libc::flock, Errno> {
    let kind = match i32::try_from(lock.kind) {
        Ok(kind @ (libc::F_RDLCK | libc::F_WRLCK | libc::F_UNLCK)) => kind,
        _ => return Err(Errno::EINVAL),
    };
    if lock.start > lock.end || lock.start > LAST {
        return Err(Errno::EINVAL);
    }
    // SAFETY: plain numbers; zero stands for SEEK_SET and for no process.
    let mut raw: libc::flock = unsafe { std::mem::zeroed() };
    raw.l_type = kind as i16;
    raw.l_start = lock.start.cast_signed();
    // A length of 0 goes to the end, however far that moves.
    raw.l_len = if lock.end >= LAST {
        0
    } else {
        (lock.end - lock.start + 1).cast_signed()
    };
    Ok(raw)
}

/// Sets or clears a record lock. EAGAIN if another is in the way.
pub(crate) fn set_lock(file: impl AsFd, lock: &FileLock) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&raw(lock)?))?;
    Ok(())
}

/// The first record lock in the way of one, or the one asked for with F_UNLCK.
pub(crate) fn find_lock(file: impl AsFd, lock: &FileLock) -> Result<FileLock, Errno> {
    let mut raw = raw(lock)?;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut raw))?;
    if i32::from(raw.l_type) == libc::F_UNLCK {
        return Ok(FileLock {
            kind: libc::F_UNLCK as u32,
            ..*lock
        });
    }
    let start = raw.l_start.unsigned_abs();
    let end = match raw.l_len {
        0 => LAST,
        length => start.saturating_add_signed(length).saturating_sub(1),
    };
    Ok(FileLock {
        start,
        end,
        kind: u32::from(raw.l_type.unsigned_abs()),
        // Locks of open file descriptions name no process: -1.
        pid: raw.l_pid.cast_unsigned(),
    })
}

/// Sets or clears the lock on the whole file. EAGAIN if another is in the way.
pub(crate) fn set_whole_lock(file: impl AsFd, kind: u32) -> Result<(), Errno> {
    let operation = match i32::try_from(kind) {
        Ok(libc::F_RDLCK) => libc::LOCK_SH,
        Ok(libc::F_WRLCK) => libc::LOCK_EX,
        Ok(libc::F_UNLCK) => libc::LOCK_UN,
        _ => return Err(Errno::EINVAL),
    };
    // SAFETY: takes a descriptor and a number.
    check(unsafe { libc::flock(file.as_fd().as_raw_fd(), operation | libc::LOCK_NB) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_and_reach_the_end() {
        let lock = |start, end, kind: i32| FileLock {
            start,
            end,
            kind: kind as u32,
            pid: 7,
        };
        let ok = raw(&lock(10, 19, libc::F_WRLCK)).unwrap();
        assert_eq!((ok.l_start, ok.l_len, ok.l_pid), (10, 10, 0));
        let to_end = raw(&lock(5, LAST, libc::F_RDLCK)).unwrap();
        assert_eq!((to_end.l_start, to_end.l_len), (5, 0));
        assert_eq!(raw(&lock(5, u64::MAX, libc::F_UNLCK)).unwrap().l_len, 0);
        assert_eq!(raw(&lock(0, LAST - 1, libc::F_RDLCK)).unwrap().l_len, i64::MAX);
        for wrong in [
            lock(2, 1, libc::F_RDLCK),
            lock(LAST + 1, u64::MAX, libc::F_RDLCK),
            lock(0, 1, 99),
            lock(0, 1, -1),
        ] {
            assert_eq!(raw(&wrong).err(), Some(Errno::EINVAL));
        }
    }
}
