//! Each cache mode promises the guest what its name says: how long names and attributes stay valid, and what is
//! kept of a file's data.

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
