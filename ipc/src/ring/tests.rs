//! Both ends in one process, each on a thread of its own; and what a dishonest end can do.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    Errno, NodeId, ProtocolError,
    message::{Reply, Request},
};

fn lane() -> (SupervisorLane, WorkerLane) {
    let mut ring = SupervisorRing::create(1, Duration::from_micros(50)).unwrap();
    let descriptors: Vec<OwnedFd> = ring
        .worker
        .descriptors()
        .iter()
        .map(|fd| fd.try_clone_to_owned().unwrap())
        .collect();
    let worker = map(descriptors, 1, &Arc::default()).unwrap().pop().unwrap();
    (ring.lanes.pop().unwrap(), worker)
}

fn hand(number: u16) -> Hand {
    Hand::new(number, Duration::from_micros(50))
}

fn ask(supervisor: &mut SupervisorLane, node: u64) {
    let request = Request::GetAttr { node: NodeId(node) };
    supervisor.submit(&request, None).unwrap();
    supervisor.flush();
}

/// The node of the request that a thread takes.
fn took(worker: &WorkerLane, hand: &mut Hand) -> (Ticket, u64) {
    match worker.next(hand, &mut MessageBuffer::new()).unwrap() {
        Next::Request(ticket, Request::GetAttr { node, .. }) => (ticket, node.0),
        other => panic!("{other:?}"),
    }
}

fn nothing(worker: &WorkerLane, hand: &mut Hand) -> bool {
    match worker.next(hand, &mut MessageBuffer::new()).unwrap() {
        Next::Wait => true,
        Next::Leave => false,
        other => panic!("{other:?}"),
    }
}

fn wait_for_completion(lane: &mut SupervisorLane) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    while !lane.look(|| false) {
        if lane.before_sleep(true) {
            poll(
                &mut [PollFd::new(lane.doorbell(), PollFlags::POLLIN)],
                PollTimeout::NONE,
            )
            .unwrap();
            nix::unistd::read(lane.doorbell(), &mut [0; 8]).unwrap();
            lane.after_sleep();
        }
    }
}

