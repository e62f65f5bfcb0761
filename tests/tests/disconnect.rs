//! When a VMM goes, everything of its session goes before the next one is heard. Nothing delays the
//! end of a daemon that must end.

use std::fs::File;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{
    CREATE, CreateIn, FSYNC, FileLock, FsyncIn, GETATTR, GetattrIn, LOOKUP, LkIn, OPEN, OPENDIR, READ, ROOT,
    ReadIn, SETLKW, STATFS, WRITE, WriteIn,
};
use airlockfs_tests::fuse::{Client, Opened};
use airlockfs_tests::procfs::locks;
use airlockfs_tests::tempdir::TempDir;
use airlockfs_tests::vmm::raw::{Raw, memory, numbers, requests::*};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::eventfd::EventFd;
use zerocopy::IntoBytes;

const OPTIONS: [&str; 4] = [
    "--on-disconnect=listen",
    "--posix-lock",
    "--flock",
    "--num-request-queues=2",
];

/// What both processes have open, by kind and number.
fn descriptors(daemon: &Daemon) -> [Vec<PathBuf>; 2] {
    let worker = daemon.worker().expect("a worker");
    [daemon.supervisor(), &worker].map(|process| {
        let open = process.descriptors().expect("descriptors").into_iter();
        let mut kinds: Vec<_> = open.map(|(_, target)| target).collect();
        kinds.sort();
        kinds
    })
}

/// Somebody who only looks is heard: the VMM before is gone with all it had. Gives what is open besides this connection.
fn descriptors_between(daemon: &Daemon) -> [Vec<PathBuf>; 2] {
    let visitor = Raw::silent(daemon);
    visitor.ask(GET_FEATURES, &[]);
    let [mut supervisor, worker] = descriptors(daemon);
    // Sockets have names of their own: the connection and its duplicate are one.
    let sockets = supervisor.iter().filter(|target| is_socket(target)).count();
    supervisor.retain(|target| !is_socket(target));
    supervisor.push(format!("{} sockets", sockets - 2).into());
    [supervisor, worker]
}

fn is_socket(target: &Path) -> bool {
    target.to_string_lossy().starts_with("socket:")
}

fn whole_file(kind: i32) -> FileLock {
    FileLock {
        start: 0,
        end: i64::MAX as u64,
        kind: kind as u32,
        pid: 1,
    }
}

/// A lock of the host, for as long as the file is open.
fn host_lock(path: &Path) -> Flock<File> {
    let file = File::options().read(true).write(true).open(path).expect("open");
    Flock::lock(file, FlockArg::LockExclusive).expect("flock")
}

/// What a guest can leave behind. Nothing is waited for at the end.
fn use_everything(fs: &Client, queue: usize) -> (u64, Opened) {
    let name = |what: &str| format!("{what}-{queue}");
    let (nameless, file) = fs.tmpfile(ROOT, libc::O_RDWR, 0o600).expect("TMPFILE");
    // The second time a descriptor is donated.
    for _ in 0..3 {
        fs.write(file, 0, b"the first guest's").expect("WRITE");
        fs.read(file, 0, 17).expect("READ");
    }
    let dir = fs.mkdir(ROOT, name("dir"), 0o755).expect("MKDIR");
    fs.opendir(dir.nodeid).expect("OPENDIR");
    let (_, locked) = fs
        .create(ROOT, name("locked"), libc::O_RDWR, 0o644)
        .expect("CREATE");
    fs.setlk(locked, 7, whole_file(libc::F_WRLCK)).expect("SETLK");
    fs.flock(locked, 8, libc::F_WRLCK as u32).expect("flock");
    let contended = fs.walk("contended").expect("LOOKUP");
    let contended = fs.open(contended.nodeid, libc::O_RDWR).expect("OPEN");
    // In flight when the VMM goes: waits for locks, files that are opened, what a thread of the pool does, FORGETs.
    let mut lane = fs.session().lane(queue);
    for turn in 0..64u64 {
        let Some(slot) = lane.acquire() else { break };
        let created = name(&format!("late{turn}\0"));
        let wait = LkIn {
            fh: contended.fh,
            owner: turn,
            lk: whole_file(libc::F_WRLCK),
            lk_flags: 1,
            padding: 0,
        };
        let sync = FsyncIn {
            fh: file.fh,
            ..FsyncIn::default()
        };
        let create = CreateIn {
            flags: libc::O_RDWR as u32,
            mode: libc::S_IFREG | 0o644,
            ..CreateIn::default()
        };
        let (header, body): (_, Vec<u8>) = match turn % 3 {
            0 => (fs.header(SETLKW, contended.node), wait.as_bytes().to_vec()),
            1 => (fs.header(FSYNC, file.node), sync.as_bytes().to_vec()),
            _ => (
                fs.header(CREATE, ROOT),
                [create.as_bytes(), created.as_bytes()].concat(),
            ),
        };
        let len = lane.write(slot, header, &[&body]);
        lane.submit(slot, len, 4096);
    }
    lane.flush();
    fs.batch_forget(&vec![(1 << 40, 1); 2000]);
    (nameless.nodeid, file)
}

