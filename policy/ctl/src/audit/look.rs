//! A look at an inode that waits for nobody: no file is opened, and no file system server or network is asked.
#![expect(unsafe_code, reason = "statx(2), which neither std nor nix wraps")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What statx(2) tells of an inode, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Type and permissions.
    mode: u32,
    pub(super) uid: u32,
    pub(super) device: libc::dev_t,
    pub(super) inode: u64,
    /// Of a device node: its number.
    pub(super) node: libc::dev_t,
    /// Names that it has.
    pub(super) links: u32,
    /// In bytes.
    pub(super) size: u64,
}

/// Looks at what `path` leads to, the last link followed: also a link of procfs, which leads straight to the inode. What
/// the kernel knows is enough (AT_STATX_DONT_SYNC).
pub(super) fn at(path: &Path) -> io::Result<Found> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `statx` is plain data and all-zero is valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated; the kernel writes to `found`, which outlives the call.
    let result = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT,
            libc::STATX_BASIC_STATS,
            &raw mut found,
        )
    };
    match result {
        0 => Ok(Found {
            mode: found.stx_mode.into(),
            uid: found.stx_uid,
            device: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            node: libc::makedev(found.stx_rdev_major, found.stx_rdev_minor),
            links: found.stx_nlink,
            size: found.stx_size,
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Found {
    const fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }

    pub(super) const fn is_directory(&self) -> bool {
        self.is(libc::S_IFDIR)
    }

    pub(super) const fn is_file(&self) -> bool {
        self.is(libc::S_IFREG)
    }

    pub(super) const fn is_socket(&self) -> bool {
        self.is(libc::S_IFSOCK)
    }

    pub(super) const fn is_fifo(&self) -> bool {
        self.is(libc::S_IFIFO)
    }

    pub(super) const fn is_character_device(&self) -> bool {
        self.is(libc::S_IFCHR)
    }

    /// Device and inode number: which inode it is.
    pub(super) const fn identity(&self) -> (libc::dev_t, u64) {
        (self.device, self.inode)
    }

    /// Only root can change it.
    pub(super) const fn is_roots_alone(&self) -> bool {
        self.uid == 0 && self.mode & (libc::S_IWGRP | libc::S_IWOTH) == 0
    }
}
