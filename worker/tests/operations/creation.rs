//! CREATE, TMPFILE, MKDIR, MKNOD and SYMLINK: whose the new inode is, and with which permissions.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink},
};

use airlockfs_ipc::{
    Bytes, Errno, NodeId,
    message::{Attr, Caller, Creation, Reply, Request, XattrName},
};
use nix::sys::stat::Mode;

use crate::client::{ROOT, USER, Worker, creation, entry_of, name_of};

fn mknod(worker: &mut Worker, name: &str, mode: u32, rdev: u32) -> Result<Attr, Errno> {
    let request = Request::Mknod {
        parent: NodeId::ROOT,
        name: name_of(name),
        rdev,
        creation: creation(ROOT, mode, 0),
    };
    worker.call(&request).map(|reply| entry_of(reply).attr)
}

#[test]
fn new_inodes_are_the_callers_with_the_callers_umask() {
    let mut worker = Worker::start(|_| ());
    fs::set_permissions(worker.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    let (file, _) = worker
        .create_as(USER, NodeId::ROOT, "f", libc::O_RDWR, 0o666, 0o027)
        .unwrap();
    let owner = |attr: Attr| (attr.uid, attr.gid, attr.mode & 0o7777);
    assert_eq!(owner(file.attr), (1000, 1001, 0o640));
    let made = worker.call(&Request::Mkdir {
        parent: NodeId::ROOT,
        name: name_of("d"),
        creation: creation(USER, libc::S_IFDIR | 0o1777, 0o002),
    });
    assert_eq!(owner(made.map(entry_of).unwrap().attr), (1000, 1001, 0o1775));
    let made = worker.call(&Request::Symlink {
        parent: NodeId::ROOT,
        name: name_of("s"),
        target: Bytes(b"x"),
        creation: creation(USER, libc::S_IFLNK | 0o777, 0o777),
    });
    assert_eq!(owner(made.map(entry_of).unwrap().attr), (1000, 1001, 0o777));
    let (next, _) = worker.create("root's", libc::O_RDWR, 0o666).unwrap();
    assert_eq!(owner(next.attr), (0, 0, 0o666), "the thread is itself again");
}

#[test]
fn the_guests_kernel_has_checked_permissions() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("team")).unwrap();
    chown(worker.path("team"), Some(0), Some(2000)).unwrap();
    fs::set_permissions(worker.path("team"), fs::Permissions::from_mode(0o770)).unwrap();
    let team = worker.node("team");
    // A member by a supplementary group that only the guest knows.
    let (file, _) = worker.create_as(USER, team, "f", libc::O_RDWR, 0o600, 0).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (1000, 1001));
    let (file, _) = worker.create_as(ROOT, team, "g", libc::O_RDWR, 0o600, 0).unwrap();
    assert_eq!((file.attr.uid, file.attr.gid), (0, 0));
}

#[test]
fn setgid_directories_pass_on_their_group_but_not_its_power() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("d")).unwrap();
    chown(worker.path("d"), Some(0), Some(2000)).unwrap();
    fs::set_permissions(worker.path("d"), fs::Permissions::from_mode(0o2777)).unwrap();
    let parent = worker.node("d");
    let flags = libc::O_RDWR;
    let (file, _) = worker.create_as(USER, parent, "f", flags, 0o2777, 0).unwrap();
    assert_eq!(
        (file.attr.gid, file.attr.mode & 0o7777),
        (2000, 0o777),
        "CVE-2022-0358"
    );
    let member = Caller {
        group: Some(2000),
        ..USER
    };
    let (file, _) = worker.create_as(member, parent, "g", flags, 0o2777, 0).unwrap();
    assert_eq!((file.attr.gid, file.attr.mode & 0o7777), (2000, 0o2777));
    let (file, _) = worker.create_as(USER, parent, "h", flags, 0o2777, 0).unwrap();
    assert_eq!(file.attr.mode & 0o7777, 0o777, "no group is left over");
}

