//! What went wrong elsewhere, with a test for each. Each test runs the real daemon as its users
//! start it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{
    CREATE, CreateIn, LINK, LOOKUP, MKDIR, MKNOD, MkdirIn, MknodIn, RENAME, RENAME2, RMDIR, ROOT, Rename2In,
    SYMLINK, UNLINK,
};
use airlockfs_tests::fuse::{Client, Outcome, SetAttr};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use zerocopy::IntoBytes;

const SANDBOXES: [&str; 3] = ["--sandbox=namespace", "--sandbox=chroot", "--sandbox=none"];

/// CAP_MKNOD, capabilities(7).
const MKNOD_BIT: u64 = 1 << 27;

fn capabilities(daemon: &Daemon) -> u64 {
    let worker = daemon.worker().expect("a worker");
    u64::from_str_radix(&worker.status("CapEff").expect("CapEff"), 16).expect("a number")
}

/// The worker's root mount's options.
fn root_mount(daemon: &Daemon) -> String {
    let worker = daemon.worker().expect("a worker").pid();
    let mounts = fs::read_to_string(format!("/proc/{worker}/mountinfo")).expect("mountinfo");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
    let root = root.unwrap_or_else(|| panic!("no root among {mounts}"));
    root.split(' ').nth(5).expect("options").to_owned()
}

/// CVE-2026-47243 (Kata), libkrun #329: MKDIR and SYMLINK with absolute names acted outside the share.
#[test]
fn absolute_and_dotted_names_are_refused_by_every_operation() {
    for sandbox in SANDBOXES {
        let outside = TempDir::new().expect("a directory");
        fs::write(outside.join("file"), "canary").expect("write");
        let (daemon, fs) = Daemon::with_client([sandbox]);
        fs::create_dir(daemon.host("dir")).expect("mkdir");
        fs::write(daemon.host("good"), "text").expect("write");
        let dir = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
        let file = fs.lookup(ROOT, "good").expect("LOOKUP").nodeid;
        let path = |name: &str| outside.join(name).into_os_string().into_encoded_bytes();
        let names: [Vec<u8>; 8] = [
            path("file"),
            path("new"),
            b"..".to_vec(),
            b".".to_vec(),
            b"".to_vec(),
            b"/".to_vec(),
            b"../good".to_vec(),
            b"dir/new".to_vec(),
        ];
        let target = dir.to_le_bytes();
        let rename2 = Rename2In {
            newdir: dir,
            ..Rename2In::default()
        };
        let nul = |name: &[u8]| [name, b"\0"].concat();
        for name in &names {
            let name = nul(name);
            let good = nul(b"good");
            let requests: Vec<(u32, Vec<&[u8]>)> = vec![
                (LOOKUP, vec![&name]),
                (UNLINK, vec![&name]),
                (RMDIR, vec![&name]),
                (
                    MKDIR,
                    vec![
                        MkdirIn {
                            mode: 0o755,
                            umask: 0,
                        }
                        .as_bytes()
                        .to_vec()
                        .leak(),
                        &name,
                    ],
                ),
                (
                    MKNOD,
                    vec![
                        MknodIn {
                            mode: 0o100_644,
                            ..MknodIn::default()
                        }
                        .as_bytes()
                        .to_vec()
                        .leak(),
                        &name,
                    ],
                ),
                (
                    CREATE,
                    vec![
                        CreateIn {
                            flags: 0o102,
                            mode: 0o100_644,
                            ..CreateIn::default()
                        }
                        .as_bytes()
                        .to_vec()
                        .leak(),
                        &name,
                    ],
                ),
                (SYMLINK, vec![&name, b"target\0"]),
                (LINK, vec![&[0; 8], &name]),
                (RENAME, vec![&target, &name, &good]),
                (RENAME, vec![&target, &good, &name]),
                (RENAME2, vec![rename2.as_bytes(), &name, &good]),
                (RENAME2, vec![rename2.as_bytes(), &good, &name]),
            ];
            for (opcode, mut parts) in requests {
                let node = file.to_le_bytes();
                if opcode == LINK {
                    parts[0] = &node;
                }
                for parent in [ROOT, dir] {
                    let outcome = fs.raw(opcode, parent, &parts.concat(), 4096);
                    if opcode == LOOKUP && matches!(&name[..], b".\0" | b"..\0") {
                        // What the guest knows already, by its tables: the directory itself, or the root above it.
                        let known = if name.len() == 2 { parent } else { ROOT };
                        let Outcome::Reply { error: 0, body } = outcome else {
                            panic!("{outcome:?}")
                        };
                        assert_eq!(body[..8], known.to_le_bytes());
                        continue;
                    }
                    assert_eq!(
                        outcome.errno(),
                        Some(Errno::EINVAL),
                        "opcode {opcode}: {}",
                        name.escape_ascii()
                    );
                }
            }
        }
        let left: Vec<_> = fs::read_dir(&outside).expect("list").collect();
        assert_eq!(left.len(), 1);
        assert_eq!(fs::read_to_string(outside.join("file")).expect("read"), "canary");
        assert_eq!(fs::read_dir(daemon.share()).expect("list").count(), 2);
    }
}

