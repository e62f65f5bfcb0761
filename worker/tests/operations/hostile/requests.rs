//! Every request, every field at its edges, against the real worker in each of its configurations.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use airlockfs_ipc::{
    Bytes, Errno, Handle, NodeId,
    message::{
        AttrChange, Caller, Creation, FileLock, FsXattr, Reply, Request, SetTime, Timestamp, WorkerConfig,
        XattrName,
    },
    ring::BULK_SIZE,
};

use crate::client::{ROOT, Worker, creation, name_of, share};

const LONG: [u64; 10] = [
    0,
    1,
    4095,
    4096,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    (1 << 63) + 1,
    u64::MAX - 1,
    u64::MAX,
];

/// Edges, and every bit alone.
fn short() -> impl Iterator<Item = u32> {
    let edges = [0, 3, i32::MAX as u32, u32::MAX - 1, u32::MAX];
    edges.into_iter().chain((0..32).map(|bit| 1 << bit))
}

/// Sizes that the bulk buffer has room for: more is a breach ([`super`]).
const SIZES: [u32; 6] = [0, 1, 4096, 65_536, BULK_SIZE as u32 - 1, BULK_SIZE as u32];

const LONGEST: &str = concat!(
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
);
const NAMES: [&str; 9] = [
    "file",
    "dir",
    "link",
    "fifo",
    "none",
    "...",
    "\u{1}\u{7f}\\\"'",
    "~",
    LONGEST,
];

/// What a guest could know.
struct Known {
    nodes: Vec<NodeId>,
    handles: Vec<Handle>,
}

/// A kind of request, by its name. A new one has its place in [`requests`], or [`KINDS`] is wrong.
fn kind(request: &Request<'_>) -> &'static str {
    match request {
        Request::Ping => "Ping",
        Request::Forget(_) => "Forget",
        Request::Reset => "Reset",
        Request::Lookup { .. } => "Lookup",
        Request::GetAttr { .. } => "GetAttr",
        Request::SetAttr { .. } => "SetAttr",
        Request::ReadLink { .. } => "ReadLink",
        Request::Symlink { .. } => "Symlink",
        Request::Mknod { .. } => "Mknod",
        Request::Mkdir { .. } => "Mkdir",
        Request::Unlink { .. } => "Unlink",
        Request::Rmdir { .. } => "Rmdir",
        Request::Rename { .. } => "Rename",
        Request::Link { .. } => "Link",
        Request::Open { .. } => "Open",
        Request::Create { .. } => "Create",
        Request::TmpFile { .. } => "TmpFile",
        Request::Read { .. } => "Read",
        Request::Write { .. } => "Write",
        Request::Donate { .. } => "Donate",
        Request::Release { .. } => "Release",
        Request::Flush { .. } => "Flush",
        Request::Fsync { .. } => "Fsync",
        Request::Lseek { .. } => "Lseek",
        Request::Fallocate { .. } => "Fallocate",
        Request::CopyFileRange { .. } => "CopyFileRange",
        Request::OpenDir { .. } => "OpenDir",
        Request::ReadDir { .. } => "ReadDir",
        Request::ReleaseDir { .. } => "ReleaseDir",
        Request::FsyncDir { .. } => "FsyncDir",
        Request::StatFs { .. } => "StatFs",
        Request::SyncFs { .. } => "SyncFs",
        Request::Access { .. } => "Access",
        Request::SetXattr { .. } => "SetXattr",
        Request::GetXattr { .. } => "GetXattr",
        Request::ListXattr { .. } => "ListXattr",
        Request::RemoveXattr { .. } => "RemoveXattr",
        Request::GetFileFlags { .. } => "GetFileFlags",
        Request::SetFileFlags { .. } => "SetFileFlags",
        Request::SetFsXattr { .. } => "SetFsXattr",
        Request::GetLock { .. } => "GetLock",
        Request::SetLock { .. } => "SetLock",
        Request::Interrupt { .. } => "Interrupt",
    }
}

/// How many kinds there are.
const KINDS: usize = 43;

fn names() -> impl Iterator<Item = airlockfs_ipc::Name<'static>> + Clone {
    NAMES.iter().map(|name| name_of(name))
}

