//! What the options of the command line give a worker, and what still holds where they weaken it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;

use airlockfs_breach::Argument;
use airlockfs_ipc::message::{Sandbox, SeccompMode};
use airlockfs_policy::UserNamespace;
use libc::*;
use nix::mount::{MsFlags, mount, umount};
use nix::unistd::pipe;

use crate::Test;
use crate::inside::TELLS;
use crate::outside::{KILLED, Outcome, Scratch, config, share, try_worker, worker, worker_with_log};
use crate::worker::{errno, must_open, open};

pub(crate) const TESTS: &[Test] = &[
    ("read-only holds by the filter", readonly_by_filter),
    (
        "read-only holds by the kernel without the filter",
        readonly_without_filter,
    ),
    (
        "without namespaces Landlock still holds the worker",
        without_namespaces,
    ),
    ("with --sandbox chroot the share is the root", with_chroot),
    ("device nodes need their option", device_nodes),
    (
        "a trapped call is told with its arguments before the process ends",
        trapped_call_is_told,
    ),
    ("without xattr the worker has no call for them", without_xattr),
    (
        "several shares stand side by side in a read-only root",
        several_shares,
    ),
];

fn trapped_call_is_told() {
    let scratch = Scratch::new("told");
    let mut telling = config(scratch.path());
    telling.seccomp = SeccompMode::Trap;
    telling.poll_us = TELLS;
    let (log, written) = pipe().unwrap();
    let session = worker_with_log(&telling, UserNamespace::Auto, &[], written.as_fd()).unwrap();
    drop(written);
    let arguments = [2, 0x1234_5678_9abc, 0, -1_i64 as u64, 5, 6].map(Argument::from);
    let code = i32::from(airlockfs_policy::TRAPPED);
    assert_eq!(session.call(SYS_socket, &arguments), Outcome::Exited(code));
    let mut text = String::new();
    File::from(log).read_to_string(&mut text).unwrap();
    let call = format!("{SYS_socket:#x} with arguments 0x2 0x123456789abc 0x0 0xffffffffffffffff 0x5 0x6");
    assert_eq!(
        text,
        format!("airlockfs-worker: ERROR: forbidden system call {call}\n")
    );
}

fn readonly_by_filter() {
    let scratch = Scratch::new("readonly");
    fs::write(scratch.path().join("file"), "x").unwrap();
    let mut readonly = config(scratch.path());
    readonly.readonly = true;
    let session = worker(&readonly);
    assert!(
        session
            .proc("mountinfo")
            .split_whitespace()
            .nth(5)
            .unwrap()
            .starts_with("ro,")
    );
    must_open(&session, AT_FDCWD, "/file", O_RDONLY);
    let root = Argument::from(session.descriptors[1]);
    drop(session);
    let text = |text: &str| Argument::from(text);
    let openat = |flags: i32| {
        (
            SYS_openat,
            vec![AT_FDCWD.into(), text("/file"), flags.into(), 0.into()],
        )
    };
    let calls: &[(i64, Vec<Argument>)] = &[
        openat(O_WRONLY),
        openat(O_RDWR),
        openat(O_RDONLY | O_TRUNC),
        openat(O_RDONLY | O_CREAT),
        openat(O_TMPFILE | O_RDWR),
        (SYS_unlinkat, vec![root.clone(), text("file"), 0.into()]),
        (SYS_mkdirat, vec![root.clone(), text("new"), 0.into()]),
        (
            SYS_renameat2,
            vec![root.clone(), text("file"), root.clone(), text("new"), 0.into()],
        ),
        (SYS_fchmodat, vec![root.clone(), text("file"), 0.into()]),
        (
            SYS_setxattr,
            vec![text("/file"), text("user.a"), text("v"), 1.into(), 0.into()],
        ),
        (
            SYS_pwritev2,
            vec![root.clone(), 0.into(), 0.into(), 0.into(), 0.into(), 0.into()],
        ),
        (SYS_ftruncate, vec![root, 0.into()]),
    ];
    for (number, arguments) in calls {
        let session = worker(&readonly);
        assert_eq!(session.call(*number, arguments), KILLED, "{number} {arguments:?}");
    }
}

