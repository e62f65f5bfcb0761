//! Names, renames, links, and what stays when a name goes.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, ftruncate, linkat, unlinkat};

use crate::common::{io_outcome, outcome, same_everywhere};

const CACHES: &[&[&str]] = &[
    &[],
    &["--cache=never"],
    &["--cache=always"],
    &["--writeback"],
    &["--no-donate"],
];

/// What a program does with a file that it has open, whatever became of its name.
fn use_open(file: &File) -> Vec<String> {
    let mut outcomes = Vec::new();
    outcomes.push(io_outcome(file.write_at(b"written", 3)));
    outcomes.push(outcome(ftruncate(file, 8)));
    outcomes.push(outcome(fchmod(file, Mode::from_bits_truncate(0o640))));
    let mut data = [0; 20];
    let read = file.read_at(&mut data, 0);
    outcomes.push(format!(
        "{} {:?}",
        io_outcome(read),
        String::from_utf8_lossy(&data)
    ));
    let found = fstat(file).expect("fstat");
    outcomes.push(format!(
        "{:o} {} {}",
        found.st_mode, found.st_size, found.st_nlink
    ));
    outcomes.push(io_outcome(file.sync_all()));
    outcomes
}

#[test]
fn an_open_file_is_the_same_after_rename_replacement_and_removal() {
    same_everywhere(CACHES, |directory| {
        let at = |name: &str| directory.join(name);
        let mut outcomes = Vec::new();
        fs::create_dir_all(at("one/deep")).expect("mkdir");
        fs::create_dir(at("two")).expect("mkdir");
        fs::write(at("one/deep/file"), "the first text").expect("write");
        fs::hard_link(at("one/deep/file"), at("two/second")).expect("link");
        let file = File::options()
            .read(true)
            .write(true)
            .open(at("one/deep/file"))
            .expect("open");
        let same = |name: &str| {
            let by_name = fs::metadata(at(name)).map(|found| (found.dev(), found.ino()));
            let by_file = file.metadata().expect("fstat");
            io_outcome(by_name.map(|found| found == (by_file.dev(), by_file.ino())))
        };
        outcomes.push(same("two/second"));
        fs::rename(at("one/deep/file"), at("two/moved")).expect("rename");
        outcomes.extend(use_open(&file));
        outcomes.push(same("two/moved"));
        outcomes.push(same("one/deep/file"));
        // The directory above moves too.
        fs::rename(at("two"), at("one/deep/two")).expect("rename");
        outcomes.extend(use_open(&file));
        outcomes.push(same("one/deep/two/moved"));
        // Another file takes one of its names, another its place.
        fs::write(at("other"), "something else").expect("write");
        fs::rename(at("other"), at("one/deep/two/moved")).expect("rename");
        outcomes.extend(use_open(&file));
        outcomes.push(same("one/deep/two/moved"));
        outcomes.push(same("one/deep/two/second"));
        fs::remove_file(at("one/deep/two/second")).expect("unlink");
        outcomes.extend(use_open(&file));
        // Nothing of it is left by any name, and names are free for others.
        fs::write(at("one/deep/two/second"), "new").expect("write");
        outcomes.push(same("one/deep/two/second"));
        outcomes.extend(use_open(&file));
        outcomes.push(io_outcome(fs::read_to_string(at("one/deep/two/second"))));
        outcomes.push(io_outcome(fs::read_to_string(at("one/deep/two/moved"))));
        outcomes
    });
}

