//! `airlockfsd`, the supervisor: it speaks to the guest and the VMM and can reach no file system.
//!
//! Its duties: the vhost-user socket, guest memory and the virtqueues; to copy what the guest asks out of its memory
//! once, check it, and pass it to the worker as a typed request; to move file data between guest memory and the
//! descriptors of regular files that the worker donated.
//!
//! What it must never do: hold a path or a directory descriptor, open or name a file, use a number of the guest's or of
//! the worker's unchecked, read guest memory for control data twice, believe the worker.
//!
//! Locks, never held across a system call on a file: a queue's own (`backend::Seat`) before the shared tables'
//! (`data::HandleTable`), and those before a vring's: its kick's, its state's, its call's (`backend::Vring`).

// Only there does C's `main` find the arguments without Rust's.
#![cfg_attr(all(target_os = "linux", target_env = "gnu", not(test)), no_main)]

mod backend;
mod chain;
mod commands;
mod crew;
mod data;
mod device;
mod door;
mod end;
#[cfg(all(target_os = "linux", target_env = "gnu", not(test)))]
mod entry;
mod fault;
mod fuse;
mod guest_io;
mod guest_memory;
mod launch;
mod logging;
mod mappings;
mod nudge;
mod own_user;
mod request;
mod rings;
mod serve;
mod session;
mod settings;
mod shared;
mod socket;
mod sys;
mod wait;
mod watch;
mod worker_process;

use airlockfs_policy::ExitKind;
use clap::error::ErrorKind;

// Unwinding, linked in: as a library of its own it would be loaded at each start. Only where the whole program is linked at
// once, and so takes all of it from here.
#[cfg(all(target_env = "gnu", not(debug_assertions)))]
#[expect(unsafe_code, reason = "names a library and declares nothing")]
#[link(name = "gcc_eh", kind = "static")]
unsafe extern "C" {}

#[cfg(all(feature = "breach", not(debug_assertions)))]
compile_error!("the feature `breach` lets tests order any system call: it is never released");

/// What launchers ask before they start a back end (QEMU's docs/interop/vhost-user.json).
const CAPABILITIES: &str = r#"{"type": "fs", "features": ["separate-options"]}"#;

#[cfg(not(all(target_os = "linux", target_env = "gnu", not(test))))]
fn main() -> std::process::ExitCode {
    airlockfs_policy::entry::settle();
    run().into()
}

/// The program; gives its exit code.
fn run() -> u8 {
    let arguments: Vec<_> = std::env::args_os().collect();
    if commands::are_asked_for(&arguments) {
        let error = commands::execute(arguments);
        logging::announce(&format!("airlockfsd: {error}"));
        return error.kind.code();
    }
    let cli = match airlockfs_options::parse(arguments) {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Nobody to tell if stdout is closed.
            let _ = error.print();
            return 0;
        }
        Err(error) => {
            let what = airlockfs_options::one_line(&error);
            logging::announce(&format!("airlockfsd: {what}; see airlockfsd --help"));
            return ExitKind::Usage.code();
        }
    };
    if cli.service.print_capabilities {
        println!("{CAPABILITIES}");
        return 0;
    }
    logging::start(cli.service.log_level);
    // It may be confined by then.
    match launch::run(cli) {
        Ok(()) => end::end(0),
        Err(error) => {
            logging::announce(&format!("airlockfsd: {error}"));
            end::end(error.kind.code())
        }
    }
}
