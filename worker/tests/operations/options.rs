//! What the command line changes.

use std::fs;

use airlockfs_ipc::{
    Errno, NodeId,
    message::{AttrChange, IdRange, IdRangeKind, Reply, Request, Sandbox, XattrName},
};

use crate::client::{ROOT, Scratch, USER, Worker, config, creation, name_of, share};

#[test]
fn a_read_only_share_refuses_every_change_and_its_own_errors_first() {
    for per_share in [false, true] {
        let scratch = Scratch::new();
        fs::write(scratch.path("f"), "content").unwrap();
        fs::create_dir(scratch.path("d")).unwrap();
        let mut worker = Worker::on(scratch, |config| {
            config.readonly = !per_share;
            config.shares[0].readonly = per_share;
        });
        let root = NodeId::ROOT;
        let (file, directory) = (worker.node("f"), worker.node("d"));
        let change = AttrChange {
            mode: Some(0o777),
            ..AttrChange::default()
        };
        assert_eq!(worker.setattr(file, change), Err(Errno::EROFS));
        assert_eq!(worker.setattr(NodeId(77), change), Err(Errno::ESTALE));
        assert_eq!(worker.mkdir(root, "x"), Err(Errno::EROFS));
        assert_eq!(worker.mkdir(file, "x"), Err(Errno::ENOTDIR));
        assert_eq!(worker.mkdir(NodeId(77), "x"), Err(Errno::ESTALE));
        assert_eq!(worker.unlink(root, "f"), Err(Errno::EROFS));
        assert_eq!(worker.rmdir(root, "d"), Err(Errno::EROFS));
        assert_eq!(worker.rename((root, "f"), (directory, "f"), 0), Err(Errno::EROFS));
        let link = Request::Link {
            node: file,
            new_parent: directory,
            new_name: name_of("x"),
        };
        assert_eq!(worker.call(&link), Err(Errno::EROFS));
        let mknod = Request::Mknod {
            parent: root,
            name: name_of("x"),
            rdev: 0,
            creation: creation(ROOT, libc::S_IFIFO, 0),
        };
        assert_eq!(worker.call(&mknod), Err(Errno::EROFS));
        let temporary = Request::TmpFile {
            parent: root,
            flags: libc::O_RDWR as u32,
            creation: creation(ROOT, 0o600, 0),
        };
        assert_eq!(worker.call(&temporary), Err(Errno::EROFS));
        let name = XattrName::new(b"user.x").unwrap();
        let set = Request::SetXattr {
            node: file,
            name,
            size: 1,
            flags: 0,
            acl_kill_sgid: false,
        };
        assert_eq!(worker.call_with(&set, b"x"), Err(Errno::EROFS));
        assert_eq!(
            worker.call(&Request::RemoveXattr { node: file, name }),
            Err(Errno::EROFS)
        );
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
            assert_eq!(worker.open(file, flags), Err(Errno::EROFS));
        }
        assert_eq!(worker.create("none", libc::O_RDONLY, 0o600), Err(Errno::EROFS));
        assert_eq!(worker.create("f", libc::O_EXCL, 0o600), Err(Errno::EEXIST));
        assert_eq!(worker.create("f", libc::O_RDWR, 0o600), Err(Errno::EROFS));
        let (entry, handle) = worker.create("f", libc::O_RDONLY, 0o600).unwrap();
        assert_eq!(entry.node, file);
        assert_eq!(worker.read(handle, 0, 100).unwrap(), b"content");
        assert_eq!(worker.write(handle, 0, b"x"), Err(Errno::EBADF));
        assert_eq!(fs::read(worker.path("f")).unwrap(), b"content");
        let sync = Request::SyncFs { node: root };
        assert_eq!(worker.call(&sync), Ok(Reply::Done));
    }
}

