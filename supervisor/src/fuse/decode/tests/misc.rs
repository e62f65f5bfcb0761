//! The session, forgetting, ioctls.

use airlockfs_ipc::Errno;
use airlockfs_ipc::message::{FsXattr, Request};
use zerocopy::IntoBytes;

use super::samples::{Sample, options, sample, session_with};
use super::{H, NODE, NOTHING, assert_means, assert_refused, decoded, decoded_in, operation};
use crate::fuse::abi::{self, flags};
use crate::fuse::{Forgets, Operation, Options, ReplyShape};

#[test]
fn file_attribute_calls_and_no_other_ioctl() {
    let with = |cmd, in_size, out_size, data: &[u8]| {
        let body = abi::IoctlIn {
            fh: 9,
            cmd,
            in_size,
            out_size,
            ..Default::default()
        };
        Sample::new(39, &[body.as_bytes(), data])
    };
    let get = |extended| Request::GetFileFlags {
        node: NODE,
        handle: H,
        extended,
    };
    assert_means(
        &with(flags::FS_IOC_GETFLAGS, 0, 4, &[]),
        get(false),
        (ReplyShape::Ioctl, 4),
    );
    assert_means(
        &with(flags::FS_IOC_FSGETXATTR, 0, 28, &[]),
        get(true),
        (ReplyShape::Ioctl, 28),
    );
    let set = Request::SetFileFlags {
        node: NODE,
        handle: H,
        flags: 0x10,
    };
    assert_means(&sample("IOCTL"), set, (ReplyShape::Ioctl, 0));
    let value = FsXattr {
        xflags: 1,
        extsize: 2,
        nextents: 3,
        projid: 4,
        cowextsize: 5,
    };
    let bytes = [1u32, 2, 3, 4, 5, 0, 0];
    let set = Request::SetFsXattr {
        node: NODE,
        handle: H,
        value,
    };
    assert_means(
        &with(flags::FS_IOC_FSSETXATTR, 28, 0, bytes.as_bytes()),
        set,
        (ReplyShape::Ioctl, 0),
    );

    assert_refused(&with(flags::FS_IOC_GETFLAGS, 0, 8, &[]), Errno::EINVAL);
    assert_refused(&with(flags::FS_IOC_SETFLAGS, 4, 4, &[0; 4]), Errno::EINVAL);
    // TCGETS, FS_IOC_MEASURE_VERITY, FICLONE
    for cmd in [0x5401, 0xc004_6686, 0x4004_9409] {
        assert_refused(&with(cmd, 4, 36, &[0; 4]), Errno::ENOTTY);
        assert!(!decoded(&with(cmd, 4, 36, &[0; 4])).unwrap_err().malformed);
    }
}

#[test]
fn forgetting_in_the_layout_of_the_boundary() {
    let forgotten = |sample: &Sample| match operation(sample) {
        Operation::Forget(forgets) => forgets.as_bytes().to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!(forgotten(&sample("FORGET")), [7u64, 2].as_bytes());
    assert_eq!(forgotten(&sample("BATCH_FORGET")), [5u64, 1, 6, 2].as_bytes());
    for count in [0, 1, 3, u32::MAX] {
        let body = abi::BatchForgetIn { count, dummy: 0 };
        let wrong = Sample::new(42, &[body.as_bytes(), &[0; 32]]);
        let refusal = decoded(&wrong).unwrap_err();
        assert_eq!((refusal.answer, refusal.malformed), (None, true));
    }
    assert_eq!(
        operation(&Sample::new(42, &[&[0; 8]])),
        Operation::Forget(Forgets::Many(&[]))
    );
    // More than is copied at once: the records stay where they are.
    let many = |count: u32, records: usize| {
        let body = abi::BatchForgetIn { count, dummy: 0 };
        Sample::new(42, &[body.as_bytes(), &vec![1; 16 * records]])
    };
    for records in [4607_u32, 4608, 100_000] {
        let sample = many(records, records as usize);
        let length = 16 * records as usize;
        match operation(&sample) {
            // The longest that is copied whole.
            Operation::Forget(forgets) if records == 4607 => assert_eq!(forgets.as_bytes().len(), length),
            Operation::ForgetBatch { length: found } if records > 4607 => assert_eq!(found, length),
            other => panic!("{records}: {other:?}"),
        }
        for wrong in [0, records - 1, records + 1, (1 << 24) + 1, u32::MAX] {
            let refusal = many(wrong, records as usize);
            let refusal = decoded(&refusal).unwrap_err();
            assert_eq!((refusal.answer, refusal.malformed), (None, true), "{wrong}");
        }
    }
    assert_eq!(
        operation(&sample("INTERRUPT")),
        Operation::Interrupt { unique: 77 }
    );
    assert_eq!(operation(&sample("DESTROY")), Operation::Destroy);
}

#[test]
fn the_file_system() {
    assert_means(
        &sample("STATFS"),
        Request::StatFs { node: NODE },
        (ReplyShape::StatFs, 0),
    );
    assert_means(&sample("SYNCFS"), Request::SyncFs { node: NODE }, NOTHING);
    let quiet = Options {
        forward_flush: false,
        forward_access: false,
        ..options()
    };
    let session = session_with(&quiet, 45, u64::MAX);
    for name in ["FLUSH", "ACCESS"] {
        let refusal = decoded_in(&sample(name), Some(&session)).unwrap_err();
        assert_eq!(
            (refusal.answer.unwrap().1, refusal.malformed),
            (Errno::ENOSYS, false),
            "{name}"
        );
    }
}

#[test]
fn init_of_old_and_new_guests() {
    let init = |body: &[&[u8]]| match operation(&Sample::new(26, body)) {
        Operation::Init(init) => init,
        other => panic!("{other:?}"),
    };
    let ext = flags::INIT_EXT as u32;
    let old = abi::InitIn {
        major: 7,
        minor: 31,
        max_readahead: 4096,
        flags: 1,
    };
    assert_eq!(init(&[old.as_bytes()]).flags, 1);
    // What an older guest leaves behind the structure means nothing.
    assert_eq!(init(&[old.as_bytes(), &[0xff; 48]]).flags, 1);
    let new = abi::InitIn {
        minor: 45,
        flags: ext,
        ..old
    };
    let more = abi::InitInExt {
        flags2: 5,
        unused: [0; 11],
    };
    assert_eq!(
        init(&[new.as_bytes(), more.as_bytes()]).flags,
        5 << 32 | u64::from(ext)
    );
    assert!(decoded(&Sample::new(26, &[new.as_bytes()])).is_err());
    // Of a later major only the version counts.
    let later = abi::InitIn {
        major: 8,
        minor: 0,
        flags: ext,
        max_readahead: 0,
    };
    assert_eq!(init(&[later.as_bytes(), &[1; 100]]).major, 8);
}
