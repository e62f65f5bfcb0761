//! Every request against the real worker in each of its configurations.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use airlockfs_ipc::{
    Errno, Handle, NodeId,
    message::{Reply, Request, WorkerConfig},
};

use super::every_request::{KINDS, Known, requests};
use crate::client::{Worker, share};

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
        "LookupKnown",
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
                    worker.lane.receive_donation(handle).unwrap().unwrap();
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
        config.project_ids = true;
        config.preserve_noatime = true;
        config.announce_submounts = false;
        config.shares[0].name = Some(b"share".to_vec());
    };
    let (sent, fine) = send_all(options, false, "share/");
    assert!(sent > 15_000 && fine > 1_000, "{sent} sent, {fine} succeeded");
}