#[test]
fn several_directories_under_one_tag() {
    let scratch = Scratch::new();
    for name in ["a", "b"] {
        fs::create_dir(scratch.path(name)).unwrap();
        fs::write(scratch.path(name).join("f"), name).unwrap();
    }
    fs::write(scratch.path("outside"), "").unwrap();
    let shares = vec![
        share(&scratch.path("a"), Some("first"), false),
        share(&scratch.path("b"), Some("second"), true),
    ];
    let mut worker = Worker::with(scratch, config(shares)).unwrap();
    let root = NodeId::ROOT;
    let attr = worker.getattr(root).unwrap();
    assert_eq!(attr.mode, libc::S_IFDIR | 0o555);
    for name in ["a", "f", "outside"] {
        assert_eq!(worker.lookup(root, name), Err(Errno::ENOENT), "{name}");
    }
    let first = worker.lookup(root, "first").unwrap();
    let second = worker.lookup(root, "second").unwrap();
    assert!(first.attr.submount && second.attr.submount);
    let handle = worker.opendir(root).unwrap();
    for plus in [false, true] {
        let listed = worker.list(handle, plus);
        let names: Vec<&str> = listed.iter().map(|entry| &entry.name[..]).collect();
        assert_eq!(names, [".", "..", "first", "second"]);
        assert_eq!(
            listed[2].entry.map(|entry| entry.node),
            plus.then_some(first.node)
        );
    }
    let (one, two) = (worker.node("first/f"), worker.node("second/f"));
    assert_ne!(one, two);
    // Nothing is made or removed at the top, and nothing crosses.
    assert_eq!(worker.mkdir(root, "x"), Err(Errno::EROFS));
    assert_eq!(worker.create("x", libc::O_RDWR, 0o600), Err(Errno::EROFS));
    assert_eq!(worker.rmdir(root, "first"), Err(Errno::EROFS));
    let change = AttrChange {
        mode: Some(0o777),
        ..AttrChange::default()
    };
    assert_eq!(worker.setattr(root, change), Err(Errno::EROFS));
    assert_eq!(worker.rename((root, "first"), (root, "x"), 0), Err(Errno::EROFS));
    assert_eq!(worker.mkdir(second.node, "x"), Err(Errno::EROFS));
    assert_eq!(worker.open(two, libc::O_RDWR), Err(Errno::EROFS));
    assert!(worker.open(one, libc::O_RDWR).is_ok());
    assert!(worker.mkdir(first.node, "x").is_ok());
    assert!(matches!(
        worker.call(&Request::StatFs { node: root }),
        Ok(Reply::StatFs(_))
    ));
    assert_eq!(worker.call(&Request::SyncFs { node: root }), Ok(Reply::Done));
    worker.forget(first.node, u64::MAX);
    assert_eq!(worker.call(&Request::Reset), Ok(Reply::Done));
    assert_eq!(worker.lookup(root, "first").unwrap().node, first.node);
}

#[test]
fn nothing_crosses_from_one_directory_to_another() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("a/nested")).unwrap();
    fs::write(scratch.path("a/nested/f"), "").unwrap();
    let shares = vec![
        share(&scratch.path("a"), Some("outer"), true),
        share(&scratch.path("a/nested"), Some("inner"), false),
    ];
    let mut worker = Worker::with(scratch, config(shares)).unwrap();
    let (outer, inner) = (worker.node("outer/nested"), worker.node("inner"));
    // The same inodes, in two shares with different rights.
    let (closed, open) = (worker.node("outer/nested/f"), worker.node("inner/f"));
    assert_ne!(closed, open);
    assert_eq!(worker.open(closed, libc::O_RDWR), Err(Errno::EROFS));
    assert!(worker.open(open, libc::O_RDWR).is_ok());
    let link = Request::Link {
        node: closed,
        new_parent: inner,
        new_name: name_of("x"),
    };
    assert_eq!(worker.call(&link), Err(Errno::EXDEV));
    assert_eq!(worker.rename((outer, "f"), (inner, "g"), 0), Err(Errno::EXDEV));
}

#[test]
fn inode_numbers_differ_whether_or_not_shares_are_announced_as_mounts() {
    for announced in [false, true] {
        inode_numbers_differ(announced);
    }
}

fn inode_numbers_differ(announced: bool) {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("a")).unwrap();
    fs::write(scratch.path("a/f"), "").unwrap();
    let mut config = config(vec![
        share(&scratch.path("a"), Some("one"), false),
        share(&scratch.path("a"), Some("two"), false),
    ]);
    config.announce_submounts = announced;
    let mut worker = Worker::with(scratch, config).unwrap();
    let (one, two) = (worker.node("one/f"), worker.node("two/f"));
    let (one, two) = (worker.getattr(one).unwrap(), worker.getattr(two).unwrap());
    assert!(one.ino != two.ino && !one.submount);
    for (name, attr) in [("one", one), ("two", two)] {
        let share = worker.lookup(NodeId::ROOT, name).unwrap();
        assert_eq!(share.attr.submount, announced);
        let handle = worker.opendir(share.node).unwrap();
        let listed = worker.list(handle, false);
        assert!(
            listed
                .iter()
                .any(|listed| listed.name == "f" && listed.ino == attr.ino)
        );
    }
}

