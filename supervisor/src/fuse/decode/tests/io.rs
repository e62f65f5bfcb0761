//! Open files and directories, up to the largest offset.

use airlockfs_ipc::message::{FileOperation, Request};
use airlockfs_ipc::{Errno, Handle};
use zerocopy::IntoBytes;

use super::samples::{Sample, options, sample, session_with};
use super::{H, NODE, NOTHING, assert_means, assert_refused, decoded, decoded_in, operation};
use crate::fuse::abi::{self, flags};
use crate::fuse::{Operation, Options, ReplyShape};

#[test]
fn opening_and_closing() {
    let flags = libc::O_RDWR as u32;
    let opened = (ReplyShape::Opened, 0);
    assert_means(
        &sample("OPEN"),
        Request::Open {
            node: NODE,
            flags,
            kill_suidgid: false,
        },
        opened,
    );
    let opened = (ReplyShape::OpenedDirectory, 0);
    assert_means(&sample("OPENDIR"), Request::OpenDir { node: NODE, flags }, opened);
    assert_means(
        &sample("RELEASE"),
        Request::Release {
            handle: H,
            flock_owner: Some(3),
        },
        NOTHING,
    );
    assert_means(&sample("RELEASEDIR"), Request::ReleaseDir { handle: H }, NOTHING);
    assert_means(
        &sample("FLUSH"),
        Request::Flush {
            handle: H,
            lock_owner: 3,
        },
        NOTHING,
    );

    // What creates, follows or opens without opening is not for OPEN to say.
    let open = |flags: i32| {
        Sample::new(
            14,
            &[abi::OpenIn {
                flags: flags as u32,
                open_flags: 1,
            }
            .as_bytes()],
        )
    };
    let kept =
        libc::O_WRONLY | libc::O_TRUNC | libc::O_APPEND | libc::O_DIRECT | libc::O_NOATIME | libc::O_SYNC;
    let dropped =
        libc::O_CREAT | libc::O_EXCL | libc::O_PATH | libc::O_TMPFILE | libc::O_NOCTTY | libc::O_ASYNC;
    let request = Request::Open {
        node: NODE,
        flags: kept as u32,
        kill_suidgid: true,
    };
    assert_means(&open(kept | dropped), request, (ReplyShape::Opened, 0));
    // Linux's fourth access mode asks for both rights.
    let request = Request::Open {
        node: NODE,
        flags: libc::O_RDWR as u32,
        kill_suidgid: true,
    };
    assert_means(&open(3), request, (ReplyShape::Opened, 0));
}

#[test]
fn zero_message_opens() {
    let without = |offered| {
        session_with(
            &Options {
                zero_open: true,
                ..options()
            },
            45,
            offered,
        )
    };
    for (offered, name, ok) in [
        (u64::MAX, "OPEN", false),
        (u64::MAX, "OPENDIR", false),
        (!flags::NO_OPENDIR_SUPPORT, "OPENDIR", true),
        (!flags::NO_OPENDIR_SUPPORT, "OPEN", false),
        (0, "OPEN", true),
    ] {
        let sample = sample(name);
        let result = decoded_in(&sample, Some(&without(offered)));
        assert_eq!(result.is_ok(), ok, "{name} {offered:x}");
    }
}

#[test]
fn reads_and_writes_at_the_edges() {
    let read = |offset, size| {
        let body = abi::ReadIn {
            fh: 9,
            offset,
            size,
            ..Default::default()
        };
        Sample {
            room: 1 << 25,
            ..Sample::new(15, &[body.as_bytes()])
        }
    };
    let largest = i64::MAX as u64;
    let is = |offset, size| {
        Operation::File(FileOperation::Read {
            handle: H,
            offset,
            size,
        })
    };
    // The last page of the largest file ends one byte early.
    assert_eq!(operation(&read(largest - 4095, 4096)), is(largest - 4095, 4095));
    assert_eq!(operation(&read(largest, 4096)), is(largest, 0));
    // A guest with 64 KiB pages.
    assert_eq!(operation(&read(0, 16 << 20)), is(0, 16 << 20));
    assert_refused(&read(largest + 1, 1), Errno::EINVAL);
    assert_refused(&read(u64::MAX, u32::MAX), Errno::EINVAL);
    assert_refused(&read(0, 1 << 25), Errno::EINVAL);

    let write = |offset, size: u32, data: usize| {
        let body = abi::WriteIn {
            fh: 9,
            offset,
            size,
            ..Default::default()
        };
        Sample::new(16, &[body.as_bytes(), &vec![7; data]])
    };
    assert!(decoded(&write(0, 1 << 20, 1 << 20)).is_ok());
    assert_refused(&write(0, (1 << 20) + 1, (1 << 20) + 1), Errno::EINVAL);
    assert!(decoded(&write(largest - 3, 3, 3)).is_ok());
    assert_refused(&write(largest - 2, 3, 3), Errno::EFBIG);
    assert_refused(&write(1 << 63, 3, 3), Errno::EINVAL);
    for (size, data) in [(3, 2), (3, 4), (0, 1), (u32::MAX, 3)] {
        assert_refused(&write(0, size, data), Errno::EINVAL);
    }
    let old = session_with(&options(), 27, 0);
    let large = write(0, 1 << 18, 1 << 18);
    assert!(decoded_in(&large, Some(&old)).is_err());
    assert!(decoded_in(&write(0, 1 << 17, 1 << 17), Some(&old)).is_ok());
}

