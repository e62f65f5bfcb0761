//! A guest that asks for much gets an errno at its limit, and more nodes than there are descriptors work.

use std::fs;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::SetAttr;
use airlockfs_tests::fuse::abi::ROOT;
use nix::errno::Errno;

#[test]
fn more_files_are_known_than_descriptors_are_allowed() {
    let (daemon, fs) = Daemon::with_client(["--rlimit-nofile=256"]);
    const COUNT: usize = 1500;
    for dir in 0..30 {
        fs::create_dir(daemon.host(format!("dir{dir}"))).expect("mkdir");
    }
    let path = |i: usize| format!("dir{}/file{i}", i % 30);
    for i in 0..COUNT {
        fs::write(daemon.host(path(i)), i.to_string()).expect("write");
    }
    let nodes: Vec<u64> = (0..COUNT)
        .map(|i| fs.walk(path(i)).expect("LOOKUP").nodeid)
        .collect();
    assert_eq!(
        nodes.iter().collect::<std::collections::HashSet<_>>().len(),
        COUNT
    );
    // All are still there, in any order, also after their names changed.
    for i in (0..COUNT).rev().step_by(7) {
        let parent = fs.lookup(ROOT, format!("dir{}", i % 30)).expect("LOOKUP").nodeid;
        fs.rename(parent, format!("file{i}"), ROOT, format!("moved{i}"))
            .expect("RENAME");
    }
    for (i, node) in nodes.iter().enumerate() {
        let file = fs.open(*node, libc::O_RDONLY).expect("OPEN");
        assert_eq!(fs.read(file, 0, 10).expect("READ"), i.to_string().as_bytes());
        fs.release(file).expect("RELEASE");
    }
    let worker = daemon.worker().expect("a worker");
    assert!(worker.descriptors().expect("descriptors").len() <= 256);
}

#[test]
fn more_open_files_than_allowed_are_an_error_and_nothing_worse() {
    let (daemon, fs) = Daemon::with_client(["--rlimit-nofile=256"]);
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    fs.write(file, 0, b"text").expect("WRITE");
    let mut open = Vec::new();
    let errno = loop {
        match fs.open(file.node, libc::O_RDWR) {
            Ok(file) => open.push(file),
            Err(errno) => break errno,
        }
        assert!(open.len() < 1000, "no limit");
    };
    assert!(matches!(errno, Errno::ENFILE | Errno::EMFILE), "{errno}");
    assert!(open.len() > 50, "only {} files", open.len());
    // All that is open works, and so does what needs a descriptor for a moment.
    for file in &open {
        assert_eq!(fs.read(*file, 0, 10).expect("READ"), b"text");
    }
    fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    fs::write(daemon.host("dir/inner"), "inner").expect("write");
    fs.walk("dir/inner").expect("LOOKUP");
    fs.statfs(ROOT).expect("STATFS");
    for file in open {
        fs.release(file).expect("RELEASE");
    }
    fs.open(file.node, libc::O_RDWR).expect("OPEN after RELEASE");
}

#[test]
fn a_file_that_lost_its_name_while_it_was_cold_is_still_served() {
    let (daemon, fs) = Daemon::with_client(["--rlimit-nofile=128"]);
    let count = 600;
    for i in 0..count {
        fs::write(daemon.host(format!("file{i}")), i.to_string()).expect("write");
    }
    let nodes: Vec<u64> = (0..count)
        .map(|i| fs.lookup(ROOT, format!("file{i}")).expect("LOOKUP").nodeid)
        .collect();
    // The first are the coldest by now: no descriptor holds them.
    fs.unlink(ROOT, "file0").expect("UNLINK");
    fs.rename(ROOT, "file2", ROOT, "file1").expect("RENAME");
    for (i, links) in [(0usize, 0), (1, 0), (2, 1)] {
        assert_eq!(fs.getattr(nodes[i]).expect("GETATTR").nlink, links, "file{i}");
        let file = fs.open(nodes[i], libc::O_RDONLY).expect("OPEN");
        assert_eq!(fs.read(file, 0, 10).expect("READ"), i.to_string().as_bytes());
    }
}

#[test]
fn a_cold_file_that_the_host_swapped_for_another_is_stale() {
    let (daemon, fs) = Daemon::with_client(["--rlimit-nofile=128"]);
    let path = |i: usize| daemon.host(format!("file{i}"));
    for i in 0..600 {
        fs::write(path(i), i.to_string()).expect("write");
    }
    let nodes: Vec<u64> = (0..600)
        .map(|i| fs.lookup(ROOT, format!("file{i}")).expect("LOOKUP").nodeid)
        .collect();
    fs::rename(path(1), path(0)).expect("rename");
    fs::remove_file(path(2)).expect("remove");
    std::os::unix::fs::symlink("/etc/passwd", path(2)).expect("symlink");
    for i in [0, 2] {
        assert_eq!(
            fs.open(nodes[i], libc::O_RDONLY).map(drop),
            Err(Errno::ESTALE),
            "file{i}"
        );
    }
    // Under its new name it is known again, as what it was.
    assert_eq!(fs.lookup(ROOT, "file0").expect("LOOKUP").nodeid, nodes[1]);
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_ends_nobody() {
    /// LimitFSIZE= of a unit, ulimit -f of a shell: the kernel's answer to a write beyond is a signal that kills.
    const LIMIT: u64 = 1 << 30;
    for option in ["--tag=limit", "--no-donate"] {
        let daemon = Launch::airlockfs().args([option]).file_size(LIMIT).start();
        let fs = daemon.client();
        let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
        for size in [1, 300_000] {
            assert_eq!(
                fs.write(file, LIMIT, &vec![1; size]),
                Err(Errno::EFBIG),
                "{option} {size}"
            );
        }
        let larger = SetAttr::default().size(LIMIT + 1);
        assert_eq!(fs.setattr(file.node, larger).map(drop), Err(Errno::EFBIG));
        assert_eq!(
            fs.setattr(file.node, larger.handle(file.fh)).map(drop),
            Err(Errno::EFBIG)
        );
        assert_eq!(fs.fallocate(file, 0, LIMIT, 4096), Err(Errno::EFBIG));
        assert_eq!(fs.write(file, 0, b"text"), Ok(4));
        let copy = fs.copy_file_range((file, 0), (file, LIMIT), 4);
        assert!(matches!(copy, Ok(0) | Err(Errno::EFBIG)), "{copy:?}");
        assert!(daemon.is_alive() && daemon.worker().is_ok());
    }
}
