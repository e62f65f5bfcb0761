//! A session begins with INIT, ends with DESTROY, reboot or disconnection, and leaves nothing behind.

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi::{
    GETATTR, GetattrIn, INIT, InitIn, LINK, LOOKUP, MINOR, OPEN, OPENDIR, READ, ROOT, STATFS, WRITE, WriteIn,
    init_flags,
};
use airlockfs_tests::fuse::{Client, Outcome};
use nix::errno::Errno;
use zerocopy::IntoBytes;

/// Bodies long enough for the operations tried while there is no session.
const BODY: [u8; 64] = {
    let mut body = [b'x'; 64];
    body[63] = 0;
    body
};

fn assert_no_session(fs: &Client) {
    for opcode in [LOOKUP, GETATTR, OPEN, OPENDIR, READ, WRITE, STATFS, LINK] {
        let body: &[u8] = match opcode {
            GETATTR => GetattrIn::default().as_bytes().to_vec().leak(),
            STATFS => &[],
            OPEN | OPENDIR => &[0; 8],
            READ | WRITE => &[0; 40],
            LINK => b"\x01\0\0\0\0\0\0\0name\0",
            _ => &BODY,
        };
        let outcome = fs.raw(opcode, ROOT, body, 4096);
        assert_eq!(outcome.errno(), Some(Errno::EIO), "opcode {opcode}: {outcome:?}");
    }
}

#[test]
fn init_agrees_on_what_both_sides_know() {
    let daemon = Daemon::start(["--tag", "session"]);
    let fs = daemon.connect();
    for offered in [init_flags::LINUX_VIRTIOFS, init_flags::MAX_PAGES, 0]
        .into_iter()
        .chain((0..43).map(|bit| 1 << bit))
    {
        let reply = fs.init_with(offered).expect("INIT");
        assert_eq!(reply.major, 7);
        assert!((27..=MINOR).contains(&reply.minor), "minor {}", reply.minor);
        assert_eq!(
            reply.all_flags() & !offered,
            0,
            "more than {offered:#x} was agreed on"
        );
        assert!(reply.max_write >= 4096 && reply.max_write <= 1 << 20);
        assert_eq!(reply.time_gran, 1);
        fs.destroy().expect("DESTROY");
    }
}

#[test]
fn init_offers_what_a_linux_guest_needs() {
    let daemon = Daemon::start(["--tag", "session"]);
    let reply = daemon.connect().init().expect("INIT");
    assert_eq!(reply.max_write, 1 << 20);
    assert_eq!(reply.max_pages, 256);
    for (name, flag) in [
        ("ASYNC_READ", init_flags::ASYNC_READ),
        ("BIG_WRITES", init_flags::BIG_WRITES),
        ("AUTO_INVAL_DATA", init_flags::AUTO_INVAL_DATA),
        ("DO_READDIRPLUS", init_flags::DO_READDIRPLUS),
        ("READDIRPLUS_AUTO", init_flags::READDIRPLUS_AUTO),
        ("ASYNC_DIO", init_flags::ASYNC_DIO),
        ("PARALLEL_DIROPS", init_flags::PARALLEL_DIROPS),
        ("MAX_PAGES", init_flags::MAX_PAGES),
        ("INIT_EXT", init_flags::INIT_EXT),
    ] {
        assert!(reply.all_flags() & flag != 0, "{name} was not agreed on");
    }
}

#[test]
fn what_an_option_turns_on_is_agreed_on_with_it_only() {
    for (option, flag) in [
        ("--killpriv-v2", init_flags::HANDLE_KILLPRIV_V2),
        ("--writeback", init_flags::WRITEBACK_CACHE),
        ("--posix-acl=always", init_flags::POSIX_ACL),
        ("--posix-lock", init_flags::POSIX_LOCKS),
        ("--flock", init_flags::FLOCK_LOCKS),
        ("--security-label=always", init_flags::SECURITY_CTX),
        ("--file-handles", init_flags::EXPORT_SUPPORT),
    ] {
        let with = Daemon::start([option]).client().negotiated();
        assert!(with & flag != 0, "{option}");
        let without = Daemon::start(["--tag", "session"]).client().negotiated();
        assert!(without & flag == 0, "without {option}");
    }
}

