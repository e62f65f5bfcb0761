//! A worker that fell into an attacker's hands, against the real supervisor, confined, over the real ring. Whatever it
//! answers, gives or leaves out: the guest gets a valid reply or EIO, or the session ends with its reason in the log.
//! The supervisor never panics, is never killed by its filter, and writes nowhere but where the guest said.

mod answers;
mod descriptors;
mod entries;
mod life;
mod ops;
mod ring;

use airlockfs_tests::boundary::puppet::{self, Puppet};
use airlockfs_tests::boundary::raw::RawRequest;
use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::Client;
use nix::errno::Errno;

/// Options that let every operation through.
const ARGS: &[&str] = &["--xattr", "--posix-lock", "--flock"];
/// The lane of the first request queue.
const LANE: usize = 1;
/// Exit code for a boundary that failed (EX_SOFTWARE).
const BROKEN: i32 = 70;

/// A daemon whose worker is ours, and a guest after INIT.
fn started() -> (Daemon, Client, Puppet) {
    let (daemon, puppet) = puppet::start(ARGS);
    let client = daemon.client();
    (daemon, client, puppet)
}

/// Makes a call of the guest and answers the request it becomes.
fn exchange<T: Send>(
    fs: &Client,
    puppet: &mut Puppet,
    call: impl FnOnce(&Client) -> T + Send,
    answer: impl FnOnce(&mut Puppet, &RawRequest),
) -> T {
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| call(fs));
        let request = puppet.next(LANE);
        answer(puppet, &request);
        calling.join().expect("a valid reply")
    })
}

/// The session is over, for a reason that the log gives.
fn assert_broken(mut daemon: Daemon, what: &str) {
    assert!(
        daemon.wait_for_log("the worker broke the rules: boundary violation: "),
        "{what}: the log gives no reason: {:#?}",
        daemon.log()
    );
    assert_ended(&mut daemon, what);
}

fn assert_ended(daemon: &mut Daemon, what: &str) {
    let status = daemon.wait();
    let log = daemon.log().join("\n");
    assert_eq!(status.code(), Some(BROKEN), "{what}: {status}\n{log}");
    assert!(!log.contains("panicked"), "{what}: {log}");
}

/// A call that gets EIO because its answer breaks the rules.
fn assert_breaks(
    what: &str,
    call: impl FnOnce(&Client) -> Result<(), Errno> + Send,
    answer: impl FnOnce(&mut Puppet, &RawRequest),
) {
    let (daemon, fs, mut puppet) = started();
    assert_eq!(
        exchange(&fs, &mut puppet, call, answer),
        Err(Errno::EIO),
        "{what}"
    );
    assert_broken(daemon, what);
}
