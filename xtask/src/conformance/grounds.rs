//! File systems that people share, mounted beneath a suite's directory: what programs find there
//! must not depend on which one holds their files.
//!
//! Each has the same few files in `seed`, put there before an overlay makes them its lower layer.
//! One that this host cannot mount is told of in a file `NAME.missing` in its place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};

use super::Setup;
use super::mounted::Mounted;
use crate::command;
use crate::paths::Scratch;

/// The first id on the disk of the id-mapped mount, which shows it as 0; and how many ids it shows.
const FIRST: u32 = 100_000;
const COUNT: u32 = 65_536;

/// Sizes of images: the smallest file system with room for a copy of 300 MiB that shares its
/// blocks, and for one that does not.
const MEGABYTES: u64 = 1024;

/// What is mounted. Unmounted with the value, the latest first.
#[derive(Debug)]
pub(super) struct Grounds {
    mounts: Vec<PathBuf>,
    /// Serves the FUSE file system.
    fuse: Option<Mounted>,
    /// Holds images, and layers of overlays.
    home: Scratch,
}

impl Grounds {
    /// Mounts them all beneath `share`.
    pub(super) fn lay(share: &Path, setup: &Setup) -> Result<Self> {
        let mut grounds = Self {
            mounts: Vec::new(),
            fuse: None,
            home: Scratch::new()?,
        };
        grounds.one(share, "plain", |_, _| Ok(()))?;
        grounds.one(share, "tmpfs", |grounds, at| {
            grounds.mount(at, &["-t", "tmpfs", "tmpfs"])
        })?;
        grounds.one(share, "overlay", |grounds, at| {
            let layers = grounds.dir("layers")?;
            grounds.overlay(at, &layers, "redirect_dir=off")
        })?;
        grounds.one(share, "overlay-two", |grounds, at| {
            let layers = grounds.dir("tmpfs")?;
            grounds.mount(&layers, &["-t", "tmpfs", "tmpfs"])?;
            grounds.overlay(at, &layers, "xino=off")
        })?;
        grounds.one(share, "btrfs", |grounds, at| {
            grounds.image(at, &["mkfs.btrfs", "-q"])
        })?;
        grounds.one(share, "xfs", |grounds, at| {
            grounds.image(at, &["mkfs.xfs", "-q", "-m", "reflink=1"])
        })?;
        grounds.one(share, "fuse", |grounds, at| {
            let behind = grounds.dir("fuse")?;
            let options = ["--xattr", "--posix-acl"];
            let mounted = Mounted::private(&setup.binaries.join("airlockfsd"), &behind, &options, setup)?;
            grounds.bind(mounted.path(), at)?;
            grounds.fuse = Some(mounted);
            Ok(())
        })?;
        grounds.one(share, "idmapped", |grounds, at| {
            let behind = grounds.dir("disk")?;
            std::os::unix::fs::chown(&behind, Some(FIRST), Some(FIRST))?;
            // What the mount has no id for: root's on the disk.
            fs::write(behind.join("unmapped"), "text")?;
            let [first, count] = [FIRST, COUNT].map(|number| number.to_string());
            let mut tool = Command::new(setup.tools.join("file-tool"));
            tool.arg("idmap")
                .args([&behind, at])
                .args([&*first, "0", &*count]);
            command::output(&mut tool)?;
            grounds.mounts.push(at.to_owned());
            Ok(())
        })?;
        Ok(grounds)
    }

    /// A directory of the home's.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.home.path().join(name);
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// Has one mounted at its name, with its seed.
    fn one(
        &mut self,
        share: &Path,
        name: &str,
        mount: impl FnOnce(&mut Self, &Path) -> Result<()>,
    ) -> Result<()> {
        let at = share.join(name);
        fs::create_dir(&at)?;
        if let Err(error) = mount(self, &at) {
            fs::remove_dir(&at)?;
            return Ok(fs::write(
                share.join(format!("{name}.missing")),
                format!("{error:#}").replace('\n', " "),
            )?);
        }
        match at.join("seed").exists() {
            true => Ok(()),
            false => seed(&at),
        }
    }

    fn mount(&mut self, at: &Path, arguments: &[&str]) -> Result<()> {
        command::output(Command::new("mount").args(arguments).arg(at))?;
        self.mounts.push(at.to_owned());
        Ok(())
    }

    fn bind(&mut self, from: &Path, at: &Path) -> Result<()> {
        command::output(Command::new("mount").arg("--bind").args([from, at]))?;
        self.mounts.push(at.to_owned());
        Ok(())
    }

    /// An overlay whose lower layer lies in the home, and whose upper one in `layers`.
    fn overlay(&mut self, at: &Path, layers: &Path, options: &str) -> Result<()> {
        let name = at.file_name().context("a name")?.to_string_lossy();
        let lower = self.dir(&format!("{name}-lower"))?;
        seed(&lower)?;
        for layer in ["upper", "work"] {
            fs::create_dir(layers.join(layer))?;
        }
        let data = format!(
            "{options},lowerdir={},upperdir={},workdir={}",
            lower.display(),
            layers.join("upper").display(),
            layers.join("work").display()
        );
        self.mount(at, &["-t", "overlay", "-o", &data, "overlay"])
    }

    /// A file system of its own, in a file.
    fn image(&mut self, at: &Path, make: &[&str]) -> Result<()> {
        let [program, options @ ..] = make else {
            bail!("nothing makes it");
        };
        let image = self.home.path().join(program);
        fs::File::create(&image)?.set_len(MEGABYTES << 20)?;
        command::output(Command::new(program).args(options).arg(&image))?;
        let image = image.to_string_lossy().into_owned();
        self.mount(at, &["-o", "loop", &image])
    }
}

impl Drop for Grounds {
    fn drop(&mut self) {
        while let Some(at) = self.mounts.pop() {
            if let Err(errno) = umount2(&at, MntFlags::MNT_DETACH) {
                eprintln!("cannot unmount {}: {errno}", at.display());
            }
        }
    }
}

/// Files that are there before anybody looks.
fn seed(at: &Path) -> Result<()> {
    let seed = at.join("seed");
    for name in ["app", "other", "linked"] {
        fs::create_dir_all(seed.join(name))?;
    }
    for name in ["app", "other"] {
        fs::write(seed.join(name).join("file"), name)?;
    }
    fs::write(seed.join("linked/one"), "linked")?;
    fs::hard_link(seed.join("linked/one"), seed.join("linked/two"))?;
    Ok(())
}
