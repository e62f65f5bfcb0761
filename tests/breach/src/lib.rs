//! The attacker is in: a confined process that takes orders to make any system call, and answers what came of it.
//!
//! The binaries `airlockfsd-breach` and `airlockfs-worker-breach` are the real ones built with the feature `breach`, which
//! adds one thread that obeys. The suite `tests/tests/security` gives the orders. Nothing here is in what ships:
//! the feature is off, a release build with it does not compile, and `tests/tests/dependencies.rs` lists what is linked.

mod inherited;
mod obey;
mod order;
mod trap;

use std::io::{self, Write};

use airlockfs_ipc::channel::Channel;

pub use inherited::{SUPERVISOR, WORKER, handed_over, inherited};
pub use obey::{obey, start_helper};
pub use order::{Answer, Argument, Order, TRAPPED};
pub use trap::survive_traps;

/// Answers orders until the channel ends.
///
/// # Errors
/// The channel's.
pub fn serve(channel: &Channel) -> io::Result<()> {
    while let Some((order, descriptors)) = channel.receive::<Order>(1)? {
        channel.send(&obey(order, descriptors), &[])?;
    }
    Ok(())
}

/// Starts the threads that obey in a process that serves, if it was given a channel, and says so aloud. Returns how many
/// of them run `before` first.
///
/// # Errors
/// A thread cannot be started.
pub fn start(
    process: &str,
    channel: Option<Channel>,
    before: impl FnOnce() + Send + 'static,
) -> io::Result<usize> {
    let Some(channel) = channel else { return Ok(0) };
    let line =
        format!("{process}: BREACHED: a build for tests, which makes any system call it is ordered to\n");
    // In one piece: the other process says the same at the same time.
    std::io::stderr().write_all(line.as_bytes())?;
    let thread = std::thread::Builder::new().name("breach".to_owned());
    thread.spawn(move || {
        before();
        serve(&channel)
    })?;
    start_helper()?;
    Ok(1)
}
