//! The FUSE wire format, version 7.45 (Linux uapi `linux/fuse.h`). It repeats the daemon's
//! definitions on purpose: the tests must not share a mistake that they look for.

mod flags;
mod opcode;
mod reply;
mod request;

pub use flags::*;
pub use opcode::*;
pub use reply::*;
pub use request::*;

/// Major version of the protocol.
pub const MAJOR: u32 = 7;
/// Minor version that these definitions follow (Linux 6.18).
pub const MINOR: u32 = 45;
/// Node id of the root directory.
pub const ROOT: u64 = 1;
/// Bytes of the header of a request.
pub const IN_HEADER: usize = size_of::<InHeader>();
/// Bytes of the header of a reply.
pub const OUT_HEADER: usize = size_of::<OutHeader>();
