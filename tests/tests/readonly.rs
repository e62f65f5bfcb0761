//! `--readonly`: every change is EROFS, other errors come first, and reading works.

use std::fs;

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::fuse::{Client, Opened, SetAttr};
use nix::errno::Errno;

const EROFS: Errno = Errno::EROFS;

fn started() -> (Daemon, Client, u64) {
    let (daemon, fs) = Daemon::with_client(["--readonly", "--xattr"]);
    fs::write(daemon.host("file"), "text").expect("write");
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    (daemon, fs, node)
}

#[test]
fn every_change_is_refused() {
    let (daemon, fs, node) = started();
    assert_eq!(fs.mkdir(ROOT, "new", 0o755).map(drop), Err(EROFS));
    assert_eq!(
        fs.mknod(ROOT, "new", libc::S_IFREG | 0o644, 0).map(drop),
        Err(EROFS)
    );
    assert_eq!(fs.symlink(ROOT, "new", "target").map(drop), Err(EROFS));
    assert_eq!(fs.link(node, ROOT, "new").map(drop), Err(EROFS));
    assert_eq!(fs.unlink(ROOT, "file"), Err(EROFS));
    assert_eq!(fs.rmdir(ROOT, "dir"), Err(EROFS));
    assert_eq!(fs.rename(ROOT, "file", ROOT, "new"), Err(EROFS));
    assert_eq!(
        fs.rename2(ROOT, "file", ROOT, "dir", libc::RENAME_EXCHANGE),
        Err(EROFS)
    );
    assert_eq!(fs.tmpfile(ROOT, libc::O_RDWR, 0o600).map(drop), Err(EROFS));
    for change in [
        SetAttr::default().mode(0o600),
        SetAttr::default().uid(1),
        SetAttr::default().gid(1),
        SetAttr::default().size(0),
        SetAttr::default().mtime(1, 1),
        SetAttr::default().mtime_now(),
    ] {
        assert_eq!(fs.setattr(node, change).map(drop), Err(EROFS), "{change:?}");
    }
    assert_eq!(fs.setxattr(node, "user.a", b"x", 0), Err(EROFS));
    assert_eq!(fs.removexattr(node, "user.a"), Err(EROFS));
    let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
    for outcome in [
        fs.write(file, 0, b"x").map(drop),
        fs.fallocate(file, 0, 0, 100),
        fs.copy_file_range((file, 0), (file, 10), 1).map(drop),
    ] {
        // The handle is not open for writing either.
        assert!(matches!(outcome, Err(Errno::EROFS | Errno::EBADF)), "{outcome:?}");
    }

    let names: Vec<_> = fs::read_dir(daemon.share()).expect("list").collect();
    assert_eq!(names.len(), 2);
    assert_eq!(fs::read_to_string(daemon.host("file")).expect("read"), "text");
}

#[test]
fn opens_say_what_is_wrong_first() {
    let (_daemon, fs, node) = started();
    assert_eq!(fs.lookup(ROOT, "missing").map(drop), Err(Errno::ENOENT));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(fs.open(node, flags).map(drop), Err(EROFS), "{flags:o}");
        assert_eq!(
            fs.create(ROOT, "file", flags, 0o644).map(drop),
            Err(EROFS),
            "{flags:o}"
        );
    }
    assert_eq!(
        fs.create(ROOT, "missing", libc::O_RDONLY, 0o644).map(drop),
        Err(EROFS)
    );
    assert_eq!(
        fs.create(ROOT, "missing", libc::O_RDONLY | libc::O_EXCL, 0o644)
            .map(drop),
        Err(EROFS)
    );
    assert_eq!(
        fs.create(ROOT, "file", libc::O_RDONLY | libc::O_EXCL, 0o644)
            .map(drop),
        Err(Errno::EEXIST)
    );
    let (entry, file) = fs
        .create(ROOT, "file", libc::O_RDONLY, 0o644)
        .expect("opens what is there");
    assert_eq!(entry.nodeid, node);
    assert_eq!(fs.read(file, 0, 10).expect("READ"), b"text");
}

#[test]
fn errors_of_parents_names_and_handles_win() {
    let (_daemon, fs, node) = started();
    let stale = 1 << 40;
    assert_eq!(fs.mkdir(stale, "new", 0o755).map(drop), Err(Errno::ESTALE));
    assert_eq!(fs.unlink(stale, "file"), Err(Errno::ESTALE));
    assert_eq!(fs.rename(ROOT, "file", stale, "new"), Err(Errno::ESTALE));
    assert_eq!(fs.link(stale, ROOT, "new").map(drop), Err(Errno::ESTALE));
    assert_eq!(
        fs.create(stale, "new", libc::O_RDWR, 0o644).map(drop),
        Err(Errno::ESTALE)
    );
    assert_eq!(
        fs.setattr(stale, SetAttr::default().mode(0)).map(drop),
        Err(Errno::ESTALE)
    );
    assert_eq!(fs.mkdir(ROOT, "a/b", 0o755).map(drop), Err(Errno::EINVAL));
    assert_eq!(
        fs.mkdir(ROOT, [b'n'; 256], 0o755).map(drop),
        Err(Errno::ENAMETOOLONG)
    );
    let unknown = Opened {
        node,
        fh: 1 << 40,
        open_flags: 0,
    };
    assert_eq!(fs.write(unknown, 0, b"x"), Err(Errno::EBADF));
    assert_eq!(fs.fallocate(unknown, 0, 0, 1), Err(Errno::EBADF));
}

#[test]
fn reading_works() {
    let (daemon, fs, node) = started();
    let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(file, 0, 10).expect("READ"), b"text");
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    assert_eq!(fs.readdirplus_all(dir, 4096).expect("READDIRPLUS").len(), 4);
    fs.statfs(ROOT).expect("STATFS");
    fs.fsync(file, false).expect("FSYNC");
    fs.release(file).expect("RELEASE");
    fs::write(daemon.host("file"), "changed by the host").expect("write");
    let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(file, 0, 100).expect("READ"), b"changed by the host");
    assert_eq!(fs.getxattr(node, "user.a", 10), Err(Errno::ENODATA));
}
