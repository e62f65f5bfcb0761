//! Each cache mode keeps its promise to the guest: how long names and attributes stay valid, and
//! what the guest keeps of a file's data.

use std::fs;

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi::{ROOT, open_out};

/// A day, in seconds.
const DAY: u64 = 86_400;

struct Mode {
    option: &'static str,
    valid: u64,
    file: u32,
    dir: u32,
}

const MODES: [Mode; 4] = [
    Mode {
        option: "--cache=never",
        valid: 0,
        file: open_out::DIRECT_IO,
        dir: 0,
    },
    Mode {
        option: "--cache=auto",
        valid: 1,
        file: 0,
        dir: 0,
    },
    Mode {
        option: "--cache=metadata",
        valid: DAY,
        file: open_out::DIRECT_IO,
        dir: open_out::CACHE_DIR | open_out::KEEP_CACHE,
    },
    Mode {
        option: "--cache=always",
        valid: DAY,
        file: open_out::KEEP_CACHE,
        dir: open_out::CACHE_DIR | open_out::KEEP_CACHE,
    },
];

/// The flags that are about caching.
const MASK: u32 = open_out::DIRECT_IO | open_out::KEEP_CACHE | open_out::CACHE_DIR;

#[test]
fn every_mode_has_its_timeouts_and_flags() {
    for mode in MODES {
        let (daemon, fs) = Daemon::with_client([mode.option]);
        fs::write(daemon.host("file"), "text").expect("write");
        let entry = fs.lookup(ROOT, "file").expect("LOOKUP");
        assert_eq!(entry.entry_valid, mode.valid, "{}", mode.option);
        assert_eq!(entry.attr_valid, mode.valid, "{}", mode.option);
        let out = fs.getattr_out(entry.nodeid, None).expect("GETATTR");
        assert_eq!(out.attr_valid, mode.valid, "{}", mode.option);
        let file = fs.open(entry.nodeid, libc::O_RDONLY).expect("OPEN");
        assert_eq!(file.open_flags & MASK, mode.file, "{}", mode.option);
        let (entry, file) = fs.create(ROOT, "new", libc::O_RDWR, 0o644).expect("CREATE");
        assert_eq!(
            (entry.entry_valid, file.open_flags & MASK),
            (mode.valid, mode.file)
        );
        let dir = fs.opendir(ROOT).expect("OPENDIR");
        assert_eq!(dir.open_flags & MASK, mode.dir, "{}", mode.option);
        for item in fs.readdirplus_all(dir, 4096).expect("READDIRPLUS") {
            if item.entry.nodeid != 0 {
                assert_eq!(item.entry.attr_valid, mode.valid, "{}", mode.option);
            }
        }
    }
}

#[test]
fn auto_is_the_default() {
    let (_daemon, fs) = Daemon::with_client(["--tag", "cache"]);
    assert_eq!(fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR").entry_valid, 1);
}

#[test]
fn timeouts_may_be_given_one_by_one() {
    let (_daemon, fs) =
        Daemon::with_client(["--entry-timeout=7", "--attr-timeout=8.5", "--negative-timeout=9"]);
    let entry = fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    assert_eq!((entry.entry_valid, entry.entry_valid_nsec), (7, 0));
    assert_eq!((entry.attr_valid, entry.attr_valid_nsec), (8, 500_000_000));
    let out = fs.getattr_out(entry.nodeid, None).expect("GETATTR");
    assert_eq!((out.attr_valid, out.attr_valid_nsec), (8, 500_000_000));
    // A name that is not there is a node of 0, for as long as it may be remembered.
    let absent = fs.lookup(ROOT, "absent").expect("LOOKUP");
    assert_eq!((absent.nodeid, absent.entry_valid), (0, 9));
}

#[test]
fn absence_is_not_remembered_by_default() {
    let (_daemon, fs) = Daemon::with_client(["--cache=always"]);
    assert_eq!(
        fs.lookup(ROOT, "absent").map(drop),
        Err(nix::errno::Errno::ENOENT)
    );
}

#[test]
fn with_writeback_the_guest_reads_what_it_only_writes_and_knows_the_end_itself() {
    let (daemon, fs) = Daemon::with_client(["--writeback"]);
    fs::write(daemon.host("file"), "0123456789").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_WRONLY).expect("OPEN");
    assert_eq!(fs.read(file, 0, 4).expect("READ"), b"0123");
    let append = fs.open(node, libc::O_WRONLY | libc::O_APPEND).expect("OPEN");
    assert_eq!(fs.write(append, 2, b"xx"), Ok(2));
    assert_eq!(fs::read(daemon.host("file")).expect("read"), b"01xx456789");
}
