//! Capability sets: which, why, and how they are brought down to that (capabilities(7)).

use caps::Capability;

use crate::profile::{Features, Reasoned};

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
    if !features.readonly {
        list.extend([
            Reasoned {
                what: CAP_CHOWN,
                reason: "SETATTR changes owner and group",
            },
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
    if features.xattr && !features.readonly {
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
            reason: "FS_IOC_SETFLAGS of immutable and append-only",
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
