//! Landlock: which rights a process keeps, and the ruleset that takes all others (landlock(7)).

use ::landlock::AccessFs;

use crate::profile::Features;
use crate::rule::Feature;

/// A file system right beneath the shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// The right (`LANDLOCK_ACCESS_FS_*`).
    pub access: AccessFs,
    /// Its name, in lower case.
    pub name: &'static str,
    /// What brings it in; shares that are read-only keep those of [`Feature::Base`] alone.
    pub feature: Feature,
    /// Why.
    pub reason: &'static str,
}

/// What is kept. Every other right over files, all of the network and every scope the kernel knows is handled and
/// granted to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandlockPlan {
    /// Rights beneath each share.
    pub rights: Vec<Right>,
}

impl LandlockPlan {
    /// No right at all.
    pub(crate) const fn nothing() -> Self {
        Self { rights: Vec::new() }
    }

    /// What a file server needs beneath its share.
    pub(crate) fn share(features: &Features) -> Self {
        let rights = RIGHTS.iter().filter(|right| features.has(right.feature)).copied();
        Self {
            rights: rights.collect(),
        }
    }
}

macro_rules! right {
    ($feature:ident, $access:ident, $name:literal, $reason:literal) => {
        Right {
            access: AccessFs::$access,
            name: $name,
            feature: Feature::$feature,
            reason: $reason,
        }
    };
}

const RIGHTS: &[Right] = &[
    right!(Base, ReadFile, "read_file", "OPEN for reading"),
    right!(Base, ReadDir, "read_dir", "OPENDIR"),
    right!(Write, WriteFile, "write_file", "OPEN for writing"),
    right!(Write, Truncate, "truncate", "SETATTR of the size, O_TRUNC"),
    right!(
        Write,
        MakeReg,
        "make_reg",
        "CREATE, TMPFILE, MKNOD, LINK, RENAME of regular files"
    ),
    right!(Write, MakeDir, "make_dir", "MKDIR, RENAME of directories"),
    right!(Write, MakeSym, "make_sym", "SYMLINK, RENAME of symbolic links"),
    right!(
        Write,
        MakeFifo,
        "make_fifo",
        "MKNOD of FIFOs, which belong to the guest's kernel"
    ),
    right!(
        Write,
        MakeSock,
        "make_sock",
        "MKNOD of sockets, which belong to the guest's kernel"
    ),
    right!(Write, RemoveFile, "remove_file", "UNLINK, RENAME"),
    right!(Write, RemoveDir, "remove_dir", "RMDIR, RENAME of directories"),
    right!(Write, Refer, "refer", "RENAME and LINK between directories"),
    right!(DeviceNodes, MakeChar, "make_char", "MKNOD of character devices"),
    right!(DeviceNodes, MakeBlock, "make_block", "MKNOD of block devices"),
];
