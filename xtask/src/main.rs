//! The developer's commands: `cargo xtask demo`, `cargo xtask test`.

use std::process::ExitCode;

use clap::Parser;

/// airlockfs's commands for developers
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Xtask {
    /// Boot a Linux guest that works on a directory of this host through airlockfs
    Demo(xtask::demo::Options),
}

fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::Demo(options) => xtask::demo::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