/// Nothing but INIT is answered with anything but EIO.
fn assert_no_session(fs: &Client, node: u64, file: Opened) {
    let write = WriteIn {
        fh: file.fh,
        size: 4,
        ..WriteIn::default()
    };
    let read = ReadIn {
        fh: file.fh,
        size: 17,
        ..ReadIn::default()
    };
    let bodies: [(u32, Vec<u8>); 8] = [
        (READ, read.as_bytes().to_vec()),
        (WRITE, [write.as_bytes(), b"evil"].concat()),
        (GETATTR, GetattrIn::default().as_bytes().to_vec()),
        (LOOKUP, b"dir-1\0".to_vec()),
        (OPEN, vec![0; 8]),
        (OPENDIR, vec![0; 8]),
        (STATFS, vec![]),
        (SETLKW, LkIn::default().as_bytes().to_vec()),
    ];
    for (opcode, body) in bodies {
        for node in [node, ROOT] {
            let outcome = fs.raw(opcode, node, &body, 4096);
            assert_eq!(outcome.errno(), Some(Errno::EIO), "opcode {opcode}: {outcome:?}");
        }
    }
}

#[test]
fn nothing_of_a_vmm_is_left_when_the_next_one_is_heard() {
    let daemon = Daemon::start(OPTIONS);
    let contended = daemon.host("contended");
    std::fs::write(&contended, "").expect("write");
    let before = descriptors_between(&daemon);
    for round in 0..3 {
        let queue = 1 + round % 2;
        let held = host_lock(&contended);
        let fs = daemon.client();
        let (node, file) = use_everything(&fs, queue);
        assert_ne!(descriptors(&daemon)[1], before[1], "nothing to be left behind");
        assert_ne!(
            locks(&daemon.host(format!("locked-{queue}")))
                .expect("locks")
                .len(),
            0
        );
        drop(fs);
        // Nobody waits for it any more.
        drop(held);
        assert_eq!(descriptors_between(&daemon), before, "round {round}");
        for entry in std::fs::read_dir(daemon.share()).expect("the share") {
            let path = entry.expect("an entry").path();
            assert_eq!(locks(&path).expect("locks"), [""; 0], "round {round}: {path:?}");
        }

        let fs = daemon.connect();
        assert_no_session(&fs, node, file);
        fs.init().expect("INIT");
        assert_eq!(fs.getattr(node).map(drop), Err(Errno::ESTALE));
        assert_eq!(fs.read(file, 0, 17), Err(Errno::EBADF));
        assert_eq!(fs.write(file, 0, b"evil"), Err(Errno::EBADF));
        assert_eq!(fs.setlk(file, 7, whole_file(libc::F_UNLCK)), Err(Errno::EBADF));
        drop(fs);
        for entry in std::fs::read_dir(daemon.share()).expect("the share") {
            let path = entry.expect("an entry").path();
            let _ = match path.is_dir() {
                true => std::fs::remove_dir(&path),
                false if path != contended => std::fs::remove_file(&path),
                false => Ok(()),
            };
        }
    }
}

