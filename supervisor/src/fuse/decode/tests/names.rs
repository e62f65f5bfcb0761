//! The header, and what names mean.

use airlockfs_ipc::NodeId;
use airlockfs_ipc::message::{FileOperation, Request};

use super::samples::{Sample, sample};
use super::{H, NODE, NOTHING, assert_means, decoded, name, operation};
use crate::fuse::{Operation, ReplyShape};

#[test]
fn the_bytes_of_a_lookup_and_a_write() {
    #[rustfmt::skip]
    let lookup = [
        43, 0, 0, 0,  1, 0, 0, 0,  8, 7, 6, 5, 4, 3, 2, 1,  0, 1, 0, 0, 0, 0, 0, 0,
        232, 3, 0, 0,  100, 0, 0, 0,  1, 0, 0, 0,  0, 0, 0, 0,  b'.', b'x', 0,
    ];
    let lookup = Sample {
        bytes: lookup.to_vec(),
        room: 144,
    };
    let decoded_lookup = decoded(&lookup).unwrap();
    assert_eq!(decoded_lookup.unique, 0x0102_0304_0506_0708);
    let request = Request::Lookup {
        parent: NodeId(256),
        name: name(b".x"),
    };
    assert_means(&lookup, request, (ReplyShape::Lookup, 0));

    #[rustfmt::skip]
    let write = [
        83, 0, 0, 0,  16, 0, 0, 0,  1, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0, 0, 0, 0, 0,
        255, 255, 255, 255,  255, 255, 255, 255,  0, 0, 0, 0,  0, 0, 0, 0,
        9, 0, 0, 0, 0, 0, 0, 0,  0, 16, 0, 0, 1, 0, 0, 0,  3, 0, 0, 0,  4, 0, 0, 0,
        5, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0,  0, 0, 0, 0,  b'a', b'b', b'c',
    ];
    let write = Sample {
        bytes: write.to_vec(),
        room: 24,
    };
    let expected = FileOperation::Write {
        handle: H,
        offset: 0x1_0000_1000,
        size: 3,
        kill_suidgid: true,
    };
    assert_eq!(operation(&write), Operation::File(expected));
    let decoded_write = decoded(&write).unwrap();
    assert_eq!(
        (decoded_write.row.reply, decoded_write.limit),
        (ReplyShape::Written, 3)
    );
}

#[test]
fn names() {
    assert_means(
        &sample("UNLINK"),
        Request::Unlink {
            parent: NODE,
            name: name(b"file"),
        },
        NOTHING,
    );
    assert_means(
        &sample("RMDIR"),
        Request::Rmdir {
            parent: NODE,
            name: name(b"file"),
        },
        NOTHING,
    );
    let renamed = |flags| Request::Rename {
        parent: NODE,
        name: name(b"old"),
        new_parent: NodeId(8),
        new_name: name(b"new"),
        flags,
    };
    assert_means(&sample("RENAME"), renamed(0), NOTHING);
    assert_means(&sample("RENAME2"), renamed(libc::RENAME_EXCHANGE), NOTHING);
    let link = Request::Link {
        node: NodeId(8),
        new_parent: NODE,
        new_name: name(b"new"),
    };
    assert_means(&sample("LINK"), link, (ReplyShape::Entry, 0));
    let target = (ReplyShape::Target, 8192 - 16);
    assert_means(&sample("READLINK"), Request::ReadLink { node: NODE }, target);
}
