//! Malformed directory entries.

use airlockfs_ipc::message::{Attr, DirEntry, Entry, Reply};
use airlockfs_ipc::{Bytes, NodeId};
use airlockfs_tests::boundary::Numbers;
use airlockfs_tests::boundary::puppet::encoded;
use airlockfs_tests::fuse::Outcome;
use airlockfs_tests::fuse::abi::{READDIR, READDIRPLUS, ReadIn};
use nix::errno::Errno;
use zerocopy::IntoBytes;

use crate::ops::{SIZE, op};
use crate::{LANE, assert_breaks, assert_broken, exchange, started};

fn entry<'a>(name: &'a [u8], node: Option<u64>) -> DirEntry<'a> {
    DirEntry {
        ino: 9,
        next: 1,
        kind: libc::DT_REG,
        name: Bytes(name),
        entry: node.map(|node| Entry {
            node: NodeId(node),
            attr: Attr::default(),
        }),
    }
}

#[test]
fn listings_that_are_none_end_the_session() {
    let long = [b'x'; 256];
    let longest = [b'x'; 255];
    let good = encoded(&entry(b"good", None));
    let with_node = encoded(&entry(b"good", Some(5)));
    let mut cases: Vec<(String, bool, Vec<u8>)> = Vec::new();
    for plus in [false, true] {
        for name in [
            &b""[..],
            b"/",
            b"a/b",
            b"/etc/passwd",
            b"../x",
            b"a\0",
            b"\0",
            &long,
            &[b'x'; 4000],
        ] {
            let text = format!("the name {}", name.escape_ascii());
            // Alone, and behind a good one.
            cases.push((text.clone(), plus, encoded(&entry(name, None))));
            cases.push((text, plus, [good.clone(), encoded(&entry(name, None))].concat()));
        }
        for length in [1, 2, good.len() - 1] {
            cases.push((format!("cut to {length}"), plus, good[..length].to_vec()));
        }
        // A name's length that lies: beyond what there is, beyond all there can be.
        let at = good.len() - 6;
        assert_eq!(good[at], 4, "the length of the name");
        for lie in [
            &[5u8][..],
            &[0xff, 1],
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
            &[0xff; 10],
        ] {
            let bytes = [&good[..at], lie, &good[at + 1..]].concat();
            cases.push((format!("a length of {lie:?}"), plus, bytes));
        }
        // More than has room at the guest.
        let many = encoded(&entry(&longest, None)).repeat(100);
        cases.push(("too many".into(), plus, many));
        cases.push(("zeros".into(), plus, vec![0; 100]));
        cases.push(("ones".into(), plus, vec![0xff; 100]));
    }
    cases.push(("a node nobody asked for".into(), false, with_node));
    cases.push(("no node".into(), true, encoded(&entry(b"a", Some(0)))));
    for dots in [&b"."[..], b".."] {
        cases.push((
            "an inode for the dots".into(),
            true,
            encoded(&entry(dots, Some(5))),
        ));
    }
    for (what, plus, bytes) in cases {
        let op = op(if plus { "READDIRPLUS" } else { "READDIR" });
        assert_breaks(&format!("{}: {what}", op.name), op.call, |puppet, request| {
            puppet.fill(LANE, request, &bytes);
            puppet.reply(
                LANE,
                request,
                &Reply::Entries {
                    size: bytes.len() as u32,
                },
            );
        });
    }
}

#[test]
fn a_listing_larger_than_a_buffer_ends_the_session() {
    for size in [(1 << 20) + 1, u32::MAX] {
        for name in ["READDIR", "READDIRPLUS"] {
            assert_breaks(name, op(name).call, |puppet, request| {
                puppet.reply(LANE, request, &Reply::Entries { size });
            });
        }
    }
}

#[test]
fn random_listings_are_valid_for_the_guest_or_end_the_session() {
    let mut numbers = Numbers::new(0x6c69_7374);
    let mut live = started();
    let (mut served, mut broken) = (0, 0);
    for round in 0..400u64 {
        let (_, fs, puppet) = &mut live;
        let plus = round % 2 == 1;
        let mut bytes = Vec::new();
        for index in 0..numbers.below(12) {
            let name = vec![b'a' + index as u8; 1 + numbers.below(255) as usize];
            bytes.extend(encoded(&entry(&name, plus.then_some(index + 2))));
        }
        for _ in 0..numbers.below(8) {
            if !bytes.is_empty() {
                let at = numbers.below(bytes.len() as u64) as usize;
                bytes[at] = numbers.next() as u8;
            }
        }
        let read = ReadIn {
            fh: 7,
            size: SIZE,
            ..ReadIn::default()
        };
        let opcode = if plus { READDIRPLUS } else { READDIR };
        let outcome = exchange(
            fs,
            puppet,
            |fs| fs.raw(opcode, 5, read.as_bytes(), SIZE as usize),
            |puppet, request| {
                puppet.fill(LANE, request, &bytes);
                puppet.reply(
                    LANE,
                    request,
                    &Reply::Entries {
                        size: bytes.len() as u32,
                    },
                );
            },
        );
        match outcome {
            Outcome::Reply { error: 0, body } => {
                check(&body, plus);
                served += 1;
            }
            other => {
                assert_eq!(other.errno(), Some(Errno::EIO));
                broken += 1;
                let (daemon, fs, _puppet) = std::mem::replace(&mut live, started());
                assert_broken(daemon, fs, &format!("round {round}"));
            }
        }
    }
    assert!(served > 50 && broken > 20, "{served} served, {broken} broken");
}

/// What a guest's kernel demands of a listing (fs/fuse/readdir.c): whole records, names of 1 to 255 bytes without a slash.
fn check(mut body: &[u8], plus: bool) {
    let head = if plus { 152 } else { 24 };
    while !body.is_empty() {
        let length = u32::from_le_bytes(body[head - 8..head - 4].try_into().expect("four")) as usize;
        assert!((1..=255).contains(&length), "a name of {length} bytes");
        let name = &body[head..head + length];
        assert!(!name.contains(&b'/') && !name.contains(&0), "{name:?}");
        body = &body[(head + length).next_multiple_of(8)..];
    }
}
