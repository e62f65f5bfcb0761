//! `--uid`, `--gid`, `--mode`, `--umask`, `--fmask`, `--dmask`, `--default-uid` and
//! `--default-gid`: every operation shows the guest the same, and the host keeps its own values.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Command;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{Attr, ROOT};
use airlockfs_tests::fuse::{Client, SetAttr};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;

/// Mode, owner and group.
type Seen = (u32, u32, u32);

fn seen(attr: &Attr) -> Seen {
    (attr.mode, attr.uid, attr.gid)
}

/// What each way to ask says of a name in the root; all must agree.
fn every_way(fs: &Client, name: &str) -> Seen {
    let entry = fs.lookup(ROOT, name).expect("LOOKUP");
    let expected = seen(&entry.attr);
    assert_eq!(
        seen(&fs.getattr(entry.nodeid).expect("GETATTR")),
        expected,
        "{name}"
    );
    let stat = |handle| {
        let stat = fs
            .statx(entry.nodeid, handle, libc::STATX_BASIC_STATS)
            .expect("STATX");
        (u32::from(stat.mode), stat.uid, stat.gid)
    };
    assert_eq!(stat(None), expected, "{name}");
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let listed = fs.readdirplus_all(dir, 4096).expect("READDIRPLUS");
    let listed = listed.iter().find(|item| item.dirent.name == name.as_bytes());
    assert_eq!(seen(&listed.expect("listed").entry.attr), expected, "{name}");
    if expected.0 & libc::S_IFMT == libc::S_IFREG {
        let file = fs.open(entry.nodeid, libc::O_RDONLY).expect("OPEN");
        // Twice, and more than fits the ring at once: its descriptor is the supervisor's now, if it may be.
        for _ in 0..2 {
            fs.read(file, 0, 100_000).expect("READ");
        }
        assert_eq!(
            seen(&fs.getattr_fh(entry.nodeid, file.fh).expect("GETATTR")),
            expected
        );
        assert_eq!(stat(Some(file.fh)), expected, "{name}");
        fs.release(file).expect("RELEASE");
    }
    expected
}

fn host(daemon: &Daemon, name: &str) -> Seen {
    let meta = fs::symlink_metadata(daemon.host(name)).expect("stat");
    (meta.mode(), meta.uid(), meta.gid())
}

