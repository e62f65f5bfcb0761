//! Announcements that are none, memory that changes while it is read, wakes without end, and what comes over channels
//! that bring nothing.

use std::{
    os::fd::AsFd,
    sync::atomic::{
        AtomicBool,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
};

use airlockfs_ipc::{
    NodeId,
    channel::Channel,
    message::{FileLock, Reply, Request},
};

use super::messages::{Numbers, PROTOCOL, assert_broken, send};
use crate::{
    client::{ROOT, Worker, creation, name_of},
    raw::{COMPLETED, MESSAGE, NO_BULK, RawLane, SLOTS, SUBMITTED, WORKER_ASLEEP, entry},
};

/// [`Request::Ping`].
const PING: &[u8] = &[0];

#[test]
fn announcements_that_are_none_end_the_session() {
    type Forge = fn(&RawLane);
    fn jump(lane: &RawLane, count: u32) {
        lane.word(SUBMITTED).fetch_add(count, SeqCst);
        lane.wake_worker();
    }
    let forgeries: &[(&str, Forge)] = &[
        ("a slot out of range", |lane| {
            lane.submit(entry(SLOTS as u16, NO_BULK, 1))
        }),
        ("the last slot number", |lane| {
            lane.submit(entry(u16::MAX, NO_BULK, 1))
        }),
        ("a buffer out of range", |lane| lane.submit(entry(0, 16, 1))),
        ("the last buffer number", |lane| {
            lane.submit(entry(0, NO_BULK - 1, 1))
        }),
        ("no length", |lane| lane.submit(entry(0, NO_BULK, 0))),
        ("a length beyond the slot", |lane| {
            lane.submit(entry(0, NO_BULK, MESSAGE as u32 + 1))
        }),
        ("the greatest length", |lane| {
            lane.submit(entry(0, NO_BULK, u32::MAX))
        }),
        ("all bits", |lane| lane.submit(u64::MAX)),
        ("more than slots", |lane| jump(lane, SLOTS as u32 + 1)),
        ("2^31", |lane| jump(lane, 1 << 31)),
        ("one less than none", |lane| jump(lane, u32::MAX)),
    ];
    for (what, forge) in forgeries {
        let mut worker = Worker::start(|_| ());
        let lane = RawLane::map(&worker.memory, 0);
        assert_eq!(worker.call(&Request::Ping), Ok(Reply::Done));
        forge(&lane);
        assert_broken(&mut worker, what);
    }
}

#[test]
fn a_slot_that_waits_for_its_answer_is_not_taken_again() {
    let mut worker = Worker::start(|_| ());
    let lane = RawLane::map(&worker.memory, 0);
    let (entry_of, first) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    let second = worker.open(entry_of.node, libc::O_RDWR).unwrap();
    let lock = |handle, owner| Request::SetLock {
        handle,
        owner,
        lock: FileLock {
            start: 0,
            end: 9,
            kind: libc::F_WRLCK as u32,
            pid: 1,
        },
        flock: false,
        wait: Some(owner),
    };
    assert_eq!(worker.call(&lock(first, 1)), Ok(Reply::Done));
    // Waits for the first one, in slot 5; then another request in the same.
    let waits = postcard::to_allocvec(&lock(second, 2)).unwrap();
    lane.write_message(5, &waits);
    lane.submit(entry(5, NO_BULK, waits.len() as u32));
    lane.submit(entry(5, NO_BULK, waits.len() as u32));
    assert_broken(&mut worker, "a slot in use");
}

#[test]
fn memory_that_changes_while_it_is_read_is_read_once() {
    let (mut broken, mut answered) = (0, 0);
    for round in 0..16 {
        let mut worker = Worker::start(|_| ());
        let lane = RawLane::map(&worker.memory, 0);
        let twin = RawLane::map(&worker.memory, 0);
        let stop = AtomicBool::new(false);
        let requests = [
            Request::Lookup {
                parent: NodeId::ROOT,
                name: name_of("abcdefghijklmnop"),
            },
            Request::Mkdir {
                parent: NodeId::ROOT,
                name: name_of("abcdefghijklmnop"),
                creation: creation(ROOT, 0o755, 0),
            },
            Request::Rmdir {
                parent: NodeId::ROOT,
                name: name_of("abcdefghijklmnop"),
            },
        ];
        let requests = requests.map(|request| postcard::to_allocvec(&request).unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut numbers = Numbers(round);
                while !stop.load(Relaxed) {
                    // A slash, a dot, a NUL, a length, a kind: wherever it hits.
                    let byte = b"/.\0\x01\x10"[numbers.below(5)];
                    let at = numbers.below(24);
                    twin.write_message_at(0, at, byte);
                }
            });
            for bytes in requests.iter().cycle().take(2000) {
                if send(&worker, &lane, bytes, 0).is_none() {
                    broken += 1;
                    break;
                }
                answered += 1;
            }
            stop.store(true, Relaxed);
        });
        if worker.ended_within(0) {
            assert_broken(&mut worker, "changing memory");
        } else {
            assert_eq!(worker.end(), (0, String::new()));
        }
    }
    // How many were answered before that is the scheduler's affair.
    assert!(broken > 0, "{answered} answered, {broken} broken");
}

