//! 7 reply: a reply, of the worker or of this process, becomes the bytes that the guest reads.

mod attr;
#[cfg(test)]
mod tests;

use airlockfs_ipc::message::{FileLock, FsXattr, Reply, StatFs};
use airlockfs_ipc::{Errno, Handle, ProtocolError};
use zerocopy::{Immutable, IntoBytes};

use super::abi::{self, OutHeader};
use super::{InitOutcome, Negotiated, ReplyShape};
pub(super) use attr::entry_out;
use attr::{attr_out, negative_entry, statx_out};

/// `struct fuse_out_header`.
pub(crate) const OUT_HEADER_LEN: usize = size_of::<OutHeader>();

/// Longest symbolic link target (PATH_MAX without its NUL).
pub(super) const TARGET_MAX: usize = 4095;

/// The longest head: a header and a symbolic link's target. Everything but bulk data and directory entries fits.
pub(crate) const MAX_HEAD: usize = OUT_HEADER_LEN + TARGET_MAX;

/// What to write to the chain: `head` bytes of the buffer given, then `bulk` bytes of the slot's bulk buffer
/// (opaque, straight from shared memory). `fuse_out_header.len` is their sum, and it fits the chain that
/// [`super::decode()`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoded {
    /// Bytes used of `out`.
    pub(crate) head: usize,
    /// Bytes to append from the bulk buffer.
    pub(crate) bulk: usize,
}

const OTHER: ProtocolError = ProtocolError("an answer of another kind than the request");

/// `entry_valid` of a file that has no name, in seconds. When it is over Linux asks for the name again, which is `/` to it
/// and no name at all: overlayfs, which goes on with such an entry after it copied a file up, then has ESTALE.
const FOR_EVER: u64 = u32::MAX as u64;

/// Encodes `reply` as `shape` into `out`. An answer of another kind than the shape, or larger than the `limit` that was asked,
/// is the worker's [`ProtocolError`]. Directory entries are encoded by [`super::dirent::encode`] and [`header`]; only
/// their errors come here.
pub(crate) fn encode(
    (shape, limit): (ReplyShape, u64),
    reply: &Reply<'_>,
    unique: u64,
    session: &Negotiated,
    out: &mut [u8; MAX_HEAD],
) -> Result<Encoded, ProtocolError> {
    let cache = &session.options.cache;
    let mut head = Head::new(out);
    let mut bulk = 0;
    match (shape, *reply) {
        (ReplyShape::Lookup, Reply::Error(Errno::ENOENT)) if !cache.negative.is_zero() => {
            head.push(&negative_entry(cache));
        }
        (_, Reply::Error(errno)) => return Ok(head.error(unique, errno)),
        (ReplyShape::Nothing, Reply::Done) => {}
        (ReplyShape::Lookup | ReplyShape::Entry, Reply::Entry(entry)) => {
            head.push(&entry_out(&entry, cache)?);
        }
        (ReplyShape::Created | ReplyShape::CreatedUnnamed, Reply::Created { entry, handle }) => {
            let mut out = entry_out(&entry, cache)?;
            if shape == ReplyShape::CreatedUnnamed {
                out.entry_valid = FOR_EVER;
            }
            head.push(&out);
            head.push(&open_out(handle, cache.open_flags(false)));
        }
        (ReplyShape::Opened | ReplyShape::OpenedDirectory, Reply::Opened { handle }) => {
            let directory = shape == ReplyShape::OpenedDirectory;
            head.push(&open_out(handle, cache.open_flags(directory)));
        }
        (ReplyShape::Attr, Reply::Attr(attr)) => head.push(&attr_out(&attr, cache)),
        (ReplyShape::Statx, Reply::Attr(attr)) => head.push(&statx_out(&attr, cache)),
        (ReplyShape::Target, Reply::Target(target)) => {
            if target.0.len() > TARGET_MAX {
                return Err(ProtocolError("a symbolic link's target is too long"));
            }
            if target.0.len() as u64 > limit {
                return Ok(head.error(unique, Errno::ENAMETOOLONG));
            }
            head.push(target.0);
        }
        (ReplyShape::SizeOrBytes, Reply::Size(size)) if limit == 0 => {
            head.push(&abi::GetxattrOut { size, padding: 0 });
        }
        (ReplyShape::SizeOrBytes, Reply::Data { .. }) if limit == 0 => return Err(OTHER),
        (ReplyShape::Bytes | ReplyShape::SizeOrBytes, Reply::Data { size }) => {
            bulk = at_most(size.into(), limit)? as usize;
        }
        (ReplyShape::Written, Reply::Written { size }) => {
            at_most(size.into(), limit)?;
            head.push(&abi::WriteOut { size, padding: 0 });
        }
        (ReplyShape::Copied, Reply::Copied(bytes)) => {
            // At most what was asked, which the decoder kept within 32 bits.
            let size = at_most(bytes, limit)? as u32;
            head.push(&abi::WriteOut { size, padding: 0 });
        }
        (ReplyShape::CopiedWide, Reply::Copied(bytes)) => {
            let bytes_copied = at_most(bytes, limit)?;
            head.push(&abi::CopyFileRangeOut { bytes_copied });
        }
        (ReplyShape::Offset, Reply::Offset(offset)) => head.push(&abi::LseekOut { offset }),
        (ReplyShape::StatFs, Reply::StatFs(stat)) => head.push(&statfs_out(&stat)),
        (ReplyShape::Lock, Reply::Lock(lock)) => head.push(&lk_out(&lock)),
        (ReplyShape::Ioctl, Reply::Done) if limit == 0 => head.push(&abi::IoctlOut::default()),
        (ReplyShape::Ioctl, Reply::FileFlags(bits)) if limit == size_of_val(&bits) as u64 => {
            head.push(&abi::IoctlOut::default());
            head.push(&bits);
        }
        (ReplyShape::Ioctl, Reply::FsXattr(value)) if limit == size_of::<abi::FsXattr>() as u64 => {
            head.push(&abi::IoctlOut::default());
            head.push(&fsxattr_out(&value));
        }
        _ => return Err(OTHER),
    }
    Ok(head.finish(unique, bulk))
}

