//! The operations of the real worker, confined, over the real ring: this is the supervisor's side of it.
//!
//! `--sandbox none` is the one in which a test with threads can start it; system calls, Landlock and capabilities are
//! confined as in production, and the suites in `tests/` run it in its namespaces.

mod attributes;
mod client;
mod creation;
mod data;
mod directories;
mod hostile;
mod locks;
mod names;
mod options;
mod xattrs;
