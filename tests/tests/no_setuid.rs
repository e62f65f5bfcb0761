//! `--no-setuid`: a guest cannot get a set-user-ID or set-group-ID bit or a capability onto a file
//! of the host.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::SetAttr;
use airlockfs_tests::fuse::abi::ROOT;
use nix::errno::Errno;

/// Owner, group, and no rights for others (linux/posix_acl_xattr.h).
fn acl() -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions) in [(0x01_u16, 7_u16), (0x04, 5), (0x20, 5)] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(u32::MAX.to_le_bytes());
    }
    acl
}

/// CAP_NET_RAW, permitted and effective (linux/capability.h, revision 2).
fn capability() -> Vec<u8> {
    let words = [0x0200_0001_u32, 1 << 13, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

fn has_capability(path: &Path) -> bool {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
    // SAFETY: terminated strings, and no room for a value.
    #[expect(unsafe_code, reason = "getxattr(2)")]
    let length = unsafe {
        let name = c"security.capability".as_ptr();
        libc::getxattr(path.as_ptr(), name, std::ptr::null_mut(), 0)
    };
    length > 0
}

const OPTIONS: [&[&str]; 2] = [
    &["--no-setuid", "--posix-acl"],
    &["--no-setuid", "--posix-acl", "--no-donate", "--killpriv-v2"],
];

#[test]
fn what_a_guest_makes_has_none() {
    for options in OPTIONS {
        let (daemon, fs) = Daemon::with_client(options);
        let (created, _) = fs.create(ROOT, "created", libc::O_RDWR, 0o6755).expect("CREATE");
        assert_eq!(created.attr.mode & 0o7777, 0o755);
        for (name, kind) in [
            ("file", libc::S_IFREG),
            ("fifo", libc::S_IFIFO),
            ("socket", libc::S_IFSOCK),
        ] {
            fs.mknod(ROOT, name, kind | 0o6755, 0).expect("MKNOD");
            assert_eq!(mode(&daemon.host(name)), 0o755, "{name}");
        }
        let (nameless, _) = fs.tmpfile(ROOT, libc::O_RDWR, 0o6755).expect("TMPFILE");
        assert_eq!(nameless.attr.mode & 0o7777, 0o755);
        fs.link(nameless.nodeid, ROOT, "named").expect("LINK");
        for name in ["created", "named"] {
            assert_eq!(mode(&daemon.host(name)), 0o755, "{name}");
        }
    }
}

#[test]
fn a_directory_still_says_whose_group_new_files_get() {
    let (daemon, fs) = Daemon::with_client(["--no-setuid"]);
    let directory = fs.mkdir(ROOT, "directory", 0o755).expect("MKDIR").nodeid;
    chown(daemon.host("directory"), None, Some(5)).expect("chown");
    fs.setattr(directory, SetAttr::default().mode(0o2775))
        .expect("chmod");
    assert_eq!(mode(&daemon.host("directory")), 0o2775);
    let inner = fs.mkdir(directory, "inner", 0o755).expect("MKDIR");
    assert_eq!((inner.attr.gid, inner.attr.mode & 0o7777), (5, 0o2755));
    let (file, _) = fs
        .create(directory, "file", libc::O_RDWR, 0o2755)
        .expect("CREATE");
    assert_eq!((file.attr.gid, file.attr.mode & 0o7777), (5, 0o755));
}

/// A way to change a file.
type Way = (&'static str, fn(&Client, u64));

const WAYS: &[Way] = &[
    ("chmod", |fs, node| {
        fs.setattr(node, SetAttr::default().mode(0o6755))
            .expect("SETATTR");
    }),
    ("chmod of a handle", |fs, node| {
        let file = fs.open(node, libc::O_RDWR).expect("OPEN");
        fs.setattr(node, SetAttr::default().mode(0o6711).handle(file.fh))
            .expect("SETATTR");
    }),
    ("chown", |fs, node| {
        fs.setattr(node, SetAttr::default().uid(0).gid(0))
            .expect("SETATTR");
    }),
    ("chown and chmod", |fs, node| {
        fs.setattr(node, SetAttr::default().uid(0).mode(0o6755))
            .expect("SETATTR");
    }),
    ("truncate", |fs, node| {
        fs.setattr(node, SetAttr::default().size(1)).expect("SETATTR");
    }),
    ("write", |fs, node| {
        let file = fs.open(node, libc::O_RDWR).expect("OPEN");
        fs.write(file, 0, b"x").expect("WRITE");
    }),
    ("fallocate", |fs, node| {
        let file = fs.open(node, libc::O_RDWR).expect("OPEN");
        fs.fallocate(file, 0, 0, 8192).expect("FALLOCATE");
    }),
    ("copy", |fs, node| {
        let from = fs.lookup(ROOT, "from").expect("LOOKUP").nodeid;
        let from = fs.open(from, libc::O_RDONLY).expect("OPEN");
        let to = fs.open(node, libc::O_RDWR).expect("OPEN");
        fs.copy_file_range((from, 0), (to, 0), 4)
            .expect("COPY_FILE_RANGE");
    }),
    ("open to cut", |fs, node| {
        fs.open(node, libc::O_WRONLY | libc::O_TRUNC).expect("OPEN");
    }),
    ("create what is there", |fs, _| {
        let flags = libc::O_RDWR | libc::O_TRUNC;
        fs.create(ROOT, "program", flags, 0o6755).expect("CREATE");
    }),
    ("an ACL", |fs, node| {
        let name = "system.posix_acl_access";
        fs.setxattr(node, name, &acl(), 0).expect("SETXATTR");
    }),
];

/// The host's own program keeps them until the guest changes what it does or who may execute it.
#[test]
fn what_a_guest_changes_has_none_any_more() {
    for options in OPTIONS {
        let (daemon, fs) = Daemon::with_client(options);
        fs::write(daemon.host("from"), "data").expect("write");
        let program = daemon.host("program");
        for set in [0o4700, 0o2710, 0o6755, 0o2744] {
            for (way, change) in WAYS {
                let _ = fs::remove_file(&program);
                fs::write(&program, "program").expect("write");
                chown(&program, Some(7), Some(7)).expect("chown");
                fs::set_permissions(&program, fs::Permissions::from_mode(set)).expect("chmod");
                let node = fs.lookup(ROOT, "program").expect("LOOKUP");
                assert_eq!(node.attr.mode & 0o7777, set, "it shows");
                fs.open(node.nodeid, libc::O_RDONLY).expect("OPEN");
                assert_eq!(mode(&program), set);
                change(&fs, node.nodeid);
                assert_eq!(
                    mode(&program) & 0o6000,
                    0,
                    "{way} of {set:o}: {:o}",
                    mode(&program)
                );
                let shown = fs.getattr(node.nodeid).expect("GETATTR").mode;
                assert_eq!(shown & 0o6000, 0, "{way} of {set:o}");
            }
        }
    }
}

#[test]
fn a_guest_gives_no_capability() {
    let (daemon, fs) = Daemon::with_client(["--no-setuid", "--security-label"]);
    let (file, _) = fs.create(ROOT, "file", libc::O_RDWR, 0o755).expect("CREATE");
    let set = fs.setxattr(file.nodeid, "security.capability", &capability(), 0);
    assert_eq!(set, Err(Errno::ENOTSUP));
    // As a label of a new file: fuse_secctx_header and fuse_secctx, padded.
    let (name, value) = (b"security.capability\0", capability());
    let mut context = Vec::new();
    let length = (16 + name.len() + value.len()).next_multiple_of(8);
    for word in [length as u32, 1, value.len() as u32, 0] {
        context.extend_from_slice(&word.to_le_bytes());
    }
    context.extend_from_slice(name);
    context.extend_from_slice(&value);
    context.resize(length, 0);
    assert!(!has_capability(&daemon.host("file")));
    let daemon = Daemon::start(["--no-setuid", "--security-label"]);
    let labelled = daemon.client().with_extensions(&context);
    let refused = labelled.create(ROOT, "labelled", libc::O_RDWR, 0o755);
    assert_eq!(refused.err(), Some(Errno::ENOTSUP));
    assert!(!daemon.host("labelled").exists());
    // Under another name it is no capability of the host's.
    let (daemon, fs) = Daemon::with_client(["--no-setuid", "--xattrmap=:map::user.vm.:"]);
    let (file, _) = fs.create(ROOT, "file", libc::O_RDWR, 0o755).expect("CREATE");
    fs.setxattr(file.nodeid, "security.capability", &capability(), 0)
        .expect("SETXATTR");
    assert!(!has_capability(&daemon.host("file")));
}

/// What the option is for.
#[test]
fn without_the_option_the_bits_are_the_guests_to_give() {
    let (daemon, fs) = Daemon::with_client(["--xattr"]);
    let (file, _) = fs.create(ROOT, "file", libc::O_RDWR, 0o6755).expect("CREATE");
    assert_eq!(mode(&daemon.host("file")), 0o6755);
    fs.setxattr(file.nodeid, "security.capability", &capability(), 0)
        .expect("SETXATTR");
    assert!(has_capability(&daemon.host("file")));
}
