//! Directories are listed completely: in any number of steps, while they change, and without
//! lookups that nobody asked for.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::stop::Stop;
use nix::errno::Errno;

fn started() -> (Daemon, Client) {
    Daemon::with_client(["--tag", "directories"])
}

#[test]
fn every_entry_is_listed_once_whatever_the_buffer() {
    let (daemon, fs) = started();
    let mut expected = HashSet::from([b".".to_vec(), b"..".to_vec()]);
    for i in 0..1500 {
        let name = format!("{i}-{}", "n".repeat(i % 200));
        fs::write(daemon.host(&name), "").expect("write");
        expected.insert(name.into_bytes());
    }
    for size in [512, 4096, 32_768, 1 << 20] {
        let dir = fs.opendir(ROOT).expect("OPENDIR");
        let names: Vec<_> = fs
            .readdir_all(dir, size)
            .expect("READDIR")
            .into_iter()
            .map(|e| e.name)
            .collect();
        assert_eq!(names.len(), expected.len());
        assert_eq!(names.into_iter().collect::<HashSet<_>>(), expected);
        let plus = fs.readdirplus_all(dir, size.max(1024)).expect("READDIRPLUS");
        assert_eq!(plus.len(), expected.len());
        let names: HashSet<_> = plus.into_iter().map(|e| e.dirent.name).collect();
        assert_eq!(names, expected);
        fs.releasedir(dir).expect("RELEASEDIR");
    }
}

#[test]
fn entries_say_their_type_and_inode() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "").expect("write");
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    std::os::unix::fs::symlink("target", daemon.host("link")).expect("symlink");
    nix::unistd::mkfifo(&daemon.host("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo");
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let listed: HashMap<_, _> = fs
        .readdir_all(dir, 4096)
        .expect("READDIR")
        .into_iter()
        .map(|e| (e.name.clone(), e))
        .collect();
    for (name, kind) in [
        ("file", libc::DT_REG),
        ("dir", libc::DT_DIR),
        ("link", libc::DT_LNK),
        ("fifo", libc::DT_FIFO),
        (".", libc::DT_DIR),
    ] {
        let entry = &listed[name.as_bytes()];
        assert_eq!(entry.kind, u32::from(kind), "{name}");
        let meta = fs::symlink_metadata(daemon.host(name)).expect("stat");
        assert_eq!(entry.ino, meta.ino(), "{name}");
    }
}

#[test]
fn the_parent_of_the_root_is_not_shown() {
    let (daemon, fs) = started();
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let outside = fs::metadata(daemon.share().parent().expect("a parent"))
        .expect("stat")
        .ino();
    for entry in fs.readdir_all(dir, 4096).expect("READDIR") {
        assert_ne!(entry.ino, outside, "{entry:?}");
    }
    for item in fs.readdirplus_all(dir, 4096).expect("READDIRPLUS") {
        assert_ne!(item.dirent.ino, outside, "{item:?}");
        assert_ne!(item.entry.attr.ino, outside, "{item:?}");
    }
}

#[test]
fn a_listing_resumes_at_any_earlier_position() {
    let (daemon, fs) = started();
    for i in 0..100 {
        fs::write(daemon.host(format!("file{i}")), "").expect("write");
    }
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let all = fs.readdir_all(dir, 1024).expect("READDIR");
    for (i, entry) in all.iter().enumerate().rev().step_by(7) {
        let rest = fs.readdir(dir, entry.off, 1 << 16).expect("READDIR");
        assert_eq!(rest, all[i + 1..], "after entry {i}");
    }
    assert_eq!(fs.readdir(dir, 0, 1 << 16).expect("READDIR"), all);
}

#[test]
fn two_handles_have_positions_of_their_own() {
    let (daemon, fs) = started();
    for i in 0..300 {
        fs::write(daemon.host(format!("file{i}")), "").expect("write");
    }
    let (one, two) = (
        fs.opendir(ROOT).expect("OPENDIR"),
        fs.opendir(ROOT).expect("OPENDIR"),
    );
    let (mut first, mut second) = (Vec::new(), Vec::new());
    loop {
        let at = |list: &Vec<airlockfs_tests::fuse::DirEntry>| list.last().map_or(0, |e| e.off);
        let a = fs.readdir(one, at(&first), 700).expect("READDIR");
        let b = fs.readdir(two, at(&second), 4000).expect("READDIR");
        if a.is_empty() && b.is_empty() {
            break;
        }
        first.extend(a);
        second.extend(b);
    }
    assert_eq!(first.len(), 302);
    assert_eq!(first, second);
}

