//! The developer's commands: `cargo xtask demo`, `test`, `conformance`, `coverage`, `bench`.

use std::process::ExitCode;

use clap::Parser;

/// airlockfs's commands for developers
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Xtask {
    /// Boot a Linux guest that works on a directory of this host through airlockfs
    Demo(xtask::demo::Options),
    /// Run every test: units, the front end of tests/ against the real binaries, Linux guests
    Test,
    /// Run file system test suites on a host directory, airlockfs and virtiofsd; compare test by
    /// test
    Conformance(xtask::conformance::Options),
    /// Compare what the processes of airlockfs and virtiofsd may do, and what confinement costs at
    /// start
    Compare,
    /// List policy rules that no suite exercises. Fails unless each such rule says what needs it
    Coverage,
    /// Measure airlockfs beside virtiofsd; `bench --help` lists the options
    Bench(xtask::bench::Options),
}

fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::Demo(options) => xtask::demo::run(&options),
        Xtask::Test => xtask::tiers::run(),
        Xtask::Conformance(options) => xtask::conformance::run(&options),
        Xtask::Compare => xtask::compare::run(),
        Xtask::Coverage => xtask::coverage::run(),
        Xtask::Bench(options) => xtask::bench::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
