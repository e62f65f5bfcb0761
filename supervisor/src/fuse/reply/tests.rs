//! What the guest reads.

use airlockfs_ipc::message::{Attr, Entry, FileLock, FsXattr, Reply, StatFs, Timestamp};
use airlockfs_ipc::{Bytes, Errno, Handle, NodeId};
use zerocopy::FromBytes;

use super::{Encoded, MAX_HEAD, encode, error, header};
use crate::fuse::abi::{self, flags};
use crate::fuse::decode::tests::samples::{options, session, session_with};
use crate::fuse::{CacheMode, CachePolicy, Negotiated, Options, ReplyShape};

const ATTR: Attr = Attr {
    ino: 12,
    size: 1 << 40,
    blocks: 8,
    atime: Timestamp {
        seconds: -1,
        nanoseconds: 1,
    },
    mtime: Timestamp {
        seconds: 1 << 33,
        nanoseconds: 2,
    },
    ctime: Timestamp {
        seconds: 3,
        nanoseconds: 999_999_999,
    },
    btime: Some(Timestamp {
        seconds: 4,
        nanoseconds: 5,
    }),
    mode: libc::S_IFDIR | 0o2755,
    nlink: 2,
    uid: 1000,
    gid: 100,
    rdev: (0x123, 0x45678),
    blksize: 4096,
    attributes: 0x20,
    attributes_mask: 0x2070,
    submount: true,
};
const ENTRY: Entry = Entry {
    node: NodeId(7),
    attr: ATTR,
};

/// A shape, and what bounds it.
#[derive(Debug, Clone, Copy)]
struct Shape(ReplyShape, u64);

impl From<ReplyShape> for Shape {
    fn from(shape: ReplyShape) -> Self {
        Self(shape, 0)
    }
}

/// The encoded bytes; checks what every answer has.
fn bytes_in(session: &Negotiated, shape: impl Into<Shape>, reply: Reply<'_>) -> Vec<u8> {
    let Shape(shape, limit) = shape.into();
    let mut out = [0xaa; MAX_HEAD];
    let Encoded { head, bulk } = encode((shape, limit), &reply, 99, session, &mut out).unwrap();
    let bytes = out[..head].to_vec();
    let (header, _) = abi::OutHeader::read_from_prefix(&bytes).unwrap();
    assert_eq!((header.len as usize, header.unique), (head + bulk, 99));
    bytes
}

fn body<T: FromBytes>(shape: impl Into<Shape>, reply: Reply<'_>) -> T {
    let bytes = bytes_in(&session(), shape, reply);
    T::read_from_bytes(&bytes[16..]).expect("the structure's size")
}

fn fails(shape: impl Into<Shape>, reply: Reply<'_>) -> bool {
    let Shape(shape, limit) = shape.into();
    encode((shape, limit), &reply, 1, &session(), &mut [0; MAX_HEAD]).is_err()
}

#[test]
fn the_sizes_are_the_kernels() {
    let sizes = [
        (size_of::<abi::InHeader>(), 40),
        (size_of::<abi::OutHeader>(), 16),
        (size_of::<abi::InitIn>() + size_of::<abi::InitInExt>(), 64),
        (size_of::<abi::InitOut>(), 64),
        (size_of::<abi::Attr>(), 88),
        (size_of::<abi::EntryOut>(), 128),
        (size_of::<abi::AttrOut>(), 104),
        (size_of::<abi::Statx>(), 256),
        (size_of::<abi::StatxOut>(), 288),
        (size_of::<abi::OpenOut>(), 16),
        (size_of::<abi::StatfsOut>(), 80),
        (size_of::<abi::LkOut>(), 24),
        (size_of::<abi::LkIn>(), 48),
        (size_of::<abi::IoctlIn>(), 32),
        (size_of::<abi::IoctlOut>(), 16),
        (size_of::<abi::Dirent>(), 24),
        (size_of::<abi::SetattrIn>(), 88),
        (size_of::<abi::ReadIn>(), 40),
        (size_of::<abi::WriteIn>(), 40),
        (size_of::<abi::CopyFileRangeIn>(), 56),
        (size_of::<abi::FallocateIn>(), 32),
        (size_of::<abi::LseekIn>(), 24),
        (size_of::<abi::FsXattr>(), 28),
    ];
    for (at, (ours, kernels)) in sizes.into_iter().enumerate() {
        assert_eq!(ours, kernels, "row {at}");
    }
}

