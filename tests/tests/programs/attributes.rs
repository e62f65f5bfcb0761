//! Times, owners, modes, attributes and flags.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;

use crate::common::{
    Mounted, as_user, get_xattr, get_xattr_sized, io_outcome, list_xattrs, outcome, remove_xattr,
    same_everywhere, set_xattr, with_umask,
};

const EVERY_CACHE: &[&[&str]] = &[
    &[],
    &["--cache=never"],
    &["--cache=metadata"],
    &["--cache=always"],
    &["--writeback"],
];

/// Seconds that are awkward somewhere: before 1970, after 2038, after 2262 (where 64 bits of nanoseconds end), and the
/// ends of the number.
const SECONDS: &[i64] = &[
    0,
    1,
    -1,
    -2,
    i32::MIN as i64 - 1,
    i32::MIN as i64,
    i32::MAX as i64,
    i32::MAX as i64 + 1,
    u32::MAX as i64 + 1,
    9_223_372_036,
    9_223_372_037,
    -9_223_372_037,
    15_032_385_535,
    15_032_385_536,
    i64::MAX,
    i64::MIN,
];

fn times(metadata: &fs::Metadata) -> [i64; 4] {
    [
        metadata.atime(),
        metadata.atime_nsec(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ]
}

#[test]
fn times_are_what_was_said_or_left_or_now() {
    let write_through = &EVERY_CACHE[..4];
    same_everywhere(write_through, |directory| {
        set_times(directory, SECONDS, &[0, 1, 999_999_999])
    });
    // With a writeback cache the guest's kernel keeps the time that it set itself, without the host's limits.
    let representable: Vec<i64> = SECONDS
        .iter()
        .copied()
        .filter(|seconds| (i64::from(i32::MIN)..=15_032_385_535).contains(seconds))
        .collect();
    same_everywhere(EVERY_CACHE, |directory| {
        set_times(directory, &representable, &[0])
    });
}

fn set_times(directory: &Path, seconds: &[i64], nanoseconds: &[i64]) -> Vec<String> {
    let mut outcomes = Vec::new();
    let path = directory.join("file");
    let file = File::create(&path).expect("create");
    symlink("file", directory.join("link")).expect("symlink");
    fs::create_dir(directory.join("dir")).expect("mkdir");
    for &seconds in seconds {
        for &nanoseconds in nanoseconds {
            let time = TimeSpec::new(seconds, nanoseconds);
            for name in ["file", "link", "dir"] {
                let path = directory.join(name);
                let flags = UtimensatFlags::NoFollowSymlink;
                let set = utimensat(AT_FDCWD, &path, &time, &TimeSpec::new(7, 7), flags);
                let after = fs::symlink_metadata(&path).expect("stat");
                outcomes.push(format!("{name} {time:?}: {}, {:?}", outcome(set), times(&after)));
            }
            let set = futimens(&file, &TimeSpec::UTIME_OMIT, &time);
            let after = file.metadata().expect("stat");
            outcomes.push(format!("omit, {time:?}: {}, {:?}", outcome(set), times(&after)));
            let set = futimens(&file, &time, &TimeSpec::UTIME_OMIT);
            let after = file.metadata().expect("stat");
            outcomes.push(format!("{time:?}, omit: {}, {:?}", outcome(set), times(&after)));
        }
    }
    for wrong in [-1, 1_000_000_000, i64::MAX] {
        let time = TimeSpec::new(5, wrong);
        outcomes.push(outcome(futimens(&file, &time, &time)));
    }
    outcomes.push(outcome(futimens(
        &file,
        &TimeSpec::UTIME_OMIT,
        &TimeSpec::UTIME_OMIT,
    )));
    for (atime, mtime) in [
        (TimeSpec::UTIME_NOW, TimeSpec::UTIME_OMIT),
        (TimeSpec::UTIME_OMIT, TimeSpec::UTIME_NOW),
        (TimeSpec::UTIME_NOW, TimeSpec::UTIME_NOW),
        (TimeSpec::UTIME_NOW, TimeSpec::new(3, 3)),
    ] {
        let old = TimeSpec::new(1000, 5);
        futimens(&file, &old, &old).expect("futimens");
        let set = futimens(&file, &atime, &mtime);
        let is_now = |seconds: i64| seconds > 1_600_000_000;
        let after = file.metadata().expect("stat");
        outcomes.push(format!(
            "{}: {} {}, {}",
            outcome(set),
            is_now(after.atime()),
            is_now(after.mtime()),
            is_now(after.ctime()),
        ));
    }
    // Whose right it is: the owner's, or for NOW that of who may write.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
    for time in [TimeSpec::UTIME_NOW, TimeSpec::new(9, 9)] {
        outcomes.push(as_user(1001, 1001, &[], || {
            outcome(utimensat(
                AT_FDCWD,
                &path,
                &time,
                &time,
                UtimensatFlags::FollowSymlink,
            ))
        }));
    }
    outcomes
}

/// Times that a program sets stay through its own later close, and those of a write move.
#[test]
fn writing_moves_mtime_and_explicit_times_stay() {
    same_everywhere(EVERY_CACHE, |directory| {
        let path = directory.join("file");
        let file = File::create(&path).expect("create");
        let old = TimeSpec::new(1_000_000, 5);
        let mut outcomes = Vec::new();
        std::io::Write::write_all(&mut &file, b"text").expect("write");
        futimens(&file, &old, &old).expect("futimens");
        outcomes.push(times(&file.metadata().expect("stat")));
        drop(file);
        outcomes.push(times(&fs::metadata(&path).expect("stat")));
        let file = File::options().append(true).open(&path).expect("open");
        outcomes.push(times(&file.metadata().expect("stat")));
        std::io::Write::write_all(&mut &file, b"text").expect("write");
        let moved = file.metadata().expect("stat");
        outcomes.push([
            moved.atime(),
            i64::from(moved.mtime() > 1_600_000_000),
            moved.len() as i64,
            0,
        ]);
        drop(file);
        let moved = fs::metadata(&path).expect("stat");
        outcomes.push([
            moved.atime(),
            i64::from(moved.mtime() > 1_600_000_000),
            moved.len() as i64,
            0,
        ]);
        outcomes
    });
}

#[test]
fn birth_time_is_the_hosts() {
    let mounted = Mounted::new(&[]);
    fs::write(mounted.at("file"), "text").expect("write");
    fs::create_dir(mounted.at("dir")).expect("mkdir");
    for name in ["file", "dir", "."] {
        let guest = fs::metadata(mounted.at(name))
            .expect("stat")
            .created()
            .expect("btime");
        let host = fs::metadata(mounted.host(name))
            .expect("stat")
            .created()
            .expect("btime");
        assert_eq!(guest, host, "{name}");
    }
}

fn describe(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Ok(found) => format!("{:o} {} {}", found.mode(), found.uid(), found.gid()),
        Err(error) => format!("{error:?}"),
    }
}

