//! The guest sees the host's tree as it is, whatever file system holds it: one that changes birth
//! times or inode numbers, one with several devices, one whose names change beside the guest.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{ROOT, attr_flags};
use airlockfs_tests::fuse::{Client, Opened};
use airlockfs_tests::mount::Mount;
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// A share on a mount that tells others of changes, as on most hosts.
struct Host {
    home: TempDir,
    share: PathBuf,
    mounts: Vec<Mount>,
}

impl Host {
    fn new() -> Self {
        let home = TempDir::new().expect("a directory");
        let share = home.join("share");
        fs::create_dir_all(share.join("mount")).expect("mkdir");
        let mounts = vec![Mount::shared(&share).expect("bind")];
        Self { home, share, mounts }
    }

    fn mount_point(&self) -> PathBuf {
        self.share.join("mount")
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.home.join(name);
        fs::create_dir_all(&dir).expect("mkdir");
        dir
    }

    /// An overlay at `share/mount` whose lower layer has `app/file` and `other/file`. Its upper layer lies in `upper`.
    fn overlay(&mut self, upper: &Path, options: &str) {
        let lower = self.dir("lower");
        for name in ["app", "other"] {
            fs::create_dir(lower.join(name)).expect("mkdir");
            fs::write(lower.join(name).join("file"), name).expect("write");
        }
        for name in ["upper", "work"] {
            fs::create_dir(upper.join(name)).expect("mkdir");
        }
        let (at, upper, work) = (self.mount_point(), upper.join("upper"), upper.join("work"));
        let overlay = Mount::overlay(&at, &lower, &upper, &work, options).expect("an overlay");
        self.mounts.push(overlay);
    }

    fn start(&self, options: &[&str]) -> (Daemon, Client) {
        let daemon = Launch::airlockfs().share(&self.share).args(options).start();
        let client = daemon.client();
        (daemon, client)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The latest first: the ones before are beneath them.
        while self.mounts.pop().is_some() {}
    }
}

/// Waits for something that comes about by itself, or panics.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < limit, "{what}: not after a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the worker holds no descriptor beneath `mount` in the share.
fn wait_until_cold(daemon: &Daemon) {
    let worker = daemon.worker().expect("a worker");
    wait_until("the worker lets go of the mount", || {
        let held = worker.descriptors().expect("descriptors");
        !held.iter().any(|(_, path)| path.starts_with("/mount"))
    });
}

/// Has the host forget what it keeps of names and inodes.
fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("drop_caches");
}

#[test]
fn a_directory_is_itself_after_overlayfs_copied_it_up() {
    let mut host = Host::new();
    let upper = host.dir("layer");
    host.overlay(&upper, "xino=off");
    let (daemon, fs) = host.start(&[]);
    let app = fs.walk("mount/app").expect("LOOKUP");
    let file = fs.lookup(app.nodeid, "file").expect("LOOKUP");
    fs.create(app.nodeid, "new", libc::O_RDWR, 0o644)
        .and_then(|(_, new)| fs.release(new))
        .expect("CREATE");
    wait_until_cold(&daemon);
    assert_eq!(fs.getattr(app.nodeid).expect("GETATTR").ino, app.attr.ino);
    fs.lookup(app.nodeid, "new").expect("LOOKUP beneath it");
    // A file likewise, that the host copies up while the worker holds nothing of it.
    wait_until_cold(&daemon);
    fs::write(host.mount_point().join("app/file"), "changed").expect("write");
    let open = fs.open(file.nodeid, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(open, 0, 100).expect("READ"), b"changed");
    assert_eq!(fs.lookup(app.nodeid, "file").expect("LOOKUP").nodeid, file.nodeid);
}

#[test]
fn an_overlay_that_nobody_uses_can_be_unmounted() {
    let mut host = Host::new();
    let upper = host.dir("layer");
    host.overlay(&upper, "xino=off");
    let (daemon, fs) = host.start(&[]);
    fs.walk("mount/app/file").expect("LOOKUP");
    fs.walk("mount/other").expect("LOOKUP");
    wait_until_cold(&daemon);
    umount2(&host.mount_point(), MntFlags::empty()).expect("a mount that nobody uses");
    std::mem::forget(host.mounts.pop());
}

#[test]
fn inode_numbers_that_change_lose_nothing_that_the_guest_holds() {
    let mut host = Host::new();
    let upper = host.dir("layer");
    host.mounts.push(Mount::tmpfs(&upper).expect("a tmpfs"));
    host.overlay(&upper, "xino=off");
    let (_daemon, fs) = host.start(&[]);
    let app = fs.walk("mount/app").expect("LOOKUP").nodeid;
    let file = fs.walk("mount/other/file").expect("LOOKUP").nodeid;
    drop_caches();
    // Other directories are given the numbers first.
    for entry in fs::read_dir(host.mount_point()).expect("a listing") {
        entry.and_then(|entry| entry.metadata()).expect("stat");
    }
    fs.lookup(app, "file")
        .expect("LOOKUP beneath a directory that is held");
    // The host changes a file: it is copied up, to another inode.
    fs::write(host.mount_point().join("other/file"), "changed").expect("write");
    let open = fs.open(file, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(open, 0, 100).expect("READ"), b"changed");
}

#[test]
fn a_mount_whose_inodes_are_held_may_be_detached() {
    let mut host = Host::new();
    let upper = host.dir("layer");
    host.mounts.push(Mount::tmpfs(&upper).expect("a tmpfs"));
    host.overlay(&upper, "xino=off");
    let (daemon, fs) = host.start(&[]);
    fs.walk("mount/app/file").expect("LOOKUP");
    drop(host.mounts.pop());
    wait_until_cold(&daemon);
    assert_eq!(fs.walk("mount/app").map(drop), Err(Errno::ENOENT));
}

