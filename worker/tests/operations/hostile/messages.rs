//! Requests as bytes that no honest supervisor writes.

use airlockfs_ipc::{
    Bytes, Errno, Handle, NodeId,
    message::{FileOperation, Reply, Request, XattrName},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::sync::atomic::Ordering::SeqCst;

use crate::{
    client::{ROOT, Worker, creation, name_of},
    raw::{COMPLETED, MESSAGE, NO_BULK, RawLane, SUPERVISOR_ASLEEP, entry},
};

/// Exit code for a peer that broke the protocol (EX_PROTOCOL).
pub(super) const PROTOCOL: i32 = 76;

/// It ended for a reason that its one line of log gives.
pub(super) fn assert_broken(worker: &mut Worker, what: &str) {
    let (code, log) = worker.wait();
    assert_eq!(code, PROTOCOL, "{what}: {log}");
    assert!(
        log.contains("boundary violation: ") && log.lines().count() == 1,
        "{what}: {log}"
    );
}

/// Sends these bytes as a request; the answer's bytes, or none when the worker ended instead.
pub(super) fn send(worker: &Worker, lane: &RawLane, bytes: &[u8], bulk: u16) -> Option<Vec<u8>> {
    let count = lane.word(COMPLETED).load(SeqCst);
    lane.write_message(0, bytes);
    lane.submit(entry(0, bulk, bytes.len() as u32));
    for _ in 0..600 {
        lane.word(SUPERVISOR_ASLEEP).store(1, SeqCst);
        if lane.word(COMPLETED).load(SeqCst) != count {
            return Some(lane.completion(count).1);
        }
        let control = worker.control.as_ref().unwrap();
        let mut sources = [
            PollFd::new(worker.lane.doorbell(), PollFlags::POLLIN),
            PollFd::new(std::os::fd::AsFd::as_fd(control), PollFlags::POLLIN),
        ];
        poll(&mut sources, PollTimeout::from(50u16)).unwrap();
        if sources[0].any().unwrap() {
            let _ = nix::unistd::read(worker.lane.doorbell(), &mut [0; 8]);
        }
        if sources[1].any().unwrap() {
            return None;
        }
    }
    panic!("neither an answer nor an end to {bytes:02x?}: {}", worker.said());
}

fn encoded(request: &Request<'_>) -> Vec<u8> {
    postcard::to_allocvec(request).unwrap()
}

/// Requests that hold the name `abcd`.
fn with_names() -> Vec<Request<'static>> {
    let (parent, name) = (NodeId::ROOT, name_of("abcd"));
    let creation = creation(ROOT, 0o644, 0);
    let other = name_of("other");
    vec![
        Request::Lookup { parent, name },
        Request::Symlink {
            parent,
            name,
            target: Bytes(b"t"),
            creation,
        },
        Request::Mknod {
            parent,
            name,
            rdev: 0,
            creation,
        },
        Request::Mkdir {
            parent,
            name,
            creation,
        },
        Request::Unlink { parent, name },
        Request::Rmdir { parent, name },
        Request::Rename {
            parent,
            name,
            new_parent: parent,
            new_name: other,
            flags: 0,
        },
        Request::Rename {
            parent,
            name: other,
            new_parent: parent,
            new_name: name,
            flags: 0,
        },
        Request::Link {
            node: parent,
            new_parent: parent,
            new_name: name,
        },
        Request::Create {
            parent,
            name,
            flags: 2,
            kill_suidgid: false,
            creation,
        },
    ]
}

/// The bytes with a name in place of `abcd`, whatever its length.
fn forge(bytes: &[u8], name: &[u8]) -> Vec<u8> {
    let at = bytes.windows(5).position(|part| part == b"\x04abcd").unwrap();
    let mut length = Vec::new();
    let mut left = name.len();
    while left >= 0x80 {
        length.push(left as u8 | 0x80);
        left >>= 7;
    }
    length.push(left as u8);
    [&bytes[..at], &length, name, &bytes[at + 5..]].concat()
}

#[test]
fn names_that_are_none_end_the_session_in_every_request() {
    let long = [b'x'; 256];
    let names: [&[u8]; 10] = [
        b"",
        b".",
        b"..",
        b"/",
        b"a/b",
        b"/etc/passwd",
        b"../../etc",
        b"a\0b",
        b"\0",
        &long,
    ];
    for (index, request) in with_names().iter().enumerate() {
        for (number, name) in names.iter().enumerate() {
            // The first request meets all, the others some: the check is one.
            if index > 0 && (index + number) % 3 > 0 {
                continue;
            }
            let mut worker = Worker::start(|_| ());
            let lane = RawLane::map(&worker.memory, 0);
            let bytes = forge(&encoded(request), name);
            assert_eq!(
                send(&worker, &lane, &bytes, NO_BULK),
                None,
                "{request:?} {name:?}"
            );
            assert_broken(&mut worker, &format!("{request:?} with {name:?}"));
        }
    }
    let attribute = encoded(&Request::RemoveXattr {
        node: NodeId::ROOT,
        name: XattrName::new(b"abcd").unwrap(),
    });
    for name in [&b""[..], b"user.\0a", &long] {
        let mut worker = Worker::start(|_| ());
        let lane = RawLane::map(&worker.memory, 0);
        assert_eq!(send(&worker, &lane, &forge(&attribute, name), NO_BULK), None);
        assert_broken(&mut worker, "an attribute's name");
    }
}