/// CVE-2020-35517, CVE-2023-2861: a guest made a device node or a FIFO and had the server open it.
#[test]
fn a_device_or_fifo_that_the_guest_made_is_never_opened() {
    for sandbox in SANDBOXES {
        // By default there is no way to make one.
        let (daemon, fs) = Daemon::with_client([sandbox]);
        assert_eq!(capabilities(&daemon) & MKNOD_BIT, 0);
        for kind in [libc::S_IFCHR, libc::S_IFBLK] {
            let made = fs.mknod(ROOT, "device", kind | 0o666, 0x105);
            assert_eq!(made.map(drop), Err(Errno::EPERM));
        }
        assert!(!daemon.host("device").exists());
        if sandbox.ends_with("namespace") {
            assert!(root_mount(&daemon).contains("nodev"));
        }
        // Where it was asked for they are made, and belong to the guest's kernel.
        let (daemon, fs) = Daemon::with_client([sandbox, "--allow-device-nodes"]);
        assert_ne!(capabilities(&daemon) & MKNOD_BIT, 0);
        for (name, kind) in [
            ("character", libc::S_IFCHR),
            ("block", libc::S_IFBLK),
            ("fifo", libc::S_IFIFO),
            ("socket", libc::S_IFSOCK),
        ] {
            // Of the kinds that a host has: its memory, its first disk.
            let node = fs.mknod(ROOT, name, kind | 0o666, 0x105).expect("MKNOD").nodeid;
            for flags in [
                libc::O_RDONLY,
                libc::O_WRONLY,
                libc::O_RDWR,
                libc::O_RDWR | libc::O_TRUNC,
            ] {
                assert_eq!(fs.open(node, flags).map(drop), Err(Errno::ENXIO), "{name}");
                assert!(fs.create(ROOT, name, flags, 0o644).is_err(), "{name}");
            }
            assert!(fs.setattr(node, SetAttr::default().size(0)).is_err(), "{name}");
            assert_eq!(fs.opendir(node).map(drop), Err(Errno::ENOTDIR), "{name}");
        }
        assert!(daemon.is_alive());
    }
}

/// CVE-2022-0358: the server kept root's supplementary groups while it created as the guest's user, who got files with
/// setgid and a group that was not his.
#[test]
fn supplementary_groups_are_set_before_the_fs_uid() {
    const GROUP: u32 = 5000;
    // What the daemon is born with.
    nix::unistd::setgroups(&[nix::unistd::Gid::from_raw(GROUP), nix::unistd::Gid::from_raw(0)])
        .expect("setgroups");
    for sandbox in SANDBOXES {
        let (daemon, fs) = Daemon::with_client([sandbox]);
        let dir = daemon.host("dir");
        fs::create_dir(&dir).expect("mkdir");
        chown(&dir, Some(0), Some(GROUP)).expect("chown");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o2777)).expect("chmod");
        let node = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
        let user = fs.as_user(1000, 1000).with_umask(0);
        user.create(node, "created", libc::O_RDWR, 0o2755)
            .expect("CREATE");
        user.mknod(node, "made", libc::S_IFREG | 0o2755, 0)
            .expect("MKNOD");
        for name in ["created", "made"] {
            let meta = fs::metadata(dir.join(name)).expect("stat");
            assert_eq!((meta.uid(), meta.gid()), (1000, GROUP), "the directory's group");
            assert_eq!(
                meta.mode() & 0o7777,
                0o755,
                "{name}: {sandbox}: setgid of a group that is not the user's"
            );
        }
        // Root's files keep it, and the daemon has no groups at all.
        fs.with_umask(0)
            .create(node, "roots", libc::O_RDWR, 0o2755)
            .expect("CREATE");
        assert_eq!(
            fs::metadata(dir.join("roots")).expect("stat").mode() & 0o7777,
            0o2755
        );
        for process in [
            daemon.worker().expect("a worker").pid(),
            daemon.supervisor().pid(),
        ] {
            let status = fs::read_to_string(format!("/proc/{process}/status")).expect("status");
            let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
            assert_eq!(groups.map(str::trim), Some(""));
        }
    }
}

