//! Open files: data through the ring, donation, and the slow operations.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use airlockfs_ipc::{
    Errno, Handle, NodeId,
    message::{AttrChange, FileOperation, Reply, Request},
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::client::Worker;

#[test]
fn data_goes_in_and_comes_out() {
    let mut worker = Worker::start(|_| ());
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let data: Vec<u8> = (0..1u32 << 20).map(|n| (n / 5) as u8).collect();
    assert_eq!(worker.write(handle, 100, &data), Ok(1 << 20));
    assert_eq!(worker.read(handle, 100, 1 << 20).unwrap(), data);
    assert_eq!(
        worker.read(handle, 0, 102).unwrap()[98..],
        [0, 0, data[0], data[1]]
    );
    let end = 100 + (1 << 20);
    assert_eq!(
        worker.read(handle, end - 3, 4096).unwrap(),
        data[data.len() - 3..]
    );
    assert_eq!(worker.read(handle, end, 4096).unwrap(), b"");
    assert_eq!(worker.read(handle, i64::MAX as u64 - 1, 1).unwrap(), b"");
    assert_eq!(worker.getattr(entry.node).unwrap().size, end);
    assert_eq!(fs::read(worker.path("f")).unwrap()[100..], data);
}

#[test]
fn offsets_past_the_largest_are_refused() {
    let mut worker = Worker::start(|_| ());
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    for offset in [1 << 63, u64::MAX, u64::MAX - 4095] {
        assert_eq!(worker.write(handle, offset, b"x"), Err(Errno::EINVAL));
        assert_eq!(worker.read(handle, offset, 1), Err(Errno::EINVAL));
    }
    let last = worker.write(handle, i64::MAX as u64, b"x");
    assert!(matches!(last, Err(Errno::EFBIG | Errno::EINVAL)), "{last:?}");
}

#[test]
fn a_handle_does_only_what_it_was_opened_for() {
    let mut worker = Worker::start(|_| ());
    let (entry, writing) = worker.create("f", libc::O_WRONLY, 0o600).unwrap();
    let reading = worker.open(entry.node, libc::O_RDONLY).unwrap();
    assert_eq!(worker.read(writing, 0, 1), Err(Errno::EBADF));
    assert_eq!(worker.write(reading, 0, b"x"), Err(Errno::EBADF));
    let fallocate = |handle| {
        Request::File(FileOperation::Fallocate {
            handle,
            offset: 0,
            length: 10,
            mode: 0,
            kill_suidgid: false,
        })
    };
    assert_eq!(worker.call(&fallocate(reading)), Err(Errno::EBADF));
    assert_eq!(worker.call(&fallocate(writing)), Ok(Reply::Done));
    worker.release(reading).unwrap();
    assert_eq!(worker.read(reading, 0, 1), Err(Errno::EBADF));
    assert_eq!(worker.release(reading), Err(Errno::EBADF));
    let directory = worker.opendir(NodeId::ROOT).unwrap();
    assert_eq!(worker.read(directory, 0, 1), Err(Errno::EISDIR));
    assert_eq!(worker.open(NodeId::ROOT, libc::O_RDONLY), Err(Errno::EISDIR));
    assert_eq!(worker.open(entry.node, libc::O_ACCMODE), Err(Errno::EINVAL));
}

#[test]
fn with_a_writeback_cache_files_are_readable_and_not_appended_to() {
    let mut worker = Worker::start(|config| config.writeback = true);
    let (entry, handle) = worker
        .create("f", libc::O_WRONLY | libc::O_APPEND, 0o600)
        .unwrap();
    worker.write(handle, 0, b"0123456789").unwrap();
    worker.write(handle, 2, b"ab").unwrap();
    assert_eq!(worker.read(handle, 0, 100).unwrap(), b"01ab456789");
    let handle = worker.open(entry.node, libc::O_WRONLY | libc::O_APPEND).unwrap();
    worker.write(handle, 4, b"cd").unwrap();
    assert_eq!(worker.read(handle, 0, 100).unwrap(), b"01abcd6789");

    let mut worker = Worker::start(|_| ());
    let (_, handle) = worker.create("f", libc::O_RDWR | libc::O_APPEND, 0o600).unwrap();
    worker.write(handle, 0, b"0123").unwrap();
    worker.write(handle, 0, b"ab").unwrap();
    assert_eq!(worker.read(handle, 0, 100).unwrap(), b"0123ab");
}

fn donate(worker: &mut Worker, handle: Handle) -> Option<File> {
    match worker.call(&Request::Donate { handle }) {
        Ok(Reply::Donated) => Some(worker.lane.receive_donation(handle).unwrap().unwrap().into()),
        Ok(Reply::NotDonated) => None,
        other => panic!("{other:?}"),
    }
}

