//! Options that change how the host is used: each has its effect, and nothing has it without the
//! option.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::fuse::{Client, SetAttr};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;

/// The value of an attribute on the host.
fn host_attribute(daemon: &Daemon, file: &str, name: &str) -> Option<String> {
    let output = Command::new("getfattr")
        .args(["--absolute-names", "--only-values", "-h", "-n", name])
        .arg(daemon.host(file))
        .output()
        .expect("getfattr");
    let value = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(value)
}

/// Flags of open(2) of the worker's descriptor on a file that the guest opens with `flags`.
fn host_flags(options: &[&str], flags: i32) -> i32 {
    let (daemon, fs) = Daemon::with_client(options);
    fs::write(daemon.host("file"), [7; 4096]).expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    fs.open(node, libc::O_RDONLY | flags).expect("OPEN");
    let worker = daemon.worker().expect("a worker");
    let found = worker
        .descriptors()
        .expect("descriptors")
        .into_iter()
        .find_map(|(number, path)| {
            let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", worker.pid())).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
            (path.ends_with("file") && flags & libc::O_PATH == 0).then_some(flags)
        });
    found.expect("an open file")
}

#[test]
fn direct_io_and_noatime_reach_the_host_only_when_allowed() {
    for (option, flag) in [
        ("--allow-direct-io", libc::O_DIRECT),
        ("--preserve-noatime", libc::O_NOATIME),
    ] {
        assert_eq!(host_flags(&[option], flag) & flag, flag, "{option}");
        assert_eq!(host_flags(&[option], 0) & flag, 0, "{option}, not asked for");
        assert_eq!(host_flags(&["--tag=x"], flag) & flag, 0, "without {option}");
    }
}

#[test]
fn attribute_names_are_mapped_by_rules_in_virtiofsds_language() {
    let rules = "/prefix/all/trusted./user.vm./\n/unsupported/client/user.no./user.no./ \
                 |bad|all|security.|security.| :ok:all:user.:: :bad:all:::";
    let (daemon, fs) = Daemon::with_client([format!("--xattrmap={rules}")]);
    fs::write(daemon.host("file"), "").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    assert_eq!(fs.setxattr(node, "trusted.a", b"mapped", 0), Ok(()));
    assert_eq!(
        host_attribute(&daemon, "file", "user.vm.trusted.a").as_deref(),
        Some("mapped")
    );
    assert_eq!(host_attribute(&daemon, "file", "trusted.a"), None);
    assert_eq!(fs.getxattr(node, "trusted.a", 100), Ok(b"mapped".to_vec()));
    assert_eq!(fs.setxattr(node, "user.b", b"as it is", 0), Ok(()));
    assert_eq!(
        host_attribute(&daemon, "file", "user.b").as_deref(),
        Some("as it is")
    );
    assert_eq!(fs.setxattr(node, "user.no.c", b"", 0), Err(Errno::ENOTSUP));
    assert_eq!(fs.setxattr(node, "security.d", b"", 0), Err(Errno::EPERM));
    let mut listed = fs.listxattr(node, 1000).expect("LISTXATTR");
    listed.sort_unstable();
    assert_eq!(listed, [b"trusted.a".to_vec(), b"user.b".to_vec()]);

    let sugar = Daemon::start(["--xattrmap=:map::user.all.:"]);
    let fs = sugar.client();
    let made = fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    assert_eq!(fs.setxattr(made.nodeid, "user.a", b"x", 0), Ok(()));
    assert_eq!(
        host_attribute(&sugar, "dir", "user.all.user.a").as_deref(),
        Some("x")
    );

    for bad in ["", ":ok:client:::", ":prefix:all:a:", ":what:all::b:", ":map:a:"] {
        let failed = Launch::airlockfs()
            .args([format!("--xattrmap={bad}")])
            .try_start();
        let failed = failed.expect("a program").map(drop).expect_err(bad);
        assert!(
            failed.log.iter().any(|line| line.contains("--xattrmap")),
            "{bad}: {:?}",
            failed.log
        );
    }
}

#[test]
fn a_label_comes_with_a_new_inode() {
    // fuse_secctx_header and fuse_secctx, name and context, as the kernel pads them.
    let mut context = Vec::new();
    for word in [48u32, 1, 8, 0] {
        context.extend_from_slice(&word.to_le_bytes());
    }
    context.extend_from_slice(b"security.selinux\0label_t\0");
    context.resize(48, 0);
    // The host's own labels are not the guest's to set: they are kept under another name.
    let daemon = Daemon::start(["--security-label", "--xattrmap=:map:security.:user.vm.:"]);
    let fs = daemon.client().with_extensions(&context);
    fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    // A guest that may not send labels and does is not listened to.
    let plain = Daemon::start(["--xattrmap=:map:security.:user.vm.:"]);
    let _ = plain.client().with_extensions(&context).mkdir(ROOT, "dir", 0o755);
    assert_eq!(host_attribute(&plain, "dir", "user.vm.security.selinux"), None);
    for name in ["dir", "file"] {
        let label = host_attribute(&daemon, name, "user.vm.security.selinux");
        let label = label.as_deref().map(|label| label.trim_end_matches('\0'));
        assert_eq!(label, Some("label_t"), "{name}");
    }
}

