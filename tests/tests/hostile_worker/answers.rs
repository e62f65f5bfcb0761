//! Every answer to every operation.

use airlockfs_ipc::message::Reply;
use airlockfs_ipc::ring::BULK_SIZE;
use airlockfs_tests::boundary::Numbers;
use airlockfs_tests::boundary::puppet::encoded;
use airlockfs_tests::boundary::raw::{MESSAGE, entry};
use nix::errno::Errno;

use crate::ops::{OPS, SIZE, at_the_edges, errors, kind, one_of_each, op};
use crate::{LANE, assert_breaks, assert_broken, exchange, goes_on, started};

/// Whether an answer of the right kind says more than was asked, or names what cannot be.
fn says_too_much(name: &str, reply: &Reply<'_>) -> bool {
    match *reply {
        Reply::Data { size } | Reply::Written { size } => size > SIZE,
        Reply::Copied(bytes) => bytes > SIZE.into(),
        Reply::Entry(entry) | Reply::Created { entry, .. } => entry.node.0 == 0,
        Reply::Target(target) => target.0.len() > 4095,
        // What stands in the buffer is not entries, however few bytes of it.
        Reply::Entries { size } => size > 0 && name.starts_with("READDIR"),
        _ => false,
    }
}

#[test]
fn an_answer_of_another_kind_ends_the_session_and_the_guest_gets_eio() {
    let kinds = one_of_each();
    let mut tried = 0;
    for (index, op) in OPS.iter().enumerate() {
        // The first operation with each right kind meets all wrong ones, the others some: what they share is how
        // their answer is laid out.
        let first = OPS.iter().take(index).all(|other| other.right != op.right);
        for (number, reply) in kinds.iter().enumerate() {
            let chosen = first || (number + index).is_multiple_of(6);
            if kind(reply) == op.right || !chosen {
                continue;
            }
            let what = format!("{} answered with {}", op.name, kind(reply));
            assert_breaks(&what, op.call, |puppet, request| {
                puppet.reply(LANE, request, reply)
            });
            tried += 1;
        }
    }
    assert!(tried > 250, "{tried}");
}

#[test]
fn answers_of_the_right_kind_reach_the_guest_whatever_their_numbers() {
    for op in OPS {
        let (daemon, fs, mut puppet) = started();
        let mut tried = 0;
        for reply in at_the_edges() {
            if kind(&reply) != op.right || says_too_much(op.name, &reply) {
                continue;
            }
            // What Client makes of it is strict: length, name and error must be a reply's, or it panics.
            let got = exchange(&fs, &mut puppet, op.call, |puppet, request| {
                puppet.reply(LANE, request, &reply);
            });
            assert!(got.is_ok(), "{} answered with {reply:?}: {got:?}", op.name);
            tried += 1;
            if op.name == "DESTROY" {
                fs_init(&fs, &mut puppet);
            }
        }
        assert!(tried > 0, "{}", op.name);
        assert!(daemon.is_alive(), "{}: {:#?}", op.name, daemon.log());
    }
}

/// INIT after DESTROY, which asks the worker to forget.
fn fs_init(fs: &airlockfs_tests::fuse::Client, puppet: &mut airlockfs_tests::boundary::puppet::Puppet) {
    let done = exchange(
        fs,
        puppet,
        |fs| fs.init().map(drop),
        |puppet, request| {
            puppet.reply(LANE, request, &Reply::Done);
        },
    );
    assert_eq!(done, Ok(()));
}

#[test]
fn answers_that_say_too_much_end_the_session() {
    for op in OPS {
        for reply in at_the_edges() {
            if kind(&reply) == op.right && says_too_much(op.name, &reply) {
                let what = format!("{} answered with {reply:?}", op.name);
                assert_breaks(&what, op.call, |puppet, request| {
                    puppet.reply(LANE, request, &reply)
                });
            }
        }
    }
}

#[test]
fn every_error_reaches_the_guest_as_one_that_it_may_see() {
    for op in OPS.iter().filter(|op| op.name != "DESTROY") {
        let (daemon, fs, mut puppet) = started();
        for errno in errors() {
            let got = exchange(&fs, &mut puppet, op.call, |puppet, request| {
                puppet.reply(LANE, request, &Reply::Error(errno));
            });
            // From 512 on they are the kernel's own (include/linux/errno.h).
            let expected = if errno.number() < 512 {
                errno.number()
            } else {
                libc::EIO
            };
            assert_eq!(got, Err(Errno::from_raw(expected)), "{} {errno:?}", op.name);
        }
        assert!(daemon.is_alive());
    }
}