#[test]
fn the_workers_own_words_are_not_believed_and_wakes_without_end_harm_nobody() {
    let mut worker = Worker::start(|_| ());
    let lane = RawLane::map(&worker.memory, 0);
    let twin = RawLane::map(&worker.memory, 0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut numbers = Numbers(9);
            while !stop.load(Relaxed) {
                twin.put_completion(numbers.next() as u32, numbers.next());
                twin.word(WORKER_ASLEEP).store(numbers.next() as u32, SeqCst);
                twin.wake_worker();
            }
        });
        for _ in 0..500 {
            assert!(send_anyhow(&worker, &lane));
        }
        stop.store(true, Relaxed);
    });
    assert_eq!(send(&worker, &lane, PING, NO_BULK).as_deref(), Some(&[1][..]));
    assert_eq!(worker.end(), (0, String::new()));
}

/// A ping of which only the count is looked at: what else says that it was answered is being scribbled over.
fn send_anyhow(worker: &Worker, lane: &RawLane) -> bool {
    let count = lane.word(COMPLETED).load(SeqCst);
    lane.write_message(0, PING);
    lane.submit(entry(0, NO_BULK, 1));
    for _ in 0..10_000 {
        if lane.word(COMPLETED).load(SeqCst) != count {
            return true;
        }
        assert!(!worker.ended_within(1), "{}", worker.said());
    }
    false
}

#[test]
fn messages_and_descriptors_on_the_control_channel_end_the_session() {
    for descriptors in [0, 1, 60] {
        let mut worker = Worker::start(|_| ());
        let file = std::fs::File::open("/etc/passwd").unwrap();
        let descriptors = vec![file.as_fd(); descriptors];
        let control = worker.control.as_ref().unwrap();
        control.send(&7u8, &descriptors).unwrap();
        // Its own end of the channel is full of what we sent: it ends all the same.
        let (code, log) = worker.wait();
        assert_eq!(code, PROTOCOL, "{log}");
        assert!(log.contains("a message on the control channel"), "{log}");
    }
}

#[test]
fn descriptors_on_a_donation_channel_reach_nobody() {
    let mut worker = Worker::start(|_| ());
    let before = worker.descriptors();
    let file = std::fs::File::open("/").unwrap();
    let ours = worker.lane.descriptors()[1].0.try_clone_to_owned().unwrap();
    let channel = Channel::from(ours);
    for _ in 0..50 {
        channel.send(&7u64, &[file.as_fd()]).unwrap();
        assert_eq!(worker.call(&Request::Ping), Ok(Reply::Done));
    }
    assert_eq!(worker.descriptors(), before);
    assert_eq!(worker.end(), (0, String::new()));
}

#[test]
fn a_supervisor_that_takes_no_donation_can_still_end_the_worker() {
    let mut worker = Worker::start(|_| ());
    let (_, handle) = worker.create("f", libc::O_RDWR, 0o600).unwrap();
    // Until the channel is full, and the lane waits for room in it.
    for count in 0..5000 {
        worker.send(&Request::Donate { handle });
        if !worker.has_answer(300) {
            assert!(count > 0);
            break;
        }
        let _ = worker.answer();
    }
    assert_eq!(worker.end(), (0, String::new()));
}