#[test]
fn readdirplus_is_readdir_with_lookup() {
    let (daemon, fs) = started();
    fs::write(daemon.host("file"), "text").expect("write");
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    let known = fs.lookup(ROOT, "file").expect("LOOKUP");
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    for item in fs.readdirplus_all(dir, 4096).expect("READDIRPLUS") {
        match &item.dirent.name[..] {
            // Not looked up: a node would never be forgotten.
            b"." | b".." => assert_eq!(item.entry.nodeid, 0, "{item:?}"),
            b"file" => {
                assert_eq!(item.entry.nodeid, known.nodeid);
                assert_eq!(item.entry.attr, known.attr);
                assert_eq!(item.entry.entry_valid, known.entry_valid);
            }
            _ => assert_eq!(
                fs.getattr(item.entry.nodeid).expect("GETATTR").ino,
                item.dirent.ino
            ),
        }
    }
}

#[test]
fn files_that_stay_are_listed_once_while_others_come_and_go() {
    let (daemon, fs) = started();
    for i in 0..400 {
        fs::write(daemon.host(format!("stays{i}")), "").expect("write");
        fs::write(daemon.host(format!("goes{i}")), "").expect("write");
    }
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let (mut seen, mut offset, mut gone) = (Vec::new(), 0, 0);
    loop {
        let batch = fs.readdirplus(dir, offset, 4096).expect("READDIRPLUS");
        let Some(last) = batch.last() else { break };
        offset = last.dirent.off;
        seen.extend(batch.into_iter().map(|e| e.dirent.name));
        for _ in 0..10 {
            if gone < 400 {
                fs::remove_file(daemon.host(format!("goes{gone}"))).expect("remove");
                gone += 1;
            }
        }
    }
    seen.retain(|name| name.starts_with(b"stays"));
    assert_eq!(seen.len(), 400);
    assert_eq!(seen.into_iter().collect::<HashSet<_>>().len(), 400);
}

#[test]
fn an_entry_that_vanishes_while_it_is_listed_is_left_out() {
    let (daemon, fs) = started();
    fs::write(daemon.host("stays"), "").expect("write");
    let stop = Stop::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.is_raised() {
                // Most of the time, whatever comes first has just gone.
                for i in 0..8 {
                    fs::write(daemon.host(format!("blinks{i}")), "").expect("write");
                }
                for i in 0..8 {
                    fs::remove_file(daemon.host(format!("blinks{i}"))).expect("remove");
                }
            }
        });
        let _guard = stop.guard();
        for _ in 0..500 {
            let dir = fs.opendir(ROOT).expect("OPENDIR");
            // Little room, so that many requests begin at an entry that is going.
            let listed = fs.readdirplus_all(dir, 400).expect("READDIRPLUS");
            let stays = listed.iter().filter(|e| e.dirent.name == b"stays").count();
            let seen: Vec<_> = listed.iter().map(|e| (e.entry.nodeid, 1)).collect();
            fs.batch_forget(&seen);
            assert_eq!(stays, 1);
            fs.releasedir(dir).expect("RELEASEDIR");
        }
    });
}

#[test]
fn a_removed_directory_is_empty_not_an_error() {
    let (daemon, fs) = started();
    let node = fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR").nodeid;
    let dir = fs.opendir(node).expect("OPENDIR");
    fs.rmdir(ROOT, "dir").expect("RMDIR");
    assert!(!daemon.host("dir").exists());
    assert!(
        matches!(fs.readdir(dir, 0, 4096), Ok(list) if list.is_empty())
            || fs.readdir(dir, 0, 4096) == Err(Errno::ENOENT)
    );
    assert_eq!(
        fs.create(node, "file", libc::O_RDWR, 0o644).map(drop),
        Err(Errno::ENOENT)
    );
    assert_eq!(fs.getattr(node).expect("GETATTR").nlink, 0);
}

#[test]
fn readdirplus_may_be_turned_off() {
    let daemon = Daemon::start(["--no-readdirplus"]);
    let fs = daemon.connect();
    let reply = fs.init().expect("INIT");
    let plus = airlockfs_tests::fuse::abi::init_flags::DO_READDIRPLUS;
    assert_eq!(reply.all_flags() & plus, 0);
}