#[test]
fn an_entry_byte_by_byte() {
    let bytes = bytes_in(&session(), ReplyShape::Lookup, Reply::Entry(ENTRY));
    #[rustfmt::skip]
    let expected = [
        144, 0, 0, 0,  0, 0, 0, 0,  99, 0, 0, 0, 0, 0, 0, 0,
        7, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 0, 0, 0, 0,  1, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0,  0, 0, 0, 0,
        12, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 1, 0, 0,  8, 0, 0, 0, 0, 0, 0, 0,
        255, 255, 255, 255, 255, 255, 255, 255,  0, 0, 0, 0, 2, 0, 0, 0,  3, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0,  2, 0, 0, 0,  0xff, 0xc9, 0x9a, 0x3b,  0xed, 0x45, 0, 0,  2, 0, 0, 0,
        0xe8, 3, 0, 0,  100, 0, 0, 0,  0x78, 0x23, 0x61, 0x45,  0, 16, 0, 0,  1, 0, 0, 0,
    ];
    assert_eq!(bytes, expected);
}

#[test]
fn a_device_number_is_the_kernels() {
    // mknod(2) of 8:1 and of a minor beyond 8 bits, as new_encode_dev has them.
    for (rdev, expected) in [
        ((8, 1), 0x801),
        ((0, 0), 0),
        ((259, 0x3ff), 0x0031_03ff),
        ((1, 0xf_ffff), 0xfff0_01ff),
    ] {
        let attr = Attr { rdev, ..ATTR };
        let out: abi::AttrOut = body(ReplyShape::Attr, Reply::Attr(attr));
        assert_eq!(out.attr.rdev, expected, "{rdev:?}");
    }
}

#[test]
fn only_a_directory_is_a_submount() {
    let file = Attr {
        mode: libc::S_IFREG,
        ..ATTR
    };
    let out: abi::AttrOut = body(ReplyShape::Attr, Reply::Attr(file));
    assert_eq!(out.attr.flags, 0);
    let out: abi::AttrOut = body(ReplyShape::Attr, Reply::Attr(ATTR));
    assert_eq!(out.attr.flags, 1);
}

#[test]
fn absence_is_cached_only_where_it_is_asked_for() {
    let missing = Reply::Error(Errno::ENOENT);
    let lookup = ReplyShape::Lookup;
    let out: abi::EntryOut = body(lookup, missing);
    assert_eq!(
        (out.nodeid, out.entry_valid, out.entry_valid_nsec),
        (0, 1, 500_000_000)
    );
    // A LINK of what is not there is an error, and so is everything without a negative timeout.
    let enoent = error(99, Errno::ENOENT);
    assert_eq!(bytes_in(&session(), ReplyShape::Entry, missing), enoent);
    let never = Options {
        cache: CachePolicy::new(CacheMode::Never),
        ..options()
    };
    assert_eq!(
        bytes_in(&session_with(&never, 45, u64::MAX), lookup, missing),
        enoent
    );
    assert_eq!(
        bytes_in(&session(), lookup, Reply::Error(Errno::EACCES)),
        error(99, Errno::EACCES)
    );
}

#[test]
fn statx_has_all_there_is() {
    let out: abi::StatxOut = body(ReplyShape::Statx, Reply::Attr(ATTR));
    let stat = out.stat;
    assert_eq!(stat.mask, 0xfff);
    assert_eq!(
        (stat.btime.tv_sec, stat.btime.tv_nsec, stat.atime.tv_sec),
        (4, 5, -1)
    );
    assert_eq!((stat.attributes, stat.attributes_mask), (0x20, 0x2070));
    assert_eq!(
        (stat.mode, stat.nlink, stat.rdev_major, stat.rdev_minor),
        (0o042_755, 2, 0x123, 0x45678)
    );
    assert_eq!(
        (stat.ino, stat.size, stat.blocks, stat.blksize),
        (12, 1 << 40, 8, 4096)
    );
    let unknown = Attr { btime: None, ..ATTR };
    let out: abi::StatxOut = body(ReplyShape::Statx, Reply::Attr(unknown));
    assert_eq!(
        (out.stat.mask, out.stat.btime.tv_sec, out.attr_valid),
        (0x7ff, 0, 1)
    );
}

