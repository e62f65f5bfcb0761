//! Mounts under the share are file systems of their own to the guest: announced, distinct, and seen
//! when they come and go.

use std::fs;
use std::path::{Path, PathBuf};

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::{ROOT, attr_flags};
use airlockfs_tests::mount::Mount;
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

fn bind(from: &Path, to: &Path) -> Mount {
    Mount::bind(from, to).expect("bind")
}

/// A share with two directories, `mount` and `source`, on a mount that tells others of changes, as on most hosts.
fn shared_home() -> (TempDir, PathBuf, Mount) {
    let home = TempDir::new().expect("a directory");
    let share = home.join("share");
    for name in ["mount", "source"] {
        fs::create_dir_all(share.join(name)).expect("mkdir");
    }
    fs::write(share.join("source/file"), "text").expect("write");
    let mounted = Mount::shared(&share).expect("bind");
    (home, share, mounted)
}

fn started(share: &Path, options: &[&str]) -> (Daemon, Client) {
    let daemon = Launch::airlockfs().share(share).args(options).start();
    let client = daemon.client();
    (daemon, client)
}

#[test]
fn a_bind_of_the_same_file_system_is_a_mount_too() {
    let (_home, share, _mounted) = shared_home();
    let _bound = bind(&share.join("source"), &share.join("mount"));
    let (_daemon, fs) = started(&share, &[]);
    let bound = fs.lookup(ROOT, "mount").expect("LOOKUP");
    let source = fs.lookup(ROOT, "source").expect("LOOKUP");
    // One inode, two mounts: what is beneath differs when something is mounted in one of them.
    assert_eq!(bound.attr.ino, source.attr.ino);
    assert_ne!(bound.nodeid, source.nodeid);
    assert!(
        bound.attr.flags & attr_flags::SUBMOUNT != 0,
        "the bind is announced"
    );
    assert!(source.attr.flags & attr_flags::SUBMOUNT == 0);
    let file = fs.lookup(bound.nodeid, "file").expect("LOOKUP");
    assert!(file.attr.flags & attr_flags::SUBMOUNT == 0);
    assert_eq!(
        fs.rename(bound.nodeid, "file", source.nodeid, "new"),
        Err(Errno::EXDEV)
    );
    assert_eq!(
        fs.link(file.nodeid, source.nodeid, "new").map(drop),
        Err(Errno::EXDEV)
    );
}

#[test]
fn mounts_are_not_announced_when_that_is_off() {
    let (_home, share, _mounted) = shared_home();
    let _bound = bind(&share.join("source"), &share.join("mount"));
    let (_daemon, fs) = started(&share, &["--no-announce-submounts"]);
    let bound = fs.lookup(ROOT, "mount").expect("LOOKUP");
    assert!(bound.attr.flags & attr_flags::SUBMOUNT == 0);
}

#[test]
fn readdirplus_announces_mounts_as_lookup_does() {
    let (_home, share, _mounted) = shared_home();
    let _bound = bind(&share.join("source"), &share.join("mount"));
    let (_daemon, fs) = started(&share, &[]);
    let known = fs.lookup(ROOT, "mount").expect("LOOKUP");
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    for item in fs.readdirplus_all(dir, 4096).expect("READDIRPLUS") {
        let expected = item.dirent.name == b"mount";
        assert_eq!(
            item.entry.attr.flags & attr_flags::SUBMOUNT != 0,
            expected,
            "{item:?}"
        );
        if expected {
            assert_eq!(item.entry.nodeid, known.nodeid);
        }
    }
}

/// What another mount covers cannot be removed; to have tried does not keep that mount.
#[test]
fn a_mount_in_the_way_of_a_removal_may_go() {
    let (_home, share, _mounted) = shared_home();
    fs::write(share.join("covered"), "").expect("write");
    let (_daemon, fs) = started(&share, &[]);
    for (name, source) in [("covered", "source/file"), ("mount", "source")] {
        let node = fs.lookup(ROOT, name).expect("LOOKUP").nodeid;
        let bound = bind(&share.join(source), &share.join(name));
        let removed = match name {
            "mount" => fs.rmdir(ROOT, name),
            _ => fs.unlink(ROOT, name),
        };
        assert_eq!(removed, Err(Errno::EBUSY));
        umount2(&share.join(name), MntFlags::empty()).expect("a mount that nobody uses");
        std::mem::forget(bound);
        assert_eq!(fs.lookup(ROOT, name).expect("LOOKUP").nodeid, node);
    }
}

#[test]
fn a_mount_that_comes_later_is_seen_and_one_in_use_may_go() {
    let (_home, share, _mounted) = shared_home();
    let (_daemon, fs) = started(&share, &[]);
    let before = fs.lookup(ROOT, "mount").expect("LOOKUP");
    let bound = bind(&share.join("source"), &share.join("mount"));
    let after = fs.lookup(ROOT, "mount").expect("LOOKUP");
    assert_ne!(after.nodeid, before.nodeid);
    assert!(after.attr.flags & attr_flags::SUBMOUNT != 0);
    let entry = fs.lookup(after.nodeid, "file").expect("LOOKUP");
    let file = fs.open(entry.nodeid, libc::O_RDWR).expect("OPEN");
    drop(bound);
    // Detached while it is open: what is open works, the name is the directory's again.
    assert_eq!(fs.read(file, 0, 10).expect("READ"), b"text");
    assert_eq!(fs.write(file, 0, b"TEXT"), Ok(4));
    assert_eq!(fs.lookup(ROOT, "mount").expect("LOOKUP").nodeid, before.nodeid);
    assert_eq!(fs.lookup(before.nodeid, "file").map(drop), Err(Errno::ENOENT));
}
