//! File systems to share.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use airlockfs_tests::tempdir::TempDir;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A fresh file system, mounted; gone with its owner.
pub(crate) struct Ground {
    /// Where it is mounted; `image` beside it.
    home: TempDir,
}

impl Ground {
    fn new(fill: impl FnOnce(&Path, &Path)) -> Self {
        let home = TempDir::new().expect("a directory");
        let at = home.join("mounted");
        fs::create_dir(&at).expect("mkdir");
        fill(&home, &at);
        Self { home }
    }

    /// tmpfs: files up to 2^63-1 bytes, nothing waits for a disk.
    pub(crate) fn memory() -> Self {
        Self::new(|_, at| {
            mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount tmpfs");
        })
    }

    /// XFS: shared extents, and large files that take no room.
    pub(crate) fn xfs() -> Self {
        Self::new(|home, at| {
            let image = home.join("image");
            let file = File::create(&image).expect("create");
            file.set_len(400 << 20).expect("truncate");
            let run = |command: &mut Command| {
                let done = command.status().expect("a program");
                assert!(done.success(), "{command:?}");
            };
            run(Command::new("mkfs.xfs")
                .args(["-q", "-m", "reflink=1"])
                .arg(&image));
            run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at));
        })
    }

    /// Its root.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.home.join("mounted")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        umount2(&self.path(), MntFlags::MNT_DETACH).expect("umount");
    }
}
