//! Builds our binaries through cargo and says where they are.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{command, paths};

/// What a demo runs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The supervisor, as shipped; the worker and airlockfsctl are beside it.
    pub airlockfsd: PathBuf,
    /// Runs in the guest: what busybox cannot do.
    pub guest_tool: PathBuf,
}

/// Builds what is not up to date.
pub fn build() -> Result<Binaries> {
    Ok(Binaries {
        airlockfsd: release(&["airlockfsd", "airlockfs-worker", "airlockfsctl"])?.join("airlockfsd"),
        guest_tool: tools(&["guest-tool"])?.join("guest-tool"),
    })
}

/// Builds programs of ours that scripts run; returns the directory that holds them.
pub fn tools(names: &[&str]) -> Result<PathBuf> {
    let names = names.iter().flat_map(|name| ["--bin", name]);
    command::run(cargo().args(["build", "--package", "xtask"]).args(names))?;
    Ok(paths::target().join("debug"))
}

/// Builds one of our libraries that programs in scripts load; returns its file.
pub fn library(name: &str) -> Result<PathBuf> {
    command::run(cargo().args(["build", "--package", "xtask", "--example", name]))?;
    let file = format!("lib{}.so", name.replace('-', "_"));
    Ok(paths::target().join("debug/examples").join(file))
}

/// Builds the programs of these packages as shipped; returns the directory that holds them.
pub fn release(packages: &[&str]) -> Result<PathBuf> {
    let packages = packages.iter().flat_map(|name| ["--package", name]);
    command::run(cargo().args(["build", "--release", "--bins"]).args(packages))?;
    Ok(paths::target().join("release"))
}

/// Builds all programs as the tests run them; returns the directory that holds them.
pub fn debug() -> Result<PathBuf> {
    command::run(cargo().args(["build", "--workspace", "--bins"]))?;
    Ok(paths::target().join("debug"))
}

/// The cargo that runs this command, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::workspace());
    cargo
}
