//! The used length of every answer is the one in its header, to the byte. Linux from 7.1 on takes
//! any other for EIO. The client of the suites compares them in each test; here every operation
//! answers in every way that it has.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi::{DESTROY, INIT, ROOT};
use airlockfs_tests::fuse::{Client, Outcome};
use nix::errno::Errno;

/// FORGET, INTERRUPT, NOTIFY_REPLY, BATCH_FORGET.
const UNANSWERED: [u32; 4] = [2, 36, 41, 42];
/// SETLKW, which may wait.
const SETLKW: u32 = 33;
/// Beyond the last that is known, and CUSE_INIT.
const OPCODES: [std::ops::RangeInclusive<u32>; 2] = [0..=60, 4096..=4096];

/// Bodies that make some sense to many operations: numbers, then names.
fn bodies(handle: u64) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for words in 0..=11 {
        for first in [0, handle] {
            let mut body = vec![0_u64; words];
            if let Some(word) = body.first_mut() {
                *word = first;
            }
            // An offset, a size or a length.
            if let Some(word) = body.get_mut(2) {
                *word = 64;
            }
            let body: Vec<u8> = body.into_iter().flat_map(u64::to_le_bytes).collect();
            let names: &[&[u8]] = match words {
                0..=3 => &[b"", b"file\0", b"new\0", b"file\0other\0", b"user.name\0"],
                _ => &[b""],
            };
            all.extend(names.iter().map(|names| [&body[..], names].concat()));
        }
    }
    all
}

/// Sends each body to each node with each room. How many answers were successes, errors, and none.
fn answers(fs: &Client, opcode: u32, nodes: &[u64], handle: u64) -> [usize; 3] {
    let mut counts = [0; 3];
    for body in bodies(handle) {
        for &node in nodes {
            for room in [0, 104, 8192] {
                // Compares the lengths.
                let kind = match fs.raw(opcode, node, &body, room) {
                    Outcome::Reply { error: 0, .. } => 0,
                    Outcome::Reply { .. } => 1,
                    Outcome::Empty => 2,
                    Outcome::Gone => panic!("opcode {opcode}: the daemon is gone"),
                };
                counts[kind] += 1;
            }
        }
    }
    counts
}

#[test]
fn every_answer_is_as_long_as_its_header_says() {
    for options in [
        &["--xattr", "--posix-lock", "--flock", "--posix-acl"][..],
        &["--readonly", "--cache=always", "--negative-timeout=9"],
        &["--no-donate", "--cache=never"],
    ] {
        let (daemon, fs) = Daemon::with_client(options);
        fs::write(daemon.host("file"), [7; 10_000]).expect("write");
        symlink("file", daemon.host("link")).expect("symlink");
        let node = |name: &str| fs.lookup(ROOT, name).expect("LOOKUP").nodeid;
        let nodes = [ROOT, node("file"), node("link"), 1 << 40];
        let handle = fs.open(nodes[1], libc::O_RDONLY).map_or(0, |file| file.fh);
        let mut successes = 0;
        for opcode in OPCODES.into_iter().flatten() {
            if [INIT, DESTROY, SETLKW].contains(&opcode) {
                continue;
            }
            let [fine, errors, none] = answers(&fs, opcode, &nodes, handle);
            match UNANSWERED.contains(&opcode) {
                true => assert_eq!((fine, errors), (0, 0), "opcode {opcode}"),
                false => assert_eq!(none, 0, "opcode {opcode}: no answer"),
            }
            successes += usize::from(fine > 0);
        }
        assert!(successes >= 10, "{options:?}: {successes} operations succeeded");
        // What there is no room for at all is given back empty, and what the worker does not live to answer is EIO.
        for room in 0..16 {
            let request = [fs.header(3, ROOT)]
                .map(|header| zerocopy::IntoBytes::as_bytes(&header).to_vec())
                .concat();
            assert_eq!(fs.send(&request, room), Outcome::Empty, "{room}");
        }
        let worker = daemon.worker().expect("a worker");
        worker.signal(nix::sys::signal::Signal::SIGKILL).expect("kill");
        // It is noticed in its own time, and stays so.
        let limit = Instant::now() + Duration::from_secs(60);
        while fs.getattr(ROOT) != Err(Errno::EIO) {
            assert!(Instant::now() < limit, "a dead worker answers");
        }
        for opcode in OPCODES.into_iter().flatten() {
            if ![INIT, DESTROY, SETLKW].contains(&opcode) && !UNANSWERED.contains(&opcode) {
                let [fine, _, none] = answers(&fs, opcode, &nodes, handle);
                assert_eq!(none, 0, "opcode {opcode}: no answer, {fine} others");
            }
        }
    }
}
