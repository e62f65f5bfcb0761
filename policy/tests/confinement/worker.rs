//! What a confined worker is, and what it can still do.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use airlockfs_breach::{Argument, Order};
use airlockfs_policy::UserNamespace;
use libc::*;
use nix::mount::{MsFlags, mount, umount};

use crate::Test;
use crate::outside::{KILLED, Outcome, Scratch, Session, config, try_worker, worker};

pub(crate) const TESTS: &[Test] = &[
    (
        "the worker's root is the share and nothing else is mounted",
        root_is_the_share,
    ),
    ("the worker serves files through /proc/self/fd", serves_files),
    (
        "the worker has the capabilities of a file server and no others",
        capabilities,
    ),
    (
        "the worker creates as the caller and comes back",
        creates_as_the_caller,
    ),
    (
        "the worker sees mounts that arrive beneath the share",
        sees_later_mounts,
    ),
    ("a share that was swapped is refused", swapped_share),
    ("a share behind a symbolic link is refused", linked_share),
    ("unexpected descriptors are closed", unexpected_descriptors),
];

/// Arguments of openat(2) as the worker makes them: what is opened by number or created is opened so; everything else
/// follows no link.
pub(crate) fn openat(session: &Session, directory: i32, name: &str, flags: i32) -> [Argument; 4] {
    let by_number = directory == AT_FDCWD && flags & O_CREAT == 0;
    let directory = match directory {
        AT_FDCWD if !by_number => session.descriptors[1],
        directory => directory,
    };
    let flags = if by_number { flags } else { flags | O_NOFOLLOW };
    [directory.into(), name.into(), flags.into(), 0o600.into()]
}

pub(crate) fn open(session: &Session, directory: i32, name: &str, flags: i32) -> Outcome {
    session.call(SYS_openat, &openat(session, directory, name, flags))
}

pub(crate) fn must_open(session: &Session, directory: i32, name: &str, flags: i32) -> i32 {
    session
        .must(SYS_openat, &openat(session, directory, name, flags))
        .0 as i32
}

pub(crate) const fn errno(number: i32) -> Outcome {
    Outcome::Returned(-(number as i64))
}

fn root_is_the_share() {
    let scratch = Scratch::new("root");
    fs::write(scratch.path().join("inside"), "").unwrap();
    let session = worker(&config(scratch.path()));
    let mounts = session.proc("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let options = mounts.split_whitespace().nth(5).unwrap();
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(options.contains(option), "{options}");
    }
    must_open(&session, AT_FDCWD, "/inside", O_RDONLY);
    for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let own = session.proc(&format!("ns/{name}"));
        assert_ne!(
            own,
            fs::read_link(format!("/proc/self/ns/{name}"))
                .unwrap()
                .to_str()
                .unwrap()
        );
        assert!(session.report.namespaces.iter().any(|reported| reported == name));
    }
    assert_eq!(session.report.weakened, Vec::<String>::new());
    assert!(session.report.landlock_abi >= 2 && session.report.filter_instructions > 100);
    assert_eq!(session.status("Seccomp"), "2");
    assert_eq!(session.status("NoNewPrivs"), "1");
    assert_eq!(session.status("Groups"), "");
    assert_eq!(session.status("Umask"), "0000");
}

