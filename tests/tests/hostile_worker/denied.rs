//! Files that the supervisor may not write to although their descriptors allow it, and donations
//! that fail. The requests go to the worker. Here a sealed file in memory is one of the first kind.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use airlockfs_ipc::Handle;
use airlockfs_ipc::message::{Attr, Entry, FileOperation, Reply, Request};
use airlockfs_tests::boundary::puppet::{self, Puppet, decoded};
use airlockfs_tests::boundary::raw::{BULKS, RawRequest};
use airlockfs_tests::fuse::abi::{WRITE, WriteIn};
use airlockfs_tests::fuse::{Client, Opened, SessionConfig, Wait};
use airlockfs_tests::vmm::VmmConfig;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use zerocopy::IntoBytes;

use crate::{LANE, exchange, options};

const HANDLE: Handle = Handle(7);
const LARGE: usize = 64 << 10;
/// More WRITEs than there are buffers in a lane.
const MANY: usize = BULKS + 24;

/// A regular file that is open for writing, with these flags, and that nobody can write to.
fn sealed(flags: i32) -> OwnedFd {
    let file = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memfd");
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .expect("open");
    fcntl(
        &file,
        FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW),
    )
    .expect("seals");
    opened.into()
}

fn started() -> (airlockfs_tests::daemon::Daemon, Client, Puppet) {
    let (daemon, puppet) = puppet::start(&options());
    let client = daemon.connect_with(&SessionConfig {
        vmm: VmmConfig {
            queue_size: 1024,
            ..VmmConfig::default()
        },
        depth: MANY,
        room: LARGE + 4096,
    });
    client.init().expect("INIT");
    (daemon, client, puppet)
}

fn opened(fs: &Client, puppet: &mut Puppet) -> Opened {
    let entry = Entry {
        node: airlockfs_ipc::NodeId(5),
        attr: Attr::default(),
    };
    let reply = Reply::Created {
        entry,
        handle: HANDLE,
    };
    let created = exchange(
        fs,
        puppet,
        |fs| fs.create(1, "file", libc::O_RDWR, 0o600),
        |puppet, request| puppet.reply(LANE, request, &reply),
    );
    created.expect("CREATE").1
}

/// Answers the request for the descriptor, and takes the one that follows.
fn donated(puppet: &mut Puppet, request: &RawRequest, donate: impl FnOnce(&Puppet)) -> RawRequest {
    assert_eq!(decoded(request), Request::Donate { handle: HANDLE });
    donate(puppet);
    puppet.next(LANE)
}

#[test]
fn what_the_supervisor_may_not_do_is_the_workers_from_then_on() {
    // Where a write waits for the device it is a data thread that may not.
    for flags in [0, libc::O_DSYNC] {
        let (daemon, fs, mut puppet) = started();
        let file = opened(&fs, &mut puppet);
        let descriptor = sealed(flags);
        let data = vec![b'x'; LARGE];
        let written = exchange(
            &fs,
            &mut puppet,
            |fs| fs.write(file, 10, &data),
            |puppet, request| {
                let request = donated(puppet, request, |puppet| {
                    puppet.donate(LANE, HANDLE, &[&descriptor]);
                    puppet.reply(LANE, request, &Reply::Donated);
                });
                let expected = Request::File(FileOperation::Write {
                    handle: HANDLE,
                    offset: 10,
                    size: LARGE as u32,
                    kill_suidgid: false,
                });
                assert_eq!(decoded(&request), expected);
                assert!(puppet.lanes[LANE].read_bulk(request.bulk, LARGE) == data);
                puppet.reply(LANE, &request, &Reply::Written { size: 100 });
            },
        );
        assert_eq!(written, Ok(100));
        // The worker's word is the last, and nothing of that file is tried here again.
        let read = exchange(
            &fs,
            &mut puppet,
            |fs| fs.read(file, 0, 10),
            |puppet, request| {
                assert!(matches!(
                    decoded(request),
                    Request::File(FileOperation::Read { handle: HANDLE, .. })
                ));
                puppet.reply(LANE, request, &Reply::Error(airlockfs_ipc::Errno::EPERM));
            },
        );
        assert_eq!(read, Err(Errno::EPERM));
        assert!(daemon.is_alive());
    }
}