#[test]
fn nothing_is_left_of_files_that_a_vmm_used_without_opening_them() {
    let share = TempDir::new().expect("a directory");
    std::fs::write(share.join("file"), vec![1; 1 << 20]).expect("write");
    let options = ["--on-disconnect=listen", "--readonly", "--cache=always"];
    let daemon = Launch::airlockfs().args(options).share(&share).start();
    let before = descriptors_between(&daemon);
    for round in 0..3 {
        let fs = daemon.client();
        let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
        let file = Opened {
            node,
            fh: 0,
            open_flags: 0,
        };
        for _ in 0..3 {
            assert_eq!(fs.read(file, 0, 100_000).expect("READ").len(), 100_000);
        }
        assert_ne!(descriptors(&daemon)[0].len(), before[0].len());
        drop(fs);
        assert_eq!(descriptors_between(&daemon), before, "round {round}");
    }
}

/// The device's reset ends the session, as the VMM's going does.
#[test]
fn nothing_of_a_session_is_left_after_the_devices_reset_or_destroy() {
    let (daemon, fs) = Daemon::with_client(OPTIONS);
    let before = descriptors(&daemon);
    std::fs::write(daemon.host("contended"), "").expect("write");
    for destroys in [false, true, false] {
        let held = host_lock(&daemon.host("contended"));
        let (node, file) = {
            // No request is in flight at the end: a driver that resets its device takes its buffers back.
            let (entry, file) = fs.create(ROOT, "locked", libc::O_RDWR, 0o644).expect("CREATE");
            for _ in 0..3 {
                fs.write(file, 0, b"text").expect("WRITE");
            }
            fs.setlk(file, 7, whole_file(libc::F_WRLCK)).expect("SETLK");
            (entry.nodeid, file)
        };
        let vmm = fs.session().vmm();
        if destroys {
            fs.destroy().expect("DESTROY");
        } else {
            let raw = Raw::of(vmm.socket());
            assert!(raw.accepts(RESET_DEVICE, &[], &[]));
        }
        assert_eq!(locks(&daemon.host("locked")).expect("locks"), [""; 0]);
        assert_eq!(descriptors(&daemon), before, "destroys: {destroys}");
        drop(held);
        if !destroys {
            let raw = Raw::of(vmm.socket());
            assert!(raw.accepts(SET_FEATURES, &numbers([vmm.features()]), &[]));
            vmm.reset().expect("rings that begin anew");
        }
        assert_no_session(&fs, node, file);
        fs.init().expect("INIT");
        assert_eq!(fs.read(file, 0, 4), Err(Errno::EBADF));
    }
}

/// What QEMU says before the guest has a driver (vhost_user_backend_init, vhost_dev_init).
fn as_qemu_begins(raw: &Raw) {
    raw.ask(GET_FEATURES, &[]);
    let offered = raw.ask(GET_PROTOCOL_FEATURES, &[]);
    raw.send(SET_PROTOCOL_FEATURES, &offered.to_ne_bytes(), &[]);
    raw.ask(GET_QUEUE_NUM, &[]);
    raw.ask(GET_MAX_MEM_SLOTS, &[]);
    raw.send(SET_OWNER, &[], &[]);
    raw.ask(GET_FEATURES, &[]);
    let call = EventFd::new().expect("eventfd");
    assert!(raw.accepts(SET_VRING_CALL, &numbers([0]), &[&call]));
}

type Says = fn(&Raw);

#[test]
fn a_vmm_that_goes_before_the_driver_came_ends_the_daemon() {
    let vmms: [(&str, Says); 5] = [
        ("QEMU", as_qemu_begins),
        ("an owner", |raw| raw.send(SET_OWNER, &[], &[])),
        ("an owner no more", |raw| {
            raw.send(SET_OWNER, &[], &[]);
            raw.send(4, &[], &[]);
        }),
        // QEMU refuses a device with too few queues before it claims it.
        ("features", |raw| {
            let offered = raw.ask(GET_PROTOCOL_FEATURES, &[]);
            raw.send(SET_PROTOCOL_FEATURES, &offered.to_ne_bytes(), &[]);
        }),
        ("memory", |raw| {
            let offered = raw.ask(GET_PROTOCOL_FEATURES, &[]);
            raw.send(SET_PROTOCOL_FEATURES, &offered.to_ne_bytes(), &[]);
            raw.send(ADD_MEM_REG, &numbers([0, 0, 4096, 0, 0]), &[&memory(1)]);
        }),
    ];
    for (what, says) in vmms {
        let mut daemon = Daemon::start(["--tag", "early"]);
        let raw = Raw::silent(&daemon);
        says(&raw);
        drop(raw);
        assert_eq!(daemon.wait().code(), Some(0), "{what}: {:#?}", daemon.log());
    }
}

