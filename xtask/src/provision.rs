//! Installs through apt what a command lacks, and reports it.

use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::{command, paths};

/// A program, or a file by its path, and the Debian package that holds it.
type Need = (&'static str, &'static str);

/// What booting a guest takes.
pub const GUEST: &[Need] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    // All of the guest's user space; static, so that it needs nothing else in there.
    ("busybox", "busybox-static"),
    // Extended attributes, in the guest and to compare on the host.
    ("setfattr", "attr"),
    // Unpacks the guest's kernel.
    ("dpkg-deb", "dpkg"),
    // Maps more than one uid when the daemon is started by an ordinary user.
    ("newuidmap", "uidmap"),
];

/// What the suites take beyond that.
pub const TESTS: &[Need] = &[
    ("setfacl", "acl"),
    ("fio", "fio"),
    ("strace", "strace"),
    ("git", "git"),
    ("lsattr", "e2fsprogs"),
    // A file system with shared extents, on a file.
    ("mkfs.xfs", "xfsprogs"),
    // Subvolumes.
    ("mkfs.btrfs", "btrfs-progs"),
    // Enforces the OCI profile.
    ("crun", "crun"),
];

/// Installs the packages of all `needs` whose program is missing.
pub fn install(needs: &[&[Need]]) -> Result<()> {
    let mut lacking: Vec<&str> = needs
        .iter()
        .flat_map(|list| list.iter())
        .filter(|(program, _)| paths::program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    lacking.dedup();
    packages(&lacking)
}

/// Installs Debian packages, if there are any in the list.
pub fn packages(lacking: &[&str]) -> Result<()> {
    if lacking.is_empty() {
        return Ok(());
    }
    println!("installing with apt-get: {}", lacking.join(" "));
    update()?;
    let mut install = apt_get()?;
    install.args(["install", "--yes", "-qq", "--no-install-recommends"]);
    command::run(install.args(lacking)).context("install these packages by hand and try again")
}

/// Fetches the package lists, at most once per run.
pub fn update() -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        println!("fetching the package lists with apt-get update");
        command::run(apt_get()?.args(["update", "-qq"]))?;
        let _ = DONE.set(());
    }
    Ok(())
}

/// `apt-get` with root's rights and no questions.
fn apt_get() -> Result<Command> {
    let Some(apt_get) = paths::program("apt-get") else {
        bail!("there is no apt-get here: this command needs a Debian-like system");
    };
    let mut command;
    if geteuid().is_root() {
        command = Command::new("env");
    } else if let Some(sudo) = paths::program("sudo") {
        command = Command::new(sudo);
        command.arg("env");
    } else {
        bail!("installing packages takes root or sudo");
    }
    command.arg("DEBIAN_FRONTEND=noninteractive").arg(apt_get);
    Ok(command)
}
