//! Values at the edges of what a field can hold.

use airlockfs_ipc::{
    Bytes,
    message::{AttrChange, Caller, Creation, FileLock, SetTime, Timestamp, XattrName},
    ring::BULK_SIZE,
};

use crate::client::{ROOT, creation, name_of};

pub(super) const LONG: [u64; 10] = [
    0,
    1,
    4095,
    4096,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    1 << 63,
    (1 << 63) + 1,
    u64::MAX - 1,
    u64::MAX,
];

/// Edges, and every bit alone.
pub(super) fn short() -> impl Iterator<Item = u32> {
    let edges = [0, 3, i32::MAX as u32, u32::MAX - 1, u32::MAX];
    edges.into_iter().chain((0..32).map(|bit| 1 << bit))
}

/// Sizes that the bulk buffer has room for: more is a breach ([`super`]).
pub(super) const SIZES: [u32; 6] = [0, 1, 4096, 65_536, BULK_SIZE as u32 - 1, BULK_SIZE as u32];

pub(super) const LONGEST: &str = concat!(
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
);
pub(super) const NAMES: [&str; 9] = [
    "file",
    "dir",
    "link",
    "fifo",
    "none",
    "...",
    "\u{1}\u{7f}\\\"'",
    "~",
    LONGEST,
];

pub(super) fn names() -> impl Iterator<Item = airlockfs_ipc::Name<'static>> + Clone {
    NAMES.iter().map(|name| name_of(name))
}

pub(super) fn attribute_names() -> impl Iterator<Item = XattrName<'static>> + Clone {
    static LONGEST_NAME: [u8; 255] = [b'.'; 255];
    let texts: [&[u8]; 9] = [
        b"user.a",
        b"user.",
        b"trusted.a",
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
        b"../../etc/passwd",
        b"/",
        &LONGEST_NAME,
    ];
    texts.into_iter().map(|text| XattrName::new(text).unwrap())
}

/// Creations: callers, modes, masks, labels.
pub(super) fn creations() -> Vec<Creation<'static>> {
    let mut all: Vec<_> = short().map(|mode| creation(ROOT, mode, 0)).collect();
    all.extend(short().map(|umask| creation(ROOT, 0o100_666, umask)));
    for id in [0, 1, 65_534, u32::MAX - 1, u32::MAX] {
        for group in [None, Some(0), Some(u32::MAX)] {
            let caller = Caller {
                uid: id,
                gid: id,
                group,
            };
            all.push(creation(caller, 0o777, 0));
        }
    }
    for name in attribute_names() {
        for value in [&b""[..], b"x", &[0; 5000]] {
            all.push(Creation {
                security: Some((name, Bytes(value))),
                ..creation(ROOT, 0o644, 0)
            });
        }
    }
    all
}

pub(super) fn changes() -> Vec<AttrChange> {
    let none = AttrChange::default();
    let mut all = vec![none];
    for value in short() {
        all.extend([
            AttrChange {
                mode: Some(value),
                ..none
            },
            AttrChange {
                uid: Some(value),
                ..none
            },
            AttrChange {
                gid: Some(value),
                ..none
            },
        ]);
    }
    for value in LONG {
        all.push(AttrChange {
            size: Some(value),
            ..none
        });
        for nanoseconds in [0, 999_999_999, 1_000_000_000, u32::MAX] {
            let time = Some(SetTime::To(Timestamp {
                seconds: value as i64,
                nanoseconds,
            }));
            all.push(AttrChange { atime: time, ..none });
            all.push(AttrChange {
                mtime: time,
                atime: Some(SetTime::Now),
                kill_suidgid: true,
                ..none
            });
        }
    }
    all
}

pub(super) fn locks() -> Vec<FileLock> {
    let mut all = Vec::new();
    for kind in [0, 1, 2, 3, 4, 5, 16, u32::MAX] {
        for start in LONG {
            for end in LONG {
                all.push(FileLock {
                    start,
                    end,
                    kind,
                    pid: kind,
                });
            }
        }
    }
    all
}