fn make_all(directory: &Path) -> Vec<String> {
    let mut outcomes = Vec::new();
    let make = |name: &str| directory.join(name);
    outcomes.push(io_outcome(File::create(make("file")).map(drop)));
    outcomes.push(io_outcome(fs::create_dir(make("dir"))));
    outcomes.push(outcome(nix::unistd::mkfifo(
        &make("fifo"),
        nix::sys::stat::Mode::from_bits_truncate(0o777),
    )));
    outcomes.push(io_outcome(
        std::os::unix::net::UnixListener::bind(make("socket")).map(drop),
    ));
    outcomes.push(io_outcome(symlink("x", make("link"))));
    for mode in [0o7777, 0o2770] {
        let path = make(&format!("{mode:o}"));
        outcomes.push(outcome(nix::unistd::mkdir(
            &path,
            nix::sys::stat::Mode::from_bits_truncate(mode),
        )));
        outcomes.push(describe(&path));
    }
    for name in ["file", "dir", "fifo", "socket", "link"] {
        outcomes.push(format!("{name}: {}", describe(&make(name))));
    }
    for name in ["file", "fifo", "socket", "link"] {
        let _ = fs::remove_file(make(name));
    }
    for name in ["dir", "7777", "2770"] {
        let _ = fs::remove_dir(make(name));
    }
    outcomes
}

