//! Names: LOOKUP, UNLINK, RMDIR, RENAME, RENAME2, LINK, READLINK.

use airlockfs_ipc::message::Request;

use super::input::{Fault, Input, component, node};
use crate::fuse::Operation;
use crate::fuse::abi::{LinkIn, Rename2In, RenameIn};

/// The flags of renameat2(2).
const RENAME_FLAGS: u32 = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;

/// The dots are no names: they stand for inodes that the tables know. Linux looks them up to find what a file handle
/// stands for (EXPORT_SUPPORT), the Windows driver to open the root.
pub(in crate::fuse) fn lookup<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let (node, string) = (input.node()?, input.string()?);
    let known = |above| {
        let request = Request::LookupKnown { node, above };
        Ok(Operation::ask(request))
    };
    match string {
        b"." => known(false),
        b".." => known(true),
        _ => {
            let request = Request::Lookup {
                parent: node,
                name: component(string)?,
            };
            Ok(Operation::ask(request))
        }
    }
}

pub(in crate::fuse) fn unlink<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let request = Request::Unlink {
        parent: input.node()?,
        name: input.name()?,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn rmdir<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let request = Request::Rmdir {
        parent: input.node()?,
        name: input.name()?,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn rename<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: RenameIn = input.take()?;
    renamed(input, body.newdir, 0)
}

pub(in crate::fuse) fn rename2<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: Rename2In = input.take()?;
    if body.flags & !RENAME_FLAGS != 0 {
        return Err(Fault::malformed("unknown flags of renameat2"));
    }
    renamed(input, body.newdir, body.flags)
}

fn renamed<'a>(input: &mut Input<'a, '_>, newdir: u64, flags: u32) -> Result<Operation<'a>, Fault> {
    let request = Request::Rename {
        parent: input.node()?,
        name: input.name()?,
        new_parent: node(newdir)?,
        new_name: input.name()?,
        flags,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn link<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: LinkIn = input.take()?;
    let request = Request::Link {
        node: node(body.oldnodeid)?,
        new_parent: input.node()?,
        new_name: input.name()?,
    };
    Ok(Operation::ask(request))
}

/// The Windows driver counts its buffer for the answer among the request's bytes: what follows the header means nothing.
pub(in crate::fuse) fn readlink<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    input.rest();
    input.limit = input.room as u64;
    let request = Request::ReadLink { node: input.node()? };
    Ok(Operation::ask(request))
}
