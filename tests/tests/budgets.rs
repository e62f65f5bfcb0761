//! A guest that asks for much gets an errno at its limit, and more nodes than there are descriptors work.

use std::fs;

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi::ROOT;
use nix::errno::Errno;

#[test]
fn more_files_are_known_than_descriptors_are_allowed() {
    let (daemon, fs) = Daemon::with_client(["--rlimit-nofile=256"]);
    const COUNT: usize = 3000;
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
