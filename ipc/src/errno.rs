//! Errors as the guest sees them.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// An error number for the guest: 1 to 4095, as in errno(3) and the `error` field (negated) of `struct fuse_out_header`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Errno(u16);

impl Errno {
    /// Operation not permitted.
    pub const EPERM: Self = Self::raw(libc::EPERM);
    /// No such file or directory.
    pub const ENOENT: Self = Self::raw(libc::ENOENT);
    /// Input/output error.
    pub const EIO: Self = Self::raw(libc::EIO);
    /// Argument list too long.
    pub const E2BIG: Self = Self::raw(libc::E2BIG);
    /// Bad file handle.
    pub const EBADF: Self = Self::raw(libc::EBADF);
    /// Try again.
    pub const EAGAIN: Self = Self::raw(libc::EAGAIN);
    /// Out of memory.
    pub const ENOMEM: Self = Self::raw(libc::ENOMEM);
    /// Permission denied.
    pub const EACCES: Self = Self::raw(libc::EACCES);
    /// File exists.
    pub const EEXIST: Self = Self::raw(libc::EEXIST);
    /// Cross-device link.
    pub const EXDEV: Self = Self::raw(libc::EXDEV);
    /// Not a directory.
    pub const ENOTDIR: Self = Self::raw(libc::ENOTDIR);
    /// Is a directory.
    pub const EISDIR: Self = Self::raw(libc::EISDIR);
    /// Invalid argument.
    pub const EINVAL: Self = Self::raw(libc::EINVAL);
    /// Too many open files.
    pub const ENFILE: Self = Self::raw(libc::ENFILE);
    /// Too many open files.
    pub const EMFILE: Self = Self::raw(libc::EMFILE);
    /// Inappropriate ioctl for device.
    pub const ENOTTY: Self = Self::raw(libc::ENOTTY);
    /// File too large.
    pub const EFBIG: Self = Self::raw(libc::EFBIG);
    /// No such device or address.
    pub const ENXIO: Self = Self::raw(libc::ENXIO);
    /// Read-only file system.
    pub const EROFS: Self = Self::raw(libc::EROFS);
    /// Numerical result out of range.
    pub const ERANGE: Self = Self::raw(libc::ERANGE);
    /// File name too long.
    pub const ENAMETOOLONG: Self = Self::raw(libc::ENAMETOOLONG);
    /// Function not implemented: the FUSE client stops asking.
    pub const ENOSYS: Self = Self::raw(libc::ENOSYS);
    /// Too many symbolic links.
    pub const ELOOP: Self = Self::raw(libc::ELOOP);
    /// No data available: no such extended attribute.
    pub const ENODATA: Self = Self::raw(libc::ENODATA);
    /// Value too large for defined data type.
    pub const EOVERFLOW: Self = Self::raw(libc::EOVERFLOW);
    /// Operation not supported.
    pub const ENOTSUP: Self = Self::raw(libc::ENOTSUP);
    /// Stale file handle: the node's file is gone or is another.
    pub const ESTALE: Self = Self::raw(libc::ESTALE);

    /// The number as the kernel gave it; anything outside 1..=4095 becomes EIO.
    pub const fn raw(number: i32) -> Self {
        if number >= 1 && number <= 4095 {
            Self(number as u16)
        } else {
            Self(libc::EIO as u16)
        }
    }

    /// The positive number.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    /// The calling thread's last system error (errno(3)).
    pub fn last() -> Self {
        Self::from(nix::errno::Errno::last())
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(error: nix::errno::Errno) -> Self {
        Self::raw(error as i32)
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self::raw(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&nix::errno::Errno::from_raw(self.number()), f)
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&nix::errno::Errno::from_raw(self.number()), f)
    }
}

impl<'de> Deserialize<'de> for Errno {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u16::deserialize(deserializer)? {
            number @ 1..=4095 => Ok(Self(number)),
            _ => Err(D::Error::custom("error number out of range")),
        }
    }
}
