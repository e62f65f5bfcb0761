//! The directory that is shared: the same for all daemons, on a RAM file system or on a disk.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::sys;

/// Small files of 4 KiB, with an extended attribute each.
pub const SMALL_FILES: usize = 1000;
/// Directories of empty files, for names that nobody looked up yet.
pub const NAME_DIRS: usize = 100;
/// Files in each of them.
pub const NAMES_PER_DIR: usize = 1000;
/// Files in the large directory.
pub const BIG_DIR: usize = 10_000;
/// Bytes of the large file.
pub const DATA: u64 = 256 << 20;
/// The extended attribute.
pub const XATTR: &CStr = c"user.bench";
/// Its value.
pub const XATTR_VALUE: &[u8] = &[b'v'; 32];

/// Where a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Medium {
    /// A RAM file system (/dev/shm).
    Tmpfs,
    /// The file system that holds the build directory.
    Disk,
}

impl Medium {
    /// How it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Disk => "disk",
        }
    }
}

/// A tree, removed when dropped.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    medium: Medium,
}

impl Tree {
    /// Makes one; `disk` is the directory for those on a disk.
    pub fn new(medium: Medium, disk: &Path) -> Result<Self> {
        let parent = match medium {
            Medium::Tmpfs => Path::new("/dev/shm"),
            Medium::Disk => disk,
        };
        fs::create_dir_all(parent)?;
        if medium == Medium::Tmpfs {
            let kind = statfs(parent).context("statfs /dev/shm")?.filesystem_type();
            anyhow::ensure!(kind == TMPFS_MAGIC, "/dev/shm is no tmpfs");
        }
        let root = nix::unistd::mkdtemp(&parent.join("airlockfs-bench-XXXXXX"))?;
        let tree = Self { root, medium };
        tree.fill()?;
        Ok(tree)
    }

    /// The directory to share.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What it lies on.
    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    fn fill(&self) -> Result<()> {
        for dir in ["small", "names", "big", "work"] {
            fs::create_dir(self.path(dir))?;
        }
        for i in 0..SMALL_FILES {
            let path = self.path("small").join(small(i));
            fs::write(&path, [b'x'; 4096])?;
            sys::set_xattr(&path, XATTR, XATTR_VALUE)?;
        }
        for d in 0..NAME_DIRS {
            let dir = self.path(names_dir(d));
            fs::create_dir(&dir)?;
            for i in 0..NAMES_PER_DIR {
                File::create(dir.join(small(i)))?;
            }
        }
        for i in 0..BIG_DIR {
            File::create(self.path("big").join(format!("entry-{i:05}")))?;
        }
        let mut data = File::create(self.path("data"))?;
        let block: Vec<u8> = (0..1u32 << 18).flat_map(|i| i.to_le_bytes()).collect();
        for _ in 0..DATA / block.len() as u64 {
            data.write_all(&block)?;
        }
        data.sync_all()?;
        Ok(())
    }

    /// Empties the directory that cases work in.
    pub fn clean(&self) -> Result<()> {
        fs::remove_dir_all(self.path("work"))?;
        fs::create_dir(self.path("work"))?;
        Ok(())
    }

    /// Drops the large file from the page cache.
    pub fn cool(&self) -> Result<()> {
        let file = File::open(self.path("data"))?;
        // Dirty pages stay cached, so they are written first.
        file.sync_all()?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).context("posix_fadvise")
    }

    /// Has the host forget all names and inodes that nobody uses (proc_sys_vm(5), `drop_caches`), and what it has of its disks.
    pub fn cool_names(&self) -> Result<()> {
        nix::unistd::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").context("drop the host's caches, which takes root")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("cannot remove {}: {error}", self.root.display());
        }
    }
}

/// The name of a small file.
pub fn small(i: usize) -> String {
    format!("file-{i:04}")
}

/// The path of a directory of names.
pub fn names_dir(d: usize) -> String {
    format!("names/dir-{d:02}")
}
