//! LOOKUP, FORGET, links and renames: what node ids stand for, whatever happens to names.

use std::{fs, os::unix::fs::symlink};

use airlockfs_ipc::{
    Bytes, Errno, NodeId,
    message::{Reply, Request},
};

use crate::client::{ROOT, Worker, creation, entry_of, name_of};

#[test]
fn a_lookup_finds_what_the_host_has() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("d")).unwrap();
    fs::write(worker.path("d/f"), "four").unwrap();
    let directory = worker.lookup(NodeId::ROOT, "d").unwrap();
    assert_eq!(directory.attr.mode & libc::S_IFMT, libc::S_IFDIR);
    let file = worker.lookup(directory.node, "f").unwrap();
    assert_eq!((file.attr.size, file.attr.nlink), (4, 1));
    assert_eq!(
        worker.lookup(directory.node, "f").unwrap(),
        file,
        "the same again"
    );
    assert_eq!(worker.getattr(file.node).unwrap(), file.attr);
    assert_eq!(worker.lookup(directory.node, "g"), Err(Errno::ENOENT));
    assert_eq!(worker.lookup(file.node, "g"), Err(Errno::ENOTDIR));
    assert!(!file.attr.submount && file.attr.btime.is_some());
}

#[test]
fn a_lookup_beneath_a_symbolic_link_does_not_follow_it() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("d")).unwrap();
    fs::write(worker.path("d/passwd"), "").unwrap();
    symlink("d", worker.path("near")).unwrap();
    symlink("/etc", worker.path("far")).unwrap();
    for link in ["near", "far"] {
        let entry = worker.lookup(NodeId::ROOT, link).unwrap();
        assert_eq!(entry.attr.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(worker.lookup(entry.node, "passwd"), Err(Errno::ENOTDIR));
        assert_eq!(worker.opendir(entry.node), Err(Errno::ENOTDIR));
        assert_eq!(worker.open(entry.node, libc::O_RDONLY), Err(Errno::ELOOP));
    }
}

#[test]
fn forgotten_nodes_are_unknown_and_their_ids_are_not_used_again() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    let first = worker.node("f");
    assert_eq!(worker.node("f"), first);
    worker.forget(first, 1);
    assert!(worker.getattr(first).is_ok(), "one lookup is left");
    worker.forget(first, 1);
    assert_eq!(worker.getattr(first), Err(Errno::ESTALE));
    let second = worker.node("f");
    assert_ne!(second, first);
    worker.forget(first, 1);
    worker.forget(NodeId(u64::MAX), 7);
    assert!(worker.getattr(second).is_ok());
    worker.forget(NodeId::ROOT, u64::MAX);
    assert!(worker.getattr(NodeId::ROOT).is_ok(), "the root stays");
    worker.forget(second, u64::MAX);
    assert_eq!(worker.getattr(second), Err(Errno::ESTALE));
}

#[test]
fn a_reset_drops_everything_but_the_root() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("d")).unwrap();
    fs::write(worker.path("d/f"), "").unwrap();
    let (directory, file) = (worker.node("d"), worker.node("d/f"));
    let handle = worker.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(worker.call(&Request::Reset), Ok(Reply::Done));
    assert_eq!(worker.getattr(directory), Err(Errno::ESTALE));
    assert_eq!(worker.getattr(file), Err(Errno::ESTALE));
    assert_eq!(worker.read(handle, 0, 1), Err(Errno::EBADF));
    let root = worker.getattr(NodeId::ROOT).unwrap();
    assert_eq!(root.mode & libc::S_IFMT, libc::S_IFDIR);
    assert_ne!(worker.node("d"), directory);
}

#[test]
fn a_node_follows_its_inode_through_renames() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir_all(worker.path("a/deep/er")).unwrap();
    fs::create_dir(worker.path("b")).unwrap();
    fs::write(worker.path("a/deep/er/f"), "content").unwrap();
    fs::write(worker.path("b/victim"), "victim!").unwrap();
    let (a, b) = (worker.node("a"), worker.node("b"));
    let deep = worker.node("a/deep");
    let er = worker.node("a/deep/er");
    let file = worker.node("a/deep/er/f");
    let victim = worker.node("b/victim");
    worker.rename((a, "deep"), (b, "moved"), 0).unwrap();
    assert_eq!(worker.getattr(file).unwrap().size, 7);
    assert_eq!(worker.lookup(b, "moved").unwrap().node, deep);
    worker.rename((er, "f"), (b, "victim"), 0).unwrap();
    assert_eq!(worker.getattr(file).unwrap().size, 7);
    assert_eq!(worker.lookup(b, "victim").unwrap().node, file);
    let gone = worker.getattr(victim).unwrap();
    assert_eq!(gone.nlink, 0, "the replaced file is still the file it was");
    let handle = worker.open(victim, libc::O_RDONLY).unwrap();
    assert_eq!(worker.read(handle, 0, 10).unwrap(), b"victim!");
}

