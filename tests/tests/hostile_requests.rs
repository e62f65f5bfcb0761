//! Whatever bytes a guest puts into a request, the daemon answers an errno (or nothing if there is
//! no room for one) and goes on serving.

use airlockfs_tests::daemon::{Daemon, on_disconnect};
use airlockfs_tests::fuse::abi::*;
use airlockfs_tests::fuse::{Client, Lane, Outcome, SlotId};
use airlockfs_tests::vmm::queue::Segment;
use nix::errno::Errno;
use zerocopy::IntoBytes;

fn started() -> (Daemon, Client) {
    let (daemon, fs) = Daemon::with_client(["--xattr", on_disconnect(env!("CARGO_CRATE_NAME"))]);
    std::fs::write(daemon.host("file"), "text").expect("write");
    (daemon, fs)
}

fn assert_serves(daemon: &Daemon, fs: &Client) {
    assert!(daemon.is_alive());
    fs.getattr(ROOT).expect("GETATTR");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(file, 0, 10).expect("READ"), b"text");
    fs.release(file).expect("RELEASE");
}

/// A request as bytes, with whatever length its header claims.
fn request(fs: &Client, opcode: u32, node: u64, claimed: u32, body: &[u8]) -> Vec<u8> {
    let header = InHeader {
        len: claimed,
        ..fs.header(opcode, node)
    };
    [header.as_bytes(), body].concat()
}

/// Opcodes that end the session or are never answered; they have tests of their own.
fn is_special(opcode: u32) -> bool {
    matches!(
        opcode,
        INIT | DESTROY | FORGET | BATCH_FORGET | INTERRUPT | NOTIFY_REPLY
    )
}

/// An error that fits in the room, or no byte at all.
fn assert_refused(outcome: &Outcome, what: &str) {
    match outcome {
        Outcome::Empty => {}
        Outcome::Reply { error, .. } => assert!(*error < 0, "{what} succeeded"),
        Outcome::Gone => panic!("{what} ended the daemon"),
    }
}

#[test]
fn a_header_that_lies_about_its_length_is_refused() {
    let (daemon, fs) = started();
    // All but the length is right.
    let getattr = GetattrIn::default();
    let mkdir = [
        MkdirIn {
            mode: 0o755,
            umask: 0,
        }
        .as_bytes(),
        b"new\0",
    ]
    .concat();
    for (name, opcode, body) in [
        ("GETATTR", GETATTR, getattr.as_bytes()),
        ("LOOKUP", LOOKUP, b"file\0"),
        ("STATFS", STATFS, b""),
        ("MKDIR", MKDIR, &mkdir),
        ("OPENDIR", OPENDIR, &[0; 8]),
    ] {
        let real = (IN_HEADER + body.len()) as u32;
        for claimed in [0, 1, 39, real - 1, real + 1, real * 2, u32::MAX, u32::MAX - 39] {
            let bytes = request(&fs, opcode, ROOT, claimed, body);
            let what = format!("{name} claiming {claimed} bytes instead of {real}");
            assert_refused(&fs.send(&bytes, 4096), &what);
        }
    }
    assert!(!daemon.host("new").exists());
    for (name, opcode) in ALL_OPCODES {
        let body = [1; 200];
        for claimed in [0, 39, 241, 4096, u32::MAX] {
            let bytes = request(&fs, *opcode, ROOT, claimed, &body);
            assert_refused(
                &fs.send(&bytes, 4096),
                &format!("{name} claiming {claimed} bytes"),
            );
        }
    }
    assert_serves(&daemon, &fs);
}

#[test]
fn a_request_cut_short_anywhere_is_refused() {
    let (daemon, fs) = started();
    let header = fs.header(LOOKUP, ROOT);
    for len in 0..IN_HEADER {
        assert_refused(
            &fs.send(&header.as_bytes()[..len.max(1)], 4096),
            "part of a header",
        );
    }
    for (name, opcode) in ALL_OPCODES {
        if is_special(*opcode) {
            continue;
        }
        for len in 0..96usize {
            let body = vec![1; len];
            let bytes = request(&fs, *opcode, 1 << 40, (IN_HEADER + len) as u32, &body);
            let outcome = fs.send(&bytes, 4096);
            assert_refused(&outcome, &format!("{name} with a body of {len} bytes"));
        }
    }
    assert_serves(&daemon, &fs);
}

