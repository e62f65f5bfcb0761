//! Attributes and entries as the guest reads them.

use airlockfs_ipc::message::{Attr, Entry, Timestamp};
use airlockfs_ipc::{NodeId, ProtocolError};

use crate::fuse::abi::{self, flags};
use crate::fuse::cache::CachePolicy;

/// `fuse_entry_out`. Node ids are never used again in a session, so the generation tells sessions apart (with `--file-handles`). Linux itself makes
/// the inodes of its root and of the roots of submounts, with generation 0, and gives one up that is said to have another.
pub(in crate::fuse) fn entry_out(entry: &Entry, cache: &CachePolicy) -> Result<abi::EntryOut, ProtocolError> {
    if entry.node.0 == 0 {
        return Err(ProtocolError("an entry without a node"));
    }
    let valid = cache.attr_of(entry.attr.mode);
    Ok(abi::EntryOut {
        nodeid: entry.node.0,
        generation: match entry.node == NodeId::ROOT || entry.attr.submount {
            true => 0,
            false => cache.generation.into(),
        },
        entry_valid: cache.entry.as_secs(),
        attr_valid: valid.as_secs(),
        entry_valid_nsec: cache.entry.subsec_nanos(),
        attr_valid_nsec: valid.subsec_nanos(),
        attr: attr(&entry.attr),
    })
}

/// The absence of a name, for the guest to cache.
pub(super) fn negative_entry(cache: &CachePolicy) -> abi::EntryOut {
    abi::EntryOut {
        entry_valid: cache.negative.as_secs(),
        entry_valid_nsec: cache.negative.subsec_nanos(),
        ..Default::default()
    }
}

/// `fuse_attr_out`.
pub(super) fn attr_out(found: &Attr, cache: &CachePolicy) -> abi::AttrOut {
    let valid = cache.attr_of(found.mode);
    abi::AttrOut {
        attr_valid: valid.as_secs(),
        attr_valid_nsec: valid.subsec_nanos(),
        dummy: 0,
        attr: attr(found),
    }
}

/// `fuse_statx_out`: everything known, whatever was asked; the birth time only where there is one.
pub(super) fn statx_out(found: &Attr, cache: &CachePolicy) -> abi::StatxOut {
    let birth = if found.btime.is_some() {
        libc::STATX_BTIME
    } else {
        0
    };
    let valid = cache.attr_of(found.mode);
    abi::StatxOut {
        attr_valid: valid.as_secs(),
        attr_valid_nsec: valid.subsec_nanos(),
        stat: abi::Statx {
            mask: libc::STATX_BASIC_STATS | birth,
            blksize: found.blksize,
            attributes: found.attributes,
            nlink: found.nlink,
            uid: found.uid,
            gid: found.gid,
            // File type and permissions have 16 bits (inode(7)).
            mode: found.mode as u16,
            ino: found.ino,
            size: found.size,
            blocks: found.blocks,
            attributes_mask: found.attributes_mask,
            atime: time(found.atime),
            btime: time(found.btime.unwrap_or_default()),
            ctime: time(found.ctime),
            mtime: time(found.mtime),
            rdev_major: found.rdev.0,
            rdev_minor: found.rdev.1,
            ..Default::default()
        },
        ..Default::default()
    }
}

/// `fuse_attr`. Seconds before 1970 are the same bits, which the guest reads as signed. There is no DAX window, so
/// FUSE_ATTR_DAX is never set; a submount is announced only as the directory it must be.
fn attr(found: &Attr) -> abi::Attr {
    let directory = found.mode & libc::S_IFMT == libc::S_IFDIR;
    abi::Attr {
        ino: found.ino,
        size: found.size,
        blocks: found.blocks,
        atime: found.atime.seconds.cast_unsigned(),
        mtime: found.mtime.seconds.cast_unsigned(),
        ctime: found.ctime.seconds.cast_unsigned(),
        atimensec: found.atime.nanoseconds,
        mtimensec: found.mtime.nanoseconds,
        ctimensec: found.ctime.nanoseconds,
        mode: found.mode,
        nlink: found.nlink,
        uid: found.uid,
        gid: found.gid,
        rdev: device(found.rdev),
        blksize: found.blksize,
        flags: if found.submount && directory {
            flags::ATTR_SUBMOUNT
        } else {
            0
        },
    }
}

/// A device number as the kernel's `new_encode_dev`: 12 bits major, 20 bits minor. MKNOD's `rdev` is the same.
const fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

const fn time(time: Timestamp) -> abi::SxTime {
    abi::SxTime {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds,
        reserved: 0,
    }
}
