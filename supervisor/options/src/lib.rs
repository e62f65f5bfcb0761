//! The command line of `airlockfsd`: its options, and what they mean.
//!
//! Two programs read it. `airlockfsd` serves by it. `airlockfsctl` says what it would be allowed, and compares a running
//! pair with the command line that started it.

mod cli;
mod compat;
mod ids;
mod meaning;

pub use cli::{
    BarrierArg, Cache, Cli, Confinement, Device, FileHandles, NamedPath, OnDisconnect, REQUEST_QUEUES_MAX,
    SandboxArg, SeccompArg, Service, Share, View, When, one_line, parse,
};
pub use compat::modernise;
pub use ids::{DYNAMIC, NOBODY, SupervisorUid};
pub use meaning::{attributes_alike, check, profiles, user_namespace, worker_config, xattr, zero_open};