/// Whoever asks: a supervisor that has fallen, too.
#[test]
fn nothing_is_donated_where_that_is_off() {
    let mut worker = Worker::start(|config| config.donate = false);
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    assert!(donate(&mut worker, handle).is_none());
    worker.write(handle, 0, b"by the ring").unwrap();
    assert_eq!(worker.read(handle, 0, 100).unwrap(), b"by the ring");
}

#[test]
fn a_donated_descriptor_is_the_open_file() {
    let mut worker = Worker::start(|_| ());
    let (entry, handle) = worker.create("f", libc::O_WRONLY, 0o600).unwrap();
    let mut donated = donate(&mut worker, handle).unwrap();
    donated.write_all(b"straight").unwrap();
    assert!(donated.read(&mut [0]).is_err(), "opened for writing only");
    let reading = worker.open(entry.node, libc::O_RDONLY).unwrap();
    let mut donated = donate(&mut worker, reading).unwrap();
    let mut content = String::new();
    donated.read_to_string(&mut content).unwrap();
    assert_eq!(content, "straight");
    assert!(donated.write(b"x").is_err(), "opened for reading only");
    let flags = OFlag::from_bits_retain(fcntl(&donated, FcntlArg::F_GETFL).unwrap());
    assert!(!flags.contains(OFlag::O_PATH));
    let directory = worker.opendir(NodeId::ROOT).unwrap();
    assert!(donate(&mut worker, directory).is_none());
    let unknown = Handle(handle.0 + (1 << 32));
    assert_eq!(
        worker.call(&Request::Donate { handle: unknown }),
        Err(Errno::EBADF)
    );
    worker.release(handle).unwrap();
    assert_eq!(worker.call(&Request::Donate { handle }), Err(Errno::EBADF));
}

#[test]
fn what_a_write_must_treat_with_care_is_not_donated() {
    let mut worker = Worker::start(|_| ());
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o700).unwrap();
    let change = AttrChange {
        mode: Some(0o4755),
        ..AttrChange::default()
    };
    worker.setattr(entry.node, change).unwrap();
    assert!(donate(&mut worker, handle).is_none());
    let reading = worker.open(entry.node, libc::O_RDONLY).unwrap();
    assert!(donate(&mut worker, reading).is_some());

    let mut worker = Worker::start(|config| config.xattr_map = Some(":map::user.guest.:".into()));
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o700).unwrap();
    assert!(donate(&mut worker, handle).is_none(), "CVE-2021-20263");

    let mut worker = Worker::start(|config| config.donate = false);
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o700).unwrap();
    assert!(donate(&mut worker, handle).is_none());
}

