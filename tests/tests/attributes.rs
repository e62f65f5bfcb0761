//! Attributes are the host's and change as Linux changes them. Extreme values are errors.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{Attr, ROOT, open_in};
use airlockfs_tests::fuse::{Client, Opened, SetAttr};
use nix::errno::Errno;

fn started() -> (Daemon, Client) {
    Daemon::with_client(["--tag", "attributes"])
}

fn assert_like_host(attr: &Attr, meta: &fs::Metadata) {
    assert_eq!(attr.size, meta.size());
    assert_eq!(attr.mode, meta.mode());
    assert_eq!(u64::from(attr.nlink), meta.nlink());
    assert_eq!((attr.uid, attr.gid), (meta.uid(), meta.gid()));
    assert_eq!(attr.blocks, meta.blocks());
    assert_eq!(attr.rdev as u64, meta.rdev());
    assert_eq!(
        (attr.mtime as i64, i64::from(attr.mtimensec)),
        (meta.mtime(), meta.mtime_nsec())
    );
    assert_eq!(
        (attr.ctime as i64, i64::from(attr.ctimensec)),
        (meta.ctime(), meta.ctime_nsec())
    );
    assert_eq!(
        (attr.atime as i64, i64::from(attr.atimensec)),
        (meta.atime(), meta.atime_nsec())
    );
}

#[test]
fn attributes_are_the_hosts() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), vec![1; 10_000]).expect("write");
    std::os::unix::fs::chown(daemon.host("file"), Some(12), Some(34)).expect("chown");
    fs::set_permissions(daemon.host("file"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    fs::hard_link(daemon.host("file"), daemon.host("hard")).expect("link");
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    symlink("target", daemon.host("link")).expect("symlink");
    nix::unistd::mkfifo(&daemon.host("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
    for name in ["file", "hard", "dir", "link", "fifo"] {
        let meta = fs::symlink_metadata(daemon.host(name)).expect("stat");
        let entry = fs.lookup(ROOT, name).expect("LOOKUP");
        assert_like_host(&entry.attr, &meta);
        assert_like_host(&fs.getattr(entry.nodeid).expect("GETATTR"), &meta);
        assert_eq!(entry.attr.ino, meta.ino());
    }
    let meta = fs::metadata(daemon.share()).expect("stat");
    assert_like_host(&fs.getattr(ROOT).expect("GETATTR"), &meta);
}

/// Of a file open in the guest that the host changes, by node and by handle, before and after its data was used.
fn by_node_and_by_handle(fs: &Client, parent: u64, host: &Path) {
    let node = fs.lookup(parent, "file").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
    for round in 1..5 {
        let text = "text".repeat(round);
        fs::write(host, &text).expect("write");
        fs::set_permissions(host, fs::Permissions::from_mode(0o640 + round as u32)).expect("chmod");
        let by_node = fs.getattr(node).expect("GETATTR");
        let by_handle = fs.getattr_fh(node, file.fh).expect("GETATTR by handle");
        assert_eq!(format!("{by_handle:?}"), format!("{by_node:?}"), "round {round}");
        assert_eq!(by_handle.size, text.len() as u64);
        assert_eq!(fs.read(file, 0, 100).expect("READ"), text.as_bytes());
    }
    fs.release(file).expect("RELEASE");
}

#[test]
fn attributes_by_handle_are_those_by_node_whoever_holds_the_file() {
    for options in [
        &["--tag=attributes"][..],
        &["--no-donate"],
        &["--uid=7", "--gid=8"],
        &["--umask=77"],
        &["--translate-uid=map:100:0:1", "--translate-gid=map:200:0:1"],
        &["--uid-map=:0:0:1000:", "--gid-map=:0:0:1000:"],
    ] {
        let (daemon, fs) = Daemon::with_client(options.iter().copied());
        let host = daemon.host("file");
        fs::write(&host, "").expect("write");
        eprintln!("{options:?}");
        by_node_and_by_handle(&fs, ROOT, &host);
    }
    let daemon = Launch::airlockfs().user(1000).start();
    let host = daemon.host("file");
    fs::write(&host, "").expect("write");
    std::os::unix::fs::chown(&host, Some(1000), Some(1000)).expect("chown");
    by_node_and_by_handle(&daemon.client(), ROOT, &host);
}

#[test]
fn statx_tells_the_birth_time() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "text").expect("write");
    let meta = fs::metadata(daemon.host("file")).expect("stat");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
    for handle in [None, Some(file.fh)] {
        let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
        let stat = fs.statx(node, handle, mask).expect("STATX");
        assert_eq!(stat.mask & mask, mask);
        assert_eq!((stat.size, stat.ino), (meta.size(), meta.ino()));
        assert_eq!(u32::from(stat.mode), meta.mode());
        let born = meta.created().expect("a birth time");
        let born = born.duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        assert_eq!(stat.btime.tv_sec as u64, born.as_secs());
        assert_eq!(stat.btime.tv_nsec, born.subsec_nanos());
    }
}

#[test]
fn setattr_changes_what_it_names_and_nothing_else() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "0123456789").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let stat = || fs::metadata(daemon.host("file")).expect("stat");

    let before = stat();
    let attr = fs.setattr(node, SetAttr::default().mode(0o7640)).expect("chmod");
    assert_eq!(attr.perm(), 0o7640);
    assert_like_host(&attr, &stat());
    assert_eq!(
        (stat().mtime_nsec(), stat().size()),
        (before.mtime_nsec(), before.size())
    );

    let attr = fs
        .setattr(node, SetAttr::default().mode(0o644).uid(3).gid(4))
        .expect("chown");
    assert_eq!((attr.uid, attr.gid, attr.perm()), (3, 4, 0o644));
    let attr = fs.setattr(node, SetAttr::default().uid(5)).expect("chown");
    assert_eq!((attr.uid, attr.gid), (5, 4));
    let attr = fs.setattr(node, SetAttr::default().gid(6)).expect("chgrp");
    assert_eq!((attr.uid, attr.gid), (5, 6));

    for (seconds, nanos) in [(1, 999_999_999), (-1, 5), (5_000_000_000, 7), (10_000_000_000, 0)] {
        let attr = fs
            .setattr(node, SetAttr::default().mtime(seconds, nanos))
            .expect("utimens");
        assert_eq!((attr.mtime as i64, attr.mtimensec), (seconds, nanos));
        assert_like_host(&attr, &stat());
        let mtime = (stat().mtime(), stat().mtime_nsec());
        let attr = fs
            .setattr(node, SetAttr::default().atime(seconds, nanos))
            .expect("utimens");
        assert_eq!((attr.atime as i64, attr.atimensec), (seconds, nanos));
        assert_eq!((stat().mtime(), stat().mtime_nsec()), mtime, "mtime stays");
    }
    fs.setattr(node, SetAttr::default().mtime_now()).expect("touch");
    assert!(stat().mtime() > 1_600_000_000 && stat().mtime() < 4_000_000_000);

    for size in [3, 0, 100_000, 1 << 40] {
        let attr = fs.setattr(node, SetAttr::default().size(size)).expect("truncate");
        assert_eq!((attr.size, stat().size()), (size, size));
    }
    let file = fs.open(node, libc::O_RDWR).expect("OPEN");
    let attr = fs
        .setattr(node, SetAttr::default().size(5).handle(file.fh))
        .expect("ftruncate");
    assert_eq!((attr.size, stat().size()), (5, 5));
}

