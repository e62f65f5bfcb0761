//! Step 3: file data on donated descriptors, straight between guest memory and the file.
//!
//! Reads are tried without waiting (RWF_NOWAIT); what would wait for a device, and whatever always may, goes to a
//! [`Pool`] of threads and completes out of order. Writes into the page cache are made at once.

mod file;
mod handles;
mod operate;
mod pool;

pub(crate) use file::{DonatedFile, Reading};
pub(crate) use handles::{Access, HandleTable, Route};
pub(crate) use operate::{Attempt, attempt};
pub(crate) use pool::{Job, Pool, Port};
