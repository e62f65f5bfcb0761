//! `cargo xtask bench`: builds what is measured, gets what it is measured against, runs
//! `airlockfs-bench`.

mod guest;

use std::ffi::OsString;

use anyhow::{Context, Result, bail};

use crate::{binaries, command, paths, peer};

/// Everything behind `bench` goes to `airlockfs-bench`, `--help` too.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// Run fio and traces in a Linux guest instead, on both daemons in turn. Takes `--rounds N`
    /// (default 2) and `--output DIR`
    #[arg(long)]
    guest: bool,
    /// Options of airlockfs-bench
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Builds in release mode, installs the peer unless `$AIRLOCKFS_PEER` says where it is, and
/// measures.
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
        "--package",
        "airlockfs-bench",
        "--bins",
    ]))?;
    if options.guest {
        let mut rounds = 2;
        let mut output = paths::target().join("bench");
        let mut args = options.args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().and_then(|value| value.to_str());
            match (arg.to_str(), value) {
                (Some("--rounds"), Some(value)) => rounds = value.parse().context("--rounds")?,
                (Some("--output"), Some(value)) => output = value.into(),
                _ => bail!("bench --guest takes --rounds N and --output DIR"),
            }
        }
        return guest::run(
            &paths::target().join("release/airlockfsd"),
            &peer::get()?,
            rounds,
            &output,
        );
    }
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
