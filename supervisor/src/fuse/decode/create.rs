//! What makes inodes: CREATE, TMPFILE, MKNOD, MKDIR, SYMLINK, with the extensions they carry.

use airlockfs_ipc::message::{Caller, Creation, Request, XattrName};
use airlockfs_ipc::{Bytes, Errno};

use super::input::{Fault, Input};
use super::io::{kills_suidgid, open_flags};
use crate::fuse::Operation;
use crate::fuse::abi::{CreateIn, ExtHeader, MkdirIn, MknodIn, Secctx, SuppGroups, flags};
use crate::fuse::reply::TARGET_MAX;

/// Permission bits with setuid, setgid and sticky.
pub(super) const PERMISSIONS: u32 = 0o7777;
/// Longest security context: beside the longest target and names it still fits a message to the worker
/// ([`airlockfs_ipc::ring::MESSAGE_MAX`]).
const CONTEXT_MAX: usize = 3072;
/// First minor whose header tells the extensions' length; before it they are what is left.
const MINOR_EXTLEN: u32 = 38;

pub(in crate::fuse) fn create<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: CreateIn = input.take()?;
    input.mode = open_flags(body.flags, libc::O_EXCL);
    let request = Request::Create {
        parent: input.node()?,
        name: input.name()?,
        flags: input.mode,
        kill_suidgid: kills_suidgid(input, body.open_flags),
        creation: creation(input, regular(body.mode)?, body.umask)?,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn tmpfile<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: CreateIn = input.take()?;
    // A name is sent, but the kernel's own for a file without one is "/".
    input.string()?;
    input.mode = open_flags(body.flags, libc::O_EXCL);
    let request = Request::TmpFile {
        parent: input.node()?,
        flags: input.mode,
        creation: creation(input, regular(body.mode)?, body.umask)?,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn mknod<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: MknodIn = input.take()?;
    let mode = match body.mode & libc::S_IFMT {
        0 => libc::S_IFREG | body.mode & PERMISSIONS,
        libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK | libc::S_IFCHR | libc::S_IFBLK => {
            body.mode & (libc::S_IFMT | PERMISSIONS)
        }
        _ => return Err(Fault::malformed("a type that mknod does not make")),
    };
    let request = Request::Mknod {
        parent: input.node()?,
        name: input.name()?,
        rdev: body.rdev,
        creation: creation(input, mode, body.umask)?,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn mkdir<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: MkdirIn = input.take()?;
    let request = Request::Mkdir {
        parent: input.node()?,
        name: input.name()?,
        creation: creation(input, libc::S_IFDIR | body.mode & PERMISSIONS, body.umask)?,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn symlink<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let (parent, name, target) = (input.node()?, input.name()?, input.string()?);
    match target.len() {
        0 => {
            return Err(Fault {
                errno: Errno::ENOENT,
                ..Fault::malformed("an empty target")
            });
        }
        1..=TARGET_MAX => {}
        _ => {
            return Err(Fault::refused(
                Errno::ENAMETOOLONG,
                "a target longer than 4095 bytes",
            ));
        }
    }
    let creation = creation(input, libc::S_IFLNK | 0o777, 0)?;
    let request = Request::Symlink {
        parent,
        name,
        target: Bytes(target),
        creation,
    };
    Ok(Operation::ask(request))
}

/// The mode of a regular file.
fn regular(mode: u32) -> Result<u32, Fault> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(libc::S_IFREG | mode & PERMISSIONS),
        _ => Err(Fault::malformed("CREATE of something else than a regular file")),
    }
}

/// Who creates and with what, from the header and from the extensions, which are all that is left of the body.
fn creation<'a>(input: &mut Input<'a, '_>, mode: u32, umask: u32) -> Result<Creation<'a>, Fault> {
    let (group, security) = extensions(input)?;
    let caller = Caller {
        group,
        ..caller(input)?
    };
    Ok(Creation {
        caller,
        mode,
        umask: umask & 0o777,
        security,
    })
}

/// Who asks. Requests that create nothing come with `u32::MAX` under ALLOW_IDMAP, which setfsuid(2) and its kin
/// would read as 'leave unchanged': no file is made for it.
pub(super) fn caller(input: &Input<'_, '_>) -> Result<Caller, Fault> {
    Ok(Caller {
        uid: id(input.header.uid)?,
        gid: id(input.header.gid)?,
        group: None,
    })
}

/// A user or group id that means one.
pub(super) fn id(number: u32) -> Result<u32, Fault> {
    match number {
        u32::MAX => Err(Fault::malformed("id -1")),
        _ => Ok(number),
    }
}

type Extensions<'a> = (Option<u32>, Option<(XattrName<'a>, Bytes<'a>)>);

/// The supplementary group and the security context, each at most once and only where INIT agreed on it.
fn extensions<'a>(input: &mut Input<'a, '_>) -> Result<Extensions<'a>, Fault> {
    let session = input.session;
    let whole = input.rest();
    let told = usize::from(input.header.total_extlen) * 8;
    if session.minor >= MINOR_EXTLEN && told != whole.len() {
        return Err(Fault::malformed(
            "extensions of another length than the header says",
        ));
    }
    let (mut group, mut security) = (None, None);
    let (mut groups_seen, mut contexts_seen) = (false, false);
    let mut rest = Input::new(input.header, whole, 0, 0, session);
    while rest.end().is_err() {
        let header: ExtHeader = rest.take()?;
        let size = usize::try_from(header.size)
            .ok()
            .and_then(|size| size.checked_sub(size_of::<ExtHeader>()));
        let size = size.ok_or(Fault::malformed("an extension shorter than its header"))?;
        let mut body = Input::new(input.header, rest.bytes(size)?, 0, 0, session);
        match header.kind {
            0..=flags::MAX_NR_SECCTX if session.has(flags::SECURITY_CTX) && !contexts_seen => {
                contexts_seen = true;
                security = context(&mut body, header.kind)?;
            }
            flags::EXT_GROUPS if session.has(flags::CREATE_SUPP_GROUP) && !groups_seen => {
                groups_seen = true;
                group = supplementary(&mut body)?;
            }
            _ => return Err(Fault::malformed("an extension that was not agreed on, or twice")),
        }
    }
    Ok((group, security))
}

/// `fuse_secctx`: at most one, padded to 8 bytes. Only names in the `security.` namespace are security contexts;
/// others have SETXATTR and its checks.
fn context<'a>(input: &mut Input<'a, '_>, count: u32) -> Result<Option<(XattrName<'a>, Bytes<'a>)>, Fault> {
    if count == 0 {
        return Ok(None);
    }
    if count > 1 {
        return Err(Fault::refused(Errno::ENOTSUP, "more than one security context"));
    }
    let secctx: Secctx = input.take()?;
    let name = input.xattr_name()?;
    let length = usize::try_from(secctx.size)
        .ok()
        .filter(|length| *length <= CONTEXT_MAX);
    let value = input.bytes(length.ok_or(Fault::malformed("a security context of more than 3072 bytes"))?)?;
    padding(input)?;
    if !name.as_bytes().starts_with(b"security.") {
        return Err(Fault::malformed("a security context outside security.*"));
    }
    Ok(Some((name, Bytes(value))))
}

/// `fuse_supp_groups`: the kernel sends the one group that matters, the parent directory's.
fn supplementary(input: &mut Input<'_, '_>) -> Result<Option<u32>, Fault> {
    let SuppGroups { nr_groups } = input.take()?;
    let group = match nr_groups {
        0 => None,
        1 => Some(id(input.take()?)?),
        _ => return Err(Fault::malformed("more than one supplementary group")),
    };
    padding(input)?;
    Ok(group)
}

/// What is left is less than the unit extensions are padded to.
fn padding(input: &mut Input<'_, '_>) -> Result<(), Fault> {
    if input.rest().len() < 8 {
        Ok(())
    } else {
        Err(Fault::malformed("an extension with a long tail"))
    }
}