/// CVE-2021-20263: a capability under a mapped name outlived a write to its program.
#[test]
fn a_remapped_capability_does_not_survive_a_write() {
    const KEY: &str = "security.capability";
    let (_daemon, fs) = Daemon::with_client(["--xattr", "--xattrmap=:map::user.guest.:"]);
    let (entry, file) = fs.create(ROOT, "program", libc::O_RDWR, 0o755).expect("CREATE");
    let node = entry.nodeid;
    fs.write(file, 0, &[1; 4096]).expect("WRITE");
    type Change = fn(&Client, u64, airlockfs_tests::fuse::Opened) -> Result<(), Errno>;
    let changes: &[(&str, Change)] = &[
        ("a write", |fs, _, file| fs.write(file, 0, b"x").map(drop)),
        ("a write too large for the ring", |fs, _, file| {
            fs.write(file, 0, &[2; 300_000]).map(drop)
        }),
        ("a write after it", |fs, _, file| {
            fs.write(file, 7, b"y").map(drop)
        }),
        ("truncation", |fs, node, _| {
            fs.setattr(node, SetAttr::default().size(5)).map(drop)
        }),
        ("a new owner", |fs, node, _| {
            fs.setattr(node, SetAttr::default().uid(1)).map(drop)
        }),
        ("allocation", |fs, _, file| fs.fallocate(file, 0, 0, 9000)),
        ("a copy", |fs, _, file| {
            fs.copy_file_range((file, 0), (file, 4096), 100).map(drop)
        }),
        ("opening it empty", |fs, node, _| {
            fs.open(node, libc::O_RDWR | libc::O_TRUNC).map(drop)
        }),
    ];
    for (what, change) in changes {
        fs.setxattr(node, KEY, b"capability", 0).expect("SETXATTR");
        assert_eq!(fs.getxattr(node, KEY, 100).expect("GETXATTR"), b"capability");
        change(&fs, node, file).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(fs.getxattr(node, KEY, 100), Err(Errno::ENODATA), "{what}");
    }
}

/// CVE-2026-46695, CVE-2020-28914: only the guest knew that the share was read-only.
#[test]
fn read_only_is_kept_by_the_hosts_kernel() {
    let (daemon, fs) = Daemon::with_client(["--readonly"]);
    fs::write(daemon.host("file"), "text").expect("write");
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    let file = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let rofs = Err(Errno::EROFS);
    assert_eq!(fs.open(file, libc::O_RDWR).map(drop), rofs);
    assert_eq!(fs.create(ROOT, "new", libc::O_RDWR, 0o644).map(drop), rofs);
    assert_eq!(fs.mkdir(ROOT, "new", 0o755).map(drop), rofs);
    assert_eq!(fs.unlink(ROOT, "file"), rofs);
    assert_eq!(fs.rename(ROOT, "file", ROOT, "new"), rofs);
    assert_eq!(fs.setattr(file, SetAttr::default().mode(0)).map(drop), rofs);
    // Whoever takes the worker over meets three more refusals: the mount, Landlock and the filter.
    assert!(
        root_mount(&daemon).split(',').any(|option| option == "ro"),
        "{}",
        root_mount(&daemon)
    );
    let policy = std::process::Command::new(
        airlockfs_tests::daemon::bin_dir()
            .expect("binaries")
            .join("airlockfsd"),
    )
    .args([
        "policy",
        "show",
        "--shared-dir=/",
        "--socket-path=/s",
        "--readonly",
        "--format=json",
    ])
    .output()
    .expect("policy show");
    let policy = String::from_utf8(policy.stdout).expect("text");
    for absent in [
        "pwritev2",
        "unlinkat",
        "mkdirat",
        "renameat2",
        "fchmodat",
        "ftruncate",
        "\"write_file\"",
        "make_reg",
    ] {
        assert!(!policy.contains(absent), "{absent} is allowed");
    }
    assert!(policy.contains("preadv2") && policy.contains("read_file"));
}