fn attribute_names() -> impl Iterator<Item = XattrName<'static>> + Clone {
    static LONGEST_NAME: [u8; 255] = [b'.'; 255];
    let texts: [&[u8]; 9] = [
        b"user.a",
        b"user.",
        b"trusted.a",
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
        b"../../etc/passwd",
        b"/",
        &LONGEST_NAME,
    ];
    texts.into_iter().map(|text| XattrName::new(text).unwrap())
}

/// Creations: callers, modes, masks, labels.
fn creations() -> Vec<Creation<'static>> {
    let mut all: Vec<_> = short().map(|mode| creation(ROOT, mode, 0)).collect();
    all.extend(short().map(|umask| creation(ROOT, 0o100_666, umask)));
    for id in [0, 1, 65_534, u32::MAX - 1, u32::MAX] {
        for group in [None, Some(0), Some(u32::MAX)] {
            let caller = Caller {
                uid: id,
                gid: id,
                group,
            };
            all.push(creation(caller, 0o777, 0));
        }
    }
    for name in attribute_names() {
        for value in [&b""[..], b"x", &[0; 5000]] {
            all.push(Creation {
                security: Some((name, Bytes(value))),
                ..creation(ROOT, 0o644, 0)
            });
        }
    }
    all
}

fn changes() -> Vec<AttrChange> {
    let none = AttrChange::default();
    let mut all = vec![none];
    for value in short() {
        all.extend([
            AttrChange {
                mode: Some(value),
                ..none
            },
            AttrChange {
                uid: Some(value),
                ..none
            },
            AttrChange {
                gid: Some(value),
                ..none
            },
        ]);
    }
    for value in LONG {
        all.push(AttrChange {
            size: Some(value),
            ..none
        });
        for nanoseconds in [0, 999_999_999, 1_000_000_000, u32::MAX] {
            let time = Some(SetTime::To(Timestamp {
                seconds: value as i64,
                nanoseconds,
            }));
            all.push(AttrChange { atime: time, ..none });
            all.push(AttrChange {
                mtime: time,
                atime: Some(SetTime::Now),
                kill_suidgid: true,
                ..none
            });
        }
    }
    all
}

fn locks() -> Vec<FileLock> {
    let mut all = Vec::new();
    for kind in [0, 1, 2, 3, 4, 5, 16, u32::MAX] {
        for start in LONG {
            for end in LONG {
                all.push(FileLock {
                    start,
                    end,
                    kind,
                    pid: kind,
                });
            }
        }
    }
    all
}