#[test]
fn a_hundred_thousand_requests_come_back_whatever_the_order() {
    let (mut supervisor, worker) = lane();
    const COUNT: u64 = 100_000;
    let serving = thread::spawn(move || {
        let mut buffer = MessageBuffer::new();
        let mut hand = hand(0);
        let mut held = None;
        let mut seen = 0;
        worker.join(&mut hand);
        while seen < COUNT {
            match worker.next(&mut hand, &mut buffer).unwrap() {
                Next::Wait => {
                    if let Some((ticket, size)) = held.take() {
                        worker.answer(ticket, &Reply::Offset(size));
                    }
                    worker.wait(&mut hand);
                }
                Next::Request(ticket, Request::GetAttr { node, .. }) => {
                    seen += 1;
                    if let Some((earlier, size)) = held.replace((ticket, node.0)) {
                        if seen % 3 == 0 {
                            worker.answer(earlier, &Reply::Offset(size));
                        } else {
                            worker.complete(&hand, earlier, &Reply::Offset(size));
                        }
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        let (ticket, size) = held.take().unwrap();
        worker.answer(ticket, &Reply::Offset(size));
    });
    let mut buffer = MessageBuffer::new();
    let mut expected = [0; SLOTS];
    let (mut sent, mut received) = (0, 0);
    while received < COUNT {
        while sent < COUNT && supervisor.free_slots() > 0 {
            let slot = supervisor
                .submit(&Request::GetAttr { node: NodeId(sent) }, None)
                .unwrap();
            expected[slot.index()] = sent;
            sent += 1;
        }
        supervisor.flush();
        while let Some((slot, reply)) = supervisor.next_completion(&mut buffer).unwrap() {
            assert_eq!(reply, Reply::Offset(expected[slot.index()]));
            received += 1;
        }
        if supervisor.in_flight() > 0 {
            wait_for_completion(&mut supervisor);
        }
    }
    serving.join().unwrap();
}

#[test]
fn bulk_bytes_reach_the_other_side_and_the_buffers_are_bounded() {
    let (mut supervisor, worker) = lane();
    let bulk = supervisor.take_bulk().unwrap();
    assert_eq!(supervisor.bulk(&bulk).copy_from_slice(BULK_SIZE - 2, b"abc"), 2);
    supervisor.submit(&Request::Ping, Some(&bulk)).unwrap();
    let mut buffer = MessageBuffer::new();
    let (ticket, _) = worker.take(&mut buffer).unwrap().unwrap();
    let mut seen = [0; 3];
    assert_eq!(
        worker
            .bulk(&ticket)
            .unwrap()
            .copy_to_slice(BULK_SIZE - 2, &mut seen),
        2
    );
    assert_eq!(&seen, b"ab\0");
    worker.answer(ticket, &Reply::Done);
    assert!(supervisor.next_completion(&mut buffer).unwrap().is_some());
    let rest = std::iter::from_fn(|| supervisor.take_bulk()).count();
    assert_eq!(rest, BULK_BUFFERS - 1);
}

#[test]
fn a_full_lane_says_so_and_an_overlong_message_is_refused() {
    let (mut supervisor, _worker) = lane();
    for _ in 0..SLOTS {
        supervisor.submit(&Request::Ping, None).unwrap();
    }
    assert_eq!(supervisor.submit(&Request::Ping, None), Err(SubmitError::Full));
    let (mut supervisor, _worker) = lane();
    let long = vec![0; MESSAGE_MAX];
    assert_eq!(
        supervisor.submit(&Request::Forget(crate::Bytes(&long)), None),
        Err(SubmitError::TooLong)
    );
    assert_eq!(supervisor.free_slots(), SLOTS);
}

#[test]
fn a_dishonest_worker_is_found_out() {
    let completion = |scribble: &dyn Fn(&WorkerLane)| {
        let (mut supervisor, worker) = lane();
        supervisor.submit(&Request::Ping, None).unwrap();
        scribble(&worker);
        supervisor
            .next_completion(&mut MessageBuffer::new())
            .map(|found| found.is_some())
            .unwrap_err()
    };
    assert_eq!(
        completion(&|w| w.scribble_completed(2, 0)),
        ProtocolError("more completions than requests")
    );
    assert_eq!(
        completion(&|w| w.scribble_completed(1, 500)),
        ProtocolError("a completion out of range")
    );
    assert_eq!(
        completion(&|w| w.scribble_completed(1, 5 | 0xffff_0000)),
        ProtocolError("a completion for no request in flight")
    );
    assert_eq!(
        completion(&|w| w.scribble_completed(1, 3 << 16)),
        ProtocolError("a completion for no request in flight")
    );
    assert_eq!(
        completion(&|w| w.scribble_completed(1, 0xffff_0000)),
        ProtocolError("a reply that does not decode")
    );
    assert_eq!(
        completion(&|w| w.scribble_completed(1, u64::MAX)),
        ProtocolError("a completion out of range")
    );
}

#[test]
fn a_dishonest_supervisor_is_found_out() {
    let request = |word: u64, count: u32| {
        let (supervisor, worker) = lane();
        supervisor.scribble_submitted(count, word);
        worker
            .take(&mut MessageBuffer::new())
            .map(|found| found.is_some())
            .unwrap_err()
    };
    assert_eq!(
        request(0, SLOTS as u32 + 1),
        ProtocolError("more requests than slots")
    );
    assert_eq!(request(200, 1), ProtocolError("a request out of range"));
    assert_eq!(
        request(0xffff_0000, 1),
        ProtocolError("a request that does not decode")
    );
    assert_eq!(
        request(0xffff_0000 | (9000 << 32), 1),
        ProtocolError("a request out of range")
    );
    let (mut supervisor, worker) = lane();
    let mut buffer = MessageBuffer::new();
    supervisor.submit(&Request::Ping, None).unwrap();
    let _unanswered = worker.take(&mut buffer).unwrap();
    supervisor.scribble_submitted(2, 0xffff_0000 | (1 << 32));
    assert_eq!(
        worker.take(&mut buffer).unwrap_err(),
        ProtocolError("a request in a slot that is in use")
    );
}

#[test]
fn forged_names_and_numbers_do_not_decode() {
    for (good, forged) in [("name", "a/bc"), ("name", "a\0bc")] {
        let request = Request::Lookup {
            parent: NodeId::ROOT,
            name: crate::Name::new(good.as_bytes()).unwrap(),
        };
        let mut bytes = postcard::to_allocvec(&request).unwrap();
        let at = bytes.len() - good.len();
        bytes[at..].copy_from_slice(forged.as_bytes());
        assert!(postcard::from_bytes::<Request<'_>>(&bytes).is_err());
    }
    let mut reply = postcard::to_allocvec(&Reply::Error(Errno::EIO)).unwrap();
    *reply.last_mut().unwrap() = 0;
    assert!(postcard::from_bytes::<Reply<'_>>(&reply).is_err());
}

#[test]
fn a_thread_whose_request_hangs_is_replaced_and_answers_late() {
    let (mut supervisor, worker) = lane();
    let (mut hung, mut spare) = (hand(0), hand(1));
    worker.join(&mut hung);
    ask(&mut supervisor, 1);
    ask(&mut supervisor, 2);
    let (late, 1) = took(&worker, &mut hung) else {
        panic!("the first");
    };
    let glance = worker.glance();
    assert_eq!((glance.begun, glance.waiting, glance.is_kept), (1, 1, false));
    worker.call();
    assert!(worker.glance().are_coming);
    worker.join(&mut spare);
    let (ticket, 2) = took(&worker, &mut spare) else {
        panic!("the second");
    };
    worker.complete(&spare, ticket, &Reply::Offset(2));
    assert!(nothing(&worker, &mut spare), "it waits in place of the other");
    assert!(worker.glance().is_kept);
    worker.complete(&hung, late, &Reply::Offset(1));
    assert!(!nothing(&worker, &mut hung), "it leaves");
    let mut buffer = MessageBuffer::new();
    for expected in [2, 1] {
        let (_, reply) = supervisor.next_completion(&mut buffer).unwrap().unwrap();
        assert_eq!(reply, Reply::Offset(expected));
    }
    assert_eq!((supervisor.free_slots(), worker.glance().hands), (SLOTS, 1));
    // What comes is the spare's.
    ask(&mut supervisor, 3);
    assert_eq!(took(&worker, &mut spare).1, 3);
}

#[test]
fn a_late_answer_rings_for_a_sleeping_supervisor_at_once() {
    let (mut supervisor, worker) = lane();
    let (mut hung, mut spare) = (hand(0), hand(1));
    worker.join(&mut hung);
    ask(&mut supervisor, 1);
    let (late, _) = took(&worker, &mut hung);
    worker.call();
    worker.join(&mut spare);
    assert!(nothing(&worker, &mut spare));
    assert!(supervisor.before_sleep(true));
    worker.complete(&hung, late, &Reply::Done);
    nix::unistd::read(supervisor.doorbell(), &mut [0; 8]).expect("it was rung");
}

#[test]
fn parked_requests_come_first_or_are_refused_when_old() {
    let (mut supervisor, worker) = lane();
    let mut buffer = MessageBuffer::new();
    let mut all = hand(0);
    worker.join(&mut all);
    for node in 1..=3 {
        ask(&mut supervisor, node);
    }
    let begin = Instant::now();
    let urgent = |request: &Request<'_>| matches!(request, Request::GetAttr { node: NodeId(2), .. });
    let ticket = worker
        .park(begin, &mut buffer, urgent)
        .unwrap()
        .expect("an urgent one");
    worker.answer(ticket, &Reply::Done);
    assert!(worker.park(begin, &mut buffer, urgent).unwrap().is_none());
    assert_eq!(worker.glance().waiting, 2);
    assert!(
        worker.take_parked(begin, &mut buffer).unwrap().is_none(),
        "not old enough"
    );
    let later = begin + Duration::from_secs(1);
    let (ticket, _) = worker
        .take_parked(later, &mut buffer)
        .unwrap()
        .expect("an old one");
    worker.answer(ticket, &Reply::Error(Errno::EIO));
    ask(&mut supervisor, 4);
    assert_eq!(took(&worker, &mut all).1, 3, "parked before");
    assert_eq!(took(&worker, &mut all).1, 4);
    let replies = [Reply::Done, Reply::Error(Errno::EIO)];
    for expected in replies {
        let (_, reply) = supervisor.next_completion(&mut buffer).unwrap().unwrap();
        assert_eq!(reply, expected);
    }
    assert_eq!(supervisor.in_flight(), 2);
}

#[test]
fn whoever_takes_a_request_wakes_a_watch_that_sleeps() {
    let alarm = Arc::new(Alarm::default());
    let mut ring = SupervisorRing::create(1, Duration::ZERO).unwrap();
    let own = ring.worker.descriptors();
    let descriptors = own.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    let worker = map(descriptors, 1, &alarm).unwrap().remove(0);
    let mut supervisor = ring.lanes.remove(0);
    let (tell, told) = sync_channel(0);
    let watching = thread::spawn({
        let worker = worker.clone();
        move || {
            alarm.sleep(None, || {
                let rests = worker.glance().waiting == 0;
                // From here on it is asleep or about to be.
                tell.send(rests).unwrap();
                rests
            });
        }
    });
    assert!(told.recv().unwrap());
    ask(&mut supervisor, 1);
    let mut first = hand(0);
    worker.join(&mut first);
    let _ticket = took(&worker, &mut first);
    watching.join().unwrap();
}

/// Threads that hang at random, and whoever comes in their place: every request is answered once.
#[test]
fn many_threads_on_one_lane_answer_everything_once() {
    const COUNT: u64 = 20_000;
    const THREADS: u16 = 4;
    let (mut supervisor, worker) = lane();
    let (call, calls) = std::sync::mpsc::channel::<bool>();
    let calls = Arc::new(std::sync::Mutex::new(calls));
    for number in 0..THREADS {
        let (worker, calls, call) = (worker.clone(), calls.clone(), call.clone());
        thread::spawn(move || {
            let (mut hand, mut buffer) = (hand(number), MessageBuffer::new());
            while let Ok(true) = { calls.lock().unwrap().recv() } {
                worker.join(&mut hand);
                loop {
                    match worker.next(&mut hand, &mut buffer).unwrap() {
                        Next::Request(ticket, Request::GetAttr { node, .. }) => {
                            let reply = Reply::Offset(node.0);
                            if node.0 % 16 == 0 {
                                worker.call();
                                call.send(true).unwrap();
                                thread::yield_now();
                            }
                            worker.complete(&hand, ticket, &reply);
                        }
                        Next::Wait => worker.wait(&mut hand),
                        Next::Leave => break,
                        other => panic!("{other:?}"),
                    }
                }
            }
        });
    }
    worker.call();
    call.send(true).unwrap();
    let mut buffer = MessageBuffer::new();
    let mut expected = [None; SLOTS];
    let (mut sent, mut received) = (0, 0);
    while received < COUNT {
        while sent < COUNT && supervisor.free_slots() > 0 {
            let request = Request::GetAttr { node: NodeId(sent) };
            let slot = supervisor.submit(&request, None).unwrap();
            assert_eq!(expected[slot.index()].replace(sent), None);
            sent += 1;
        }
        supervisor.flush();
        while let Some((slot, reply)) = supervisor.next_completion(&mut buffer).unwrap() {
            let node = expected[slot.index()].take().expect("it was asked for");
            assert_eq!(reply, Reply::Offset(node));
            received += 1;
        }
        if supervisor.in_flight() > 0 {
            wait_for_completion(&mut supervisor);
        }
    }
}
