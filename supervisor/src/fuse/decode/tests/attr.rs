//! Attributes, times, ids and sizes.

use airlockfs_ipc::Errno;
use airlockfs_ipc::message::{AttrChange, Caller, FileOperation, Request, SetTime, Timestamp};
use zerocopy::IntoBytes;

use super::samples::{Sample, sample};
use super::{CALLER, H, NODE, NOTHING, assert_means, assert_refused, decoded, operation};
use crate::fuse::abi::{self, flags};
use crate::fuse::{Operation, ReplyShape};

#[test]
fn attributes() {
    let io = FileOperation::GetAttr {
        node: NODE,
        handle: H,
    };
    assert_eq!(operation(&sample("GETATTR")), Operation::File(io));
    assert_means(
        &sample("STATX"),
        Request::GetAttr { node: NODE },
        (ReplyShape::Statx, 0),
    );
    let access = Request::Access {
        node: NODE,
        mask: 5,
        caller: Caller {
            group: None,
            ..CALLER
        },
    };
    assert_means(&sample("ACCESS"), access, NOTHING);
    let change = AttrChange {
        mode: Some(0o640),
        size: Some(5),
        mtime: Some(SetTime::To(Timestamp {
            seconds: 1,
            nanoseconds: 0,
        })),
        ..Default::default()
    };
    assert_means(
        &sample("SETATTR"),
        Request::SetAttr {
            node: NODE,
            handle: None,
            change,
        },
        (ReplyShape::Attr, 0),
    );
}

#[test]
fn times_ids_and_sizes_of_setattr() {
    let with = |body: abi::SetattrIn| Sample::new(4, &[body.as_bytes()]);
    let (atime, now) = (flags::FATTR_ATIME, flags::FATTR_ATIME_NOW);
    let past = abi::SetattrIn {
        valid: atime
            | flags::FATTR_MTIME
            | flags::FATTR_MTIME_NOW
            | flags::FATTR_FH
            | flags::FATTR_KILL_SUIDGID,
        fh: 9,
        atime: (-62_135_596_800i64) as u64,
        atimensec: 999_999_999,
        mtimensec: u32::MAX,
        ..Default::default()
    };
    let change = AttrChange {
        atime: Some(SetTime::To(Timestamp {
            seconds: -62_135_596_800,
            nanoseconds: 999_999_999,
        })),
        mtime: Some(SetTime::Now),
        kill_suidgid: true,
        ..Default::default()
    };
    assert_means(
        &with(past),
        Request::SetAttr {
            node: NODE,
            handle: Some(H),
            change,
        },
        (ReplyShape::Attr, 0),
    );
    // A clock's flag without its time changes nothing.
    let nothing = Request::SetAttr {
        node: NODE,
        handle: None,
        change: AttrChange::default(),
    };
    assert_means(
        &with(abi::SetattrIn {
            valid: now,
            ..Default::default()
        }),
        nothing,
        (ReplyShape::Attr, 0),
    );

    let second = abi::SetattrIn {
        valid: atime,
        atimensec: 1_000_000_000,
        ..Default::default()
    };
    assert_refused(&with(second), Errno::EINVAL);
    for (bit, field) in [(flags::FATTR_UID, 0), (flags::FATTR_GID, 1)] {
        let (uid, gid) = if field == 0 { (u32::MAX, 0) } else { (0, u32::MAX) };
        assert_refused(
            &with(abi::SetattrIn {
                valid: bit,
                uid,
                gid,
                ..Default::default()
            }),
            Errno::EINVAL,
        );
        let owner = abi::SetattrIn {
            valid: bit,
            uid: u32::MAX - 1,
            gid: u32::MAX - 1,
            ..Default::default()
        };
        assert!(decoded(&with(owner)).is_ok());
    }
    let size = |size| {
        with(abi::SetattrIn {
            valid: flags::FATTR_SIZE,
            size,
            ..Default::default()
        })
    };
    assert_refused(&size(1 << 63), Errno::EFBIG);
    assert!(decoded(&size((1 << 63) - 1)).is_ok());
}
