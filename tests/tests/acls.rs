//! Ids inside attribute values are translated like owners: those of POSIX ACLs, and the user that
//! is root for a program's capabilities.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::{ROOT, init_flags};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const CAPABILITY: &str = "security.capability";
/// Tags of `linux/posix_acl.h`.
const USER: u16 = 2;
const GROUP: u16 = 8;

/// An ACL that gives these users and groups everything, and others nothing.
fn acl(named: &[(u16, u32)]) -> Vec<u8> {
    let mut entries = vec![(1, u32::MAX), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)];
    entries.extend(named);
    // In the order of the tags, as the kernel wants them.
    entries.sort_by_key(|(tag, _)| *tag);
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(if matches!(tag, 4 | 32) { 0u16 } else { 7 }.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// The named entries of an ACL.
fn named(acl: &[u8]) -> Vec<(u16, u32)> {
    let entries = acl[4..].chunks_exact(8).map(|entry| {
        let tag = u16::from_le_bytes(entry[..2].try_into().expect("a tag"));
        (tag, u32::from_le_bytes(entry[4..].try_into().expect("an id")))
    });
    entries.filter(|(tag, _)| matches!(*tag, USER | GROUP)).collect()
}

/// An attribute on the host.
fn on_host(path: &Path, name: &str) -> Option<Vec<u8>> {
    let output = Command::new("getfattr")
        .args(["--absolute-names", "--only-values", "-h", "-n", name])
        .arg(path)
        .output()
        .expect("getfattr");
    output.status.success().then_some(output.stdout)
}

fn set_on_host(path: &Path, name: &str, value: &[u8]) {
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    let set = Command::new("setfattr")
        .args(["-h", "-n", name, "-v", &format!("0x{hex}")])
        .arg(path)
        .output()
        .expect("setfattr");
    assert!(set.status.success(), "{set:?}");
}

/// With a directory `dir` of root's.
fn started(options: &[&str]) -> (Daemon, Client, u64) {
    let daemon = Daemon::start(options);
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    let client = daemon.client();
    let node = client.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
    (daemon, client, node)
}

/// What the guest gets, with the size it is told beforehand.
fn seen(fs: &Client, node: u64, name: &str) -> Result<Vec<u8>, Errno> {
    let value = fs.getxattr(node, name, 65_536);
    let size = fs.getxattr_size(node, name);
    assert_eq!(
        value.as_ref().map(|value| value.len() as u32),
        size.as_ref().copied()
    );
    if let Ok(value) = &value {
        let length = value.len() as u32;
        assert_eq!(fs.getxattr(node, name, length).as_ref(), Ok(value));
        assert_eq!(fs.getxattr(node, name, length - 1), Err(Errno::ERANGE));
    }
    value
}

#[test]
fn a_guests_user_in_an_acl_is_the_host_user_that_it_is_everywhere() {
    let daemon = Daemon::start([
        "--posix-acl",
        "--translate-uid=map:0:100000:65536",
        "--translate-gid=map:0:200000:65536",
    ]);
    fs::set_permissions(daemon.share(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let mount = TempDir::new().expect("a mount point");
    let bridge = Bridge::mount(daemon.socket(), &mount, &BridgeConfig::default()).expect("mount");
    for file in ["guests", "hosts"] {
        fs::write(mount.join(file), "text").expect("write");
        fs::set_permissions(mount.join(file), fs::Permissions::from_mode(0o600)).expect("chmod");
    }
    let setfacl = |entries: &str, path: &Path| {
        let set = Command::new("setfacl").args(["-m", entries]).arg(path).status();
        assert!(set.expect("setfacl").success());
    };
    let getfacl = |path: &Path| {
        let output = Command::new("getfacl").args(["-ncp"]).arg(path).output();
        String::from_utf8(output.expect("getfacl").stdout).expect("text")
    };
    let may_read = |user: u32, group: u32, path: &Path| {
        let mut cat = Command::new("cat");
        let output = cat.arg(path).uid(user).gid(group).output().expect("cat");
        output.status.success()
    };
    setfacl("u:5:r,g:6:r", &mount.join("guests"));
    setfacl("u:5:r,g:6:r", &daemon.host("hosts"));
    // The guest's user 5 is 100005 on the host, the host's user 5 nobody in the guest.
    let text = getfacl(&daemon.host("guests"));
    assert!(
        text.contains("user:100005:r--") && text.contains("group:200006:r--"),
        "{text}"
    );
    let text = getfacl(&mount.join("guests"));
    assert!(
        text.contains("user:5:r--") && text.contains("group:6:r--"),
        "{text}"
    );
    let text = getfacl(&mount.join("hosts"));
    assert!(!text.contains("user:5:") && !text.contains("group:6:"), "{text}");
    for (user, group) in [(5, 77), (77, 6)] {
        assert!(
            may_read(user, group, &mount.join("guests")),
            "{user} in the guest"
        );
        assert!(
            !may_read(user, group, &mount.join("hosts")),
            "{user} in the guest"
        );
        assert!(
            !may_read(user, group, &daemon.host("guests")),
            "{user} of the host"
        );
        assert!(may_read(user, group, &daemon.host("hosts")), "{user} of the host");
    }
    assert!(may_read(100_005, 77, &daemon.host("guests")));
    // What a default ACL gives is the host's to give, and comes back as it went.
    fs::create_dir(mount.join("dir")).expect("mkdir");
    setfacl("d:u:5:rwx", &mount.join("dir"));
    fs::write(mount.join("dir/inner"), "").expect("write");
    let text = getfacl(&daemon.host("dir/inner"));
    assert!(text.contains("user:100005:"), "{text}");
    let text = getfacl(&mount.join("dir/inner"));
    assert!(text.contains("user:5:"), "{text}");
    bridge.unmount().expect("unmount");
}

/// An option, what the guest sets, what the host has then; and what the guest sees of [`HOSTS`].
type Case<'a> = (&'a str, &'a [u32], Result<&'a [u32], Errno>, &'a [u32]);

const HOSTS: [u32; 4] = [3, 99, 1000, 5003];

#[test]
fn entries_are_translated_or_refused_in_six_ways() {
    let cases: [Case<'_>; 8] = [
        ("map:0:5000:10", &[3], Ok(&[5003]), &[3]),
        ("guest:0:5000:10", &[3], Ok(&[5003]), &[99, 1000, 5003]),
        ("host:5000:0:10", &[3], Ok(&[3]), &[]),
        ("squash-guest:0:1000:50", &[3], Ok(&[1000]), &[99, 1000, 5003]),
        (
            "squash-guest:0:1000:50",
            &[3, 4],
            Err(Errno::EINVAL),
            &[99, 1000, 5003],
        ),
        ("squash-host:0:99:4000", &[3], Ok(&[3]), &[99]),
        ("forbid-guest:0:10", &[3], Err(Errno::EPERM), &[99, 1000, 5003]),
        ("forbid-guest:0:10", &[99], Ok(&[99]), &[99, 1000, 5003]),
    ];
    for (range, set, expected, shown) in cases {
        for (tag, option) in [(USER, "--translate-uid"), (GROUP, "--translate-gid")] {
            let option = format!("{option}={range}");
            let (daemon, fs, node) = started(&["--posix-acl", &option]);
            let with = |ids: &[u32]| ids.iter().map(|id| (tag, *id)).collect::<Vec<_>>();
            for name in [ACCESS, DEFAULT] {
                let result = fs.setxattr(node, name, &acl(&with(set)), 0);
                assert_eq!(result, expected.map(drop), "{option} {name}");
                let has = on_host(&daemon.host("dir"), name);
                if let Ok(expected) = expected {
                    assert_eq!(has, Some(acl(&with(expected))), "{option} {name}");
                } else {
                    assert!(has.is_none_or(|acl| named(&acl).is_empty()), "{option} {name}");
                }
                set_on_host(&daemon.host("dir"), name, &acl(&with(&HOSTS)));
                let value = seen(&fs, node, name).expect("GETXATTR");
                assert_eq!(named(&value), with(shown), "{option} {name}");
            }
        }
    }
}

#[test]
fn it_makes_no_difference_how_an_acl_is_named_or_what_init_agreed_on() {
    let map = ["--translate-uid=map:0:5000:10", "--translate-gid=map:0:6000:10"];
    let (here, there) = (acl(&[(USER, 3), (GROUP, 3)]), acl(&[(USER, 5003), (GROUP, 6003)]));
    // A guest that knows of no ACLs sends their names all the same.
    let daemon = Daemon::start(["--posix-acl", map[0], map[1]]);
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    let fs = daemon.connect();
    fs.init_with(init_flags::LINUX_VIRTIOFS & !init_flags::POSIX_ACL)
        .expect("INIT");
    assert_eq!(fs.negotiated() & init_flags::POSIX_ACL, 0);
    let node = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
    assert_eq!(fs.setxattr(node, ACCESS, &here, 0), Ok(()));
    assert_eq!(on_host(&daemon.host("dir"), ACCESS), Some(there.clone()));
    assert_eq!(seen(&fs, node, ACCESS), Ok(here.clone()));
    // Rules give the host's ACL another name in the guest.
    let rules = "--xattrmap=:prefix:all:posix_acl:system.: :ok:all:::";
    let (daemon, fs, node) = started(&["--posix-acl", map[0], map[1], rules]);
    assert_eq!(fs.setxattr(node, "posix_acl_access", &here, 0), Ok(()));
    assert_eq!(on_host(&daemon.host("dir"), ACCESS), Some(there.clone()));
    assert_eq!(seen(&fs, node, "posix_acl_access"), Ok(here.clone()));
    // Where ACLs are off, none is set or seen under any name.
    let (daemon, fs, node) = started(&["--xattr", rules]);
    for name in ["posix_acl_access", ACCESS] {
        assert_eq!(fs.setxattr(node, name, &here, 0), Err(Errno::ENOTSUP), "{name}");
    }
    set_on_host(&daemon.host("dir"), ACCESS, &there);
    for name in ["posix_acl_access", ACCESS] {
        assert_eq!(fs.getxattr(node, name, 1000), Err(Errno::ENOTSUP), "{name}");
        assert_eq!(fs.removexattr(node, name), Err(Errno::ENOTSUP), "{name}");
    }
    let listed = fs.listxattr(node, 1000).expect("LISTXATTR");
    assert!(
        !listed.iter().any(|name| name.ends_with(b"acl_access")),
        "{listed:?}"
    );
    // Under a name that the host's kernel does not read, it is the guest's own data.
    let rules = "--xattrmap=:map:system.posix_acl:user.vm.:";
    let (daemon, fs, node) = started(&["--posix-acl", map[0], map[1], rules]);
    assert_eq!(fs.setxattr(node, ACCESS, &here, 0), Ok(()));
    let kept = on_host(&daemon.host("dir"), "user.vm.system.posix_acl_access");
    assert_eq!(kept, Some(here.clone()));
    assert_eq!(on_host(&daemon.host("dir"), ACCESS), None);
    assert_eq!(seen(&fs, node, ACCESS), Ok(here));
}

#[test]
fn acls_of_other_kinds_are_not_served_where_ids_are_translated() {
    let (_daemon, fs, node) = started(&["--xattr", "--translate-uid=map:0:5000:10"]);
    for name in ["system.nfs4_acl", "system.cifs_acl", "system.richacl"] {
        assert_eq!(
            fs.setxattr(node, name, b"A::3:rwx", 0),
            Err(Errno::ENOTSUP),
            "{name}"
        );
        assert_eq!(fs.getxattr(node, name, 100), Err(Errno::ENOTSUP), "{name}");
        assert_eq!(fs.removexattr(node, name), Err(Errno::ENOTSUP), "{name}");
    }
}

#[test]
fn the_root_of_a_programs_capabilities_is_translated_too() {
    // cap_net_raw, permitted and effective (uapi `linux/capability.h`).
    let capability = |root: Option<u32>| {
        let revision: u32 = if root.is_some() { 0x0300_0000 } else { 0x0200_0000 };
        let mut value = (revision | 1).to_le_bytes().to_vec();
        value.extend((1u32 << 13).to_le_bytes());
        value.extend([0; 12]);
        value.extend(root.map(u32::to_le_bytes).into_iter().flatten());
        value
    };
    let (daemon, fs, node) = started(&["--xattr", "--translate-uid=map:0:5000:10"]);
    fs::write(daemon.host("file"), "").expect("write");
    let file = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let path = daemon.host("file");
    // Of the guest's root: on the host it counts where 5000 is root, and not for everybody.
    for (here, there) in [
        (capability(None), capability(Some(5000))),
        (capability(Some(4)), capability(Some(5004))),
    ] {
        assert_eq!(fs.setxattr(file, CAPABILITY, &here, 0), Ok(()));
        assert_eq!(on_host(&path, CAPABILITY), Some(there));
        assert_eq!(seen(&fs, file, CAPABILITY), Ok(here));
    }
    // Of the host's: the guest has nobody whom they are for.
    for root in [None, Some(7)] {
        set_on_host(&path, CAPABILITY, &capability(root));
        assert_eq!(seen(&fs, file, CAPABILITY), Err(Errno::ENODATA), "{root:?}");
    }
    assert_eq!(fs.setxattr(file, CAPABILITY, b"junk", 0), Err(Errno::EINVAL));
    let forbidding = Daemon::start(["--xattr", "--translate-uid=forbid-guest:0:10"]);
    fs::write(forbidding.host("file"), "").expect("write");
    let fs = forbidding.client();
    let file = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    assert_eq!(
        fs.setxattr(file, CAPABILITY, &capability(None), 0),
        Err(Errno::EPERM)
    );
    let _ = node;
}

#[test]
fn ids_outside_a_user_namespace_are_not_the_guests_to_see() {
    let (daemon, fs, node) = started(&[
        "--posix-acl",
        "--uid-map=:0:100000:65536:",
        "--gid-map=:0:100000:65536:",
    ]);
    set_on_host(
        &daemon.host("dir"),
        ACCESS,
        &acl(&[(USER, 5), (USER, 100_005), (GROUP, 5)]),
    );
    // The kernel shows those that do not exist as -1, with which no program can do anything.
    let value = seen(&fs, node, ACCESS).expect("GETXATTR");
    assert_eq!(named(&value), [(USER, 5)]);
}
