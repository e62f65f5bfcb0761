//! Requests no Linux guest sends: each is refused, none panics, and what is let through keeps the promises that
//! everything behind the decoder builds on.

use airlockfs_ipc::message::{Caller, Creation, FileOperation, Request, SetTime};
use airlockfs_ipc::ring::MESSAGE_MAX;
use airlockfs_ipc::{Errno, Name};

use super::samples::{Sample, sample, samples, session, session_with};
use super::{NODE, assert_means, control_len, decode, decoded, decoded_in};
use crate::fuse::abi::InHeader;
use crate::fuse::decode::request::{Decoded, MAX_CONTROL};
use crate::fuse::opcode::{self, TABLE};
use crate::fuse::{Chain, Forgets, IN_HEADER_LEN, Negotiated, Operation, ReplyShape};

/// What a fuzzer would call: decodes anything, and checks what comes through against the decoder's promises.
fn exercise(bytes: &[u8], writable: usize, session: Option<&Negotiated>) -> bool {
    let control = match bytes.first_chunk::<IN_HEADER_LEN>() {
        Some(header) => control_len(header, bytes.len()),
        None => bytes.len(),
    };
    let chain = Chain {
        readable: bytes.len(),
        writable,
    };
    match decode(&bytes[..control], chain, session) {
        Ok(decoded) => {
            promises(&decoded, chain, session);
            true
        }
        Err(refusal) => {
            assert!(refusal.answer.is_none() || writable >= 16);
            assert!(
                refusal
                    .answer
                    .is_none_or(|(_, errno)| (1..=511).contains(&errno.number()))
            );
            false
        }
    }
}

