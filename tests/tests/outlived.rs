//! A supervisor that outlives its worker answers EIO to every request on every queue until its VMM
//! goes. A request that is never answered would hang the guest's programs for good.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{
    self, DESTROY, GETATTR, GetattrIn, INIT, InitIn, LOOKUP, MINOR, ROOT, WRITE, WriteIn,
};
use airlockfs_tests::fuse::{Client, Opened, SessionConfig, Wait};
use airlockfs_tests::vmm::VmmConfig;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use zerocopy::IntoBytes;

/// Exit code for a boundary that failed (EX_SOFTWARE).
const BROKEN: i32 = 70;
/// More requests in flight than a lane has slots.
const MANY: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);
const MODES: [&str; 2] = ["--on-disconnect=exit", "--on-disconnect=listen"];

/// Kills the worker; returns when the supervisor knows.
fn kill_worker(daemon: &Daemon) {
    let worker = daemon.worker().expect("a worker");
    worker.signal(Signal::SIGKILL).expect("SIGKILL");
    let told = daemon.wait_for_log("ERROR: the worker was ended by SIGKILL");
    assert!(told, "{:#?}", daemon.log());
}

/// It ended, and said so as it says of any boundary that failed.
fn assert_ended(mut daemon: Daemon) {
    assert_eq!(daemon.wait().code(), Some(BROKEN), "{:#?}", daemon.log());
    let told = daemon.wait_for_log("airlockfsd: the session ended: the worker was ended by SIGKILL");
    assert!(told, "{:#?}", daemon.log());
}

fn assert_eio(fs: &Client, file: Opened) {
    let init = InitIn {
        major: 7,
        minor: MINOR,
        ..InitIn::default()
    };
    for (opcode, node, body) in [
        (GETATTR, ROOT, GetattrIn::default().as_bytes()),
        (LOOKUP, ROOT, b"file\0".as_slice()),
        (INIT, 0, init.as_bytes()),
        (DESTROY, 0, &[]),
    ] {
        let outcome = fs.raw(opcode, node, body, 4096);
        assert_eq!(outcome.errno(), Some(Errno::EIO), "opcode {opcode}: {outcome:?}");
    }
    // What the worker would have no part in as well.
    assert_eq!(fs.read(file, 0, 4096), Err(Errno::EIO));
    assert_eq!(fs.write(file, 0, b"text"), Err(Errno::EIO));
    assert_eq!(fs.fsync(file, false), Err(Errno::EIO));
    assert_eq!(fs.release(file), Err(Errno::EIO));
    // Nothing to answer, but to be given back.
    fs.forget(file.node, 1);
}

#[test]
fn everything_is_eio_on_every_queue_until_the_vmm_goes() {
    for mode in MODES {
        let (daemon, fs) = Daemon::with_client([mode, "--num-request-queues=3"]);
        let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
        // So that the supervisor has its descriptor.
        fs.write(file, 0, &vec![1; 1 << 20]).expect("WRITE");
        fs.read(file, 0, 1 << 20).expect("READ");
        kill_worker(&daemon);
        for round in 0..2 {
            for queue in 1..=3 {
                assert_eio(&fs.on_queue(queue), file);
            }
            if round == 0 {
                // The guest reboots.
                fs.session()
                    .vmm()
                    .reset()
                    .expect("GET_VRING_BASE and all that follows");
            }
        }
        assert!(daemon.is_alive());
        drop(fs);
        assert_ended(daemon);
    }
}

#[test]
fn more_than_a_lane_holds_is_answered() {
    // Through the ring, so that the worker has them.
    let daemon = Daemon::start(["--no-donate"]);
    let fs = daemon.connect_with(&SessionConfig {
        vmm: VmmConfig {
            queue_size: 1024,
            ..VmmConfig::default()
        },
        depth: MANY,
        room: 8192,
    });
    fs.init().expect("INIT");
    let (entry, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    let worker = daemon.worker().expect("a worker");
    worker.signal(Signal::SIGSTOP).expect("SIGSTOP");
    let mut lane = fs.session().lane(1);
    // A second time when it is long dead.
    for round in 0..2 {
        let mut slots = Vec::new();
        while let Some(slot) = lane.acquire() {
            let body = WriteIn {
                fh: file.fh,
                size: 4096,
                ..WriteIn::default()
            };
            let write = fs.header(WRITE, entry.nodeid);
            let lookup = fs.header(LOOKUP, ROOT);
            // Writes need one of few buffers, lookups do not.
            let length = match slots.len() % 2 {
                0 => lane.write(slot, write, &[body.as_bytes(), &[1; 4096]]),
                _ => lane.write(slot, lookup, &[b"file\0"]),
            };
            lane.submit(slot, length, 4096);
            slots.push(slot);
        }
        assert_eq!(slots.len(), MANY);
        lane.flush();
        if round == 0 {
            kill_worker(&daemon);
        }
        for slot in slots {
            match lane.wait_for(slot, PATIENCE) {
                Wait::Done(done) => {
                    assert_eq!(done.len, abi::OUT_HEADER);
                    assert_eq!(lane.reply_header(slot).error, -(Errno::EIO as i32));
                }
                other => panic!("round {round}: {other:?}"),
            }
            lane.release(slot);
        }
    }
    drop(lane);
    drop(fs);
    assert_ended(daemon);
}

#[test]
fn sigterm_ends_it() {
    for mode in MODES {
        let (daemon, fs) = Daemon::with_client([mode]);
        kill_worker(&daemon);
        fs.raw(GETATTR, ROOT, GetattrIn::default().as_bytes(), 104);
        daemon.supervisor().signal(Signal::SIGTERM).expect("SIGTERM");
        assert_ended(daemon);
    }
}

/// Nobody there waits for an answer, but perhaps somebody for the daemon's end.
#[test]
fn without_a_vmm_it_ends_at_once() {
    for mode in MODES {
        for visited in [false, true] {
            let daemon = Launch::airlockfs().args([mode]).start();
            let visitor = visited.then(|| UnixStream::connect(daemon.socket()).expect("connect"));
            let seen = !visited || daemon.wait_for_log("a VMM is connected");
            assert!(seen, "{:#?}", daemon.log());
            let worker = daemon.worker().expect("a worker");
            worker.signal(Signal::SIGKILL).expect("SIGKILL");
            assert_ended(daemon);
            drop(visitor);
        }
    }
    let (daemon, fs) = Daemon::with_client(["--on-disconnect=listen"]);
    drop(fs);
    assert!(daemon.wait_for_log("the VMM is gone"), "{:#?}", daemon.log());
    let worker = daemon.worker().expect("a worker");
    worker.signal(Signal::SIGKILL).expect("SIGKILL");
    assert_ended(daemon);
}
