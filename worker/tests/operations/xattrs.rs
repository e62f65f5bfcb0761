//! Extended attributes.

use std::{fs, os::unix::fs::symlink};

use airlockfs_ipc::{
    Errno, NodeId,
    message::{AttrChange, Reply, Request, XattrName},
};

use crate::client::Worker;

fn name(name: &str) -> XattrName<'_> {
    XattrName::new(name.as_bytes()).unwrap()
}

fn get(worker: &mut Worker, node: NodeId, key: &str) -> Result<Vec<u8>, Errno> {
    let request = Request::GetXattr {
        node,
        name: name(key),
        size: 65_536,
    };
    worker.call_with(&request, b"")?;
    Ok(worker.data.clone())
}

fn set(worker: &mut Worker, node: NodeId, key: &str, value: &[u8], flags: i32) -> Result<(), Errno> {
    let request = Request::SetXattr {
        node,
        name: name(key),
        size: value.len() as u32,
        flags: flags as u32,
        acl_kill_sgid: false,
    };
    worker.call_with(&request, value).map(|_| ())
}

fn list(worker: &mut Worker, node: NodeId) -> Vec<String> {
    let request = Request::ListXattr { node, size: 65_536 };
    worker.call_with(&request, b"").unwrap();
    let names = worker
        .data
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty());
    let mut names: Vec<String> = names.map(|name| String::from_utf8_lossy(name).into()).collect();
    names.sort();
    names
}

#[test]
fn attributes_are_set_read_listed_and_removed() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    let node = worker.node("f");
    assert_eq!(get(&mut worker, node, "user.a"), Err(Errno::ENODATA));
    set(&mut worker, node, "user.a", b"value", libc::XATTR_CREATE).unwrap();
    set(&mut worker, node, "user.b", b"", 0).unwrap();
    assert_eq!(get(&mut worker, node, "user.a").unwrap(), b"value");
    assert_eq!(get(&mut worker, node, "user.b").unwrap(), b"");
    assert_eq!(list(&mut worker, node), ["user.a", "user.b"]);
    let again = set(&mut worker, node, "user.a", b"x", libc::XATTR_CREATE);
    assert_eq!(again, Err(Errno::EEXIST));
    let none = set(&mut worker, node, "user.c", b"x", libc::XATTR_REPLACE);
    assert_eq!(none, Err(Errno::ENODATA));
    let remove = Request::RemoveXattr {
        node,
        name: name("user.a"),
    };
    assert_eq!(worker.call(&remove), Ok(Reply::Done));
    assert_eq!(worker.call(&remove), Err(Errno::ENODATA));
}

#[test]
fn sizes_are_asked_for_and_too_small_is_said() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    let node = worker.node("f");
    set(&mut worker, node, "user.a", b"0123456789", 0).unwrap();
    let ask = |size| Request::GetXattr {
        node,
        name: name("user.a"),
        size,
    };
    assert_eq!(worker.call(&ask(0)), Ok(Reply::Size(10)));
    assert_eq!(worker.call_with(&ask(9), b""), Err(Errno::ERANGE));
    assert_eq!(worker.call_with(&ask(10), b""), Ok(Reply::Data { size: 10 }));
    assert_eq!(worker.call_with(&ask(1 << 20), b""), Ok(Reply::Data { size: 10 }));
    let ask = |size| Request::ListXattr { node, size };
    assert_eq!(worker.call(&ask(0)), Ok(Reply::Size(7)));
    assert_eq!(worker.call_with(&ask(6), b""), Err(Errno::ERANGE));
    assert_eq!(worker.call_with(&ask(7), b""), Ok(Reply::Data { size: 7 }));
    let too_large = vec![0; 65_537];
    assert_eq!(set(&mut worker, node, "user.b", &too_large, 0), Err(Errno::E2BIG));
}

#[test]
fn a_symbolic_link_has_attributes_of_its_own() {
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    symlink("f", worker.path("s")).unwrap();
    let (file, link) = (worker.node("f"), worker.node("s"));
    set(&mut worker, file, "user.a", b"the file's", 0).unwrap();
    assert!(get(&mut worker, link, "user.a").is_err());
    assert!(list(&mut worker, link).is_empty());
    assert_eq!(set(&mut worker, link, "user.a", b"x", 0), Err(Errno::EPERM));
    assert_eq!(get(&mut worker, file, "user.a").unwrap(), b"the file's");
}