fn promises(decoded: &Decoded<'_>, chain: Chain, session: Option<&Negotiated>) {
    const MAX: u64 = i64::MAX as u64;
    assert!(session.is_some() || matches!(decoded.operation, Operation::Init(_)));
    let answer = decoded.row.reply.least(decoded.limit);
    assert!(answer == 0 || answer + 16 <= chain.writable);
    match decoded.operation {
        Operation::File(operation) => match operation {
            FileOperation::Read { offset, size, .. } => {
                assert!(offset + u64::from(size) <= MAX && size as usize + 16 <= chain.writable);
            }
            FileOperation::Write { offset, size, .. } => {
                assert!(offset + u64::from(size) <= MAX && size <= session.unwrap().max_write);
                assert_eq!(size as usize + 80, chain.readable);
            }
            FileOperation::Lseek { offset, .. } => assert!(offset <= MAX),
            FileOperation::Fallocate { offset, length, .. } => assert!(length > 0 && offset + length <= MAX),
            FileOperation::GetAttr { node, .. } => assert_ne!(node.0, 0),
            FileOperation::Fsync { .. } => {}
        },
        Operation::Forget(Forgets::Many(records)) => assert_eq!(records.len() % 16, 0),
        Operation::Ask { request, .. }
        | Operation::Release { request, .. }
        | Operation::WaitForLock(request) => {
            let value = match decoded.operation {
                Operation::Ask { value, .. } => value,
                _ => &[],
            };
            control(&request, chain, value);
            // What the worker gets, it can decode.
            let bytes = postcard::to_allocvec(&request).unwrap();
            assert_eq!(postcard::from_bytes::<Request<'_>>(&bytes).unwrap(), request);
            assert!(bytes.len() <= MESSAGE_MAX);
        }
        _ => {}
    }
}

fn control(request: &Request<'_>, chain: Chain, bulk: &[u8]) {
    match *request {
        Request::SetAttr { change, .. } => {
            assert!(change.mode.is_none_or(|mode| mode <= 0o7777));
            assert!(change.uid != Some(u32::MAX) && change.gid != Some(u32::MAX));
            assert!(change.size.is_none_or(|size| size <= i64::MAX as u64));
            for time in [change.atime, change.mtime].into_iter().flatten() {
                assert!(!matches!(time, SetTime::To(time) if time.nanoseconds > 999_999_999));
            }
        }
        Request::Symlink { target, creation, .. } => {
            assert!((1..=4095).contains(&target.0.len()) && !target.0.contains(&0));
            made(&creation, &[libc::S_IFLNK]);
        }
        Request::Mkdir { creation, .. } => made(&creation, &[libc::S_IFDIR]),
        Request::Create { creation, .. } | Request::TmpFile { creation, .. } => {
            made(&creation, &[libc::S_IFREG]);
        }
        Request::Mknod { creation, .. } => {
            let kinds = [
                libc::S_IFREG,
                libc::S_IFIFO,
                libc::S_IFSOCK,
                libc::S_IFCHR,
                libc::S_IFBLK,
            ];
            made(&creation, &kinds);
        }
        Request::Access { caller, .. } => asked(&caller),
        Request::SetXattr { size, .. } => assert_eq!(size as usize, bulk.len()),
        Request::GetXattr { size, .. } | Request::ListXattr { size, .. } | Request::ReadDir { size, .. } => {
            assert!(size as usize + 16 <= chain.writable && size <= 1 << 20);
        }
        Request::CopyFileRange {
            source_offset,
            target_offset,
            length,
            ..
        } => {
            assert!(source_offset.max(target_offset) + length <= i64::MAX as u64);
        }
        Request::GetLock { lock, .. } | Request::SetLock { lock, .. } => {
            assert!(lock.start <= lock.end && lock.end <= i64::MAX as u64 && lock.kind <= 2);
        }
        _ => {}
    }
}

fn made(creation: &Creation<'_>, kinds: &[u32]) {
    assert!(kinds.contains(&(creation.mode & libc::S_IFMT)) && creation.mode & !0o177_777 == 0);
    assert!(creation.umask <= 0o777);
    assert!(
        creation
            .security
            .is_none_or(|(name, _)| name.as_bytes().starts_with(b"security."))
    );
    asked(&creation.caller);
}

fn asked(caller: &Caller) {
    assert!(caller.uid != u32::MAX && caller.gid != u32::MAX && caller.group != Some(u32::MAX));
}

#[test]
fn every_operation_that_is_served_decodes() {
    for (name, sample) in samples() {
        let decoded = decoded(&sample).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        assert_eq!((decoded.row.name, decoded.unique), (name, 0x1122_3344));
    }
}

#[test]
fn a_request_cut_short_anywhere_is_refused() {
    for (name, whole) in samples() {
        for length in 0..whole.bytes.len() {
            let cut = Sample {
                bytes: whole.bytes[..length].to_vec(),
                ..whole
            };
            // As the chain ends too early, and as the header agrees with it.
            for sample in [cut.clone(), cut.resized()] {
                let session = session();
                let session = if name == "INIT" { None } else { Some(&session) };
                let Err(refusal) = decoded_in(&sample, session) else {
                    panic!("{name} of {length} bytes")
                };
                assert!(refusal.malformed, "{name} of {length} bytes: {refusal:?}");
                let answered = length >= 40 && opcode::row(whole.opcode()).unwrap().is_answered();
                assert_eq!(refusal.answer.is_some(), answered, "{name} of {length} bytes");
            }
        }
    }
}

#[test]
fn a_request_with_a_tail_is_refused() {
    for (name, whole) in samples() {
        for tail in [&b"\0"[..], b"tail\0", &[0; 80]] {
            let sample = Sample {
                bytes: [&whole.bytes, tail].concat(),
                ..whole
            }
            .resized();
            // INIT grows with the protocol, and the Windows driver's READLINK has a tail.
            let may = matches!(name, "INIT" | "READLINK");
            assert_eq!(decoded(&sample).is_ok(), may, "{name}");
        }
    }
}

#[test]
fn a_length_that_is_not_the_chains_is_refused() {
    for (name, whole) in samples() {
        for wrong in [
            0,
            39,
            40,
            whole.bytes.len() as u32 - 1,
            whole.bytes.len() as u32 + 1,
            u32::MAX,
        ] {
            let mut sample = whole.clone();
            sample.header(|header| header.len = wrong);
            let right = wrong as usize == whole.bytes.len();
            assert_eq!(decoded(&sample).is_ok(), right, "{name} with {wrong}");
        }
    }
}

#[test]
fn no_changed_byte_breaks_the_decoder() {
    let everything = session();
    let plain = session_with(&super::samples::options(), 27, 0);
    for (_, whole) in samples() {
        for at in 0..whole.bytes.len() {
            for change in [0x01, 0x02, 0x10, 0x2f, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.bytes.clone();
                bytes[at] ^= change;
                for session in [None, Some(&everything), Some(&plain)] {
                    exercise(&bytes, whole.room, session);
                }
            }
        }
    }
}

#[test]
fn no_random_body_breaks_the_decoder() {
    let everything = session();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut through = 0;
    for round in 0..4000u32 {
        for row in TABLE {
            let mut bytes = sample_or_header(row.number);
            // Values at the edges of every field, at random places; now and then another length.
            for _ in 0..(next() % 4) {
                let at = (40 + next() as usize % bytes.len().max(1)).min(bytes.len().saturating_sub(8));
                let value =
                    [0, 1, u64::MAX, i64::MAX as u64, 1 << 63, next(), next() >> 40][next() as usize % 7];
                bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
            }
            if round % 8 == 0 {
                bytes.resize(40 + next() as usize % 200, next() as u8);
            }
            let sample = Sample { bytes, room: 0 }.resized();
            through += u32::from(exercise(&sample.bytes, next() as usize % 9000, Some(&everything)));
        }
    }
    assert!(
        through > 10_000,
        "only {through} came through: nothing was tested"
    );
}

fn sample_or_header(number: u32) -> Vec<u8> {
    match opcode::row(number).map(|row| row.name) {
        Some("BMAP" | "POLL" | "NOTIFY_REPLY" | "SETUPMAPPING" | "REMOVEMAPPING" | "CUSE_INIT") | None => {
            Sample::new(number, &[&[0; 16]]).bytes
        }
        Some(name) => sample(name).bytes,
    }
}

#[test]
fn no_operation_takes_a_name_that_is_not_one_component() {
    let bad: [(&[u8], Errno); 9] = [
        (b"", Errno::EINVAL),
        (b".", Errno::EINVAL),
        (b"..", Errno::EINVAL),
        (b"/", Errno::EINVAL),
        (b"/etc/passwd", Errno::EINVAL),
        (b"../x", Errno::EINVAL),
        (b"a/b", Errno::EINVAL),
        (b"a/", Errno::EINVAL),
        (&[b'x'; 256], Errno::ENAMETOOLONG),
    ];
    let named = [
        ("LOOKUP", &b"file\0"[..]),
        ("UNLINK", b"file\0"),
        ("RMDIR", b"file\0"),
        ("SYMLINK", b"link\0"),
        ("MKNOD", b"fifo\0"),
        ("MKDIR", b"dir\0"),
        ("RENAME", b"old\0"),
        ("RENAME", b"new\0"),
        ("RENAME2", b"old\0"),
        ("RENAME2", b"new\0"),
        ("LINK", b"new\0"),
        ("CREATE", b"file\0"),
    ];
    for (operation, good) in named {
        let whole = sample(operation);
        let at = whole
            .bytes
            .windows(good.len())
            .position(|window| window == good)
            .unwrap();
        for (name, errno) in bad {
            assert_eq!(Name::new(name), Err(errno));
            let mut bytes = whole.bytes.clone();
            bytes.splice(at..at + good.len() - 1, name.iter().copied());
            let sample = Sample { bytes, ..whole }.resized();
            if operation == "LOOKUP" && matches!(name, b"." | b"..") {
                // No name goes on: it is about what the tables know.
                let request = Request::LookupKnown {
                    node: NODE,
                    above: name == b"..",
                };
                assert_means(&sample, request, (ReplyShape::Lookup, 0));
                continue;
            }
            let refusal = decoded(&sample).unwrap_err();
            assert_eq!(refusal.answer, Some((0x1122_3344, errno)), "{operation} {name:?}");
            assert_eq!(refusal.malformed, errno != Errno::ENAMETOOLONG);
        }
        // The longest name, of bytes that are no text.
        let mut bytes = whole.bytes.clone();
        bytes.splice(at..at + good.len() - 1, [0xff; 255]);
        assert!(
            decoded(&Sample { bytes, ..whole }.resized()).is_ok(),
            "{operation}"
        );
    }
}

#[test]
fn nothing_is_created_for_nobody() {
    for name in ["CREATE", "TMPFILE", "MKNOD", "MKDIR", "SYMLINK", "ACCESS"] {
        for change in [
            |header: &mut InHeader| header.uid = u32::MAX,
            |header: &mut InHeader| header.gid = u32::MAX,
        ] {
            let mut sample = sample(name);
            sample.header(change);
            assert_eq!(
                decoded(&sample).unwrap_err().answer.unwrap().1,
                Errno::EINVAL,
                "{name}"
            );
        }
    }
    // Others come from idmapped mounts without one.
    let mut sample = sample("LOOKUP");
    sample.header(|header| (header.uid, header.gid) = (u32::MAX, u32::MAX));
    assert!(decoded(&sample).is_ok());
}

#[test]
fn an_operation_whose_answer_has_no_room_is_not_done() {
    for (name, whole) in samples() {
        let decoded_whole = decoded(&whole).unwrap();
        let needed = decoded_whole.row.reply.least(decoded_whole.limit) + 16;
        let silent = !opcode::row(whole.opcode()).unwrap().is_answered();
        // READ and its kin need room for what they ask.
        let asks = ["READ", "READDIR", "READDIRPLUS", "GETXATTR"].contains(&name);
        for room in 0..=needed {
            let sample = Sample {
                room,
                ..whole.clone()
            };
            let result = decoded(&sample);
            assert_eq!(
                result.is_ok(),
                silent || (room == needed && !asks),
                "{name} with room {room}"
            );
            if let Err(refusal) = result {
                assert_eq!(refusal.answer.is_some(), room >= 16, "{name} with room {room}");
            }
        }
    }
}

#[test]
fn control_data_is_bounded_and_a_writes_data_stays_outside() {
    let header = |name: &str| *sample(name).bytes.first_chunk::<40>().unwrap();
    assert_eq!(control_len(&header("WRITE"), 80 + (1 << 20)), 80);
    assert_eq!(control_len(&header("WRITE"), 50), 50);
    assert_eq!(control_len(&header("SETXATTR"), 70_000), 70_000);
    assert_eq!(control_len(&header("LOOKUP"), usize::MAX), MAX_CONTROL);
    let large = Sample::new(1, &[&[b'x'; MAX_CONTROL]]);
    assert_eq!(decoded(&large).unwrap_err().answer.unwrap().1, Errno::E2BIG);
}

#[test]
fn outside_a_session_there_is_only_init() {
    for (name, sample) in samples() {
        // INIT decodes in a session too: a guest that rebooted sends it, and the session knows.
        if name == "INIT" {
            assert!(decoded_in(&sample, None).is_ok() && decoded_in(&sample, Some(&session())).is_ok());
            continue;
        }
        let refusal = decoded_in(&sample, None).unwrap_err();
        let silent = ["FORGET", "BATCH_FORGET", "INTERRUPT"].contains(&name);
        let expected = if silent {
            None
        } else {
            Some((0x1122_3344, Errno::EIO))
        };
        assert_eq!(refusal.answer, expected, "{name}");
    }
}

#[test]
fn what_is_not_served_is_enosys() {
    for opcode in [0, 7, 19, 37, 40, 48, 49, 54, 4096, 1 << 20, 26 << 24, u32::MAX] {
        let refusal = decoded(&Sample::new(opcode, &[&[0; 40]])).unwrap_err();
        assert_eq!(refusal.answer, Some((0x1122_3344, Errno::ENOSYS)), "{opcode}");
        assert!(!refusal.malformed);
    }
    assert_eq!(decoded(&Sample::new(41, &[])).unwrap_err().answer, None);
}
