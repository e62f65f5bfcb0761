//! `airlockfsctl`: what airlockfs may do, and what a running pair can do.
//!
//! It has the rights of whoever calls it and serves nobody. It reads what others wrote: command lines, saved policies, the
//! /proc of processes that another user may have made. `airlockfsd policy` and `airlockfsd audit` execute it.

mod audit;
mod line;
mod policy;

use std::process::ExitCode;

use airlockfs_options::{modernise, one_line};
use airlockfs_policy::ExitKind;
use clap::{Parser, error::ErrorKind};

use crate::line::{Command, CommandLine};

// Unwinding, linked in as in the other programs: an audit allows them what this program has mapped itself, and no more.
#[cfg(all(target_os = "linux", target_env = "gnu", not(debug_assertions)))]
#[expect(unsafe_code, reason = "names a library and declares nothing")]
#[link(name = "gcc_eh", kind = "static")]
unsafe extern "C" {}

fn main() -> ExitCode {
    airlockfs_policy::entry::settle();
    run().into()
}

/// The program; gives its exit code.
fn run() -> u8 {
    let line = match CommandLine::try_parse_from(modernise(std::env::args_os())) {
        Ok(line) => line,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Nobody to tell if stdout is closed.
            let _ = error.print();
            return 0;
        }
        Err(error) => {
            eprintln!("airlockfsctl: {}; see airlockfsctl --help", one_line(&error));
            return ExitKind::Usage.code();
        }
    };
    match &line.command {
        Command::Policy(command) => policy::run(command),
        Command::Audit(asked) if line.at_once => audit::run(asked, line.airlockfsd.as_deref()),
        Command::Audit(asked) => audit::run_limited(asked.pid),
    }
}
