//! File systems to share, on images of their own.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::tempdir::TempDir;

/// A fresh file system, mounted; gone with its owner.
#[derive(Debug)]
pub struct Ground {
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

    /// tmpfs: files of up to 2^63-1 bytes; nothing waits for a disk.
    pub fn memory() -> Self {
        Self::new(|_, at| {
            mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount tmpfs");
        })
    }

    /// XFS: shared extents, and large files that take no room.
    pub fn xfs() -> Self {
        Self::image(400 << 20, &["mkfs.xfs", "-q", "-m", "reflink=1"], "loop")
    }

    /// ext4 of `size` bytes, made with these options of mkfs.ext4(8) and mounted with those.
    pub fn ext4(size: u64, make: &[&str], options: &str) -> Self {
        let make = [&["mkfs.ext4", "-q", "-F"], make].concat();
        Self::image(size, &make, &format!("loop,{options}"))
    }

    fn image(size: u64, make: &[&str], options: &str) -> Self {
        Self::new(|home, at| {
            let image = home.join("image");
            let file = File::create(&image).expect("create");
            file.set_len(size).expect("truncate");
            let run = |command: &mut Command| {
                let done = command.status().expect("a program");
                assert!(done.success(), "{command:?}");
            };
            let (program, args) = make.split_first().expect("a program");
            run(Command::new(program).args(args).arg(&image));
            run(Command::new("mount").args(["-o", options]).arg(&image).arg(at));
        })
    }

    /// Its root.
    pub fn path(&self) -> std::path::PathBuf {
        self.home.join("mounted")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        umount2(&self.path(), MntFlags::MNT_DETACH).expect("umount");
    }
}
