//! A directory that goes away with its owner.

use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A fresh directory, mode 0755, removed with everything in it when dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one under `$TMPDIR`, or /tmp.
    pub fn new() -> Result<Self> {
        Self::under(&std::env::temp_dir())
    }

    /// Makes one on a RAM file system, where nothing waits for a device.
    pub fn in_memory() -> Result<Self> {
        Self::under(Path::new("/dev/shm"))
    }

    fn under(parent: &Path) -> Result<Self> {
        let template = parent.join("airlockfs-test-XXXXXX");
        let path = nix::unistd::mkdtemp(&template).with_context(|| format!("make {}", template.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }
}

impl Deref for TempDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for TempDir {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Leave what cannot be removed: a test can do nothing about it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