/// CVE-2026-77179, 9pfs CVE-2016-9602: a directory or file was swapped for a link behind the server's back.
#[test]
fn a_link_swapped_in_on_the_host_is_not_followed() {
    for sandbox in SANDBOXES {
        let home = TempDir::new().expect("a directory");
        let (share, outside) = (home.join("share"), home.join("outside"));
        for dir in [share.join("hot"), share.join("cold"), outside.clone()] {
            fs::create_dir_all(&dir).expect("mkdir");
            fs::write(dir.join("file"), if dir == outside { "canary" } else { "text" }).expect("write");
        }
        fs::write(share.join("single"), "text").expect("write");
        let daemon = Launch::airlockfs().share(&share).args([sandbox]).start();
        let fs = daemon.client();
        let node = |parent, name: &str| fs.lookup(parent, name).expect("LOOKUP").nodeid;
        // One directory that the worker has in hand, one that it only knows by name.
        let (hot, cold, single) = (node(ROOT, "hot"), node(ROOT, "cold"), node(ROOT, "single"));
        let inside = node(hot, "file");
        for name in ["hot", "cold", "single"] {
            fs::rename(share.join(name), home.join(name)).expect("rename");
            let target = if name == "single" {
                outside.join("file")
            } else {
                outside.clone()
            };
            symlink(target, share.join(name)).expect("symlink");
        }
        for dir in [hot, cold] {
            for name in ["file", "new"] {
                if let Ok(entry) = fs.lookup(dir, name) {
                    assert_ne!(
                        entry.attr.ino,
                        fs::metadata(outside.join("file")).expect("stat").ino()
                    );
                }
                let _ = fs.create(dir, name, libc::O_RDWR | libc::O_TRUNC, 0o666);
                let _ = fs.unlink(dir, name);
                let _ = fs.rename(dir, name, ROOT, "taken");
            }
            let _ = fs.mkdir(dir, "made", 0o755);
        }
        for file in [inside, single] {
            if let Ok(open) = fs.open(file, libc::O_RDWR) {
                assert_ne!(fs.read(open, 0, 100).expect("READ"), b"canary");
                let _ = fs.write(open, 0, b"guest");
            }
            let _ = fs.setattr(file, SetAttr::default().size(0).mode(0o777));
        }
        // By name they are links now, and nothing is beneath them.
        for name in ["hot", "cold", "single"] {
            let link = fs.lookup(ROOT, name).expect("LOOKUP");
            assert_eq!(link.attr.kind(), libc::S_IFLNK);
            assert_eq!(fs.lookup(link.nodeid, "file").map(drop), Err(Errno::ENOTDIR));
        }
        assert_eq!(fs::read_to_string(outside.join("file")).expect("read"), "canary");
        assert_eq!(fs::read_dir(&outside).expect("list").count(), 1, "{sandbox}");
        assert_eq!(permissions(&outside.join("file")), 0o644);
    }
}

fn permissions(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").mode() & 0o7777
}

/// CVE-2020-10717: a guest used up the server's descriptors, and with them the host's.
#[test]
fn a_guest_that_takes_all_descriptors_stops_itself_only() {
    let (mut daemon, fs) = Daemon::with_client(["--rlimit-nofile=256"]);
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    let mut taken = Vec::new();
    for _ in 0..2000 {
        match fs.open(file.node, libc::O_RDWR) {
            Ok(open) => {
                // The descriptor goes to the supervisor as well.
                let _ = fs.read(open, 0, 64 << 10);
                taken.push(open);
            }
            Err(error) => {
                assert!(matches!(error, Errno::ENFILE | Errno::EMFILE), "{error}");
                break;
            }
        }
    }
    assert!((50..256).contains(&taken.len()), "{} files", taken.len());
    for process in [&daemon.worker().expect("a worker"), daemon.supervisor()] {
        assert!(process.descriptors().expect("descriptors").len() <= 256);
    }
    // What needs none, or one for a moment, goes on; and so does the daemon's own business.
    let dir = fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR").nodeid;
    fs.rename(ROOT, "file", dir, "file").expect("RENAME");
    assert_eq!(fs.statfs(ROOT).map(drop), Ok(()));
    fs.release(taken[0]).expect("RELEASE");
    fs.open(file.node, libc::O_RDONLY).expect("OPEN");
    assert_eq!(daemon.terminate().code(), Some(0));
}

/// CVE-2026-44210: a pod's annotation added `-o source=/ --sandbox=none` to the command line of a launcher.
#[test]
fn options_that_a_launcher_was_made_to_add_are_refused() {
    for injected in [
        &["-o", "source=/", "--sandbox=none"][..],
        &["-o", "source=/"],
        &["--shared-dir=/"],
        &["--shared-dir", "/"],
        &["-o", "source=/,sandbox=none"],
        &["-o", "sandbox=none", "-o", "sandbox=namespace"],
        &["--sandbox=namespace", "-o", "sandbox=none"],
        &["--sandbox=namespace", "--sandbox=none"],
        &["--seccomp=kill", "--seccomp=none"],
        &["--seccomp=kill", "-o", "seccomp=none"],
        &["--socket-path=/tmp/elsewhere"],
        &["-o", "socket_path=/tmp/elsewhere"],
    ] {
        let started = Launch::airlockfs().args(injected).try_start().expect("a start");
        let failure = match started {
            Err(failure) => failure,
            Ok(daemon) => panic!("{injected:?} were taken: {:#?}", daemon.log()),
        };
        assert_eq!(
            failure.status.code(),
            Some(64),
            "{injected:?}: {:#?}",
            failure.log
        );
    }
    // What was not asked twice is taken as it is.
    let (_daemon, fs) = Daemon::with_client(["--sandbox=namespace"]);
    assert!(matches!(
        fs.raw(LOOKUP, ROOT, b"none\0", 128),
        Outcome::Reply { .. }
    ));
}
