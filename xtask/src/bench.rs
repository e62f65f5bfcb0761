//! `cargo xtask bench`: builds what is measured, gets what it is measured against, runs `airlockfs-bench`.

use std::ffi::OsString;

use anyhow::{Context, Result, bail};

use crate::{binaries, command, paths, peer};

/// Everything behind `bench` goes to `airlockfs-bench`, `--help` too.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// Options of airlockfs-bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Builds in release mode, installs the peer unless `$AIRLOCKFS_PEER` says where it is, and measures.
pub fn run(options: &Options) -> Result<()> {
    command::run(binaries::cargo().args([
        "build",
        "--release",
        "--package",
        "airlockfsd",
        "--package",
        "airlockfs-worker",
        "--package",
        "airlockfs-tests",
        "--bins",
    ]))?;
    let mut bench = std::process::Command::new(paths::target().join("release/airlockfs-bench"));
    bench.args(&options.args).current_dir(paths::workspace());
    let only_asks = options
        .args
        .iter()
        .any(|arg| arg == "--help" || arg == "-h" || arg == "list");
    if !only_asks {
        bench.env("AIRLOCKFS_PEER", peer::get()?);
    }
    let status = bench.status().context("cannot run airlockfs-bench")?;
    if !status.success() {
        bail!("airlockfs-bench ended with {status}");
    }
    Ok(())
}
