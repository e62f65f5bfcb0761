//! A call on the shared directory that hangs holds up nobody: not the other requests, whatever lane they come in, not the
//! VMM, not the end; and what it brings when it returns does no harm.

use std::fs;
use std::time::Duration;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::*;
use airlockfs_tests::fuse::{Client, Opened, SlotId, Wait};
use airlockfs_tests::stallfs::{StallFs, TEXT, VALUE};
use airlockfs_tests::tempdir::TempDir;
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
    let fs = daemon.client();
    enter(stalls, daemon, fs, home)
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
