//! The guest's kernel: Debian's cloud kernel, unpacked under `target/guest/` and never installed on
//! the host; or what `$AIRLOCKFS_GUEST_KERNEL` names: one of [`Release`], or a directory that a
//! kernel's package was unpacked in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::apt::Suites;
use crate::{command, paths, provision};

/// Debian's name for 'the newest cloud kernel of this release'; it depends on the package that
/// holds one.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Kernels that people run in guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// Debian 11's
    #[value(name = "5.10")]
    Oldest,
    /// Debian 12's
    #[value(name = "6.1")]
    Bookworm,
    /// Debian 13's
    #[value(name = "6.12")]
    Trixie,
    /// The newest that Debian 13's backports have
    Newest,
}

impl Release {
    /// The suite of Debian that has it.
    const fn suite(self) -> &'static str {
        match self {
            Self::Oldest => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Newest => "trixie-backports",
        }
    }

    fn get(self) -> Result<Kernel> {
        let suite = self.suite();
        let root = paths::guest_cache().join(format!("kernel-{suite}"));
        if !root.is_dir() {
            let suites = Suites::get(&[suite])?;
            let image = suites
                .needs(METAPACKAGE, suite)?
                .into_iter()
                .find(|name| name.starts_with("linux-image-"));
            let image = image.with_context(|| format!("{suite} has no package behind {METAPACKAGE}"))?;
            // Newer packages of an image hold nothing themselves.
            let mut packages = suites.needs(&image, suite)?;
            packages.retain(|name| is_part(name));
            packages.push(image);
            suites.unpack(&packages, &root)?;
        }
        find(&root)
    }
}

/// Whether a package holds a kernel's image or modules, or stands for those that do.
fn is_part(package: &str) -> bool {
    ["linux-image-", "linux-base-", "linux-binary-", "linux-modules-"]
        .iter()
        .any(|prefix| package.starts_with(prefix))
}

static CHOSEN: OnceLock<Release> = OnceLock::new();

/// All guests of this run have that kernel.
pub fn choose(release: Release) {
    // The command line says it once.
    let _ = CHOSEN.set(release);
}

/// A bootable image and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The kernel's release, as `uname -r` says it in the guest.
    pub release: String,
    /// The image that QEMU loads.
    pub image: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
}

impl Kernel {
    /// Major and minor version; zeros where the release does not begin with them.
    pub fn version(&self) -> (u32, u32) {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        (next(), next())
    }
}

/// The kernel that was chosen, or that the environment names, or that under `target/guest/`;
/// fetched if there is none yet.
pub fn get() -> Result<Kernel> {
    if let Some(release) = CHOSEN.get() {
        return release.get();
    }
    if let Some(named) = std::env::var_os("AIRLOCKFS_GUEST_KERNEL") {
        let release = named.to_str().and_then(|name| Release::from_str(name, true).ok());
        return release.map_or_else(|| find(Path::new(&named)), Release::get);
    }
    let cache = paths::guest_cache();
    let root = cache.join("kernel");
    if !root.is_dir() {
        fetch(&cache, &root).context("cannot fetch the guest's kernel")?;
    }
    find(&root)
}

/// Downloads and unpacks the package; `root` appears only when it is whole.
fn fetch(cache: &Path, root: &Path) -> Result<()> {
    let fresh = cache.join(format!("kernel.{}", std::process::id()));
    fs::create_dir_all(&fresh)?;
    let package = match real_package() {
        Ok(package) => package,
        Err(_) => {
            provision::update()?;
            real_package()?
        }
    };
    println!(
        "downloading {package} into {} for guests (the host keeps its kernel)",
        cache.display()
    );
    let download = || {
        let mut apt_get = Command::new("apt-get");
        // The sandbox user may not write to a directory of ours, and apt warns of it.
        apt_get.args([
            "download",
            "--quiet",
            "--option",
            "APT::Sandbox::User=root",
            &package,
        ]);
        command::run(apt_get.current_dir(&fresh))
    };
    if download().is_err() {
        // The lists may name a version that the mirror has replaced.
        provision::update()?;
        download()?;
    }
    let Some(archive) = entries(&fresh)?
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
    else {
        bail!("apt-get download left no package in {}", fresh.display());
    };
    command::run(Command::new("dpkg-deb").arg("--extract").args([&archive, &fresh]))?;
    fs::remove_file(&archive)?;
    match fs::rename(&fresh, root) {
        // Another run was faster: its copy is as good.
        Err(_) if root.is_dir() => Ok(fs::remove_dir_all(&fresh)?),
        result => Ok(result?),
    }
}

/// The name of the package behind the metapackage.
fn real_package() -> Result<String> {
    let depends = command::output(Command::new("apt-cache").args(["depends", METAPACKAGE]))?;
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends:"))
        .map(|name| name.trim().to_owned())
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("apt knows no package behind {METAPACKAGE}"))
}

/// The kernel of an unpacked package: `boot/vmlinuz-RELEASE`, or `vmlinuz` beside the modules in
/// newer packages.
fn find(root: &Path) -> Result<Kernel> {
    for modules in ["lib/modules", "usr/lib/modules"].map(|dir| root.join(dir)) {
        for modules in entries(&modules).unwrap_or_default() {
            let release = modules
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let boot = root.join("boot").join(format!("vmlinuz-{release}"));
            if let Some(image) = [boot, modules.join("vmlinuz")]
                .into_iter()
                .find(|image| image.is_file())
            {
                return Ok(Kernel {
                    release,
                    modules,
                    image,
                });
            }
        }
    }
    bail!("{0} holds no kernel: remove it and try again", root.display())
}

/// The paths in a directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        let version = |release: &str| {
            Kernel {
                release: release.to_owned(),
                image: PathBuf::new(),
                modules: PathBuf::new(),
            }
            .version()
        };
        assert_eq!(version("6.12.95+deb12-cloud-amd64"), (6, 12));
        assert_eq!(version("6.1.0-54-cloud-amd64"), (6, 1));
        assert_eq!(version("7.0-rc1"), (7, 0));
        assert_eq!(version("next"), (0, 0));
    }
}