/// Encodes INIT's answer. Returns its length.
pub(crate) fn init(outcome: &InitOutcome, unique: u64, out: &mut [u8; MAX_HEAD]) -> usize {
    let mut head = Head::new(out);
    let body = match outcome {
        InitOutcome::Accepted(session) => session.reply(),
        InitOutcome::VersionOnly => abi::InitOut {
            major: abi::MAJOR,
            minor: abi::MINOR,
            ..Default::default()
        },
        InitOutcome::Refused(errno) => return head.error(unique, *errno).head,
    };
    head.push(&body);
    head.finish(unique, 0).head
}

/// A bare header with an errno. What the guest must not see (512 and up are the kernel's own) becomes EIO.
pub(crate) fn error(unique: u64, errno: Errno) -> [u8; OUT_HEADER_LEN] {
    let number = match errno.number() {
        number @ 1..=511 => number,
        _ => libc::EIO,
    };
    zerocopy::transmute!(OutHeader {
        len: OUT_HEADER_LEN as u32,
        error: -number,
        unique
    })
}

/// A success header before `body` bytes.
pub(crate) fn header(unique: u64, body: usize) -> [u8; OUT_HEADER_LEN] {
    // No body comes near 4 GiB; one that did would be refused by the guest for its length.
    let len = u32::try_from(body.saturating_add(OUT_HEADER_LEN)).unwrap_or(u32::MAX);
    zerocopy::transmute!(OutHeader {
        len,
        error: 0,
        unique
    })
}

/// A reply's head while it grows: the header's room, then the body.
struct Head<'o> {
    out: &'o mut [u8; MAX_HEAD],
    used: usize,
}

impl<'o> Head<'o> {
    fn new(out: &'o mut [u8; MAX_HEAD]) -> Self {
        Self {
            out,
            used: OUT_HEADER_LEN,
        }
    }

    /// Appends. Every body fits [`MAX_HEAD`], which the tests hold for the structures and the caller checked for
    /// the target.
    fn push(&mut self, value: &(impl IntoBytes + Immutable + ?Sized)) {
        if let Some(room) = self.out.get_mut(self.used..)
            && value.write_to_prefix(room).is_ok()
        {
            self.used += size_of_val(value);
        }
    }

    fn finish(self, unique: u64, bulk: usize) -> Encoded {
        let body = (self.used - OUT_HEADER_LEN).saturating_add(bulk);
        self.seal(header(unique, body), bulk)
    }

    fn error(mut self, unique: u64, errno: Errno) -> Encoded {
        self.used = OUT_HEADER_LEN;
        self.seal(error(unique, errno), 0)
    }

    fn seal(self, header: [u8; OUT_HEADER_LEN], bulk: usize) -> Encoded {
        if let Some(room) = self.out.first_chunk_mut() {
            *room = header;
        }
        Encoded {
            head: self.used,
            bulk,
        }
    }
}

/// The worker did not do more than was asked.
fn at_most(done: u64, asked: u64) -> Result<u64, ProtocolError> {
    if done <= asked {
        Ok(done)
    } else {
        Err(ProtocolError("an answer larger than the request allows"))
    }
}

const fn open_out(handle: Handle, open_flags: u32) -> abi::OpenOut {
    abi::OpenOut {
        fh: handle.0,
        open_flags,
        backing_id: 0,
    }
}

const fn statfs_out(stat: &StatFs) -> abi::StatfsOut {
    abi::StatfsOut {
        blocks: stat.blocks,
        bfree: stat.bfree,
        bavail: stat.bavail,
        files: stat.files,
        ffree: stat.ffree,
        bsize: stat.bsize,
        namelen: stat.namelen,
        frsize: stat.frsize,
        padding: 0,
        spare: [0; 6],
    }
}

const fn lk_out(lock: &FileLock) -> abi::LkOut {
    abi::LkOut {
        lk: abi::FileLock {
            start: lock.start,
            end: lock.end,
            kind: lock.kind,
            pid: lock.pid,
        },
    }
}

const fn fsxattr_out(value: &FsXattr) -> abi::FsXattr {
    abi::FsXattr {
        xflags: value.xflags,
        extsize: value.extsize,
        nextents: value.nextents,
        projid: value.projid,
        cowextsize: value.cowextsize,
        pad: [0; 8],
    }
}