#[test]
fn what_an_option_turns_off_is_agreed_on_without_it_only() {
    for (option, flag) in [
        ("--no-allow-mmap", init_flags::DIRECT_IO_ALLOW_MMAP),
        ("--no-readdirplus", init_flags::DO_READDIRPLUS),
        ("--no-readdirplus", init_flags::READDIRPLUS_AUTO),
        ("--no-announce-submounts", init_flags::SUBMOUNTS),
        ("--cache=always", init_flags::AUTO_INVAL_DATA),
    ] {
        let without = Daemon::start(["--tag", "session"]).client().negotiated();
        assert!(without & flag != 0, "without {option}");
        let with = Daemon::start([option]).client().negotiated();
        assert!(with & flag == 0, "{option}");
    }
    // The option of virtiofsd is what is done anyway; the last one counts.
    for options in [&["--allow-mmap"][..], &["--no-allow-mmap", "--allow-mmap"]] {
        let with = Daemon::start(options).client().negotiated();
        assert!(with & init_flags::DIRECT_IO_ALLOW_MMAP != 0, "{options:?}");
    }
}

#[test]
fn what_is_between_daemon_and_host_is_not_agreed_on() {
    let plain = Daemon::start(["--tag", "session"]).client().negotiated();
    for options in [
        &[
            "--uid=1",
            "--gid=1",
            "--mode=755",
            "--umask=22",
            "--fmask=1",
            "--dmask=1",
        ][..],
        &["--default-uid=1", "--default-gid=1", "--translate-uid=map:0:1:1"],
        &[
            "--entry-timeout=9",
            "--attr-timeout=9",
            "--negative-timeout=9",
            "--cache=never",
        ],
        &[
            "--allow-direct-io",
            "--preserve-noatime",
            "--allow-device-nodes",
            "--no-donate",
        ],
        &["--readonly"],
    ] {
        assert_eq!(Daemon::start(options).client().negotiated(), plain, "{options:?}");
    }
}

#[test]
fn a_kernel_too_old_is_refused_and_a_good_one_may_follow() {
    let daemon = Daemon::start(["--tag", "session"]);
    let fs = daemon.connect();
    for (major, minor) in [(0, 0), (6, 45), (7, 0), (7, 26)] {
        assert_eq!(
            fs.init_version(major, minor, 0).map(|_| ()),
            Err(Errno::EIO),
            "{major}.{minor}"
        );
        assert_no_session(&fs);
    }
    fs.init_version(7, 27, 0).expect("INIT of 7.27");
    fs.getattr(ROOT).expect("GETATTR");
}

#[test]
fn a_newer_major_is_told_ours_and_tries_again() {
    let daemon = Daemon::start(["--tag", "session"]);
    let fs = daemon.connect();
    for major in [8, u32::MAX] {
        let body = InitIn {
            major,
            minor: 0,
            ..InitIn::default()
        };
        let Outcome::Reply { error: 0, body } = fs.raw(INIT, 0, body.as_bytes(), 64) else {
            panic!("INIT of {major}.0");
        };
        assert_eq!(body[..4], 7u32.to_le_bytes());
        assert!(body[8..].iter().all(|b| *b == 0), "more than a version: {body:?}");
        assert_no_session(&fs);
    }
    fs.init().expect("INIT");
    fs.getattr(ROOT).expect("GETATTR");
}

#[test]
fn a_second_init_is_refused_and_changes_nothing() {
    let (daemon, fs) = Daemon::with_client(["--tag", "session"]);
    std::fs::write(daemon.host("file"), "text").expect("write");
    let entry = fs.lookup(ROOT, "file").expect("LOOKUP");
    let file = fs.open(entry.nodeid, libc::O_RDONLY).expect("OPEN");
    let flags = fs.negotiated();
    assert_eq!(fs.init_with(flags).map(|_| ()), Err(Errno::EIO));
    assert_eq!(fs.read(file, 0, 10).expect("READ"), b"text");
}

#[test]
fn nothing_works_before_init_and_after_destroy() {
    let daemon = Daemon::start(["--tag", "session"]);
    let fs = daemon.connect();
    assert_no_session(&fs);
    fs.init().expect("INIT");
    fs.getattr(ROOT).expect("GETATTR");
    fs.destroy().expect("DESTROY");
    assert_no_session(&fs);
}

/// Opens a file and a directory, ends the session by `end`, and expects a clean one after the next INIT.
fn assert_ends_clean(daemon: &Daemon, fs: Client, end: impl FnOnce(Client) -> Client) {
    let dir = fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    let (entry, file) = fs
        .create(dir.nodeid, "file", libc::O_RDWR, 0o644)
        .expect("CREATE");
    fs.write(file, 0, b"text").expect("WRITE");
    let listing = fs.opendir(dir.nodeid).expect("OPENDIR");

    let fs = end(fs);
    fs.init().expect("INIT");
    assert_eq!(fs.getattr(entry.nodeid).map(|_| ()), Err(Errno::ESTALE));
    assert_eq!(fs.getattr(dir.nodeid).map(|_| ()), Err(Errno::ESTALE));
    let new = fs.walk("dir/file").expect("LOOKUP");
    assert_eq!(fs.read(file, 0, 4), Err(Errno::EBADF));
    assert_eq!(fs.readdir(listing, 0, 4096), Err(Errno::EBADF));
    assert_eq!(fs.getattr(new.nodeid).expect("GETATTR").size, 4);
    assert_eq!(std::fs::read(daemon.host("dir/file")).expect("read"), b"text");
    std::fs::remove_dir_all(daemon.host("dir")).expect("remove");
}