#[test]
fn mapped_names_are_kept_under_others_and_do_not_leak() {
    let mut worker = Worker::start(|config| config.xattr_map = Some(":map:trusted.:user.guest.:".into()));
    fs::write(worker.path("f"), "").unwrap();
    let node = worker.node("f");
    set(&mut worker, node, "trusted.a", b"x", 0).unwrap();
    set(&mut worker, node, "user.b", b"y", 0).unwrap();
    assert_eq!(get(&mut worker, node, "trusted.a").unwrap(), b"x");
    assert_eq!(list(&mut worker, node), ["trusted.a", "user.b"]);
    assert_eq!(get(&mut worker, node, "user.guest.trusted.a"), Err(Errno::EPERM));
    assert_eq!(
        set(&mut worker, node, "user.guest.trusted.a", b"z", 0),
        Err(Errno::EPERM)
    );
    let expected = "trusted.a\0user.b\0".len() as u32;
    assert_eq!(
        worker.call(&Request::ListXattr { node, size: 0 }),
        Ok(Reply::Size(expected))
    );
}

#[test]
fn a_mapped_capability_does_not_survive_a_change() {
    let mut worker = Worker::start(|config| config.xattr_map = Some(":map::user.guest.:".into()));
    let (entry, handle) = worker.create("f", libc::O_RDWR, 0o700).unwrap();
    let node = entry.node;
    let key = "security.capability";
    let arm = |worker: &mut Worker| {
        set(worker, node, key, b"cap", 0).unwrap();
        assert_eq!(get(worker, node, key).unwrap(), b"cap");
    };
    arm(&mut worker);
    worker.write(handle, 0, b"x").unwrap();
    assert_eq!(get(&mut worker, node, key), Err(Errno::ENODATA), "write");
    arm(&mut worker);
    let change = AttrChange {
        size: Some(0),
        ..AttrChange::default()
    };
    worker.setattr(node, change).unwrap();
    assert_eq!(get(&mut worker, node, key), Err(Errno::ENODATA), "truncate");
    arm(&mut worker);
    let change = AttrChange {
        uid: Some(5),
        ..AttrChange::default()
    };
    worker.setattr(node, change).unwrap();
    assert_eq!(get(&mut worker, node, key), Err(Errno::ENODATA), "chown");
    arm(&mut worker);
    worker.open(node, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(get(&mut worker, node, key), Err(Errno::ENODATA), "O_TRUNC");
}

#[test]
fn acls_are_served_only_where_they_are_on() {
    let acl_of = |permissions: u16| {
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, permissions) in [(1u16, 7u16), (4, permissions), (32, 0)] {
            acl.extend(tag.to_le_bytes());
            acl.extend(permissions.to_le_bytes());
            acl.extend(u32::MAX.to_le_bytes());
        }
        acl
    };
    let key = "system.posix_acl_access";
    let mut worker = Worker::start(|_| ());
    fs::write(worker.path("f"), "").unwrap();
    let node = worker.node("f");
    assert_eq!(set(&mut worker, node, key, &acl_of(5), 0), Err(Errno::ENOTSUP));
    assert_eq!(get(&mut worker, node, key), Err(Errno::ENOTSUP));

    let mut worker = Worker::start(|config| config.posix_acl = true);
    fs::write(worker.path("f"), "").unwrap();
    let node = worker.node("f");
    let sgid = AttrChange {
        mode: Some(0o2770),
        ..AttrChange::default()
    };
    worker.setattr(node, sgid).unwrap();
    assert_eq!(set(&mut worker, node, key, &acl_of(5), 0), Ok(()));
    assert_eq!(worker.getattr(node).unwrap().mode & 0o7777, 0o2750);
    let acl = acl_of(4);
    let killing = Request::SetXattr {
        node,
        name: name(key),
        size: acl.len() as u32,
        flags: 0,
        acl_kill_sgid: true,
    };
    assert_eq!(worker.call_with(&killing, &acl), Ok(Reply::Done));
    assert_eq!(worker.getattr(node).unwrap().mode & 0o7777, 0o740);
}

#[test]
fn without_the_option_there_are_none() {
    let mut worker = Worker::start(|config| config.xattr = false);
    let node = NodeId::ROOT;
    assert_eq!(get(&mut worker, node, "user.a"), Err(Errno::ENOSYS));
    assert_eq!(set(&mut worker, node, "user.a", b"", 0), Err(Errno::ENOSYS));
    assert_eq!(
        worker.call(&Request::ListXattr { node, size: 0 }),
        Err(Errno::ENOSYS)
    );
    let remove = Request::RemoveXattr {
        node,
        name: name("user.a"),
    };
    assert_eq!(worker.call(&remove), Err(Errno::ENOSYS));
}