/// All requests of one kind on what is known.
#[expect(clippy::too_many_lines, reason = "a line or two for each kind")]
fn requests(wanted: &str, known: &Known) -> Vec<Request<'static>> {
    let nodes = || known.nodes.iter().copied();
    let handles = || known.handles.iter().copied();
    let mut all = Vec::new();
    match wanted {
        "Ping" => all.push(Request::Ping),
        "Reset" => all.push(Request::Reset),
        "Forget" => {
            static RECORDS: [u8; 8000] = [0xff; 8000];
            all.extend([0, 1, 15, 16, 17, 31, 8000].map(|length| Request::Forget(Bytes(&RECORDS[..length]))));
        }
        "Lookup" | "Unlink" | "Rmdir" => {
            for parent in nodes() {
                all.extend(names().map(|name| match wanted {
                    "Lookup" => Request::Lookup { parent, name },
                    "Unlink" => Request::Unlink { parent, name },
                    _ => Request::Rmdir { parent, name },
                }));
            }
        }
        "GetAttr" => {
            for node in nodes() {
                let some = handles().map(Some);
                all.extend(some.chain([None]).map(|handle| Request::GetAttr { node, handle }));
            }
        }
        "SetAttr" => {
            for node in nodes() {
                for change in changes() {
                    all.push(Request::SetAttr {
                        node,
                        handle: None,
                        change,
                    });
                }
                let change = AttrChange {
                    size: Some(1),
                    ..AttrChange::default()
                };
                let some = handles().map(Some);
                all.extend(some.map(|handle| Request::SetAttr { node, handle, change }));
            }
        }
        "ReadLink" => all.extend(nodes().map(|node| Request::ReadLink { node })),
        "Symlink" => {
            static TARGETS: [u8; 5000] = [b'a'; 5000];
            let targets = [
                &b""[..],
                b"x",
                b"/etc",
                b"../outside/file",
                b"a\0b",
                &TARGETS[..4095],
                &TARGETS,
            ];
            for parent in nodes() {
                for name in names() {
                    all.extend(targets.map(|target| Request::Symlink {
                        parent,
                        name,
                        target: Bytes(target),
                        creation: creation(ROOT, 0o777, 0),
                    }));
                }
            }
        }
        "Mknod" | "Mkdir" | "Create" | "TmpFile" => {
            for parent in nodes() {
                for creation in creations() {
                    let name = name_of("new");
                    all.push(match wanted {
                        "Mkdir" => Request::Mkdir {
                            parent,
                            name,
                            creation,
                        },
                        "Mknod" => Request::Mknod {
                            parent,
                            name,
                            rdev: 0,
                            creation,
                        },
                        "Create" => Request::Create {
                            parent,
                            name,
                            flags: libc::O_RDWR as u32,
                            kill_suidgid: true,
                            creation,
                        },
                        _ => Request::TmpFile {
                            parent,
                            flags: libc::O_RDWR as u32,
                            creation,
                        },
                    });
                }
                let plain = creation(ROOT, 0o600, 0);
                for (flags, name) in short().zip(names().cycle()) {
                    all.push(match wanted {
                        "Mkdir" => Request::Mkdir {
                            parent,
                            name,
                            creation: plain,
                        },
                        "Mknod" => Request::Mknod {
                            parent,
                            name,
                            rdev: flags,
                            creation: creation(ROOT, libc::S_IFCHR | 0o600, 0),
                        },
                        "Create" => Request::Create {
                            parent,
                            name,
                            flags,
                            kill_suidgid: true,
                            creation: plain,
                        },
                        _ => Request::TmpFile {
                            parent,
                            flags,
                            creation: plain,
                        },
                    });
                }
            }
        }
        "Rename" => {
            for parent in nodes() {
                for new_parent in nodes() {
                    for (name, new_name) in names().zip(names().skip(1)).take(5) {
                        all.push(Request::Rename {
                            parent,
                            name,
                            new_parent,
                            new_name,
                            flags: 0,
                        });
                    }
                }
            }
            for flags in short() {
                all.push(Request::Rename {
                    parent: NodeId::ROOT,
                    name: name_of("file"),
                    new_parent: NodeId::ROOT,
                    new_name: name_of("dir"),
                    flags,
                });
            }
        }
        "Link" => {
            for node in nodes() {
                for new_parent in nodes() {
                    all.extend(names().map(|new_name| Request::Link {
                        node,
                        new_parent,
                        new_name,
                    }));
                }
            }
        }
        "Open" | "OpenDir" => {
            for node in nodes() {
                for flags in short() {
                    all.push(match wanted {
                        "OpenDir" => Request::OpenDir { node, flags },
                        _ => Request::Open {
                            node,
                            flags,
                            kill_suidgid: flags & 1 != 0,
                        },
                    });
                }
            }
        }
        "Read" | "Write" | "ReadDir" => {
            for handle in handles() {
                for offset in LONG {
                    for size in SIZES {
                        all.push(match wanted {
                            "Read" => Request::Read { handle, offset, size },
                            "Write" => Request::Write {
                                handle,
                                offset,
                                size,
                                kill_suidgid: size == 1,
                            },
                            _ => Request::ReadDir {
                                handle,
                                offset,
                                size,
                                plus: offset % 2 == 0,
                            },
                        });
                    }
                }
            }
        }
        "Donate" => all.extend(handles().map(|handle| Request::Donate { handle })),
        "Release" => {
            let owners = [None, Some(0), Some(u64::MAX)];
            for flock_owner in owners {
                all.extend(handles().map(|handle| Request::Release { handle, flock_owner }));
            }
        }
        "ReleaseDir" => all.extend(handles().map(|handle| Request::ReleaseDir { handle })),
        "Flush" => {
            for lock_owner in LONG {
                all.extend(handles().map(|handle| Request::Flush { handle, lock_owner }));
            }
        }
        "Fsync" | "FsyncDir" => {
            for handle in handles() {
                for datasync in [false, true] {
                    all.push(match wanted {
                        "Fsync" => Request::Fsync { handle, datasync },
                        _ => Request::FsyncDir { handle, datasync },
                    });
                }
            }
        }
        "Lseek" => {
            for handle in handles() {
                for offset in LONG {
                    all.extend(
                        [0, 1, 2, 3, 4, 5, 1 << 31, u32::MAX].map(|whence| Request::Lseek {
                            handle,
                            offset,
                            whence,
                        }),
                    );
                }
            }
        }
        "Fallocate" => {
            for handle in handles() {
                for (offset, length) in LONG.iter().flat_map(|one| LONG.map(|other| (*one, other))) {
                    all.extend([0, 1, 3].map(|mode| Request::Fallocate {
                        handle,
                        offset,
                        length,
                        mode,
                        kill_suidgid: mode == 1,
                    }));
                }
                all.extend(short().map(|mode| Request::Fallocate {
                    handle,
                    offset: 0,
                    length: 4096,
                    mode,
                    kill_suidgid: false,
                }));
            }
        }
        "CopyFileRange" => {
            for source in handles() {
                for target in handles() {
                    all.extend(LONG.map(|edge| Request::CopyFileRange {
                        source,
                        source_offset: 0,
                        target,
                        target_offset: edge,
                        length: 10,
                        kill_suidgid: edge == 1,
                    }));
                    all.extend(LONG.map(|edge| Request::CopyFileRange {
                        source,
                        source_offset: edge,
                        target,
                        target_offset: 0,
                        length: edge,
                        kill_suidgid: false,
                    }));
                }
            }
        }
        "StatFs" => all.extend(nodes().map(|node| Request::StatFs { node })),
        "SyncFs" => all.extend(nodes().map(|node| Request::SyncFs { node })),
        "Access" => {
            for node in nodes() {
                all.extend(short().map(|mask| Request::Access {
                    node,
                    mask,
                    caller: Caller {
                        uid: mask,
                        gid: mask,
                        group: Some(mask),
                    },
                }));
            }
        }
        "SetXattr" | "GetXattr" => {
            for node in nodes() {
                for name in attribute_names() {
                    for size in [0, 1, 4096, 65_535, 65_536, 65_537, BULK_SIZE as u32] {
                        all.push(match wanted {
                            "GetXattr" => Request::GetXattr { node, name, size },
                            _ => Request::SetXattr {
                                node,
                                name,
                                size,
                                flags: 0,
                                acl_kill_sgid: true,
                            },
                        });
                    }
                }
                if wanted == "SetXattr" {
                    all.extend(short().zip(attribute_names().cycle()).map(|(flags, name)| {
                        Request::SetXattr {
                            node,
                            name,
                            size: 8,
                            flags,
                            acl_kill_sgid: false,
                        }
                    }));
                }
            }
        }
        "ListXattr" => {
            for node in nodes() {
                all.extend(SIZES.map(|size| Request::ListXattr { node, size }));
            }
        }
        "RemoveXattr" => {
            for node in nodes() {
                all.extend(attribute_names().map(|name| Request::RemoveXattr { node, name }));
            }
        }
        "GetFileFlags" => {
            for handle in handles() {
                all.extend([false, true].map(|extended| Request::GetFileFlags {
                    node: NodeId::ROOT,
                    handle,
                    extended,
                }));
            }
        }
        "SetFileFlags" | "SetFsXattr" => {
            for (node, handle) in nodes().cycle().zip(handles()) {
                for value in short() {
                    all.push(match wanted {
                        "SetFileFlags" => Request::SetFileFlags {
                            node,
                            handle,
                            flags: value,
                        },
                        _ => Request::SetFsXattr {
                            node,
                            handle,
                            value: FsXattr {
                                xflags: value,
                                extsize: value,
                                nextents: value,
                                projid: value,
                                cowextsize: value,
                            },
                        },
                    });
                }
            }
        }
        "GetLock" | "SetLock" => {
            for handle in handles() {
                for (number, lock) in locks().into_iter().enumerate() {
                    all.push(match wanted {
                        "GetLock" => Request::GetLock {
                            handle,
                            owner: lock.end,
                            lock,
                        },
                        // One owner: nobody waits.
                        _ => Request::SetLock {
                            handle,
                            owner: 1,
                            lock,
                            flock: number % 3 == 0,
                            wait: (number % 2 == 0).then_some(lock.end),
                        },
                    });
                }
            }
        }
        "Interrupt" => all.extend(LONG.map(|wait| Request::Interrupt { wait })),
        other => panic!("no requests for {other}"),
    }
    assert!(all.iter().all(|request| kind(request) == wanted));
    all
}

