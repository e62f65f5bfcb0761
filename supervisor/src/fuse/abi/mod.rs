//! The kernel's FUSE structures and numbers, as far as they are used: `include/uapi/linux/fuse.h`, FUSE 7.45.
//!
//! Names are the header's without `fuse_` and `FUSE_`. Every structure is made of naturally aligned integers without
//! holes, which the derives check; numbers are the guest's own byte order, and guests share the host's.

pub(crate) mod flags;
mod reply;
mod request;

pub(crate) use reply::*;
pub(crate) use request::*;

#[cfg(not(target_endian = "little"))]
compile_error!("the boundary and virtio 1 are little-endian, and so must the host be");

/// `FUSE_KERNEL_VERSION`.
pub(crate) const MAJOR: u32 = 7;
/// `FUSE_KERNEL_MINOR_VERSION` of Linux 6.18.
pub(crate) const MINOR: u32 = 45;
/// The oldest minor served (Linux 4.16): every structure has its present size from here on, but for those that an
/// INIT flag extends.
pub(crate) const MINOR_MIN: u32 = 27;
