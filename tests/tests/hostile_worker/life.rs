//! A worker that says nothing, that dies, that lies about itself.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use airlockfs_ipc::message::{ConfinementReport, Farewell, Reply, Started};
use airlockfs_tests::boundary::puppet;
use airlockfs_tests::boundary::raw::{NO_BULK, entry};
use airlockfs_tests::fuse::abi::GETATTR;
use airlockfs_tests::fuse::{Client, Outcome};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::ops::{OPS, op};
use crate::{LANE, assert_broken, assert_ended, exchange, started};

#[test]
fn a_silent_worker_keeps_the_guest_waiting_and_sigterm_still_ends_the_daemon() {
    let (mut daemon, fs, mut puppet) = started();
    let outcome = std::thread::scope(|scope| {
        let calling = scope.spawn(|| fs.raw(GETATTR, 5, &[0; 16], 104));
        let _request = puppet.next(LANE);
        assert!(daemon.is_alive());
        daemon.supervisor().signal(Signal::SIGTERM).expect("SIGTERM");
        let status = daemon.wait();
        assert_eq!(status.code(), Some(0), "{:#?}", daemon.log());
        calling.join().expect("an outcome")
    });
    assert_eq!(outcome, Outcome::Gone);
    assert!(
        daemon
            .log()
            .join("\n")
            .contains("requests in flight did not end in time")
    );
}

/// A VMM that stops its rings waits for what is in flight; whoever ends the daemon does not.
#[test]
fn a_silent_worker_holds_up_neither_sigterm_nor_its_own_end_while_rings_stop() {
    for dies in [false, true] {
        let (mut daemon, fs, mut puppet) = started();
        std::thread::scope(|scope| {
            let calling = scope.spawn(|| fs.raw(GETATTR, 5, &[0; 16], 104));
            let _request = puppet.next(LANE);
            let stopping = scope.spawn(|| fs.session().vmm().stop_queue(LANE));
            // Until it is under way: nothing says so, and either order is a case.
            std::thread::yield_now();
            if dies {
                puppet.die();
                let gone = "answering EIO to all requests until the VMM goes";
                assert!(daemon.wait_for_log(gone), "{:#?}", daemon.log());
                stopping
                    .join()
                    .expect("a thread")
                    .expect("an answer to GET_VRING_BASE");
                fs.session()
                    .vmm()
                    .socket()
                    .shutdown(std::net::Shutdown::Both)
                    .expect("shutdown");
                assert_eq!(daemon.wait().code(), Some(crate::BROKEN), "{:#?}", daemon.log());
            } else {
                daemon.supervisor().signal(Signal::SIGTERM).expect("SIGTERM");
                assert_eq!(daemon.wait().code(), Some(0), "{:#?}", daemon.log());
                let _ = stopping.join().expect("an answer or none");
            }
            let _ = calling.join().expect("an outcome");
        });
    }
}

#[test]
fn a_silent_worker_does_not_keep_a_daemon_that_listens_again_from_its_end() {
    let (mut daemon, mut puppet) = puppet::start(&["--on-disconnect=listen"]);
    let fs = daemon.client();
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| fs.raw(GETATTR, 5, &[0; 16], 104));
        let _request = puppet.next(LANE);
        let socket = fs.session().vmm().socket();
        socket.shutdown(std::net::Shutdown::Both).expect("shutdown");
        assert!(daemon.wait_for_log("the VMM is gone"), "{:#?}", daemon.log());
        daemon.supervisor().signal(Signal::SIGTERM).expect("SIGTERM");
        assert_eq!(daemon.wait().code(), Some(0), "{:#?}", daemon.log());
        assert_eq!(calling.join().expect("an outcome"), Outcome::Gone);
    });
}

#[test]
fn every_request_in_flight_gets_eio_when_the_worker_dies() {
    for op in OPS {
        let (daemon, fs, mut puppet) = started();
        let got = std::thread::scope(|scope| {
            let calling = scope.spawn(|| (op.call)(&fs));
            let _request = puppet.next(LANE);
            puppet.die();
            calling.join().expect("a reply")
        });
        assert_eq!(got, Err(Errno::EIO), "{}", op.name);
        assert!(
            daemon.wait_for_log("the worker ended with exit code 0"),
            "{:#?}",
            daemon.log()
        );
        assert_ended(daemon, fs, op.name);
    }
}