#[test]
fn a_name_without_its_nul_is_refused() {
    let (daemon, fs) = started();
    let newdir = ROOT.to_le_bytes();
    let rename2 = Rename2In {
        newdir: ROOT,
        ..Rename2In::default()
    };
    for (opcode, before) in [
        (LOOKUP, &[][..]),
        (UNLINK, &[]),
        (RMDIR, &[]),
        (SYMLINK, b"name\0"),
        (SYMLINK, b""),
        (MKDIR, MkdirIn::default().as_bytes()),
        (MKNOD, MknodIn::default().as_bytes()),
        (CREATE, CreateIn::default().as_bytes()),
        (LINK, &newdir),
        (RENAME, &newdir),
        (RENAME, &[&newdir[..], b"file\0"].concat()),
        (RENAME2, rename2.as_bytes()),
        (RENAME2, &[rename2.as_bytes(), b"file\0"].concat()),
        (GETXATTR, GetxattrIn { size: 10, padding: 0 }.as_bytes()),
        (REMOVEXATTR, &[]),
        (
            SETXATTR,
            SetxattrIn {
                size: 4,
                ..SetxattrIn::default()
            }
            .as_bytes(),
        ),
    ] {
        for name in [&b""[..], b"name", b"f", &[b'x'; 300]] {
            let body = [before, name].concat();
            let outcome = fs.raw(opcode, ROOT, &body, 4096);
            assert_refused(&outcome, &format!("opcode {opcode} with {body:?}"));
        }
    }
    let left: Vec<_> = std::fs::read_dir(daemon.share()).expect("list").collect();
    assert_eq!(left.len(), 1);
    assert_serves(&daemon, &fs);
}

#[test]
fn sizes_that_disagree_with_the_data_are_refused() {
    let (daemon, fs) = started();
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_RDWR).expect("OPEN");
    for size in [5, 100, 1 << 20, u32::MAX] {
        let write = WriteIn {
            fh: file.fh,
            size,
            ..WriteIn::default()
        };
        let body = [write.as_bytes(), b"data"].concat();
        assert_refused(&fs.raw(WRITE, node, &body, 8), "WRITE of more than there is");
        let set = SetxattrIn {
            size,
            ..SetxattrIn::default()
        };
        let body = [&set.as_bytes()[..8], b"user.a\0val"].concat();
        assert_refused(
            &fs.raw(SETXATTR, node, &body, 0),
            "SETXATTR of more than there is",
        );
    }
    for count in [1, 100, u32::MAX, 0x1000_0000] {
        let head = BatchForgetIn { count, dummy: 0 };
        // Fewer items than it says: never answered, and nothing beyond the request is forgotten.
        let outcome = fs.raw(BATCH_FORGET, 0, head.as_bytes(), 0);
        assert!(!matches!(outcome, Outcome::Gone));
    }
    assert_eq!(
        std::fs::read_to_string(daemon.host("file")).expect("read"),
        "text"
    );
    assert_serves(&daemon, &fs);
}

#[test]
fn a_reply_that_has_no_room_is_not_written() {
    let (daemon, fs) = started();
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
    let getattr = GetattrIn::default();
    let read = ReadIn {
        fh: file.fh,
        size: 4,
        ..ReadIn::default()
    };
    for (opcode, node, body) in [
        (GETATTR, node, getattr.as_bytes()),
        (LOOKUP, ROOT, b"file\0"),
        (READ, node, read.as_bytes()),
        (STATFS, ROOT, b""),
        (OPENDIR, ROOT, &[0; 8]),
        (READLINK, node, b""),
    ] {
        let bytes = request(&fs, opcode, node, (IN_HEADER + body.len()) as u32, body);
        for room in 0..OUT_HEADER {
            assert_eq!(
                fs.send(&bytes, room),
                Outcome::Empty,
                "opcode {opcode} in {room} bytes"
            );
        }
        for room in OUT_HEADER..OUT_HEADER + 8 {
            // Either it fits, or the header says that it does not.
            match fs.send(&bytes, room) {
                Outcome::Reply { error: 0, body } => assert!(body.len() <= room - OUT_HEADER),
                Outcome::Reply { .. } => {}
                other => panic!("opcode {opcode} in {room} bytes: {other:?}"),
            }
        }
    }
    assert_serves(&daemon, &fs);
}

