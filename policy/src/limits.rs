//! Resource limits (setrlimit(2)).

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{ExitKind, StartError};

/// A resource limit, set as soft and hard limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Name without `RLIMIT_`, in lower case.
    pub name: &'static str,
    /// The resource.
    pub resource: Resource,
    /// Its value, in the resource's unit.
    pub value: u64,
    /// Why.
    pub reason: &'static str,
}

/// Limits of both processes.
pub(crate) const COMMON: &[Limit] = &[
    Limit {
        name: "core",
        resource: Resource::RLIMIT_CORE,
        value: 0,
        reason: "no memory of a process that holds guest data goes to a file",
    },
    Limit {
        name: "msgqueue",
        resource: Resource::RLIMIT_MSGQUEUE,
        value: 0,
        reason: "no POSIX message queues",
    },
    Limit {
        name: "memlock",
        resource: Resource::RLIMIT_MEMLOCK,
        value: 0,
        reason: "nothing is locked in memory",
    },
];

/// Sets the limits, and `nofile` as the number of descriptors.
///
/// # Errors
/// `nofile` is above the hard limit and may not be raised.
pub(crate) fn apply(limits: &[Limit], nofile: u64) -> Result<(), StartError> {
    let files = setrlimit(Resource::RLIMIT_NOFILE, nofile, nofile);
    files.map_err(|error| {
        let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
        StartError::new(
            ExitKind::Config,
            format!(
                "cannot set the limit of open files to {nofile} (hard limit {hard}): {error}; \
                 lower --rlimit-nofile or raise the limit (ulimit -Hn, LimitNOFILE=)"
            ),
        )
    })?;
    for limit in limits {
        setrlimit(limit.resource, limit.value, limit.value).map_err(|error| {
            StartError::new(
                ExitKind::OsError,
                format!("cannot set limit {}: {error}", limit.name),
            )
        })?;
    }
    Ok(())
}