#[test]
fn an_exclusive_create_refuses_what_is_there_and_others_open_it() {
    let mut worker = Worker::start(|_| ());
    let (first, _) = worker.create("f", libc::O_RDWR | libc::O_EXCL, 0o600).unwrap();
    let exclusive = worker.create("f", libc::O_RDWR | libc::O_EXCL, 0o600);
    assert_eq!(exclusive, Err(Errno::EEXIST));
    let (second, handle) = worker.create("f", libc::O_RDWR, 0o777).unwrap();
    assert_eq!((second.node, second.attr.mode & 0o7777), (first.node, 0o600));
    worker.write(handle, 0, b"text").unwrap();
    let (_, handle) = worker.create("f", libc::O_WRONLY | libc::O_TRUNC, 0o777).unwrap();
    assert_eq!(worker.getattr(first.node).unwrap().size, 0);
    assert_eq!(worker.read(handle, 0, 1), Err(Errno::EBADF));
}

#[test]
fn a_create_opens_nothing_but_regular_files() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("target"), "").unwrap();
    symlink("target", worker.path("link")).unwrap();
    symlink("nothing", worker.path("dangling")).unwrap();
    fs::create_dir(worker.path("directory")).unwrap();
    nix::unistd::mkfifo(&worker.path("fifo"), Mode::from_bits_truncate(0o666)).unwrap();
    for (name, error) in [
        ("link", Errno::ELOOP),
        ("dangling", Errno::ELOOP),
        ("directory", Errno::EISDIR),
        ("fifo", Errno::ENXIO),
    ] {
        assert_eq!(worker.create(name, libc::O_RDWR, 0o600), Err(error), "{name}");
    }
    assert!(!worker.path("nothing").exists());
}

#[test]
fn fifos_sockets_and_whiteouts_are_made_and_never_opened() {
    let mut worker = Worker::start(|_| ());
    for (name, kind) in [
        ("fifo", libc::S_IFIFO),
        ("socket", libc::S_IFSOCK),
        ("whiteout", libc::S_IFCHR),
    ] {
        let attr = mknod(&mut worker, name, kind | 0o666, 0).unwrap();
        assert_eq!(attr.mode, kind | 0o666, "{name}");
        let node = worker.node(name);
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
            assert_eq!(worker.open(node, flags), Err(Errno::ENXIO), "{name}");
        }
        assert_eq!(worker.opendir(node), Err(Errno::ENOTDIR));
    }
    let attr = mknod(&mut worker, "file", libc::S_IFREG | 0o604, 0).unwrap();
    assert_eq!(attr.mode, libc::S_IFREG | 0o604);
    let node = worker.node("file");
    assert!(worker.open(node, libc::O_RDWR).is_ok());
    assert_eq!(
        mknod(&mut worker, "d", libc::S_IFDIR | 0o755, 0),
        Err(Errno::EINVAL)
    );
}

