//! The developer's commands: `cargo xtask demo`, `cargo xtask test`.

use std::process::ExitCode;

use clap::Parser;

/// airlockfs's commands for developers
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Xtask {
    /// Boot a Linux guest that works on a directory of this host through airlockfs
    Demo(xtask::demo::Options),
    /// Run every test: units, our own front end against the real binaries, Linux guests
    Test,
}

fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::Demo(options) => xtask::demo::run(&options),
        Xtask::Test => xtask::tiers::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
