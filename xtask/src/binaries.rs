//! Builds our binaries through cargo and says where they are.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{command, paths};

/// What a demo runs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The supervisor, as shipped; the worker is beside it.
    pub airlockfsd: PathBuf,
    /// Runs in the guest: what busybox cannot do.
    pub guest_tool: PathBuf,
}

/// Builds what is not up to date.
pub fn build() -> Result<Binaries> {
    command::run(cargo().args(["build", "--package", "xtask", "--bin", "guest-tool"]))?;
    command::run(cargo().args([
        "build",
        "--release",
        "--package",
        "airlockfsd",
        "--package",
        "airlockfs-worker",
    ]))?;
    let target = paths::target();
    Ok(Binaries {
        airlockfsd: target.join("release/airlockfsd"),
        guest_tool: target.join("debug/guest-tool"),
    })
}

/// The cargo that runs this command, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::workspace());
    cargo
}