#[test]
fn impossible_values_are_errors() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    for size in [1 << 63, u64::MAX, i64::MAX as u64] {
        let errno = fs
            .setattr(node, SetAttr::default().size(size))
            .expect_err("truncate");
        assert!(
            matches!(errno, Errno::EINVAL | Errno::EFBIG),
            "{size:#x}: {errno}"
        );
    }
    for nanos in [
        1_000_000_000,
        u32::MAX,
        libc::UTIME_NOW as u32,
        libc::UTIME_OMIT as u32,
    ] {
        let change = SetAttr::default().mtime(1, nanos);
        assert_eq!(fs.setattr(node, change).map(drop), Err(Errno::EINVAL), "{nanos}");
    }
    for seconds in [i64::MIN, i64::MAX, u32::MAX.into()] {
        // The file system clamps what it cannot keep; the daemon must only survive.
        let _ = fs.setattr(
            node,
            SetAttr::default().mtime(seconds, 0).atime(seconds, 999_999_999),
        );
    }
    let attr = fs.getattr(node).expect("GETATTR");
    assert_eq!(attr.size, 4);
}

#[test]
fn the_roots_own_attributes_change() {
    let (daemon, fs) = started();
    let attr = fs.setattr(ROOT, SetAttr::default().mode(0o1777)).expect("chmod");
    assert_eq!(attr.perm(), 0o1777);
    let attr = fs
        .setattr(ROOT, SetAttr::default().uid(11).gid(22))
        .expect("chown");
    assert_eq!((attr.uid, attr.gid), (11, 22));
    fs.setattr(ROOT, SetAttr::default().mtime(1, 2)).expect("utimens");
    let meta = fs::metadata(daemon.share()).expect("stat");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1777, 11, 22));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1, 2));
}