#[test]
fn holes_and_data_are_found_made_and_copied() {
    let mut worker = Worker::start(|_| ());
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    worker.write(handle, 1 << 20, &[7; 4096]).unwrap();
    let seek = |offset, whence: i32| {
        Request::File(FileOperation::Lseek {
            handle,
            offset,
            whence: whence as u32,
        })
    };
    assert_eq!(worker.call(&seek(0, libc::SEEK_DATA)), Ok(Reply::Offset(1 << 20)));
    assert_eq!(
        worker.call(&seek(1 << 20, libc::SEEK_HOLE)),
        Ok(Reply::Offset((1 << 20) + 4096))
    );
    assert_eq!(worker.call(&seek(1 << 40, libc::SEEK_DATA)), Err(Errno::ENXIO));
    assert_eq!(worker.call(&seek(u64::MAX, libc::SEEK_DATA)), Err(Errno::ENXIO));
    assert_eq!(worker.call(&seek(0, libc::SEEK_SET)), Err(Errno::EINVAL));
    let punch = Request::File(FileOperation::Fallocate {
        handle,
        offset: 1 << 20,
        length: 2048,
        mode: (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u32,
        kill_suidgid: false,
    });
    assert_eq!(worker.call(&punch), Ok(Reply::Done));
    assert_eq!(worker.read(handle, (1 << 20) + 2047, 2).unwrap(), [0, 7]);
    let wrong = Request::File(FileOperation::Fallocate {
        handle,
        offset: 0,
        length: 10,
        mode: 1 << 30,
        kill_suidgid: false,
    });
    assert_eq!(worker.call(&wrong), Err(Errno::ENOTSUP));
    let (_, target) = worker.create("g", libc::O_RDWR, 0o600).unwrap();
    let copy = |source, target, target_offset| Request::CopyFileRange {
        source,
        source_offset: (1 << 20) + 2046,
        target,
        target_offset,
        length: 4,
        kill_suidgid: false,
    };
    assert_eq!(worker.call(&copy(handle, target, 10)), Ok(Reply::Copied(4)));
    assert_eq!(worker.read(target, 10, 10).unwrap(), [0, 0, 7, 7]);
    assert_eq!(worker.call(&copy(handle, target, u64::MAX)), Err(Errno::EINVAL));
    for datasync in [false, true] {
        let sync = Request::File(FileOperation::Fsync { handle, datasync });
        assert_eq!(worker.call(&sync), Ok(Reply::Done));
    }
}

#[test]
fn slow_operations_are_all_answered() {
    let mut worker = Worker::start(|_| ());
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let fsync = Request::File(FileOperation::Fsync {
        handle,
        datasync: false,
    });
    let getattr = Request::GetAttr { node: entry.node };
    let mut sent: Vec<_> = (0..100)
        .map(|n| worker.send(if n % 2 == 0 { &fsync } else { &getattr }))
        .collect();
    while !sent.is_empty() {
        let (slot, reply) = worker.answer();
        assert!(reply.is_ok());
        let place = sent.iter().position(|&waiting| waiting == slot).unwrap();
        sent.swap_remove(place);
    }
}

#[test]
#[expect(unsafe_code, reason = "a signal is ignored")]
fn an_open_waits_for_a_lease_of_the_host_and_nothing_else_does() {
    // The kernel tells the holder of a lease by this signal, which ends a process by default.
    // SAFETY: ignoring a signal runs nothing.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "leased").unwrap();
    let node = worker.node("f");
    let host = File::options().write(true).open(worker.path("f")).unwrap();
    let lease = |kind: i32| {
        // SAFETY: takes a descriptor and a number.
        let result = unsafe { libc::fcntl(host.as_raw_fd(), libc::F_SETLEASE, kind) };
        assert_eq!(result, 0);
    };
    lease(libc::F_WRLCK);
    let open = Request::Open {
        node,
        flags: 0,
        kill_suidgid: false,
    };
    let waiting = worker.send(&open);
    assert!(worker.getattr(node).is_ok());
    assert!(!worker.has_answer(50));
    lease(libc::F_UNLCK);
    let (slot, reply) = worker.answer();
    assert!(slot == waiting && matches!(reply, Ok(Reply::Opened { .. })));
}

#[test]
#[expect(unsafe_code, reason = "a signal is ignored")]
fn a_read_of_what_nobody_opened_waits_for_a_lease_too() {
    // SAFETY: ignoring a signal runs nothing.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let mut worker = Worker::start(|config| {
        config.readonly = true;
        config.zero_open = true;
    });
    fs::write(worker.path("f"), "leased").unwrap();
    let node = worker.node("f");
    let host = File::options().write(true).open(worker.path("f")).unwrap();
    let lease = |kind: i32| {
        // SAFETY: takes a descriptor and a number.
        let result = unsafe { libc::fcntl(host.as_raw_fd(), libc::F_SETLEASE, kind) };
        assert_eq!(result, 0);
    };
    lease(libc::F_WRLCK);
    let handle = Handle::of_node(node).unwrap();
    let read = std::thread::scope(|scope| {
        let read = scope.spawn(|| worker.read(handle, 0, 10));
        // The kernel asks the holder to give it up, which shows as its target.
        while lease_of(&host) != libc::F_RDLCK {
            std::thread::yield_now();
        }
        lease(libc::F_UNLCK);
        read.join().unwrap()
    });
    assert_eq!(read.unwrap(), b"leased");
}

/// What a lease is, or is to become.
#[expect(unsafe_code, reason = "F_GETLEASE")]
fn lease_of(file: &File) -> i32 {
    // SAFETY: takes a descriptor.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) }
}

#[test]
fn flags_of_files_are_read_and_set() {
    let mut worker = Worker::start(|_| ());
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let node = entry.node;
    let get = |extended| Request::GetFileFlags {
        node,
        handle,
        extended,
    };
    const NODUMP: u32 = 0x40;
    let flags = match worker.call(&get(false)) {
        Ok(Reply::FileFlags(flags)) => flags,
        // The file system of the tests has none.
        Err(Errno::ENOTTY | Errno::ENOTSUP) => return,
        other => panic!("{other:?}"),
    };
    let set = |flags| Request::SetFileFlags { node, handle, flags };
    assert_eq!(worker.call(&set(flags | NODUMP)), Ok(Reply::Done));
    assert_eq!(worker.call(&get(false)), Ok(Reply::FileFlags(flags | NODUMP)));
    let Ok(Reply::FsXattr(value)) = worker.call(&get(true)) else {
        panic!("no extended flags");
    };
    let set = Request::SetFsXattr { node, handle, value };
    assert_eq!(worker.call(&set), Ok(Reply::Done));
}

#[test]
fn a_file_that_is_open_can_be_executed_on_the_host_once_it_is_closed() {
    let mut worker = Worker::start(|_| ());
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o700).unwrap();
    worker.write(handle, 0, b"#!/bin/sh\nexit 7\n").unwrap();
    let donated = donate(&mut worker, handle).unwrap();
    assert_eq!(donated.read_at(&mut [0; 2], 0).unwrap(), 2);
    let path = worker.path("f");
    let run = || std::process::Command::new(&path).status();
    assert!(run().is_err(), "busy");
    drop(donated);
    worker.release(handle).unwrap();
    worker.getattr(entry.node).unwrap();
    assert_eq!(run().unwrap().code(), Some(7));
}
