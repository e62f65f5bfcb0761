//! A guest that exceeds a limit gets an errno. More nodes than descriptors work.

use std::collections::HashMap;
use std::fs;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::fuse::{Opened, SetAttr};
use airlockfs_tests::procfs::Process;
use airlockfs_tests::tempdir::TempDir;
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

/// Bytes of a process's own memory, apart from what is shared: RssAnon (proc_pid_status(5)).
fn memory(process: &Process) -> u64 {
    let text = process.status("RssAnon").expect("RssAnon");
    let kib = text.split_whitespace().next().expect("a number");
    kib.parse::<u64>().expect("a number") << 10
}

/// What the worker takes besides its budget: stacks, what each lane has, 64 directories that are being read, 16,384 ranges
/// that are locked, and what malloc leaves unused between names of different lengths.
const FIXED: u64 = 16 << 20;

/// A file's name of 255 bytes.
fn long(i: usize) -> String {
    format!("{i:0>255}")
}

#[test]
fn memory_is_bounded_at_the_edge_and_forgetting_makes_room() {
    const BUDGET: u64 = 16 << 20;
    const FILES: usize = 45_000;
    let share = TempDir::in_memory().expect("a directory in /dev/shm");
    for i in 0..FILES {
        fs::write(share.join(long(i)), "").expect("write");
    }
    fs::create_dir(share.join("dir")).expect("mkdir");
    fs::write(share.join("dir/file"), "text").expect("write");
    let daemon = Launch::airlockfs()
        .share(&share)
        .args(["--max-memory=16M", "--xattr", "--posix-lock"])
        .start();
    let client = daemon.client();
    let worker = daemon.worker().expect("a worker");
    let begun = memory(&worker);
    let dir = client.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
    let file = client.walk("dir/file").expect("LOOKUP").nodeid;
    let within = |what: &str| {
        let now = memory(&worker);
        assert!(
            now <= begun + BUDGET + FIXED,
            "{what}: {begun} and then {now} bytes"
        );
    };
    // A listing has all names, and the inodes of those that there is room for.
    let listed = || {
        let dir = client.opendir(ROOT).expect("OPENDIR");
        let all = client.readdirplus_all(dir, 1 << 20).expect("READDIRPLUS");
        client.releasedir(dir).expect("RELEASEDIR");
        assert_eq!(all.len(), FILES + 3);
        let seen = all.into_iter().filter(|item| item.entry.nodeid != 0);
        let seen = seen.map(|item| (item.dirent.name, item.entry.nodeid));
        seen.collect::<HashMap<_, _>>()
    };
    let known = listed();
    assert!((20_000..FILES).contains(&known.len()), "{}", known.len());
    let unknown = (0..FILES).find(|i| !known.contains_key(long(*i).as_bytes()));
    let unknown = long(unknown.expect("one without room"));
    assert_eq!(client.lookup(ROOT, &unknown).map(drop), Err(Errno::ENOMEM));
    within("inodes");
    // Nothing is made that could not be known, and nothing moves.
    let flags = libc::O_RDWR | libc::O_EXCL;
    assert_eq!(
        client.create(dir, long(0), flags, 0o644).map(drop),
        Err(Errno::ENOMEM)
    );
    assert_eq!(client.mkdir(dir, long(0), 0o755).map(drop), Err(Errno::ENOMEM));
    assert_eq!(client.symlink(dir, long(0), "to").map(drop), Err(Errno::ENOMEM));
    assert_eq!(client.link(file, dir, long(0)).map(drop), Err(Errno::ENOMEM));
    assert_eq!(client.rename(dir, "file", dir, long(0)), Err(Errno::ENOMEM));
    let names = fs::read_dir(share.join("dir"))
        .expect("list")
        .map(|entry| entry.expect("an entry").file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["file"]);
    // What is known works as ever.
    let open = client.open(file, libc::O_RDWR).expect("OPEN");
    assert_eq!(client.read(open, 0, 10), Ok(b"text".to_vec()));
    assert_eq!(client.write(open, 0, b"TEXT"), Ok(4));
    assert_eq!(client.rename(dir, "file", dir, "moved"), Ok(()));
    let (name, node) = known.iter().next().expect("a name");
    assert_eq!(client.lookup(ROOT, name).map(|entry| entry.nodeid), Ok(*node));
    // Open files and directories have room of their own, up to their limit.
    let mut opened = Vec::new();
    let errno = loop {
        match client.open(file, libc::O_RDONLY) {
            Ok(open) => opened.push(open),
            Err(errno) => break errno,
        }
    };
    assert_eq!(errno, Errno::ENFILE);
    assert!(opened.len() > 1000, "{}", opened.len());
    within("open files");
    let supervisor = memory(daemon.supervisor());
    assert!(supervisor < BUDGET + FIXED, "{supervisor}");
    // All is given back, and all works.
    for open in opened {
        client.release(open).expect("RELEASE");
    }
    let forgets: Vec<_> = known.values().map(|node| (*node, u64::MAX)).collect();
    forgets.chunks(100).for_each(|some| client.batch_forget(some));
    let (last, _) = forgets.last().expect("a node");
    assert!((0..6).any(|_| client.is_forgotten(*last)));
    let made = client.create(dir, long(0), flags, 0o644).expect("CREATE");
    client.release(made.1).expect("RELEASE");
    client.lookup(ROOT, &unknown).expect("LOOKUP");
    let again = listed();
    assert!(
        again.len().abs_diff(known.len()) < 10,
        "{} {}",
        again.len(),
        known.len()
    );
    within("the second time");
    // With the session its memory goes.
    client.destroy().expect("DESTROY");
    client.init().expect("INIT");
    let rest = memory(&worker);
    assert!(rest <= begun + FIXED, "{rest}");
}

#[test]
fn a_directory_that_is_read_halfway_costs_no_buffer() {
    const DIRECTORIES: usize = 1500;
    let share = TempDir::in_memory().expect("a directory in /dev/shm");
    for i in 0..300 {
        fs::write(share.join(long(i)), "").expect("write");
    }
    let daemon = Launch::airlockfs().share(&share).start();
    let client = daemon.client();
    let worker = daemon.worker().expect("a worker");
    let begun = memory(&worker);
    let halfway: Vec<(Opened, Vec<Vec<u8>>, u64)> = (0..DIRECTORIES)
        .map(|_| {
            let dir = client.opendir(ROOT).expect("OPENDIR");
            let first = client.readdir(dir, 0, 4096).expect("READDIR");
            let next = first.last().expect("an entry").off;
            (dir, first.into_iter().map(|entry| entry.name).collect(), next)
        })
        .collect();
    let taken = memory(&worker).saturating_sub(begun);
    assert!(taken < 8 << 20, "{taken} bytes for {DIRECTORIES} directories");
    // Each goes on where it was, the oldest as the latest.
    for (dir, mut names, mut next) in halfway.into_iter().step_by(7) {
        loop {
            let more = client.readdir(dir, next, 8192).expect("READDIR");
            let Some(last) = more.last() else { break };
            next = last.off;
            names.extend(more.into_iter().map(|entry| entry.name));
        }
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!((names.len(), all), (302, 302));
        client.releasedir(dir).expect("RELEASEDIR");
    }
}
