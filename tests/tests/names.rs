//! Names: each is one component, node ids are stable, lookups are counted, and errors are Linux's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::fuse::{Client, Outcome, SessionConfig, SetAttr};
use airlockfs_tests::vmm::HIPRIO;
use nix::errno::Errno;

fn started() -> (Daemon, Client) {
    Daemon::with_client(["--tag", "names"])
}

type NameOp = (&'static str, fn(&Client, u64, &[u8]) -> Result<(), Errno>);

/// Every operation with a name, and `old` as the name that exists where two are needed.
const NAME_OPS: &[NameOp] = &[
    ("LOOKUP", |fs, dir, name| fs.lookup(dir, name).map(drop)),
    ("CREATE", |fs, dir, name| {
        fs.create(dir, name, libc::O_RDWR, 0o644).map(drop)
    }),
    ("MKDIR", |fs, dir, name| fs.mkdir(dir, name, 0o755).map(drop)),
    ("MKNOD", |fs, dir, name| {
        fs.mknod(dir, name, libc::S_IFREG | 0o644, 0).map(drop)
    }),
    ("SYMLINK", |fs, dir, name| {
        fs.symlink(dir, name, "target").map(drop)
    }),
    ("LINK", |fs, dir, name| {
        let old = fs.lookup(ROOT, "old").expect("LOOKUP").nodeid;
        fs.link(old, dir, name).map(drop)
    }),
    ("UNLINK", |fs, dir, name| fs.unlink(dir, name)),
    ("RMDIR", |fs, dir, name| fs.rmdir(dir, name)),
    ("RENAME from", |fs, dir, name| fs.rename(dir, name, ROOT, "new")),
    ("RENAME to", |fs, dir, name| fs.rename(ROOT, "old", dir, name)),
    ("RENAME2 from", |fs, dir, name| {
        fs.rename2(dir, name, ROOT, "new", libc::RENAME_NOREPLACE)
    }),
    ("RENAME2 to", |fs, dir, name| {
        fs.rename2(ROOT, "old", dir, name, libc::RENAME_NOREPLACE)
    }),
    ("RENAME2 swap", |fs, dir, name| {
        fs.rename2(ROOT, "old", dir, name, libc::RENAME_EXCHANGE)
    }),
];

#[test]
fn a_name_is_one_component() {
    let (daemon, fs) = started();
    fs::write(daemon.host("old"), "old").expect("write");
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    fs::write(daemon.host("dir/inner"), "inner").expect("write");
    let long = [b'n'; 256];
    let huge = [b'n'; 4000];
    for (op, run) in NAME_OPS {
        for name in [
            "",
            ".",
            "..",
            "/",
            "a/b",
            "dir/inner",
            "dir/../old",
            "/etc/passwd",
            "old/",
        ] {
            // A LOOKUP of the dots takes no way anywhere: the root is its own inode and has none above it.
            let known = *op == "LOOKUP" && matches!(name, "." | "..");
            let expected = if known { Ok(()) } else { Err(Errno::EINVAL) };
            assert_eq!(run(&fs, ROOT, name.as_bytes()), expected, "{op} {name:?}");
            if known {
                assert_eq!(fs.lookup(ROOT, name).expect("LOOKUP").nodeid, ROOT);
            }
        }
        for name in [&long[..], &huge[..]] {
            assert_eq!(
                run(&fs, ROOT, name),
                Err(Errno::ENAMETOOLONG),
                "{op} {}",
                name.len()
            );
        }
    }
    let mut left: Vec<_> = fs::read_dir(daemon.share())
        .expect("list")
        .map(|e| e.expect("entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["dir", "old"]);
    assert_eq!(
        fs::read_to_string(daemon.host("dir/inner")).expect("read"),
        "inner"
    );
}

#[test]
fn any_byte_but_slash_and_nul_makes_a_name() {
    let (daemon, fs) = started();
    let all: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
    for name in [&[b'n'; 255][..], b"...", b" ", b"\n", b"\xff\xfe", b"-rf", &all] {
        let (entry, file) = fs.create(ROOT, name, libc::O_RDWR, 0o644).expect("CREATE");
        fs.write(file, 0, name).expect("WRITE");
        assert_eq!(fs.lookup(ROOT, name).expect("LOOKUP").nodeid, entry.nodeid);
        let path = std::ffi::OsStr::from_encoded_bytes(name);
        assert_eq!(fs::read(daemon.host(path)).expect("on the host"), name);
        fs.unlink(ROOT, name).expect("UNLINK");
    }
}

/// `OsStr` of any bytes, safely on Unix.
trait FromEncoded {
    fn from_encoded_bytes(bytes: &[u8]) -> &std::ffi::OsStr;
}

impl FromEncoded for std::ffi::OsStr {
    fn from_encoded_bytes(bytes: &[u8]) -> &std::ffi::OsStr {
        std::os::unix::ffi::OsStrExt::from_bytes(bytes)
    }
}

#[test]
fn an_unknown_parent_is_stale() {
    let (daemon, fs) = started();
    fs::write(daemon.host("old"), "old").expect("write");
    for (op, run) in NAME_OPS {
        for parent in [2_000_000_000, u64::MAX] {
            assert_eq!(run(&fs, parent, b"name"), Err(Errno::ESTALE), "{op} in {parent}");
        }
    }
}

#[test]
fn a_file_is_no_parent() {
    let (daemon, fs) = started();
    fs::write(daemon.host("old"), "old").expect("write");
    fs::write(daemon.host("file"), "file").expect("write");
    let file = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    for (op, run) in NAME_OPS {
        assert_eq!(run(&fs, file, b"name"), Err(Errno::ENOTDIR), "{op}");
    }
}

#[test]
fn what_is_in_the_way_is_told_as_linux_does() {
    let (daemon, fs) = started();
    fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    let (file, _) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    fs.mkdir(ROOT, "full", 0o755).expect("MKDIR");
    fs::write(daemon.host("full/x"), "x").expect("write");
    let dir = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;

    assert_eq!(fs.lookup(ROOT, "none").map(drop), Err(Errno::ENOENT));
    assert_eq!(fs.mkdir(ROOT, "file", 0o755).map(drop), Err(Errno::EEXIST));
    assert_eq!(fs.mkdir(ROOT, "dir", 0o755).map(drop), Err(Errno::EEXIST));
    assert_eq!(
        fs.mknod(ROOT, "file", libc::S_IFREG, 0).map(drop),
        Err(Errno::EEXIST)
    );
    assert_eq!(fs.symlink(ROOT, "file", "x").map(drop), Err(Errno::EEXIST));
    assert_eq!(fs.link(file.nodeid, ROOT, "dir").map(drop), Err(Errno::EEXIST));
    assert_eq!(fs.link(dir, ROOT, "dir2").map(drop), Err(Errno::EPERM));
    assert_eq!(fs.unlink(ROOT, "none"), Err(Errno::ENOENT));
    assert_eq!(fs.unlink(ROOT, "dir"), Err(Errno::EISDIR));
    assert_eq!(fs.rmdir(ROOT, "none"), Err(Errno::ENOENT));
    assert_eq!(fs.rmdir(ROOT, "file"), Err(Errno::ENOTDIR));
    assert_eq!(fs.rmdir(ROOT, "full"), Err(Errno::ENOTEMPTY));
    assert_eq!(fs.rename(ROOT, "none", ROOT, "new"), Err(Errno::ENOENT));
    assert_eq!(fs.rename(ROOT, "file", ROOT, "dir"), Err(Errno::EISDIR));
    assert_eq!(fs.rename(ROOT, "dir", ROOT, "file"), Err(Errno::ENOTDIR));
    assert_eq!(fs.rename(ROOT, "dir", ROOT, "full"), Err(Errno::ENOTEMPTY));
    assert_eq!(fs.rename(ROOT, "dir", dir, "inside"), Err(Errno::EINVAL));
    assert!(fs.readlink(file.nodeid).is_err());
    let excl = libc::O_RDWR | libc::O_EXCL;
    assert_eq!(fs.create(ROOT, "file", excl, 0o644).map(drop), Err(Errno::EEXIST));
    assert_eq!(
        fs.create(ROOT, "dir", libc::O_RDWR, 0o644).map(drop),
        Err(Errno::EISDIR)
    );
}

#[test]
fn each_sighting_but_a_listing_counts_one_lookup() {
    let (daemon, fs) = started();
    fs::write(daemon.host("seen"), "text").expect("write");

    let seen = fs.lookup(ROOT, "seen").expect("LOOKUP").nodeid;
    assert_eq!(fs.lookup(ROOT, "seen").expect("LOOKUP").nodeid, seen);
    fs.forget(seen, 1);
    assert!(fs.stays_known(seen), "one of two lookups is left");
    fs.forget(seen, 1);
    assert!(fs.is_forgotten(seen));

    let made = [
        fs.create(ROOT, "created", libc::O_RDWR, 0o644)
            .map(|(entry, file)| {
                fs.release(file).expect("RELEASE");
                entry
            }),
        fs.mkdir(ROOT, "dir", 0o755),
        fs.mknod(ROOT, "node", libc::S_IFREG | 0o644, 0),
        fs.symlink(ROOT, "link", "target"),
    ];
    for entry in made {
        let node = entry.expect("creation").nodeid;
        assert!(fs.stays_known(node));
        fs.forget(node, 1);
        assert!(fs.is_forgotten(node));
    }

    let first = fs.lookup(ROOT, "seen").expect("LOOKUP").nodeid;
    assert_eq!(fs.link(first, ROOT, "hard").expect("LINK").nodeid, first);
    fs.forget(first, 1);
    assert!(fs.stays_known(first), "LINK counts too");
    fs.forget(first, 1);
    assert!(fs.is_forgotten(first));
    fs::remove_file(daemon.host("hard")).expect("remove");

    let root = fs.opendir(ROOT).expect("OPENDIR");
    let listed = fs.readdirplus_all(root, 4096).expect("READDIRPLUS");
    assert_eq!(listed.len(), 7);
    for item in listed {
        if item.dirent.name != b"." && item.dirent.name != b".." {
            assert!(fs.stays_known(item.entry.nodeid), "{item:?}");
            fs.forget(item.entry.nodeid, 1);
            assert!(fs.is_forgotten(item.entry.nodeid), "{item:?}");
        }
    }
}

#[test]
fn forgetting_too_much_forgets_once() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "text").expect("write");
    for count in [2, 1 << 40, u64::MAX] {
        let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
        fs.forget(node, count);
        assert!(fs.is_forgotten(node));
        fs.forget(node, count);
        let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
        fs.batch_forget(&[(node, count), (node, count), (u64::MAX, 1), (0, 5)]);
        assert!(fs.is_forgotten(node));
    }
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    fs.forget(node, 0);
    assert!(fs.stays_known(node));
}

#[test]
fn forgets_in_numbers_are_all_done_though_few_of_them_kick() {
    const COUNT: u64 = 200;
    let (daemon, fs) = started();
    let nodes = (0..COUNT).map(|number| {
        let name = format!("file-{number}");
        fs::write(daemon.host(&name), "text").expect("write");
        fs.lookup(ROOT, &name).expect("LOOKUP").nodeid
    });
    let nodes: Vec<u64> = nodes.collect();
    fs.session().vmm().queue(HIPRIO).take_kicks_back();
    for node in &nodes {
        fs.forget(*node, 1);
        // Meanwhile the queue of the FORGETs has fallen asleep, most likely.
        fs.getattr(ROOT).expect("GETATTR");
    }
    assert!(nodes.iter().all(|node| fs.is_forgotten(*node)));
    let kicks = fs.session().vmm().queue(HIPRIO).take_kicks_back();
    assert!((1..COUNT / 2).contains(&kicks), "{kicks} kicks");
}

#[test]
fn the_root_is_never_forgotten() {
    let (_daemon, fs) = started();
    fs.forget(ROOT, 1);
    fs.forget(ROOT, u64::MAX);
    fs.batch_forget(&[(ROOT, 1), (ROOT, u64::MAX)]);
    fs.getattr(ROOT).expect("GETATTR");
    fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
}

#[test]
fn an_inode_is_one_node_by_whatever_name() {
    let (daemon, fs) = started();
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    fs::write(daemon.host("file"), "text").expect("write");
    fs::hard_link(daemon.host("file"), daemon.host("dir/hard")).expect("link");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    assert_eq!(fs.walk("dir/hard").expect("LOOKUP").nodeid, node);
    let (entry, _) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    assert_eq!(entry.nodeid, node);
    let root = fs.opendir(ROOT).expect("OPENDIR");
    let listed = fs.readdirplus_all(root, 4096).expect("READDIRPLUS");
    let item = listed.iter().find(|e| e.dirent.name == b"file").expect("listed");
    assert_eq!(item.entry.nodeid, node);
    fs::rename(daemon.host("file"), daemon.host("renamed by the host")).expect("rename");
    assert_eq!(
        fs.lookup(ROOT, "renamed by the host").expect("LOOKUP").nodeid,
        node
    );
}

#[test]
fn node_ids_are_not_used_again() {
    let (daemon, fs) = started();
    let mut seen = std::collections::HashSet::from([ROOT]);
    for i in 0..50 {
        let name = format!("file{i}");
        fs::write(daemon.host(&name), "").expect("write");
        let node = fs.lookup(ROOT, &name).expect("LOOKUP").nodeid;
        assert!(seen.insert(node), "node id {node} was used before");
        fs.forget(node, 1);
        fs::remove_file(daemon.host(&name)).expect("remove");
    }
}

#[test]
fn create_without_excl_opens_what_is_there() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "already here").expect("write");
    fs::set_permissions(daemon.host("file"), fs::Permissions::from_mode(0o640)).expect("chmod");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let (entry, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o777).expect("CREATE");
    assert_eq!(entry.nodeid, node);
    assert_eq!(entry.attr.perm(), 0o640);
    assert_eq!(fs.read(file, 0, 100).expect("READ"), b"already here");
    let flags = libc::O_RDWR | libc::O_TRUNC;
    let (entry, file) = fs.create(ROOT, "file", flags, 0o777).expect("CREATE");
    assert_eq!((entry.nodeid, entry.attr.size), (node, 0));
    assert_eq!(fs.read(file, 0, 100).expect("READ"), b"");
}

