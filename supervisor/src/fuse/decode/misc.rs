//! The session and the rest: INIT, DESTROY, INTERRUPT, FORGET, BATCH_FORGET, STATFS, SYNCFS, IOCTL.

use airlockfs_ipc::message::{FsXattr, Request};
use airlockfs_ipc::{Errno, Handle};
use zerocopy::FromBytes;

use super::input::{Fault, Input};
use crate::fuse::abi::{
    self, BatchForgetIn, ForgetIn, InitIn, InitInExt, InterruptIn, IoctlIn, SyncfsIn, flags,
};
use crate::fuse::{Forgets, Init, Operation};

/// Bytes of a forgotten node: `struct fuse_forget_one`.
const FORGET_ONE: usize = 16;
/// Most records of a BATCH_FORGET: no guest knows more nodes.
const FORGETS_MAX: u32 = 1 << 24;

/// The only operation that may be longer than its structure: later versions extend it.
pub(super) fn init(body: &[u8]) -> Result<Operation<'_>, Fault> {
    const SHORT: Fault = Fault::malformed("shorter than its structure");
    let (init, rest) = InitIn::read_from_prefix(body).map_err(|_| SHORT)?;
    let upper = if init.major == abi::MAJOR && u64::from(init.flags) & flags::INIT_EXT != 0 {
        InitInExt::read_from_prefix(rest).map_err(|_| SHORT)?.0.flags2
    } else {
        0
    };
    Ok(Operation::Init(Init {
        major: init.major,
        minor: init.minor,
        max_readahead: init.max_readahead,
        flags: u64::from(upper) << 32 | u64::from(init.flags),
    }))
}

pub(in crate::fuse) fn destroy<'a>(_: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    Ok(Operation::Destroy)
}

pub(in crate::fuse) fn interrupt<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let InterruptIn { unique } = input.take()?;
    Ok(Operation::Interrupt { unique })
}

pub(in crate::fuse) fn forget<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: ForgetIn = input.take()?;
    Ok(Operation::Forget(Forgets::One(zerocopy::transmute!([
        input.header.nodeid,
        body.nlookup
    ]))))
}

pub(in crate::fuse) fn batch_forget<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let BatchForgetIn { count, .. } = input.take()?;
    let length = usize::try_from(count)
        .ok()
        .filter(|_| count <= FORGETS_MAX)
        .and_then(|count| count.checked_mul(FORGET_ONE));
    let length = length.ok_or(Fault::malformed("a count without end"))?;
    match input.data {
        0 => Ok(Operation::Forget(Forgets::Many(input.bytes(length)?))),
        data if data == length => Ok(Operation::ForgetBatch { length }),
        _ => Err(Fault::malformed("BATCH_FORGET of another size than its records")),
    }
}

pub(in crate::fuse) fn statfs<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    Ok(Operation::ask(Request::StatFs { node: input.node()? }))
}

pub(in crate::fuse) fn syncfs<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let _: SyncfsIn = input.take()?;
    Ok(Operation::ask(Request::SyncFs { node: input.node()? }))
}

/// The calls of chattr(1) and its kin, in the form the guest's kernel gives them: flags have 32 bits although their
/// numbers say long. All others are ENOTTY, whatever they carry.
pub(in crate::fuse) fn ioctl<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: IoctlIn = input.take()?;
    let node = input.node()?;
    let handle = match input.opened(body.fh) {
        Some(handle) => handle,
        None => Handle::of_node(node).ok_or(Fault::refused(Errno::ESTALE, "a node that was never given"))?,
    };
    let (flags_len, fsxattr_len) = (size_of::<u32>() as u32, size_of::<abi::FsXattr>() as u32);
    let (sizes, request) = match body.cmd {
        flags::FS_IOC_GETFLAGS => (
            (0, flags_len),
            Request::GetFileFlags {
                node,
                handle,
                extended: false,
            },
        ),
        flags::FS_IOC_FSGETXATTR => (
            (0, fsxattr_len),
            Request::GetFileFlags {
                node,
                handle,
                extended: true,
            },
        ),
        flags::FS_IOC_SETFLAGS => (
            (flags_len, 0),
            Request::SetFileFlags {
                node,
                handle,
                flags: input.take()?,
            },
        ),
        flags::FS_IOC_FSSETXATTR => {
            let value: abi::FsXattr = input.take()?;
            let value = FsXattr {
                xflags: value.xflags,
                extsize: value.extsize,
                nextents: value.nextents,
                projid: value.projid,
                cowextsize: value.cowextsize,
            };
            ((fsxattr_len, 0), Request::SetFsXattr { node, handle, value })
        }
        _ => {
            return Err(Fault::refused(
                Errno::ENOTTY,
                "an ioctl that is not about file attributes",
            ));
        }
    };
    if sizes != (body.in_size, body.out_size) {
        return Err(Fault::malformed("an ioctl with another size than its structure"));
    }
    input.limit = body.out_size.into();
    Ok(Operation::ask(request))
}