#[test]
fn exchanged_names_exchange_nothing_else() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("d")).unwrap();
    fs::write(worker.path("d/in"), "").unwrap();
    fs::write(worker.path("f"), "file").unwrap();
    let (directory, file) = (worker.node("d"), worker.node("f"));
    let root = NodeId::ROOT;
    worker
        .rename((root, "d"), (root, "f"), libc::RENAME_EXCHANGE)
        .unwrap();
    assert_eq!(worker.getattr(file).unwrap().size, 4);
    assert!(worker.lookup(directory, "in").is_ok());
    assert_eq!(worker.lookup(root, "f").unwrap().node, directory);
    assert_eq!(worker.lookup(root, "d").unwrap().node, file);
}

#[test]
fn rename_keeps_its_flags() {
    let mut worker = Worker::start(|_| ());
    let root = NodeId::ROOT;
    fs::write(worker.path("a"), "a").unwrap();
    fs::write(worker.path("b"), "b").unwrap();
    let noreplace = worker.rename((root, "a"), (root, "b"), libc::RENAME_NOREPLACE);
    assert_eq!(noreplace, Err(Errno::EEXIST));
    let exchange = worker.rename((root, "a"), (root, "none"), libc::RENAME_EXCHANGE);
    assert_eq!(exchange, Err(Errno::ENOENT));
    assert_eq!(
        worker.rename((root, "a"), (root, "c"), 1 << 31),
        Err(Errno::EINVAL)
    );
    let whiteout = worker.rename((root, "a"), (root, "c"), libc::RENAME_WHITEOUT);
    assert_eq!(whiteout, Ok(()));
    let left = worker.lookup(root, "a").unwrap().attr;
    assert_eq!((left.mode & libc::S_IFMT, left.rdev), (libc::S_IFCHR, (0, 0)));
    assert_eq!(worker.rename((root, "b"), (root, "b"), 0), Ok(()));
    let b = worker.node("b");
    assert!(worker.getattr(b).is_ok());
}

#[test]
fn hard_links_are_one_node() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("d")).unwrap();
    fs::write(worker.path("f"), "x").unwrap();
    let (directory, file) = (worker.node("d"), worker.node("f"));
    let request = Request::Link {
        node: file,
        new_parent: directory,
        new_name: name_of("g"),
    };
    let linked = worker.call(&request).map(entry_of).unwrap();
    assert_eq!((linked.node, linked.attr.nlink), (file, 2));
    worker.unlink(NodeId::ROOT, "f").unwrap();
    assert_eq!(worker.getattr(file).unwrap().nlink, 1);
    worker.forget(file, 1);
    assert_eq!(worker.getattr(file).unwrap().nlink, 1, "LINK counted a lookup");
    assert_eq!(worker.call(&request).map(entry_of), Err(Errno::EEXIST));
}

#[test]
fn a_link_to_a_symbolic_link_is_to_itself() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    symlink("f", worker.path("s")).unwrap();
    let link = worker.node("s");
    let request = Request::Link {
        node: link,
        new_parent: NodeId::ROOT,
        new_name: name_of("t"),
    };
    assert_eq!(worker.call(&request).map(entry_of).unwrap().node, link);
    assert!(fs::symlink_metadata(worker.path("t")).unwrap().is_symlink());
    assert_eq!(worker.call(&Request::ReadLink { node: link }), Ok(Reply::Done));
    assert_eq!(worker.target, b"f");
}

#[test]
fn symbolic_links_keep_their_target() {
    let mut worker = Worker::start(|_| ());
    let longest = [b'x'; 4095];
    for (name, target) in [("a", &b"/etc/passwd"[..]), ("b", b"\xff\xfe/.."), ("c", &longest)] {
        let made = worker.call(&Request::Symlink {
            parent: NodeId::ROOT,
            name: name_of(name),
            target: Bytes(target),
            creation: creation(ROOT, libc::S_IFLNK | 0o777, 0o022),
        });
        let node = made.map(entry_of).unwrap().node;
        assert_eq!(worker.call(&Request::ReadLink { node }), Ok(Reply::Done));
        assert_eq!(worker.target, target);
    }
    let read = worker.call(&Request::ReadLink { node: NodeId::ROOT });
    assert_eq!(read, Err(Errno::EINVAL));
}

