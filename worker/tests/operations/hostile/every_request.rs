//! Every request, every field at its edges.

use airlockfs_ipc::{
    Bytes, Handle, NodeId,
    message::{AttrChange, Caller, FileOperation, FsXattr, Request},
    ring::BULK_SIZE,
};

use super::edges::{LONG, SIZES, attribute_names, changes, creations, locks, names, short};
use crate::client::{ROOT, creation, name_of};

/// What a guest could know.
pub(super) struct Known {
    pub(super) nodes: Vec<NodeId>,
    pub(super) handles: Vec<Handle>,
}

/// A kind of request, by its name. A new one has its place in [`requests`], or [`KINDS`] is wrong.
pub(super) fn kind(request: &Request<'_>) -> &'static str {
    match request {
        Request::Ping => "Ping",
        Request::Forget(_) => "Forget",
        Request::Reset => "Reset",
        Request::Lookup { .. } => "Lookup",
        Request::LookupKnown { .. } => "LookupKnown",
        Request::GetAttr { .. } | Request::File(FileOperation::GetAttr { .. }) => "GetAttr",
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
        Request::File(FileOperation::Read { .. }) => "Read",
        Request::File(FileOperation::Write { .. }) => "Write",
        Request::Donate { .. } => "Donate",
        Request::Release { .. } => "Release",
        Request::Flush { .. } => "Flush",
        Request::File(FileOperation::Fsync { .. }) => "Fsync",
        Request::File(FileOperation::Lseek { .. }) => "Lseek",
        Request::File(FileOperation::Fallocate { .. }) => "Fallocate",
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
pub(super) const KINDS: usize = 44;

/// All requests of one kind on what is known.
#[expect(clippy::too_many_lines, reason = "a line or two for each kind")]
pub(super) fn requests(wanted: &str, known: &Known) -> Vec<Request<'static>> {
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
        "LookupKnown" => {
            for node in nodes() {
                all.extend([false, true].map(|above| Request::LookupKnown { node, above }));
            }
        }
        "GetAttr" => {
            for node in nodes() {
                all.extend(handles().map(|handle| Request::File(FileOperation::GetAttr { node, handle })));
                all.push(Request::GetAttr { node });
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
                            "Read" => FileOperation::Read { handle, offset, size }.into(),
                            "Write" => Request::File(FileOperation::Write {
                                handle,
                                offset,
                                size,
                                kill_suidgid: size == 1,
                            }),
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
                        "Fsync" => FileOperation::Fsync { handle, datasync }.into(),
                        _ => Request::FsyncDir { handle, datasync },
                    });
                }
            }
        }
        "Lseek" => {
            for handle in handles() {
                for offset in LONG {
                    all.extend([0, 1, 2, 3, 4, 5, 1 << 31, u32::MAX].map(|whence| {
                        Request::File(FileOperation::Lseek {
                            handle,
                            offset,
                            whence,
                        })
                    }));
                }
            }
        }
        "Fallocate" => {
            for handle in handles() {
                for (offset, length) in LONG.iter().flat_map(|one| LONG.map(|other| (*one, other))) {
                    all.extend([0, 1, 3].map(|mode| {
                        Request::File(FileOperation::Fallocate {
                            handle,
                            offset,
                            length,
                            mode,
                            kill_suidgid: mode == 1,
                        })
                    }));
                }
                all.extend(short().map(|mode| {
                    Request::File(FileOperation::Fallocate {
                        handle,
                        offset: 0,
                        length: 4096,
                        mode,
                        kill_suidgid: false,
                    })
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
