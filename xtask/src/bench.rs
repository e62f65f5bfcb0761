//! `cargo xtask bench`: builds what is measured, gets what it is measured against, runs `airlockfs-bench`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{binaries, command, paths, provision};

/// The virtiofsd to compare with.
const VERSION: &str = "1.14.0";
/// What building it takes: a header, and the Debian package that holds it.
const HEADERS: &[(&str, &str)] = &[
    ("/usr/include/cap-ng.h", "libcap-ng-dev"),
    ("/usr/include/seccomp.h", "libseccomp-dev"),
];

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
        bench.env("AIRLOCKFS_PEER", peer()?);
    }
    let status = bench.status().context("cannot run airlockfs-bench")?;
    if !status.success() {
        bail!("airlockfs-bench ended with {status}");
    }
    Ok(())
}

/// The path of virtiofsd, installed when it is not there.
fn peer() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("AIRLOCKFS_PEER") {
        return Ok(path.into());
    }
    let root = paths::target().join("peer");
    let binary = root.join("bin/virtiofsd");
    if binary.is_file() {
        return Ok(binary);
    }
    let lacking = HEADERS.iter().filter(|(header, _)| !Path::new(header).exists());
    provision::packages(&lacking.map(|(_, package)| *package).collect::<Vec<_>>())?;
    let mut install = binaries::cargo();
    install.args(["install", "virtiofsd", "--version", VERSION, "--locked", "--root"]);
    command::run(install.arg(&root))?;
    Ok(binary)
}
