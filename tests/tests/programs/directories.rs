//! Large directories, changing directories, and positions in them.
#![allow(unsafe_code, reason = "telldir and seekdir, which no library offers")]

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use airlockfs_tests::daemon::Launch;
use airlockfs_tests::ground::Ground;
use nix::errno::Errno;

use crate::common::{Mounted, same_everywhere};

/// opendir(3) and the rest.
struct Stream(*mut libc::DIR);

impl Stream {
    fn open(path: &Path) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
        // SAFETY: a string.
        let stream = unsafe { libc::opendir(path.as_ptr()) };
        assert!(!stream.is_null(), "{}", Errno::last());
        Self(stream)
    }

    fn next(&self) -> Option<Vec<u8>> {
        // SAFETY: the stream is open, and the entry is copied before the next call.
        unsafe {
            Errno::clear();
            let entry = libc::readdir(self.0);
            if entry.is_null() {
                assert_eq!(Errno::last_raw(), 0, "{}", Errno::last());
                return None;
            }
            Some(CStr::from_ptr((*entry).d_name.as_ptr()).to_bytes().to_vec())
        }
    }

    fn tell(&self) -> libc::c_long {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    fn seek(&self, position: libc::c_long) {
        // SAFETY: the stream is open, and the position is one of its own.
        unsafe { libc::seekdir(self.0, position) }
    }

    fn rewind(&self) {
        // SAFETY: the stream is open.
        unsafe { libc::rewinddir(self.0) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: it was open until now.
        unsafe { libc::closedir(self.0) };
    }
}

const CACHES: &[&[&str]] = &[
    &[],
    &["--cache=never"],
    &["--cache=always"],
    &["--no-readdirplus"],
];

/// A million entries, listed with and without READDIRPLUS, with positions told and sought, while entries go.
#[test]
fn a_million_entries_with_positions_while_others_are_removed() {
    const ENTRIES: u32 = 1_000_000;
    let ground = Ground::memory();
    let share = ground.path();
    // Names of one inode are cheap for the host, and entries like any for the guest.
    let names = share.join("names");
    fs::create_dir(&names).expect("mkdir");
    File::create(share.join("file")).expect("create");
    let directory = File::open(&names).expect("open");
    for number in 0..ENTRIES {
        nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            &share.join("file"),
            &directory,
            format!("{number}").as_str(),
            nix::fcntl::AtFlags::empty(),
        )
        .expect("link");
    }
    let mut gone = HashSet::new();
    for options in [&[][..], &["--no-readdirplus", "--cache=never"]] {
        let mounted = Mounted::launch(Launch::airlockfs().share(&share).args(options));
        let stream = Stream::open(&mounted.at("names"));
        let mut seen = HashSet::new();
        let mut positions = Vec::new();
        let mut removed = gone.clone();
        loop {
            let position = stream.tell();
            let Some(name) = stream.next() else { break };
            if seen.len() % 100_000 == 50_000 {
                positions.push((position, name.clone()));
            }
            if seen.len() % 1000 == 999 {
                // One that was listed, and one that perhaps was not.
                for name in [
                    String::from_utf8_lossy(&name).into_owned(),
                    format!("{}", seen.len() / 2),
                ] {
                    if name.parse::<u32>().is_ok() && fs::remove_file(mounted.at("names").join(&name)).is_ok()
                    {
                        removed.insert(name.into_bytes());
                    }
                }
            }
            assert!(seen.insert(name), "an entry came twice");
        }
        for number in 0..ENTRIES {
            let name = format!("{number}").into_bytes();
            assert!(
                seen.contains(&name) || removed.contains(&name),
                "{number} is missing"
            );
            assert!(
                !seen.contains(&name) || !gone.contains(&name),
                "{number} was gone before"
            );
        }
        // Back to where it was, in any order.
        for (position, name) in positions.iter().rev() {
            if !removed.contains(name) {
                stream.seek(*position);
                assert_eq!(stream.next().as_ref(), Some(name));
            }
        }
        stream.rewind();
        assert!(stream.next().is_some());
        gone = removed;
    }
}

