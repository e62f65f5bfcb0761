//! `trace-tool DIRECTORY PROGRAM ARGUMENTS...` runs a program as it is and notes, in a file of DIRECTORY, which rules of
//! the policy its confined processes use. The program keeps this process's id, parent and descriptors: the tracer is a
//! process of its own that nobody waits for (ptrace(2)).
//!
//! A line of the file is `PROCESS INDEX ALTERNATIVE`: a process's name, the index of a rule in
//! [`airlockfs_policy::all_rules`], and of the alternative of its pins.

mod ptrace;
mod tracer;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), Some(program)) = (arguments.next(), arguments.next()) else {
        eprintln!("trace-tool DIRECTORY PROGRAM ARGUMENTS...");
        return ExitCode::FAILURE;
    };
    let arguments: Vec<OsString> = arguments.collect();
    // Of an ordinary user's children, a tracer would take what setuid programs give them.
    if nix::unistd::geteuid().is_root() {
        let given = |option: &str| arguments.iter().any(|word| word == option);
        let options = tracer::Options {
            readonly: given("--readonly"),
            set_ids: !given("--no-setuid"),
        };
        if let Err(error) = tracer::attach(PathBuf::from(directory), options) {
            eprintln!("trace-tool: {error}");
            return ExitCode::FAILURE;
        }
    }
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("trace-tool: {}: {error}", program.display());
    ExitCode::FAILURE
}
