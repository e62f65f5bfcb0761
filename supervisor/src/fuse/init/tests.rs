//! What INIT grants, and how the guest is told.

use std::time::Duration;

use airlockfs_ipc::Errno;
use zerocopy::FromBytes;

use super::{Init, InitOutcome, Options, negotiate};
use crate::fuse::abi::{self, flags};
use crate::fuse::decode::tests::samples::{options, session, session_with};
use crate::fuse::reply::{MAX_HEAD, error, init};
use crate::fuse::{CacheMode, CachePolicy};

fn outcome(major: u32, minor: u32, flags: u64, options: &Options) -> InitOutcome {
    negotiate(
        &Init {
            major,
            minor,
            max_readahead: 1 << 17,
            flags,
        },
        options,
    )
}

fn init_reply(outcome: &InitOutcome) -> Vec<u8> {
    let mut out = [0; MAX_HEAD];
    let length = init(outcome, 2, &mut out);
    out[..length].to_vec()
}

#[test]
fn init_refuses_old_guests_and_tells_new_ones_its_version() {
    for (major, minor) in [(6, 45), (0, 0), (7, 26), (7, 0)] {
        let refused = outcome(major, minor, u64::MAX, &options());
        assert_eq!(refused, InitOutcome::Refused(Errno::EIO));
        assert_eq!(init_reply(&refused), error(2, Errno::EIO));
    }
    let later = outcome(8, 0, u64::MAX, &options());
    assert_eq!(later, InitOutcome::VersionOnly);
    let out = abi::InitOut::read_from_bytes(&init_reply(&later)[16..]).unwrap();
    assert_eq!((out.major, out.minor, out.flags, out.max_write), (7, 45, 0, 0));
    // Minors of the future speak ours.
    assert_eq!(session_with(&options(), 60, u64::MAX).minor, 45);
}

#[test]
fn init_grants_what_both_want() {
    let all = outcome(7, 45, u64::MAX, &options());
    let out = abi::InitOut::read_from_bytes(&init_reply(&all)[16..]).unwrap();
    assert_eq!((out.major, out.minor, out.max_readahead), (7, 45, 1 << 17));
    assert_eq!((out.max_write, out.max_pages, out.time_gran), (1 << 20, 256, 1));
    let granted = u64::from(out.flags2) << 32 | u64::from(out.flags);
    assert_eq!(granted, session().flags);
    assert!(session().has(flags::INIT_EXT | flags::SECURITY_CTX | flags::POSIX_ACL | flags::DONT_MASK));
    assert_eq!(out.max_stack_depth, 0);
    assert_eq!((out.request_timeout, out.map_alignment), (0, 0));

    // A guest that offers nothing gets nothing, and 128 KiB at most.
    let plain = outcome(7, 27, 0, &options());
    let out = abi::InitOut::read_from_bytes(&init_reply(&plain)[16..]).unwrap();
    assert_eq!(
        (out.flags, out.flags2, out.max_write, out.max_pages),
        (0, 0, 1 << 17, 0)
    );
}

#[test]
fn each_option_changes_what_init_grants() {
    let none = Options {
        cache: CachePolicy::new(CacheMode::Auto),
        readdirplus: false,
        writeback: false,
        announce_submounts: false,
        xattr: false,
        posix_acl: false,
        security_label: false,
        posix_lock: false,
        flock: false,
        killpriv_v2: false,
        allow_mmap: false,
        zero_open: false,
        forward_flush: false,
        forward_access: false,
        idmapped_mounts: false,
        file_handles: false,
    };
    let granted = |options: &Options| session_with(options, 45, u64::MAX).flags;
    let base = granted(&none);
    let cache = |mode| CachePolicy::new(mode);
    for (options, added) in [
        (
            Options {
                readdirplus: true,
                ..none
            },
            flags::DO_READDIRPLUS | flags::READDIRPLUS_AUTO,
        ),
        (
            Options {
                writeback: true,
                ..none
            },
            flags::WRITEBACK_CACHE,
        ),
        (
            Options {
                announce_submounts: true,
                ..none
            },
            flags::SUBMOUNTS,
        ),
        (Options { xattr: true, ..none }, flags::SETXATTR_EXT),
        (
            Options {
                xattr: true,
                posix_acl: true,
                ..none
            },
            flags::SETXATTR_EXT | flags::POSIX_ACL,
        ),
        (
            Options {
                posix_acl: true,
                ..none
            },
            0,
        ),
        (
            Options {
                security_label: true,
                ..none
            },
            flags::SECURITY_CTX,
        ),
        (
            Options {
                posix_lock: true,
                ..none
            },
            flags::POSIX_LOCKS,
        ),
        (Options { flock: true, ..none }, flags::FLOCK_LOCKS),
        (
            Options {
                killpriv_v2: true,
                ..none
            },
            flags::HANDLE_KILLPRIV_V2,
        ),
        (
            Options {
                allow_mmap: true,
                ..none
            },
            flags::DIRECT_IO_ALLOW_MMAP,
        ),
        (
            Options {
                zero_open: true,
                ..none
            },
            flags::NO_OPEN_SUPPORT | flags::NO_OPENDIR_SUPPORT,
        ),
        (
            Options {
                idmapped_mounts: true,
                ..none
            },
            flags::ALLOW_IDMAP,
        ),
        // Where nothing is cached, nothing is written back.
        (
            Options {
                writeback: true,
                cache: cache(CacheMode::Never),
                ..none
            },
            0,
        ),
        (
            Options {
                cache: cache(CacheMode::Metadata),
                ..none
            },
            flags::CACHE_SYMLINKS,
        ),
    ] {
        assert_eq!(granted(&options), base | added, "{options:?}");
    }
    let always = Options {
        cache: cache(CacheMode::Always),
        ..none
    };
    assert_eq!(
        granted(&always),
        (base | flags::CACHE_SYMLINKS) & !flags::AUTO_INVAL_DATA
    );
    assert_eq!(
        CachePolicy::new(CacheMode::Always).entry,
        Duration::from_secs(86_400)
    );
}
