//! READ, WRITE, FSYNC, LSEEK, FALLOCATE and COPY_FILE_RANGE on open files.

use std::os::fd::AsFd;

use airlockfs_ipc::{Errno, Handle, message::Reply, ring::BulkBuffer};
use nix::{
    fcntl::{FallocateFlags, copy_file_range, fallocate},
    unistd::{Whence, fdatasync, fsync, lseek},
};

use super::attr::{before_change, forget_capability, kill_suidgid};
use crate::{
    handle::Open,
    sys::{self, Placed},
    volume::Volume,
};

/// What became of a read that must not wait.
pub(crate) enum Read {
    /// It is done.
    Done(usize),
    /// So many bytes were at hand; for more the disk is needed.
    Waits(usize),
    /// The file system does not say what is at hand.
    MayWait,
}

fn file_offset(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// An open file's regular file: EISDIR for a directory.
pub(crate) fn data_file(open: &Open) -> Result<&Open, Errno> {
    if open.entries.is_some() {
        Err(Errno::EISDIR)
    } else {
        Ok(open)
    }
}

/// Reads what is in the page cache.
pub(crate) fn read_at_hand(
    volume: &Volume,
    open: &Open,
    offset: u64,
    size: usize,
    buffer: &BulkBuffer,
) -> Result<Read, Errno> {
    let mut place = Placed {
        buffer,
        done: 0,
        size,
        offset: file_offset(offset)?,
    };
    data_file(open)?;
    if volume.does_not_say(open.node.mount) {
        return Ok(Read::MayWait);
    }
    let mut never_waits = volume.never_waits(open.node.mount);
    while place.done < size {
        let flags = if never_waits { 0 } else { libc::RWF_NOWAIT };
        match sys::read(open, &place, flags) {
            Ok(0) => break,
            Ok(read) => place.done += read,
            Err(Errno::EAGAIN) => return Ok(Read::Waits(place.done)),
            // The file system does not say beforehand. One in memory never waits.
            Err(Errno::ENOTSUP) if !never_waits && sys::is_in_memory(open)? => {
                volume.note_never_waits(open.node.mount);
                never_waits = true;
            }
            Err(Errno::ENOTSUP) => {
                volume.note_does_not_say(open.node.mount);
                return Ok(Read::MayWait);
            }
            Err(error) if place.done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(Read::Done(place.done))
}

/// Reads what is missing, waiting for the disk.
pub(crate) fn read_rest(
    open: &Open,
    offset: u64,
    size: usize,
    done: usize,
    buffer: &BulkBuffer,
) -> Result<Reply<'static>, Errno> {
    let mut place = Placed {
        buffer,
        done,
        size,
        offset: file_offset(offset)?,
    };
    while place.done < size {
        match sys::read(open, &place, 0) {
            Ok(0) => break,
            Ok(read) => place.done += read,
            Err(error) if place.done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(data(place.done))
}

/// So many bytes stand in the bulk buffer.
pub(crate) fn data(length: usize) -> Reply<'static> {
    Reply::Data {
        size: u32::try_from(length).unwrap_or(u32::MAX),
    }
}

/// Writes from the bulk buffer. Before that, if asked, what a write by somebody unprivileged takes from a program's file.
pub(crate) fn write(
    volume: &Volume,
    open: &Open,
    offset: u64,
    size: usize,
    kill: bool,
    buffer: &BulkBuffer,
) -> Result<Reply<'static>, Errno> {
    let mut place = Placed {
        buffer,
        done: 0,
        size,
        offset: file_offset(offset)?,
    };
    // In a read-only worker the call itself is forbidden.
    writable_file(open)?;
    before_change(volume, open, kill)?;
    forget_capability(volume, open)?;
    volume.writing(open, size as u64, || {
        while place.done < size {
            match sys::write(open, &place) {
                Ok(0) => break,
                Ok(written) => place.done += written,
                Err(error) if place.done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(Reply::Written {
            size: u32::try_from(place.done).unwrap_or(u32::MAX),
        })
    })
}

/// Whether a write of `size` bytes should not keep a lane waiting.
pub(crate) const fn write_is_slow(open: &Open, size: usize) -> bool {
    const LARGE: usize = 256 << 10;
    size > LARGE || open.flags & (libc::O_DIRECT | libc::O_SYNC | libc::O_DSYNC) != 0
}

/// fsync(2) or fdatasync(2). Slow.
pub(crate) fn sync(volume: &Volume, open: &Open, data_only: bool) -> Result<Reply<'static>, Errno> {
    if volume.is_synthetic(open.node.id) {
        return Ok(Reply::Done);
    }
    if data_only {
        fdatasync(open)?;
    } else {
        fsync(open)?;
    }
    Ok(Reply::Done)
}

/// Finds data or a hole.
pub(crate) fn seek(
    volume: &Volume,
    handle: Handle,
    offset: u64,
    whence: u32,
) -> Result<Reply<'static>, Errno> {
    let whence = match whence.cast_signed() {
        libc::SEEK_DATA => Whence::SeekData,
        libc::SEEK_HOLE => Whence::SeekHole,
        _ => return Err(Errno::EINVAL),
    };
    let open = volume.open_file(handle)?;
    let found = lseek(
        data_file(&open)?,
        i64::try_from(offset).map_err(|_| Errno::ENXIO)?,
        whence,
    )?;
    Ok(Reply::Offset(found.unsigned_abs()))
}

/// fallocate(2). Slow.
pub(crate) fn allocate(
    volume: &Volume,
    open: &Open,
    (offset, length): (u64, u64),
    mode: u32,
    kill: bool,
) -> Result<Reply<'static>, Errno> {
    let (offset, length) = (file_offset(offset)?, file_offset(length)?);
    let mode = FallocateFlags::from_bits(mode.cast_signed()).ok_or(Errno::ENOTSUP)?;
    writable_file(open)?;
    before_change(volume, open, false)?;
    volume.writing(open, length.unsigned_abs(), || {
        Ok(fallocate(open, mode, offset, length)?)
    })?;
    if kill {
        kill_suidgid(open)?;
    }
    forget_capability(volume, open)?;
    Ok(Reply::Done)
}

fn writable_file(open: &Open) -> Result<(), Errno> {
    if data_file(open)?.is_writable() {
        Ok(())
    } else {
        Err(Errno::EBADF)
    }
}

/// copy_file_range(2). Slow.
pub(crate) fn copy(
    volume: &Volume,
    (source, source_offset): (&Open, u64),
    (target, target_offset): (&Open, u64),
    length: u64,
    kill: bool,
) -> Result<Reply<'static>, Errno> {
    let mut from = file_offset(source_offset)?;
    let mut to = file_offset(target_offset)?;
    let length = usize::try_from(length.min(i64::MAX.unsigned_abs())).map_err(|_| Errno::EINVAL)?;
    data_file(source)?;
    writable_file(target)?;
    // Before the data changes, as for a write.
    if length > 0 {
        before_change(volume, target, kill)?;
    }
    let copied = volume.writing(target, length as u64, || {
        let (from, to) = (Some(&mut from), Some(&mut to));
        Ok(copy_file_range(source.as_fd(), from, target.as_fd(), to, length)?)
    })?;
    forget_capability(volume, target)?;
    Ok(Reply::Copied(copied as u64))
}