#[test]
fn what_was_done_without_room_to_say_so_is_not_lost_track_of() {
    let (daemon, fs) = started();
    let count = || {
        let worker = daemon
            .worker()
            .expect("a worker")
            .descriptors()
            .expect("descriptors");
        let supervisor = daemon.supervisor().descriptors().expect("descriptors");
        worker.len() + supervisor.len()
    };
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let bytes = |fs: &Client| request(fs, OPEN, node, 48, OpenIn::default().as_bytes());
    fs.send(&bytes(&fs), OUT_HEADER + 4);
    let before = count();
    for _ in 0..50 {
        fs.send(&bytes(&fs), OUT_HEADER + 4);
        fs.send(&bytes(&fs), 4);
    }
    // A handle the guest was never told of could not be released.
    assert!(count() <= before + 5, "{} descriptors after {before}", count());
    assert_serves(&daemon, &fs);
}

#[test]
fn unknown_opcodes_are_not_implemented() {
    let (daemon, fs) = started();
    for opcode in [0, 7, 19, 54, 55, 100, 4096, 1 << 20, 436_207_616, u32::MAX] {
        let outcome = fs.raw(opcode, ROOT, &[0; 64], 4096);
        assert_eq!(
            outcome.errno(),
            Some(Errno::ENOSYS),
            "opcode {opcode}: {outcome:?}"
        );
    }
    for opcode in [BMAP, POLL, SETUPMAPPING, REMOVEMAPPING] {
        let outcome = fs.raw(opcode, ROOT, &[0; 64], 4096);
        assert_eq!(
            outcome.errno(),
            Some(Errno::ENOSYS),
            "opcode {opcode}: {outcome:?}"
        );
    }
    assert_serves(&daemon, &fs);
}

#[test]
fn extensions_that_lie_are_refused() {
    let (daemon, fs) = started();
    let mkdir = MkdirIn {
        mode: 0o755,
        umask: 0,
    };
    let word = |n: u32| n.to_le_bytes();
    let huge = u32::MAX;
    for (units, extension) in [
        (1u16, vec![]),
        (u16::MAX, vec![]),
        (1, [word(8), word(0)].concat()),
        (1, [word(huge), word(1)].concat()),
        (2, [word(16), word(1), word(huge), word(0)].concat()),
        (2, [word(16), word(huge), word(4), word(0)].concat()),
        (2, [word(16), word(EXT_GROUPS), word(huge), word(0)].concat()),
        (2, [word(4), word(EXT_GROUPS), word(1), word(0)].concat()),
        (2, [word(0), word(0), word(0), word(0)].concat()),
        (1, [word(8), word(99)].concat()),
        // Longer than the body in front of it.
        (8, [word(8), word(0)].concat()),
    ] {
        let body = [mkdir.as_bytes(), b"dir\0", &extension].concat();
        let header = InHeader {
            len: (IN_HEADER + body.len()) as u32,
            total_extlen: units,
            ..fs.header(MKDIR, ROOT)
        };
        let outcome = fs.send(&[header.as_bytes(), &body].concat(), 4096);
        assert!(
            !matches!(outcome, Outcome::Gone | Outcome::Empty),
            "{units} {extension:?}"
        );
        let _ = std::fs::remove_dir(daemon.host("dir"));
    }
    assert_serves(&daemon, &fs);
}

#[test]
fn callers_ids_of_any_value_are_survived() {
    let (daemon, fs) = started();
    for id in [u32::MAX, u32::MAX - 1, 1 << 31] {
        let other = fs.as_user(id, id);
        // -1 would mean 'as before' to setfsuid(2): the file must not become the daemon's.
        let outcome = other.create(ROOT, "new", libc::O_RDWR, 0o644);
        if let Ok((entry, _)) = outcome {
            assert_eq!((entry.attr.uid, entry.attr.gid), (id, id));
            fs.unlink(ROOT, "new").expect("UNLINK");
        }
        let _ = other.mkdir(ROOT, "newdir", 0o755);
        other.getattr(ROOT).expect("GETATTR");
    }
    assert_serves(&daemon, &fs);
}

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}