/// Owner, group and mode of what is made: by umask, setgid directories, sticky ones and groups of the caller.
#[test]
fn what_is_made_is_as_on_a_local_file_system() {
    same_everywhere(&[&[], &["--cache=never"], &["--writeback"]], |directory| {
        let mut outcomes = Vec::new();
        for mode in [0o777, 0o2777, 0o1777, 0o3777, 0o2775, 0o770, 0o2770] {
            let place = directory.join(format!("{mode:o}"));
            fs::create_dir(&place).expect("mkdir");
            chown(&place, Some(0), Some(3000)).expect("chown");
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("chmod");
            for umask in [0, 0o022, 0o077, 0o777] {
                outcomes.extend(with_umask(umask, || make_all(&place)));
                for groups in [&[][..], &[3000], &[4000, 3000], &[4000]] {
                    outcomes.extend(with_umask(umask, || {
                        as_user(1000, 2000, groups, || make_all(&place))
                    }));
                }
            }
        }
        outcomes
    });
}

/// Who may remove and rename in a sticky directory, who may chmod, and what setgid becomes outside the group.
#[test]
fn rights_are_those_of_a_local_file_system() {
    same_everywhere(&[&[], &["--cache=never"], &["--killpriv-v2"]], |directory| {
        let mut outcomes = Vec::new();
        let sticky = directory.join("sticky");
        fs::create_dir(&sticky).expect("mkdir");
        fs::set_permissions(&sticky, fs::Permissions::from_mode(0o1777)).expect("chmod");
        for (owner, caller, groups) in [
            (1000, 1000, &[][..]),
            (1000, 1001, &[]),
            (0, 1001, &[]),
            (1000, 0, &[]),
            (1000, 1001, &[1000]),
        ] {
            let path = sticky.join("file");
            fs::write(&path, "text").expect("write");
            chown(&path, Some(owner), Some(1000)).expect("chown");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6770)).expect("chmod");
            let work = || {
                let mut outcomes = Vec::new();
                outcomes.push(io_outcome(fs::read(&path)));
                for mode in [0o2751, 0o4711, 0o6777] {
                    outcomes.push(io_outcome(fs::set_permissions(
                        &path,
                        fs::Permissions::from_mode(mode),
                    )));
                    outcomes.push(describe(&path));
                }
                for (uid, gid) in [
                    (None, Some(1000)),
                    (None, Some(2000)),
                    (None, Some(3000)),
                    (Some(1001), None),
                    (Some(owner), None),
                ] {
                    outcomes.push(io_outcome(chown(&path, uid, gid)));
                    outcomes.push(describe(&path));
                }
                outcomes.push(io_outcome(fs::rename(&path, sticky.join("other"))));
                outcomes.push(io_outcome(fs::remove_file(&path)));
                outcomes
            };
            outcomes.extend(match caller {
                0 => work(),
                _ => as_user(caller, 2000, groups, work),
            });
            let _ = fs::remove_file(sticky.join("other"));
            let _ = fs::remove_file(&path);
        }
        outcomes
    });
}

fn run(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("LC_ALL", "C")
        .output()
        .expect(program);
    format!(
        "{program} {arguments:?}: {:?} {}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn access_lists_count_and_default_ones_take_the_umasks_place() {
    same_everywhere(
        &[
            &["--xattr", "--posix-acl"],
            &["--xattr", "--posix-acl", "--cache=never"],
            &["--xattr", "--posix-acl", "--killpriv-v2"],
        ],
        |directory| {
            let mut outcomes = Vec::new();
            let at = |name: &str| directory.join(name);
            fs::create_dir(at("dir")).expect("mkdir");
            fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o777)).expect("chmod");
            let acl = "u::rwx,g::r-x,o::---,u:1001:rwx,g:2002:r-x,m::rwx";
            outcomes.push(run("setfacl", &["-d", "-m", acl, "dir"], directory));
            for umask in [0, 0o022, 0o077] {
                outcomes.extend(with_umask(umask, || make_all(&at("dir"))));
                outcomes.extend(with_umask(umask, || {
                    as_user(1000, 1000, &[], || make_all(&at("dir")))
                }));
            }
            with_umask(0o077, || {
                fs::create_dir(at("dir/sub")).expect("mkdir");
                fs::write(at("dir/file"), "text").expect("write");
            });
            outcomes.push(run("getfacl", &["-n", "dir", "dir/sub", "dir/file"], directory));
            for (uid, gid, groups) in [
                (1001, 1001, &[][..]),
                (1002, 2002, &[]),
                (1002, 1002, &[2002]),
                (1003, 1003, &[]),
            ] {
                outcomes.push(as_user(uid, gid, groups, || {
                    format!(
                        "{uid} {} {}",
                        io_outcome(fs::read_to_string(at("dir/file"))),
                        io_outcome(File::options().write(true).open(at("dir/file")).map(drop)),
                    )
                }));
            }
            outcomes.push(run("setfacl", &["-m", "u:1003:rw,m::rw", "dir/file"], directory));
            outcomes.push(describe(&at("dir/file")));
            fs::set_permissions(at("dir/file"), fs::Permissions::from_mode(0o740)).expect("chmod");
            outcomes.push(run("getfacl", &["-n", "dir/file"], directory));
            // setgid goes when somebody outside the group sets a list.
            chown(at("dir/file"), Some(1000), Some(3000)).expect("chown");
            fs::set_permissions(at("dir/file"), fs::Permissions::from_mode(0o2770)).expect("chmod");
            let list = get_xattr(&at("dir/file"), c"system.posix_acl_access").expect("getxattr");
            outcomes.push(as_user(1000, 1000, &[], || {
                outcome(set_xattr(&at("dir/file"), c"system.posix_acl_access", &list))
            }));
            outcomes.push(describe(&at("dir/file")));
            outcomes.push(run("setfacl", &["-b", "dir/file"], directory));
            outcomes.push(run("setfacl", &["-k", "dir"], directory));
            outcomes.push(run("getfacl", &["-n", "dir", "dir/file"], directory));
            outcomes
        },
    );
}

