//! Capability sets: which, why, and how they are brought down to that (capabilities(7)).

use caps::{CapSet, Capability, CapsHashSet};

use crate::profile::{Features, Reasoned};
use crate::{ExitKind, StartError, sys};

/// The worker's capabilities: those of a file server that acts for all users of a guest.
pub(crate) fn of_worker(features: &Features) -> Vec<Reasoned<Capability>> {
    use Capability::*;
    let mut list = vec![
        Reasoned {
            what: CAP_DAC_OVERRIDE,
            reason: "the guest kernel checks permissions; root in it reads and writes all",
        },
        Reasoned {
            what: CAP_SETUID,
            reason: "new inodes are made with the caller's fsuid",
        },
        Reasoned {
            what: CAP_SETGID,
            reason: "new inodes are made with the caller's fsgid and group",
        },
    ];
    if features.owners && !features.readonly {
        list.push(Reasoned {
            what: CAP_CHOWN,
            reason: "SETATTR changes owner and group",
        });
    }
    if !features.readonly {
        list.extend([
            Reasoned {
                what: CAP_FOWNER,
                reason: "SETATTR changes mode and times of files of any owner",
            },
            Reasoned {
                what: CAP_FSETID,
                reason: "the guest decides when setuid and setgid bits go",
            },
        ]);
    }
    if features.xattr && !features.readonly && !features.no_setuid {
        list.push(Reasoned {
            what: CAP_SETFCAP,
            reason: "SETXATTR of security.capability",
        });
    }
    if features.device_nodes && !features.readonly {
        list.push(Reasoned {
            what: CAP_MKNOD,
            reason: "MKNOD of devices",
        });
    }
    if features.immutable_flags && !features.readonly {
        list.push(Reasoned {
            what: CAP_LINUX_IMMUTABLE,
            reason: "FS_IOC_SETFLAGS of immutable and append-only (--allow-immutable)",
        });
    }
    if features.trusted_xattr && features.xattr {
        list.push(Reasoned {
            what: CAP_SYS_ADMIN,
            reason: "trusted.* attributes",
        });
    }
    list
}

/// securebits(7) of both processes: root's id gives no capabilities at execve(2), ambient ones cannot be raised; the
/// kernel's dropping of file capabilities while fsuid is not root stays on, and none of it can be changed any more.
pub(crate) const SECUREBITS: libc::c_ulong = NOROOT
    | NO_CAP_AMBIENT_RAISE
    | locked(NOROOT)
    | locked(NO_SETUID_FIXUP)
    | locked(KEEP_CAPS)
    | locked(NO_CAP_AMBIENT_RAISE);
const NOROOT: libc::c_ulong = 1;
const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
const KEEP_CAPS: libc::c_ulong = 1 << 4;
const NO_CAP_AMBIENT_RAISE: libc::c_ulong = 1 << 6;

/// Each bit of securebits is followed by the one that locks it.
const fn locked(bit: libc::c_ulong) -> libc::c_ulong {
    bit << 1
}

/// Whether the calling thread has `capability` in force.
pub(crate) fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Sets and locks the securebits and empties the bounding set; it cannot be undone. Returns what could not be done
/// for want of CAP_SETPCAP, as a line for the report: without that capability there is also none to be gained.
pub(crate) fn lock() -> Result<Option<String>, StartError> {
    if !has(Capability::CAP_SETPCAP) {
        return Ok(Some(
            "capability bounding set and securebits left as they are (no CAP_SETPCAP)".to_owned(),
        ));
    }
    sys::prctl(libc::PR_SET_SECUREBITS, SECUREBITS).map_err(|error| failed("securebits", &error))?;
    // Up to the last one the kernel knows, which may be more than we know.
    for number in 0..64 {
        if sys::prctl(libc::PR_CAPBSET_READ, number).is_err() {
            break;
        }
        sys::prctl(libc::PR_CAPBSET_DROP, number).map_err(|error| failed("the bounding set", &error))?;
    }
    Ok(None)
}

/// Leaves `keep`, as far as it is there, in the permitted and effective sets and empties the inheritable and ambient
/// ones. Returns what is left, by kernel number.
pub(crate) fn reduce(keep: &[Reasoned<Capability>]) -> Result<u64, StartError> {
    let permitted =
        caps::read(None, CapSet::Permitted).map_err(|error| failed("the permitted set", &error))?;
    let kept: CapsHashSet = keep
        .iter()
        .map(|kept| kept.what)
        .filter(|what| permitted.contains(what))
        .collect();
    let none = CapsHashSet::new();
    caps::clear(None, CapSet::Ambient).map_err(|error| failed("the ambient set", &error))?;
    for (set, value) in [
        (CapSet::Effective, &kept),
        (CapSet::Permitted, &kept),
        (CapSet::Inheritable, &none),
    ] {
        caps::set(None, set, value).map_err(|error| failed("capabilities", &error))?;
    }
    Ok(kept
        .iter()
        .fold(0, |mask, capability| mask | capability.bitmask()))
}

fn failed(what: &str, error: &dyn std::error::Error) -> StartError {
    StartError::new(ExitKind::OsError, format!("cannot give up {what}: {error}"))
}
