//! Bugs found in OpenVMM's virtiofs, by name. airlockfs has none of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{GETXATTR, GetxattrIn, LISTXATTR, READ, READDIR, ROOT, ReadIn};
use airlockfs_tests::fuse::{Client, Outcome, SetAttr};
use airlockfs_tests::mount::Mount;
use airlockfs_tests::procfs::Process;
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknod};
use zerocopy::IntoBytes;

fn started() -> (Daemon, Client) {
    Daemon::with_client(["--tag", "bugs"])
}

#[test]
fn lookup_beneath_a_symlink_does_not_follow_it_on_the_host() {
    let (daemon, fs) = started();
    symlink("/etc", daemon.host("etc")).expect("symlink");
    symlink("/etc/passwd", daemon.host("passwd")).expect("symlink");
    symlink(".", daemon.host("here")).expect("symlink");
    fs::write(daemon.host("file"), "text").expect("write");
    for (name, beneath) in [("etc", "passwd"), ("passwd", "x"), ("here", "file")] {
        let link = fs.lookup(ROOT, name).expect("LOOKUP");
        assert_eq!(link.attr.kind(), libc::S_IFLNK);
        assert_eq!(fs.lookup(link.nodeid, beneath).map(drop), Err(Errno::ENOTDIR));
        assert!(fs.open(link.nodeid, libc::O_RDONLY).is_err());
        assert!(fs.opendir(link.nodeid).is_err());
        let created = fs.create(link.nodeid, "new", libc::O_RDWR, 0o644);
        assert_eq!(created.map(drop), Err(Errno::ENOTDIR));
    }
}

#[test]
fn chmod_of_a_symlink_leaves_its_target_alone() {
    let (daemon, fs) = started();
    fs::write(daemon.host("target"), "text").expect("write");
    fs::set_permissions(daemon.host("target"), fs::Permissions::from_mode(0o644)).expect("chmod");
    symlink("target", daemon.host("link")).expect("symlink");
    let link = fs.lookup(ROOT, "link").expect("LOOKUP").nodeid;
    // Linux links have no permissions of their own.
    assert_eq!(
        fs.setattr(link, SetAttr::default().mode(0o777)).map(drop),
        Err(Errno::EOPNOTSUPP)
    );
    let meta = fs::metadata(daemon.host("target")).expect("stat");
    assert_eq!(meta.mode() & 0o7777, 0o644);
}

#[test]
fn a_device_is_never_opened_on_the_host() {
    let (daemon, fs) = Daemon::with_client(["--allow-device-nodes"]);
    // Made by the guest, and by the host: the memory's, to see that nothing is read of it.
    let made = fs
        .mknod(ROOT, "guest", libc::S_IFCHR | 0o666, 0x105)
        .expect("MKNOD");
    mknod(&daemon.host("host"), SFlag::S_IFCHR, Mode::S_IRWXU, 0x105).expect("mknod");
    let node = fs.lookup(ROOT, "host").expect("LOOKUP").nodeid;
    for node in [made.nodeid, node] {
        for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_RDWR | libc::O_NONBLOCK] {
            assert!(fs.open(node, flags).is_err());
        }
    }
    for name in ["guest", "host"] {
        assert!(fs.create(ROOT, name, libc::O_RDWR, 0o644).is_err());
    }
}

#[test]
fn opening_a_fifo_or_socket_blocks_nothing() {
    let (daemon, fs) = started();
    nix::unistd::mkfifo(&daemon.host("fifo"), Mode::S_IRWXU).expect("mkfifo");
    let _listener = std::os::unix::net::UnixListener::bind(daemon.host("socket")).expect("bind");
    for name in ["fifo", "socket"] {
        let node = fs.lookup(ROOT, name).expect("LOOKUP").nodeid;
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
            assert!(fs.open(node, flags).is_err(), "{name}");
        }
        assert!(fs.setattr(node, SetAttr::default().size(0)).is_err());
        fs.getattr(node).expect("GETATTR");
    }
}

#[test]
fn forgetting_the_root_and_destroying_is_survived() {
    let (_daemon, fs) = started();
    for _ in 0..3 {
        fs.forget(ROOT, u64::MAX);
        fs.forget(ROOT, 1);
        fs.destroy().expect("DESTROY");
        fs.init().expect("INIT");
        fs.getattr(ROOT).expect("GETATTR");
    }
}

