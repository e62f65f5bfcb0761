//! setuid, setgid and security.capability go exactly when the kernel takes them from a local file.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{ftruncate, truncate};

use crate::common::{Mounted, as_user, io_outcome, outcome, same_everywhere};

/// A VFS_CAP_REVISION_2 value: CAP_NET_RAW, permitted and effective.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Ways to change a file. Each gets the path, and a handle opened for writing before the bits were set.
type Change = fn(&Path, &File) -> String;

fn write_old(_: &Path, file: &File) -> String {
    io_outcome(file.write_at(b"text", 0))
}

/// More than a first access that rides in the ring, so that the descriptor has been donated.
fn write_large(_: &Path, file: &File) -> String {
    io_outcome(file.write_at(&vec![7; 300_000], 0))
}

fn write_new(path: &Path, _: &File) -> String {
    io_outcome(
        File::options()
            .write(true)
            .open(path)
            .and_then(|file| file.write_at(b"text", 0)),
    )
}

fn append(path: &Path, _: &File) -> String {
    use std::io::Write;
    io_outcome(
        File::options()
            .append(true)
            .open(path)
            .and_then(|mut file| file.write(b"text")),
    )
}

fn write_nothing(_: &Path, file: &File) -> String {
    io_outcome(file.write_at(b"", 0))
}

fn truncate_path(path: &Path, _: &File) -> String {
    outcome(truncate(path, 5))
}

fn truncate_handle(_: &Path, file: &File) -> String {
    outcome(ftruncate(file, 6))
}

fn grow_handle(_: &Path, file: &File) -> String {
    outcome(ftruncate(file, 1_000_000))
}

fn open_truncating(path: &Path, _: &File) -> String {
    io_outcome(
        File::options()
            .write(true)
            .custom_flags(libc::O_TRUNC)
            .open(path)
            .map(drop),
    )
}

fn create_truncating(path: &Path, _: &File) -> String {
    io_outcome(File::create(path).map(drop))
}

fn allocate(_: &Path, file: &File) -> String {
    outcome(fallocate(file, FallocateFlags::empty(), 0, 50_000))
}

fn punch(_: &Path, file: &File) -> String {
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    outcome(fallocate(file, mode, 0, 4096))
}

fn copy_into(path: &Path, file: &File) -> String {
    let source = File::open(path.with_file_name("source")).expect("open");
    outcome(copy_file_range(&source, Some(&mut 0), file, Some(&mut 0), 1000))
}

fn read(path: &Path, _: &File) -> String {
    io_outcome(fs::read(path).map(|data| data.len()))
}

fn chmod_handle(_: &Path, file: &File) -> String {
    outcome(fchmod(file, Mode::from_bits_truncate(0o6751)))
}

fn chown_same(path: &Path, _: &File) -> String {
    io_outcome(chown(path, Some(1000), Some(1000)))
}

const CHANGES: &[(&str, Change)] = &[
    ("write by an old handle", write_old),
    ("a large write by an old handle", write_large),
    ("write by a new handle", write_new),
    ("append", append),
    ("write of nothing", write_nothing),
    ("truncate", truncate_path),
    ("ftruncate", truncate_handle),
    ("ftruncate that grows", grow_handle),
    ("open with O_TRUNC", open_truncating),
    ("creat", create_truncating),
    ("fallocate", allocate),
    ("punch a hole", punch),
    ("copy_file_range", copy_into),
    ("read", read),
    ("fchmod", chmod_handle),
    ("chown to the same", chown_same),
];

/// What is left of a program's privileges by each change, by a user that is the owner or not, or by root.
fn all_changes(directory: &Path) -> Vec<String> {
    let mut outcomes = Vec::new();
    let path = directory.join("program");
    fs::write(directory.join("source"), [5; 2000]).expect("write");
    for mode in [0o6777, 0o6767, 0o2666, 0o4755] {
        for (name, change) in CHANGES {
            for (uid, gid) in [(0, 0), (1000, 1000), (1001, 1001)] {
                if uid == 1001 && mode & 0o2010 == 0o2000 {
                    // setgid that the group may not execute is no privilege to a FUSE client, which leaves it even
                    // where somebody outside the group writes.
                    continue;
                }
                for capability in [false, true] {
                    let _ = fs::remove_file(&path);
                    fs::write(&path, [1; 100_000]).expect("write");
                    chown(&path, Some(1000), Some(1000)).expect("chown");
                    let handle = File::options().write(true).open(&path).expect("open");
                    // The way of its data is settled before the bits are set.
                    handle.write_at(&[3; 200_000], 0).expect("write");
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
                    if capability {
                        set_capability(&path);
                    }
                    let result = match uid {
                        0 => change(&path, &handle),
                        _ => as_user(uid, gid, &[], || change(&path, &handle)),
                    };
                    drop(handle);
                    let left = fs::metadata(&path).expect("stat").permissions().mode() & 0o7777;
                    let kept = capability && has_capability(&path);
                    outcomes.push(format!(
                        "{name} by {uid} of {mode:o} with {}: {result}, {left:o}, {}",
                        if capability { "capability" } else { "none" },
                        if kept { "kept" } else { "none" },
                    ));
                }
            }
        }
    }
    outcomes
}

fn set_capability(path: &Path) {
    crate::common::set_xattr(path, c"security.capability", CAPABILITY).expect("setxattr");
}

fn has_capability(path: &Path) -> bool {
    crate::common::get_xattr(path, c"security.capability").is_ok()
}

#[test]
fn privileges_go_when_they_would_on_a_local_file() {
    same_everywhere(
        &[
            &["--xattr"],
            &["--xattr", "--killpriv-v2"],
            &["--xattr", "--cache=never"],
            &["--xattr", "--cache=never", "--killpriv-v2"],
            &["--xattr", "--writeback"],
            &["--xattr", "--writeback", "--killpriv-v2"],
            &["--xattr", "--no-donate"],
            &["--xattr", "--no-donate", "--killpriv-v2"],
        ],
        all_changes,
    );
}

/// The host is a second party: what it sets is treated right once the guest's cache may know.
#[test]
fn a_bit_that_the_host_sets_on_an_open_file_is_cleared_by_a_user() {
    for options in [
        &["--cache=never", "--killpriv-v2"][..],
        &["--cache=never"],
        &["--attr-timeout=0"],
    ] {
        let mounted = Mounted::new(options);
        let (path, host) = (mounted.at("program"), mounted.host("program"));
        fs::write(&path, [1; 100_000]).expect("write");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("chmod");
        let file = File::options().write(true).open(&path).expect("open");
        file.write_at(&[3; 200_000], 0).expect("write");
        fs::set_permissions(&host, fs::Permissions::from_mode(0o4777)).expect("chmod");
        as_user(1001, 1001, &[], || {
            let _ = fs::metadata(&path);
            file.write_at(b"text", 0).expect("write");
        });
        let left = fs::metadata(&host).expect("stat").permissions().mode() & 0o7777;
        assert_eq!(left, 0o777, "{options:?}");
    }
}
