//! airlockfs-worker: the process that holds the shared tree.
//!
//! Its duties: every system call that names, creates, changes or removes a file of the share, for requests that come
//! over the ring from `airlockfsd`; the table of inodes that the guest knows and of files that it has open.
//!
//! What it must never do: see guest memory, a virtqueue or the VMM's socket; open anything but regular files and
//! directories for I/O; follow a symbolic link; take two components of a path at once; serve before it is confined;
//! panic over what a request or the file system says.
//!
//! Threads: one for each lane of the ring and spares, any of which serves any lane; one that watches them; one that has file
//! locks tried again that requests wait for, one that lets go of mounts which nobody uses, one that writes the log, and the main
//! thread, which waits for the supervisor's end and then ends the process. The watching and the main thread make no call on the share, which may hang.
//!
//! Lock order: a directory handle's entries or an owner's file locks on an inode, who moves directories, then the table of
//! inodes, of handles or of file locks, never two of these; the crew's, then a lane's. Those of tables, crew and lanes are not held
//! across system calls that may hang. Those of memory kept for use again are held alone, or within a directory handle's.

// Only there does C's `main` find the arguments without Rust's.
#![cfg_attr(all(target_os = "linux", target_env = "gnu", not(test)), no_main)]

mod by_node;
mod creds;
mod crew;
#[cfg(all(target_os = "linux", target_env = "gnu", not(test)))]
mod entry;
mod gate;
mod handle;
mod ids;
mod inode;
mod listings;
mod locks;
mod ops;
mod reserve;
mod serve;
mod session;
mod stalled;
mod start;
mod sys;
mod view;
mod volume;
mod watch;
mod xattr_ids;
mod xattr_map;

use airlockfs_ipc::message::Farewell;
use airlockfs_policy::ExitKind;

use crate::start::Serving;

// Unwinding, linked in: as a library of its own it would be loaded at each start. Only where the whole program is linked at
// once, and so takes all of it from here.
#[cfg(all(target_env = "gnu", not(debug_assertions)))]
#[expect(unsafe_code, reason = "names a library and declares nothing")]
#[link(name = "gcc_eh", kind = "static")]
unsafe extern "C" {}

#[cfg(all(feature = "breach", not(debug_assertions)))]
compile_error!("the feature `breach` lets tests order any system call: it is never released");

#[cfg(not(all(target_os = "linux", target_env = "gnu", not(test))))]
fn main() {
    airlockfs_policy::entry::settle();
    run()
}

/// The program.
fn run() -> ! {
    airlockfs_policy::log::start("airlockfs-worker");
    let Serving { control, informs } = match start::start() {
        Ok(serving) => serving,
        Err(start::NotStarted { error, told }) => {
            if !told {
                sys::say(format_args!("{error}"));
            }
            sys::end(error.kind.code());
        }
    };
    // What comes is the end, announced or not, or a breach of the rules.
    match control.receive::<Farewell>(0) {
        Ok(Some(_)) => sys::end(0),
        Ok(None) => {
            // Many launchers end their programs so, and nobody else outlives a supervisor that its filter killed.
            if informs {
                sys::say(format_args!(
                    "INFO: airlockfsd ended without a farewell; ending too (if its filter killed it, the kernel's log \
                     names the call)"
                ));
            }
            sys::end(0)
        }
        Err(_) => {
            sys::say(format_args!(
                "ERROR: a message on the control channel that is no farewell; ending the session"
            ));
            sys::end(ExitKind::Protocol.code())
        }
    }
}
