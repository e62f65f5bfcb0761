//! Both ends in one process, each on a thread of its own; and what a dishonest end can do.

use std::{os::fd::OwnedFd, thread, time::Duration};

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
    let worker = map(descriptors, 1, Duration::from_micros(50))
        .unwrap()
        .pop()
        .unwrap();
    (ring.lanes.pop().unwrap(), worker)
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
    let (mut supervisor, mut worker) = lane();
    const COUNT: u64 = 100_000;
    let serving = thread::spawn(move || {
        let mut buffer = MessageBuffer::new();
        let mut held = None;
        let mut seen = 0;
        while seen < COUNT {
            match worker.next(&mut buffer).unwrap() {
                None => {
                    if let Some((ticket, size)) = held.take() {
                        worker.complete(ticket, &Reply::Offset(size));
                    }
                    worker.wait();
                }
                Some((ticket, Request::GetAttr { node, .. })) => {
                    seen += 1;
                    if let Some((earlier, size)) = held.replace((ticket, node.0)) {
                        if seen % 3 == 0 {
                            worker.completer().complete(earlier, &Reply::Offset(size));
                        } else {
                            worker.complete(earlier, &Reply::Offset(size));
                        }
                    }
                }
                Some((_, other)) => panic!("{other:?}"),
            }
        }
        let (ticket, size) = held.take().unwrap();
        worker.complete(ticket, &Reply::Offset(size));
        worker.flush();
    });
    let mut buffer = MessageBuffer::new();
    let mut expected = [0; SLOTS];
    let (mut sent, mut received) = (0, 0);
    while received < COUNT {
        while sent < COUNT && supervisor.free_slots() > 0 {
            let slot = supervisor
                .submit(
                    &Request::GetAttr {
                        node: NodeId(sent),
                        handle: None,
                    },
                    None,
                )
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
    let (mut supervisor, mut worker) = lane();
    let bulk = supervisor.take_bulk().unwrap();
    assert_eq!(supervisor.bulk(&bulk).copy_from_slice(BULK_SIZE - 2, b"abc"), 2);
    supervisor.submit(&Request::Ping, Some(&bulk)).unwrap();
    let mut buffer = MessageBuffer::new();
    let (ticket, _) = worker.next(&mut buffer).unwrap().unwrap();
    let mut seen = [0; 3];
    assert_eq!(
        worker
            .bulk(&ticket)
            .unwrap()
            .copy_to_slice(BULK_SIZE - 2, &mut seen),
        2
    );
    assert_eq!(&seen, b"ab\0");
    worker.complete(ticket, &Reply::Done);
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
        let (supervisor, mut worker) = lane();
        supervisor.scribble_submitted(count, word);
        worker
            .next(&mut MessageBuffer::new())
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
    let (mut supervisor, mut worker) = lane();
    let mut buffer = MessageBuffer::new();
    supervisor.submit(&Request::Ping, None).unwrap();
    let _unanswered = worker.next(&mut buffer).unwrap();
    supervisor.scribble_submitted(2, 0xffff_0000 | (1 << 32));
    assert_eq!(
        worker.next(&mut buffer).unwrap_err(),
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