fn readonly_without_filter() {
    let scratch = Scratch::new("readonly-none");
    fs::write(scratch.path().join("file"), "x").unwrap();
    fs::create_dir(scratch.path().join("volume")).unwrap();
    let mut readonly = config(scratch.path());
    readonly.readonly = true;
    readonly.seccomp = SeccompMode::None;
    let session = worker(&readonly);
    assert_eq!(open(&session, AT_FDCWD, "/file", O_WRONLY), errno(EROFS));
    assert_eq!(open(&session, AT_FDCWD, "/new", O_CREAT | O_WRONLY), errno(EROFS));
    // A volume that arrives later is writable as a mount: Landlock holds there.
    let volume = scratch.path().join("volume");
    mount(
        Some("tmpfs"),
        &volume,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    fs::write(volume.join("file"), "x").unwrap();
    for (name, flags) in [
        ("file", O_WRONLY),
        ("file", O_RDONLY | O_TRUNC),
        ("new", O_CREAT | O_WRONLY),
    ] {
        let outcome = open(&session, AT_FDCWD, &format!("/volume/{name}"), flags);
        assert_eq!(outcome, errno(EACCES), "{name} {flags:#x}");
    }
    let mkdir = [AT_FDCWD.into(), "/volume/new".into(), 0.into()];
    assert_eq!(session.call(SYS_mkdirat, &mkdir), errno(EACCES));
    drop(session);
    umount(&volume).unwrap();
}

fn without_namespaces() {
    let scratch = Scratch::new("sandbox-none");
    let host = Scratch::new("sandbox-none-host");
    fs::write(host.path().join("secret"), "x").unwrap();
    fs::write(scratch.path().join("file"), "x").unwrap();
    let mut open_sandbox = config(scratch.path());
    open_sandbox.sandbox = Sandbox::None;
    let session = worker(&open_sandbox);
    assert!(session.report.namespaces.is_empty() && !session.report.weakened.is_empty());
    let secret = host.path().join("secret");
    let secret = secret.to_str().unwrap();
    assert_eq!(open(&session, AT_FDCWD, secret, O_RDONLY), errno(EACCES));
    assert_eq!(open(&session, AT_FDCWD, "/etc/passwd", O_RDONLY), errno(EACCES));
    assert_eq!(open(&session, AT_FDCWD, "/proc/self/mem", O_RDWR), errno(EACCES));
    // Neither by a detour over a descriptor, which O_PATH gives.
    let held = must_open(&session, AT_FDCWD, secret, O_PATH);
    assert_eq!(
        open(&session, AT_FDCWD, &held.to_string(), O_RDONLY),
        errno(EACCES)
    );
    let unlink = [AT_FDCWD.into(), secret.into(), 0.into()];
    assert_eq!(session.call(SYS_unlinkat, &unlink), errno(EACCES));
    let file = must_open(&session, session.descriptors[1], "file", O_PATH);
    must_open(&session, AT_FDCWD, &file.to_string(), O_RDWR);
}

fn with_chroot() {
    let scratch = Scratch::new("chroot");
    fs::write(scratch.path().join("file"), "x").unwrap();
    let mut chroot = config(scratch.path());
    chroot.sandbox = Sandbox::Chroot;
    let session = worker(&chroot);
    assert_eq!(session.proc("root"), scratch.path().to_str().unwrap());
    assert_eq!(open(&session, AT_FDCWD, "/etc/passwd", O_RDONLY), errno(ENOENT));
    assert_eq!(
        open(&session, AT_FDCWD, "../../../etc/passwd", O_RDONLY),
        errno(ENOENT)
    );
    assert_eq!(
        open(&session, session.descriptors[1], "../../etc/passwd", O_RDONLY),
        errno(ENOENT)
    );
    let file = must_open(&session, AT_FDCWD, "/file", O_PATH);
    must_open(&session, AT_FDCWD, &file.to_string(), O_RDWR);
}

fn device_nodes() {
    let scratch = Scratch::new("devices");
    let mknod = |name: &str| {
        [
            AT_FDCWD.into(),
            name.into(),
            (S_IFCHR as i32 | 0o600).into(),
            makedev(1, 3).into(),
        ]
    };
    let session = worker(&config(scratch.path()));
    assert_eq!(session.call(SYS_mknodat, &mknod("/null")), KILLED);
    let mut devices = config(scratch.path());
    devices.device_nodes = true;
    let session = worker(&devices);
    session.must(SYS_mknodat, &mknod("/null"));
    // Made, but never opened: the mount says nodev.
    assert_eq!(open(&session, AT_FDCWD, "/null", O_RDONLY), errno(EACCES));
}

fn without_xattr() {
    let scratch = Scratch::new("xattr");
    let mut plain = config(scratch.path());
    plain.xattr = false;
    for number in [SYS_getxattr, SYS_listxattr, SYS_setxattr, SYS_removexattr] {
        let session = worker(&plain);
        let outcome = session.call(
            number,
            &[
                "/".into(),
                "user.a".into(),
                Argument::Buffer(8),
                8.into(),
                0.into(),
            ],
        );
        assert_eq!(outcome, KILLED, "{number}");
    }
}

fn several_shares() {
    let (first, second) = (Scratch::new("first"), Scratch::new("second"));
    fs::write(second.path().join("file"), "x").unwrap();
    fs::create_dir(second.path().join("volume")).unwrap();
    let mut several = config(first.path());
    several.seccomp = SeccompMode::None;
    several.shares = vec![share(first.path()), share(second.path())];
    several.shares[0].name = Some(b"one".to_vec());
    several.shares[1].name = Some(b"two".to_vec());
    several.shares[1].readonly = true;
    let session = worker(&several);
    must_open(&session, AT_FDCWD, "/one/new", O_CREAT | O_WRONLY);
    must_open(&session, AT_FDCWD, "/two/file", O_RDONLY);
    assert_eq!(open(&session, AT_FDCWD, "/two/file", O_WRONLY), errno(EROFS));
    assert_eq!(
        open(&session, AT_FDCWD, "/two/new", O_CREAT | O_WRONLY),
        errno(EROFS)
    );
    assert_eq!(open(&session, AT_FDCWD, "/new", O_CREAT | O_WRONLY), errno(EROFS));
    assert_eq!(session.proc("mountinfo").lines().count(), 3);
    // A volume that arrives later beneath the read-only one is held by Landlock alone.
    let volume = second.path().join("volume");
    mount(
        Some("tmpfs"),
        &volume,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    assert_eq!(
        open(&session, AT_FDCWD, "/two/volume/new", O_CREAT | O_WRONLY),
        errno(EACCES)
    );
    drop(session);
    umount(&volume).unwrap();
    several.shares[1].name = Some(b"../two".to_vec());
    let refused = try_worker(&several, UserNamespace::Auto, &[]).err().unwrap();
    assert!(refused.starts_with("64 "), "{refused}");
}