#[test]
fn a_directory_in_use_is_the_same_after_rename_and_removal() {
    same_everywhere(CACHES, |directory| {
        let at = |name: &str| directory.join(name);
        let mut outcomes = Vec::new();
        fs::create_dir_all(at("a/b/c")).expect("mkdir");
        fs::create_dir(at("z")).expect("mkdir");
        let open = |name: &str| -> OwnedFd { File::open(at(name)).expect("open").into() };
        let (b, c) = (open("a/b"), open("a/b/c"));
        fs::rename(at("a/b"), at("z/b")).expect("rename");
        let create = |place: &OwnedFd, name: &str| {
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_EXCL;
            outcome(openat(place, name, flags, Mode::from_bits_truncate(0o600)).map(drop))
        };
        outcomes.push(create(&b, "made"));
        outcomes.push(create(&c, "made"));
        outcomes.push(io_outcome(
            fs::metadata(at("z/b/c/made")).map(|found| found.len()),
        ));
        // Up again is where it is now.
        outcomes.push(outcome(
            openat(&c, "../../..", OFlag::O_DIRECTORY, Mode::empty())
                .and_then(|up| fstat(&up))
                .map(|found| found.st_ino == fs::metadata(directory).expect("stat").ino()),
        ));
        fs::remove_file(at("z/b/c/made")).expect("unlink");
        fs::remove_dir(at("z/b/c")).expect("rmdir");
        outcomes.push(create(&c, "after"));
        outcomes.push(outcome(mkdirat(&c, "after", Mode::empty())));
        outcomes.push(outcome(fstat(&c).map(|found| found.st_nlink)));
        // Its name is another directory's now.
        fs::create_dir(at("z/b/c")).expect("mkdir");
        outcomes.push(create(&c, "after"));
        outcomes.push(io_outcome(
            fs::read_dir(at("z/b/c")).map(|entries| entries.count()),
        ));
        // Into itself it does not go.
        outcomes.push(io_outcome(fs::rename(at("z"), at("z/b/z"))));
        outcomes.push(io_outcome(fs::rename(at("z/b"), at("z"))));
        outcomes.push(io_outcome(fs::remove_dir(at("z"))));
        outcomes
    });
}

#[test]
fn renameat2_has_all_its_flags() {
    same_everywhere(CACHES, |directory| {
        let at = |name: &str| directory.join(name);
        let mut outcomes = Vec::new();
        fs::write(at("file"), "file").expect("write");
        fs::write(at("other"), "other").expect("write");
        fs::create_dir_all(at("dir/sub")).expect("mkdir");
        symlink("file", at("link")).expect("symlink");
        let all = [
            RenameFlags::RENAME_NOREPLACE,
            RenameFlags::RENAME_EXCHANGE,
            RenameFlags::RENAME_WHITEOUT,
            RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE,
            RenameFlags::RENAME_WHITEOUT | RenameFlags::RENAME_EXCHANGE,
            RenameFlags::RENAME_WHITEOUT | RenameFlags::RENAME_NOREPLACE,
            RenameFlags::from_bits_retain(0x80),
            RenameFlags::empty(),
        ];
        for flags in all {
            for (from, to) in [
                ("file", "other"),
                ("file", "dir"),
                ("dir", "file"),
                ("dir", "link"),
                ("absent", "file"),
                ("file", "absent"),
                ("absent", "absent"),
                ("file", "new"),
                ("dir", "dir/sub"),
                ("file", "file"),
                ("dir/sub", "dir"),
            ] {
                let moved = renameat2(AT_FDCWD, &at(from), AT_FDCWD, &at(to), flags);
                outcomes.push(format!("{flags:?} {from} {to}: {}", outcome(moved)));
                for name in [from, to] {
                    let found = fs::symlink_metadata(at(name));
                    outcomes.push(format!(
                        "{name}: {}",
                        io_outcome(found.map(|found| (found.mode() & libc::S_IFMT, found.rdev())))
                    ));
                }
                // As before, for the next.
                for name in ["file", "other", "new", "absent", "link"] {
                    let _ = fs::remove_file(at(name));
                    let _ = fs::remove_dir_all(at(name));
                }
                if !at("dir").is_dir() {
                    let _ = fs::remove_file(at("dir"));
                }
                fs::write(at("file"), "file").expect("write");
                fs::write(at("other"), "other").expect("write");
                fs::create_dir_all(at("dir")).expect("mkdir");
                if !at("dir/sub").is_dir() {
                    let _ = fs::remove_file(at("dir/sub"));
                }
                fs::create_dir_all(at("dir/sub")).expect("mkdir");
                symlink("file", at("link")).expect("symlink");
            }
        }
        outcomes
    });
}

