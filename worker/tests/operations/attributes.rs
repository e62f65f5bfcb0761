//! GETATTR, SETATTR, ACCESS and STATFS.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use airlockfs_ipc::{
    Errno, NodeId,
    message::{AttrChange, Caller, FileOperation, Reply, Request, SetTime, Timestamp},
};

use crate::client::{ROOT, USER, Worker};

fn mode(mode: u32) -> AttrChange {
    AttrChange {
        mode: Some(mode),
        ..AttrChange::default()
    }
}

fn size(size: u64) -> AttrChange {
    AttrChange {
        size: Some(size),
        ..AttrChange::default()
    }
}

#[test]
fn the_mode_of_a_symbolic_link_is_nobodys_and_its_target_is_left_alone() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    fs::set_permissions(worker.path("f"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("f", worker.path("s")).unwrap();
    let link = worker.node("s");
    assert_eq!(worker.setattr(link, mode(0o777)), Err(Errno::ENOTSUP));
    assert_eq!(fs::metadata(worker.path("f")).unwrap().mode() & 0o7777, 0o640);
    let owned = AttrChange {
        uid: Some(5),
        gid: Some(6),
        ..AttrChange::default()
    };
    let attr = worker.setattr(link, owned).unwrap();
    assert_eq!((attr.uid, attr.gid), (5, 6));
    assert_eq!(fs::metadata(worker.path("f")).unwrap().uid(), 0);
    assert_eq!(worker.setattr(link, size(0)), Err(Errno::EINVAL));
}

#[test]
fn the_root_has_a_mode_too() {
    let mut worker = Worker::start(|_| ());
    let attr = worker.setattr(NodeId::ROOT, mode(0o1711)).unwrap();
    assert_eq!(attr.mode, libc::S_IFDIR | 0o1711);
}

#[test]
fn times_are_set_as_they_are_said() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    symlink("f", worker.path("s")).unwrap();
    for name in ["f", "s"] {
        let node = worker.node(name);
        for seconds in [-2_000_000_000, -1, 0, 1 << 31, 1 << 33] {
            let to = Timestamp {
                seconds,
                nanoseconds: 999_999_999,
            };
            let before = worker.getattr(node).unwrap();
            let change = AttrChange {
                mtime: Some(SetTime::To(to)),
                ..AttrChange::default()
            };
            let attr = worker.setattr(node, change).unwrap();
            assert_eq!((attr.mtime, attr.atime), (to, before.atime), "{name}");
        }
    }
    let node = worker.node("f");
    let now = AttrChange {
        atime: Some(SetTime::Now),
        ..AttrChange::default()
    };
    let attr = worker.setattr(node, now).unwrap();
    assert!(attr.atime.seconds > 1_600_000_000 && attr.mtime.seconds == 1 << 33);
    for nanoseconds in [1_000_000_000, (1 << 30) - 1, (1 << 30) - 2, u32::MAX] {
        let change = AttrChange {
            atime: Some(SetTime::To(Timestamp {
                seconds: i64::MAX,
                nanoseconds,
            })),
            ..AttrChange::default()
        };
        assert_eq!(worker.setattr(node, change), Err(Errno::EINVAL));
    }
}

#[test]
fn sizes_up_to_the_largest() {
    let mut worker = Worker::start(|_| ());
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o644).unwrap();
    assert_eq!(worker.setattr(entry.node, size(12_345)).unwrap().size, 12_345);
    let request = Request::SetAttr {
        node: entry.node,
        handle: Some(handle),
        change: size(7),
    };
    assert!(matches!(worker.call(&request), Ok(Reply::Attr(attr)) if attr.size == 7));
    assert_eq!(worker.setattr(entry.node, size(u64::MAX)), Err(Errno::EFBIG));
    assert!(worker.setattr(entry.node, size(1 << 63)).is_err());
    assert_eq!(worker.setattr(NodeId::ROOT, size(0)), Err(Errno::EISDIR));
    assert_eq!(worker.getattr(entry.node).unwrap().size, 7);
    let stranger = Request::File(FileOperation::GetAttr {
        node: entry.node,
        handle: airlockfs_ipc::Handle(handle.0 + 1),
    });
    assert_eq!(worker.call(&stranger), Err(Errno::EBADF));
}

