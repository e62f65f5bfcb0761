//! INIT: what guest and device agree on.

use airlockfs_ipc::Errno;

use super::abi::{self, flags};
use super::{CacheMode, CachePolicy};

#[cfg(test)]
mod tests;

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
    /// The guest's page cache holds writes back (`--writeback`); only where it caches data at all.
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
    /// OPEN and OPENDIR are answered ENOSYS where the guest can do without: it then opens without asking and sends
    /// handle 0 (`--readonly --cache always`).
    pub(crate) zero_open: bool,
    /// FLUSH goes to the worker; otherwise ENOSYS, after which the guest stops sending it. Needed for record locks.
    pub(crate) forward_flush: bool,
    /// ACCESS goes to the worker; otherwise ENOSYS. virtio-fs mounts check permissions themselves and send none.
    pub(crate) forward_access: bool,
    /// Idmapped mounts of the share in the guest; not with `killpriv_v2`.
    pub(crate) idmapped_mounts: bool,
    /// The worker knows for a while what the guest forgot (`--file-handles`).
    pub(crate) file_handles: bool,
}

/// What was agreed; fixed until DESTROY or a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// Minor version both speak, 27..=45.
    pub(crate) minor: u32,
    /// `FUSE_*` bits in force.
    pub(crate) flags: u64,
    /// `FUSE_*` bits that the guest offered: they tell what kind of client it is.
    pub(crate) offered: u64,
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

/// Pages of a request, of 4 KiB: 1 MiB.
const MAX_PAGES: u16 = 256;
/// Pages of a request that a guest without MAX_PAGES (before Linux 4.20) sends at most.
const MAX_PAGES_FIXED: u16 = 32;
/// Bytes of a page for [`MAX_PAGES`]; guests with larger ones send no larger WRITE than max_write.
const PAGE: u32 = 4096;
/// Requests the guest has under way that nobody waits for (readahead, write-back): the queues are the limit.
const MAX_BACKGROUND: u16 = u16::MAX;

/// What every session wants.
const ALWAYS: u64 = flags::ASYNC_READ
    | flags::BIG_WRITES
    // The worker takes the umask off: it sees where a default ACL overrides it.
    | flags::DONT_MASK
    | flags::ASYNC_DIO
    | flags::PARALLEL_DIROPS
    | flags::MAX_PAGES
    | flags::INIT_EXT
    | flags::CREATE_SUPP_GROUP;

/// Settles a session. Majors below 7 and minors below 27 (Linux 4.16) are refused with EIO.
pub(crate) fn negotiate(init: &Init, options: &Options) -> InitOutcome {
    if init.major < abi::MAJOR || (init.major == abi::MAJOR && init.minor < abi::MINOR_MIN) {
        return InitOutcome::Refused(Errno::EIO);
    }
    if init.major > abi::MAJOR {
        return InitOutcome::VersionOnly;
    }
    let granted = wanted(options) & init.flags;
    let pages = if granted & flags::MAX_PAGES == 0 {
        MAX_PAGES_FIXED
    } else {
        MAX_PAGES
    };
    InitOutcome::Accepted(Negotiated {
        minor: init.minor.min(abi::MINOR),
        flags: granted,
        offered: init.flags,
        max_readahead: init.max_readahead,
        max_write: u32::from(pages) * PAGE,
        options: Options {
            cache: CachePolicy {
                clears_modes: granted & flags::HANDLE_KILLPRIV_V2 != 0,
                ..options.cache
            },
            ..*options
        },
    })
}

/// The flags the options ask for. Not among them, on purpose:
/// ATOMIC_O_TRUNC, with which the guest's kernel asks whether a program runs from the file only after the file is empty;
/// HANDLE_KILLPRIV, whose server cannot know whether the writer may keep setuid: without it an older guest's kernel
/// decides and sends SETATTR; EXPLICIT_INVAL_DATA, because virtio-fs has no queue for notifications, so stale data
/// would stay for ever; the DAX, passthrough and io_uring flags, which need what virtio-fs does not have here.
fn wanted(options: &Options) -> u64 {
    let mode = options.cache.mode;
    let optional = [
        (options.cache.mode != CacheMode::Always, flags::AUTO_INVAL_DATA),
        (
            options.readdirplus,
            flags::DO_READDIRPLUS | flags::READDIRPLUS_AUTO,
        ),
        (
            options.writeback && options.cache.caches_data(),
            flags::WRITEBACK_CACHE,
        ),
        (options.announce_submounts, flags::SUBMOUNTS),
        (options.xattr, flags::SETXATTR_EXT),
        (options.xattr && options.posix_acl, flags::POSIX_ACL),
        (options.security_label, flags::SECURITY_CTX),
        (options.posix_lock, flags::POSIX_LOCKS),
        (options.flock, flags::FLOCK_LOCKS),
        (options.killpriv_v2, flags::HANDLE_KILLPRIV_V2),
        (options.allow_mmap, flags::DIRECT_IO_ALLOW_MMAP),
        (
            options.zero_open,
            flags::NO_OPEN_SUPPORT | flags::NO_OPENDIR_SUPPORT,
        ),
        (
            matches!(mode, CacheMode::Metadata | CacheMode::Always),
            flags::CACHE_SYMLINKS,
        ),
        // Who calls FALLOCATE and COPY_FILE_RANGE, which is all that tells whether setuid goes, would not be said any more.
        (
            options.idmapped_mounts && !options.killpriv_v2,
            flags::ALLOW_IDMAP,
        ),
        // The guest asks by node id for what it forgot.
        (options.file_handles, flags::EXPORT_SUPPORT),
    ];
    optional
        .iter()
        .filter(|(on, _)| *on)
        .fold(ALWAYS, |all, (_, bits)| all | bits)
}

impl Negotiated {
    /// All of `bits` are in force.
    pub(crate) const fn has(&self, bits: u64) -> bool {
        self.flags & bits == bits
    }

    /// `fuse_init_out`.
    pub(super) fn reply(&self) -> abi::InitOut {
        let [low, high] = zerocopy::transmute!(self.flags);
        abi::InitOut {
            major: abi::MAJOR,
            minor: abi::MINOR,
            max_readahead: self.max_readahead,
            flags: low,
            max_background: MAX_BACKGROUND,
            congestion_threshold: MAX_BACKGROUND / 4 * 3,
            max_write: self.max_write,
            // Times have the host's nanoseconds.
            time_gran: 1,
            max_pages: if self.has(flags::MAX_PAGES) { MAX_PAGES } else { 0 },
            flags2: high,
            ..Default::default()
        }
    }
}
