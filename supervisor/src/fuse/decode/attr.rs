//! Attributes: GETATTR, STATX, SETATTR, ACCESS.

use airlockfs_ipc::message::{AttrChange, FileOperation, Request, SetTime, Timestamp};
use airlockfs_ipc::{Errno, Handle};

use super::create::{PERMISSIONS, caller, id};
use super::input::{Fault, Input, offset};
use crate::fuse::Operation;
use crate::fuse::abi::{AccessIn, GetattrIn, SetattrIn, StatxIn, flags};

pub(in crate::fuse) fn getattr<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: GetattrIn = input.take()?;
    attributes(input, body.getattr_flags, body.fh)
}

/// What is asked (`sx_mask`) does not matter: one statx(2) gets all.
pub(in crate::fuse) fn statx<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: StatxIn = input.take()?;
    attributes(input, body.getattr_flags, body.fh)
}

fn attributes<'a>(input: &Input<'a, '_>, getattr_flags: u32, fh: u64) -> Result<Operation<'a>, Fault> {
    let node = input.node()?;
    if getattr_flags & flags::GETATTR_FH != 0
        && let Some(handle) = input.opened(fh)
    {
        return Ok(Operation::File(FileOperation::GetAttr { node, handle }));
    }
    Ok(Operation::ask(Request::GetAttr { node }))
}

/// FATTR_CTIME, which a guest with a write-back cache sends, is passed over: ctime cannot be set and follows from
/// the change itself.
pub(in crate::fuse) fn setattr<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: SetattrIn = input.take()?;
    let has = |bit: u32| body.valid & bit != 0;
    // With KILLPRIV_V2 a new owner always costs the bits; without, the guest's kernel sends the mode it wants.
    let disowned =
        (has(flags::FATTR_UID) || has(flags::FATTR_GID)) && input.session.has(flags::HANDLE_KILLPRIV_V2);
    let change = AttrChange {
        mode: has(flags::FATTR_MODE).then_some(body.mode & PERMISSIONS),
        uid: has(flags::FATTR_UID).then(|| id(body.uid)).transpose()?,
        gid: has(flags::FATTR_GID).then(|| id(body.gid)).transpose()?,
        size: has(flags::FATTR_SIZE)
            .then(|| offset(body.size, Errno::EFBIG))
            .transpose()?,
        atime: has(flags::FATTR_ATIME)
            .then(|| time(has(flags::FATTR_ATIME_NOW), body.atime, body.atimensec))
            .transpose()?,
        mtime: has(flags::FATTR_MTIME)
            .then(|| time(has(flags::FATTR_MTIME_NOW), body.mtime, body.mtimensec))
            .transpose()?,
        kill_suidgid: has(flags::FATTR_KILL_SUIDGID) || disowned,
    };
    // No open file has handle 0; the Windows driver sends it for a symbolic link, which it never opens.
    let handle = (has(flags::FATTR_FH) && body.fh != 0).then_some(Handle(body.fh));
    input.mode = change.mode.unwrap_or_default();
    Ok(Operation::ask(Request::SetAttr {
        node: input.node()?,
        handle,
        change,
    }))
}

/// The seconds' bits are a signed number's: times before 1970 and after 2262 go through.
fn time(now: bool, seconds: u64, nanoseconds: u32) -> Result<SetTime, Fault> {
    if now {
        return Ok(SetTime::Now);
    }
    if nanoseconds > 999_999_999 {
        return Err(Fault::malformed("a second or more in nanoseconds"));
    }
    Ok(SetTime::To(Timestamp {
        seconds: seconds.cast_signed(),
        nanoseconds,
    }))
}

pub(in crate::fuse) fn access<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: AccessIn = input.take()?;
    if !input.session.options.forward_access {
        return Err(Fault::refused(
            Errno::ENOSYS,
            "the guest checks permissions itself",
        ));
    }
    if body.mask & !0o7 != 0 {
        return Err(Fault::malformed("not a mask of access(2)"));
    }
    let request = Request::Access {
        node: input.node()?,
        mask: body.mask,
        caller: caller(input)?,
    };
    Ok(Operation::ask(request))
}
