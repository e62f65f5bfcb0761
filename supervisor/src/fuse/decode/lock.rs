//! Locks: GETLK, SETLK, SETLKW. ENOSYS where the options leave them to the guest, whose kernel then sends none.

use airlockfs_ipc::message::{FileLock, Request};
use airlockfs_ipc::{Errno, Handle};

use super::input::{Fault, Input, offset};
use crate::fuse::Operation;
use crate::fuse::abi::{LkIn, flags};

const READ: u32 = libc::F_RDLCK.cast_unsigned();
const WRITE: u32 = libc::F_WRLCK.cast_unsigned();
const UNLOCK: u32 = libc::F_UNLCK.cast_unsigned();

pub(in crate::fuse) fn getlk<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let (body, lock, flock) = lock(input)?;
    if flock {
        return Err(Fault::malformed("GETLK of a flock(2) lock"));
    }
    let request = Request::GetLock {
        handle: Handle(body.fh),
        owner: body.owner,
        lock,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn setlk<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    set(input, false)
}

pub(in crate::fuse) fn setlkw<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    set(input, true)
}

fn set<'a>(input: &mut Input<'a, '_>, wait: bool) -> Result<Operation<'a>, Fault> {
    let (body, lock, flock) = lock(input)?;
    let request = Request::SetLock {
        handle: Handle(body.fh),
        owner: body.owner,
        lock,
        flock,
        wait: wait.then_some(input.header.unique),
    };
    Ok(match wait {
        true => Operation::WaitForLock(request),
        false => Operation::ask(request),
    })
}

/// A range that is one, of a kind that there is; whether it is a flock(2) lock.
fn lock(input: &mut Input<'_, '_>) -> Result<(LkIn, FileLock, bool), Fault> {
    let body: LkIn = input.take()?;
    let flock = body.lk_flags & flags::LK_FLOCK != 0;
    if !input.session.has(if flock {
        flags::FLOCK_LOCKS
    } else {
        flags::POSIX_LOCKS
    }) {
        return Err(Fault::refused(
            Errno::ENOSYS,
            "locks of this kind are the guest's own",
        ));
    }
    if !matches!(body.lk.kind, READ | WRITE | UNLOCK) {
        return Err(Fault::malformed("not a kind of lock"));
    }
    let (start, end) = (
        offset(body.lk.start, Errno::EINVAL)?,
        offset(body.lk.end, Errno::EINVAL)?,
    );
    if start > end {
        return Err(Fault::malformed("a lock that ends before it begins"));
    }
    Ok((
        body,
        FileLock {
            start,
            end,
            kind: body.lk.kind,
            pid: body.lk.pid,
        },
        flock,
    ))
}
