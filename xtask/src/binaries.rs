//! Builds our binaries through cargo and says where they are.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{command, paths};

/// Cargo's profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Fast to build.
    Debug,
    /// As shipped.
    Release,
}

/// The binaries of one profile.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The supervisor; the worker is beside it.
    pub airlockfsd: PathBuf,
    /// Runs in the guest: what busybox cannot do.
    pub guest_tool: PathBuf,
}

/// Builds what is not up to date.
pub fn build(profile: Profile) -> Result<Binaries> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(paths::workspace())
        .args([
            "build",
            "--quiet",
            "--package",
            "airlockfsd",
            "--package",
            "airlockfs-worker",
        ])
        .args([
            "--package",
            "xtask",
            "--bin",
            "airlockfsd",
            "--bin",
            "airlockfs-worker",
            "--bin",
            "guest-tool",
        ]);
    let folder = match profile {
        Profile::Debug => "debug",
        Profile::Release => {
            build.arg("--release");
            "release"
        }
    };
    command::run(&mut build)?;
    let folder = paths::target().join(folder);
    Ok(Binaries {
        airlockfsd: folder.join("airlockfsd"),
        guest_tool: folder.join("guest-tool"),
    })
}