#[test]
fn extreme_times_are_survived() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    for seconds in [i64::MIN, i64::MAX, -1, 1 << 62, 9_223_372_037, -9_223_372_037] {
        for nanos in [0, 999_999_999, 1_000_000_000, u32::MAX] {
            let _ = fs.setattr(node, SetAttr::default().mtime(seconds, nanos));
            let _ = fs.setattr(node, SetAttr::default().atime(seconds, nanos));
            fs.getattr(node).expect("GETATTR");
        }
    }
}

/// The most memory any process of the daemon ever had, in KiB.
fn peak_memory(daemon: &Daemon) -> u64 {
    let tree = Process::open(daemon.supervisor().pid())
        .and_then(Process::tree)
        .expect("tree");
    tree.iter()
        .map(|process| {
            let text = process.status("VmHWM").expect("VmHWM");
            text.trim_end_matches(" kB").parse::<u64>().expect("a number")
        })
        .sum()
}

#[test]
fn sizes_up_to_four_gib_are_not_allocated() {
    let (daemon, fs) = Daemon::with_client(["--xattr"]);
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    fs.setattr(file.node, SetAttr::default().size(8 << 30))
        .expect("truncate");
    fs.setxattr(file.node, "user.a", b"value", 0).expect("SETXATTR");
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let before = peak_memory(&daemon);
    for size in [u32::MAX, 1 << 31, 1 << 30, 64 << 20] {
        let read = ReadIn {
            fh: file.fh,
            size,
            ..ReadIn::default()
        };
        let list = ReadIn {
            fh: dir.fh,
            size,
            ..ReadIn::default()
        };
        let name = [GetxattrIn { size, padding: 0 }.as_bytes(), b"user.a\0"].concat();
        for room in [0, 4096, 1 << 20] {
            for (opcode, node, body) in [
                (READ, file.node, read.as_bytes()),
                (READDIR, ROOT, list.as_bytes()),
                (GETXATTR, file.node, &name),
                (LISTXATTR, file.node, &name[..8]),
            ] {
                let outcome = fs.raw(opcode, node, body, room);
                let Outcome::Reply { body, .. } = &outcome else {
                    panic!("{outcome:?}")
                };
                assert!(body.len() <= room);
            }
        }
    }
    let grown = peak_memory(&daemon) - before;
    assert!(grown < 64 << 10, "the daemon grew by {grown} KiB");
}

fn mount_tmpfs(at: &std::path::Path) -> Mount {
    fs::create_dir_all(at).expect("mkdir");
    Mount::tmpfs(at).expect("mount")
}

#[test]
fn equal_inode_numbers_on_two_file_systems_are_two_nodes() {
    let home = TempDir::new().expect("a directory");
    let share = home.join("share");
    let _mounts = [mount_tmpfs(&share.join("one")), mount_tmpfs(&share.join("two"))];
    for name in ["one", "two"] {
        fs::write(share.join(name).join("file"), name).expect("write");
    }
    let ino = |path: &str| fs::metadata(share.join(path)).expect("stat").ino();
    assert_eq!(ino("one"), ino("two"), "the case is what it should be");
    assert_eq!(ino("one/file"), ino("two/file"));
    let daemon = Launch::airlockfs().share(&share).start();
    let fs = daemon.client();
    let (one, two) = (
        fs.walk("one/file").expect("LOOKUP"),
        fs.walk("two/file").expect("LOOKUP"),
    );
    assert_ne!(one.nodeid, two.nodeid);
    for (entry, text) in [(one, "one"), (two, "two")] {
        let file = fs.open(entry.nodeid, libc::O_RDONLY).expect("OPEN");
        assert_eq!(fs.read(file, 0, 10).expect("READ"), text.as_bytes());
    }
    let (one, two) = (fs.walk("one").expect("LOOKUP"), fs.walk("two").expect("LOOKUP"));
    assert_ne!(one.nodeid, two.nodeid);
    // Across file systems neither links nor renames go.
    let file = fs.lookup(one.nodeid, "file").expect("LOOKUP").nodeid;
    assert_eq!(fs.link(file, two.nodeid, "new").map(drop), Err(Errno::EXDEV));
    assert_eq!(
        fs.rename(one.nodeid, "file", two.nodeid, "new"),
        Err(Errno::EXDEV)
    );
}