/// A body of random words, some of which mean something, and names.
fn random_body(random: &mut Random, known: &[u64]) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..random.next() % 12 {
        let word = match random.next() % 6 {
            0 => 0,
            1 => random.pick(known),
            2 => random.next() % 64,
            3 => 1 << (random.next() % 64),
            4 => u64::MAX - random.next() % 4,
            _ => random.next(),
        };
        body.extend_from_slice(&word.to_le_bytes()[..random.pick(&[8, 8, 8, 4, 1])]);
    }
    if random.next().is_multiple_of(2) {
        let name = random.pick(&[
            &b"file\0"[..],
            b"new\0",
            b"..\0",
            b"a/b\0",
            b"\0",
            b"x",
            b"user.a\0",
        ]);
        body.extend_from_slice(name);
        body.extend_from_slice(name);
    }
    body
}

#[test]
fn random_requests_are_all_completed() {
    let (daemon, fs) = started();
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_RDWR).expect("OPEN");
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let known = [ROOT, node, file.fh, dir.fh, 4096];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut lane = fs.session().lane(1);
    let mut in_flight = 0;
    for _ in 0..20_000 {
        let slot = match lane.acquire() {
            Some(slot) => slot,
            None => finish_one(&mut lane, &mut in_flight),
        };
        let (_, mut opcode) = random.pick(ALL_OPCODES);
        if is_special(opcode) || opcode == SETLKW {
            // A lock that waits is completed when the other goes; the rest would end the session.
            opcode = GETATTR;
        }
        let nodeid = random.pick(&[ROOT, node, 0, 2, u64::MAX, 1 << 33]);
        let header = fs.header(opcode, nodeid);
        let len = lane.write(slot, header, &[&random_body(&mut random, &known)]);
        let room = random.pick(&[0, 8, 16, 40, 144, 4096, 65_536]);
        lane.submit(slot, len, room);
        lane.flush();
        in_flight += 1;
    }
    while in_flight > 0 {
        let slot = finish_one(&mut lane, &mut in_flight);
        lane.release(slot);
    }
    drop(lane);
    std::fs::write(daemon.host("file"), "text").expect("write");
    assert_serves(&daemon, &fs);
}

fn finish_one(lane: &mut Lane, in_flight: &mut usize) -> SlotId {
    match lane.wait(std::time::Duration::from_secs(30)) {
        airlockfs_tests::fuse::Wait::Done(done) => {
            *in_flight -= 1;
            done.slot
        }
        other => panic!("{other:?} with {in_flight} requests in flight"),
    }
}

#[test]
fn buffers_in_any_number_of_pieces_are_one_request() {
    let (daemon, fs) = started();
    let body = b"file\0";
    let bytes = request(&fs, LOOKUP, ROOT, (IN_HEADER + body.len()) as u32, body);
    let reply = OUT_HEADER + size_of::<EntryOut>();
    for (request_pieces, reply_pieces) in [(1, 1), (2, 8), (9, 3), (3, 9), (5, 5)] {
        let mut lane = fs.session().lane(1);
        let slot = lane.acquire().expect("a slot");
        lane.write_bytes(slot, 0, &bytes);
        let (from, to) = lane.addresses(slot);
        let mut segments = Vec::new();
        for (total, pieces, base, reply) in [
            (bytes.len(), request_pieces, from, false),
            (reply, reply_pieces, to, true),
        ] {
            for i in 0..pieces {
                let (start, end) = (total * i / pieces, total * (i + 1) / pieces);
                let make = if reply { Segment::reply } else { Segment::request };
                segments.push(make(base + start as u64, end - start));
            }
        }
        lane.submit_segments(slot, &segments);
        lane.flush();
        let mut in_flight = 1;
        finish_one(&mut lane, &mut in_flight);
        assert_eq!(lane.reply_header(slot).error, 0);
        assert_eq!(lane.reply_header(slot).len as usize, reply);
        lane.release(slot);
    }
    assert_serves(&daemon, &fs);
}
