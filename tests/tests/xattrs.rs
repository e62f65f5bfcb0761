//! Extended attributes with their option: values, lists, size queries and the errors of xattr(7).

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::ROOT;
use nix::errno::Errno;

fn started() -> (Daemon, Client, u64) {
    let (daemon, fs) = Daemon::with_client(["--xattr"]);
    std::fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    (daemon, fs, node)
}

#[test]
fn values_are_set_read_listed_and_removed() {
    let (_daemon, fs, node) = started();
    let large = vec![b'v'; 3000];
    for (name, value) in [
        ("user.a", &b"value"[..]),
        ("user.empty", b""),
        ("user.bytes", b"\0\xff\0"),
        ("user.large", &large),
    ] {
        fs.setxattr(node, name, value, 0).expect("SETXATTR");
        assert_eq!(fs.getxattr_size(node, name), Ok(value.len() as u32));
        assert_eq!(fs.getxattr(node, name, 65_536).expect("GETXATTR"), value);
        if !value.is_empty() {
            let exact = fs.getxattr(node, name, value.len() as u32);
            assert_eq!(exact.expect("GETXATTR"), value);
        }
    }
    let mut names = fs.listxattr(node, 65_536).expect("LISTXATTR");
    names.retain(|name| !name.starts_with(b"security."));
    names.sort();
    assert_eq!(
        names,
        ["user.a", "user.bytes", "user.empty", "user.large"].map(|n| n.as_bytes())
    );
    fs.removexattr(node, "user.a").expect("REMOVEXATTR");
    assert_eq!(fs.getxattr(node, "user.a", 10), Err(Errno::ENODATA));
    assert_eq!(fs.removexattr(node, "user.a"), Err(Errno::ENODATA));
}

#[test]
fn the_size_of_a_list_is_told_and_held() {
    let (_daemon, fs, node) = started();
    fs.setxattr(node, "user.one", b"1", 0).expect("SETXATTR");
    fs.setxattr(node, "user.two", b"2", 0).expect("SETXATTR");
    let size = fs.listxattr_size(node).expect("LISTXATTR");
    assert_eq!(fs.listxattr(node, size).expect("LISTXATTR").len(), 2);
    assert_eq!(fs.listxattr(node, size - 1), Err(Errno::ERANGE));
    assert_eq!(fs.getxattr(node, "user.one", 10).expect("GETXATTR"), b"1");
    fs.setxattr(node, "user.one", b"longer", 0).expect("SETXATTR");
    assert_eq!(fs.getxattr(node, "user.one", 5), Err(Errno::ERANGE));
}

#[test]
fn create_and_replace_are_exclusive() {
    let (_daemon, fs, node) = started();
    assert_eq!(
        fs.setxattr(node, "user.a", b"1", libc::XATTR_REPLACE),
        Err(Errno::ENODATA)
    );
    fs.setxattr(node, "user.a", b"1", libc::XATTR_CREATE)
        .expect("SETXATTR");
    assert_eq!(
        fs.setxattr(node, "user.a", b"2", libc::XATTR_CREATE),
        Err(Errno::EEXIST)
    );
    fs.setxattr(node, "user.a", b"3", libc::XATTR_REPLACE)
        .expect("SETXATTR");
    assert_eq!(fs.getxattr(node, "user.a", 10).expect("GETXATTR"), b"3");
    assert_eq!(fs.setxattr(node, "user.a", b"4", 1 << 8), Err(Errno::EINVAL));
}