#[test]
fn a_mount_that_comes_later_is_another_file_system() {
    let home = TempDir::new().expect("a directory");
    let share = home.join("share");
    fs::create_dir_all(share.join("mount")).expect("mkdir");
    // Propagation, as on most hosts, whatever this one does.
    let _bound = Mount::shared(&share).expect("a shared mount");
    let daemon = Launch::airlockfs().share(&share).start();
    let fs = daemon.client();
    let before = fs.lookup(ROOT, "mount").expect("LOOKUP");
    {
        let _mounted = mount_tmpfs(&share.join("mount"));
        fs::write(share.join("mount/file"), "text").expect("write");
        let mounted = fs.lookup(ROOT, "mount").expect("LOOKUP");
        assert_ne!(mounted.nodeid, before.nodeid);
        let entry = fs.lookup(mounted.nodeid, "file").expect("LOOKUP");
        let file = fs.open(entry.nodeid, libc::O_RDONLY).expect("OPEN");
        assert_eq!(fs.read(file, 0, 10).expect("READ"), b"text");
    }
    // Detached: the directory beneath is back.
    assert_eq!(fs.lookup(ROOT, "mount").expect("LOOKUP").nodeid, before.nodeid);
}

#[test]
fn a_renamed_node_is_still_the_same_file() {
    let (daemon, fs) = started();
    let dir = fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR").nodeid;
    let sub = fs.mkdir(dir, "sub", 0o755).expect("MKDIR").nodeid;
    for name in ["file", "other"] {
        fs::write(daemon.host(name), name).expect("write");
    }
    fs::write(daemon.host("dir/sub/deep"), "deep").expect("write");
    let file = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let other = fs.lookup(ROOT, "other").expect("LOOKUP").nodeid;
    let deep = fs.lookup(sub, "deep").expect("LOOKUP").nodeid;
    let text = |node: u64| {
        let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
        String::from_utf8(fs.read(file, 0, 100).expect("READ")).expect("text")
    };

    fs.rename(ROOT, "file", dir, "moved").expect("RENAME");
    assert_eq!(text(file), "file");
    // Its old name is another file's now.
    fs::write(daemon.host("file"), "new").expect("write");
    assert_eq!(text(file), "file");
    assert_ne!(fs.lookup(ROOT, "file").expect("LOOKUP").nodeid, file);
    // Replaced: the node is the file without a name.
    fs.rename(ROOT, "other", dir, "moved").expect("RENAME");
    assert_eq!((text(file), text(other)), ("file".into(), "other".into()));
    // A directory above moves, on the guest's word or the host's.
    fs.rename(ROOT, "dir", ROOT, "renamed").expect("RENAME");
    assert_eq!(text(deep), "deep");
    fs::rename(daemon.host("renamed/sub"), daemon.host("sub")).expect("rename");
    assert_eq!(text(deep), "deep");
    fs.create(sub, "made in the moved directory", libc::O_RDWR, 0o644)
        .expect("CREATE");
    assert!(daemon.host("sub/made in the moved directory").exists());
    // Swapped.
    fs.rename2(ROOT, "file", sub, "deep", libc::RENAME_EXCHANGE)
        .expect("RENAME2");
    assert_eq!(text(deep), "deep");
    assert_eq!(fs.lookup(ROOT, "file").expect("LOOKUP").nodeid, deep);
}

