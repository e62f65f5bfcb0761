//! The shared-memory ring: lanes, one for each thread that serves virtqueues, each with slots for messages and buffers
//! for bulk data.
//!
//! A lane carries requests from one supervisor thread to the worker and replies back, in any order. A message is written into a slot, and a ring entry says which slot, how long, and which bulk buffer goes with it.
//! A slot is the supervisor's until it is submitted and the worker's until it is completed, so each direction
//! needs no more entries than there are slots and never overflows between honest peers; a dishonest one is found
//! out by the receiver's own bookkeeping, which lies in private memory.
//!
//! The memory is a sealed memfd. Either process may scribble over it at any time: control words are atomics, read
//! once; messages are copied to a [`MessageBuffer`] before they are decoded; bulk bytes are opaque file data.
//!
//! Waking costs more than serving, so neither side is woken while awake. A sleeper first says so in shared memory,
//! then looks again, then sleeps; the other side publishes, then reads that word (both sequentially consistent).

mod alarm;
mod hands;
mod layout;
mod memory;
pub(crate) use memory::current_cpu;
mod supervisor;
mod watching;
mod worker;

pub use alarm::Alarm;
pub use layout::{BULK_BUFFERS, BULK_SIZE, MAX_LANES, MESSAGE_MAX, SLOTS};
pub use memory::{BulkBuffer, MessageBuffer};
pub use supervisor::{Bulk, SlotId, SubmitError, SupervisorLane, SupervisorRing, WorkerEnds};
pub use watching::Glance;
pub use worker::{Hand, Next, Ticket, WorkerLane, map};

#[cfg(test)]
mod tests;