/// Sizes asked for, too little room, names and values at their limits: each call's own errors.
#[test]
fn extended_attributes_answer_as_local_ones() {
    same_everywhere(
        &[
            &["--xattr"],
            &["--xattr", "--cache=never"],
            &["--xattr", "--cache=always"],
        ],
        |directory| {
            let mut outcomes = Vec::new();
            let path = directory.join("file");
            fs::write(&path, "text").expect("write");
            fs::create_dir(directory.join("dir")).expect("mkdir");
            symlink("file", directory.join("link")).expect("symlink");
            let names = [c"user.one", c"user.two", c"user.empty", c"trusted.none"];
            let values: [&[u8]; 3] = [b"1", &[7; 1000], b""];
            for (name, value) in names.iter().zip(values) {
                outcomes.push(outcome(set_xattr(&path, name, value)));
                outcomes.push(outcome(set_xattr(&directory.join("dir"), name, value)));
            }
            for name in names {
                for room in [0, 1, 999, 1000, 1001, 65_536, 100_000] {
                    let found = get_xattr_sized(&path, name, &mut vec![0; room]);
                    outcomes.push(format!("{name:?} in {room}: {}", outcome(found)));
                }
            }
            let mut list = list_xattrs(&path, 65_536).expect("listxattr");
            outcomes.push(format!("{}", list.len()));
            list.sort_unstable();
            outcomes.push(format!("{list:?}"));
            let whole = list.len();
            for room in [0, 1, whole - 1, whole, whole + 1, 65_536, 100_000] {
                outcomes.push(format!(
                    "list in {room}: {}",
                    outcome(list_xattrs(&path, room).map(|list| list.len()))
                ));
            }
            let long = |length: usize| {
                std::ffi::CString::new(format!("user.{}", "x".repeat(length - 5))).expect("a name")
            };
            for length in [6, 254, 255, 256, 1000] {
                let name = long(length);
                outcomes.push(format!(
                    "{length}: {} {} {}",
                    outcome(set_xattr(&path, &name, b"v")),
                    outcome(get_xattr(&path, &name)),
                    outcome(remove_xattr(&path, &name)),
                ));
            }
            for size in [2000, 65_536, 65_537, 1 << 20] {
                outcomes.push(format!(
                    "{size}: {}",
                    outcome(set_xattr(&path, c"user.large", &vec![1; size]))
                ));
            }
            for name in [c"", c"user.", c"user", c"unknown.name", c"system.unknown"] {
                outcomes.push(format!(
                    "{name:?}: {} {} {}",
                    outcome(set_xattr(&path, name, b"v")),
                    outcome(get_xattr(&path, name)),
                    outcome(remove_xattr(&path, name)),
                ));
            }
            outcomes.push(outcome(remove_xattr(&path, c"user.absent")));
            outcomes.push(outcome(remove_xattr(&path, c"user.one")));
            outcomes.push(outcome(get_xattr(&path, c"user.one")));
            // Users: not without the right to the file, and never another's trusted ones.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
            outcomes.extend(as_user(1001, 1001, &[], || {
                [
                    outcome(get_xattr(&path, c"user.two").map(|value| value.len())),
                    outcome(set_xattr(&path, c"user.two", b"x")),
                    outcome(remove_xattr(&path, c"user.two")),
                    outcome(get_xattr(&path, c"trusted.one")),
                ]
            }));
            outcomes
        },
    );
}

