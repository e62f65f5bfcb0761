//! The operations of the real worker, confined, over the real ring: this is the supervisor's side of it.
//!
//! Most run with `--sandbox none`, which starts fastest: system calls, Landlock and capabilities are confined as always.
//! Those in `namespaces` run it as in production. They all run as root.

mod attributes;
mod client;
mod creation;
mod data;
mod directories;
mod hostile;
mod locks;
mod names;
mod namespaces;
mod options;
#[path = "../../../tests/src/boundary/raw.rs"]
#[allow(unreachable_pub, reason = "a file that is also in the suites' library")]
mod raw;
mod spawn;
mod xattrs;