/// Encodings that no reply has.
fn malformed() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let attr = at_the_edges()
        .into_iter()
        .rev()
        .find(|reply| kind(reply) == "Entry");
    let good = encoded(&attr.expect("an entry"));
    for length in [0, 1, good.len() / 2, good.len() - 1] {
        all.push((format!("cut to {length} bytes"), good[..length].to_vec()));
    }
    for more in [1, 8, MESSAGE - good.len()] {
        let bytes = [&good[..], &vec![0; more]].concat();
        all.push((format!("{more} bytes more"), bytes));
    }
    for variant in [19u8, 20, 127] {
        all.push((format!("kind {variant}"), vec![variant, 0, 0, 0]));
    }
    all.push(("a kind of 5 bytes".into(), vec![0xff, 0xff, 0xff, 0xff, 0x0f]));
    all.push(("a number without an end".into(), vec![0xff; 64]));
    // Error numbers that are none: 0, 4096, 65535.
    for number in [&[0u8][..], &[0x80, 0x20], &[0xff, 0xff, 3]] {
        all.push((format!("error {number:?}"), [&[0], number].concat()));
    }
    // A boolean that is neither, in the last byte; a target longer than the message.
    let mut neither = good.clone();
    *neither.last_mut().expect("bytes") = 2;
    all.push(("a boolean of 2".into(), neither));
    for length in [[0xff, 0x3f], [0xff, 0x7f]] {
        all.push((
            "a target beyond the message".into(),
            [&[4], &length[..], b"x"].concat(),
        ));
    }
    all.push((
        "a target of 2^64 bytes".into(),
        [&[4][..], &[0xff; 9], &[1], b"x"].concat(),
    ));
    all
}

#[test]
fn what_does_not_decode_ends_the_session() {
    for (index, (what, bytes)) in malformed().into_iter().enumerate() {
        // Any operation will do; not always the same.
        let op = op(["LOOKUP", "READ", "OPEN", "READDIR", "SETLKW", "STATFS"][index % 6]);
        assert_breaks(&what, op.call, |puppet, request| {
            puppet.reply_bytes(LANE, request, &bytes);
        });
    }
}

#[test]
fn random_answers_never_end_the_supervisor_but_by_its_own_decision() {
    let mut numbers = Numbers::new(0x6169_726c_6f63_6b01);
    let valid = at_the_edges();
    let mut live = started();
    let (mut broken, mut served) = (0, 0);
    for round in 0..1500u64 {
        let (_, fs, puppet) = &mut live;
        let op = &OPS[numbers.below(OPS.len() as u64) as usize];
        if op.name == "DESTROY" {
            continue;
        }
        // A good answer's bytes, some of them others: most still decode.
        let candidates: Vec<_> = valid.iter().filter(|reply| kind(reply) == op.right).collect();
        let good = candidates[numbers.below(candidates.len() as u64) as usize];
        let mut bytes = encoded(good);
        for _ in 0..numbers.below(3) {
            let at = numbers.below(bytes.len() as u64) as usize;
            bytes[at] = numbers.next() as u8;
        }
        let bulk: Vec<u8> = (0..64).map(|_| numbers.next() as u8).collect();
        let got = exchange(fs, puppet, op.call, |puppet, request| {
            if usize::from(request.bulk) < 16 {
                puppet.fill(LANE, request, &bulk);
            }
            puppet.reply_bytes(LANE, request, &bytes);
        });
        if got == Err(Errno::EIO) && !goes_on(fs, puppet) {
            broken += 1;
            let (daemon, fs, _puppet) = std::mem::replace(&mut live, started());
            assert_broken(
                daemon,
                fs,
                &format!("round {round}: {} answered with {bytes:02x?}", op.name),
            );
        } else {
            served += 1;
        }
    }
    assert!(served > 300 && broken > 20, "{served} served, {broken} broken");
}

#[test]
fn the_answer_stays_within_the_guests_buffer() {
    let (daemon, fs, mut puppet) = started();
    let memory = fs.session().vmm().memory().clone();
    // Every slot of the lane may be the next; paint all replies' buffers behind the room that is offered.
    let replies: Vec<u64> = {
        let mut lane = fs.session().lane(LANE);
        let slots: Vec<_> = std::iter::from_fn(|| lane.acquire()).collect();
        let found = slots.iter().map(|slot| lane.addresses(*slot).1).collect();
        slots.into_iter().for_each(|slot| lane.release(slot));
        found
    };
    let paint = vec![0xa5; BULK_SIZE - SIZE as usize];
    let behind = |at: u64| at + 16 + u64::from(SIZE);
    for &at in &replies {
        memory.write(behind(at), &paint);
    }
    for size in [0, 1, SIZE - 1, SIZE] {
        for name in ["READ", "GETXATTR", "LISTXATTR"] {
            let got = exchange(&fs, &mut puppet, op(name).call, |puppet, request| {
                puppet.fill(LANE, request, &vec![b'x'; BULK_SIZE]);
                puppet.reply(LANE, request, &Reply::Data { size });
            });
            assert_eq!(got, Ok(()));
        }
    }
    let unchanged = |what: &str| {
        for &at in &replies {
            let mut found = vec![0; paint.len()];
            memory.read(behind(at), &mut found);
            assert!(found == paint, "{what}: written behind the guest's buffer");
        }
    };
    unchanged("what was asked");
    let got = exchange(&fs, &mut puppet, op("READ").call, |puppet, request| {
        puppet.fill(LANE, request, &vec![b'x'; BULK_SIZE]);
        puppet.lanes[LANE].write_message(request.slot, &encoded(&Reply::Data { size: SIZE + 1 }));
        let length = encoded(&Reply::Data { size: SIZE + 1 }).len() as u32;
        puppet.complete(LANE, entry(request.slot, request.bulk, length));
    });
    assert_eq!(got, Err(Errno::EIO));
    unchanged("a byte more");
    assert_broken(daemon, fs, "a byte more");
}