/// A file and a directory of user 12 and group 34, and a link.
fn share(options: &[&str]) -> (Daemon, Client) {
    let daemon = Daemon::start(options);
    fs::write(daemon.host("file"), vec![7; 100_000]).expect("write");
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    symlink("file", daemon.host("link")).expect("symlink");
    for (name, mode) in [("file", 0o6754), ("dir", 0o3775)] {
        chown(daemon.host(name), Some(12), Some(34)).expect("chown");
        fs::set_permissions(daemon.host(name), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let client = daemon.client();
    (daemon, client)
}

const FILE: u32 = libc::S_IFREG;
const DIR: u32 = libc::S_IFDIR;

#[test]
fn everything_belongs_to_the_user_and_group_that_are_said() {
    let (daemon, fs) = share(&["--uid=500", "--gid=600"]);
    // Nobody gets rights by a program whose owner is only shown.
    assert_eq!(every_way(&fs, "file"), (FILE | 0o754, 500, 600));
    assert_eq!(every_way(&fs, "dir"), (DIR | 0o3775, 500, 600));
    assert_eq!(every_way(&fs, "link"), (libc::S_IFLNK | 0o777, 500, 600));
    let root = fs.getattr(ROOT).expect("GETATTR");
    assert_eq!((root.uid, root.gid), (500, 600));

    let user = fs.as_user(7, 8);
    fs::set_permissions(daemon.share(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let (made, _) = user.create(ROOT, "new", libc::O_RDWR, 0o6711).expect("CREATE");
    assert_eq!(seen(&made.attr), (FILE | 0o711, 500, 600));
    assert_eq!(
        host(&daemon, "new"),
        (FILE | 0o711, 7, 8),
        "on the host it is the caller's"
    );
    let made = user.mkdir(ROOT, "new dir", 0o755).expect("MKDIR");
    assert_eq!(seen(&made.attr), (DIR | 0o755, 500, 600));

    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    for change in [
        SetAttr::default().uid(501),
        SetAttr::default().gid(34),
        SetAttr::default().uid(500).gid(0),
        SetAttr::default().uid(501).mode(0o700).size(0),
    ] {
        assert_eq!(
            fs.setattr(node, change).map(drop),
            Err(Errno::EPERM),
            "{change:?}"
        );
    }
    let same = SetAttr::default().uid(500).gid(600).mode(0o4700);
    assert_eq!(
        seen(&fs.setattr(node, same).expect("SETATTR")),
        (FILE | 0o700, 500, 600)
    );
    assert_eq!(
        host(&daemon, "file"),
        (FILE | 0o6700, 12, 34),
        "what is not seen stays"
    );
}

#[test]
fn one_of_the_two_ids_may_be_said_alone() {
    let (daemon, fs) = share(&["--uid=500"]);
    assert_eq!(every_way(&fs, "file"), (FILE | 0o2754, 500, 34));
    let node = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
    fs.setattr(node, SetAttr::default().gid(35)).expect("chgrp");
    assert_eq!(
        fs.setattr(node, SetAttr::default().uid(35)).map(drop),
        Err(Errno::EPERM)
    );
    assert_eq!(host(&daemon, "dir"), (DIR | 0o3775, 12, 35));
}

#[test]
fn everything_has_the_permissions_that_are_said_and_chmod_to_others_is_refused() {
    for option in ["--mode=751", "--mode=0751", "--mode=0o751"] {
        let (daemon, fs) = share(&[option]);
        assert_eq!(every_way(&fs, "file"), (FILE | 0o751, 12, 34));
        assert_eq!(every_way(&fs, "dir"), (DIR | 0o751, 12, 34));
        assert_eq!(every_way(&fs, "link").0, libc::S_IFLNK | 0o777);
        let (made, _) = fs.create(ROOT, "new", libc::O_RDWR, 0o600).expect("CREATE");
        assert_eq!(made.attr.mode, FILE | 0o751);
        assert_eq!(host(&daemon, "new").0, FILE | 0o600);
        let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
        let refused = SetAttr::default().mode(0o750).uid(1);
        assert_eq!(fs.setattr(node, refused).map(drop), Err(Errno::EPERM));
        fs.setattr(node, SetAttr::default().mode(0o751)).expect("chmod");
        assert_eq!(host(&daemon, "file"), (FILE | 0o6754, 12, 34));
    }
}

#[test]
fn masked_permissions_are_neither_seen_nor_set_nor_lost() {
    for (options, file, dir) in [
        (&["--umask=7027"][..], 0o750, 0o750),
        (&["--umask=77", "--fmask=0133"], 0o6644, 0o3700),
        (&["--umask=77", "--dmask=0o22"], 0o6700, 0o3755),
        (&["--fmask=111", "--mode=777"], 0o666, 0o777),
    ] {
        let (daemon, fs) = share(options);
        assert_eq!(every_way(&fs, "file").0, FILE | file, "{options:?}");
        assert_eq!(every_way(&fs, "dir").0, DIR | dir, "{options:?}");
        assert_eq!(every_way(&fs, "link").0, libc::S_IFLNK | 0o777);
        drop(daemon);
    }
    let (daemon, fs) = share(&["--fmask=033", "--dmask=022"]);
    let (made, _) = fs.create(ROOT, "new", libc::O_RDWR, 0o666).expect("CREATE");
    assert_eq!(
        (made.attr.mode, host(&daemon, "new").0),
        (FILE | 0o644, FILE | 0o644)
    );
    let made = fs.mkdir(ROOT, "made", 0o777).expect("MKDIR");
    assert_eq!(
        (made.attr.mode, host(&daemon, "made").0),
        (DIR | 0o755, DIR | 0o755)
    );
    let made = fs.mknod(ROOT, "fifo", libc::S_IFIFO | 0o666, 0).expect("MKNOD");
    assert_eq!(made.attr.mode, libc::S_IFIFO | 0o644);
    let dir = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
    let changed = fs.setattr(dir, SetAttr::default().mode(0o707)).expect("chmod");
    assert_eq!(changed.mode, DIR | 0o705);
    assert_eq!(host(&daemon, "dir").0, DIR | 0o725, "the group's hidden w stays");
}

#[test]
fn host_owners_without_an_id_in_the_guest_are_shown_as_the_default() {
    let (daemon, fs) = share(&[
        "--translate-uid=map:0:1000:10",
        "--translate-gid=map:0:1000:10",
        "--default-uid=99",
        "--default-gid=98",
    ]);
    assert_eq!(every_way(&fs, "file"), (FILE | 0o754, 99, 98));
    chown(daemon.host("file"), Some(1003), Some(1004)).expect("chown");
    fs::set_permissions(daemon.host("file"), fs::Permissions::from_mode(0o6754)).expect("chmod");
    assert_eq!(every_way(&fs, "file"), (FILE | 0o6754, 3, 4));
    drop(daemon);

    // In a user namespace the kernel shows what is outside as nobody's.
    let daemon = Launch::airlockfs()
        .args(["--uid-map=:0:200000:1000:", "--gid-map=:0:200000:1000:"])
        .args(["--default-uid=99", "--default-gid=98"])
        .start();
    for (name, id) in [("outside", 12), ("inside", 200_007)] {
        fs::write(daemon.host(name), "").expect("write");
        chown(daemon.host(name), Some(id), Some(id)).expect("chown");
    }
    let fs = daemon.client();
    let owner = |name: &str| {
        let attr = fs.lookup(ROOT, name).expect("LOOKUP").attr;
        (attr.uid, attr.gid)
    };
    assert_eq!((owner("outside"), owner("inside")), ((99, 98), (7, 7)));
}

#[test]
fn an_ordinary_users_daemon_serves_a_guests_user_as_the_owner_of_everything() {
    let daemon = Launch::airlockfs()
        .user(1000)
        .args(["--uid=501", "--gid=502"])
        .start();
    let fs = daemon.client().as_user(501, 502);
    let (made, file) = fs.create(ROOT, "new", libc::O_RDWR, 0o4755).expect("CREATE");
    assert_eq!(seen(&made.attr), (FILE | 0o755, 501, 502));
    assert_eq!(fs.write(file, 0, b"text"), Ok(4));
    assert_eq!(host(&daemon, "new"), (FILE | 0o755, 1000, 1000));
    // Without the options nobody here could be that user.
    let plain = Launch::airlockfs().user(1000).start();
    let refused = plain
        .client()
        .as_user(501, 502)
        .create(ROOT, "new", libc::O_RDWR, 0o600);
    assert_eq!(refused.map(drop), Err(Errno::EOVERFLOW));
}

#[test]
fn programs_see_it_on_a_mount() {
    let daemon = Daemon::start(["-o", "uid=500,gid=600,fmask=0133,dmask=022"]);
    let mount = TempDir::new().expect("a mount point");
    let bridge = Bridge::mount(daemon.socket(), &mount, &BridgeConfig::default()).expect("mount");
    fs::write(mount.join("file"), "text").expect("write");
    fs::create_dir(mount.join("dir")).expect("mkdir");
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .current_dir(&mount)
            .output()
            .expect(program);
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (_, said) = run("stat", &["-c", "%a %u %g", "file", "dir"]);
    assert_eq!(said, "644 500 600\n755 500 600\n");
    let (done, said) = run("chown", &["0:0", "file"]);
    assert!(!done && said.contains("not permitted"), "{said}");
    assert!(run("chown", &["500:600", "file"]).0);
    assert!(run("chmod", &["600", "file"]).0);
    assert_eq!(
        fs::metadata(daemon.host("file")).expect("stat").mode() & 0o7777,
        0o600
    );
    bridge.unmount().expect("unmount");
}

#[test]
fn what_makes_no_sense_is_refused() {
    for option in [
        "--mode=788",
        "--mode=4755",
        "--mode=rwx",
        "--mode=0x1ff",
        "--umask=10000",
        "--fmask=-1",
        "--dmask=",
        "--uid=-1",
        "--uid=4294967295",
        "--gid=users",
        "--default-uid=1e3",
        "--default-gid=0x0",
    ] {
        let failed = Launch::airlockfs().args([option]).try_start().expect("a program");
        let failed = failed.map(drop).expect_err(option);
        assert_eq!(failed.status.code(), Some(64), "{option}");
        let name = option.split('=').next().expect("a name");
        assert!(
            failed.log.iter().any(|line| line.contains(name)),
            "{option}: {:?}",
            failed.log
        );
    }
    for twice in [
        ["--uid=0", "--uid=1"],
        ["-ouid=0", "--uid=1"],
        ["--posix-acl", "--mode=755"],
    ] {
        let failed = Launch::airlockfs().args(twice).try_start().expect("a program");
        assert_eq!(
            failed.map(drop).expect_err("twice").status.code(),
            Some(64),
            "{twice:?}"
        );
    }
}
