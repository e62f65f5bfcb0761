//! `--share NAME=PATH` and `--share-ro`: several directories and files under one tag, each with rights of its own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::{Daemon, Launch, bin_dir};
use airlockfs_tests::fuse::SetAttr;
use airlockfs_tests::fuse::abi::{ROOT, attr_flags};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;

/// `--share=NAME=PATH`, for a path beneath `home`.
fn option(kind: &str, name: &str, home: &Path, path: &str) -> OsString {
    let mut option = OsString::from(format!("--{kind}={name}="));
    option.push(home.join(path));
    option
}

/// Two directories with a file each, and a file; `b` and what it holds must not change.
fn three(more: &[&str]) -> (TempDir, Daemon) {
    let home = TempDir::new().expect("a directory");
    for name in ["a", "b"] {
        fs::create_dir(home.join(name)).expect("mkdir");
        fs::write(home.join(name).join("file"), name).expect("write");
    }
    fs::write(home.join("alone"), "one file").expect("write");
    fs::write(home.join("outside"), "not shared").expect("write");
    let daemon = Launch::airlockfs()
        .by_name()
        .args([
            option("share", "one", &home, "a"),
            option("share-ro", "two", &home, "b"),
            option("share", "file", &home, "alone"),
        ])
        .args(more)
        .start();
    (home, daemon)
}

#[test]
fn shares_stand_by_name_in_a_root_that_cannot_be_changed() {
    let (_home, daemon) = three(&[]);
    let fs = daemon.client();
    let root = fs.getattr(ROOT).expect("GETATTR");
    assert_eq!((root.mode, root.uid), (libc::S_IFDIR | 0o555, 0));
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let listed = fs.readdirplus_all(dir, 4096).expect("READDIRPLUS");
    let names: Vec<_> = listed.iter().map(|item| item.dirent.name.clone()).collect();
    assert_eq!(names, [&b"."[..], b"..", b"one", b"file", b"two"]);
    for item in listed.iter().skip(2) {
        let entry = fs.lookup(ROOT, &item.dirent.name).expect("LOOKUP");
        assert_eq!(
            (entry.nodeid, entry.attr.ino),
            (item.entry.nodeid, item.dirent.ino)
        );
        let directory = item.dirent.name != b"file";
        assert_eq!(entry.attr.flags & attr_flags::SUBMOUNT != 0, directory);
    }
    for name in ["a", "b", "alone", "outside", "file1"] {
        assert_eq!(fs.lookup(ROOT, name).map(drop), Err(Errno::ENOENT), "{name}");
    }
    assert_eq!(fs.mkdir(ROOT, "new", 0o755).map(drop), Err(Errno::EROFS));
    assert_eq!(
        fs.create(ROOT, "new", libc::O_RDWR, 0o644).map(drop),
        Err(Errno::EROFS)
    );
    assert_eq!(fs.rmdir(ROOT, "one"), Err(Errno::EROFS));
    assert_eq!(fs.unlink(ROOT, "file"), Err(Errno::EROFS));
    assert_eq!(
        fs.setattr(ROOT, SetAttr::default().mode(0o777)).map(drop),
        Err(Errno::EROFS)
    );
}

#[test]
fn each_share_has_rights_of_its_own() {
    let (home, daemon) = three(&[]);
    let fs = daemon.client();
    let (one, two) = (
        fs.walk("one/file").expect("LOOKUP"),
        fs.walk("two/file").expect("LOOKUP"),
    );
    let written = fs.open(one.nodeid, libc::O_RDWR).expect("OPEN");
    assert_eq!(fs.write(written, 0, b"A"), Ok(1));
    assert_eq!(fs::read(home.join("a/file")).expect("read"), b"A");
    let read = fs.open(two.nodeid, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(read, 0, 10).expect("READ"), b"b");
    assert_eq!(fs.write(read, 0, b"B"), Err(Errno::EBADF));
    assert_eq!(fs.open(two.nodeid, libc::O_RDWR).map(drop), Err(Errno::EROFS));
    let directory = fs.lookup(ROOT, "two").expect("LOOKUP").nodeid;
    assert_eq!(fs.mkdir(directory, "new", 0o755).map(drop), Err(Errno::EROFS));
    assert_eq!(fs.unlink(directory, "file"), Err(Errno::EROFS));
    let change = SetAttr::default().mode(0o777);
    assert_eq!(fs.setattr(two.nodeid, change).map(drop), Err(Errno::EROFS));
    assert_eq!(
        fs::metadata(home.join("b/file")).expect("stat").mode() & 0o777,
        0o644
    );

    // It holds by the kernel: the worker's mount of that share is read-only, and no other is.
    let worker = daemon.worker().expect("a worker").pid();
    let mounts = fs::read_to_string(format!("/proc/{worker}/mountinfo")).expect("mounts");
    let options = |point: &str| {
        let mut fields = mounts.lines().map(|line| line.split(' ').skip(4));
        let mut found = fields.find_map(|mut fields| (fields.next()? == point).then(|| fields.next()))?;
        found
            .take()
            .map(|options| options.split(',').next().map(str::to_owned))?
    };
    assert_eq!(options("/two").as_deref(), Some("ro"), "{mounts}");
    assert_eq!(options("/one").as_deref(), Some("rw"), "{mounts}");
    assert_eq!(options("/file").as_deref(), Some("rw"), "{mounts}");
    assert_eq!(options("/").as_deref(), Some("ro"), "{mounts}");
}

