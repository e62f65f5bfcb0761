//! Malformed completions, and memory that changes while it is read.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use airlockfs_ipc::message::Reply;
use airlockfs_tests::boundary::Numbers;
use airlockfs_tests::boundary::puppet::{Puppet, encoded};
use airlockfs_tests::boundary::raw::{
    COMPLETED, MESSAGE, NO_BULK, RawLane, RawRequest, SLOTS, SUBMITTED, entry,
};
use nix::errno::Errno;

use crate::ops::{OPS, at_the_edges, kind, one_of_each, op};
use crate::{BROKEN, LANE, assert_breaks, assert_broken, exchange, goes_on, started};

/// Announces so many completions at once.
fn announce(puppet: &Puppet, count: u32) {
    puppet.lanes[LANE].word(COMPLETED).fetch_add(count, SeqCst);
    puppet.ring(LANE);
}

#[test]
fn completions_that_are_none_end_the_session() {
    type Forge = fn(&Puppet, &RawRequest);
    let forgeries: &[(&str, Forge)] = &[
        ("a slot not in flight", |puppet, request| {
            puppet.complete(LANE, entry(request.slot ^ 1, NO_BULK, 1));
        }),
        ("a slot out of range", |puppet, _| {
            puppet.complete(LANE, entry(SLOTS as u16, NO_BULK, 1));
        }),
        ("the last slot number", |puppet, _| {
            puppet.complete(LANE, entry(u16::MAX, NO_BULK, 1));
        }),
        ("a buffer that was not given", |puppet, request| {
            puppet.complete(LANE, entry(request.slot, 0, 1));
        }),
        ("a buffer out of range", |puppet, request| {
            puppet.complete(LANE, entry(request.slot, 16, 1));
        }),
        ("no length", |puppet, request| {
            puppet.complete(LANE, entry(request.slot, request.bulk, 0));
        }),
        ("a length beyond the slot", |puppet, request| {
            puppet.complete(LANE, entry(request.slot, request.bulk, MESSAGE as u32 + 1));
        }),
        ("the greatest length", |puppet, request| {
            puppet.complete(LANE, entry(request.slot, request.bulk, u32::MAX));
        }),
        ("all bits", |puppet, _| puppet.complete(LANE, u64::MAX)),
        ("two where one is in flight", |puppet, _| announce(puppet, 2)),
        ("as many as slots and one", |puppet, _| {
            announce(puppet, SLOTS as u32 + 1)
        }),
        ("2^31", |puppet, _| announce(puppet, 1 << 31)),
        ("one less than none", |puppet, _| announce(puppet, u32::MAX)),
    ];
    for (what, forge) in forgeries {
        assert_breaks(what, op("LOOKUP").call, |puppet, request| forge(puppet, request));
    }
}

#[test]
fn a_buffer_that_belongs_to_another_request_is_not_taken() {
    // The read has one; its completion names none, or the next one.
    for bulk in [NO_BULK, 1, 7] {
        assert_breaks("another buffer", op("READ").call, |puppet, request| {
            assert_ne!(request.bulk, bulk);
            puppet.reply_bytes(
                LANE,
                &RawRequest {
                    bulk,
                    ..request.clone()
                },
                &encoded(&Reply::Data { size: 1 }),
            );
        });
    }
}

#[test]
fn one_request_is_completed_once() {
    let (daemon, fs, mut puppet) = started();
    let first = exchange(&fs, &mut puppet, op("UNLINK").call, |puppet, request| {
        puppet.reply(LANE, request, &Reply::Done);
        // Both in one look, or one after the other.
        puppet.reply(LANE, request, &Reply::Done);
    });
    assert!(matches!(first, Ok(()) | Err(Errno::EIO)), "{first:?}");
    assert_broken(daemon, fs, "twice");
}

#[test]
fn a_completion_without_a_request_ends_the_session() {
    for lane in [0, LANE] {
        let (daemon, fs, puppet) = started();
        puppet.complete(lane, entry(0, NO_BULK, 1));
        assert_broken(daemon, fs, "unasked");
    }
}

#[test]
fn forgets_are_answered_with_done_and_nothing_else() {
    for reply in one_of_each().iter().filter(|reply| kind(reply) != "Done") {
        let (daemon, fs, mut puppet) = started();
        fs.forget(5, 1);
        let request = puppet.next(0);
        puppet.reply(0, &request, reply);
        assert_broken(daemon, fs, &format!("FORGET answered with {reply:?}"));
    }
}

