//! Extended attributes: SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR. Without the option each is ENOSYS, after which
//! the guest stops asking.

use airlockfs_ipc::Errno;
use airlockfs_ipc::message::Request;

use super::input::{Fault, Input};
use crate::fuse::Operation;
use crate::fuse::abi::{GetxattrIn, SetxattrIn, SetxattrInExt, flags};

/// Largest value and largest list (XATTR_SIZE_MAX, XATTR_LIST_MAX, linux/limits.h).
const VALUE_MAX: u32 = 65_536;
/// The flags of setxattr(2).
const SET_FLAGS: u32 = (libc::XATTR_CREATE | libc::XATTR_REPLACE).cast_unsigned();

pub(in crate::fuse) fn set<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    enabled(input)?;
    let body: SetxattrIn = input.take()?;
    let extended = input.session.has(flags::SETXATTR_EXT);
    let extension: SetxattrInExt = if extended {
        input.take()?
    } else {
        SetxattrInExt::default()
    };
    if body.flags & !SET_FLAGS != 0 {
        return Err(Fault::malformed("unknown flags of setxattr"));
    }
    if body.size > VALUE_MAX {
        return Err(Fault {
            errno: Errno::E2BIG,
            ..Fault::malformed("a value of more than 64 KiB")
        });
    }
    let request = Request::SetXattr {
        node: input.node()?,
        name: input.xattr_name()?,
        size: body.size,
        flags: body.flags,
        acl_kill_sgid: extension.setxattr_flags & flags::SETXATTR_ACL_KILL_SGID != 0,
    };
    let length = usize::try_from(body.size).map_err(|_| Fault::malformed("a value without end"))?;
    Ok(Operation::Ask {
        request,
        value: input.bytes(length)?,
    })
}

pub(in crate::fuse) fn get<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    enabled(input)?;
    let size = asked(input)?;
    let request = Request::GetXattr {
        node: input.node()?,
        name: input.xattr_name()?,
        size,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn list<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    enabled(input)?;
    let size = asked(input)?;
    Ok(Operation::ask(Request::ListXattr {
        node: input.node()?,
        size,
    }))
}

pub(in crate::fuse) fn remove<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    enabled(input)?;
    let request = Request::RemoveXattr {
        node: input.node()?,
        name: input.xattr_name()?,
    };
    Ok(Operation::ask(request))
}

fn enabled(input: &Input<'_, '_>) -> Result<(), Fault> {
    if input.session.options.xattr {
        Ok(())
    } else {
        Err(Fault::refused(Errno::ENOSYS, "extended attributes are off"))
    }
}

/// The room for the value or list: 0 asks how large it is.
fn asked(input: &mut Input<'_, '_>) -> Result<u32, Fault> {
    let body: GetxattrIn = input.take()?;
    let size = input.roomy(body.size)?.min(VALUE_MAX);
    input.limit = size.into();
    Ok(size)
}
