//! Mounts on the host that go away with their owner.

use std::path::{Path, PathBuf};

use nix::Result;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A mount. It is detached when dropped, whatever still uses it.
#[derive(Debug)]
pub struct Mount(PathBuf);

impl Mount {
    /// Binds `from` to `to`.
    ///
    /// # Errors
    /// As mount(2): EPERM without CAP_SYS_ADMIN, ENOENT when either is not there.
    pub fn bind(from: &Path, to: &Path) -> Result<Self> {
        mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(Self(to.to_owned()))
    }

    /// Binds a directory to itself and has it tell others of what is mounted beneath, as mounts of most hosts do.
    ///
    /// # Errors
    /// As mount(2).
    pub fn shared(at: &Path) -> Result<Self> {
        let mounted = Self::bind(at, at)?;
        mount(None::<&str>, at, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
        Ok(mounted)
    }

    /// An empty tmpfs.
    ///
    /// # Errors
    /// As mount(2).
    pub fn tmpfs(at: &Path) -> Result<Self> {
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("umount {}: {error}", self.0.display());
        }
    }
}