/// Encodings that no request has.
fn malformed() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let good = encoded(&with_names()[9]);
    for length in [0, 1, 2, good.len() / 2, good.len() - 1] {
        all.push((format!("cut to {length}"), good[..length].to_vec()));
    }
    for more in [1, 8, MESSAGE - good.len()] {
        all.push((format!("{more} bytes more"), [&good[..], &vec![0; more]].concat()));
    }
    for kind in [43u8, 44, 127] {
        all.push((format!("kind {kind}"), vec![kind, 0, 0, 0]));
    }
    all.push(("a kind of 5 bytes".into(), vec![0xff, 0xff, 0xff, 0xff, 0x0f]));
    all.push(("a number without an end".into(), vec![0xff; 64]));
    all.push(("all zeros behind a kind without fields".into(), vec![0; 100]));
    // A name's length beyond the message, beyond all messages, beyond 64 bits.
    let lookup = encoded(&with_names()[0]);
    let at = lookup.len() - 5;
    for length in [
        &[5u8][..],
        &[0xff, 0x3f],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff; 10],
    ] {
        let bytes = [&lookup[..at], length, b"abcd"].concat();
        all.push((format!("a name of {length:?} bytes"), bytes));
    }
    // Booleans and options that are neither.
    let fsync = encoded(&Request::File(FileOperation::Fsync {
        handle: Handle(1),
        datasync: false,
    }));
    let mut neither = fsync;
    *neither.last_mut().unwrap() = 2;
    all.push(("a boolean of 2".into(), neither));
    let mut option = encoded(&Request::Release {
        handle: Handle(1),
        flock_owner: None,
    });
    *option.last_mut().unwrap() = 2;
    all.push(("an option of 2".into(), option));
    all
}

#[test]
fn requests_that_do_not_decode_end_the_session() {
    for (what, bytes) in malformed() {
        let mut worker = Worker::start(|_| ());
        let lane = RawLane::map(&worker.memory, 0);
        assert_eq!(send(&worker, &lane, &bytes, NO_BULK), None, "{what}");
        assert_broken(&mut worker, &what);
    }
}

/// Numbers that look random and are the same each time (SplitMix64).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn random_requests_are_answered_or_end_the_session() {
    let mut numbers = Numbers(0x776f_726b_6572);
    let mut samples: Vec<_> = with_names().iter().map(encoded).collect();
    let (node, handle) = (NodeId::ROOT, Handle(1));
    for request in [
        Request::GetAttr { node },
        Request::ReadLink { node },
        Request::Open {
            node,
            flags: 2,
            kill_suidgid: false,
        },
        Request::OpenDir { node, flags: 0 },
        Request::File(FileOperation::Read {
            handle,
            offset: 0,
            size: 100,
        }),
        Request::File(FileOperation::Write {
            handle,
            offset: 0,
            size: 100,
            kill_suidgid: true,
        }),
        Request::ReadDir {
            handle,
            offset: 0,
            size: 4096,
            plus: true,
        },
        Request::ListXattr { node, size: 100 },
        Request::StatFs { node },
        Request::Forget(Bytes(&[1; 48])),
    ] {
        samples.push(encoded(&request));
    }
    let mut worker = Worker::start(|_| ());
    let mut lane = RawLane::map(&worker.memory, 0);
    let (mut answered, mut broken) = (0, 0);
    for round in 0..4000 {
        let mut bytes = samples[numbers.below(samples.len())].clone();
        for _ in 0..numbers.below(4) {
            let at = numbers.below(bytes.len());
            match numbers.below(3) {
                0 => bytes[at] = numbers.next() as u8,
                1 => bytes[at] ^= 1 << numbers.below(8),
                _ => bytes.truncate(at.max(1)),
            }
        }
        match send(&worker, &lane, &bytes, 0) {
            Some(answer) => {
                let decoded = postcard::from_bytes::<Reply<'_>>(&answer);
                assert!(decoded.is_ok(), "round {round}: {bytes:02x?} got {answer:02x?}");
                assert_ne!(decoded, Ok(Reply::Error(Errno::raw(libc::EFAULT))));
                answered += 1;
            }
            None => {
                assert_broken(&mut worker, &format!("round {round}: {bytes:02x?}"));
                broken += 1;
                worker = Worker::start(|_| ());
                lane = RawLane::map(&worker.memory, 0);
            }
        }
    }
    assert!(
        answered > 1000 && broken > 100,
        "{answered} answered, {broken} broken"
    );
}
