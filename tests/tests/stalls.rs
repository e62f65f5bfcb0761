//! A call on the shared directory that hangs delays nothing: no other request on any lane, not the
//! VMM, not the end. What it brings when it returns does no harm.

use std::fs;
use std::time::{Duration, Instant};

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::*;
use airlockfs_tests::fuse::{Client, Opened, SessionConfig, SlotId, Wait};
use airlockfs_tests::stallfs::{StallFs, TEXT, VALUE};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use zerocopy::IntoBytes;

const PATIENCE: Duration = Duration::from_secs(60);
const QUEUE: usize = 1;

/// A share with a healthy directory, and a file system in it that can be made to hang.
struct Stage {
    stalls: StallFs,
    daemon: Daemon,
    fs: Client,
    /// The node of the stalling file system's root, of its file and its directory.
    root: u64,
    file: u64,
    dir: u64,
    _home: TempDir,
}

fn stage(options: &[&str]) -> Stage {
    let (stalls, daemon, home) = set_up(options);
    let fs = client(&daemon);
    enter(stalls, daemon, fs, home)
}

/// A client with room for many requests at once.
fn client(daemon: &Daemon) -> Client {
    let config = SessionConfig {
        depth: 16,
        ..SessionConfig::default()
    };
    let fs = daemon.connect_with(&config);
    fs.init().expect("INIT");
    fs
}

fn set_up(options: &[&str]) -> (StallFs, Daemon, TempDir) {
    let home = TempDir::new().expect("a directory");
    let share = home.join("share");
    fs::create_dir_all(share.join("stalls")).expect("mkdir");
    fs::create_dir_all(share.join("healthy")).expect("mkdir");
    fs::write(share.join("healthy/file"), TEXT).expect("write");
    let stalls = StallFs::mount(&share.join("stalls")).expect("a file system");
    let daemon = Launch::airlockfs()
        .share(&share)
        .args(["--xattr", "--num-request-queues=1"])
        .args(options)
        .start();
    (stalls, daemon, home)
}

fn enter(stalls: StallFs, daemon: Daemon, fs: Client, home: TempDir) -> Stage {
    let root = fs.lookup(ROOT, "stalls").expect("LOOKUP").nodeid;
    let file = fs.lookup(root, "file").expect("LOOKUP").nodeid;
    let dir = fs.lookup(root, "dir").expect("LOOKUP").nodeid;
    Stage {
        stalls,
        daemon,
        fs,
        root,
        file,
        dir,
        _home: home,
    }
}

impl Stage {
    /// Sends a request and waits for nothing.
    fn post(&self, opcode: u32, node: u64, parts: &[&[u8]], reply_room: usize) -> SlotId {
        let mut lane = self.fs.session().lane(QUEUE);
        let slot = lane.acquire().expect("a free slot");
        let len = lane.write(slot, self.fs.header(opcode, node), parts);
        lane.submit(slot, len, OUT_HEADER + reply_room);
        lane.flush();
        slot
    }

    /// Waits for what comes of it: an errno, 0 for success.
    fn outcome(&self, slot: SlotId) -> i32 {
        let mut lane = self.fs.session().lane(QUEUE);
        match lane.wait_for(slot, PATIENCE) {
            Wait::Done(done) => assert!(done.len >= OUT_HEADER, "{done:?}"),
            other => panic!("{other:?}; the log: {:#?}", self.daemon.log()),
        }
        let error = -lane.reply_header(slot).error;
        lane.release(slot);
        error
    }

    /// Does what a guest does elsewhere, on the same queue: all of it must be answered.
    fn use_healthy(&self, round: usize) {
        let fs = &self.fs;
        let dir = fs.lookup(ROOT, "healthy").expect("LOOKUP").nodeid;
        let node = fs.lookup(dir, "file").expect("LOOKUP").nodeid;
        fs.getattr(node).expect("GETATTR");
        fs.statfs(dir).expect("STATFS");
        let (made, file) = fs
            .create(dir, format!("made{round}"), libc::O_RDWR, 0o644)
            .expect("CREATE");
        fs.write(file, 0, b"text").expect("WRITE");
        fs.fsync(file, false).expect("FSYNC");
        fs.release(file).expect("RELEASE");
        let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
        assert_eq!(fs.read(file, 0, 4096).expect("READ"), TEXT);
        fs.release(file).expect("RELEASE");
        let handle = fs.opendir(dir).expect("OPENDIR");
        fs.readdir_all(handle, 4096).expect("READDIR");
        fs.releasedir(handle).expect("RELEASEDIR");
        fs.unlink(dir, format!("made{round}")).expect("UNLINK");
        fs.batch_forget(&[(dir, 1), (node, 1), (made.nodeid, 1)]);
    }
}

