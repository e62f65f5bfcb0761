//! A supervisor that breaks the rules, and a guest that makes things up.

mod edges;
mod every_request;
mod messages;
mod requests;
mod ring;
mod start;

use airlockfs_ipc::{
    Errno, Handle, NodeId,
    message::{AttrChange, Caller, FileLock, FileOperation, FsXattr, Reply, Request, XattrName},
    ring::BULK_SIZE,
};

use crate::client::{ROOT, Worker, creation, name_of};

#[test]
fn the_worker_ends_with_the_supervisor() {
    let mut worker = Worker::start(|_| ());
    assert_eq!(worker.call(&Request::Ping), Ok(Reply::Done));
    assert!(worker.report.landlock_abi > 0 && worker.report.syscalls > 0);
    let (code, log) = worker.end();
    assert_eq!((code, &log[..]), (0, ""));
}

#[test]
fn a_breach_of_the_boundarys_rules_ends_the_session_and_is_logged() {
    type Breach = fn(&mut Worker, Handle);
    let breaches: [(&str, Breach); 3] = [
        ("no bulk buffer", |worker, handle| {
            worker.send(&Request::File(FileOperation::Read {
                handle,
                offset: 0,
                size: 1,
            }));
        }),
        ("too large a write", |worker, handle| {
            let bulk = worker.lane.take_bulk().unwrap();
            let write = Request::File(FileOperation::Write {
                handle,
                offset: 0,
                size: BULK_SIZE as u32 + 1,
                kill_suidgid: false,
            });
            worker.lane.submit(&write, Some(&bulk)).unwrap();
            worker.lane.flush();
        }),
        ("too large a list", |worker, _| {
            let bulk = worker.lane.take_bulk().unwrap();
            let list = Request::ListXattr {
                node: NodeId::ROOT,
                size: u32::MAX,
            };
            worker.lane.submit(&list, Some(&bulk)).unwrap();
            worker.lane.flush();
        }),
    ];
    for (what, breach) in breaches {
        let mut worker = Worker::start(|_| ());
        let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
        breach(&mut worker, handle);
        let (code, log) = worker.wait();
        assert_eq!(code, 76, "{what}");
        assert!(
            log.contains("boundary violation") && log.lines().count() == 1,
            "{what}: {log}"
        );
    }
}

#[test]
fn made_up_nodes_and_handles_are_refused_by_every_operation() {
    let mut worker = Worker::start(|_| ());
    let (entry, known) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let made_up = [0, 1, entry.node.0 + 1, 1 << 32, 1 << 63, u64::MAX];
    let xattr = XattrName::new(b"user.a").unwrap();
    let lock = FileLock {
        start: 0,
        end: 1,
        kind: libc::F_WRLCK as u32,
        pid: 1,
    };
    for number in made_up {
        let (node, handle) = (NodeId(number), Handle(number.wrapping_add(known.0 << 20)));
        let name = name_of("f");
        let caller: Caller = ROOT;
        let mode = creation(ROOT, 0o600, 0);
        let with_nodes = [
            Request::Lookup { parent: node, name },
            Request::GetAttr { node },
            Request::SetAttr {
                node,
                handle: None,
                change: AttrChange::default(),
            },
            Request::ReadLink { node },
            Request::Unlink { parent: node, name },
            Request::Rmdir { parent: node, name },
            Request::Rename {
                parent: node,
                name,
                new_parent: NodeId::ROOT,
                new_name: name,
                flags: 0,
            },
            Request::Rename {
                parent: NodeId::ROOT,
                name,
                new_parent: node,
                new_name: name,
                flags: 0,
            },
            Request::Link {
                node,
                new_parent: NodeId::ROOT,
                new_name: name,
            },
            Request::Link {
                node: entry.node,
                new_parent: node,
                new_name: name,
            },
            Request::Open {
                node,
                flags: 0,
                kill_suidgid: false,
            },
            Request::OpenDir { node, flags: 0 },
            Request::Mkdir {
                parent: node,
                name,
                creation: mode,
            },
            Request::TmpFile {
                parent: node,
                flags: 2,
                creation: mode,
            },
            Request::StatFs { node },
            Request::SyncFs { node },
            Request::Access {
                node,
                mask: 0,
                caller,
            },
            Request::ListXattr { node, size: 0 },
            Request::RemoveXattr { node, name: xattr },
        ];
        // What is not there is not there; 1 is the root, which is no file.
        if number != 1 {
            for request in &with_nodes {
                assert_eq!(worker.call(request), Err(Errno::ESTALE), "{request:?}");
            }
        }
        let with_handles = [
            Request::File(FileOperation::GetAttr {
                node: entry.node,
                handle,
            }),
            Request::Donate { handle },
            Request::Release {
                handle,
                flock_owner: Some(1),
            },
            Request::Flush {
                handle,
                lock_owner: 1,
            },
            Request::File(FileOperation::Fsync {
                handle,
                datasync: false,
            }),
            Request::File(FileOperation::Lseek {
                handle,
                offset: 0,
                whence: libc::SEEK_DATA as u32,
            }),
            Request::File(FileOperation::Fallocate {
                handle,
                offset: 0,
                length: 1,
                mode: 0,
                kill_suidgid: false,
            }),
            Request::CopyFileRange {
                source: handle,
                source_offset: 0,
                target: known,
                target_offset: 0,
                length: 1,
                kill_suidgid: false,
            },
            Request::CopyFileRange {
                source: known,
                source_offset: 0,
                target: handle,
                target_offset: 0,
                length: 1,
                kill_suidgid: false,
            },
            Request::ReleaseDir { handle },
            Request::GetFileFlags {
                node,
                handle,
                extended: true,
            },
            Request::SetFileFlags {
                node,
                handle,
                flags: 0,
            },
            Request::SetFsXattr {
                node,
                handle,
                value: FsXattr::default(),
            },
            Request::GetLock {
                handle,
                owner: 0,
                lock,
            },
            Request::SetLock {
                handle,
                owner: 0,
                lock,
                flock: false,
                wait: Some(1),
            },
        ];
        for request in &with_handles {
            assert_eq!(worker.call(request), Err(Errno::EBADF), "{request:?}");
        }
    }
    assert!(worker.getattr(entry.node).is_ok());
}

#[test]
fn a_guest_that_opens_too_much_gets_errors_and_loses_nothing() {
    let mut worker = Worker::start(|config| config.max_descriptors = 100);
    let (entry, first) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    worker.write(first, 0, b"x").unwrap();
    let mut open = vec![first];
    let error = loop {
        match worker.open(entry.node, libc::O_RDONLY) {
            Ok(handle) => open.push(handle),
            Err(error) => break error,
        }
        assert!(open.len() <= 100);
    };
    assert_eq!(error, Errno::ENFILE);
    assert_eq!(worker.opendir(NodeId::ROOT), Err(Errno::ENFILE));
    assert_eq!(worker.create("g", libc::O_RDWR, 0o600), Err(Errno::ENFILE));
    let directory = worker.mkdir(NodeId::ROOT, "d").unwrap().node;
    assert!(worker.mkdir(directory, "e").is_ok(), "names are still served");
    assert_eq!(worker.read(first, 0, 1).unwrap(), b"x");
    for handle in open {
        worker.release(handle).unwrap();
    }
    assert!(worker.open(entry.node, libc::O_RDONLY).is_ok());
}