/// Changes messages and buffers of a lane at full speed until told to stop.
fn scribble(lane: &RawLane, stop: &AtomicBool, seed: u64) {
    let mut numbers = Numbers::new(seed);
    while !stop.load(Relaxed) {
        let word = numbers.next();
        let bytes = word.to_ne_bytes();
        // Slots and buffers are given out from the first on, and the last one given back is the next.
        let slot = numbers.below(4) as u16;
        lane.write_message(slot, &bytes[..1 + (word % 7) as usize]);
        lane.write_bulk(slot, (word % 64) as usize * 8, &bytes);
    }
}

#[test]
fn memory_that_changes_while_it_is_read_is_read_once() {
    let mut broken = 0;
    for round in 0..24u64 {
        let (mut daemon, fs, mut puppet) = started();
        let twin = RawLane::map(&puppet.memory, LANE);
        let stop = AtomicBool::new(false);
        let mut last = Ok(());
        std::thread::scope(|scope| {
            scope.spawn(|| scribble(&twin, &stop, round));
            for op in OPS.iter().cycle().skip(round as usize * 7).take(60) {
                if matches!(op.name, "DESTROY") {
                    continue;
                }
                let all = at_the_edges();
                let good = all
                    .iter()
                    .find(|reply| kind(reply) == op.right)
                    .expect("an answer");
                last = exchange(&fs, &mut puppet, op.call, |puppet, request| {
                    puppet.reply(LANE, request, good);
                });
                if last == Err(Errno::EIO) && !goes_on(&fs, &mut puppet) {
                    break;
                }
            }
            stop.store(true, Relaxed);
        });
        match daemon.terminate().code() {
            Some(0) => {}
            code => {
                broken += 1;
                assert_eq!(code, Some(BROKEN), "{:#?}", daemon.log());
            }
        }
        assert!(!daemon.log().join("\n").contains("panicked"));
    }
    assert!(broken > 0, "nothing was ever changed in time");
}

#[test]
fn the_supervisors_own_words_are_not_believed() {
    let (daemon, fs, mut puppet) = started();
    let twin = RawLane::map(&puppet.memory, LANE);
    // A request first, taken in peace: from then on the count of requests in shared memory is worth nothing.
    let stop = AtomicBool::new(false);
    let pending = std::thread::scope(|scope| {
        let calling = scope.spawn(|| (op("LOOKUP").call)(&fs));
        let request = puppet.next(LANE);
        scope.spawn(|| {
            let mut numbers = Numbers::new(3);
            while !stop.load(Relaxed) {
                let word = numbers.next();
                twin.word(SUBMITTED).store(word as u32, Relaxed);
                twin.put_submission(word as u32, word);
            }
        });
        let all = at_the_edges();
        let entry = all.iter().find(|reply| kind(reply) == "Entry").expect("an entry");
        puppet.reply(LANE, &request, entry);
        let answer = calling.join().expect("a reply");
        stop.store(true, Relaxed);
        answer
    });
    assert_eq!(pending, Ok(()));
    assert!(daemon.is_alive());
}

#[test]
fn doorbells_without_end_wake_and_harm_nobody() {
    let (daemon, fs, mut puppet) = started();
    let stop = AtomicBool::new(false);
    let bells: Vec<_> = puppet
        .doorbells
        .iter()
        .map(|bell| bell.try_clone().expect("dup"))
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                for bell in &bells {
                    let _ = nix::unistd::write(bell, &1u64.to_ne_bytes());
                }
            }
        });
        for _ in 0..200 {
            let done = exchange(&fs, &mut puppet, op("UNLINK").call, |puppet, request| {
                puppet.reply(LANE, request, &Reply::Done);
            });
            assert_eq!(done, Ok(()));
        }
        stop.store(true, Relaxed);
    });
    // As high as it goes, and once more.
    for bell in &bells {
        let _ = nix::unistd::write(bell, &(u64::MAX - 1).to_ne_bytes());
        let _ = nix::unistd::write(bell, &1u64.to_ne_bytes());
    }
    let done = exchange(&fs, &mut puppet, op("UNLINK").call, |puppet, request| {
        puppet.reply(LANE, request, &Reply::Done);
    });
    assert_eq!(done, Ok(()));
    assert!(daemon.is_alive());
    assert!(puppet.lanes[LANE].next(Duration::ZERO).is_none());
}