fn serves_files() {
    let scratch = Scratch::new("serves");
    fs::create_dir(scratch.path().join("a")).unwrap();
    fs::create_dir(scratch.path().join("b")).unwrap();
    fs::write(scratch.path().join("file"), "old").unwrap();
    std::os::unix::fs::symlink("nowhere", scratch.path().join("link")).unwrap();
    let session = worker(&config(scratch.path()));
    let root = session.descriptors[1];
    let hold = |name: &str| must_open(&session, root, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    let by_number = |fd: i32| Argument::from(fd.to_string().as_str());

    // Re-opening what is held, for reading, writing, cutting.
    let file = hold("file");
    for flags in [O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_TRUNC] {
        must_open(&session, AT_FDCWD, &file.to_string(), flags);
    }
    must_open(&session, AT_FDCWD, &hold("a").to_string(), O_RDONLY | O_DIRECTORY);
    // Attributes of what is held, symbolic links included.
    session.must(SYS_fchmodat, &[AT_FDCWD.into(), by_number(file), 0o4755.into()]);
    let found = fs::metadata(scratch.path().join("file")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o4755);
    for held in [file, hold("link")] {
        session.must(
            SYS_fchownat,
            &[
                held.into(),
                "".into(),
                1234.into(),
                1234.into(),
                AT_EMPTY_PATH.into(),
            ],
        );
        session.must(
            SYS_utimensat,
            &[AT_FDCWD.into(), by_number(held), Argument::Buffer(32), 0.into()],
        );
    }
    assert_eq!(
        fs::symlink_metadata(scratch.path().join("link")).unwrap().uid(),
        1234
    );
    // Attributes by name.
    let value = || Argument::Bytes(b"value".to_vec());
    session.must(
        SYS_setxattr,
        &[by_number(file), "user.a".into(), value(), 5.into(), 0.into()],
    );
    let (length, read) = session.must(
        SYS_getxattr,
        &[by_number(file), "user.a".into(), Argument::Buffer(5), 5.into()],
    );
    assert_eq!((length, read.as_slice()), (5, &b"value"[..]));
    // Links and names, between directories too, and for files that had none.
    let (a, b) = (hold("a"), hold("b"));
    session.must(
        SYS_linkat,
        &[
            AT_FDCWD.into(),
            by_number(file),
            a.into(),
            "hard".into(),
            AT_SYMLINK_FOLLOW.into(),
        ],
    );
    session.must(
        SYS_renameat2,
        &[a.into(), "hard".into(), b.into(), "moved".into(), 0.into()],
    );
    session.must(SYS_unlinkat, &[b.into(), "moved".into(), 0.into()]);
    let temporary = must_open(&session, AT_FDCWD, &a.to_string(), O_TMPFILE | O_RDWR);
    let link = [
        AT_FDCWD.into(),
        by_number(temporary),
        b.into(),
        "named".into(),
        AT_SYMLINK_FOLLOW.into(),
    ];
    session.must(SYS_linkat, &link);
    assert!(scratch.path().join("b/named").exists());
    // Things of the guest's kernel, without its umask.
    session.must(
        SYS_mknodat,
        &[
            root.into(),
            "fifo".into(),
            (S_IFIFO as i32 | 0o666).into(),
            0.into(),
        ],
    );
    session.must(SYS_mkdirat, &[root.into(), "dir".into(), 0o777.into()]);
    session.must(SYS_symlinkat, &["target".into(), root.into(), "symlink".into()]);
    assert_eq!(
        fs::metadata(scratch.path().join("dir")).unwrap().mode() & 0o777,
        0o777
    );
    // A file that is gone but open.
    session.must(SYS_unlinkat, &[root.into(), "file".into(), 0.into()]);
    must_open(&session, AT_FDCWD, &file.to_string(), O_RDWR);
    // Its threads all run by now.
    assert_eq!(session.order(Order::Thread), Err(KILLED));
}

fn capabilities() {
    let scratch = Scratch::new("capabilities");
    let session = worker(&config(scratch.path()));
    // CHOWN DAC_OVERRIDE FOWNER FSETID SETGID SETUID SETFCAP
    let expected = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1_u64 << 31;
    assert_eq!(session.report.capabilities, expected);
    for set in ["CapPrm", "CapEff"] {
        assert_eq!(
            u64::from_str_radix(&session.status(set), 16).unwrap(),
            expected,
            "{set}"
        );
    }
    for set in ["CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&session.status(set), 16).unwrap(), 0, "{set}");
    }
    // Root's write leaves setuid alone: the guest decides.
    let file = scratch.path().join("file");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o6777)).unwrap();
    let open = must_open(&session, AT_FDCWD, "/file", O_WRONLY);
    write(&session, open);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o6777);
}