#[test]
fn what_changes_no_data_is_the_workers_too() {
    let (_daemon, fs, mut puppet) = started();
    let file = opened(&fs, &mut puppet);
    let descriptor = sealed(0);
    let read = exchange(
        &fs,
        &mut puppet,
        |fs| fs.read(file, 0, LARGE as u32),
        |puppet, request| {
            assert_eq!(decoded(request), Request::Donate { handle: HANDLE });
            puppet.donate(LANE, HANDLE, &[&descriptor]);
            puppet.reply(LANE, request, &Reply::Donated);
        },
    );
    assert_eq!(read, Ok(Vec::new()));
    let allocated = exchange(
        &fs,
        &mut puppet,
        |fs| fs.fallocate(file, 0, 0, 4096),
        |puppet, request| {
            assert!(matches!(
                decoded(request),
                Request::File(FileOperation::Fallocate { handle: HANDLE, .. })
            ));
            puppet.reply(LANE, request, &Reply::Done);
        },
    );
    assert_eq!(allocated, Ok(()));
}

/// They come back from the data threads all at once, and wait for one another's buffers.
#[test]
fn more_than_there_are_buffers_for_is_done_one_after_the_other() {
    let (daemon, fs, mut puppet) = started();
    let file = opened(&fs, &mut puppet);
    let descriptor = sealed(libc::O_DSYNC);
    // Not written to yet, it is donated.
    let read = exchange(
        &fs,
        &mut puppet,
        |fs| fs.read(file, 0, LARGE as u32),
        |puppet, request| {
            assert_eq!(decoded(request), Request::Donate { handle: HANDLE });
            puppet.donate(LANE, HANDLE, &[&descriptor]);
            puppet.reply(LANE, request, &Reply::Donated);
        },
    );
    assert_eq!(read, Ok(Vec::new()));
    let mut lane = fs.session().lane(LANE);
    let mut slots = Vec::new();
    for number in 0..MANY {
        let slot = lane.acquire().expect("a slot");
        let body = WriteIn {
            fh: file.fh,
            offset: number as u64,
            size: 4096,
            ..WriteIn::default()
        };
        let data = [number as u8; 4096];
        let length = lane.write(slot, fs.header(WRITE, file.node), &[body.as_bytes(), &data]);
        lane.submit(slot, length, 24);
        slots.push(slot);
    }
    lane.flush();
    let mut seen = Vec::new();
    for _ in 0..MANY {
        let request = puppet.next(LANE);
        let Request::File(FileOperation::Write {
            offset, size: 4096, ..
        }) = decoded(&request)
        else {
            panic!("{:?}", decoded(&request));
        };
        assert!(puppet.lanes[LANE].read_bulk(request.bulk, 4096) == [offset as u8; 4096]);
        seen.push(offset);
        puppet.reply(LANE, &request, &Reply::Written { size: 4096 });
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..MANY as u64).collect::<Vec<_>>());
    for slot in slots {
        let done = lane.wait_for(slot, puppet::PATIENCE);
        assert!(matches!(done, Wait::Done(done) if done.len == 24), "{done:?}");
        assert_eq!(lane.reply_header(slot).error, 0);
    }
    assert!(daemon.is_alive());
}

/// It has too many on their way already (ETOOMANYREFS), or none left (EMFILE).
#[test]
fn a_worker_that_cannot_send_a_descriptor_serves_the_file() {
    for errno in [libc::ETOOMANYREFS, libc::EMFILE, libc::EACCES] {
        let (daemon, fs, mut puppet) = started();
        let file = opened(&fs, &mut puppet);
        let read = exchange(
            &fs,
            &mut puppet,
            |fs| fs.read(file, 0, LARGE as u32),
            |puppet, request| {
                let reply = Reply::Error(airlockfs_ipc::Errno::raw(errno));
                let request = donated(puppet, request, |puppet| puppet.reply(LANE, request, &reply));
                puppet.fill(LANE, &request, b"text");
                puppet.reply(LANE, &request, &Reply::Data { size: 4 });
            },
        );
        assert_eq!(read, Ok(b"text".to_vec()));
        assert!(daemon.is_alive());
    }
}