#[test]
fn a_single_file_is_shared() {
    let scratch = Scratch::new();
    fs::write(scratch.path("f"), "alone").unwrap();
    fs::write(scratch.path("g"), "").unwrap();
    let shares = vec![share(&scratch.path("f"), Some("shown"), false)];
    let mut worker = Worker::with(scratch, config(shares)).unwrap();
    let file = worker.node("shown");
    let handle = worker.open(file, libc::O_RDWR).unwrap();
    assert_eq!(worker.read(handle, 0, 10).unwrap(), b"alone");
    worker.write(handle, 0, b"A").unwrap();
    assert_eq!(fs::read(worker.path("f")).unwrap(), b"Alone");
    assert_eq!(worker.lookup(NodeId::ROOT, "g"), Err(Errno::ENOENT));
    assert_eq!(worker.lookup(file, "x"), Err(Errno::ENOTDIR));
    let handle = worker.opendir(NodeId::ROOT).unwrap();
    let listed = worker.list(handle, false);
    assert_eq!((listed.len(), listed[2].kind), (3, libc::DT_REG));
}

#[test]
fn ids_are_translated_both_ways() {
    let range = |kind, from, to, count| IdRange {
        kind,
        from,
        to,
        count,
    };
    let mut worker = Worker::start(|config| {
        config.uid_map = vec![
            range(IdRangeKind::ForbidGuest, 13, 0, 1),
            range(IdRangeKind::Map, 1000, 51_000, 10),
        ];
        config.gid_map = vec![range(IdRangeKind::SquashGuest, 0, 52_000, u32::MAX)];
    });
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    fs::set_permissions(worker.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    let (file, _) = worker
        .create_as(USER, NodeId::ROOT, "f", libc::O_RDWR, 0o600, 0)
        .unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (1000, 52_000));
    let host = fs::metadata(worker.path("f")).unwrap();
    assert_eq!((host.uid(), host.gid()), (51_000, 52_000));
    let forbidden = airlockfs_ipc::message::Caller { uid: 13, ..USER };
    let refused = worker.create_as(forbidden, NodeId::ROOT, "g", libc::O_RDWR, 0o600, 0);
    assert_eq!(refused, Err(Errno::EPERM));
    let change = AttrChange {
        uid: Some(1009),
        ..AttrChange::default()
    };
    assert_eq!(worker.setattr(file.node, change).unwrap().uid, 1009);
    assert_eq!(fs::metadata(worker.path("f")).unwrap().uid(), 51_009);
    let change = AttrChange {
        uid: Some(13),
        ..AttrChange::default()
    };
    assert_eq!(worker.setattr(file.node, change), Err(Errno::EPERM));
}

#[test]
fn a_changed_root_directory_serves_the_same() {
    let mut worker = Worker::start(|config| config.sandbox = Sandbox::Chroot);
    fs::create_dir(worker.path("d")).unwrap();
    let directory = worker.node("d");
    let (_, handle) = worker
        .create_as(ROOT, directory, "f", libc::O_RDWR, 0o600, 0)
        .unwrap();
    worker.write(handle, 0, b"x").unwrap();
    assert_eq!(fs::read(worker.path("d/f")).unwrap(), b"x");
    assert_eq!(worker.root(), worker.path("").canonicalize().unwrap());
}

#[test]
fn what_cannot_be_served_is_said() {
    let start = |change: &dyn Fn(&mut airlockfs_ipc::message::WorkerConfig)| {
        let scratch = Scratch::new();
        let mut config = config(vec![share(&scratch.path(""), None, false)]);
        change(&mut config);
        Worker::with(scratch, config).err().unwrap()
    };
    let message = start(&|config| config.xattr_map = Some(":ok:client:::".into()));
    assert!(message.contains("--xattrmap"), "{message}");
    let message = start(&|config| config.max_descriptors = 3);
    assert!(message.contains("--rlimit-nofile"), "{message}");
    let message = start(&|config| config.shares[0].identity.1 += 1);
    assert!(!message.is_empty());
    let message = start(&|config| config.shares[0].path.extend(b"/none"));
    assert!(!message.is_empty());
}