#[test]
fn devices_are_made_only_where_allowed_and_never_opened() {
    let null = 1 << 8 | 3;
    let mut worker = Worker::start(|_| ());
    assert_eq!(
        mknod(&mut worker, "null", libc::S_IFCHR | 0o666, null),
        Err(Errno::EPERM)
    );
    assert_eq!(
        mknod(&mut worker, "disk", libc::S_IFBLK | 0o666, 8 << 8),
        Err(Errno::EPERM)
    );
    let mut worker = Worker::start(|config| config.device_nodes = true);
    let attr = mknod(&mut worker, "null", libc::S_IFCHR | 0o666, null).unwrap();
    assert_eq!(attr.rdev, (1, 3));
    assert!(
        fs::metadata(worker.path("null"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    let attr = mknod(&mut worker, "disk", libc::S_IFBLK | 0o666, 0x1_0002 | 0xfff << 20).unwrap();
    assert_eq!(attr.rdev, (0x100, 0xf_ff02));
    for name in ["null", "disk"] {
        let node = worker.node(name);
        assert_eq!(worker.open(node, libc::O_RDWR), Err(Errno::ENXIO));
    }
}

#[test]
fn a_label_is_set_with_the_inode_or_there_is_none() {
    // Only the host's root may set these, so they are kept under another name.
    let map = ":prefix:all:security.:user.guest.: :ok:all:::";
    let mut worker = Worker::start(|config| config.xattr_map = Some(map.into()));
    let label = |name: &'static [u8]| Creation {
        security: Some((XattrName::new(name).unwrap(), Bytes(b"label"))),
        ..creation(ROOT, 0o700, 0)
    };
    fn create<'a>(name: &'a str, creation: Creation<'a>) -> Request<'a> {
        Request::Create {
            parent: NodeId::ROOT,
            name: name_of(name),
            flags: libc::O_RDWR as u32,
            kill_suidgid: false,
            creation,
        }
    }
    fn mkdir<'a>(name: &'a str, creation: Creation<'a>) -> Request<'a> {
        Request::Mkdir {
            parent: NodeId::ROOT,
            name: name_of(name),
            creation,
        }
    }
    worker.call(&create("f", label(b"security.test"))).unwrap();
    worker.call(&mkdir("d", label(b"security.test"))).unwrap();
    for name in ["f", "d"] {
        let node = worker.node(name);
        let get = Request::GetXattr {
            node,
            name: XattrName::new(b"security.test").unwrap(),
            size: 100,
        };
        worker.call_with(&get, b"").unwrap();
        assert_eq!(worker.data, b"label");
    }
    let before = worker.descriptors();
    for n in 0..10 {
        let name = format!("bad{n}");
        assert_eq!(
            worker.call(&create(&name, label(b"nonsense.x"))),
            Err(Errno::ENOTSUP)
        );
        assert_eq!(
            worker.call(&mkdir(&name, label(b"nonsense.x"))),
            Err(Errno::ENOTSUP)
        );
        assert!(!worker.path(&name).exists());
    }
    assert_eq!(worker.descriptors(), before, "no descriptor leaks");
}

#[test]
fn a_default_acl_takes_the_umasks_place() {
    let mut worker = Worker::start(|config| config.posix_acl = true);
    fs::create_dir(worker.path("plain")).unwrap();
    fs::create_dir(worker.path("acl")).unwrap();
    // Version 2, then tag, permissions and id of each: owner rwx, group rwx, mask rwx, others r-x.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions) in [(1u16, 7u16), (4, 7), (16, 7), (32, 5)] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(u32::MAX.to_le_bytes());
    }
    let node = worker.node("acl");
    let set = Request::SetXattr {
        node,
        name: XattrName::new(b"system.posix_acl_default").unwrap(),
        size: acl.len() as u32,
        flags: 0,
        acl_kill_sgid: false,
    };
    assert_eq!(worker.call_with(&set, &acl), Ok(Reply::Done));
    let (file, _) = worker
        .create_as(ROOT, node, "f", libc::O_RDWR, 0o666, 0o077)
        .unwrap();
    assert_eq!(file.attr.mode & 0o7777, 0o664);
    let plain = worker.node("plain");
    let (file, _) = worker
        .create_as(ROOT, plain, "f", libc::O_RDWR, 0o666, 0o077)
        .unwrap();
    assert_eq!(file.attr.mode & 0o7777, 0o600);
}

#[test]
fn a_file_without_a_name_gets_one() {
    let mut worker = Worker::start(|_| ());
    let request = Request::TmpFile {
        parent: NodeId::ROOT,
        flags: libc::O_RDWR as u32,
        creation: creation(USER, libc::S_IFREG | 0o666, 0o022),
    };
    let Ok(Reply::Created { entry, handle }) = worker.call(&request) else {
        panic!("no file");
    };
    let attr = entry.attr;
    assert_eq!((attr.nlink, attr.uid, attr.mode & 0o7777), (0, 1000, 0o644));
    worker.write(handle, 0, b"nameless").unwrap();
    assert_eq!(worker.getattr(entry.node).unwrap().size, 8);
    let link = Request::Link {
        node: entry.node,
        new_parent: NodeId::ROOT,
        new_name: name_of("named"),
    };
    let linked = worker.call(&link).map(entry_of).unwrap();
    assert_eq!((linked.node, linked.attr.nlink), (entry.node, 1));
    worker.release(handle).unwrap();
    assert_eq!(fs::read(worker.path("named")).unwrap(), b"nameless");
    assert_eq!(worker.getattr(entry.node).unwrap().size, 8);
    let read_only = Request::TmpFile {
        parent: NodeId::ROOT,
        flags: libc::O_RDONLY as u32,
        creation: creation(USER, 0o666, 0),
    };
    assert_eq!(worker.call(&read_only), Err(Errno::EINVAL));
    let metadata = fs::metadata(worker.path("named")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (1000, 1001));
}