#[test]
fn acls_are_served_with_their_option_only() {
    let acl = |options: &[&str]| {
        let daemon = Daemon::start(options);
        let mount = TempDir::new().expect("a mount point");
        let bridge = Bridge::mount(daemon.socket(), &mount, &BridgeConfig::default()).expect("mount");
        fs::create_dir(mount.join("dir")).expect("mkdir");
        let set = Command::new("setfacl")
            .args(["-m", "u:1000:rwx,d:u:1000:rwx,d:g::rwx,d:o::-"])
            .arg(mount.join("dir"))
            .output()
            .expect("setfacl");
        fs::write(mount.join("dir/file"), "").expect("write");
        let mode = fs::metadata(daemon.host("dir/file")).expect("stat").mode() & 0o777;
        let on_host = host_attribute(&daemon, "dir", "system.posix_acl_default").is_some();
        bridge.unmount().expect("unmount");
        (set.status.success(), on_host, mode)
    };
    assert_eq!(
        acl(&["--posix-acl"]),
        (true, true, 0o660),
        "the default ACL takes the umask's place"
    );
    let (set, on_host, mode) = acl(&["--xattr"]);
    assert!(!set && !on_host && mode == 0o644, "{set} {on_host} {mode:o}");
}

/// A new file's owner as user `uid` of the guest: in the guest, on the host.
fn made_by(daemon: &Daemon, fs: &Client, uid: u32) -> Result<(u32, u32), Errno> {
    let name = format!("by {uid}");
    let (entry, _) = fs.as_user(uid, 0).create(ROOT, &name, libc::O_RDWR, 0o644)?;
    let host = fs::metadata(daemon.host(&name)).expect("stat").uid();
    assert_eq!(fs.getattr(entry.nodeid).expect("GETATTR").uid, entry.attr.uid);
    Ok((entry.attr.uid, host))
}

/// The guest's owner of a file of user `uid` of the host.
fn shown_of(daemon: &Daemon, fs: &Client, uid: u32) -> u32 {
    let name = format!("of {uid}");
    fs::write(daemon.host(&name), "").expect("write");
    chown(daemon.host(&name), Some(uid), Some(uid)).expect("chown");
    fs.lookup(ROOT, &name).expect("LOOKUP").attr.uid
}

#[test]
fn ids_are_translated_in_six_ways() {
    let start = |option: &str| {
        let daemon = Daemon::start([option]);
        fs::set_permissions(daemon.share(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let client = daemon.client();
        (daemon, client)
    };
    let (daemon, fs) = start("--translate-uid=guest:100:5100:10");
    assert_eq!(made_by(&daemon, &fs, 103), Ok((5103, 5103)), "one way");
    assert_eq!(made_by(&daemon, &fs, 110), Ok((110, 110)));
    let (daemon, fs) = start("--translate-uid=host:5100:100:10");
    assert_eq!(
        (shown_of(&daemon, &fs, 5103), shown_of(&daemon, &fs, 5110)),
        (103, 5110)
    );
    assert_eq!(made_by(&daemon, &fs, 103), Ok((103, 103)), "one way");
    let (daemon, fs) = start("--translate-uid=squash-guest:100:5000:10");
    assert_eq!(made_by(&daemon, &fs, 100), Ok((5000, 5000)));
    assert_eq!(made_by(&daemon, &fs, 109), Ok((5000, 5000)));
    let (daemon, fs) = start("--translate-uid=squash-host:5100:99:10");
    assert_eq!(
        (shown_of(&daemon, &fs, 5100), shown_of(&daemon, &fs, 5109)),
        (99, 99)
    );
    let (daemon, fs) = start("--translate-uid=forbid-guest:100:10");
    assert_eq!(made_by(&daemon, &fs, 105), Err(Errno::EPERM));
    assert_eq!(made_by(&daemon, &fs, 110), Ok((110, 110)));
    let (daemon, fs) = start("--translate-uid=map:100:5100:10");
    assert_eq!(made_by(&daemon, &fs, 103), Ok((103, 5103)));
    assert_eq!(shown_of(&daemon, &fs, 5109), 109);
    let node = fs.lookup(ROOT, "by 103").expect("LOOKUP").nodeid;
    assert_eq!(
        fs.setattr(node, SetAttr::default().uid(104)).map(|attr| attr.uid),
        Ok(104)
    );
    assert_eq!(fs::metadata(daemon.host("by 103")).expect("stat").uid(), 5104);

    // Groups have ranges of their own.
    let (daemon, fs) = start("--translate-gid=map:100:5100:10");
    let (entry, _) = fs
        .as_user(7, 105)
        .create(ROOT, "file", libc::O_RDWR, 0o644)
        .expect("CREATE");
    assert_eq!((entry.attr.uid, entry.attr.gid), (7, 105));
    assert_eq!(fs::metadata(daemon.host("file")).expect("stat").gid(), 5105);
}

#[test]
fn ranges_that_make_no_sense_are_refused() {
    for option in [
        "--translate-uid=map:0:0",
        "--translate-uid=other:0:0:1",
        "--translate-gid=map:0:0:0",
        "--translate-gid=guest:4294967295:0:1",
        "--uid-map=0:0",
    ] {
        let failed = Launch::airlockfs().args([option]).try_start().expect("a program");
        assert_eq!(
            failed.map(drop).expect_err(option).status.code(),
            Some(64),
            "{option}"
        );
    }
}