#[test]
fn what_is_removed_while_in_use_stays_usable() {
    let mut worker = Worker::start(|_| ());
    let root = NodeId::ROOT;
    fs::write(worker.path("open"), "still").unwrap();
    fs::write(worker.path("known"), "here").unwrap();
    fs::create_dir(worker.path("cwd")).unwrap();
    let (open, known, cwd) = (worker.node("open"), worker.node("known"), worker.node("cwd"));
    let handle = worker.open(open, libc::O_RDWR).unwrap();
    worker.unlink(root, "open").unwrap();
    worker.unlink(root, "known").unwrap();
    worker.rmdir(root, "cwd").unwrap();
    assert_eq!(worker.getattr(open).unwrap().nlink, 0);
    assert_eq!(worker.read(handle, 0, 10).unwrap(), b"still");
    assert_eq!(worker.getattr(known).unwrap().size, 4);
    assert_eq!(worker.getattr(cwd).unwrap().nlink, 0);
    assert_eq!(worker.lookup(cwd, "x"), Err(Errno::ENOENT));
    assert_eq!(worker.mkdir(cwd, "x"), Err(Errno::ENOENT));
    worker.forget(known, 1);
    assert_eq!(worker.getattr(known), Err(Errno::ESTALE));
}

#[test]
fn an_open_file_is_reached_by_node_even_when_its_descriptor_was_given_up() {
    let mut worker = Worker::start(|config| config.max_descriptors = 64);
    for n in 0..200 {
        fs::create_dir(worker.path(&format!("d{n}"))).unwrap();
    }
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    worker.unlink(NodeId::ROOT, "f").unwrap();
    for n in 0..200 {
        let directory = worker.node(&format!("d{n}"));
        let handle = worker.opendir(directory).unwrap();
        worker.call(&Request::ReleaseDir { handle }).unwrap();
    }
    assert_eq!(worker.getattr(entry.node).unwrap().nlink, 0);
    let change = airlockfs_ipc::message::AttrChange {
        size: Some(5),
        ..Default::default()
    };
    assert_eq!(worker.setattr(entry.node, change).unwrap().size, 5);
    worker.release(handle).unwrap();
}

#[test]
fn a_name_replaced_on_the_host_is_another_node() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "old").unwrap();
    let old = worker.node("f");
    fs::write(worker.path("new"), "newer").unwrap();
    fs::rename(worker.path("new"), worker.path("f")).unwrap();
    assert_eq!(
        worker.getattr(old),
        Err(Errno::ESTALE),
        "never another file's attributes"
    );
    let new = worker.lookup(NodeId::ROOT, "f").unwrap();
    assert_ne!(new.node, old);
    assert_eq!(new.attr.size, 5);
}

#[test]
fn an_inode_moved_on_the_host_is_found_again() {
    let mut worker = Worker::start(|_| ());
    fs::create_dir(worker.path("d")).unwrap();
    fs::write(worker.path("f"), "x").unwrap();
    let file = worker.node("f");
    fs::rename(worker.path("f"), worker.path("d/g")).unwrap();
    assert_eq!(worker.getattr(file), Err(Errno::ESTALE));
    assert_eq!(worker.node("d/g"), file);
    assert_eq!(worker.getattr(file).unwrap().size, 1);
}

#[test]
fn a_tree_deeper_than_path_max_with_few_descriptors() {
    let mut worker = Worker::start(|config| config.max_descriptors = 64);
    let name = "x".repeat(200);
    let mut nodes = vec![NodeId::ROOT];
    for depth in 0..100 {
        let made = worker.mkdir(nodes[depth], &name).unwrap();
        nodes.push(made.node);
    }
    let deepest = *nodes.last().unwrap();
    let (mut parent, flags) = (deepest, libc::O_RDWR);
    let (file, handle) = worker.create_as(ROOT, parent, "f", flags, 0o600, 0).unwrap();
    worker.write(handle, 0, b"deep").unwrap();
    worker.release(handle).unwrap();
    // All of them, in an order that no cache likes.
    for step in 0..100 {
        let node = nodes[(step * 37) % 100];
        assert_eq!(
            worker.lookup(node, &name).map(|found| found.node).unwrap(),
            nodes[(step * 37) % 100 + 1]
        );
    }
    assert_eq!(worker.getattr(file.node).unwrap().size, 4);
    worker.unlink(parent, "f").unwrap();
    for depth in (0..100).rev() {
        parent = nodes[depth];
        worker.rmdir(parent, &name).unwrap();
    }
}

#[test]
fn more_inodes_than_descriptors() {
    let mut worker = Worker::start(|config| config.max_descriptors = 64);
    let nodes: Vec<NodeId> = (0..500)
        .map(|n| {
            let (entry, handle) = worker.create(&format!("f{n}"), libc::O_WRONLY, 0o600).unwrap();
            worker.write(handle, 0, n.to_string().as_bytes()).unwrap();
            worker.release(handle).unwrap();
            entry.node
        })
        .collect();
    for (n, &node) in nodes.iter().enumerate() {
        let handle = worker.open(node, libc::O_RDONLY).unwrap();
        assert_eq!(worker.read(handle, 0, 10).unwrap(), n.to_string().as_bytes());
        worker.release(handle).unwrap();
    }
    let open = worker.descriptors();
    assert!(open < 64 + 40, "{open} descriptors are open");
}