#[test]
fn names_of_any_bytes_up_to_255() {
    same_everywhere(&[&[], &["--cache=never"]], |directory| {
        let mut outcomes = Vec::new();
        let mut names: Vec<OsString> = (1..=255)
            .filter(|&byte| byte != b'/')
            .map(|byte| OsString::from_vec(vec![b'n', byte]))
            .collect();
        names.extend([
            OsString::from_vec(vec![0xff; 255]),
            OsString::from_vec(vec![0xe9; 1]),
            OsString::from("x".repeat(254)),
            OsString::from("x".repeat(255)),
            OsString::from("x".repeat(256)),
            OsString::from("x".repeat(4000)),
            OsString::from("..."),
            OsString::from("é".repeat(127)),
        ]);
        for name in &names {
            let path = directory.join(name);
            outcomes.push(format!(
                "{} {} {} {} {}",
                io_outcome(fs::write(&path, "text")),
                io_outcome(fs::read_to_string(&path)),
                io_outcome(fs::rename(&path, directory.join("renamed"))),
                io_outcome(fs::rename(directory.join("renamed"), &path)),
                io_outcome(fs::symlink_metadata(&path).map(|found| found.len())),
            ));
        }
        let mut listed: Vec<_> = fs::read_dir(directory)
            .expect("list")
            .map(|entry| entry.expect("an entry").file_name().as_bytes().to_vec())
            .collect();
        listed.sort_unstable();
        outcomes.push(format!("{listed:?}"));
        let target = OsString::from_vec([&[0xfe; 250][..], b"/"].concat().repeat(17));
        for length in [1, 255, 4000, 4094] {
            let target = Path::new(std::ffi::OsStr::from_bytes(&target.as_bytes()[..length]));
            let link = directory.join(format!("link{length}"));
            outcomes.push(io_outcome(symlink(target, &link)));
            outcomes.push(io_outcome(fs::read_link(&link).map(|found| found == target)));
        }
        outcomes
    });
}

/// Beyond PATH_MAX, reached step by step.
#[test]
fn trees_deeper_than_any_path() {
    same_everywhere(&[&[], &["--cache=never"]], |directory| {
        let mut outcomes = Vec::new();
        let name = "d".repeat(200);
        let mut places: Vec<OwnedFd> = vec![File::open(directory).expect("open").into()];
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        for _ in 0..60 {
            let last = places.last().expect("a place");
            mkdirat(last, name.as_str(), Mode::from_bits_truncate(0o755)).expect("mkdirat");
            let next = openat(last, name.as_str(), flags, Mode::empty()).expect("openat");
            places.push(next);
        }
        let bottom = places.last().expect("a place");
        let flags = OFlag::O_CREAT | OFlag::O_RDWR;
        let file =
            File::from(openat(bottom, "file", flags, Mode::from_bits_truncate(0o600)).expect("openat"));
        outcomes.push(io_outcome(file.write_at(b"deep", 0)));
        outcomes.push(outcome(linkat(
            bottom,
            "file",
            &places[1],
            "up",
            AtFlags::empty(),
        )));
        outcomes.push(outcome(renameat2(
            bottom,
            "file",
            &places[30],
            "file",
            RenameFlags::empty(),
        )));
        outcomes.push(outcome(
            openat(&places[30], "file", OFlag::O_RDONLY, Mode::empty()).map(drop),
        ));
        outcomes.push(io_outcome(fs::read_to_string(directory.join(&name).join("up"))));
        outcomes.push(outcome(unlinkat(&places[30], "file", UnlinkatFlags::NoRemoveDir)));
        outcomes.push(io_outcome(fs::remove_file(directory.join(&name).join("up"))));
        places.pop();
        while let Some(place) = places.pop() {
            outcomes.push(outcome(unlinkat(&place, name.as_str(), UnlinkatFlags::RemoveDir)));
        }
        outcomes
    });
}

