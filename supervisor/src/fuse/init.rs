//! INIT: what guest and device agree on.

use airlockfs_ipc::Errno;

use super::CachePolicy;

/// What INIT asks (`struct fuse_init_in`), the two flag words joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Init {
    /// Protocol version.
    pub(crate) major: u32,
    /// Protocol version.
    pub(crate) minor: u32,
    /// Readahead the guest wants, in bytes.
    pub(crate) max_readahead: u32,
    /// Everything the guest can do: `FUSE_*` bits, `flags2` in the upper half.
    pub(crate) flags: u64,
}

/// What the command line wants; INIT grants it where the guest can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    /// What the guest caches.
    pub(crate) cache: CachePolicy,
    /// READDIRPLUS, when the guest finds it worth while (`--no-readdirplus` turns it off).
    pub(crate) readdirplus: bool,
    /// The guest's page cache holds writes back (`--writeback`).
    pub(crate) writeback: bool,
    /// Mounts beneath the share become mounts in the guest.
    pub(crate) announce_submounts: bool,
    /// Extended attributes are served; otherwise ENOSYS.
    pub(crate) xattr: bool,
    /// POSIX ACLs are the guest's to see and to set; needs `xattr`.
    pub(crate) posix_acl: bool,
    /// New files get the security context the guest computed (`--security-label`).
    pub(crate) security_label: bool,
    /// Record locks are taken on the host; otherwise the guest keeps them to itself.
    pub(crate) posix_lock: bool,
    /// flock(2) locks are taken on the host; otherwise the guest keeps them to itself.
    pub(crate) flock: bool,
    /// Setuid, setgid and capabilities are cleared here (`--killpriv-v2`); otherwise the guest does it.
    pub(crate) killpriv_v2: bool,
    /// Shared mappings of files that bypass the page cache (cache modes never and metadata).
    pub(crate) allow_mmap: bool,
    /// OPEN and OPENDIR are answered ENOSYS: the guest then opens without asking and sends handle 0
    /// (`--readonly --cache always`).
    pub(crate) zero_open: bool,
    /// FLUSH goes to the worker; otherwise ENOSYS, after which the guest stops sending it. Needed for record locks.
    pub(crate) forward_flush: bool,
    /// ACCESS goes to the worker; otherwise ENOSYS. virtio-fs mounts check permissions themselves and send none.
    pub(crate) forward_access: bool,
    /// Idmapped mounts of the share in the guest.
    pub(crate) idmapped_mounts: bool,
}

/// What was agreed; fixed until DESTROY or a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// Minor version both speak, 27..=45.
    pub(crate) minor: u32,
    /// `FUSE_*` bits in force.
    pub(crate) flags: u64,
    /// Readahead, in bytes.
    pub(crate) max_readahead: u32,
    /// Largest WRITE, in bytes.
    pub(crate) max_write: u32,
    /// The options it came from.
    pub(crate) options: Options,
}

/// How an INIT ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InitOutcome {
    /// The session begins.
    Accepted(Negotiated),
    /// The guest speaks a later major version: it is told ours and asks again; no session yet.
    VersionOnly,
    /// Too old.
    Refused(Errno),
}

/// Settles a session. Majors below 7 and minors below 27 (Linux 4.16) are refused with EIO.
pub(crate) fn negotiate(init: &Init, options: &Options) -> InitOutcome {
    if init.major < 7 || init.minor < 27 {
        return InitOutcome::Refused(Errno::EIO);
    }
    if init.major > 7 {
        return InitOutcome::VersionOnly;
    }
    InitOutcome::Accepted(Negotiated {
        minor: init.minor.min(45),
        flags: 0,
        max_readahead: init.max_readahead,
        max_write: 1 << 20,
        options: *options,
    })
}