#[test]
fn an_unlinked_file_is_served_by_its_node() {
    let (daemon, fs) = started();
    let (entry, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    fs.write(file, 0, b"text").expect("WRITE");
    fs.unlink(ROOT, "file").expect("UNLINK");
    fs.getattr(entry.nodeid).expect("GETATTR");
    fs.setattr(entry.nodeid, SetAttr::default().mode(0o600))
        .expect("chmod");
    fs.setattr(entry.nodeid, SetAttr::default().mtime(5, 5))
        .expect("utimens");
    let attr = fs
        .setattr(entry.nodeid, SetAttr::default().size(2))
        .expect("truncate");
    assert_eq!((attr.size, attr.perm(), attr.nlink), (2, 0o600, 0));
    let second = fs.open(entry.nodeid, libc::O_RDWR).expect("OPEN");
    assert_eq!(fs.read(second, 0, 10).expect("READ"), b"te");
    assert_eq!(fs::read_dir(daemon.share()).expect("list").count(), 0);
}

#[test]
fn the_shares_root_changes_its_mode() {
    let (daemon, fs) = started();
    fs.setattr(ROOT, SetAttr::default().mode(0o700)).expect("chmod");
    assert_eq!(fs::metadata(daemon.share()).expect("stat").mode() & 0o7777, 0o700);
}

#[test]
fn readdir_counts_no_lookups() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    for _ in 0..5 {
        assert_eq!(fs.readdir(dir, 0, 4096).expect("READDIR").len(), 3);
    }
    fs.forget(node, 1);
    assert!(fs.is_forgotten(node));
}

#[test]
fn trees_deeper_than_path_max_are_walked_and_changed() {
    let (_daemon, fs) = started();
    let name = "d".repeat(200);
    let mut nodes = vec![ROOT];
    for _ in 0..60 {
        nodes.push(
            fs.mkdir(nodes[nodes.len() - 1], &name, 0o755)
                .expect("MKDIR")
                .nodeid,
        );
    }
    let deepest = nodes[nodes.len() - 1];
    let (entry, file) = fs.create(deepest, "file", libc::O_RDWR, 0o644).expect("CREATE");
    fs.write(file, 0, b"deep").expect("WRITE");
    fs.rename(deepest, "file", nodes[1], "file").expect("RENAME");
    fs.link(entry.nodeid, deepest, "hard").expect("LINK");
    fs.setattr(entry.nodeid, SetAttr::default().mode(0o600))
        .expect("chmod");
    // Once more from the top, as after a drop of the guest's caches.
    fs.release(file).expect("RELEASE");
    fs.forget(entry.nodeid, 2);
    for node in &nodes[1..] {
        fs.forget(*node, 1);
    }
    let mut node = ROOT;
    for _ in 0..60 {
        node = fs.lookup(node, &name).expect("LOOKUP").nodeid;
    }
    let entry = fs.lookup(node, "hard").expect("LOOKUP");
    let file = fs.open(entry.nodeid, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(file, 0, 10).expect("READ"), b"deep");
    let dir = fs.opendir(node).expect("OPENDIR");
    assert_eq!(fs.readdirplus_all(dir, 4096).expect("READDIRPLUS").len(), 3);
    fs.unlink(node, "hard").expect("UNLINK");
}

#[test]
fn setuid_does_not_survive_a_users_write_though_the_server_is_root() {
    let (daemon, fs) = started();
    let (entry, file) = fs.create(ROOT, "program", libc::O_RDWR, 0o755).expect("CREATE");
    for size in [1, 200_000] {
        fs.setattr(entry.nodeid, SetAttr::default().mode(0o6755))
            .expect("chmod");
        fs.as_user(1000, 1000)
            .write_killing(file, 0, &vec![1; size])
            .expect("WRITE");
        let mode = fs::metadata(daemon.host("program")).expect("stat").mode();
        assert_eq!(mode & 0o7777, 0o755, "{size} bytes");
    }
}

#[test]
fn the_hosts_umask_is_not_applied_on_top_of_the_guests() {
    let daemon = Launch::airlockfs().umask(0o077).start();
    let fs = daemon.client().with_umask(0o002);
    fs.create(ROOT, "file", libc::O_RDWR, 0o666).expect("CREATE");
    fs.mkdir(ROOT, "dir", 0o777).expect("MKDIR");
    for (name, mode) in [("file", 0o664), ("dir", 0o775)] {
        let found = fs::metadata(daemon.host(name)).expect("stat").mode();
        assert_eq!(found & 0o7777, mode, "{name}");
    }
}

#[test]
fn a_mode_on_the_command_line_is_octal() {
    let (daemon, fs) = Daemon::with_client(["--mode=755"]);
    fs::write(daemon.host("file"), "text").expect("write");
    assert_eq!(fs.lookup(ROOT, "file").expect("LOOKUP").attr.perm(), 0o755);
}