#[test]
fn a_file_without_a_name_gets_one_unless_that_was_ruled_out() {
    same_everywhere(CACHES, |directory| {
        let mut outcomes = Vec::new();
        let link = |file: &File, name: &str| {
            use std::os::fd::AsRawFd;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            linkat(
                AT_FDCWD,
                path.as_str(),
                AT_FDCWD,
                &directory.join(name),
                AtFlags::AT_SYMLINK_FOLLOW,
            )
        };
        for flags in [libc::O_TMPFILE, libc::O_TMPFILE | libc::O_EXCL] {
            for access in [libc::O_RDWR, libc::O_WRONLY, libc::O_RDONLY] {
                let opened = File::options()
                    .read(access != libc::O_WRONLY)
                    .write(access != libc::O_RDONLY)
                    .custom_flags(flags)
                    .mode(0o640)
                    .open(directory);
                let Ok(file) = opened else {
                    outcomes.push(io_outcome(opened.map(drop)));
                    continue;
                };
                let found = file.metadata().expect("fstat");
                outcomes.push(format!("{:o} {}", found.mode(), found.nlink()));
                outcomes.push(io_outcome(file.write_at(&[5; 100_000], 10)));
                outcomes.push(outcome(link(&file, "named")));
                outcomes.push(outcome(link(&file, "again")));
                outcomes.push(io_outcome(
                    fs::metadata(directory.join("named")).map(|found| (found.len(), found.nlink())),
                ));
                outcomes.push(io_outcome(file.write_at(b"more", 0)));
                outcomes.push(io_outcome(
                    fs::read(directory.join("named")).map(|data| data.len()),
                ));
                let _ = fs::remove_file(directory.join("named"));
                let _ = fs::remove_file(directory.join("again"));
            }
        }
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("chmod");
        outcomes
    });
}

/// What programs ask of names that are not what they expect.
#[test]
fn errors_of_names_are_those_of_a_local_file_system() {
    same_everywhere(CACHES, |directory| {
        let at = |name: &str| directory.join(name);
        let mut outcomes = Vec::new();
        fs::write(at("file"), "text").expect("write");
        fs::create_dir_all(at("dir/full")).expect("mkdir");
        symlink("dir", at("to-dir")).expect("symlink");
        symlink("absent", at("dangling")).expect("symlink");
        symlink("loop", at("loop")).expect("symlink");
        for name in [
            "file", "file/", "file/x", "dir", "dir/", "to-dir", "to-dir/", "dangling", "loop", "absent",
            "absent/", "absent/x", "dir/..", "dir/.",
        ] {
            let path = Path::new(directory).join(name);
            outcomes.push(format!(
                "{name}: {} {} {} {} {} {} {} {}",
                io_outcome(File::open(&path).map(drop)),
                io_outcome(File::options().write(true).open(&path).map(drop)),
                io_outcome(fs::create_dir(&path)),
                io_outcome(File::options().write(true).create_new(true).open(&path).map(drop)),
                io_outcome(fs::hard_link(&path, at("linked"))),
                io_outcome(fs::remove_file(at("linked"))),
                io_outcome(fs::remove_dir(&path)),
                io_outcome(fs::read_link(&path)),
            ));
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(at("absent"));
            let _ = fs::write(at("file"), "text");
            let _ = symlink("absent", at("dangling"));
            let _ = symlink("dir", at("to-dir"));
            let _ = symlink("loop", at("loop"));
        }
        for flags in [
            libc::O_NOFOLLOW,
            libc::O_DIRECTORY,
            libc::O_PATH,
            libc::O_CREAT | libc::O_EXCL,
        ] {
            for name in ["file", "dir", "to-dir", "dangling"] {
                let opened = File::options().read(true).custom_flags(flags).open(at(name));
                outcomes.push(format!("{name} {flags:o}: {}", io_outcome(opened.map(drop))));
            }
        }
        outcomes
    });
}