#[test]
fn open_flags_follow_the_cache_mode() {
    let parallel = flags::FOPEN_PARALLEL_DIRECT_WRITES;
    for (mode, file, directory) in [
        (CacheMode::Never, flags::FOPEN_DIRECT_IO | parallel, 0),
        (CacheMode::Auto, parallel, 0),
        (
            CacheMode::Metadata,
            flags::FOPEN_DIRECT_IO | parallel,
            flags::FOPEN_CACHE_DIR | flags::FOPEN_KEEP_CACHE,
        ),
        (
            CacheMode::Always,
            flags::FOPEN_KEEP_CACHE | parallel,
            flags::FOPEN_CACHE_DIR | flags::FOPEN_KEEP_CACHE,
        ),
    ] {
        let options = Options {
            cache: CachePolicy::new(mode),
            ..options()
        };
        let session = session_with(&options, 45, u64::MAX);
        let opened = Reply::Opened { handle: Handle(5) };
        for (shape, expected) in [
            (ReplyShape::Opened, file),
            (ReplyShape::OpenedDirectory, directory),
        ] {
            let bytes = bytes_in(&session, shape, opened);
            let out = abi::OpenOut::read_from_bytes(&bytes[16..]).unwrap();
            assert_eq!(
                (out.fh, out.open_flags, out.backing_id),
                (5, expected, 0),
                "{mode:?}"
            );
        }
        let created = Reply::Created {
            entry: ENTRY,
            handle: Handle(5),
        };
        let bytes = bytes_in(&session, ReplyShape::Created, created);
        assert_eq!(bytes.len(), 16 + 128 + 16);
        let (_, out) = abi::OpenOut::read_from_suffix(&bytes).unwrap();
        assert_eq!((out.fh, out.open_flags), (5, file));
    }
}

#[test]
fn numbers() {
    let size: abi::GetxattrOut = body(ReplyShape::SizeOrBytes, Reply::Size(77));
    assert_eq!(size.size, 77);
    let written: abi::WriteOut = body(Shape(ReplyShape::Written, 10), Reply::Written { size: 10 });
    assert_eq!(written.size, 10);
    let narrow: abi::WriteOut = body(Shape(ReplyShape::Copied, 0xffff_f000), Reply::Copied(0xffff_f000));
    assert_eq!(narrow.size, 0xffff_f000);
    let wide: abi::CopyFileRangeOut = body(Shape(ReplyShape::CopiedWide, 1 << 40), Reply::Copied(1 << 40));
    assert_eq!(wide.bytes_copied, 1 << 40);
    let offset: abi::LseekOut = body(ReplyShape::Offset, Reply::Offset(1 << 50));
    assert_eq!(offset.offset, 1 << 50);
    let lock = FileLock {
        start: 1,
        end: 2,
        kind: 1,
        pid: 3,
    };
    let out: abi::LkOut = body(ReplyShape::Lock, Reply::Lock(lock));
    assert_eq!((out.lk.start, out.lk.end, out.lk.kind, out.lk.pid), (1, 2, 1, 3));
    let stat = StatFs {
        blocks: 1,
        bfree: 2,
        bavail: 3,
        files: 4,
        ffree: 5,
        bsize: 6,
        namelen: 7,
        frsize: 8,
    };
    let out: abi::StatfsOut = body(ReplyShape::StatFs, Reply::StatFs(stat));
    assert_eq!(
        (out.blocks, out.ffree, out.bsize, out.namelen, out.frsize),
        (1, 5, 6, 7, 8)
    );
    let [_, _, _, _, bits]: [u32; 5] = body(Shape(ReplyShape::Ioctl, 4), Reply::FileFlags(0x10));
    assert_eq!(bits, 0x10);
    let value = FsXattr {
        xflags: 1,
        extsize: 2,
        nextents: 3,
        projid: 4,
        cowextsize: 5,
    };
    let words: [u32; 11] = body(Shape(ReplyShape::Ioctl, 28), Reply::FsXattr(value));
    assert_eq!(words, [0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0]);
    let empty: [u32; 4] = body(ReplyShape::Ioctl, Reply::Done);
    assert_eq!(empty, [0; 4]);
    assert_eq!(
        bytes_in(&session(), ReplyShape::Nothing, Reply::Done),
        header(99, 0)
    );
}

#[test]
fn bulk_data_follows_the_head() {
    let mut out = [0; MAX_HEAD];
    let reply = Reply::Data { size: 4096 };
    let encoded = encode((ReplyShape::Bytes, 4096), &reply, 5, &session(), &mut out).unwrap();
    assert_eq!(encoded, Encoded { head: 16, bulk: 4096 });
    assert_eq!(out[..16], header(5, 4096));
}

