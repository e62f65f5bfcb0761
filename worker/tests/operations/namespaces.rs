//! The worker in its namespaces, as in production.

use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
};

use airlockfs_ipc::{
    Errno, Handle, NodeId,
    message::{Reply, Request, Sandbox, WorkerConfig},
};
use airlockfs_policy::{IdMapRange, UserNamespace};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{
    client::{ROOT, Scratch, USER, Worker, config, name_of, share},
    spawn::Who,
};

fn namespaced(scratch: &Scratch) -> WorkerConfig {
    let mut config = config(vec![share(&scratch.path(""), None, false)]);
    config.sandbox = Sandbox::Namespace;
    config
}

/// A mount on the host, for as long as the value lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(at: &'a Path) -> Self {
        let none = MsFlags::empty();
        mount(Some("tmpfs"), at, Some("tmpfs"), none, Some("size=1m")).unwrap();
        Self(at)
    }

    /// The directory itself, with mounts beneath it shared as systemd shares all of the host's.
    fn shared(at: &'a Path) -> Self {
        let nothing = None::<&str>;
        mount(Some(at), at, nothing, MsFlags::MS_BIND, nothing).unwrap();
        mount(nothing, at, nothing, MsFlags::MS_SHARED, nothing).unwrap();
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn every_kind_of_inode_is_made_used_and_removed() {
    let scratch = Scratch::new();
    let config = namespaced(&scratch);
    let mut worker = Worker::with(scratch, config).unwrap();
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        assert!(
            worker.report.namespaces.iter().any(|own| own == namespace),
            "{namespace}"
        );
    }
    let directory = worker.mkdir(NodeId::ROOT, "d").unwrap().node;
    let (file, handle) = worker
        .create_as(USER, directory, "f", libc::O_RDWR, 0o640, 0)
        .unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (1000, 1001));
    worker.write(handle, 0, b"text").unwrap();
    worker.release(handle).unwrap();
    worker.rename((directory, "f"), (NodeId::ROOT, "g"), 0).unwrap();
    let handle = worker.open(file.node, libc::O_RDONLY).unwrap();
    assert_eq!(worker.read(handle, 0, 10).unwrap(), b"text");
    let link = Request::Link {
        node: file.node,
        new_parent: directory,
        new_name: name_of("h"),
    };
    assert!(worker.call(&link).is_ok());
    let listing = worker.opendir(directory).unwrap();
    assert_eq!(worker.list(listing, true).len(), 3);
    worker.unlink(NodeId::ROOT, "g").unwrap();
    worker.unlink(directory, "h").unwrap();
    worker.rmdir(NodeId::ROOT, "d").unwrap();
    assert_eq!(fs::read_dir(worker.path("")).unwrap().count(), 0);
    assert_eq!(
        worker.call(&Request::SyncFs { node: NodeId::ROOT }),
        Ok(Reply::Done)
    );
    assert_eq!(worker.end(), (0, String::new()));
}