#[test]
fn names_and_values_have_limits() {
    let (_daemon, fs, node) = started();
    let longest = format!("user.{}", "n".repeat(250));
    fs.setxattr(node, &longest, b"x", 0).expect("SETXATTR");
    assert_eq!(fs.getxattr(node, &longest, 10).expect("GETXATTR"), b"x");
    let too_long = format!("{longest}n");
    assert_eq!(fs.setxattr(node, &too_long, b"x", 0), Err(Errno::ERANGE));
    assert_eq!(fs.getxattr(node, &too_long, 10), Err(Errno::ERANGE));
    assert_eq!(fs.removexattr(node, &too_long), Err(Errno::ERANGE));
    assert_eq!(fs.setxattr(node, "", b"x", 0), Err(Errno::ERANGE));
    assert_eq!(fs.setxattr(node, "no-namespace", b"x", 0), Err(Errno::EOPNOTSUPP));
    let largest = vec![1; 65_536];
    let errno = fs.setxattr(node, "user.big", &largest, 0);
    // The system allows 64 KiB; what the file system allows is its own affair.
    assert!(
        matches!(errno, Ok(()) | Err(Errno::ENOSPC | Errno::E2BIG)),
        "{errno:?}"
    );
    assert_eq!(
        fs.setxattr(node, "user.big", &vec![1; 65_537], 0),
        Err(Errno::E2BIG)
    );
}

#[test]
fn directories_links_and_fifos_have_the_attributes_linux_lets_them_have() {
    let (daemon, fs, file) = started();
    std::os::unix::fs::symlink("file", daemon.host("link")).expect("symlink");
    nix::unistd::mkfifo(&daemon.host("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
    fs.setxattr(ROOT, "user.on.root", b"x", 0).expect("SETXATTR");
    assert_eq!(fs.getxattr(ROOT, "user.on.root", 10).expect("GETXATTR"), b"x");
    fs.setxattr(file, "user.a", b"x", 0).expect("SETXATTR");
    for name in ["link", "fifo"] {
        let node = fs.lookup(ROOT, name).expect("LOOKUP").nodeid;
        assert_eq!(fs.setxattr(node, "user.b", b"x", 0), Err(Errno::EPERM), "{name}");
        // Not the link's target's.
        assert_eq!(fs.getxattr(node, "user.a", 10), Err(Errno::ENODATA), "{name}");
        assert_eq!(fs.listxattr(node, 4096), Ok(vec![]), "{name}");
    }
    assert_eq!(fs.getxattr(file, "user.b", 10), Err(Errno::ENODATA));
}

#[test]
fn what_only_the_hosts_root_may_set_is_not_set() {
    let (_daemon, fs, node) = started();
    assert_eq!(fs.setxattr(node, "trusted.a", b"x", 0), Err(Errno::EPERM));
}

#[test]
fn a_file_without_a_name_keeps_its_attributes() {
    let (_daemon, fs, node) = started();
    fs.setxattr(node, "user.a", b"1", 0).expect("SETXATTR");
    fs.unlink(ROOT, "file").expect("UNLINK");
    assert_eq!(fs.getxattr(node, "user.a", 10).expect("GETXATTR"), b"1");
    fs.setxattr(node, "user.a", b"2", 0).expect("SETXATTR");
}

#[test]
fn unknown_nodes_are_stale() {
    let (_daemon, fs, _) = started();
    let node = 1 << 40;
    assert_eq!(fs.getxattr(node, "user.a", 10), Err(Errno::ESTALE));
    assert_eq!(fs.getxattr_size(node, "user.a"), Err(Errno::ESTALE));
    assert_eq!(fs.setxattr(node, "user.a", b"x", 0), Err(Errno::ESTALE));
    assert_eq!(fs.listxattr(node, 10), Err(Errno::ESTALE));
    assert_eq!(fs.removexattr(node, "user.a"), Err(Errno::ESTALE));
}

#[test]
fn without_the_option_there_are_none() {
    let (daemon, fs) = Daemon::with_client(["--tag", "none"]);
    std::fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    assert_eq!(fs.getxattr(node, "user.a", 10), Err(Errno::ENOSYS));
    assert_eq!(fs.setxattr(node, "user.a", b"x", 0), Err(Errno::ENOSYS));
    assert_eq!(fs.listxattr(node, 10), Err(Errno::ENOSYS));
    assert_eq!(fs.removexattr(node, "user.a"), Err(Errno::ENOSYS));
}