impl Stage {
    fn descriptors(&self) -> usize {
        let worker = self.daemon.worker().expect("a worker");
        worker.descriptors().expect("descriptors").len()
    }

    /// Waits until the worker holds no more descriptors than that.
    fn wait_descriptors(&self, most: usize) {
        let until = Instant::now() + PATIENCE;
        while self.descriptors() > most {
            let worker = self.daemon.worker().expect("a worker");
            assert!(
                Instant::now() < until,
                "more than {most}: {:#?}",
                worker.descriptors()
            );
            std::thread::yield_now();
        }
    }
}

/// A request that hangs: its name, what the file system is asked then, how it is sent.
type Case = (&'static str, u32, fn(&Stage, Opened, Opened) -> SlotId);

const CASES: &[Case] = &[
    ("LOOKUP", LOOKUP, |stage, _, _| {
        stage.post(LOOKUP, stage.root, &[b"file2\0"], size_of::<EntryOut>())
    }),
    ("GETATTR", GETATTR, |stage, _, _| {
        stage.post(
            GETATTR,
            stage.file,
            &[GetattrIn::default().as_bytes()],
            size_of::<AttrOut>(),
        )
    }),
    ("SETATTR", SETATTR, |stage, _, _| {
        let change = SetattrIn {
            valid: 1,
            mode: 0o600,
            ..SetattrIn::default()
        };
        stage.post(SETATTR, stage.file, &[change.as_bytes()], size_of::<AttrOut>())
    }),
    ("OPEN", OPEN, |stage, _, _| {
        stage.post(
            OPEN,
            stage.file,
            &[OpenIn::default().as_bytes()],
            size_of::<OpenOut>(),
        )
    }),
    ("OPENDIR", OPENDIR, |stage, _, _| {
        stage.post(
            OPENDIR,
            stage.dir,
            &[OpenIn::default().as_bytes()],
            size_of::<OpenOut>(),
        )
    }),
    ("READ", READ, |stage, file, _| {
        let read = ReadIn {
            fh: file.fh,
            size: 4096,
            ..ReadIn::default()
        };
        stage.post(READ, stage.file, &[read.as_bytes()], 4096)
    }),
    ("WRITE", WRITE, |stage, file, _| {
        let write = WriteIn {
            fh: file.fh,
            size: 4,
            ..WriteIn::default()
        };
        stage.post(
            WRITE,
            stage.file,
            &[write.as_bytes(), b"text"],
            size_of::<WriteOut>(),
        )
    }),
    ("FSYNC", FSYNC, |stage, file, _| {
        let sync = FsyncIn {
            fh: file.fh,
            ..FsyncIn::default()
        };
        stage.post(FSYNC, stage.file, &[sync.as_bytes()], 0)
    }),
    ("READDIR", READDIR, |stage, _, dir| {
        let read = ReadIn {
            fh: dir.fh,
            size: 4096,
            ..ReadIn::default()
        };
        stage.post(READDIR, stage.dir, &[read.as_bytes()], 4096)
    }),
    ("STATFS", STATFS, |stage, _, _| {
        stage.post(STATFS, stage.root, &[], size_of::<Kstatfs>())
    }),
    ("UNLINK", UNLINK, |stage, _, _| {
        stage.post(UNLINK, stage.root, &[b"file3\0"], 0)
    }),
    ("MKDIR", MKDIR, |stage, _, _| {
        stage.post(
            MKDIR,
            stage.root,
            &[MkdirIn::default().as_bytes(), b"newdir\0"],
            size_of::<EntryOut>(),
        )
    }),
    ("LINK", LINK, |stage, _, _| {
        let link = LinkIn {
            oldnodeid: stage.file,
        };
        stage.post(
            LINK,
            stage.dir,
            &[link.as_bytes(), b"newlink\0"],
            size_of::<EntryOut>(),
        )
    }),
    ("RENAME", RENAME, |stage, _, _| {
        let rename = RenameIn { newdir: stage.dir };
        stage.post(RENAME, stage.root, &[rename.as_bytes(), b"file4\0newname\0"], 0)
    }),
    ("GETXATTR", GETXATTR, |stage, _, _| {
        let get = GetxattrIn {
            size: 64,
            ..GetxattrIn::default()
        };
        stage.post(GETXATTR, stage.file, &[get.as_bytes(), b"user.name\0"], 64)
    }),
];

#[test]
fn a_call_that_hangs_holds_up_no_other_node_and_is_answered_when_it_returns() {
    let stage = stage(&[]);
    let file = stage.fs.open(stage.file, libc::O_RDWR).expect("OPEN");
    let dir = stage.fs.opendir(stage.dir).expect("OPENDIR");
    stage.use_healthy(0);
    for (round, (name, asked, send)) in CASES.iter().enumerate() {
        stage.stalls.stall(&[*asked]);
        let slot = send(&stage, file, dir);
        stage.stalls.wait_held(1);
        stage.use_healthy(round);
        assert!(stage.stalls.held() > 0, "{name} hangs still");
        stage.stalls.release();
        assert_eq!(stage.outcome(slot), 0, "{name}");
    }
    let get = stage.fs.getxattr(stage.file, "user.name", 64);
    assert_eq!(get.expect("GETXATTR"), VALUE);
}

/// The fewest threads: one for each lane, and two spares.
const FEW_THREADS: [&str; 2] = ["--spare-threads=2", "--stall-limit=1"];
/// How many of them serve the request queue, or hang.
const THREADS: usize = 3;

#[test]
fn when_all_threads_hang_the_others_requests_end_with_eio_and_what_needs_no_worker_goes_on() {
    let stage = stage(&FEW_THREADS);
    let fs = &stage.fs;
    let dir = fs.lookup(ROOT, "healthy").expect("LOOKUP").nodeid;
    let (_, file) = fs.create(dir, "large", libc::O_RDWR, 0o644).expect("CREATE");
    let data = vec![7; 64 << 10];
    // Large enough for the supervisor to ask for the descriptor.
    fs.write(file, 0, &data).expect("WRITE");
    let (_, released) = fs.create(dir, "released", libc::O_RDWR, 0o644).expect("CREATE");
    let before = stage.descriptors();
    stage.stalls.stall(&[GETATTR]);
    let stat = GetattrIn::default();
    let slots: Vec<_> = (0..2 * THREADS)
        .map(|_| stage.post(GETATTR, stage.file, &[stat.as_bytes()], size_of::<AttrOut>()))
        .collect();
    stage.stalls.wait_held(THREADS);
    // Those that came first hang; no thread is left for the others.
    let (hang, wait) = slots.split_at(THREADS);
    for slot in wait {
        assert_eq!(stage.outcome(*slot), libc::EIO);
    }
    for round in 0..3 {
        assert_eq!(fs.read(file, 0, 64 << 10).expect("READ"), data, "{round}");
        fs.write(file, 0, &data).expect("WRITE");
        assert_eq!(fs.lookup(dir, "file").map(drop), Err(Errno::EIO));
    }
    fs.release(released).expect("RELEASE");
    assert!(stage.stalls.held() >= THREADS, "they hang still");
    stage.stalls.release();
    for slot in hang {
        assert_eq!(stage.outcome(*slot), 0);
    }
    stage.use_healthy(0);
    stage.wait_descriptors(before);
    let told = "calls on the shared directory have not returned";
    assert!(stage.daemon.wait_for_log(told), "{:#?}", stage.daemon.log());
    let told = "all calls on the shared directory have returned";
    assert!(stage.daemon.wait_for_log(told), "{:#?}", stage.daemon.log());
    // All threads are there again.
    stage.stalls.stall(&[GETATTR]);
    let again: Vec<_> = (0..THREADS)
        .map(|_| stage.post(GETATTR, stage.file, &[stat.as_bytes()], size_of::<AttrOut>()))
        .collect();
    stage.stalls.wait_held(THREADS);
    stage.stalls.release();
    again
        .into_iter()
        .for_each(|slot| assert_eq!(stage.outcome(slot), 0));
}

#[test]
fn sigterm_ends_the_daemon_whatever_hangs() {
    let mut stage = stage(&FEW_THREADS);
    stage.stalls.stall(&[LOOKUP, GETATTR]);
    for _ in 0..2 * THREADS {
        stage.post(LOOKUP, stage.root, &[b"file9\0"], size_of::<EntryOut>());
        stage.post(
            GETATTR,
            stage.file,
            &[GetattrIn::default().as_bytes()],
            size_of::<AttrOut>(),
        );
    }
    stage.stalls.wait_held(2);
    let worker = stage.daemon.worker().expect("a worker");
    assert_eq!(stage.daemon.terminate().code(), Some(0));
    assert!(stage.stalls.held() > 0);
    // A process ends when its calls return: not before, and then at once.
    stage.stalls.release();
    assert!(worker.ended_within(30_000));
}

#[test]
fn a_lock_that_a_server_does_not_answer_for_holds_up_no_other_file() {
    let stage = stage(&["--posix-lock", "--flock"]);
    let fs = &stage.fs;
    let hung = fs.open(stage.file, libc::O_RDWR).expect("OPEN");
    let dir = fs.lookup(ROOT, "healthy").expect("LOOKUP").nodeid;
    let (_, file) = fs.create(dir, "locked", libc::O_RDWR, 0o644).expect("CREATE");
    stage.stalls.stall(&[SETLK]);
    let lock = |fh: u64| LkIn {
        fh,
        owner: 1,
        lk: FileLock {
            end: 9,
            kind: libc::F_WRLCK as u32,
            pid: 1,
            ..FileLock::default()
        },
        ..LkIn::default()
    };
    let slots = [SETLK, SETLKW].map(|opcode| stage.post(opcode, stage.file, &[lock(hung.fh).as_bytes()], 0));
    stage.stalls.wait_held(1);
    fs.setlk(file, 1, lock(0).lk).expect("SETLK");
    assert_eq!(fs.setlk(file, 2, lock(0).lk), Err(Errno::EAGAIN));
    fs.getlk(file, 2, lock(0).lk).expect("GETLK");
    fs.flush(file).expect("FLUSH");
    fs.release(file).expect("RELEASE");
    stage.use_healthy(0);
    assert!(stage.stalls.held() > 0);
    stage.stalls.release();
    slots
        .into_iter()
        .for_each(|slot| assert_eq!(stage.outcome(slot), 0));
}

impl Stage {
    /// Has requests of several kinds hang, which bring nodes, handles and data when they return.
    fn hang_several(&self) -> Vec<SlotId> {
        let file = self.fs.open(self.file, libc::O_RDWR).expect("OPEN");
        let dir = self.fs.opendir(self.dir).expect("OPENDIR");
        let mut slots = Vec::new();
        for name in ["LOOKUP", "OPEN", "OPENDIR", "READ", "READDIR", "STATFS"] {
            let (_, asked, send) = CASES.iter().find(|case| case.0 == name).expect("a case");
            self.stalls.stall(&[*asked]);
            slots.push(send(self, file, dir));
            self.stalls.wait_held(slots.len());
        }
        slots
    }
}

#[test]
fn a_vmm_that_stops_a_ring_gets_its_answer_whatever_hangs_and_may_go_on() {
    let stage = stage(&[]);
    let vmm = stage.fs.session().vmm().clone();
    let before = stage.descriptors();
    let slots = stage.hang_several();
    let base = vmm.stop_queue(QUEUE).expect("GET_VRING_BASE");
    for slot in slots {
        assert_eq!(stage.outcome(slot), libc::EIO, "no answer is owed any more");
    }
    assert_eq!(stage.stalls.held(), 6, "they hang still");
    vmm.start_queue(QUEUE, base).expect("a start");
    stage.use_healthy(0);
    stage.stalls.release();
    stage.use_healthy(1);
    // The two open ones were opened before; those that were opened too late are closed.
    stage.wait_descriptors(before + 2);
    assert_eq!(
        stage.fs.lookup(stage.root, "file").expect("LOOKUP").nodeid,
        stage.file
    );
}

#[test]
fn a_guest_that_reboots_while_calls_hang_starts_clean_and_stays_so() {
    let (stalls, daemon, home) = set_up(&[]);
    let fs = client(&daemon);
    let worker = daemon.worker().expect("a worker");
    let before = worker.descriptors().expect("descriptors").len();
    let stage = enter(stalls, daemon, fs, home);
    stage.hang_several();
    stage.fs.session().vmm().reset().expect("a reset");
    stage.fs.init().expect("INIT");
    let held = stage.stalls.held();
    assert!(held >= 6, "they hang still");
    stage.use_healthy(0);
    stage.stalls.release();
    stage.use_healthy(1);
    stage.wait_descriptors(before);
}

#[test]
fn the_next_vmm_is_served_while_calls_for_the_last_one_hang() {
    for options in [&[][..], &["--spare-threads=2", "--stall-limit=60"]] {
        let (stalls, daemon, home) = set_up(&[&["--on-disconnect=listen"], options].concat());
        let worker = daemon.worker().expect("a worker");
        let before = worker.descriptors().expect("descriptors").len();
        let fs = client(&daemon);
        let first = enter(stalls, daemon, fs, home);
        first.stalls.stall(&[GETATTR]);
        let stat = GetattrIn::default();
        for _ in 0..2 * THREADS {
            first.post(GETATTR, first.file, &[stat.as_bytes()], size_of::<AttrOut>());
        }
        first.stalls.wait_held(THREADS);
        let Stage {
            stalls,
            daemon,
            fs,
            _home,
            ..
        } = first;
        drop(fs);
        let fs = daemon.client();
        assert!(stalls.held() >= THREADS, "they hang still");
        let second = Stage {
            stalls,
            daemon,
            fs,
            root: 0,
            file: 0,
            dir: 0,
            _home,
        };
        if options.is_empty() {
            second.use_healthy(0);
        }
        second.stalls.release();
        second.use_healthy(1);
        second.wait_descriptors(before);
    }
}