#[test]
fn mounts_that_come_and_go_are_seen_and_told_apart() {
    let scratch = Scratch::new();
    let top = scratch.path("");
    let _top = Mounted::shared(&top);
    let (before, after) = (scratch.path("before"), scratch.path("after"));
    fs::create_dir(&before).unwrap();
    fs::create_dir(&after).unwrap();
    fs::write(after.join("beneath"), "").unwrap();
    let _before = Mounted::tmpfs(&before);
    let config = namespaced(&scratch);
    let mut worker = Worker::with(scratch, config).unwrap();
    let found = worker.lookup(NodeId::ROOT, "before").unwrap();
    assert!(found.attr.submount);
    assert!(worker.getattr(found.node).unwrap().submount);
    assert!(!worker.mkdir(found.node, "inner").unwrap().attr.submount);
    let covered = worker.lookup(NodeId::ROOT, "after").unwrap();
    assert!(!covered.attr.submount);

    let mounted = Mounted::tmpfs(&after);
    fs::write(after.join("above"), "volume").unwrap();
    let found = worker.lookup(NodeId::ROOT, "after").unwrap();
    assert!(found.attr.submount && found.node != covered.node);
    let file = worker.lookup(found.node, "above").unwrap();
    let handle = worker.open(file.node, libc::O_RDWR).unwrap();
    assert_eq!(worker.read(handle, 0, 10).unwrap(), b"volume");
    let here = worker.rename((NodeId::ROOT, "before"), (found.node, "x"), 0);
    assert!(
        [Err(Errno::EXDEV), Err(Errno::raw(libc::EBUSY))].contains(&here),
        "{here:?}"
    );
    let listing = worker.opendir(NodeId::ROOT).unwrap();
    let listed = worker.list(listing, true);
    let submounts = listed
        .iter()
        .filter(|listed| listed.entry.is_some_and(|entry| entry.attr.submount));
    assert_eq!(submounts.count(), 2);

    // Detached while in use: what is open goes on, the name is what was covered.
    drop(mounted);
    assert_eq!(worker.read(handle, 0, 10).unwrap(), b"volume");
    let uncovered = worker.lookup(NodeId::ROOT, "after").unwrap();
    assert_eq!(uncovered.node, covered.node);
    assert!(worker.lookup(uncovered.node, "beneath").is_ok());
    worker.release(handle).unwrap();
}

#[test]
fn a_mount_that_nobody_uses_can_be_unmounted() {
    let scratch = Scratch::new();
    let top = scratch.path("");
    let _top = Mounted::shared(&top);
    let volume = scratch.path("volume");
    fs::create_dir(&volume).unwrap();
    let mounted = Mounted::tmpfs(&volume);
    let config = namespaced(&scratch);
    let mut worker = Worker::with(scratch, config).unwrap();
    let root = worker.node("volume");
    let directory = worker.mkdir(root, "d").unwrap().node;
    let (file, handle) = worker
        .create_as(ROOT, directory, "f", libc::O_RDWR, 0o600, 0)
        .unwrap();
    let unmount = || umount2(mounted.0, MntFlags::empty());
    assert_eq!(unmount(), Err(nix::errno::Errno::EBUSY), "a file is open");
    worker.release(handle).unwrap();
    // The guest's kernel still knows all of it; only the worker lets go, after a while.
    while let Err(error) = unmount() {
        assert_eq!(error, nix::errno::Errno::EBUSY);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(worker.getattr(file.node), Err(Errno::ESTALE));
    assert_eq!(worker.lookup(root, "d"), Err(Errno::ESTALE));
    assert!(worker.lookup(NodeId::ROOT, "volume").is_ok());
}

#[test]
fn a_mount_whose_files_were_used_without_being_opened_can_be_unmounted() {
    let scratch = Scratch::new();
    let top = scratch.path("");
    let _top = Mounted::shared(&top);
    let volume = scratch.path("volume");
    fs::create_dir(&volume).unwrap();
    let mounted = Mounted::tmpfs(&volume);
    fs::write(volume.join("f"), "text").unwrap();
    fs::write(top.join("f"), "home").unwrap();
    let mut config = namespaced(&scratch);
    config.readonly = true;
    config.zero_open = true;
    let mut worker = Worker::with(scratch, config).unwrap();
    let by_node = |node| Handle::of_node(node).unwrap();
    let (directory, file) = (worker.node("volume"), worker.node("volume/f"));
    assert_eq!(worker.read(by_node(file), 0, 10).unwrap(), b"text");
    assert_eq!(worker.list(by_node(directory), false).len(), 3);
    // A descriptor that the supervisor has nobody takes away.
    let donate = |node| Request::Donate {
        handle: by_node(node),
    };
    assert_eq!(worker.call(&donate(file)), Ok(Reply::NotDonated));
    let home = worker.node("f");
    assert_eq!(worker.call(&donate(home)), Ok(Reply::Donated));
    while let Err(error) = umount2(mounted.0, MntFlags::empty()) {
        assert_eq!(error, nix::errno::Errno::EBUSY);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(worker.read(by_node(file), 0, 10), Err(Errno::ESTALE));
}

#[test]
fn several_shares_are_apart() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("a/nested")).unwrap();
    fs::write(scratch.path("file"), "alone").unwrap();
    fs::write(scratch.path("a/nested/f"), "").unwrap();
    let mut config = config(vec![
        share(&scratch.path("a"), Some("outer"), true),
        share(&scratch.path("a/nested"), Some("inner"), false),
        share(&scratch.path("file"), Some("file"), false),
    ]);
    config.sandbox = Sandbox::Namespace;
    let mut worker = Worker::with(scratch, config).unwrap();
    let (closed, open) = (worker.node("outer/nested/f"), worker.node("inner/f"));
    assert_ne!(closed, open);
    assert_eq!(worker.open(closed, libc::O_RDWR), Err(Errno::EROFS));
    assert!(worker.open(open, libc::O_RDWR).is_ok());
    let inner = worker.node("inner");
    assert!(worker.create_as(ROOT, inner, "g", libc::O_RDWR, 0o600, 0).is_ok());
    let file = worker.node("file");
    let handle = worker.open(file, libc::O_RDWR).unwrap();
    worker.write(handle, 0, b"A").unwrap();
    assert_eq!(worker.read(handle, 0, 10).unwrap(), b"Alone");
}

