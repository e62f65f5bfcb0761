//! READDIR and READDIRPLUS.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{MetadataExt, symlink},
};

use airlockfs_ipc::{
    Errno, NodeId,
    message::{Request, dirent_size},
};

use crate::client::{Listed, Worker};

fn names(listed: &[Listed]) -> HashSet<String> {
    listed.iter().map(|entry| entry.name.clone()).collect()
}

#[test]
fn a_directory_is_listed_whole_whatever_the_size_of_the_pages() {
    let mut worker = Worker::start(|_| ());
    let expected: HashSet<String> = (0..3000).map(|n| format!("file-{n:060}")).collect();
    for name in &expected {
        fs::write(worker.path(name), "").unwrap();
    }
    for plus in [false, true] {
        let handle = worker.opendir(NodeId::ROOT).unwrap();
        let listed = worker.list(handle, plus);
        assert_eq!(listed.len(), 3002, "each once");
        let mut found = names(&listed);
        assert!(found.remove(".") && found.remove(".."));
        assert_eq!(found, expected);
        assert!(
            listed
                .iter()
                .filter(|entry| entry.name.starts_with('f'))
                .all(|entry| entry.kind == libc::DT_REG)
        );
        // Again from the beginning, and from the middle.
        assert_eq!(worker.list(handle, plus).len(), 3002);
        let middle = &listed[1500];
        let page = worker.readdir(handle, middle.next, 4096, plus).unwrap();
        assert_eq!(page[0].name, listed[1501].name);
        let back = worker.readdir(handle, listed[10].next, 4096, plus).unwrap();
        assert_eq!(back[0].name, listed[11].name);
    }
}

#[test]
fn lookups_are_counted_for_what_is_given_and_nothing_else() {
    let mut worker = Worker::start(|_| ());
    for n in 0..100 {
        fs::write(worker.path(&format!("f{n}")), n.to_string()).unwrap();
    }
    let handle = worker.opendir(NodeId::ROOT).unwrap();
    let plain = worker.list(handle, false);
    assert!(plain.iter().all(|entry| entry.entry.is_none()));
    let listed = worker.list(handle, true);
    for listed in &listed {
        let Some(entry) = listed.entry else {
            assert!(matches!(&listed.name[..], "." | ".."));
            continue;
        };
        assert_eq!(entry.attr.ino, listed.ino);
        assert_eq!(worker.getattr(entry.node).unwrap(), entry.attr);
        worker.forget(entry.node, 1);
        assert_eq!(worker.getattr(entry.node), Err(Errno::ESTALE), "one was counted");
    }
    // A page that has room for two entries has two lookups in it.
    let size = (2 * dirent_size(3, true)) as u32;
    let offset = listed[50].next;
    let page = worker.readdir(handle, offset, size + 7, true).unwrap();
    assert_eq!(page.len(), 2);
    let next = worker.readdir(handle, page[1].next, size, true).unwrap();
    worker.forget(next[0].entry.unwrap().node, 1);
    let node = next[0].entry.unwrap().node;
    assert_eq!(worker.getattr(node), Err(Errno::ESTALE));
}

#[test]
fn a_page_too_small_for_an_entry_is_empty() {
    let mut worker = Worker::start(|_| ());
    let handle = worker.opendir(NodeId::ROOT).unwrap();
    for size in [0, 8, 24] {
        assert!(worker.readdir(handle, 0, size, false).unwrap().is_empty());
    }
    assert_eq!(worker.readdir(handle, 0, 32, false).unwrap().len(), 1);
}

#[test]
fn an_entry_that_vanished_is_given_without_its_inode() {
    let mut worker = Worker::start(|_| ());
    for n in 0..10 {
        fs::write(worker.path(&format!("f{n}")), "").unwrap();
    }
    let handle = worker.opendir(NodeId::ROOT).unwrap();
    let first = worker
        .readdir(handle, 0, dirent_size(3, false) as u32, false)
        .unwrap();
    // The rest has been read from the kernel, and not yet looked at.
    for n in 0..10 {
        fs::remove_file(worker.path(&format!("f{n}"))).unwrap();
    }
    let rest = worker.readdir(handle, first[0].next, 1 << 20, true).unwrap();
    assert!(!rest.is_empty());
    assert!(rest.iter().all(|entry| entry.entry.is_none()));
}

#[test]
fn what_is_above_the_root_is_not_shown() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("d")).unwrap();
    let root = fs::metadata(worker.path("")).unwrap().ino();
    let up = |listed: Vec<Listed>| listed.iter().find(|entry| entry.name == "..").unwrap().ino;
    let handle = worker.opendir(NodeId::ROOT).unwrap();
    assert_eq!(up(worker.list(handle, false)), root);
    let directory = worker.node("d");
    let handle = worker.opendir(directory).unwrap();
    assert_eq!(up(worker.list(handle, true)), root);
}

#[test]
fn every_kind_is_listed_and_none_is_opened() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("d")).unwrap();
    symlink("/etc/passwd", worker.path("s")).unwrap();
    nix::unistd::mkfifo(&worker.path("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let handle = worker.opendir(NodeId::ROOT).unwrap();
    for listed in worker.list(handle, true) {
        let kind = match &listed.name[..] {
            "s" => libc::S_IFLNK,
            "p" => libc::S_IFIFO,
            _ => libc::S_IFDIR,
        };
        if let Some(entry) = listed.entry {
            assert_eq!(entry.attr.mode & libc::S_IFMT, kind);
        }
        assert_eq!(u32::from(listed.kind) << 12, kind);
    }
}

#[test]
fn a_directory_handle_is_no_file_handle() {
    let mut worker = Worker::start(|_| ());
    let (_, file) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(
        worker.readdir(file, 0, 4096, false).map(|_| ()),
        Err(Errno::ENOTDIR)
    );
    let handle = worker.opendir(NodeId::ROOT).unwrap();
    let wild = worker.readdir(handle, u64::MAX, 4096, false);
    assert!(wild.is_err() || wild.unwrap().is_empty());
    let sync = Request::FsyncDir {
        handle,
        datasync: false,
    };
    assert!(worker.call(&sync).is_ok());
    assert!(worker.call(&Request::ReleaseDir { handle }).is_ok());
    assert_eq!(
        worker.readdir(handle, 0, 4096, false).map(|_| ()),
        Err(Errno::EBADF)
    );
}