/// Writes two bytes at the beginning: an `iovec` has an address, which one buffer cannot hold of itself.
fn write(session: &Session, file: i32) {
    session.must(
        SYS_write,
        &[file.into(), Argument::Bytes(b"xy".to_vec()), 2.into()],
    );
}

fn creates_as_the_caller() {
    let scratch = Scratch::new("caller");
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(scratch.path().join("closed")).unwrap();
    fs::set_permissions(scratch.path().join("closed"), Permissions::from_mode(0o700)).unwrap();
    let session = worker(&config(scratch.path()));
    session.must(SYS_setgroups, &[0.into(), 0.into()]);
    session.must(SYS_setfsgid, &[1001.into()]);
    session.must(SYS_setfsuid, &[1000.into()]);
    must_open(&session, AT_FDCWD, "/mine", O_CREAT | O_EXCL | O_WRONLY);
    let found = fs::metadata(scratch.path().join("mine")).unwrap();
    assert_eq!((found.uid(), found.gid()), (1000, 1001));
    // As the caller it has no power over other users' files; back as root it has.
    assert_eq!(
        open(&session, AT_FDCWD, "/closed/new", O_CREAT | O_WRONLY),
        errno(EACCES)
    );
    session.must(SYS_setfsuid, &[0.into()]);
    must_open(&session, AT_FDCWD, "/closed/new", O_CREAT | O_WRONLY);
}

fn sees_later_mounts() {
    let scratch = Scratch::new("mounts");
    fs::create_dir(scratch.path().join("volume")).unwrap();
    let session = worker(&config(scratch.path()));
    let volume = scratch.path().join("volume");
    mount(
        Some("tmpfs"),
        &volume,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    fs::write(volume.join("arrived"), "").unwrap();
    let held = must_open(&session, AT_FDCWD, "/volume/arrived", O_PATH);
    let reopened = must_open(&session, AT_FDCWD, &held.to_string(), O_RDWR);
    let new = must_open(&session, AT_FDCWD, "/volume/new", O_CREAT | O_WRONLY);
    // And it does not hold it: detached on the host, it is gone here.
    for descriptor in [held, reopened, new] {
        session.must(SYS_close, &[descriptor.into()]);
    }
    umount(&volume).unwrap();
    assert_eq!(open(&session, AT_FDCWD, "/volume/arrived", O_PATH), errno(ENOENT));
}

fn swapped_share() {
    let scratch = Scratch::new("swapped");
    let shared = scratch.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let config = config(&shared);
    fs::rename(&shared, scratch.path().join("away")).unwrap();
    fs::create_dir(&shared).unwrap();
    let refused = try_worker(&config, UserNamespace::Auto, &[]).err().unwrap();
    assert!(
        refused.starts_with("66 ") && refused.contains("replaced"),
        "{refused}"
    );
}

fn linked_share() {
    let scratch = Scratch::new("linked");
    std::os::unix::fs::symlink("/etc", scratch.path().join("shared")).unwrap();
    let config = config(&scratch.path().join("shared"));
    let refused = try_worker(&config, UserNamespace::Auto, &[]).err().unwrap();
    assert!(refused.starts_with("66 "), "{refused}");
}

fn unexpected_descriptors() {
    let scratch = Scratch::new("descriptors");
    let (kept, _inherited) = (File::open("/etc/passwd").unwrap(), File::open("/").unwrap());
    // Inherited without close-on-exec, as a careless launcher leaves it.
    nix::fcntl::fcntl(
        _inherited.as_fd(),
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let session = try_worker(&config(scratch.path()), UserNamespace::Auto, &[&kept]).unwrap();
    let mut held: Vec<String> = fs::read_dir(format!("/proc/{}/fd", session.pid))
        .unwrap()
        .map(|entry| {
            fs::read_link(entry.unwrap().path())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    held.sort();
    let stderr = fs::read_link("/proc/self/fd/2").unwrap();
    held.retain(|name| name != stderr.to_str().unwrap() && !name.starts_with("socket:"));
    // Null twice, what was handed over, the share and the list of descriptors.
    assert_eq!(held, ["/", "/", "/dev/null", "/dev/null", "/etc/passwd"]);
}