#[test]
fn in_a_user_namespace_ids_that_do_not_exist_are_refused() {
    let scratch = Scratch::new();
    chown(scratch.path(""), Some(100_000), Some(100_000)).unwrap();
    let mut config = namespaced(&scratch);
    config.posix_acl = true;
    let range = |inside, outside, count| IdMapRange {
        inside,
        outside,
        count,
    };
    let users = UserNamespace::Maps {
        uids: vec![range(0, 100_000, 1), range(1000, 101_000, 1)],
        gids: vec![range(0, 100_000, 1), range(1001, 101_001, 1)],
    };
    let who = Who { users, uid: None };
    let mut worker = Worker::spawn(scratch, config, who).unwrap();
    let flags = libc::O_RDWR;
    let (file, _) = worker
        .create_as(USER, NodeId::ROOT, "f", flags, 0o600, 0)
        .unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (1000, 1001));
    let host = fs::metadata(worker.path("f")).unwrap();
    assert_eq!((host.uid(), host.gid()), (101_000, 101_001));
    let (file, _) = worker.create("g", flags, 0o600).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (0, 0));
    let nobody = airlockfs_ipc::message::Caller { uid: 5, ..USER };
    let refused = worker.create_as(nobody, NodeId::ROOT, "h", flags, 0o600, 0);
    assert_eq!(refused, Err(Errno::EOVERFLOW));
    assert!(!worker.path("h").exists());
}

#[test]
fn without_any_privilege_the_guests_root_is_whoever_started_it() {
    const NOBODY: u32 = 65_534;
    let scratch = Scratch::new();
    chown(scratch.path(""), Some(NOBODY), Some(NOBODY)).unwrap();
    let config = config(vec![share(&scratch.path(""), None, false)]);
    let who = Who {
        uid: Some(NOBODY),
        ..Who::default()
    };
    let mut worker = Worker::spawn(scratch, config, who).unwrap();
    let (file, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (NOBODY, NOBODY));
    worker.write(handle, 0, b"x").unwrap();
    let itself = airlockfs_ipc::message::Caller {
        uid: NOBODY,
        gid: NOBODY,
        group: None,
    };
    let made = worker.create_as(itself, NodeId::ROOT, "g", libc::O_RDWR, 0o600, 0);
    assert!(made.is_ok());
    let refused = worker.create_as(USER, NodeId::ROOT, "h", libc::O_RDWR, 0o600, 0);
    assert_eq!(refused.err(), Some(Errno::EOVERFLOW));
    let change = airlockfs_ipc::message::AttrChange {
        uid: Some(0),
        ..Default::default()
    };
    assert_eq!(worker.setattr(file.node, change), Err(Errno::EPERM));
}
