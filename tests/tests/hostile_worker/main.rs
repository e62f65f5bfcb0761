//! A fallen worker against the real supervisor, confined, over the real ring. Whatever the worker
//! answers, gives or leaves out, the guest gets a valid reply or EIO, or the session ends with its
//! reason in the log. The supervisor never panics, is never killed by its filter, and writes only
//! where the guest said.

mod answers;
mod denied;
mod descriptors;
mod entries;
mod life;
mod ops;
mod ring;

use std::time::Duration;

use airlockfs_ipc::message::Reply;
use airlockfs_tests::boundary::puppet::{self, Puppet};
use airlockfs_tests::boundary::raw::RawRequest;
use airlockfs_tests::daemon::{Daemon, on_disconnect};
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::GETATTR;
use nix::errno::Errno;

use ops::op;

/// Options that let every operation through.
fn options() -> [&'static str; 4] {
    let mode = on_disconnect(env!("CARGO_CRATE_NAME"));
    ["--xattr", "--posix-lock", "--flock", mode]
}
/// The lane of the first request queue.
const LANE: usize = 1;
/// Exit code for a boundary that failed (EX_SOFTWARE).
const BROKEN: i32 = 70;

/// A daemon whose worker is ours, and a guest after INIT.
fn started() -> (Daemon, Client, Puppet) {
    let (daemon, puppet) = puppet::start(&options());
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

/// A call of the guest that the worker answers well, if it reaches it.
fn probe(fs: &Client, puppet: &mut Puppet) -> Option<Result<(), Errno>> {
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| (op("UNLINK").call)(fs));
        loop {
            if let Some(request) = puppet.lanes[LANE].next(Duration::from_millis(1)) {
                puppet.reply(LANE, &request, &Reply::Done);
                return Some(calling.join().expect("a valid reply"));
            }
            if calling.is_finished() {
                assert_eq!(calling.join().expect("a valid reply"), Err(Errno::EIO));
                return None;
            }
        }
    })
}

/// Whether the guest's calls still reach the worker after one that got EIO. Somebody may spoil this one's answer, too.
fn goes_on(fs: &Client, puppet: &mut Puppet) -> bool {
    loop {
        match probe(fs, puppet) {
            None => return false,
            Some(Err(Errno::EIO)) => {}
            Some(_) => return true,
        }
    }
}

/// The session is over, for a reason that the log gives.
fn assert_broken(daemon: Daemon, fs: Client, what: &str) {
    assert!(
        daemon.wait_for_log("the worker broke the rules: boundary violation: "),
        "{what}: the log gives no reason: {:#?}",
        daemon.log()
    );
    assert_ended(daemon, fs, what);
}

/// The guest gets EIO for whatever it asks, until its VMM goes and the daemon with it.
fn assert_ended(mut daemon: Daemon, fs: Client, what: &str) {
    for queue in 1..=fs.session().vmm().request_queues() {
        let outcome = fs.on_queue(queue).raw(GETATTR, 5, &[0; 16], 104);
        assert_eq!(outcome.errno(), Some(Errno::EIO), "{what}: {outcome:?}");
    }
    assert!(daemon.is_alive(), "{what}: {:#?}", daemon.log());
    drop(fs);
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
    assert_broken(daemon, fs, what);
}