#[test]
fn a_links_target_fits_or_is_an_error() {
    let long = [b't'; 4096];
    let shape = Shape(ReplyShape::Target, 4095);
    assert_eq!(
        bytes_in(&session(), shape, Reply::Target(Bytes(b"to")))[16..],
        *b"to"
    );
    assert_eq!(
        bytes_in(&session(), shape, Reply::Target(Bytes(&long[1..]))).len(),
        16 + 4095
    );
    let short = bytes_in(
        &session(),
        Shape(ReplyShape::Target, 1),
        Reply::Target(Bytes(b"to")),
    );
    assert_eq!(short, error(99, Errno::ENAMETOOLONG));
    assert!(fails(shape, Reply::Target(Bytes(&long))));
}

#[test]
fn answers_of_the_wrong_kind_or_size_break_the_boundary() {
    let replies = [
        Reply::Done,
        Reply::Entry(ENTRY),
        Reply::Attr(ATTR),
        Reply::Target(Bytes(b"x")),
        Reply::Opened { handle: Handle(1) },
        Reply::Created {
            entry: ENTRY,
            handle: Handle(1),
        },
        Reply::Data { size: 1 },
        Reply::Written { size: 1 },
        Reply::Donated,
        Reply::NotDonated,
        Reply::Entries { size: 1 },
        Reply::StatFs(StatFs::default()),
        Reply::Size(1),
        Reply::Offset(1),
        Reply::Copied(1),
        Reply::FileFlags(1),
        Reply::FsXattr(FsXattr::default()),
        Reply::Lock(FileLock {
            start: 0,
            end: 0,
            kind: 0,
            pid: 0,
        }),
    ];
    // Each shape with how many of these it takes.
    for (shape, takes) in [
        (Shape::from(ReplyShape::Silent), 0),
        (ReplyShape::Init.into(), 0),
        (ReplyShape::CreatedUnnamed.into(), 1),
        (ReplyShape::Opened.into(), 1),
        (ReplyShape::Lookup.into(), 1),
        (Shape(ReplyShape::Dirents, 9), 0),
        (ReplyShape::Nothing.into(), 1),
        (ReplyShape::Entry.into(), 1),
        (ReplyShape::Created.into(), 1),
        (ReplyShape::OpenedDirectory.into(), 1),
        (ReplyShape::Attr.into(), 1),
        (ReplyShape::Statx.into(), 1),
        (Shape(ReplyShape::Target, 9), 1),
        (Shape(ReplyShape::Bytes, 9), 1),
        (ReplyShape::SizeOrBytes.into(), 1),
        (Shape(ReplyShape::Written, 9), 1),
        (Shape(ReplyShape::Copied, 9), 1),
        (Shape(ReplyShape::CopiedWide, 9), 1),
        (ReplyShape::Offset.into(), 1),
        (ReplyShape::StatFs.into(), 1),
        (ReplyShape::Lock.into(), 1),
        (Shape(ReplyShape::DirentsPlus, 9), 0),
        (Shape(ReplyShape::Ioctl, 4), 1),
        (Shape(ReplyShape::Ioctl, 28), 1),
        (ReplyShape::Ioctl.into(), 1),
    ] {
        assert_eq!(
            replies.iter().filter(|reply| !fails(shape, **reply)).count(),
            takes,
            "{shape:?}"
        );
        assert!(!fails(shape, Reply::Error(Errno::EIO)), "{shape:?}");
    }
    assert!(fails(Shape(ReplyShape::Bytes, 9), Reply::Data { size: 10 }));
    assert!(fails(Shape(ReplyShape::Written, 9), Reply::Written { size: 10 }));
    assert!(fails(Shape(ReplyShape::Copied, 9), Reply::Copied(10)));
    assert!(fails(Shape(ReplyShape::CopiedWide, 9), Reply::Copied(u64::MAX)));
    let nowhere = Entry {
        node: NodeId(0),
        ..ENTRY
    };
    assert!(fails(ReplyShape::Lookup, Reply::Entry(nowhere)));
}

#[test]
fn errors_are_negated_and_never_the_kernels_own() {
    assert_eq!(
        error(3, Errno::ENOSYS),
        [16, 0, 0, 0, 0xda, 255, 255, 255, 3, 0, 0, 0, 0, 0, 0, 0]
    );
    // ERESTARTSYS is 512.
    assert_eq!(error(3, Errno::raw(512)), error(3, Errno::EIO));
}
