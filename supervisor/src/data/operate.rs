//! One operation on a donated file.

use std::os::fd::AsFd;

use airlockfs_ipc::Errno;
use airlockfs_ipc::message::{Attr, FileOperation, Reply, Timestamp};
use nix::unistd::{Whence, fdatasync, fsync, lseek64};

use super::{BounceBuffer, DonatedFile, Reading};
use crate::{chain::Chain, fuse::OUT_HEADER_LEN, guest_io, guest_memory::Memory, sys::fstat};

/// How an attempt ended.
#[derive(Debug, PartialEq)]
pub(crate) enum Attempt {
    /// With this answer. The data of a read stands in guest memory, behind the room for the reply's header.
    Done(Reply<'static>),
    /// It would have to wait: try again with `may_wait` and the bytes moved so far, from a thread that can.
    WouldWait(usize),
    /// This process may not; so many bytes were moved before. The worker may, perhaps: some file systems look at who calls
    /// and not at who opened the file (FUSE, /proc/sys), and so do security modules.
    Denied(usize),
}

/// An error that may be this process's alone.
fn is_denial(error: Errno) -> bool {
    matches!(error, Errno::EACCES | Errno::EPERM)
}

/// Carries out `operation` without waiting for a device. The data of a write begins at byte `data_at` of the readable buffers.
pub(crate) fn attempt(
    operation: FileOperation,
    file: &DonatedFile,
    memory: &Memory,
    chain: &Chain,
    data_at: usize,
) -> Attempt {
    match operation {
        FileOperation::Read { offset, size, .. } if file.reading() != Reading::Waits => {
            read(file, offset, size as usize, memory, chain, 0)
        }
        FileOperation::Write { offset, size, .. } if file.can_write_at_once() => {
            write(file, offset, size as usize, memory, chain, data_at)
        }
        FileOperation::GetAttr { .. } if file.reading() != Reading::Waits => attr(file),
        _ => Attempt::WouldWait(0),
    }
}

/// The same by a thread that may wait; `done` bytes were moved by an attempt without.
pub(crate) fn carry_out(
    operation: FileOperation,
    file: &DonatedFile,
    chain: &Chain,
    data_at: usize,
    done: usize,
    bounce: &mut BounceBuffer<'_>,
) -> Attempt {
    match operation {
        FileOperation::Read { offset, size, .. } => {
            read_waiting(file, offset, size as usize, chain, done, bounce)
        }
        FileOperation::Write { offset, size, .. } => {
            write_waiting(file, offset, size as usize, chain, data_at, bounce)
        }
        FileOperation::GetAttr { .. } => attr(file),
        FileOperation::Fsync { datasync, .. } => {
            finish(if datasync { fdatasync(file) } else { fsync(file) }, |()| {
                Reply::Done
            })
        }
        FileOperation::Lseek { offset, whence, .. } => lseek(file, offset, whence),
        FileOperation::Fallocate {
            offset, length, mode, ..
        } => fallocate(file, offset, length, mode),
    }
}

fn attr(file: &DonatedFile) -> Attempt {
    finish(fstat(file), |status| Reply::Attr(attributes(&status)))
}

fn finish<T, E: Into<Errno>>(result: Result<T, E>, reply: impl FnOnce(T) -> Reply<'static>) -> Attempt {
    match result.map_err(Into::into) {
        Ok(value) => Attempt::Done(reply(value)),
        Err(error) if is_denial(error) => Attempt::Denied(0),
        Err(error) => Attempt::Done(Reply::Error(error)),
    }
}

/// What FUSE tells of a regular file, from stat(2).
fn attributes(status: &libc::stat) -> Attr {
    let time = |seconds, nanoseconds: i64| Timestamp {
        seconds,
        nanoseconds: nanoseconds as u32,
    };
    Attr {
        ino: status.st_ino,
        size: status.st_size.cast_unsigned(),
        blocks: status.st_blocks.cast_unsigned(),
        atime: time(status.st_atime, status.st_atime_nsec),
        mtime: time(status.st_mtime, status.st_mtime_nsec),
        ctime: time(status.st_ctime, status.st_ctime_nsec),
        mode: status.st_mode,
        nlink: u32::try_from(status.st_nlink).unwrap_or(u32::MAX),
        uid: status.st_uid,
        gid: status.st_gid,
        blksize: u32::try_from(status.st_blksize).unwrap_or(u32::MAX),
        ..Attr::default()
    }
}

/// Pages of a file: RWF_NOWAIT stops at the end of one.
const PAGE: u64 = 4096;

fn read(
    file: &DonatedFile,
    offset: u64,
    size: usize,
    memory: &Memory,
    chain: &Chain,
    mut done: usize,
) -> Attempt {
    while done < size {
        let nowait = file.reading() == Reading::MayWait;
        let at = offset.saturating_add(done as u64);
        let skip = OUT_HEADER_LEN + done;
        match guest_io::read(
            file.as_fd(),
            at,
            memory,
            &chain.writable,
            skip,
            size - done,
            nowait,
        ) {
            Ok(moved) => {
                done += moved.done;
                let stopped = moved.done < moved.asked;
                // The end of the file, or of what is cached? Only the first comes in the middle of a page.
                if moved.done == 0 || stopped && !at.saturating_add(moved.done as u64).is_multiple_of(PAGE) {
                    break;
                }
            }
            Err(Errno::EAGAIN) if nowait => return Attempt::WouldWait(done),
            Err(Errno::ENOTSUP) if nowait => {
                file.no_nowait();
                if file.reading() == Reading::Waits {
                    return Attempt::WouldWait(done);
                }
            }
            Err(error) if is_denial(error) => return Attempt::Denied(done),
            Err(error) if done == 0 => return Attempt::Done(Reply::Error(error)),
            Err(_) => break,
        }
    }
    // At most `size`, which was 32 bits wide.
    Attempt::Done(Reply::Data { size: done as u32 })
}

/// Bytes that are waited for at a time where the page cache then has more: what readahead brought is read without waiting.
const STEP: usize = 128 << 10;

/// Reads what is missing, waiting for the device.
fn read_waiting(
    file: &DonatedFile,
    offset: u64,
    size: usize,
    chain: &Chain,
    mut done: usize,
    bounce: &mut BounceBuffer<'_>,
) -> Attempt {
    while done < size {
        let at = offset.saturating_add(done as u64);
        let step = match file.reading() {
            Reading::MayWait => STEP,
            _ => size,
        };
        let room = bounce.room(step.min(size - done));
        let asked = room.len();
        let moved = match guest_io::read_private(file.as_fd(), at, room) {
            Ok(moved) => moved,
            Err(error) if is_denial(error) => return Attempt::Denied(done),
            Err(error) if done == 0 => return Attempt::Done(Reply::Error(error)),
            Err(_) => break,
        };
        let skip = OUT_HEADER_LEN + done;
        let copied = bounce.copy(|room, memory| {
            let bytes = room.get(..moved).unwrap_or_default();
            chain.writable.write(memory, skip, bytes)
        });
        if copied != Some(Ok(())) {
            return Attempt::Done(Reply::Error(Errno::EIO));
        }
        done += moved;
        if moved < asked {
            break;
        }
        if done < size && file.reading() == Reading::MayWait {
            match bounce.copy(|_, memory| read(file, offset, size, memory, chain, done)) {
                Some(Attempt::WouldWait(more)) => done = more,
                Some(end) => return end,
                None => return Attempt::Done(Reply::Error(Errno::EIO)),
            }
        }
    }
    Attempt::Done(Reply::Data { size: done as u32 })
}

/// Writes, waiting for the device.
fn write_waiting(
    file: &DonatedFile,
    offset: u64,
    size: usize,
    chain: &Chain,
    data_at: usize,
    bounce: &mut BounceBuffer<'_>,
) -> Attempt {
    let mut done = 0;
    while done < size {
        let length = bounce.room(size - done).len();
        let copied = bounce.copy(|room, memory| {
            let room = room.get_mut(..length).unwrap_or_default();
            chain.readable.read(memory, data_at + done, room)
        });
        if copied != Some(Ok(())) {
            return Attempt::Done(Reply::Error(Errno::EIO));
        }
        let at = offset.saturating_add(done as u64);
        match guest_io::write_private(file.as_fd(), at, bounce.room(length)) {
            Ok(moved) if moved > 0 => done += moved,
            Err(error) if is_denial(error) => return Attempt::Denied(done),
            Err(error) if done == 0 => return Attempt::Done(Reply::Error(error)),
            Ok(_) | Err(_) => break,
        }
    }
    Attempt::Done(Reply::Written { size: done as u32 })
}

fn write(
    file: &DonatedFile,
    offset: u64,
    size: usize,
    memory: &Memory,
    chain: &Chain,
    data_at: usize,
) -> Attempt {
    let mut done = 0;
    while done < size {
        let at = offset.saturating_add(done as u64);
        match guest_io::write(
            file.as_fd(),
            at,
            memory,
            &chain.readable,
            data_at + done,
            size - done,
        ) {
            Ok(moved) if moved.done > 0 => done += moved.done,
            Err(error) if is_denial(error) => return Attempt::Denied(done),
            Err(error) if done == 0 => return Attempt::Done(Reply::Error(error)),
            Ok(_) | Err(_) => break,
        }
    }
    Attempt::Done(Reply::Written { size: done as u32 })
}

fn lseek(file: &DonatedFile, offset: u64, whence: u32) -> Attempt {
    let whence = match whence.cast_signed() {
        libc::SEEK_DATA => Whence::SeekData,
        libc::SEEK_HOLE => Whence::SeekHole,
        _ => return Attempt::Done(Reply::Error(Errno::EINVAL)),
    };
    match i64::try_from(offset) {
        // Moves the file's own offset, which nothing uses.
        Ok(offset) => finish(lseek64(file, offset, whence), |found| {
            Reply::Offset(found.cast_unsigned())
        }),
        Err(_) => Attempt::Done(Reply::Error(Errno::EINVAL)),
    }
}

fn fallocate(file: &DonatedFile, offset: u64, length: u64, mode: u32) -> Attempt {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return Attempt::Done(Reply::Error(Errno::EFBIG));
    };
    let flags = nix::fcntl::FallocateFlags::from_bits_retain(mode.cast_signed());
    finish(nix::fcntl::fallocate(file, flags, offset, length), |()| {
        Reply::Done
    })
}

