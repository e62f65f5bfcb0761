//! A descriptor that the supervisor cannot take or use breaks no rule: the worker serves the file.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{ROOT, init_flags};
use airlockfs_tests::fuse::{Client, Opened};
use airlockfs_tests::tempdir::TempDir;

/// So much at once asks for the descriptor.
const LARGE: usize = 100_000;

fn content() -> Vec<u8> {
    (0..LARGE).map(|i| (i % 251) as u8).collect()
}

/// Works on an open file by everything that a donated descriptor is good for.
fn work(fs: &Client, file: Opened) {
    let content = content();
    for round in 0..3 {
        assert_eq!(fs.write(file, 0, &content), Ok(LARGE as u32), "round {round}");
        assert!(
            fs.read(file, 0, LARGE as u32).expect("READ") == content,
            "round {round}"
        );
        let attr = fs.getattr_fh(file.node, file.fh).expect("GETATTR");
        assert_eq!(attr.size, LARGE as u64);
    }
    assert_eq!(fs.read(file, LARGE as u64, 1), Ok(Vec::new()));
    fs.fsync(file, true).expect("FSYNC of data");
    fs.fsync(file, false).expect("FSYNC");
    assert_eq!(fs.lseek(file, 10, libc::SEEK_DATA), Ok(10));
    assert_eq!(fs.lseek(file, 10, libc::SEEK_HOLE), Ok(LARGE as u64));
    fs.fallocate(file, 0, 0, 2 * LARGE as u64).expect("FALLOCATE");
    let attr = fs.getattr_fh(file.node, file.fh).expect("GETATTR");
    assert_eq!(attr.size, 2 * LARGE as u64);
}

/// Whether the supervisor holds a file of this name.
fn holds(daemon: &Daemon, name: &str) -> bool {
    let held = daemon.supervisor().descriptors().expect("descriptors");
    held.iter().any(|(_, path)| path.ends_with(name))
}

/// A share on a FUSE mount that nobody but root may look at.
fn private_mount() -> (Daemon, TempDir, Bridge) {
    let beneath = Daemon::start(["--tag", "beneath"]);
    let mount = TempDir::new().expect("a mount point");
    let config = BridgeConfig {
        private: true,
        ..BridgeConfig::default()
    };
    let bridge = Bridge::mount(beneath.socket(), &mount, &config).expect("mount");
    (beneath, mount, bridge)
}

#[test]
fn a_file_that_the_supervisor_may_not_look_at_is_the_workers() {
    let (beneath, mount, _bridge) = private_mount();
    let daemon = Launch::airlockfs().share(&mount).start();
    let fs = daemon.client();
    let (entry, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    work(&fs, file);
    assert!(!holds(&daemon, "file"));
    // What is asked for first may be the attributes.
    let second = fs.open(entry.nodeid, libc::O_RDONLY).expect("OPEN");
    for _ in 0..3 {
        let attr = fs.getattr_fh(second.node, second.fh).expect("GETATTR");
        assert_eq!(attr.size, 2 * LARGE as u64);
    }
    assert!(fs.read(second, 0, LARGE as u32).expect("READ") == content());
    assert!(
        fs::read(beneath.host("file"))
            .expect("read")
            .starts_with(&content())
    );
    assert!(daemon.is_alive());
}

#[test]
fn a_file_that_nobody_opened_and_the_supervisor_may_not_look_at_is_the_workers() {
    let (beneath, mount, _bridge) = private_mount();
    fs::write(beneath.host("file"), content()).expect("write");
    let options = ["--readonly", "--cache=always"];
    let daemon = Launch::airlockfs().share(&mount).args(options).start();
    let fs = daemon.client();
    let both = init_flags::NO_OPEN_SUPPORT | init_flags::NO_OPENDIR_SUPPORT;
    assert_eq!(fs.negotiated() & both, both);
    let file = Opened {
        node: fs.walk("file").expect("LOOKUP").nodeid,
        fh: 0,
        open_flags: 0,
    };
    for _ in 0..3 {
        assert!(fs.read(file, 0, LARGE as u32).expect("READ") == content());
        assert_eq!(fs.getattr_fh(file.node, 0).expect("GETATTR").size, LARGE as u64);
    }
    assert!(daemon.is_alive());
}

/// The kernel looks at who reads these, not at who opened them; anybody may look at their attributes.
#[test]
fn what_only_the_worker_may_read_the_worker_reads() {
    let path = Path::new("/proc/sys/kernel/usermodehelper");
    let name = "bset";
    let daemon = Launch::airlockfs().share(path).args(["--readonly"]).start();
    let fs = daemon.client();
    let entry = fs.lookup(ROOT, name).expect("LOOKUP");
    let file = fs.open(entry.nodeid, libc::O_RDONLY).expect("OPEN");
    let expected = fs::read(path.join(name)).expect("read");
    for size in [LARGE as u32, 4096, LARGE as u32] {
        assert_eq!(fs.read(file, 0, size), Ok(expected.clone()), "{size} bytes");
    }
    // It is of no use to the supervisor.
    assert!(!holds(&daemon, name));
    assert!(daemon.is_alive());
}

#[test]
fn a_supervisor_that_may_hold_no_more_descriptors_leaves_files_to_the_worker() {
    let (daemon, fs) = Daemon::with_client(["--tag", "full"]);
    daemon.supervisor().limit_descriptors(true).expect("prlimit");
    for number in 0..20 {
        let name = format!("file{number}");
        let (_, file) = fs.create(ROOT, &name, libc::O_RDWR, 0o644).expect("CREATE");
        work(&fs, file);
        assert!(!holds(&daemon, &name));
        let host = fs::File::open(daemon.host(&name)).expect("open");
        let mut found = vec![0; LARGE];
        host.read_exact_at(&mut found, 0).expect("read");
        assert!(found == content());
        fs.release(file).expect("RELEASE");
    }
    // Once it may, it does.
    daemon.supervisor().limit_descriptors(false).expect("prlimit");
    let (_, file) = fs.create(ROOT, "last", libc::O_RDWR, 0o644).expect("CREATE");
    work(&fs, file);
    assert!(holds(&daemon, "last"));
}
