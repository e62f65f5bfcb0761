//! The developer's commands: `cargo xtask demo`, `cargo xtask test`, `cargo xtask conformance`.

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
    /// Run file system test suites on a host directory, on airlockfs and on virtiofsd, and compare test by test
    Conformance(xtask::conformance::Options),
}

fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::Demo(options) => xtask::demo::run(&options),
        Xtask::Test => xtask::tiers::run(),
        Xtask::Conformance(options) => xtask::conformance::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