#[test]
fn a_symbolic_links_own_attributes_change() {
    let (daemon, fs) = started();
    fs::write(daemon.host("target"), "text").expect("write");
    symlink("target", daemon.host("link")).expect("symlink");
    let before = fs::metadata(daemon.host("target")).expect("stat");
    let link = fs.lookup(ROOT, "link").expect("LOOKUP").nodeid;
    let attr = fs
        .setattr(link, SetAttr::default().uid(7).gid(8))
        .expect("lchown");
    assert_eq!((attr.uid, attr.gid), (7, 8));
    let attr = fs.setattr(link, SetAttr::default().mtime(5, 6)).expect("utimens");
    assert_eq!((attr.mtime, attr.mtimensec), (5, 6));
    assert!(fs.setattr(link, SetAttr::default().size(0)).is_err());
    assert!(fs.open(link, libc::O_RDONLY).is_err());
    let after = fs::metadata(daemon.host("target")).expect("stat");
    assert_eq!(
        (after.uid(), after.mtime(), after.size()),
        (before.uid(), before.mtime(), 4)
    );
}

#[test]
fn setattr_is_the_callers_right_or_not() {
    // The guest's kernel checks permissions (default_permissions); what the daemon must do is to act on exactly
    // the node it is told and to keep the owner as it was.
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let attr = fs
        .as_user(1000, 1000)
        .setattr(node, SetAttr::default().mode(0o600))
        .expect("chmod");
    assert_eq!((attr.perm(), attr.uid), (0o600, 0));
}

#[test]
fn access_is_left_to_the_guests_kernel() {
    // A virtio-fs mount checks permissions itself; ENOSYS tells others to do so too.
    let (_daemon, fs) = started();
    assert_eq!(fs.access(ROOT, libc::R_OK as u32), Err(Errno::ENOSYS));
}

#[test]
fn statfs_is_the_hosts() {
    let (daemon, fs) = started();
    let host = nix::sys::statvfs::statvfs(daemon.share()).expect("statvfs");
    let found = fs.statfs(ROOT).expect("STATFS");
    assert_eq!(found.blocks, host.blocks());
    assert_eq!(found.files, host.files());
    assert_eq!(u64::from(found.frsize), host.fragment_size());
    assert_eq!(u64::from(found.bsize), host.block_size());
    assert_eq!(u64::from(found.namelen), host.name_max());
}

#[test]
fn unknown_nodes_are_stale() {
    let (_daemon, fs) = started();
    for node in [2, 1 << 40, u64::MAX] {
        let file = Opened {
            node,
            fh: 1,
            open_flags: 0,
        };
        assert_eq!(fs.getattr(node).map(drop), Err(Errno::ESTALE));
        assert_eq!(fs.statx(node, None, 0x7ff).map(drop), Err(Errno::ESTALE));
        assert_eq!(
            fs.setattr(node, SetAttr::default().mode(0)).map(drop),
            Err(Errno::ESTALE)
        );
        assert_eq!(
            fs.setattr(node, SetAttr::default().size(0)).map(drop),
            Err(Errno::ESTALE)
        );
        assert_eq!(fs.readlink(node), Err(Errno::ESTALE));
        assert_eq!(fs.open(node, libc::O_RDONLY).map(drop), Err(Errno::ESTALE));
        assert_eq!(fs.opendir(node).map(drop), Err(Errno::ESTALE));
        assert_eq!(fs.statfs(node).map(drop), Err(Errno::ESTALE));
        assert_eq!(fs.link(node, ROOT, "new").map(drop), Err(Errno::ESTALE));
        assert_eq!(fs.syncfs(node), Err(Errno::ESTALE));
        assert_eq!(
            fs.tmpfile(node, libc::O_RDWR, 0o600).map(drop),
            Err(Errno::ESTALE)
        );
        // A handle without its file's node is nothing either.
        assert_eq!(fs.read(file, 0, 1), Err(Errno::EBADF));
    }
}

/// A program of user 1000, writable by all, on which setuid and setgid are set.
fn set_up_program(path: &std::path::Path) {
    fs::write(path, vec![1; 10_000]).expect("write");
    std::os::unix::fs::chown(path, Some(1000), Some(1000)).expect("chown");
    fs::set_permissions(path, fs::Permissions::from_mode(0o6777)).expect("chmod");
}

