//! What the host does meanwhile. It never writes through a name beneath the share's first level,
//! which could be a link by then. It makes everything elsewhere and moves it in by rename.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::canary::Canary;

/// A mount that goes away with its owner.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Also where a test stopped between a mount and its end.
        while umount2(&self.0, MntFlags::MNT_DETACH).is_ok() {}
    }
}

/// The tree and its changes.
pub(crate) struct Host {
    pub(crate) share: PathBuf,
    away: PathBuf,
    stage: PathBuf,
    outside: PathBuf,
    count: AtomicU64,
    _mounted: Mounted,
    _inner: Mounted,
}

/// One turn of a change.
type Way = fn(&Host);

/// What happens, each on a thread of its own.
pub(crate) const WAYS: &[Way] = &[
    Host::swap_directory_and_link,
    Host::move_parent_out_and_back,
    Host::bind_and_unbind,
    Host::replace_file,
];

impl Host {
    pub(crate) fn new(home: &Path, canary: &Canary) -> Self {
        let path = |name: &str| home.join(name);
        // One mount for all of it: renames go in and out of the share. It tells others of changes, as most hosts' do.
        mount(Some(home), home, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind");
        let mounted = Mounted(home.to_owned());
        let shared = MsFlags::MS_SHARED;
        mount(None::<&str>, home, None::<&str>, shared, None::<&str>).expect("share");
        for dir in ["share", "away", "stage", "share/source", "share/mount"] {
            fs::create_dir(path(dir)).expect("mkdir");
        }
        let share = path("share");
        let host = Self {
            away: path("away"),
            stage: path("stage"),
            outside: canary.path.clone(),
            count: AtomicU64::new(0),
            _inner: Mounted(share.join("mount")),
            share,
            _mounted: mounted,
        };
        for name in ["swap", "parent", "source"] {
            host.bring(name);
        }
        symlink(&host.outside, host.share.join("other")).expect("symlink");
        for number in 0..300 {
            // More inodes than descriptors, beneath a directory that moves.
            fs::write(host.share.join(format!("parent/many/{number}")), "GUEST").expect("write");
        }
        host
    }

    /// A fresh path on the host's side.
    fn fresh(&self) -> PathBuf {
        self.stage.join(self.count.fetch_add(1, Relaxed).to_string())
    }

    /// Renames a directory like the canary's in, unless something is there that cannot be replaced.
    fn bring(&self, name: &str) {
        let made = self.fresh();
        for dir in ["dir", "sub/sub", "many"] {
            fs::create_dir_all(made.join(dir)).expect("mkdir");
        }
        for file in ["file", "0", "1", "dir/file", "sub/file", "sub/sub/file", "many/0"] {
            fs::write(made.join(file), "GUEST").expect("write");
        }
        if fs::rename(&made, self.share.join(name)).is_err() {
            fs::remove_dir_all(&made).expect("remove");
        }
    }

    /// Turns until told to stop; how many.
    pub(crate) fn go_on(&self, way: Way, stop: &AtomicBool) -> u64 {
        let mut turns = 0;
        while !stop.load(Relaxed) {
            way(self);
            turns += 1;
        }
        turns
    }

    fn swap_directory_and_link(&self) {
        let (one, other) = (self.share.join("swap"), self.share.join("other"));
        let exchange = RenameFlags::RENAME_EXCHANGE;
        if renameat2(AT_FDCWD, &one, AT_FDCWD, &other, exchange).is_err() {
            // The guest took one of them.
            self.bring("swap");
            let made = self.fresh();
            symlink(&self.outside, &made).expect("symlink");
            if fs::rename(&made, &other).is_err() {
                fs::remove_file(&made).expect("remove");
            }
        }
    }

    fn move_parent_out_and_back(&self) {
        let (inside, outside) = (self.share.join("parent"), self.away.join("parent"));
        if fs::rename(&inside, &outside).is_err() {
            self.bring("parent");
        }
        let _ = fs::rename(&outside, &inside);
    }

    fn bind_and_unbind(&self) {
        let (from, to) = (self.share.join("source"), self.share.join("mount"));
        if mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>).is_ok() {
            std::thread::yield_now();
            let _ = umount2(&to, MntFlags::MNT_DETACH);
        }
    }

    fn replace_file(&self) {
        let turn = self.count.fetch_add(1, Relaxed);
        let made = self.fresh();
        let mode = Mode::from_bits_truncate(0o666);
        match turn % 6 {
            0 => fs::write(&made, "GUEST").expect("write"),
            1 => symlink(self.outside.join("file"), &made).expect("symlink"),
            2 => nix::unistd::mkfifo(&made, mode).expect("mkfifo"),
            3 => symlink("../outside/dir/file", &made).expect("symlink"),
            // The full device: harmless, and a read would give zeros.
            4 => mknod(&made, SFlag::S_IFCHR, mode, makedev(1, 7)).expect("mknod"),
            _ => symlink("/proc/self/root", &made).expect("symlink"),
        }
        if fs::rename(&made, self.share.join("file")).is_err() {
            fs::remove_file(&made).expect("remove");
        }
    }
}
