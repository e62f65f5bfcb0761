//! The host changes the tree at full speed while guests walk it. Directories become links to a tree
//! outside the share and directories again, parents leave the share and come back, mounts come and
//! go, files become links, FIFOs and devices. Nothing outside is read or changed: a canary tree
//! proves it, and no reply holds a byte, a name or an inode number of it.

mod canary;
mod guest;
mod host;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;

use crate::canary::Canary;
use crate::guest::Guest;
use crate::host::Host;

/// What each of the guests does.
const STEPS: u64 = 2500;

/// Descriptors of the worker.
fn descriptors(daemon: &Daemon) -> usize {
    let worker = daemon.worker().expect("a worker");
    worker.descriptors().expect("descriptors").len()
}

fn race(options: &[&str]) {
    let home = TempDir::new().expect("a directory");
    let canary = Canary::new(&home);
    let host = Host::new(&home, &canary);
    let daemon = Launch::airlockfs()
        .share(&host.share)
        .args(["--xattr", "--num-request-queues=2"])
        .args(options)
        .start();
    let fs = daemon.client();
    fs.getattr(ROOT).expect("GETATTR");
    let at_first = descriptors(&daemon);
    let stop = AtomicBool::new(false);
    let mut done = Vec::new();
    std::thread::scope(|scope| {
        let turns: Vec<_> = host::WAYS
            .iter()
            .map(|way| scope.spawn(|| host.go_on(*way, &stop)))
            .collect();
        let guests: Vec<_> = (1..=2)
            .map(|queue| {
                let (fs, canary) = (fs.on_queue(queue), &canary);
                scope.spawn(move || Guest::new(fs, canary, queue as u64).walk(STEPS))
            })
            .collect();
        // Told to stop even when a guest failed, or the scope would wait for ever.
        let ended: Vec<_> = guests.into_iter().map(|guest| guest.join()).collect();
        stop.store(true, Relaxed);
        for turn in turns {
            assert!(
                turn.join().expect("the host") > 20,
                "the host hardly did anything"
            );
        }
        done.extend(ended.into_iter().map(|guest| guest.expect("a guest")));
    });
    let (fine, errors) = done
        .iter()
        .fold((0, 0), |sum, one| (sum.0 + one.fine, sum.1 + one.errors));
    // A race that only ever fails, or never, is none.
    assert!(
        fine > STEPS / 5 && errors > STEPS / 50,
        "{fine} succeeded, {errors} failed"
    );
    assert!(daemon.is_alive(), "{:#?}", daemon.log());
    fs.destroy().expect("DESTROY");
    fs.init().expect("INIT");
    fs.getattr(ROOT).expect("GETATTR");
    let at_last = descriptors(&daemon);
    assert!(
        at_last <= at_first + 4,
        "{at_last} descriptors in the end, {at_first} at first"
    );
    canary.assert_untouched();
    let log = daemon.log().join("\n");
    assert!(
        !log.contains("panicked") && !log.contains("broke the rules"),
        "{log}"
    );
}

#[test]
fn nothing_outside_is_touched_in_a_namespace() {
    race(&[]);
}

#[test]
fn nothing_outside_is_touched_in_a_chroot() {
    race(&["--sandbox=chroot"]);
}

#[test]
fn nothing_outside_is_touched_where_names_alone_protect() {
    race(&["--sandbox=none", "--seccomp=none"]);
}

#[test]
fn nothing_outside_is_touched_with_few_descriptors() {
    race(&["--rlimit-nofile=256"]);
    race(&["--sandbox=none", "--rlimit-nofile=256"]);
}

fn started(share: &Path, options: &[&str]) -> (Daemon, Client) {
    let daemon = Launch::airlockfs().share(share).args(options).start();
    let fs = daemon.client();
    (daemon, fs)
}

