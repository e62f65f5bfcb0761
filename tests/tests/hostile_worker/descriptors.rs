//! Descriptors of the wrong kind, too many, too few, and unexpected ones.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use airlockfs_ipc::message::{Attr, Entry, Reply, Request};
use airlockfs_ipc::{Handle, NodeId};
use airlockfs_tests::boundary::puppet::{self, Puppet, decoded};
use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::{Client, Opened};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::{LANE, assert_broken, assert_ended, exchange, started};

/// So large a read asks for the descriptor at once.
const LARGE: u32 = 64 << 10;
const HANDLE: Handle = Handle(7);

/// A file that the guest has open, so the worker says.
fn opened(fs: &Client, puppet: &mut Puppet, flags: i32) -> Opened {
    let entry = Entry {
        node: NodeId(5),
        attr: Attr::default(),
    };
    let reply = Reply::Created {
        entry,
        handle: HANDLE,
    };
    let created = exchange(
        fs,
        puppet,
        |fs| fs.create(1, "file", flags, 0o600),
        |puppet, request| puppet.reply(LANE, request, &reply),
    );
    created.expect("CREATE").1
}

/// Reads much of it; `donate` is what the worker does when it is asked for the descriptor.
fn read(
    fs: &Client,
    puppet: &mut Puppet,
    file: Opened,
    donate: impl FnOnce(&Puppet),
) -> Result<Vec<u8>, Errno> {
    exchange(
        fs,
        puppet,
        |fs| fs.read(file, 0, LARGE),
        |puppet, request| {
            assert_eq!(decoded(request), Request::Donate { handle: HANDLE });
            donate(puppet);
            puppet.reply(LANE, request, &Reply::Donated);
        },
    )
}

fn open(path: &Path, access: i32, flags: i32) -> OwnedFd {
    let mut options = File::options();
    options
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY)
        .custom_flags(flags);
    options
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into()
}

#[test]
fn descriptors_of_the_wrong_kind_end_the_session() {
    let home = TempDir::new().expect("a directory");
    let file = home.join("file");
    fs::write(&file, "text").expect("write");
    let fifo = home.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let listener = UnixListener::bind(home.join("socket")).expect("bind");
    let (pipe, _pipe_end) = nix::unistd::pipe().expect("pipe");
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).expect("epoll");
    let event = nix::sys::eventfd::EventFd::new().expect("eventfd");
    let (read_write, read_only, write_only) = (libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY);
    let cases: Vec<(&str, OwnedFd)> = vec![
        ("a directory", open(&home, read_only, libc::O_DIRECTORY)),
        ("a directory's path", open(&home, read_only, libc::O_PATH)),
        ("a file's path", open(&file, read_only, libc::O_PATH)),
        ("the root", open(Path::new("/"), read_only, libc::O_DIRECTORY)),
        ("a device", open(Path::new("/dev/null"), read_write, 0)),
        (
            "a device that has memory",
            open(Path::new("/dev/zero"), read_write, 0),
        ),
        ("a FIFO", open(&fifo, read_write, 0)),
        ("a pipe", pipe),
        ("a listening socket", listener.into()),
        ("a connected socket", UnixStream::pair().expect("pair").0.into()),
        ("an epoll instance", epoll.0),
        ("an event", event.into()),
        ("a process", pidfd()),
        ("read only", open(&file, read_only, 0)),
        ("write only", open(&file, write_only, 0)),
        ("a namespace", open(Path::new("/proc/self/ns/net"), read_only, 0)),
    ];
    for (what, descriptor) in cases {
        let (daemon, fs, mut puppet) = started();
        let open = opened(&fs, &mut puppet, libc::O_RDWR);
        let got = read(&fs, &mut puppet, open, |puppet| {
            puppet.donate(LANE, HANDLE, &[&descriptor])
        });
        assert_eq!(got, Err(Errno::EIO), "{what}");
        assert_broken(daemon, fs, what);
    }
}

#[expect(unsafe_code, reason = "nix has no pidfd_open")]
fn pidfd() -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: takes numbers; the descriptor is new.
    unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) as i32) }
}

#[test]
fn more_access_than_the_guest_has_is_not_taken() {
    let home = TempDir::new().expect("a directory");
    fs::write(home.join("file"), "text").expect("write");
    for (asked, given) in [
        (libc::O_RDONLY, libc::O_RDWR),
        (libc::O_RDONLY, libc::O_WRONLY),
        (libc::O_WRONLY, libc::O_RDWR),
        (libc::O_WRONLY, libc::O_RDONLY),
    ] {
        let (daemon, fs, mut puppet) = started();
        let open_file = opened(&fs, &mut puppet, asked);
        let descriptor = open(&home.join("file"), given, 0);
        let got = read(&fs, &mut puppet, open_file, |puppet| {
            puppet.donate(LANE, HANDLE, &[&descriptor]);
        });
        assert_eq!(got, Err(Errno::EIO), "{asked} {given}");
        assert_broken(daemon, fs, &format!("asked {asked}, given {given}"));
    }
}