fn permissions(path: &std::path::Path) -> u32 {
    fs::metadata(path).expect("stat").permissions().mode() & 0o7777
}

#[test]
fn a_users_write_clears_setuid_and_roots_does_not() {
    // Without KILLPRIV_V2 the guest's kernel clears the bits itself, but not where it does not cache.
    for options in [
        &["--cache=auto"][..],
        &["--cache=never"],
        &["--killpriv-v2"],
        &["--no-donate"],
        &["--no-donate", "--killpriv-v2"],
    ] {
        let (daemon, fs) = Daemon::with_client(options);
        let path = daemon.host("program");
        set_up_program(&path);
        let node = fs.lookup(ROOT, "program").expect("LOOKUP").nodeid;
        let file = fs.open(node, libc::O_RDWR).expect("OPEN");
        assert_eq!(permissions(&path), 0o6777, "OPEN changes nothing");
        // Large enough for whichever way the data takes.
        for size in [1, 200_000] {
            set_up_program(&path);
            fs.write_killing(file, 0, &vec![2; size]).expect("WRITE");
            assert_eq!(permissions(&path), 0o777, "a user's {size} bytes, {options:?}");
            set_up_program(&path);
            fs.write(file, 0, &vec![2; size]).expect("WRITE");
            assert_eq!(permissions(&path), 0o6777, "root's {size} bytes, {options:?}");
        }
    }
}

#[test]
fn truncating_and_chown_clear_setuid_when_they_should() {
    let (daemon, fs) = Daemon::with_client(["--killpriv-v2"]);
    let path = daemon.host("program");
    set_up_program(&path);
    let node = fs.lookup(ROOT, "program").expect("LOOKUP").nodeid;
    fs.setattr(node, SetAttr::default().size(5).kill_suidgid())
        .expect("truncate");
    assert_eq!(permissions(&path), 0o777, "a truncation by a user");
    set_up_program(&path);
    fs.setattr(node, SetAttr::default().size(5)).expect("truncate");
    assert_eq!(permissions(&path), 0o6777, "a truncation by root");
    fs.setattr(node, SetAttr::default().uid(1001).gid(1001))
        .expect("chown");
    assert_eq!(permissions(&path), 0o777, "chown, even by root");
    set_up_program(&path);
    let flags = libc::O_RDWR | libc::O_TRUNC;
    fs.open_with(node, flags, open_in::KILL_SUIDGID).expect("OPEN");
    assert_eq!(permissions(&path), 0o777, "O_TRUNC by a user");
    set_up_program(&path);
    fs.open(node, flags).expect("OPEN");
    assert_eq!(permissions(&path), 0o6777, "O_TRUNC by root");
}

#[test]
fn without_killpriv_the_guests_kernel_decides_what_chown_clears() {
    let (daemon, fs) = Daemon::with_client(["--cache=auto"]);
    let path = daemon.host("program");
    set_up_program(&path);
    let node = fs.lookup(ROOT, "program").expect("LOOKUP").nodeid;
    // As overlayfs copies an owner up: nobody may lose setuid by that.
    fs.setattr(node, SetAttr::default().uid(1001).gid(1001))
        .expect("chown");
    assert_eq!(permissions(&path), 0o6777);
    assert_eq!(fs::metadata(&path).expect("stat").uid(), 1001);
    fs.setattr(node, SetAttr::default().uid(1002).mode(0o777))
        .expect("chown");
    assert_eq!(permissions(&path), 0o777);
}

#[test]
fn setuid_given_to_an_open_file_is_kept_and_cleared_as_any() {
    let (daemon, fs) = Daemon::with_client(["--killpriv-v2"]);
    let path = daemon.host("program");
    let (entry, file) = fs.create(ROOT, "program", libc::O_RDWR, 0o777).expect("CREATE");
    // Written before, so that its data has found its way.
    fs.write(file, 0, &vec![1; 200_000]).expect("WRITE");
    fs.setattr(entry.nodeid, SetAttr::default().mode(0o6777))
        .expect("chmod");
    fs.write(file, 0, &vec![2; 200_000]).expect("WRITE");
    assert_eq!(permissions(&path), 0o6777, "root's write");
    fs.write_killing(file, 0, &vec![3; 200_000]).expect("WRITE");
    assert_eq!(permissions(&path), 0o777, "a user's write");
    fs.setattr(entry.nodeid, SetAttr::default().mode(0o4711))
        .expect("chmod");
    fs.write(file, 0, b"text").expect("WRITE");
    assert_eq!(permissions(&path), 0o4711, "root's write");
}
