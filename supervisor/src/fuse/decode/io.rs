//! Open files and directories: OPEN to RELEASE, and what is done to them in between.

use airlockfs_ipc::message::{FileOperation, Request};
use airlockfs_ipc::{Errno, Handle};

use super::input::{Fault, Input, node, offset, to_end};
use crate::fuse::Operation;
use crate::fuse::abi::{
    CopyFileRangeIn, FallocateIn, FlushIn, FsyncIn, LseekIn, OpenIn, ReadIn, ReleaseIn, WriteIn, flags,
};

/// Flags of open(2) that mean something for a file that is already found. What creates or follows
/// (O_CREAT, O_NOFOLLOW, O_PATH …) is said by the operation itself.
const OPEN_FLAGS: i32 = libc::O_ACCMODE
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DIRECT
    | libc::O_NOATIME;

/// The modes of fallocate(2); NO_HIDE_STALE is not among them, for it would show other files' old blocks.
const FALLOCATE_MODES: u32 = (libc::FALLOC_FL_KEEP_SIZE
    | libc::FALLOC_FL_PUNCH_HOLE
    | libc::FALLOC_FL_COLLAPSE_RANGE
    | libc::FALLOC_FL_ZERO_RANGE
    | libc::FALLOC_FL_INSERT_RANGE
    | libc::FALLOC_FL_UNSHARE_RANGE)
    .cast_unsigned()
    | FALLOC_FL_WRITE_ZEROES;
/// linux/falloc.h, since 6.17.
const FALLOC_FL_WRITE_ZEROES: u32 = 0x80;

/// Most bytes of a COPY_FILE_RANGE, whose answer has 32 bits: whole pages, as the kernel asks.
const COPY_MAX_32: u64 = 0xffff_f000;

/// Open flags without what does not matter; `more` are allowed besides.
pub(super) fn open_flags(sent: u32, more: i32) -> u32 {
    let kept = (sent.cast_signed()) & (OPEN_FLAGS | more);
    // Linux's own fourth access mode takes the right to read and to write, and then does neither (open(2), BUGS).
    let kept = match kept & libc::O_ACCMODE {
        libc::O_ACCMODE => kept & !libc::O_ACCMODE | libc::O_RDWR,
        _ => kept,
    };
    kept.cast_unsigned()
}

/// `open_flags` of OPEN and CREATE say that setuid and setgid go. Without KILLPRIV_V2 the field is padding, in which the
/// Windows driver leaves what was on its stack.
pub(super) fn kills_suidgid(input: &Input<'_, '_>, open_flags: u32) -> bool {
    input.session.has(flags::HANDLE_KILLPRIV_V2) && open_flags & flags::OPEN_KILL_SUIDGID != 0
}

pub(in crate::fuse) fn open<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: OpenIn = input.take()?;
    if input.session.has(flags::NO_OPEN_SUPPORT) {
        return Err(Fault::refused(Errno::ENOSYS, "files are opened without asking"));
    }
    input.mode = open_flags(body.flags, 0);
    let request = Request::Open {
        node: input.node()?,
        flags: input.mode,
        kill_suidgid: kills_suidgid(input, body.open_flags),
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn opendir<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: OpenIn = input.take()?;
    if input.session.has(flags::NO_OPENDIR_SUPPORT) {
        return Err(Fault::refused(
            Errno::ENOSYS,
            "directories are opened without asking",
        ));
    }
    let request = Request::OpenDir {
        node: input.node()?,
        flags: open_flags(body.flags, 0),
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn release<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: ReleaseIn = input.take()?;
    let unlock = body.release_flags & flags::RELEASE_FLOCK_UNLOCK != 0;
    let handle = Handle(body.fh);
    let request = Request::Release {
        handle,
        flock_owner: unlock.then_some(body.lock_owner),
    };
    Ok(Operation::Release {
        request,
        handle,
        unlocks: unlock || input.session.options.posix_lock,
    })
}

pub(in crate::fuse) fn releasedir<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: ReleaseIn = input.take()?;
    let handle = Handle(body.fh);
    Ok(Operation::Release {
        request: Request::ReleaseDir { handle },
        handle,
        unlocks: false,
    })
}

/// Linux sends one at each close, and none after ENOSYS. A client that offers neither ASYNC_READ nor POSIX_LOCKS (Linux
/// always offered both) sends one for a program that asks for its data to be on disk (Windows: FlushFileBuffers), and
/// hands ENOSYS to the program.
pub(in crate::fuse) fn flush<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: FlushIn = input.take()?;
    if input.session.offered & (flags::ASYNC_READ | flags::POSIX_LOCKS) == 0 {
        return Ok(Operation::File(FileOperation::Fsync {
            handle: input.file(body.fh)?,
            datasync: false,
        }));
    }
    if !input.session.options.forward_flush {
        return Err(Fault::refused(Errno::ENOSYS, "closing needs no flush"));
    }
    let request = Request::Flush {
        handle: Handle(body.fh),
        lock_owner: body.lock_owner,
    };
    Ok(Operation::ask(request))
}

/// A read over the largest offset ends there, as it would on any file.
pub(in crate::fuse) fn read<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: ReadIn = input.take()?;
    let offset = offset(body.offset, Errno::EINVAL)?;
    let size = input.roomy(body.size)?;
    let size = size.min(u32::try_from(to_end(offset)).unwrap_or(u32::MAX));
    input.limit = size.into();
    Ok(Operation::File(FileOperation::Read {
        handle: input.file(body.fh)?,
        offset,
        size,
    }))
}