/// What a held directory means once the host took it out of the share: what it means to a local program that works in
/// it. Itself and what is beneath, perhaps (Landlock refuses to open anything there, where the share is not a mount of
/// its own); nothing beside and nothing above.
#[test]
fn a_directory_moved_out_is_itself_and_nothing_beside_or_above() {
    for options in [&[][..], &["--sandbox=chroot"], &["--sandbox=none"]] {
        let home = TempDir::new().expect("a directory");
        let (share, away) = (home.join("share"), home.join("away"));
        fs::create_dir_all(share.join("dir/sub")).expect("mkdir");
        fs::create_dir(&away).expect("mkdir");
        fs::write(away.join("beside"), "canary").expect("write");
        fs::write(share.join("dir/file"), "text").expect("write");
        let (daemon, fs) = started(&share, options);
        let dir = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
        let file = fs.lookup(dir, "file").expect("LOOKUP").nodeid;
        let open = fs.open(file, libc::O_RDWR).expect("OPEN");
        let listing = fs.opendir(dir).expect("OPENDIR");
        fs::rename(share.join("dir"), away.join("dir")).expect("rename");

        // What was open stays so.
        assert_eq!(fs.read(open, 0, 10).expect("READ"), b"text");
        // The name is gone.
        assert_eq!(fs.lookup(ROOT, "dir").map(drop), Err(Errno::ENOENT));
        for name in ["../beside", "/"] {
            assert_eq!(fs.lookup(dir, name).map(drop), Err(Errno::EINVAL));
        }
        // Itself as long as it is held; above it is nothing that the guest knew, and what is there now it is not told.
        let itself = fs.lookup(dir, ".").map(|entry| entry.nodeid);
        assert!(
            matches!(itself, Err(Errno::ESTALE)) || itself == Ok(dir),
            "{itself:?}"
        );
        assert_eq!(fs.lookup(dir, "..").map(drop), Err(Errno::ESTALE));
        for name in ["beside", "away", "share"] {
            assert!(fs.lookup(dir, name).is_err());
        }
        // It does not tell where it is now.
        let outside = [away.clone(), home.to_path_buf()].map(|path| fs::metadata(path).expect("stat").ino());
        for entry in fs.readdir_all(listing, 4096).expect("READDIR") {
            assert!(!outside.contains(&entry.ino), "{entry:?}");
        }
        for again in fs.opendir(dir).into_iter() {
            for entry in fs.readdir_all(again, 4096).expect("READDIR") {
                assert!(!outside.contains(&entry.ino), "{entry:?}");
            }
        }
        // Whatever is allowed stays in it.
        let _ = fs
            .open(file, libc::O_RDWR)
            .and_then(|open| fs.write(open, 0, b"TEXT"));
        let _ = fs.create(dir, "made", libc::O_RDWR, 0o644);
        let _ = fs.mkdir(dir, "made too", 0o755);
        let _ = fs.symlink(dir, "link", "../beside");
        let _ = fs.link(file, dir, "linked");
        let _ = fs.setattr(dir, airlockfs_tests::fuse::SetAttr::default().mode(0o700));
        for name in ["beside", "dir", "share"] {
            assert!(fs.unlink(dir, name).is_err());
            assert!(fs.rename(dir, "file", dir, name).is_err() || away.join("dir").join(name).exists());
        }
        let mut left: Vec<_> = fs::read_dir(&away)
            .expect("list")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["beside", "dir"], "{options:?}");
        assert_eq!(fs::read_to_string(away.join("beside")).expect("read"), "canary");

        // Back in the share it is what it was.
        fs::rename(away.join("dir"), share.join("dir")).expect("rename");
        assert_eq!(fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid, dir);
        fs.create(dir, "new", libc::O_RDWR, 0o644).expect("CREATE");
        assert!(share.join("dir/new").exists() && daemon.is_alive());
    }
}

/// A mount's root lists the directory above it where the mount comes from, which may be anywhere.
#[test]
fn the_entry_for_the_parent_never_tells_an_inode_outside() {
    use nix::mount::{MsFlags, mount};
    let home = TempDir::new().expect("a directory");
    let (share, volume) = (home.join("share"), home.join("outside/volume"));
    fs::create_dir_all(share.join("dir/mount")).expect("mkdir");
    fs::create_dir_all(volume.join("sub")).expect("mkdir");
    let at = share.join("dir/mount");
    mount(Some(&volume), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
    let _mounted = host::Mounted(at);
    let (_daemon, fs) = started(&share, &[]);
    let outside = fs::metadata(home.join("outside")).expect("stat").ino();
    let parent = |path: &str| {
        let node = fs.walk(path).expect("LOOKUP").nodeid;
        let dir = fs.opendir(node).expect("OPENDIR");
        let plus = fs.readdirplus_all(dir, 4096).expect("READDIRPLUS");
        let plain = fs.readdir_all(dir, 4096).expect("READDIR");
        let dots = |name: &[u8]| name == b"..";
        let one = plain.iter().find(|entry| dots(&entry.name)).expect("..").ino;
        let other = plus
            .iter()
            .find(|entry| dots(&entry.dirent.name))
            .expect("..")
            .dirent
            .ino;
        assert_eq!(one, other);
        one
    };
    let ino = |path: &str| fs::metadata(share.join(path)).expect("stat").ino();
    assert_ne!(parent("dir/mount"), outside);
    assert_eq!(
        parent("dir/mount"),
        ino("dir"),
        "as on a local file system's mount"
    );
    assert_eq!(parent("dir/mount/sub"), ino("dir/mount"));
    assert_eq!(parent("dir"), ino("."));
}