#[cfg(test)]
mod tests {
    use airlockfs_ipc::Handle;

    use super::*;
    use crate::{
        data::bounce::{GivenUp, room},
        guest_memory::{SharedMemory, tests::memory},
    };

    const HANDLE: Handle = Handle(1);

    fn chain(memory: &Memory) -> Chain {
        let mut chain = Chain::default();
        chain.readable.push(memory, 0x1000, 0x1000).unwrap();
        chain.writable.push(memory, 0x2000, 0x1000).unwrap();
        chain
    }

    fn run(file: &DonatedFile, memory: &Memory, operation: FileOperation) -> Reply<'static> {
        let (room, given_up) = (room().unwrap(), GivenUp::default());
        let guest = SharedMemory::new(memory.clone());
        let mut bounce = BounceBuffer::new(room, &guest, &given_up, (0, 0));
        match carry_out(operation, file, &chain(memory), 80, 0, &mut bounce) {
            Attempt::Done(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn written_bytes_are_read_back() {
        let (file, memory) = (DonatedFile::for_test(), memory());
        chain(&memory).readable.write(&memory, 80, b"hello").unwrap();
        let write = FileOperation::Write {
            handle: HANDLE,
            offset: 3,
            size: 5,
            kill_suidgid: false,
        };
        assert_eq!(run(&file, &memory, write), Reply::Written { size: 5 });
        let read = FileOperation::Read {
            handle: HANDLE,
            offset: 0,
            size: 100,
        };
        assert_eq!(run(&file, &memory, read), Reply::Data { size: 8 });
        let mut back = [0; 8];
        chain(&memory).writable.read(&memory, 16, &mut back).unwrap();
        assert_eq!(&back, b"\0\0\0hello");
        let seek = FileOperation::Lseek {
            handle: HANDLE,
            offset: 0,
            whence: libc::SEEK_HOLE.cast_unsigned(),
        };
        assert_eq!(run(&file, &memory, seek), Reply::Offset(8));
        let allocate = FileOperation::Fallocate {
            handle: HANDLE,
            offset: 0,
            length: 100,
            mode: 0,
            kill_suidgid: false,
        };
        assert_eq!(run(&file, &memory, allocate), Reply::Done);
        assert_eq!(run(&file, &memory, read), Reply::Data { size: 100 });
        assert_eq!(
            run(
                &file,
                &memory,
                FileOperation::Fsync {
                    handle: HANDLE,
                    datasync: true
                }
            ),
            Reply::Done
        );
    }

    #[test]
    fn numbers_the_kernel_would_misread_are_errors() {
        let (file, memory) = (DonatedFile::for_test(), memory());
        for io in [
            FileOperation::Read {
                handle: HANDLE,
                offset: u64::MAX,
                size: 1,
            },
            FileOperation::Write {
                handle: HANDLE,
                offset: u64::MAX,
                size: 1,
                kill_suidgid: false,
            },
            FileOperation::Lseek {
                handle: HANDLE,
                offset: u64::MAX,
                whence: libc::SEEK_DATA.cast_unsigned(),
            },
            FileOperation::Lseek {
                handle: HANDLE,
                offset: 0,
                whence: u32::MAX,
            },
            FileOperation::Fallocate {
                handle: HANDLE,
                offset: u64::MAX,
                length: 1,
                mode: 0,
                kill_suidgid: false,
            },
            FileOperation::Fallocate {
                handle: HANDLE,
                offset: 0,
                length: 1,
                mode: u32::MAX,
                kill_suidgid: false,
            },
        ] {
            assert!(matches!(run(&file, &memory, io), Reply::Error(_)), "{io:?}");
        }
    }

    #[test]
    fn what_may_wait_is_not_tried_by_a_queues_thread() {
        let (file, memory) = (DonatedFile::for_test(), memory());
        let io = FileOperation::Fsync {
            handle: HANDLE,
            datasync: false,
        };
        assert_eq!(
            attempt(io, &file, &memory, &chain(&memory), 80),
            Attempt::WouldWait(0)
        );
    }
}