#[test]
fn a_single_file_is_shared_and_nothing_around_it() {
    let (home, daemon) = three(&[]);
    let fs = daemon.client();
    let file = fs.lookup(ROOT, "file").expect("LOOKUP");
    assert_eq!(file.attr.mode & libc::S_IFMT, libc::S_IFREG);
    let open = fs.open(file.nodeid, libc::O_RDWR).expect("OPEN");
    assert_eq!(fs.read(open, 0, 20).expect("READ"), b"one file");
    assert_eq!(fs.write(open, 0, b"ONE"), Ok(3));
    assert_eq!(fs::read(home.join("alone")).expect("read"), b"ONE file");
    fs.setattr(file.nodeid, SetAttr::default().size(3))
        .expect("truncate");
    assert_eq!(fs::read(home.join("alone")).expect("read"), b"ONE");
    assert_eq!(fs.lookup(file.nodeid, "x").map(drop), Err(Errno::ENOTDIR));
    drop(fs);
    drop(daemon);

    let daemon = Launch::airlockfs()
        .by_name()
        .args([option("share-ro", "only", &home, "alone")])
        .start();
    let fs = daemon.client();
    let node = fs.lookup(ROOT, "only").expect("LOOKUP").nodeid;
    assert_eq!(fs.open(node, libc::O_RDWR).map(drop), Err(Errno::EROFS));
    let open = fs.open(node, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(open, 0, 20).expect("READ"), b"ONE");
}

#[test]
fn nothing_is_renamed_or_linked_across_and_inode_numbers_are_distinct() {
    for option in ["--announce-submounts", "--no-announce-submounts"] {
        let home = TempDir::new().expect("a directory");
        fs::create_dir_all(home.join("a/inner")).expect("mkdir");
        fs::write(home.join("a/inner/file"), "x").expect("write");
        // The same files twice, which is the hardest for both.
        let shares = [
            self::option("share", "one", &home, "a"),
            self::option("share", "two", &home, "a/inner"),
        ];
        let daemon = Launch::airlockfs().by_name().args(shares).args([option]).start();
        let fs = daemon.client();
        let (one, two) = (
            fs.walk("one/inner").expect("LOOKUP"),
            fs.walk("two").expect("LOOKUP"),
        );
        let file = fs.walk("one/inner/file").expect("LOOKUP");
        assert_eq!(
            fs.rename(one.nodeid, "file", two.nodeid, "new"),
            Err(Errno::EXDEV)
        );
        assert_eq!(
            fs.link(file.nodeid, two.nodeid, "new").map(drop),
            Err(Errno::EXDEV)
        );
        let same = fs.walk("two/file").expect("LOOKUP");
        assert_ne!(file.nodeid, same.nodeid);
        assert_ne!(file.attr.ino, same.attr.ino);
        let open = fs.open(file.nodeid, libc::O_RDONLY).expect("OPEN");
        for _before_and_after_it_was_donated in 0..3 {
            fs.read(open, 0, 10).expect("READ");
            let attr = fs.getattr_fh(file.nodeid, open.fh).expect("GETATTR");
            assert_eq!(attr.ino, file.attr.ino);
        }
        assert_ne!(one.attr.ino, two.attr.ino);
        // Files copied across are files on either side.
        let from = fs.open(file.nodeid, libc::O_RDONLY).expect("OPEN");
        let (_, to) = fs
            .create(two.nodeid, "copy", libc::O_RDWR, 0o644)
            .expect("CREATE");
        assert_eq!(fs.copy_file_range((from, 0), (to, 0), 1), Ok(1));
    }
}