#[test]
fn setuid_and_setgid_go_when_asked_and_stay_when_not() {
    let mut worker = Worker::start(|_| ());
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o755).unwrap();
    let node = entry.node;
    let mode_of = |worker: &mut Worker| worker.getattr(node).unwrap().mode & 0o7777;
    let again = |worker: &mut Worker, bits| {
        worker.setattr(node, mode(bits)).unwrap();
    };

    again(&mut worker, 0o6755);
    worker.write(handle, 0, b"root's").unwrap();
    assert_eq!(mode_of(&mut worker), 0o6755);
    worker.setattr(node, size(3)).unwrap();
    assert_eq!(mode_of(&mut worker), 0o6755);

    worker.write_with(handle, 0, b"user's", true).unwrap();
    assert_eq!(mode_of(&mut worker), 0o755);
    again(&mut worker, 0o6745);
    worker.write_with(handle, 0, b"user's", true).unwrap();
    assert_eq!(
        mode_of(&mut worker),
        0o2745,
        "setgid without execution is a locking mark"
    );

    again(&mut worker, 0o4755);
    let killing = AttrChange {
        kill_suidgid: true,
        ..size(1)
    };
    worker.setattr(node, killing).unwrap();
    assert_eq!(mode_of(&mut worker), 0o755);

    again(&mut worker, 0o4755);
    let open = |kill_suidgid| Request::Open {
        node,
        flags: (libc::O_WRONLY | libc::O_TRUNC) as u32,
        kill_suidgid,
    };
    worker.call(&open(false)).unwrap();
    assert_eq!(mode_of(&mut worker), 0o4755);
    worker.call(&open(true)).unwrap();
    assert_eq!(mode_of(&mut worker), 0o755);

    again(&mut worker, 0o6755);
    let owner = |kill_suidgid| AttrChange {
        uid: Some(1000),
        kill_suidgid,
        ..AttrChange::default()
    };
    assert_eq!(
        worker.setattr(node, owner(false)).unwrap().mode & 0o7777,
        0o6755,
        "the guest's kernel decides, and would have sent the mode"
    );
    assert_eq!(worker.setattr(node, owner(true)).unwrap().mode & 0o7777, 0o755);
}

#[test]
fn ids_that_mean_no_id_are_refused() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    let node = worker.node("f");
    let change = AttrChange {
        uid: Some(u32::MAX),
        gid: Some(0),
        ..AttrChange::default()
    };
    assert_eq!(worker.setattr(node, change), Err(Errno::EINVAL));
}

#[test]
fn access_is_the_callers() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    fs::set_permissions(worker.path("f"), fs::Permissions::from_mode(0o604)).unwrap();
    let node = worker.node("f");
    let access = |caller: Caller, mask: i32| Request::Access {
        node,
        mask: mask as u32,
        caller,
    };
    assert_eq!(worker.call(&access(USER, libc::R_OK)), Ok(Reply::Done));
    assert_eq!(
        worker.call(&access(USER, libc::R_OK | libc::W_OK)),
        Err(Errno::EACCES)
    );
    assert_eq!(worker.call(&access(ROOT, libc::W_OK)), Ok(Reply::Done));
    assert_eq!(worker.call(&access(ROOT, libc::X_OK)), Err(Errno::EACCES));
}

#[test]
fn the_file_system_is_described_and_synced() {
    let mut worker = Worker::start(|_| ());
    symlink("x", worker.path("s")).unwrap();
    let link = worker.node("s");
    for node in [NodeId::ROOT, link] {
        match worker.call(&Request::StatFs { node }) {
            Ok(Reply::StatFs(found)) => {
                assert!(found.bsize > 0 && found.blocks >= found.bfree && found.namelen == 255);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        worker.call(&Request::SyncFs { node: NodeId::ROOT }),
        Ok(Reply::Done)
    );
}