#[test]
fn subvolumes_are_file_systems_of_their_own() {
    let mut host = Host::new();
    let image = host.home.join("image");
    let at = host.mount_point();
    host.mounts
        .push(Mount::image(&at, &image, 128, "mkfs.btrfs", &["-q"]));
    for name in ["one", "two"] {
        let made = std::process::Command::new("btrfs")
            .args(["-q", "subvolume", "create"])
            .arg(at.join(name))
            .status();
        assert!(made.expect("btrfs").success());
        fs::write(at.join(name).join("a"), name).expect("write");
        fs::hard_link(at.join(name).join("a"), at.join(name).join("b")).expect("link");
    }
    let numbers = ["one", "two"].map(|name| fs::metadata(at.join(name)).expect("stat").ino());
    assert_eq!(numbers[0], numbers[1], "as the kernel numbers them");
    // With the mount as the share, and beneath it.
    for (share, prefix) in [(at.as_path(), ""), (host.share.as_path(), "mount/")] {
        let daemon = Launch::airlockfs().share(share).start();
        let fs = daemon.client();
        for name in ["one", "two"] {
            let root = fs.walk(format!("{prefix}{name}")).expect("LOOKUP");
            assert!(root.attr.flags & attr_flags::SUBMOUNT != 0, "{name} is announced");
            let seen = fs.getattr_out(root.nodeid, None).expect("GETATTR");
            assert!(
                seen.attr.flags & attr_flags::SUBMOUNT != 0,
                "{name} stays announced"
            );
            let [a, b] = ["a", "b"].map(|file| fs.lookup(root.nodeid, file).expect("LOOKUP"));
            assert_eq!(a.nodeid, b.nodeid, "hard links are one inode");
            assert!(a.attr.flags & attr_flags::SUBMOUNT == 0);
            let open = fs.open(a.nodeid, libc::O_RDONLY).expect("OPEN");
            assert_eq!(fs.read(open, 0, 100).expect("READ"), name.as_bytes());
        }
        let parent = match prefix {
            "" => ROOT,
            _ => fs.lookup(ROOT, "mount").expect("LOOKUP").nodeid,
        };
        let dir = fs.opendir(parent).expect("OPENDIR");
        for item in fs.readdirplus_all(dir, 65_536).expect("READDIRPLUS") {
            let submount = item.entry.attr.flags & attr_flags::SUBMOUNT != 0;
            let expected = [&b"one"[..], b"two"].contains(&&*item.dirent.name);
            assert_eq!(submount, expected, "{item:?}");
        }
    }
}

/// What a guest uses that has not opened it.
fn unopened(node: u64) -> Opened {
    Opened {
        node,
        fh: 0,
        open_flags: 0,
    }
}

#[test]
fn a_file_stays_while_one_of_its_names_does() {
    for options in [
        &["--readonly", "--cache=always"][..],
        &[],
        &["--rlimit-nofile=256"],
    ] {
        let host = Host::new();
        let path = |name: &str| host.share.join(name);
        fs::create_dir(path("dir")).expect("mkdir");
        fs::write(path("first"), "text").expect("write");
        for name in ["second", "dir/third", "dir/fourth"] {
            fs::hard_link(path("first"), path(name)).expect("link");
        }
        for i in 0..600 {
            fs::create_dir(path(&format!("dir{i}"))).expect("mkdir");
            fs::write(path(&format!("dir{i}/file")), "").expect("write");
        }
        let (_daemon, fs) = host.start(options);
        let node = fs.lookup(ROOT, "first").expect("LOOKUP").nodeid;
        for name in ["second", "dir/third", "dir/fourth"] {
            assert_eq!(fs.walk(name).expect("LOOKUP").nodeid, node);
        }
        // So many others are used that few descriptors are left.
        for i in 0..600 {
            fs.walk(format!("dir{i}/file")).expect("LOOKUP");
        }
        for name in ["dir/fourth", "second", "dir/third"] {
            fs::remove_file(path(name)).expect("remove");
            let attr = fs
                .getattr(node)
                .unwrap_or_else(|error| panic!("{options:?} {name}: {error}"));
            assert_eq!(attr.size, 4);
        }
        let file = match options {
            ["--readonly", ..] => unopened(node),
            _ => fs.open(node, libc::O_RDONLY).expect("OPEN"),
        };
        assert_eq!(fs.read(file, 0, 100).expect("READ"), b"text", "{options:?}");
    }
}

#[test]
fn a_file_that_was_opened_without_a_message_is_still_itself_when_the_host_replaces_it() {
    let host = Host::new();
    let path = |name: &str| host.share.join(name);
    for name in ["looked-up", "listed"] {
        fs::write(path(name), "before").expect("write");
    }
    let (_daemon, fs) = host.start(&["--readonly", "--cache=always"]);
    let looked_up = fs.lookup(ROOT, "looked-up").expect("LOOKUP").nodeid;
    let listing = fs.readdirplus_all(unopened(ROOT), 65_536).expect("READDIRPLUS");
    let listed = listing
        .iter()
        .find(|item| item.dirent.name == b"listed")
        .expect("an entry");
    for name in ["looked-up", "listed"] {
        fs::write(path("new"), "after").expect("write");
        fs::rename(path("new"), path(name)).expect("rename");
    }
    for node in [looked_up, listed.entry.nodeid] {
        assert_eq!(fs.read(unopened(node), 0, 100).expect("READ"), b"before");
    }
}