/// Nobody may kill it (it has another user's rights or the same scope), and nothing that it does any more counts.
#[test]
fn a_worker_that_broke_the_rules_is_told_to_end_and_not_heard_any_more() {
    let (daemon, fs, mut puppet) = started();
    let got = exchange(&fs, &mut puppet, op("UNLINK").call, |puppet, request| {
        puppet.reply_bytes(LANE, request, &[0xff]);
    });
    assert_eq!(got, Err(Errno::EIO));
    let told = puppet
        .control
        .receive::<Farewell>(0)
        .expect("the control channel");
    assert!(matches!(told, Some((Farewell::Farewell, _))));
    // It stays, and answers what was not asked.
    puppet.complete(LANE, entry(0, NO_BULK, 1));
    for lane in 0..puppet.lanes.len() {
        puppet.ring(lane);
    }
    assert_broken(daemon, fs, "nonsense");
}

#[test]
fn a_worker_that_fails_to_start_is_told_of_in_one_line_with_a_known_code() {
    for kind in [0u8, 1, 64, 66, 77, 78, 255] {
        let (started, _puppet) = puppet::start_with(&[], move |puppet| {
            let message = "it would not".to_owned();
            let failed = Started::Failed { kind, message };
            puppet.says(&failed);
            puppet.leave();
        })
        .expect("a start");
        let failure = started.expect_err("it said that it failed");
        let code = failure.status.code().expect("a code");
        assert_eq!(
            code,
            if kind < 64 || kind == 255 {
                70
            } else {
                i32::from(kind)
            }
        );
        assert_eq!(
            failure
                .log
                .iter()
                .filter(|line| line.contains("it would not"))
                .count(),
            1
        );
    }
}

#[test]
fn a_vmm_is_heard_and_no_request_is_taken_before_the_worker_serves() {
    let (started, _puppet) = puppet::start_with(&[], |puppet| {
        let fs = Client::connect(&puppet.socket).expect("a connection");
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let fs = &fs;
            scope.spawn(move || tell.send(fs.init().is_ok()));
            let early = told.recv_timeout(Duration::from_millis(200));
            assert_eq!(early, Err(RecvTimeoutError::Timeout), "INIT was answered");
            puppet.serves(puppet::report());
            assert_eq!(told.recv(), Ok(true));
        });
    })
    .expect("a start");
    started.expect("a daemon");
}

#[test]
fn a_worker_that_does_not_start_leaves_the_vmm_and_ends_the_daemon_with_its_code() {
    let (started, _puppet) = puppet::start_with(&[], |puppet| {
        let fs = Client::connect(&puppet.socket).expect("a connection");
        let (kind, message) = (71, "there are no threads left".to_owned());
        puppet.says(&Started::Failed { kind, message });
        puppet.leave();
        assert_eq!(fs.raw(GETATTR, 5, &[0; 16], 104), Outcome::Gone);
    })
    .expect("a start");
    let failure = started.expect_err("it said that it failed");
    assert_eq!(failure.status.code(), Some(71), "{:#?}", failure.log);
}

#[test]
fn a_report_that_lies_is_logged_and_changes_nothing() {
    let lies = [
        ConfinementReport::default(),
        ConfinementReport {
            uid: u32::MAX,
            gid: u32::MAX,
            capabilities: u64::MAX,
            namespaces: vec!["x".repeat(5000); 4],
            landlock_abi: u32::MAX,
            syscalls: u32::MAX,
            filter_instructions: u32::MAX,
            weakened: vec!["y".repeat(5000); 4],
            profile: vec!["z\n".repeat(5000); 2],
        },
    ];
    for report in lies {
        let (started, mut puppet) =
            puppet::start_with(&[], move |puppet| puppet.serves(report)).expect("a start");
        let daemon = started.expect("a daemon");
        // The supervisor's own confinement asks nobody: it is what it always is.
        let own = daemon.supervisor();
        assert_eq!(own.status("CapEff").expect("CapEff"), "0000000000000000");
        assert_eq!(own.status("Seccomp").expect("Seccomp"), "2");
        let fs = daemon.client();
        let done = exchange(&fs, &mut puppet, op("UNLINK").call, |puppet, request| {
            puppet.reply(LANE, request, &Reply::Done);
        });
        assert_eq!(done, Ok(()));
    }
}