#[test]
fn a_descriptor_that_is_missing_or_one_of_several_ends_the_session() {
    type Donate = fn(&Puppet, &OwnedFd);
    let ways: &[(&str, Donate)] = &[
        ("none", |_, _| ()),
        ("a message without one", |puppet, _| {
            puppet.donate(LANE, HANDLE, &[])
        }),
        ("two", |puppet, file| puppet.donate(LANE, HANDLE, &[file, file])),
        ("sixty", |puppet, file| puppet.donate(LANE, HANDLE, &[file; 60])),
        ("another handle's", |puppet, file| {
            puppet.donate(LANE, Handle(8), &[file])
        }),
        ("on another lane", |puppet, file| {
            puppet.donate(0, HANDLE, &[file])
        }),
        ("one of many nobody asked for", |puppet, file| {
            for number in 0..150 {
                puppet.donate(LANE, Handle(100 + number), &[file]);
            }
        }),
        ("a message of another make", |puppet, file| {
            use std::os::fd::AsFd;
            let long = "a handle that is none, and longer than any handle ever was, by far".to_owned();
            puppet.donations[LANE].send(&long, &[file.as_fd()]).expect("send");
        }),
        ("an empty message", |puppet, _| {
            puppet.donations[LANE].send(&(), &[]).expect("send");
        }),
    ];
    for (what, donate) in ways {
        let (daemon, fs, mut puppet) = started();
        let file = memory_file(b"text");
        let open = opened(&fs, &mut puppet, libc::O_RDWR);
        let got = read(&fs, &mut puppet, open, |puppet| donate(puppet, &file));
        assert_eq!(got, Err(Errno::EIO), "{what}");
        assert_broken(daemon, fs, what);
    }
}

fn memory_file(text: &[u8]) -> OwnedFd {
    let file = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).expect("memfd");
    File::from(file.try_clone().expect("dup"))
        .write_all(text)
        .expect("write");
    file
}

#[test]
fn what_a_donated_file_does_under_the_supervisors_hands_harms_nobody() {
    let (daemon, fs, mut puppet) = started();
    let file = memory_file(&[b'x'; LARGE as usize]);
    let open = opened(&fs, &mut puppet, libc::O_RDWR);
    let got = read(&fs, &mut puppet, open, |puppet| {
        puppet.donate(LANE, HANDLE, &[&file])
    });
    assert_eq!(got.expect("READ").len(), LARGE as usize);
    // Cut, sealed, its flags changed behind the supervisor's back: all in the descriptor that both share.
    let file = File::from(file);
    file.set_len(10).expect("truncate");
    assert_eq!(fs.read(open, 0, LARGE).expect("READ").len(), 10);
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_APPEND | nix::fcntl::OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&file, flags).expect("F_SETFL");
    assert_eq!(fs.write(open, 0, b"abc"), Ok(3));
    assert_eq!(fs.read(open, 0, 100).expect("READ").len(), 13);
    assert!(fs.fallocate(open, 0, 0, 100).is_ok());
    let _ = fs.lseek(open, 0, libc::SEEK_HOLE);
    assert!(daemon.is_alive());
}

#[test]
fn descriptors_and_messages_on_the_control_channel_end_the_session() {
    use std::os::fd::AsFd;
    let file = memory_file(b"text");
    let with_file: &[_] = &[file.as_fd()];
    for descriptors in [&[][..], with_file] {
        let (daemon, fs, puppet) = started();
        puppet.control.send(&7u8, descriptors).expect("send");
        assert!(
            daemon.wait_for_log("the worker closed its channel"),
            "{:#?}",
            daemon.log()
        );
        assert_ended(daemon, fs, "a message");
    }
}

#[test]
fn the_answer_to_start_brings_no_descriptors_and_no_nonsense() {
    use std::os::fd::AsFd;
    type Answer = fn(&Puppet);
    let answers: &[Answer] = &[
        |puppet| {
            let file = memory_file(b"x");
            let ready = airlockfs_ipc::message::Started::Ready(puppet::report());
            puppet.control.send(&ready, &[file.as_fd()]).expect("send");
        },
        |puppet| puppet.control.send(&0xffu8, &[]).expect("send"),
        |puppet| puppet.control.send(&vec![0u8; 60_000], &[]).expect("send"),
        |puppet| puppet.control.send(&(), &[]).expect("send"),
    ];
    for answer in answers {
        let (started, _puppet) = puppet::start_with(&[], |puppet| {
            answer(puppet);
            puppet.leave();
        })
        .expect("a start");
        let failure = started.expect_err("nonsense was taken for a worker");
        assert_eq!(failure.status.code(), Some(70));
        assert!(
            failure
                .log
                .join("\n")
                .contains("the worker ended before it was confined")
        );
    }
}

/// Where a donated descriptor leads is the worker's word; that the guest's rights over it are those it opened it with
/// is not.
#[test]
fn a_read_only_session_gets_no_file_to_write_to() {
    let (daemon, mut puppet): (Daemon, Puppet) = puppet::start(&["--readonly"]);
    let fs = daemon.client();
    let reply = Reply::Opened { handle: HANDLE };
    let file = exchange(
        &fs,
        &mut puppet,
        |fs| fs.open(5, libc::O_RDONLY),
        |puppet, request| puppet.reply(LANE, request, &reply),
    );
    let descriptor = memory_file(b"text");
    let got = read(&fs, &mut puppet, file.expect("OPEN"), |puppet| {
        puppet.donate(LANE, HANDLE, &[&descriptor]);
    });
    assert_eq!(got, Err(Errno::EIO));
    assert_broken(daemon, fs, "a file to write to");
}
