//! Extended attributes and locks.

use airlockfs_ipc::Errno;
use airlockfs_ipc::message::{FileLock, Request};
use zerocopy::IntoBytes;

use super::samples::{Sample, options, sample, session_with};
use super::{H, NODE, NOTHING, assert_means, assert_refused, decoded, decoded_in, operation, xattr};
use crate::fuse::abi::{self, flags};
use crate::fuse::{Operation, Options, ReplyShape};

#[test]
fn extended_attributes() {
    let request = Request::SetXattr {
        node: NODE,
        name: xattr(b"user.a"),
        size: 5,
        flags: 1,
        acl_kill_sgid: true,
    };
    let expected = Operation::Ask {
        request,
        value: b"v\0lue",
    };
    assert_eq!(operation(&sample("SETXATTR")), expected);
    let read = Request::GetXattr {
        node: NODE,
        name: xattr(b"user.a"),
        size: 256,
    };
    assert_means(&sample("GETXATTR"), read, (ReplyShape::SizeOrBytes, 256));
    assert_means(
        &sample("LISTXATTR"),
        Request::ListXattr { node: NODE, size: 0 },
        (ReplyShape::SizeOrBytes, 0),
    );
    let removed = Request::RemoveXattr {
        node: NODE,
        name: xattr(b"user.a"),
    };
    assert_means(&sample("REMOVEXATTR"), removed, NOTHING);

    // The largest value, one byte more, and a name of 256 bytes.
    let set = |size: usize, flags, name: &[u8]| {
        let body = abi::SetxattrIn {
            size: size as u32,
            flags,
        };
        Sample::new(21, &[body.as_bytes(), &[0; 8], name, b"\0", &vec![1; size]])
    };
    assert!(decoded(&set(65_536, 0, &[b'n'; 255])).is_ok());
    assert_refused(&set(65_537, 0, b"user.a"), Errno::E2BIG);
    assert_refused(&set(1, 4, b"user.a"), Errno::EINVAL);
    for name in [&b""[..], &[b'n'; 256]] {
        assert_refused(&set(1, 0, name), Errno::ERANGE);
    }
    // Without SETXATTR_EXT the structure is shorter.
    let body = abi::SetxattrIn { size: 1, flags: 0 };
    let short = Sample::new(21, &[body.as_bytes(), b"user.a\0", b"v"]);
    let session = session_with(&options(), 32, !flags::SETXATTR_EXT);
    assert!(decoded_in(&short, Some(&session)).is_ok());
    assert!(decoded(&short).is_err());
    // Switched off.
    let session = session_with(
        &Options {
            xattr: false,
            ..options()
        },
        45,
        u64::MAX,
    );
    for name in ["SETXATTR", "GETXATTR", "LISTXATTR", "REMOVEXATTR"] {
        let refusal = decoded_in(&sample(name), Some(&session)).unwrap_err();
        assert_eq!(
            (refusal.answer.unwrap().1, refusal.malformed),
            (Errno::ENOSYS, false),
            "{name}"
        );
    }
}

#[test]
fn locks() {
    let lock = FileLock {
        start: 10,
        end: 19,
        kind: libc::F_WRLCK as u32,
        pid: 42,
    };
    let set = |wait| Request::SetLock {
        handle: H,
        owner: 3,
        lock,
        flock: false,
        wait,
    };
    assert_means(
        &sample("GETLK"),
        Request::GetLock {
            handle: H,
            owner: 3,
            lock,
        },
        (ReplyShape::Lock, 0),
    );
    assert_means(&sample("SETLK"), set(None), NOTHING);
    assert_means(&sample("SETLKW"), set(Some(0x1122_3344)), NOTHING);
    assert!(matches!(operation(&sample("SETLKW")), Operation::WaitForLock(_)));
    let with = |opcode, start, end, kind, lk_flags| {
        let lk = abi::FileLock {
            start,
            end,
            kind,
            pid: 42,
        };
        Sample::new(
            opcode,
            &[abi::LkIn {
                fh: 9,
                owner: 3,
                lk,
                lk_flags,
                padding: 0,
            }
            .as_bytes()],
        )
    };
    let whole = FileLock {
        start: 0,
        end: i64::MAX as u64,
        ..lock
    };
    let flock = Request::SetLock {
        handle: H,
        owner: 3,
        lock: whole,
        flock: true,
        wait: None,
    };
    assert_means(&with(32, 0, i64::MAX as u64, 1, 1), flock, NOTHING);
    assert_refused(&with(31, 0, 1, 1, 1), Errno::EINVAL);
    assert_refused(&with(32, 2, 1, 1, 0), Errno::EINVAL);
    assert_refused(&with(32, 0, 1 << 63, 1, 0), Errno::EINVAL);
    assert_refused(&with(32, 0, 1, 3, 0), Errno::EINVAL);
    let session = session_with(
        &Options {
            posix_lock: false,
            ..options()
        },
        45,
        u64::MAX,
    );
    assert_eq!(
        decoded_in(&sample("SETLK"), Some(&session))
            .unwrap_err()
            .answer
            .unwrap()
            .1,
        Errno::ENOSYS
    );
    assert!(decoded_in(&with(32, 0, 1, 1, 1), Some(&session)).is_ok());
}
