//! Mounts on the host that go away with their owner.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

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

    /// Binds a directory to itself and makes it shared: mounts beneath it propagate, as on most
    /// hosts.
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

    /// An overlay of `upper` over `lower` (the kernel's Documentation/filesystems/overlayfs.rst).
    /// `work` is an empty directory on the file system of `upper`. `options` are further mount
    /// options, such as `xino=off`.
    ///
    /// # Errors
    /// As mount(2).
    pub fn overlay(at: &Path, lower: &Path, upper: &Path, work: &Path, options: &str) -> Result<Self> {
        let mut data = OsString::from("lowerdir=");
        for (option, path) in [("", lower), (",upperdir=", upper), (",workdir=", work)] {
            data.push(option);
            data.push(path);
        }
        data.push(",");
        data.push(options);
        mount(
            Some("overlay"),
            at,
            Some("overlay"),
            MsFlags::empty(),
            Some(data.as_os_str()),
        )?;
        Ok(Self(at.to_owned()))
    }

    /// A new file system of `megabytes`, made by the program `mkfs` with `arguments`, in the file
    /// `image`.
    ///
    /// # Panics
    /// If a program of the suites is missing or fails. `cargo xtask test` installs them.
    #[must_use]
    pub fn image(at: &Path, image: &Path, megabytes: u64, mkfs: &str, arguments: &[&str]) -> Self {
        File::create(image)
            .and_then(|file| file.set_len(megabytes << 20))
            .unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        let run = |command: &mut Command| {
            let output = command
                .output()
                .unwrap_or_else(|error| panic!("{command:?}: {error}"));
            assert!(output.status.success(), "{command:?}: {output:?}");
        };
        run(Command::new(mkfs).args(arguments).arg(image));
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("umount {}: {error}", self.0.display());
        }
    }
}