/// A tree without its times: path, mode, owner, size, content or target.
fn picture(root: &Path) -> BTreeMap<PathBuf, (u32, u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(path) = queue.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            vec![]
        } else if meta.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            vec![]
        };
        found.insert(path, (meta.mode(), meta.uid(), meta.gid(), content));
    }
    found
}

/// What every request is tried on: one of each type, and a canary beside the share.
struct Tree {
    share: PathBuf,
    outside: PathBuf,
}

impl Tree {
    fn build(&self) {
        let _ = fs::remove_dir_all(self.share.join("dir"));
        for entry in fs::read_dir(&self.share).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                let _ = fs::remove_dir_all(&path);
            } else {
                let _ = fs::remove_file(&path);
            }
        }
        fs::set_permissions(&self.share, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(self.share.join("dir/dir")).unwrap();
        fs::write(self.share.join("file"), "text").unwrap();
        fs::write(self.share.join("dir/file"), "more").unwrap();
        symlink(&self.outside, self.share.join("link")).unwrap();
        nix::unistd::mkfifo(&self.share.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }

    /// What the guest knows of it: one of each, forgotten and made up ones.
    fn known(&self, worker: &mut Worker, prefix: &str) -> Known {
        assert_eq!(worker.call(&Request::Reset), Ok(Reply::Done));
        let path = |name: &str| format!("{prefix}{name}");
        let mut nodes = vec![NodeId::ROOT];
        nodes.extend(["file", "dir", "link", "fifo", "dir/file"].map(|name| worker.node(&path(name))));
        let (file, dir) = (nodes[1], nodes[2]);
        let mut handles = Vec::new();
        for flags in [libc::O_RDWR, libc::O_RDONLY] {
            handles.extend(worker.open(file, flags));
        }
        handles.extend(worker.opendir(dir));
        handles.extend(worker.opendir(NodeId::ROOT));
        let stale = worker.open(file, libc::O_RDONLY).unwrap();
        worker.release(stale).unwrap();
        let forgotten = worker.node(&path("dir/dir"));
        worker.forget(forgotten, u64::MAX);
        let first = handles[0];
        handles.extend([
            stale,
            Handle(0),
            Handle(first.0 + (1 << 32)),
            Handle(u64::MAX),
            // A node's number.
            Handle(file.0 + 100),
        ]);
        nodes.extend([
            forgotten,
            NodeId(0),
            NodeId(file.0 + (1 << 32)),
            NodeId(1 << 32 | 1),
            NodeId(u64::MAX),
            NodeId(first.0 + 1000),
        ]);
        Known { nodes, handles }
    }
}

