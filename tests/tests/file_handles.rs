//! A file handle in the guest holds a node id and a generation. What its kernel forgot is asked for
//! by that again, as `.` and `..` (FUSE_EXPORT_SUPPORT), and must be the same file or none.

use std::fs;

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi::{ROOT, init_flags};
use nix::errno::Errno;

#[test]
fn what_the_guest_forgot_is_found_again_by_its_node_id() {
    let (daemon, fs) = Daemon::with_client(["--file-handles"]);
    assert!(fs.negotiated() & init_flags::EXPORT_SUPPORT != 0);
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    for name in ["dir/file", "dir/moved", "dir/replaced", "dir/removed"] {
        fs::write(daemon.host(name), name).expect("write");
    }
    let look = |name: &str| fs.walk(name).expect("LOOKUP");
    let dir = look("dir");
    let [file, moved, replaced, removed] = ["dir/file", "dir/moved", "dir/replaced", "dir/removed"].map(look);
    fs.rename(dir.nodeid, "moved", ROOT, "elsewhere").expect("RENAME");
    for entry in [&file, &moved, &replaced, &removed] {
        fs.forget(entry.nodeid, 1);
    }
    // Each walk looked it up.
    fs.forget(dir.nodeid, 5);
    fs::write(daemon.host("new"), "another").expect("write");
    fs::rename(daemon.host("new"), daemon.host("dir/replaced")).expect("rename");
    fs::remove_file(daemon.host("dir/removed")).expect("remove");
    for entry in [&file, &moved] {
        let again = fs.lookup(entry.nodeid, ".").expect("LOOKUP of .");
        assert_eq!(
            (again.nodeid, again.generation, again.attr.ino),
            (entry.nodeid, entry.generation, entry.attr.ino)
        );
    }
    assert_eq!(
        fs.lookup(dir.nodeid, ".").expect("LOOKUP of .").attr.ino,
        dir.attr.ino
    );
    assert_eq!(fs.lookup(dir.nodeid, "..").expect("LOOKUP of ..").nodeid, ROOT);
    for entry in [&replaced, &removed] {
        assert_eq!(fs.lookup(entry.nodeid, ".").map(drop), Err(Errno::ESTALE));
    }
    // By its name it is the same node as well.
    assert_eq!(fs.walk("dir/file").expect("LOOKUP").nodeid, file.nodeid);
    let open = fs.open(file.nodeid, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(open, 0, 100).expect("READ"), b"dir/file");
}

#[test]
fn what_was_forgotten_and_removed_takes_no_room() {
    let (daemon, fs) = Daemon::with_client(["--file-handles"]);
    fs::write(daemon.host("file"), vec![1; 1 << 20]).expect("write");
    let file = fs.lookup(ROOT, "file").expect("LOOKUP");
    fs.unlink(ROOT, "file").expect("UNLINK");
    fs.forget(file.nodeid, 1);
    assert_eq!(fs.lookup(file.nodeid, ".").map(drop), Err(Errno::ESTALE));
    let worker = daemon.worker().expect("a worker");
    let held = worker.descriptors().expect("descriptors");
    assert!(
        held.iter()
            .all(|(_, path)| !path.to_string_lossy().contains("file (deleted)")),
        "{held:?}"
    );
}

#[test]
fn without_the_option_what_is_forgotten_is_gone() {
    let (daemon, fs) = Daemon::with_client(["--tag", "handles"]);
    assert!(fs.negotiated() & init_flags::EXPORT_SUPPORT == 0);
    fs::write(daemon.host("file"), "text").expect("write");
    let file = fs.lookup(ROOT, "file").expect("LOOKUP");
    // An overlay in the guest compares handles with those of an earlier session.
    assert_eq!(file.generation, 0);
    fs.forget(file.nodeid, 1);
    assert_eq!(fs.lookup(file.nodeid, ".").map(drop), Err(Errno::ESTALE));
}

/// Without this a handle that a client of the guest's NFS server kept over a reboot named whichever
/// file has that node id now.
#[test]
fn no_two_sessions_have_one_generation() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let daemon = Daemon::start(["--on-disconnect=listen", "--file-handles"]);
        fs::write(daemon.host("file"), "text").expect("write");
        for _ in 0..2 {
            let fs = daemon.client();
            let file = fs.lookup(ROOT, "file").expect("LOOKUP");
            seen.push(file.generation);
            assert!(u32::try_from(file.generation).is_ok(), "Linux keeps 32 bits");
            // Linux makes its root's inode itself, with generation 0.
            assert_eq!(fs.lookup(ROOT, "..").expect("LOOKUP").generation, 0);
            drop(fs);
        }
    }
    for (at, generation) in seen.iter().enumerate() {
        assert!(!seen[..at].contains(generation), "{seen:?}");
    }
}
