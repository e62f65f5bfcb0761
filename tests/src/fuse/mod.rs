//! What a guest kernel does: FUSE requests over virtqueues, one by one or many in flight.

pub mod abi;
mod client;
mod lane;
mod ops;
mod session;

pub use client::{Caller, Client};
pub use lane::{Done, Lane, SlotId, Wait};
pub use ops::attr::SetAttr;
pub use ops::dir::{DirEntry, DirEntryPlus};
pub use ops::file::Opened;
pub use session::{Outcome, Session, SessionConfig};
