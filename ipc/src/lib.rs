//! The boundary between the two airlockfs processes.
//!
//! Everything that crosses is a variant in [`message`]; how it crosses is [`ring`] (postcard messages in a
//! shared-memory ring with doorbells) and [`channel`] (descriptors over a socketpair). Both sides copy a message
//! out of shared memory before they decode it, and check it against their own tables after. Whatever breaks the
//! rules is a [`ProtocolError`]: it ends the session and is never answered.

mod attr;
pub mod channel;
mod dir_entry;
mod errno;
#[cfg(test)]
mod forged;
pub mod message;
pub mod poll;
pub mod recycle;
pub mod ring;
mod types;

pub use dir_entry::DIR_ENTRY_MAX;
pub use errno::Errno;
pub use types::{Bytes, GENERATIONS, Handle, NAME_MAX, Name, NodeId, ProtocolError};