/// Sends all of them. How many requests there were, and how many succeeded.
fn send_all(options: impl FnOnce(&mut WorkerConfig), changes_nothing: bool, prefix: &str) -> (usize, usize) {
    let home = crate::client::Scratch::new();
    let tree = Tree {
        share: home.path("share"),
        outside: home.path("outside"),
    };
    fs::create_dir(&tree.share).unwrap();
    fs::create_dir(&tree.outside).unwrap();
    fs::write(tree.outside.join("file"), "canary").unwrap();
    tree.build();
    let canary = picture(&tree.outside);
    let mut config = crate::client::config(vec![share(&tree.share, None, false)]);
    options(&mut config);
    let mut worker = Worker::with(home, config).unwrap_or_else(|failed| panic!("{failed}"));
    let before = picture(&tree.share);
    let (mut sent, mut fine) = (0, 0);
    let mut kinds = BTreeSet::new();
    let data = vec![7; 65_536];
    let all = [
        "Ping",
        "Forget",
        "Reset",
        "Lookup",
        "GetAttr",
        "SetAttr",
        "ReadLink",
        "Symlink",
        "Mknod",
        "Mkdir",
        "Unlink",
        "Rmdir",
        "Rename",
        "Link",
        "Open",
        "Create",
        "TmpFile",
        "Read",
        "Write",
        "Donate",
        "Release",
        "Flush",
        "Fsync",
        "Lseek",
        "Fallocate",
        "CopyFileRange",
        "OpenDir",
        "ReadDir",
        "ReleaseDir",
        "FsyncDir",
        "StatFs",
        "SyncFs",
        "Access",
        "SetXattr",
        "GetXattr",
        "ListXattr",
        "RemoveXattr",
        "GetFileFlags",
        "SetFileFlags",
        "SetFsXattr",
        "GetLock",
        "SetLock",
        "Interrupt",
    ];
    for wanted in all {
        kinds.insert(wanted);
        if !changes_nothing {
            tree.build();
        }
        let known = tree.known(&mut worker, prefix);
        for (number, request) in requests(wanted, &known).iter().enumerate() {
            let got = worker.call_with(request, &data[..if number % 7 == 0 { data.len() } else { 8 }]);
            sent += 1;
            match got {
                Ok(Reply::Donated) => {
                    let Request::Donate { handle } = *request else {
                        panic!("{request:?}")
                    };
                    worker.lane.receive_donation(handle).unwrap();
                }
                Ok(Reply::Opened { handle } | Reply::Created { handle, .. }) if wanted != "OpenDir" => {
                    worker.release(handle).unwrap();
                }
                Ok(Reply::Opened { handle }) => {
                    worker.call(&Request::ReleaseDir { handle }).unwrap();
                }
                _ => {}
            }
            fine += usize::from(got.is_ok());
            assert_ne!(got.err(), Some(Errno::raw(libc::EFAULT)), "{request:?}");
            if got.is_ok() && matches!(wanted, "Mknod" | "Mkdir" | "Create") && !changes_nothing {
                // Room for the next one.
                for parent in ["", "dir"] {
                    let _ = fs::remove_dir(tree.share.join(parent).join("new"));
                    let _ = fs::remove_file(tree.share.join(parent).join("new"));
                }
            }
        }
        assert_eq!(worker.call(&Request::Ping), Ok(Reply::Done), "{wanted}");
        assert_eq!(picture(&tree.outside), canary, "{wanted}");
        if changes_nothing {
            assert_eq!(picture(&tree.share), before, "{wanted} changed what is read-only");
        }
    }
    assert_eq!(kinds.len(), KINDS);
    let (code, log) = worker.end();
    assert_eq!((code, &log[..]), (0, ""));
    (sent, fine)
}

