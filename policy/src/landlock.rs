//! Landlock: which rights a process keeps, and the ruleset that takes all others (landlock(7)).

use std::os::fd::BorrowedFd;

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use nix::errno::Errno;

use crate::profile::Features;
use crate::proof::{Outside, no_effect};
use crate::rule::Feature;
use crate::{ExitKind, StartError, sys};

/// The newest ABI this version knows: all its rights and scopes are handled where the kernel has them.
const NEWEST: ABI = ABI::V10;

/// The oldest ABI that serves: since 2 (Linux 5.19) files can move between directories at all.
const OLDEST: ABI = ABI::V2;

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
    right!(
        Write,
        MakeChar,
        "make_char",
        "MKNOD and RENAME of whiteouts; other devices need CAP_MKNOD and a call that the filter holds back"
    ),
    right!(DeviceNodes, MakeBlock, "make_block", "MKNOD of block devices"),
];

/// Restricts the calling thread for ever: the plan's rights beneath each share (without those that change anything
/// where it is read-only), and nothing else. Returns the ABI in force, 0 for none. A directory `outside` of the shares
/// shows that it is.
///
/// # Errors
/// The kernel has no Landlock or too old a one, and `may_miss` does not accept that; or it is not in force.
pub(crate) fn restrict(
    plan: &LandlockPlan,
    shares: &[(BorrowedFd<'_>, bool)],
    may_miss: bool,
    outside: &Outside,
) -> Result<u32, StartError> {
    // The kernel has no ruleset of this number.
    if sys::restrict_by_no_ruleset().is_ok() {
        return Err(no_effect("landlock_restrict_self", "it was given no ruleset"));
    }
    let could_be_listed = outside.listed() == Some(Ok(()));
    let status = enforce(plan, shares)
        .map_err(|error| StartError::new(ExitKind::OsError, format!("cannot apply Landlock: {error}")))?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } if status.ruleset != RulesetStatus::NotEnforced => {
            effective_abi
        }
        _ => ABI::Unsupported,
    };
    if abi < OLDEST && !may_miss {
        let found = match status.landlock {
            LandlockStatus::NotEnabled => {
                "Landlock is not enabled; add it to the kernel's lsm= parameter".to_owned()
            }
            LandlockStatus::NotImplemented => {
                "this kernel has no Landlock; use Linux 5.19 or later".to_owned()
            }
            LandlockStatus::Available { .. } => {
                format!(
                    "this kernel's Landlock is too old (ABI {}); use Linux 5.19 or later",
                    abi as i32
                )
            }
        };
        let message = format!("{found}, or accept it with --allow-missing landlock");
        return Err(StartError::new(ExitKind::Unavailable, message));
    }
    if abi >= OLDEST && could_be_listed && outside.listed() != Some(Err(Errno::EACCES)) {
        return Err(no_effect(
            "landlock_restrict_self",
            "a directory outside of the share can be listed",
        ));
    }
    Ok(abi as u32)
}

/// What a kernel with this ABI leaves unhandled of what this version knows to be needed, for the report.
pub(crate) fn shortfall(abi: u32) -> Option<String> {
    let missing: Vec<&str> = [
        (1, "everything"),
        (2, "moves between directories"),
        (3, "truncation"),
        (4, "TCP"),
        (5, "ioctl on devices"),
        (6, "signals and abstract sockets"),
    ]
    .iter()
    .filter(|(since, _)| abi < *since)
    .map(|(_, what)| *what)
    .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "Landlock (ABI {abi} of this kernel) does not cover: {}",
            missing.join(", ")
        )
    })
}

fn enforce(
    plan: &LandlockPlan,
    shares: &[(BorrowedFd<'_>, bool)],
) -> Result<::landlock::RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for &(share, readonly) in shares {
        let rights = plan
            .rights
            .iter()
            .filter(|right| !readonly || right.feature == Feature::Base);
        let access = rights.fold(BitFlags::EMPTY, |access, right| access | right.access);
        ruleset = ruleset.add_rule(PathBeneath::new(share, access))?;
    }
    ruleset.restrict_self()
}