#[test]
fn who_only_looks_is_no_vmm() {
    let visitors: [(&str, Says); 3] = [
        ("nothing", |_| {}),
        ("a question", |raw| {
            raw.ask(GET_FEATURES, &[]);
        }),
        ("half a message", |raw| {
            raw.0.shutdown(Shutdown::Read).expect("shutdown");
            let _ = std::io::Write::write(&mut &raw.0, &[1, 0]);
        }),
    ];
    let mut daemon = Daemon::start(["--tag", "visitors"]);
    for (what, says) in visitors {
        let raw = Raw::silent(&daemon);
        says(&raw);
        drop(raw);
        let visitor = Raw::silent(&daemon);
        visitor.ask(GET_FEATURES, &[]);
        assert!(daemon.is_alive(), "{what}");
    }
    drop(daemon.client());
    assert_eq!(daemon.wait().code(), Some(0), "{:#?}", daemon.log());
}

/// A daemon on a listening socket that its launcher keeps.
fn on_listener(mode: &str) -> (Daemon, UnixStream, TempDir) {
    let home = TempDir::new().expect("a directory");
    let path = home.join("socket");
    let listener = UnixListener::bind(&path).expect("bind");
    let daemon = Launch::airlockfs()
        .args([mode])
        .socket(&path)
        .listener(&listener)
        .start();
    (daemon, OwnedFd::from(listener).into(), home)
}

const MODES: [&str; 2] = ["--on-disconnect=exit", "--on-disconnect=listen"];

#[test]
fn a_listener_that_was_shut_down_ends_the_daemon_once_its_vmm_is_gone() {
    for mode in MODES {
        let (mut daemon, launcher, _home) = on_listener(mode);
        let raw = Raw::silent(&daemon);
        as_qemu_begins(&raw);
        launcher.shutdown(Shutdown::Both).expect("shutdown");
        raw.ask(GET_FEATURES, &[]);
        drop(raw);
        assert_eq!(daemon.wait().code(), Some(0), "{mode}: {:#?}", daemon.log());

        // One that has a session goes on with it.
        let (mut daemon, launcher, _home) = on_listener(mode);
        let fs = daemon.client();
        launcher.shutdown(Shutdown::Both).expect("shutdown");
        fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
        drop(fs);
        assert_eq!(daemon.wait().code(), Some(0), "{mode}: {:#?}", daemon.log());
    }
}

#[test]
fn a_listener_that_was_shut_down_before_a_vmm_came_ends_the_daemon_with_its_reason() {
    for mode in MODES {
        for visited in [false, true] {
            let (mut daemon, launcher, _home) = on_listener(mode);
            let visitor = visited.then(|| Raw::silent(&daemon));
            if let Some(visitor) = &visitor {
                visitor.ask(GET_FEATURES, &[]);
            }
            launcher.shutdown(Shutdown::Both).expect("shutdown");
            drop(visitor);
            assert_eq!(daemon.wait().code(), Some(69), "{mode}: {:#?}", daemon.log());
            assert!(
                daemon.wait_for_log("was shut down"),
                "{mode}: {:#?}",
                daemon.log()
            );
            let log = daemon.log();
            assert!(log.len() < 30, "{mode}: {} lines", log.len());
        }
    }
}

#[test]
fn a_vmm_that_reads_no_answer_keeps_nobody_from_the_end() {
    let mut daemon = Daemon::start(["--tag", "deaf"]);
    let raw = Raw::silent(&daemon);
    raw.0.set_nonblocking(true).expect("O_NONBLOCK");
    let question = [GET_FEATURES, 1, 0].map(u32::to_ne_bytes).concat();
    // Until the daemon has no room for an answer, and the socket none for a question.
    let full = |sent: &std::io::Result<usize>| sent.is_err();
    let begun = Instant::now();
    let mut silent = 0;
    while silent < 50 {
        assert!(begun.elapsed() < Duration::from_secs(30));
        if full(&std::io::Write::write(&mut &raw.0, &question)) {
            silent += 1;
            std::thread::yield_now();
        } else {
            silent = 0;
        }
    }
    assert_eq!(daemon.terminate().code(), Some(0), "{:#?}", daemon.log());
    let _keep = raw.0.as_fd();
}