#[test]
fn programs_move_files_from_one_share_to_another() {
    let (home, daemon) = three(&[]);
    let mount = TempDir::new().expect("a mount point");
    let bridge = Bridge::mount(daemon.socket(), &mount, &BridgeConfig::default()).expect("mount");
    fs::create_dir(mount.join("one/dir")).expect("mkdir");
    let across = fs::rename(mount.join("one/file"), mount.join("two/new")).expect_err("across");
    assert_eq!(across.raw_os_error(), Some(libc::EXDEV));
    let status = Command::new("cp")
        .args(["two/file", "one/dir/copy"])
        .current_dir(&mount)
        .status();
    assert!(status.expect("cp").success());
    assert_eq!(fs::read(home.join("a/dir/copy")).expect("read"), b"b");
    let found = Command::new("find")
        .args([".", "-type", "f"])
        .current_dir(&mount)
        .output()
        .expect("find");
    let mut found: Vec<_> = String::from_utf8_lossy(&found.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort_unstable();
    assert_eq!(found, ["./file", "./one/dir/copy", "./one/file", "./two/file"]);
    let denied = fs::write(mount.join("two/file"), "x").expect_err("read-only");
    assert_eq!(denied.raw_os_error(), Some(libc::EROFS));
    bridge.unmount().expect("unmount");
}

#[test]
fn where_every_share_is_read_only_no_call_changes_a_file() {
    let output = |options: &str| {
        let program = bin_dir().expect("binaries").join("airlockfsd");
        let output = Command::new(program)
            .args(["policy", "diff", "--readonly", options])
            .output();
        output.expect("airlockfsd").status.code()
    };
    assert_eq!(
        output("--share-ro a=/srv --share-ro b=/tmp"),
        Some(0),
        "as with --readonly"
    );
    assert_eq!(output("--share-ro a=/srv --share b=/tmp"), Some(1));
    assert_eq!(output("--share-ro a=/srv --share b=/tmp --readonly"), Some(0));
}

#[test]
fn paths_are_taken_as_they_are() {
    let home = TempDir::new().expect("a directory");
    for name in ["a=b", "x,share-ro=y=", "c:ro", "with space"] {
        fs::create_dir(home.join(name)).expect("mkdir");
        fs::write(home.join(name).join("file"), name).expect("write");
        let share = option("share", "with space", &home, name);
        let daemon = Launch::airlockfs().by_name().args([share]).start();
        let fs = daemon.client();
        let node = fs.walk("with space/file").expect("LOOKUP").nodeid;
        let file = fs.open(node, libc::O_RDWR).expect("OPEN");
        assert_eq!(fs.read(file, 0, 100).expect("READ"), name.as_bytes());
    }
}

#[test]
fn what_makes_no_sense_or_was_slipped_in_is_refused() {
    let home = TempDir::new().expect("a directory");
    fs::create_dir(home.join("dir")).expect("mkdir");
    nix::unistd::mkfifo(&home.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let good = || option("share", "good", &home, "dir");
    let many = (0..65).map(|n| option("share", &format!("n{n}"), &home, "dir"));
    for (options, code, word) in [
        (vec![good(), option("share", "good", &home, "dir")], 64, "good"),
        (vec![good(), option("share-ro", "good", &home, "dir")], 64, "good"),
        (vec![option("share", "..", &home, "dir")], 64, "--share"),
        (vec![option("share", "a/b", &home, "dir")], 64, "--share"),
        (vec!["--share=/srv".into()], 64, "NAME=PATH"),
        (vec![good(), "--sandbox=chroot".into()], 64, "chroot"),
        (vec![option("share", "gone", &home, "none")], 66, "gone"),
        (vec![option("share", "fifo", &home, "fifo")], 66, "fifo"),
        (
            vec![option("share-ro", "x", &home, "dir"), "--writeback".into()],
            64,
            "--writeback",
        ),
        (many.collect(), 64, "64"),
        (vec![], 64, "--share"),
    ] {
        let failed = Launch::airlockfs()
            .by_name()
            .args(&options)
            .try_start()
            .expect("a program");
        let failed = failed.map(drop).expect_err("it must not start");
        assert_eq!(failed.status.code(), Some(code), "{options:?}: {:?}", failed.log);
        assert!(
            failed.log.iter().any(|line| line.contains(word)),
            "{options:?}: {:?}",
            failed.log
        );
    }
    // A launcher that names the directory cannot be given a second one.
    for injected in ["--share=root=/", "-oshare=root=/", "--share-ro=root=/"] {
        let failed = Launch::airlockfs()
            .args([injected])
            .try_start()
            .expect("a program");
        let failed = failed.map(drop).expect_err(injected);
        assert_eq!(failed.status.code(), Some(64), "{:?}", failed.log);
    }
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).expect("chmod");
}