#[test]
fn create_follows_no_link_and_opens_no_fifo() {
    let (daemon, fs) = started();
    symlink("target", daemon.host("link")).expect("symlink");
    symlink("/etc/passwd", daemon.host("outside")).expect("symlink");
    nix::unistd::mkfifo(&daemon.host("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
    for name in ["link", "outside", "fifo"] {
        for flags in [libc::O_RDWR, libc::O_RDONLY, libc::O_RDWR | libc::O_TRUNC] {
            assert!(fs.create(ROOT, name, flags, 0o644).is_err(), "{name} {flags:o}");
        }
    }
    assert!(!daemon.host("target").exists());
}

#[test]
fn rename_replaces_keeps_and_swaps() {
    let (daemon, fs) = started();
    let dir = fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR").nodeid;
    for name in ["a", "b", "c", "d"] {
        fs::write(daemon.host(name), name).expect("write");
    }
    let read = |path: &str| fs::read_to_string(daemon.host(path)).expect("read");
    fs.rename(ROOT, "a", dir, "a").expect("RENAME");
    assert_eq!(read("dir/a"), "a");
    fs.rename(ROOT, "b", dir, "a").expect("RENAME");
    assert_eq!(read("dir/a"), "b");
    assert_eq!(
        fs.rename2(ROOT, "c", dir, "a", libc::RENAME_NOREPLACE),
        Err(Errno::EEXIST)
    );
    fs.rename2(ROOT, "c", dir, "c", libc::RENAME_NOREPLACE)
        .expect("RENAME2");
    fs.rename2(ROOT, "d", dir, "a", libc::RENAME_EXCHANGE)
        .expect("RENAME2");
    assert_eq!((read("d"), read("dir/a")), ("b".into(), "d".into()));
    assert_eq!(
        fs.rename2(ROOT, "none", dir, "a", libc::RENAME_EXCHANGE),
        Err(Errno::ENOENT)
    );
    for flags in [libc::RENAME_EXCHANGE | libc::RENAME_NOREPLACE, 1 << 3, u32::MAX] {
        assert_eq!(
            fs.rename2(ROOT, "d", dir, "a", flags),
            Err(Errno::EINVAL),
            "{flags:#x}"
        );
    }
}

/// The guest's removal goes by the name; what the host put there meanwhile is nothing that the guest knows.
#[test]
fn what_the_host_put_in_place_of_a_removed_file_is_not_that_file() {
    let (daemon, fs) = started();
    let (name, other) = (daemon.host("known"), daemon.host("other"));
    let put_other = || {
        fs::write(&name, "known").expect("write");
        fs::write(&other, "other").expect("write");
        let node = fs.lookup(ROOT, "known").expect("LOOKUP").nodeid;
        fs::rename(&other, &name).expect("rename");
        node
    };
    let unlinked = put_other();
    fs.unlink(ROOT, "known").expect("UNLINK");
    let replaced = put_other();
    fs.create(ROOT, "new", libc::O_RDWR, 0o644).expect("CREATE");
    fs.rename(ROOT, "new", ROOT, "known").expect("RENAME");
    for node in [unlinked, replaced] {
        for _ in 0..2 {
            assert_eq!(fs.getattr(node).map(drop), Err(Errno::ESTALE));
            assert_eq!(fs.open(node, libc::O_RDWR).map(drop), Err(Errno::ESTALE));
            assert_eq!(
                fs.setattr(node, SetAttr::default().mode(0o777)).map(drop),
                Err(Errno::ESTALE)
            );
        }
    }
    // What is still there is found again, though its name stood for another when it should have been removed.
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    let dir = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
    fs::rename(daemon.host("dir"), daemon.host("away")).expect("rename");
    fs::create_dir_all(daemon.host("dir/full")).expect("mkdir");
    assert_eq!(fs.rmdir(ROOT, "dir"), Err(Errno::ENOTEMPTY));
    assert_eq!(fs.getattr(dir).map(drop), Err(Errno::ESTALE));
    fs::rename(daemon.host("dir"), daemon.host("full")).expect("rename");
    fs::rename(daemon.host("away"), daemon.host("dir")).expect("rename");
    assert!(fs.getattr(dir).is_ok());
}

#[test]
fn symbolic_links_hold_any_text() {
    let (daemon, fs) = started();
    let long = [b't'; 4095];
    for (name, target) in [("a", &b"../../etc/passwd"[..]), ("b", b"\xff\n "), ("c", &long)] {
        let entry = fs.symlink(ROOT, name, target).expect("SYMLINK");
        assert_eq!(entry.attr.kind(), libc::S_IFLNK);
        assert_eq!(entry.attr.size, target.len() as u64);
        assert_eq!(fs.readlink(entry.nodeid).expect("READLINK"), target);
        let on_host = fs::read_link(daemon.host(name)).expect("readlink");
        assert_eq!(on_host.as_os_str().as_encoded_bytes(), target);
    }
    assert_eq!(
        fs.symlink(ROOT, "d", [b't'; 4096]).map(drop),
        Err(Errno::ENAMETOOLONG)
    );
    assert_eq!(fs.symlink(ROOT, "e", "").map(drop), Err(Errno::ENOENT));
}

#[test]
fn what_is_made_is_the_callers() {
    let (daemon, fs) = started();
    fs::set_permissions(daemon.share(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let user = fs.as_user(1234, 5678);
    user.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    user.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    user.mknod(ROOT, "fifo", libc::S_IFIFO | 0o644, 0).expect("MKNOD");
    user.mknod(ROOT, "sock", libc::S_IFSOCK | 0o644, 0)
        .expect("MKNOD");
    user.symlink(ROOT, "link", "target").expect("SYMLINK");
    for name in ["file", "dir", "fifo", "sock", "link"] {
        let meta = fs::symlink_metadata(daemon.host(name)).expect("stat");
        assert_eq!((meta.uid(), meta.gid()), (1234, 5678), "{name}");
    }
}

#[test]
fn a_setgid_directory_hands_down_its_group() {
    let (daemon, fs) = started();
    let dir = fs.mkdir(ROOT, "dir", 0o777).expect("MKDIR").nodeid;
    std::os::unix::fs::chown(daemon.host("dir"), None, Some(777)).expect("chown");
    fs::set_permissions(daemon.host("dir"), fs::Permissions::from_mode(0o2777)).expect("chmod");
    let user = fs.as_user(1234, 5678);
    let (entry, _) = user.create(dir, "file", libc::O_RDWR, 0o644).expect("CREATE");
    assert_eq!((entry.attr.uid, entry.attr.gid), (1234, 777));
    let entry = user.mkdir(dir, "sub", 0o755).expect("MKDIR");
    assert_eq!((entry.attr.gid, entry.attr.perm()), (777, 0o2755));
}

#[test]
fn only_the_guests_umask_applies() {
    let daemon = airlockfs_tests::daemon::Launch::airlockfs().umask(0o077).start();
    let fs = daemon.client();
    let perm = |name: &str| {
        fs::symlink_metadata(daemon.host(name))
            .expect("stat")
            .permissions()
            .mode()
            & 0o7777
    };
    for umask in [0, 0o022, 0o027] {
        let fs = fs.with_umask(umask);
        fs.create(ROOT, "file", libc::O_RDWR, 0o666).expect("CREATE");
        fs.mkdir(ROOT, "dir", 0o777).expect("MKDIR");
        fs.mknod(ROOT, "fifo", libc::S_IFIFO | 0o666, 0).expect("MKNOD");
        assert_eq!(perm("file"), 0o666 & !umask);
        assert_eq!(perm("dir"), 0o777 & !umask);
        assert_eq!(perm("fifo"), 0o666 & !umask);
        fs.unlink(ROOT, "file").expect("UNLINK");
        fs.rmdir(ROOT, "dir").expect("RMDIR");
        fs.unlink(ROOT, "fifo").expect("UNLINK");
    }
}

#[test]
fn device_nodes_are_not_made_by_default() {
    let (daemon, fs) = started();
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        assert_eq!(
            fs.mknod(ROOT, "null", kind | 0o666, 0x103).map(drop),
            Err(Errno::EPERM)
        );
    }
    assert!(!daemon.host("null").exists());
    // What overlayfs leaves where it removed something is no device of anything.
    fs.mknod(ROOT, "whiteout", libc::S_IFCHR, 0)
        .expect("MKNOD of 0:0");
}

#[test]
fn device_nodes_are_made_where_they_are_allowed() {
    let (daemon, fs) = Daemon::with_client(["--allow-device-nodes"]);
    for (name, kind) in [("char", libc::S_IFCHR), ("block", libc::S_IFBLK)] {
        // 1:3, in the kernel's encoding.
        fs.mknod(ROOT, name, kind | 0o666, 0x103).expect("MKNOD");
        let made = fs::symlink_metadata(daemon.host(name)).expect("stat");
        assert_eq!((made.mode() & libc::S_IFMT, made.rdev()), (kind, 0x103), "{name}");
    }
}

/// A client that forgets all it knew in one request: longer than any other, and on whatever queue.
#[test]
fn a_batch_of_forgets_of_any_length_is_done_and_counted() {
    use airlockfs_tests::fuse::abi::{BATCH_FORGET, BatchForgetIn, ForgetOne};
    use zerocopy::IntoBytes;

    const KNOWN: usize = 300;
    const RECORDS: usize = 400_000;
    let daemon = Daemon::start(["--num-request-queues=2"]);
    let config = SessionConfig {
        room: 16 + 64 + RECORDS * size_of::<ForgetOne>(),
        ..SessionConfig::default()
    };
    let fs = daemon.connect_with(&config);
    fs.init().expect("INIT");
    for i in 0..KNOWN {
        fs::write(daemon.host(format!("file{i}")), "").expect("write");
    }
    let batch = |records: &[ForgetOne], count: usize| {
        let head = BatchForgetIn {
            count: count as u32,
            dummy: 0,
        };
        let parts: [&[u8]; 2] = [head.as_bytes(), records.as_bytes()];
        fs.session().call(1, fs.header(BATCH_FORGET, 0), &parts, 0)
    };
    // The shortest that is taken in pieces, one of no whole number of pieces, and a long one.
    for records in [4608, 4609, 9_001, RECORDS] {
        let nodes: Vec<u64> = (0..KNOWN)
            .map(|i| {
                let name = format!("file{i}");
                fs.lookup(ROOT, &name).expect("LOOKUP");
                fs.lookup(ROOT, &name).expect("LOOKUP").nodeid
            })
            .collect();
        let mut all = vec![
            ForgetOne {
                nodeid: 1 << 40,
                nlookup: 1
            };
            records
        ];
        // Spread over all of it, the first and the last record among them; one lookup of each is left.
        for (i, &nodeid) in nodes.iter().enumerate() {
            all[i * (records - 1) / (KNOWN - 1)] = ForgetOne { nodeid, nlookup: 1 };
        }
        assert_eq!(batch(&all, records), Outcome::Empty, "{records}");
        // In the lane behind all of its pieces.
        assert!(fs.lookup(ROOT, "file0").is_ok());
        for &node in &nodes {
            assert!(fs.getattr(node).is_ok(), "{records}");
        }
        assert_eq!(batch(&all, records), Outcome::Empty);
        for &node in &nodes[1..] {
            assert!(fs.is_forgotten(node), "{records}");
        }
        fs.forget(nodes[0], 1);
        assert!(fs.is_forgotten(nodes[0]), "{records}");
    }
    // A count that is not the records' is refused whole.
    let node = fs.lookup(ROOT, "file1").expect("LOOKUP").nodeid;
    let all = vec![
        ForgetOne {
            nodeid: node,
            nlookup: 1
        };
        10_000
    ];
    for wrong in [0, 1, 9_999, 10_001, u32::MAX as usize, 1 << 28 | 10_000] {
        assert_eq!(batch(&all, wrong), Outcome::Empty);
    }
    assert!(fs.stays_known(node));
    assert_eq!(batch(&all, all.len()), Outcome::Empty);
    assert!(fs.is_forgotten(node));
}