#[test]
fn destroy_drops_nodes_and_handles() {
    let (daemon, fs) = Daemon::with_client(["--tag", "session"]);
    for _ in 0..3 {
        assert_ends_clean(&daemon, fs.clone(), |fs| {
            fs.destroy().expect("DESTROY");
            fs
        });
    }
}

#[test]
fn a_guest_that_reboots_without_destroy_starts_clean() {
    let (daemon, fs) = Daemon::with_client(["--tag", "session"]);
    for _ in 0..3 {
        assert_ends_clean(&daemon, fs.clone(), |fs| {
            fs.session().vmm().reset().expect("reset");
            fs
        });
    }
}

#[test]
fn a_vmm_that_reconnects_starts_clean() {
    let daemon = Daemon::start(["--on-disconnect=listen"]);
    for _ in 0..3 {
        assert_ends_clean(&daemon, daemon.client(), |fs| {
            drop(fs);
            daemon.connect()
        });
    }
}

#[test]
fn the_end_of_the_vmm_is_the_daemons_by_default() {
    let (mut daemon, fs) = Daemon::with_client(["--tag", "session"]);
    let worker = daemon.worker().expect("a worker");
    fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    drop(fs);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(worker.ended_within(10_000));
}

#[test]
fn a_vmm_that_ends_in_the_middle_of_requests_is_no_harm() {
    let daemon = Daemon::start(["--on-disconnect=listen"]);
    for _ in 0..5 {
        let fs = daemon.client();
        let (entry, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
        {
            let mut lane = fs.session().lane(1);
            while let Some(slot) = lane.acquire() {
                let header = fs.header(WRITE, entry.nodeid);
                let body = WriteIn {
                    fh: file.fh,
                    size: 1 << 20,
                    ..Default::default()
                };
                let data = vec![1; 1 << 20];
                let len = lane.write(slot, header, &[body.as_bytes(), &data]);
                lane.submit(slot, len, 24);
            }
            lane.flush();
        }
        drop(fs);
        let fs = daemon.client();
        fs.unlink(ROOT, "file").expect("UNLINK");
    }
}

#[test]
fn a_queue_stops_and_goes_on_where_it_was() {
    let (daemon, fs) = Daemon::with_client(["--tag", "session"]);
    std::fs::write(daemon.host("file"), "text").expect("write");
    let entry = fs.lookup(ROOT, "file").expect("LOOKUP");
    let vmm = fs.session().vmm();
    for _ in 0..10 {
        fs.getattr(entry.nodeid).expect("GETATTR");
        // A VMM that saves its state, or pauses, stops one queue and lets the others be: no reboot.
        let base = vmm.stop_queue(1).expect("GET_VRING_BASE");
        let ring = vmm.queue(1).ring();
        assert_eq!(base, ring.avail_index(vmm.memory()));
        vmm.start_queue(1, base).expect("start");
        assert_eq!(fs.getattr(entry.nodeid).expect("GETATTR").size, 4);
    }
}

#[test]
fn sessions_leave_no_descriptors_behind() {
    let daemon = Daemon::start(["--tag", "session"]);
    let count = || {
        let worker = daemon
            .worker()
            .expect("a worker")
            .descriptors()
            .expect("descriptors");
        let supervisor = daemon.supervisor().descriptors().expect("descriptors");
        (supervisor.len(), worker.len())
    };
    let fs = daemon.client();
    let session = |fs: &Client| {
        for i in 0..20 {
            let dir = fs.mkdir(ROOT, format!("dir{i}"), 0o755).expect("MKDIR");
            let (_, file) = fs
                .create(dir.nodeid, "file", libc::O_RDWR, 0o644)
                .expect("CREATE");
            fs.write(file, 0, &[7; 100_000]).expect("WRITE");
            fs.read(file, 0, 100_000).expect("READ");
            fs.opendir(dir.nodeid).expect("OPENDIR");
        }
        for i in 0..20 {
            std::fs::remove_dir_all(daemon.host(format!("dir{i}"))).expect("remove");
        }
        fs.destroy().expect("DESTROY");
        fs.init().expect("INIT");
    };
    session(&fs);
    let before = count();
    for _ in 0..5 {
        session(&fs);
    }
    assert_eq!(count(), before);
}