#[test]
fn every_request_with_every_field_at_its_edges_is_answered() {
    let (sent, fine) = send_all(|_| (), false, "");
    assert!(sent > 15_000 && fine > 1_000, "{sent} sent, {fine} succeeded");
}

#[test]
fn a_read_only_worker_answers_them_all_and_changes_nothing() {
    let (sent, fine) = send_all(|config| config.readonly = true, true, "");
    assert!(sent > 15_000 && fine > 300, "{sent} sent, {fine} succeeded");
}

#[test]
fn so_does_a_worker_without_attributes_and_locks() {
    // Its filter has no call for them: one that got as far would end it.
    let options = |config: &mut WorkerConfig| {
        config.xattr = false;
        config.posix_lock = false;
        config.flock = false;
        config.donate = false;
        config.direct_io = false;
    };
    let (sent, fine) = send_all(options, false, "");
    assert!(sent > 15_000 && fine > 1_000, "{sent} sent, {fine} succeeded");
}

#[test]
fn so_does_one_with_every_option_and_its_share_beneath_a_name() {
    let options = |config: &mut WorkerConfig| {
        config.writeback = true;
        config.posix_acl = true;
        config.device_nodes = true;
        config.preserve_noatime = true;
        config.announce_submounts = false;
        config.shares[0].name = Some(b"share".to_vec());
    };
    let (sent, fine) = send_all(options, false, "share/");
    assert!(sent > 15_000 && fine > 1_000, "{sent} sent, {fine} succeeded");
}