pub(in crate::fuse) fn write<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: WriteIn = input.take()?;
    if usize::try_from(body.size) != Ok(input.data) {
        return Err(Fault::malformed("WRITE of another size than its data"));
    }
    if body.size > input.session.max_write {
        return Err(Fault::malformed("WRITE of more than max_write"));
    }
    let offset = offset(body.offset, Errno::EINVAL)?;
    if u64::from(body.size) > to_end(offset) {
        return Err(Fault {
            errno: Errno::EFBIG,
            ..Fault::malformed("WRITE past the largest offset")
        });
    }
    input.limit = body.size.into();
    Ok(Operation::File(FileOperation::Write {
        handle: input.written(body.fh)?,
        offset,
        size: body.size,
        kill_suidgid: body.write_flags & flags::WRITE_KILL_SUIDGID != 0,
    }))
}

pub(in crate::fuse) fn fsync<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: FsyncIn = input.take()?;
    let datasync = body.fsync_flags & flags::FSYNC_FDATASYNC != 0;
    Ok(Operation::File(FileOperation::Fsync {
        handle: input.file(body.fh)?,
        datasync,
    }))
}

pub(in crate::fuse) fn fsyncdir<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: FsyncIn = input.take()?;
    let datasync = body.fsync_flags & flags::FSYNC_FDATASYNC != 0;
    let request = Request::FsyncDir {
        handle: input.directory(body.fh)?,
        datasync,
    };
    Ok(Operation::ask(request))
}

pub(in crate::fuse) fn readdir<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    listing(input, false)
}

pub(in crate::fuse) fn readdirplus<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    if !input.session.has(flags::DO_READDIRPLUS) {
        return Err(Fault::refused(Errno::ENOSYS, "READDIRPLUS is off"));
    }
    listing(input, true)
}

/// The offset is a cookie of the file system's, any 64 bits. Fewer entries than asked for are no harm.
fn listing<'a>(input: &mut Input<'a, '_>, plus: bool) -> Result<Operation<'a>, Fault> {
    let body: ReadIn = input.take()?;
    let size = input.roomy(body.size)?.min(input.session.max_write);
    input.limit = size.into();
    let request = Request::ReadDir {
        handle: input.directory(body.fh)?,
        offset: body.offset,
        size,
        plus,
    };
    Ok(Operation::ask(request))
}

/// With a write-back cache the host does not know what is data: dirty pages are in the guest, and so may be the file's
/// end. The guest does not write them before it asks. After ENOSYS it takes all up to its own end of the file for data.
pub(in crate::fuse) fn lseek<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: LseekIn = input.take()?;
    if input.session.has(flags::WRITEBACK_CACHE) {
        return Err(Fault::refused(Errno::ENOSYS, "only the guest knows what is data"));
    }
    let whence = body.whence;
    if ![libc::SEEK_DATA, libc::SEEK_HOLE]
        .iter()
        .any(|known| known.cast_unsigned() == whence)
    {
        return Err(Fault::malformed("LSEEK for neither data nor hole"));
    }
    let offset = offset(body.offset, Errno::ENXIO)?;
    Ok(Operation::File(FileOperation::Lseek {
        handle: input.file(body.fh)?,
        offset,
        whence,
    }))
}

pub(in crate::fuse) fn fallocate<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    let body: FallocateIn = input.take()?;
    if body.mode & !FALLOCATE_MODES != 0 {
        return Err(Fault::refused(Errno::ENOTSUP, "unknown mode of fallocate"));
    }
    let offset = offset(body.offset, Errno::EINVAL)?;
    if body.length == 0 {
        return Err(Fault::malformed("FALLOCATE of nothing"));
    }
    if body.length > to_end(offset) {
        return Err(Fault {
            errno: Errno::EFBIG,
            ..Fault::malformed("FALLOCATE past the largest offset")
        });
    }
    let (handle, length, mode) = (input.written(body.fh)?, body.length, body.mode);
    Ok(Operation::File(FileOperation::Fallocate {
        handle,
        offset,
        length,
        mode,
        kill_suidgid: unprivileged(input),
    }))
}

/// Whether the bits go that a change by somebody without CAP_FSETID takes. Neither FALLOCATE nor COPY_FILE_RANGE says
/// (fuse.h has no flag for it), but with KILLPRIV_V2 nobody else clears them: root is taken to have the capability,
/// and others not to have it. Without KILLPRIV_V2 the guest's kernel sends SETATTR before.
const fn unprivileged(input: &Input<'_, '_>) -> bool {
    input.session.has(flags::HANDLE_KILLPRIV_V2) && input.header.uid != 0
}

pub(in crate::fuse) fn copy_file_range<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    copy(input, COPY_MAX_32)
}

pub(in crate::fuse) fn copy_file_range_64<'a>(input: &mut Input<'a, '_>) -> Result<Operation<'a>, Fault> {
    copy(input, u64::MAX)
}

/// Lengths are cut to the answer's width and the largest offset; the guest asks again for the rest.
fn copy<'a>(input: &mut Input<'a, '_>, limit: u64) -> Result<Operation<'a>, Fault> {
    let body: CopyFileRangeIn = input.take()?;
    node(body.nodeid_out)?;
    if body.flags != 0 {
        return Err(Fault::malformed("unknown flags of copy_file_range"));
    }
    let source_offset = offset(body.off_in, Errno::EINVAL)?;
    let target_offset = offset(body.off_out, Errno::EINVAL)?;
    let length = body
        .len
        .min(limit)
        .min(to_end(source_offset))
        .min(to_end(target_offset));
    input.limit = length;
    let request = Request::CopyFileRange {
        source: input.file(body.fh_in)?,
        source_offset,
        target: input.written(body.fh_out)?,
        target_offset,
        length,
        kill_suidgid: unprivileged(input),
    };
    Ok(Operation::ask(request))
}