/// Positions, on a file system whose cookies are hashes.
#[test]
fn positions_are_kept_as_in_a_local_directory() {
    same_everywhere(CACHES, |directory| {
        for number in 0..3000 {
            fs::write(directory.join(format!("a longer name for entry {number}")), "").expect("write");
        }
        let stream = Stream::open(directory);
        let mut positions = Vec::new();
        loop {
            let position = stream.tell();
            let Some(name) = stream.next() else { break };
            positions.push((position, name));
        }
        let mut outcomes = vec![format!("{} entries", positions.len())];
        for step in [1, 7, 500, 1499] {
            for (position, name) in positions.iter().rev().step_by(step) {
                stream.seek(*position);
                let found = stream.next();
                if found.as_ref() != Some(name) {
                    outcomes.push(format!("{found:?}, not {name:?}"));
                }
            }
        }
        let mut names: Vec<_> = positions.into_iter().map(|(_, name)| name).collect();
        names.sort();
        outcomes.push(format!("{names:?}"));
        outcomes
    });
}

/// The entry where a listing goes on, and the first one of all, may have vanished.
#[test]
fn a_listing_goes_on_behind_a_vanished_entry() {
    for options in CACHES {
        let mounted = Mounted::new(options);
        let directory = mounted.at("dir");
        fs::create_dir(&directory).expect("mkdir");
        for number in 0..5000 {
            fs::write(directory.join(format!("{number}")), "").expect("write");
        }
        let first = Stream::open(&directory);
        let mut names = Vec::new();
        while let Some(name) = first.next() {
            names.push(name);
        }
        assert_eq!(names.len(), 5002);
        let path = |name: &[u8]| mounted.host("dir").join(std::ffi::OsStr::from_bytes(name));
        let stream = Stream::open(&directory);
        let mut seen = HashSet::new();
        // The host removes what is listed first of all, before it is.
        for name in names.iter().filter(|name| name.len() > 2).take(3) {
            fs::remove_file(path(name)).expect("unlink");
        }
        while let Some(name) = stream.next() {
            assert!(seen.insert(name.clone()), "{name:?} came twice, {options:?}");
            if seen.len() == 1000 {
                // And what comes next, and what is behind that.
                let at = names
                    .iter()
                    .position(|other| *other == name)
                    .expect("listed before");
                for name in names[at..].iter().take(300) {
                    let _ = fs::remove_file(path(name));
                }
            }
        }
        for name in &names {
            assert!(
                seen.contains(name) || !path(name).exists(),
                "{name:?}, {options:?}"
            );
        }
    }
}

/// Names that come while a directory is listed do no harm to those that were there.
#[test]
fn what_is_there_all_the_time_is_listed_once() {
    for options in CACHES {
        let mounted = Mounted::new(options);
        let directory = mounted.at("dir");
        fs::create_dir(&directory).expect("mkdir");
        for number in 0..2000 {
            fs::write(directory.join(format!("stays {number}")), "").expect("write");
        }
        let host = mounted.host("dir");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut round = 0u32;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let path = host.join(format!("comes and goes {}", round % 100));
                    fs::write(&path, "").expect("write");
                    if round.is_multiple_of(3) {
                        let _ = fs::rename(&path, host.join("renamed"));
                    } else {
                        fs::remove_file(&path).expect("unlink");
                    }
                    round += 1;
                }
            });
            for _ in 0..5 {
                let stream = Stream::open(&directory);
                let mut seen = HashSet::new();
                while let Some(name) = stream.next() {
                    if name.starts_with(b"stays") {
                        assert!(seen.insert(name), "twice, {options:?}");
                    }
                }
                assert_eq!(seen.len(), 2000, "{options:?}");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}

/// fchdir(2), `..` and a listing of a directory that was removed.
#[test]
fn a_removed_directory_is_empty() {
    same_everywhere(CACHES, |directory| {
        let path = directory.join("dir");
        fs::create_dir(&path).expect("mkdir");
        let open = File::open(&path).expect("open");
        let proc = format!("/proc/self/fd/{}", open.as_raw_fd());
        let listed = |path: &str| {
            fs::read_dir(path)
                .map(|entries| entries.count())
                .map_err(|error| error.raw_os_error())
        };
        let mut outcomes = vec![format!("{:?}", listed(&proc))];
        fs::remove_dir(&path).expect("rmdir");
        let stream_of_removed = listed(&proc);
        outcomes.push(format!("{stream_of_removed:?}"));
        outcomes.push(format!(
            "{:?}",
            open.sync_all().map_err(|error| error.raw_os_error())
        ));
        outcomes
    });
}
