//! What each airlockfs process may do, as data, and the code that applies it.
//!
//! [`supervisor_profile`] and [`worker_profile`] turn what the command line switched on ([`Features`]) into a
//! [`Profile`]: system calls with pinned arguments, Landlock rights, capabilities, namespaces, limits, each with its
//! reason. The same data is printed (`airlockfsctl policy`), compared (`airlockfsctl audit`) and applied:
//! [`spawn::spawn_worker`] starts the worker in its namespaces, [`confine::confine_worker`] and
//! [`confine::confine_supervisor`] give up the rest, for ever. There is one profile for debug and release builds.

mod capabilities;
mod child;
pub mod confine;
mod descriptors;
pub mod entry;
mod error;
pub mod filter;
pub mod gather;
mod identity;
mod idmap;
pub mod installed;
mod landlock;
mod limits;
pub mod log;
mod mounts;
mod namespaces;
mod outline;
mod profile;
mod proof;
mod report;
mod rule;
mod runtime;
mod sealed;
mod seccomp;
pub mod spawn;
mod state;
mod supervisor;
mod sys;
#[cfg(test)]
mod tests;
mod trap;
mod worker;

pub use error::{Advised, ExitKind, StartError};
pub use idmap::{IdMapRange, UserNamespace};
pub use landlock::{LandlockPlan, Right};
pub use limits::Limit;
pub use mounts::harden;
pub use namespaces::Namespaces;
#[cfg(feature = "digest")]
pub use outline::digest;
pub use profile::{Features, Process, Profile, Reasoned, all_rules, supervisor_profile, worker_profile};
pub use rule::{Feature, Pin, SyscallRule, Test, Width};
pub use sealed::{REPORT, read_report};
pub use state::Held;
pub use trap::TRAPPED;