#[test]
fn other_file_operations() {
    let is = |name: &str, io| assert_eq!(operation(&sample(name)), Operation::File(io));
    is(
        "FSYNC",
        FileOperation::Fsync {
            handle: H,
            datasync: true,
        },
    );
    is(
        "LSEEK",
        FileOperation::Lseek {
            handle: H,
            offset: 1,
            whence: libc::SEEK_HOLE as u32,
        },
    );
    is(
        "FALLOCATE",
        FileOperation::Fallocate {
            handle: H,
            offset: 1,
            length: 2,
            mode: 3,
            kill_suidgid: true,
        },
    );
    assert_means(
        &sample("FSYNCDIR"),
        Request::FsyncDir {
            handle: H,
            datasync: true,
        },
        NOTHING,
    );
    let copied = |length| Request::CopyFileRange {
        source: H,
        source_offset: 0,
        target: Handle(10),
        target_offset: 0,
        length,
        kill_suidgid: true,
    };
    // The older form answers in 32 bits.
    let narrow = (ReplyShape::Copied, 0xffff_f000);
    assert_means(&sample("COPY_FILE_RANGE"), copied(0xffff_f000), narrow);
    let wide = (ReplyShape::CopiedWide, 1 << 40);
    assert_means(&sample("COPY_FILE_RANGE_64"), copied(1 << 40), wide);

    let allocate = |offset, length, mode| {
        let body = abi::FallocateIn {
            fh: 9,
            offset,
            length,
            mode,
            padding: 0,
        };
        Sample::new(43, &[body.as_bytes()])
    };
    for mode in [0, 1, 3, 8, 0x10, 0x11, 0x20, 0x40, 0x80] {
        assert!(decoded(&allocate(0, 1, mode)).is_ok(), "{mode}");
    }
    assert_refused(&allocate(0, 1, 4), Errno::ENOTSUP);
    assert_refused(&allocate(0, 0, 0), Errno::EINVAL);
    assert_refused(&allocate(1 << 63, 1, 0), Errno::EINVAL);
    assert_refused(&allocate(i64::MAX as u64, 1, 0), Errno::EFBIG);
    assert_refused(&allocate(1, u64::MAX, 0), Errno::EFBIG);

    let seek = |offset, whence: i32| {
        let body = abi::LseekIn {
            fh: 9,
            offset,
            whence: whence as u32,
            padding: 0,
        };
        Sample::new(46, &[body.as_bytes()])
    };
    assert_refused(&seek(0, libc::SEEK_END), Errno::EINVAL);
    assert_refused(&seek(1 << 63, libc::SEEK_DATA), Errno::ENXIO);
}

#[test]
fn directories() {
    let listed = |plus| Request::ReadDir {
        handle: H,
        offset: 4096,
        size: 4096,
        plus,
    };
    assert_means(&sample("READDIR"), listed(false), (ReplyShape::Dirents, 4096));
    assert_means(
        &sample("READDIRPLUS"),
        listed(true),
        (ReplyShape::DirentsPlus, 4096),
    );
    // Cookies are the file system's, whatever bits they have; sizes are cut.
    let body = abi::ReadIn {
        fh: 9,
        offset: u64::MAX,
        size: 1 << 24,
        ..Default::default()
    };
    let sample = Sample {
        room: (1 << 24) + 16,
        ..Sample::new(28, &[body.as_bytes()])
    };
    let request = Request::ReadDir {
        handle: H,
        offset: u64::MAX,
        size: 1 << 20,
        plus: false,
    };
    assert_means(&sample, request, (ReplyShape::Dirents, 1 << 20));
}

#[test]
fn with_a_write_back_cache_the_guest_knows_what_is_data() {
    let options = Options {
        writeback: true,
        ..options()
    };
    let writeback = session_with(&options, 45, u64::MAX);
    let refusal = decoded_in(&sample("LSEEK"), Some(&writeback)).unwrap_err();
    assert_eq!(
        (refusal.answer.unwrap().1, refusal.malformed),
        (Errno::ENOSYS, false)
    );
    // A guest that has none is told what the host has.
    let through = session_with(&options, 45, !flags::WRITEBACK_CACHE);
    assert!(decoded_in(&sample("LSEEK"), Some(&through)).is_ok());
}

#[test]
fn flush_is_fsync_to_who_asks_for_that_with_it() {
    let quiet = Options {
        forward_flush: false,
        ..options()
    };
    let flush = sample("FLUSH");
    for (offered, served) in [
        (u64::MAX, false),
        (flags::ASYNC_READ, false),
        (flags::POSIX_LOCKS, false),
        (flags::DO_READDIRPLUS | flags::MAX_PAGES, true),
        (0, true),
    ] {
        let session = session_with(&quiet, 31, offered);
        let decoded = decoded_in(&flush, Some(&session));
        match decoded {
            Ok(decoded) if served => {
                let fsync = FileOperation::Fsync {
                    handle: H,
                    datasync: false,
                };
                assert_eq!(decoded.operation, Operation::File(fsync));
            }
            Err(refusal) if !served => assert_eq!(refusal.answer.unwrap().1, Errno::ENOSYS),
            other => panic!("{offered:x}: {other:?}"),
        }
    }
}