/// chattr(1) and lsattr(1), on files and directories.
#[test]
fn file_flags_are_read_and_set() {
    same_everywhere(&[&[], &["--cache=never"]], |directory| {
        let mut outcomes = Vec::new();
        fs::write(directory.join("file"), "text").expect("write");
        fs::create_dir(directory.join("dir")).expect("mkdir");
        for (change, name) in [
            ("+d", "file"),
            ("+A", "dir"),
            ("=", "file"),
            ("+S", "dir"),
            ("-S", "dir"),
        ] {
            outcomes.push(run("chattr", &[change, name], directory));
            outcomes.push(run("lsattr", &["-d", name], directory));
        }
        outcomes.push(as_user(1001, 1001, &[], || {
            run("lsattr", &["-d", "file"], directory)
        }));
        outcomes
    });
}

/// chattr +i and +a: by their option alone, and then as on a local file system.
#[test]
fn files_are_made_immutable_where_that_is_allowed() {
    let work = |directory: &Path| {
        let mut outcomes = Vec::new();
        fs::write(directory.join("file"), "text").expect("write");
        fs::create_dir(directory.join("dir")).expect("mkdir");
        let tried = |outcomes: &mut Vec<String>| {
            outcomes.push(io_outcome(fs::write(directory.join("file"), "more")));
            let append = File::options().append(true).open(directory.join("file"));
            outcomes.push(io_outcome(append.map(drop)));
            outcomes.push(io_outcome(fs::rename(
                directory.join("file"),
                directory.join("moved"),
            )));
            outcomes.push(io_outcome(fs::remove_file(directory.join("file"))));
            outcomes.push(io_outcome(fs::set_permissions(
                directory.join("file"),
                fs::Permissions::from_mode(0o600),
            )));
            outcomes.push(io_outcome(fs::write(directory.join("dir/new"), "new")));
            outcomes.push(io_outcome(fs::remove_file(directory.join("dir/new"))));
        };
        for flag in ["i", "a"] {
            for name in ["file", "dir"] {
                outcomes.push(run("chattr", &[&format!("+{flag}"), name], directory));
                outcomes.push(run("lsattr", &["-d", name], directory));
            }
            tried(&mut outcomes);
            for name in ["file", "dir"] {
                outcomes.push(run("chattr", &[&format!("-{flag}"), name], directory));
            }
            // As it was before, whatever could be done.
            let _ = fs::remove_file(directory.join("dir/new"));
            let _ = fs::rename(directory.join("moved"), directory.join("file"));
            fs::write(directory.join("file"), "text").expect("write");
        }
        outcomes
    };
    same_everywhere(
        &[&["--allow-immutable", "--cache=never"], &["--allow-immutable"]],
        work,
    );
    let mounted = Mounted::new(&[]);
    fs::write(mounted.at("file"), "text").expect("write");
    let refused = run("chattr", &["+i", "file"], &mounted.at("."));
    assert!(refused.contains("Operation not permitted"), "{refused}");
    fs::remove_file(mounted.at("file")).expect("unlink");
}

/// The calls of `ioctl_iflags(2)` alone cross; what else ext4 has is not there.
#[test]
fn other_ioctls_are_not_for_this_file_system() {
    let mounted = Mounted::new(&[]);
    let file = File::create(mounted.at("file")).expect("create");
    let directory = File::open(mounted.at(".")).expect("open");
    for file in [&file, &directory] {
        assert_eq!(
            crate::common::ioctl(file, 0x8008_7601),
            Err(nix::errno::Errno::ENOTTY)
        ); // FS_IOC_GETVERSION
        assert_eq!(crate::common::ioctl(file, 0x5401), Err(nix::errno::Errno::ENOTTY)); // TCGETS
        assert_eq!(
            crate::common::ioctl(file, 0xc020_660b),
            Err(nix::errno::Errno::EOPNOTSUPP)
        ); // FS_IOC_FIEMAP
        assert_eq!(crate::common::ioctl(file, 0x8008_6601), Ok(())); // FS_IOC_GETFLAGS
        assert_eq!(crate::common::ioctl(file, 0x801c_581f), Ok(())); // FS_IOC_FSGETXATTR
    }
}
