//! Skeleton.
mod chain;
mod complete;
mod data;
mod device;
mod dispatch;
mod exit_event;
mod fuse;
mod guest_io;
mod guest_memory;
mod logging;
mod pending;
mod queue;
mod rings;
mod serve;
mod session;
mod shared;

fn main() {}
