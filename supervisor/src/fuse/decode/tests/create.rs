//! Creation and its extensions.

use airlockfs_ipc::message::{Caller, Creation, Request};
use airlockfs_ipc::ring::MESSAGE_MAX;
use airlockfs_ipc::{Bytes, Errno};
use zerocopy::IntoBytes;

use super::samples::{Sample, extensions, options, sample, session_with};
use super::{CALLER, NODE, assert_means, assert_refused, decoded_in, name, operation, xattr};
use crate::fuse::abi::{self, flags};
use crate::fuse::{Operation, ReplyShape};

fn creation(mode: u32, umask: u32) -> Creation<'static> {
    let label = (xattr(b"security.selinux"), Bytes(b"system_u:object_r:tmp_t:s0\0"));
    Creation {
        caller: CALLER,
        mode,
        umask,
        security: Some(label),
    }
}

#[test]
fn creation_carries_caller_umask_context_and_group() {
    let entry = (ReplyShape::Entry, 0);
    let file = Request::Create {
        parent: NODE,
        name: name(b"file"),
        flags: (libc::O_RDWR | libc::O_EXCL) as u32,
        kill_suidgid: true,
        creation: creation(libc::S_IFREG | 0o666, 0o27),
    };
    assert_means(&sample("CREATE"), file, (ReplyShape::Created, 0));
    let unnamed = Request::TmpFile {
        parent: NODE,
        flags: libc::O_RDWR as u32,
        creation: creation(libc::S_IFREG | 0o600, 0),
    };
    assert_means(&sample("TMPFILE"), unnamed, (ReplyShape::CreatedUnnamed, 0));
    let fifo = Request::Mknod {
        parent: NODE,
        name: name(b"fifo"),
        rdev: 0,
        creation: creation(libc::S_IFIFO | 0o666, 0o22),
    };
    assert_means(&sample("MKNOD"), fifo, entry);
    let directory = Request::Mkdir {
        parent: NODE,
        name: name(b"dir"),
        creation: creation(libc::S_IFDIR | 0o1777, 0o22),
    };
    assert_means(&sample("MKDIR"), directory, entry);
    let link = Request::Symlink {
        parent: NODE,
        name: name(b"link"),
        target: Bytes(b"/a/../target"),
        creation: creation(libc::S_IFLNK | 0o777, 0),
    };
    assert_means(&sample("SYMLINK"), link, entry);
}

#[test]
fn extensions_count_only_where_they_were_agreed_on() {
    let mkdir = |extension: &[u8]| {
        Sample::new(
            9,
            &[
                abi::MkdirIn {
                    mode: 0o755,
                    umask: 0,
                }
                .as_bytes(),
                b"dir\0",
            ],
        )
        .extended(extension)
    };
    let both = extensions();
    let context_len = both.len() - 16;
    let (context, group) = both.split_at(context_len);
    let plain = Creation {
        caller: CALLER,
        security: None,
        ..creation(libc::S_IFDIR | 0o755, 0)
    };
    let made = |creation| Request::Mkdir {
        parent: NODE,
        name: name(b"dir"),
        creation,
    };
    let entry = (ReplyShape::Entry, 0);
    assert_means(&mkdir(group), made(plain), entry);
    let alone = Creation {
        caller: Caller {
            group: None,
            ..CALLER
        },
        ..plain
    };
    assert_means(&mkdir(&[]), made(alone), entry);
    // A header that says there is no context.
    assert_means(
        &mkdir(abi::ExtHeader { size: 8, kind: 0 }.as_bytes()),
        made(alone),
        entry,
    );

    // Twice, unknown, outside its bounds, two groups, a group that is none.
    for bad in [[context, context].concat(), [group, group].concat()] {
        assert_refused(&mkdir(&bad), Errno::EINVAL);
    }
    for (at, value) in [
        (0, 0u32),
        (0, 7),
        (0, 17),
        (0, 24),
        (0, u32::MAX),
        (4, 33),
        (8, 2),
        (12, u32::MAX),
    ] {
        let mut bad = group.to_vec();
        bad[at..at + 4].copy_from_slice(value.as_bytes());
        assert_refused(&mkdir(&bad), Errno::EINVAL);
    }
    // More than one context; a context elsewhere than in security.*; one that is longer than it is.
    let mut two = context.to_vec();
    two[4] = 2;
    assert_refused(&mkdir(&two), Errno::ENOTSUP);
    let mut other = context.to_vec();
    other[16..24].copy_from_slice(b"trusted.");
    assert_refused(&mkdir(&other), Errno::EINVAL);
    for size in [100, 3073, u32::MAX] {
        let mut long = context.to_vec();
        long[8..12].copy_from_slice(size.as_bytes());
        assert_refused(&mkdir(&long), Errno::EINVAL);
    }
    // The header's count of them is another.
    let mut sample = mkdir(&both);
    sample.header(|header| header.total_extlen -= 1);
    assert_refused(&sample, Errno::EINVAL);

    // Not agreed on: refused. Before 7.38 the header does not count them.
    for (minor, offered, ok) in [
        (45, !flags::SECURITY_CTX, false),
        (45, !flags::CREATE_SUPP_GROUP, false),
        (36, !flags::CREATE_SUPP_GROUP, false),
        (37, u64::MAX, true),
    ] {
        let mut sample = mkdir(&both);
        if minor < 38 {
            sample.header(|header| header.total_extlen = 0);
        }
        let session = session_with(&options(), minor, offered);
        assert_eq!(
            decoded_in(&sample, Some(&session)).is_ok(),
            ok,
            "{minor} {offered:x}"
        );
    }
}

#[test]
fn the_largest_creation_fits_a_message() {
    let context = [b'c'; 3072];
    let name = [&b"security."[..], &[b'x'; 246], b"\0"].concat();
    let size = 8 + 8 + name.len() + context.len();
    let mut extension = abi::ExtHeader {
        size: size as u32,
        kind: 1,
    }
    .as_bytes()
    .to_vec();
    extension.extend_from_slice(
        abi::Secctx {
            size: 3072,
            padding: 0,
        }
        .as_bytes(),
    );
    extension.extend_from_slice(&name);
    extension.extend_from_slice(&context);
    let target = [&[b't'; 4095][..], b"\0"].concat();
    let link = Sample::new(6, &[&[b'n'; 255], b"\0", &target]).extended(&extension);
    let Operation::Ask { request, .. } = operation(&link) else {
        panic!("not for the worker")
    };
    let length = postcard::to_allocvec(&request).unwrap().len();
    assert!((7600..=MESSAGE_MAX).contains(&length), "{length}");
    // A longer target is the guest's error.
    let target = [&[b't'; 4096][..], b"\0"].concat();
    assert_refused(&Sample::new(6, &[b"n\0", &target]), Errno::ENAMETOOLONG);
}
