//! A profile: everything one process may do, derived from what the command line turned on.

use airlockfs_ipc::message::{Barrier, Sandbox, SeccompMode, WorkerConfig};
use caps::Capability;

use crate::rule::{Feature, SyscallRule};
use crate::{
    Held, LandlockPlan, Limit, capabilities, limits, namespaces, runtime, state, supervisor, worker,
};

/// What the command line turned on, as far as it matters to confinement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Started with the capabilities of the host's root: the worker then needs no user namespace, and keeps what
    /// only the initial one gives (setuid bits survive root's writes).
    pub rootful: bool,
    /// No operation changes anything.
    pub readonly: bool,
    /// The guest may change owners or groups: not if it is shown one of each for all.
    pub owners: bool,
    /// No file gets a set-user-ID or set-group-ID bit or a capability.
    pub no_setuid: bool,
    /// Extended attributes are served.
    pub xattr: bool,
    /// Device nodes may be made.
    pub device_nodes: bool,
    /// Project ids may be changed.
    pub project_ids: bool,
    /// FS_IOC_GETFLAGS and its relatives are served.
    pub file_flags: bool,
    /// The immutable and append-only flags may be set (CAP_LINUX_IMMUTABLE).
    pub immutable_flags: bool,
    /// `trusted.*` attributes are served (CAP_SYS_ADMIN).
    pub trusted_xattr: bool,
    /// Descriptors of regular files cross to the supervisor.
    pub donate: bool,
    /// Record locks are taken on the host.
    pub posix_lock: bool,
    /// flock(2) locks are taken on the host.
    pub flock: bool,
    /// How namespaces are used.
    pub sandbox: Sandbox,
    /// What a forbidden system call does.
    pub seccomp: SeccompMode,
    /// Barriers that the kernel may lack.
    pub allow_missing: Vec<Barrier>,
}

impl Features {
    /// What a worker's configuration turns on.
    pub fn of(config: &WorkerConfig, rootful: bool) -> Self {
        Self {
            rootful,
            readonly: config.readonly,
            owners: config.view.uid.is_none() || config.view.gid.is_none(),
            no_setuid: config.no_setuid,
            xattr: config.xattr,
            device_nodes: config.device_nodes,
            project_ids: config.project_ids,
            file_flags: true,
            immutable_flags: config.immutable_flags,
            trusted_xattr: false,
            donate: config.donate,
            posix_lock: config.posix_lock,
            flock: config.flock,
            sandbox: config.sandbox,
            seccomp: config.seccomp,
            allow_missing: config.allow_missing.clone(),
        }
    }

    /// Whether rules of `feature` belong to the profile.
    pub fn has(&self, feature: Feature) -> bool {
        match feature {
            Feature::Base => true,
            Feature::Write => !self.readonly,
            Feature::ReadOnly => self.readonly,
            Feature::SetId => !self.no_setuid && !self.readonly,
            Feature::NoSetId => self.no_setuid && !self.readonly,
            Feature::Owner => self.owners && !self.readonly,
            Feature::Xattr => self.xattr,
            Feature::XattrWrite => self.xattr && !self.readonly,
            Feature::FileFlags => self.file_flags,
            Feature::FileFlagsWrite => self.file_flags && !self.readonly,
            Feature::ProjectIds => self.file_flags && self.project_ids && !self.readonly,
            Feature::DeviceNodes => self.device_nodes && !self.readonly,
            Feature::Donate => self.donate,
            Feature::DonateWrite => self.donate && !self.readonly,
            Feature::PosixLock => self.posix_lock,
            Feature::Flock => self.flock,
            Feature::Trap => self.seccomp == SeccompMode::Trap,
        }
    }

    pub(crate) fn may_miss(&self, barrier: Barrier) -> bool {
        self.allow_missing.contains(&barrier)
    }
}

/// Which of the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// `airlockfsd`.
    Supervisor,
    /// `airlockfs-worker`.
    Worker,
}

/// Something granted and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reasoned<T> {
    /// What.
    pub what: T,
    /// Why.
    pub reason: &'static str,
}

/// Everything one process may do.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Whose it is.
    pub process: Process,
    /// The system calls let through; any other does what `seccomp` says. One call may have several lines, each with
    /// its own arguments.
    pub syscalls: Vec<SyscallRule>,
    /// What a forbidden system call does.
    pub seccomp: SeccompMode,
    /// File system rights, network and scopes.
    pub landlock: LandlockPlan,
    /// Permitted, effective and bounding set; inheritable and ambient are empty.
    pub capabilities: Vec<Reasoned<Capability>>,
    /// Namespaces of its own.
    pub namespaces: Vec<Reasoned<&'static str>>,
    /// Resource limits, soft and hard. The number of open files comes with the plan.
    pub limits: Vec<Limit>,
    /// What else holds.
    pub state: Vec<Held>,
}

impl Profile {
    /// How many different system calls are let through (those answered with an error do not count).
    pub fn syscall_count(&self) -> u32 {
        let mut numbers: Vec<i64> = self
            .syscalls
            .iter()
            .filter(|rule| rule.errno.is_none())
            .map(|rule| rule.number)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        u32::try_from(numbers.len()).unwrap_or(u32::MAX)
    }
}

/// What `airlockfsd` may do once it serves.
pub fn supervisor_profile(features: &Features) -> Profile {
    Profile {
        process: Process::Supervisor,
        syscalls: selected(Process::Supervisor, features),
        seccomp: features.seccomp,
        landlock: LandlockPlan::nothing(),
        capabilities: Vec::new(),
        namespaces: namespaces::of_supervisor(features),
        limits: limits::COMMON.to_vec(),
        state: state::of(Process::Supervisor, features),
    }
}

/// What `airlockfs-worker` may do once it serves.
pub fn worker_profile(features: &Features) -> Profile {
    Profile {
        process: Process::Worker,
        syscalls: selected(Process::Worker, features),
        seccomp: features.seccomp,
        landlock: LandlockPlan::share(features),
        capabilities: capabilities::of_worker(features),
        namespaces: namespaces::of_worker(features),
        limits: limits::COMMON.to_vec(),
        state: state::of(Process::Worker, features),
    }
}

/// Every rule that some command line brings to a process, in the order of its table.
pub fn all_rules(process: Process) -> impl Iterator<Item = &'static SyscallRule> {
    let table: &[&[SyscallRule]] = match process {
        // glibc's malloc keeps to its heap there.
        Process::Supervisor if cfg!(target_env = "gnu") => &[supervisor::TABLE],
        Process::Supervisor => &[runtime::LARGE_BLOCKS, supervisor::TABLE],
        Process::Worker => &[runtime::LARGE_BLOCKS, worker::TABLE],
    };
    runtime::RUNTIME.iter().chain(table.iter().copied().flatten())
}

fn selected(process: Process, features: &Features) -> Vec<SyscallRule> {
    let rules = all_rules(process).filter(|rule| features.has(rule.feature));
    rules.copied().collect()
}
