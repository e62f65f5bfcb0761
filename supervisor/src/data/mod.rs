//! File data on donated descriptors, straight between guest memory and the file.
//!
//! Reads are tried without waiting (RWF_NOWAIT); what would wait for a device, and whatever always may, goes to a
//! [`Pool`] of threads and completes out of order. Writes into the page cache are made at once.
//!
//! A call that waits may hang. By the time it returns the guest may have been told EIO, and may use the memory for something
//! else: so it never reads or writes guest memory, but a [`BounceBuffer`].

mod bounce;
mod completions;
mod file;
mod handles;
mod jobs;
mod operate;
mod pool;

pub(crate) use bounce::BounceBuffer;
pub(crate) use completions::CompletionQueue;
pub(crate) use file::{DonatedFile, Reading};
pub(crate) use handles::{Access, HandleTable, Route};
pub(crate) use jobs::Jobs;
pub(crate) use operate::{Attempt, attempt, carry_out};
pub(crate) use pool::Pool;
