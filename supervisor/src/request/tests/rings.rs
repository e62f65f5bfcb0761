//! Virtqueues that are full, broken, stopped and started again.

use std::sync::atomic::Ordering::Relaxed;

use super::*;

#[test]
fn init_after_the_rings_were_stopped_starts_anew_and_a_pause_does_not() {
    let mut rig = Rig::running(true);
    rig.group.shared.session.rings_stopped();
    rig.send(LOOKUP, 2, b"name\0", 128);
    rig.run();
    assert_eq!(rig.serve(|_| entry()), 1);
    assert_eq!(rig.run_one().error, 0, "resumed");
    rig.init(3);
    rig.send(LOOKUP, 4, b"name\0", 128);
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 4,
            error: libc::EIO,
            body: vec![]
        },
        "not begun yet"
    );
    assert_eq!(
        rig.serve(|request| {
            assert_eq!(*request, Request::Reset);
            Reply::Done
        }),
        1
    );
    let answer = rig.run_one();
    assert_eq!((answer.unique, answer.error), (3, 0));
    rig.init(5);
    assert_eq!(rig.run_one().error, libc::EIO);
}

#[test]
fn malformed_requests_are_given_back_empty_and_the_queue_goes_on() {
    let mut rig = Rig::running(true);
    rig.send_raw(b"short", 100);
    rig.send_raw(&[0xff; 100], 4);
    let memory = rig.memory.memory();
    rig.send(LOOKUP, 9, b"name\0", 128);
    // Its first descriptor now points nowhere.
    memory
        .write_obj(
            u64::MAX - 3,
            GuestAddress(TABLE + 16 * u64::from((rig.sent - 1) * 2)),
        )
        .unwrap();
    rig.send(LOOKUP, 10, b"name\0", 128);
    assert_eq!(rig.run_all(), [None, None, None]);
    assert_eq!(rig.serve(|_| entry()), 1);
    assert_eq!(rig.run_one().unique, 10);
    assert_eq!(
        rig.group.shared.malformed.load(Relaxed),
        2,
        "an unknown opcode is lawful"
    );
}

#[test]
fn more_requests_than_slots_are_all_answered() {
    let mut rig = Rig::running(true);
    let count = SLOTS as u64 + 3 - 1;
    for _ in 0..SIZE / 2 {
        rig.send(LOOKUP, 7, b"n\0", 128);
    }
    rig.run();
    assert_eq!(rig.group.queues[0].taken(), SLOTS);
    for _ in 0..2 {
        rig.send(LOOKUP, 7, b"n\0", 128);
    }
    rig.run();
    assert_eq!(
        rig.group.queues[0].taken(),
        SLOTS,
        "those that find no slot wait in the ring"
    );
    let mut answered = 0;
    while answered < count {
        assert!(rig.serve(|_| entry()) > 0);
        answered += rig.run_all().len() as u64;
    }
    assert_eq!((answered, rig.group.queues[0].taken()), (count, 0));
}

#[test]
fn a_ring_that_is_not_ready_or_makes_no_sense_is_left_alone() {
    let mut rig = Rig::running(true);
    rig.send(LOOKUP, 2, b"name\0", 128);
    rig.start_ring(false);
    assert_eq!((rig.run_all(), rig.group.queues[0].taken()), (vec![], 0));
    rig.start_ring(true);
    let memory = rig.memory.memory();
    memory
        .write_obj(rig.sent.wrapping_add(SIZE + 1), GuestAddress(AVAIL + 2))
        .unwrap();
    assert_eq!((rig.run_all(), rig.group.queues[0].taken()), (vec![], 0));
    memory.write_obj(rig.sent, GuestAddress(AVAIL + 2)).unwrap();
    rig.run();
    assert_eq!(rig.serve(|_| Reply::Error(Errno::ENOENT)), 1);
    assert_eq!(rig.run_one().error, libc::ENOENT);
}

#[test]
fn the_driver_is_asked_for_a_kick_at_the_next_entry_only() {
    let mut rig = Rig::running(true);
    let memory = rig.memory.memory();
    let event = || {
        memory
            .read_obj::<u16>(GuestAddress(USED + 4 + 8 * u64::from(SIZE)))
            .unwrap()
    };
    assert_eq!(event(), 1);
    rig.send(LOOKUP, 2, b"name\0", 128);
    rig.send(LOOKUP, 3, b"name\0", 128);
    rig.run();
    assert_eq!(event(), 3);
}

/// A request for a lock that waits.
fn wait_for_lock(rig: &mut Rig, unique: u64) {
    let body = [HANDLE.0, 7, 0, 100, 1, 0].map(u64::to_ne_bytes).concat();
    rig.send(SETLKW, unique, &body, 0);
    rig.run();
}

/// What the VMM says to stop a ring and to start it again where it was, or anew.
fn restart(rig: &mut Rig, anew: bool) {
    rig.start_ring(true);
    if anew {
        let memory = rig.memory.memory();
        memory.write_slice(&[0; 0x2000], GuestAddress(AVAIL)).unwrap();
        let mut state = rig.vrings[0].lock();
        state.queue_mut().set_next_avail(0);
        state.queue_mut().set_next_used(0);
        drop(state);
        (rig.sent, rig.seen) = (0, 0);
    }
}

#[test]
fn nobody_waits_for_a_lock_to_stop_a_ring_and_it_is_told_when_the_ring_goes_on() {
    let mut rig = Rig::with_file_and(
        false,
        Options {
            posix_lock: true,
            ..OPTIONS
        },
    );
    wait_for_lock(&mut rig, 10);
    assert_eq!((rig.group.queues[0].taken(), rig.group.must_finish(0)), (1, 0));
    rig.start_ring(false);
    rig.run();
    assert_eq!(
        rig.serve(|request| {
            assert!(matches!(request, Request::SetLock { wait: Some(_), .. }));
            Reply::Done
        }),
        1
    );
    assert_eq!(rig.run_all(), [], "nothing is written while it is stopped");
    restart(&mut rig, false);
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 10,
            error: 0,
            body: vec![]
        }
    );
    assert_eq!(rig.group.queues[0].taken(), 0);
}

#[test]
fn a_driver_that_begins_anew_hears_nothing_of_earlier_locks() {
    for had_while_stopped in [true, false] {
        let mut rig = Rig::with_file_and(
            false,
            Options {
                posix_lock: true,
                ..OPTIONS
            },
        );
        wait_for_lock(&mut rig, 10);
        rig.start_ring(false);
        rig.run();
        if had_while_stopped {
            assert_eq!(rig.serve(|_| Reply::Done), 1);
            rig.run();
        }
        restart(&mut rig, true);
        rig.send(LOOKUP, 11, b"name\0", 128);
        assert_eq!(rig.run_all(), []);
        assert_eq!(
            rig.serve(|_| Reply::Error(Errno::ENOENT)),
            if had_while_stopped { 1 } else { 2 }
        );
        assert_eq!(
            rig.run_one(),
            Answer {
                unique: 11,
                error: libc::ENOENT,
                body: vec![]
            }
        );
        assert_eq!(rig.group.queues[0].taken(), 0);
    }
}
