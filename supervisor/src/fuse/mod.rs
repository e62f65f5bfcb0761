//! The FUSE wire format, steps 2 and 7 of a request's life. Pure code: no I/O, no allocation.
//!
//! [`decode()`] turns guest bytes, copied once to private memory, into a checked [`Operation`]; [`reply`] and
//! [`dirent`] turn the worker's answer into the bytes the guest reads; [`init`] settles what the session speaks.
//! Source of every layout and number: `include/uapi/linux/fuse.h` of Linux 6.18 (FUSE 7.45).

mod abi;
mod cache;
mod decode;
pub(crate) mod dirent;
mod init;
mod opcode;
mod operation;
pub(crate) mod reply;
mod shape;

pub(crate) use cache::{CacheMode, CachePolicy};
pub(crate) use decode::request::{Header, IN_HEADER_LEN, decode};
pub(crate) use init::{Init, InitOutcome, Negotiated, Options, negotiate};
pub(crate) use opcode::{Follows, Row};
pub(crate) use operation::{Chain, Forgets, Operation, Refusal};
pub(crate) use reply::{MAX_HEAD, OUT_HEADER_LEN};
pub(crate) use shape::ReplyShape;
