//! Several queues at one thread, with one lane.

use super::*;

fn lookup(rig: &mut Rig, unique: u64) {
    rig.send(LOOKUP, unique, b"name\0", 128);
}

fn uniques(answers: Vec<Option<Answer>>) -> Vec<u64> {
    answers.into_iter().map(|answer| answer.unwrap().unique).collect()
}

#[test]
fn each_answer_goes_to_the_queue_of_its_request() {
    let mut rig = Rig::running(true);
    for (unique, change) in [(10, true), (20, true), (11, true), (21, true)] {
        lookup(&mut rig, unique);
        if change {
            rig.change();
        }
    }
    assert_eq!(rig.run_all(), []);
    assert_eq!(rig.serve(|_| entry()), 4);
    assert_eq!(uniques(rig.run_all()), [10, 11]);
    rig.change();
    assert_eq!(uniques(rig.run_all()), [20, 21]);
    assert_eq!(rig.kick_asked_for(), 2);
    rig.change();
    assert_eq!(rig.kick_asked_for(), 3, "both rings kick again");
}

#[test]
fn a_queue_that_stops_waits_for_its_own_requests_only() {
    let mut rig = Rig::running(true);
    lookup(&mut rig, 10);
    rig.run();
    let (ticket, _) = rig.worker.take(&mut rig.message).unwrap().unwrap();
    rig.change();
    lookup(&mut rig, 20);
    rig.run();
    assert_eq!((rig.group.must_finish(0), rig.group.must_finish(1)), (1, 1));
    assert_eq!(rig.serve(|_| entry()), 1);
    assert_eq!(uniques(rig.run_all()), [20]);
    rig.start_ring(false);
    rig.run();
    assert_eq!((rig.group.must_finish(0), rig.group.must_finish(1)), (1, 0));
    rig.worker.answer(ticket, &entry());
    rig.change();
    assert_eq!(uniques(rig.run_all()), [10]);
    assert!(rig.group.unfinished().is_idle());
}

#[test]
fn a_driver_that_begins_anew_with_one_ring_has_the_others_locks_alone() {
    let locks = Options {
        posix_lock: true,
        ..OPTIONS
    };
    let mut rig = Rig::running_with(true, locks);
    let mut body = HANDLE.0.to_ne_bytes().to_vec();
    body.extend([0; 24]);
    body.extend([libc::F_WRLCK as u32, 0].map(u32::to_ne_bytes).concat());
    body.extend([0; 8]);
    rig.send(SETLKW, 10, &body, 0);
    rig.change();
    rig.send(SETLKW, 20, &body, 0);
    rig.run();
    assert_eq!((rig.group.must_finish(0), rig.group.must_finish(1)), (0, 0));
    // The second ring is back at its beginning.
    rig.vrings[1].lock().queue_mut().set_next_avail(0);
    rig.memory.memory().write_obj(0u16, rig.place(AVAIL + 2)).unwrap();
    rig.sent = 0;
    rig.run();
    assert_eq!(rig.serve(|_| Reply::Done), 2);
    assert_eq!(rig.run_all(), [], "nobody waits there any more");
    rig.change();
    assert_eq!(uniques(rig.run_all()), [10]);
    assert!(rig.group.unfinished().is_idle());
}

#[test]
fn no_queue_keeps_the_others_from_their_turn() {
    // The guest is on another CPU, and the worker is given some requests at a time.
    let mut rig = Rig::apart();
    rig.change();
    for unique in 20..20 + 3 * AT_A_TIME as u64 {
        lookup(&mut rig, unique);
    }
    rig.change();
    rig.send(LOOKUP, 10, b"other\0", 128);
    rig.group.schedule.first = 1;
    rig.group.schedule.quick = true;
    rig.run();
    let mut place = None;
    let mut count = 0;
    rig.serve(|request| {
        if matches!(request, Request::Lookup { name, .. } if name.as_bytes() == b"other") {
            place = Some(count);
        }
        count += 1;
        entry()
    });
    assert_eq!(count, 3 * AT_A_TIME + 1);
    assert!(place.is_some_and(|place| place <= AT_A_TIME), "{place:?}");
}

#[test]
fn a_ring_that_makes_no_sense_leaves_the_other_alone() {
    let mut rig = Rig::running(true);
    rig.change();
    rig.memory
        .memory()
        .write_obj(SIZE + 1, rig.place(AVAIL + 2))
        .unwrap();
    rig.change();
    for unique in 10..20 {
        lookup(&mut rig, unique);
        rig.run();
        assert_eq!(rig.serve(|_| entry()), 1);
        assert_eq!(uniques(rig.run_all()), [unique]);
    }
}

#[test]
fn a_thread_with_more_to_do_rests_when_somebody_waits_for_that_and_goes_on() {
    let mut rig = Rig::running(true);
    for unique in 10..110 {
        lookup(&mut rig, unique);
    }
    rig.group.run(&rig.vrings, &mut rig.buffers, || true);
    assert_eq!(rig.serve(|_| entry()), usize::from(BATCH));
    let bell = Waiter::level([&rig.group.completions.bell()]).unwrap();
    assert_ne!(bell.wait(Some(Duration::ZERO)).unwrap(), 0, "it is woken again");
    rig.run();
    assert_eq!(rig.serve(|_| entry()), 100 - usize::from(BATCH));
}
