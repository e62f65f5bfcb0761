//! The two functions that give up everything a process does not need, each read from top to bottom.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use airlockfs_ipc::message::{Barrier, ConfinementReport, Sandbox, SeccompMode, WorkerConfig};
use caps::Capability;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{fchdir, getegid, geteuid, sethostname};
use seccompiler::BpfProgram;

use crate::mounts::Leaving;
use crate::proof::{self, Ordered, Outside, Places};
use crate::{
    Advised, ExitKind, Features, Namespaces, Process, Profile, StartError, capabilities, descriptors,
    identity, idmap, landlock, limits, log, mounts, namespaces, report, sealed, seccomp, supervisor_profile,
    sys, trap, worker_profile,
};

/// Proof that this process is confined; serving demands it.
#[derive(Debug)]
pub struct Confined {
    /// What this process found true of itself, for `audit` alone.
    _report: OwnedFd,
}

/// What the worker confines itself with.
#[derive(Debug)]
pub struct WorkerPlan<'a> {
    /// What the command line asked.
    pub config: &'a WorkerConfig,
    /// The namespaces it was started in: [`Namespaces::parse`] of its first argument.
    pub namespaces: Namespaces,
    /// A network namespace to join, one of `expected`.
    pub network: Option<BorrowedFd<'a>>,
    /// Descriptors it holds, each with what it is; all others but 0, 1 and 2 are closed. None may be a directory.
    pub expected: &'a [(BorrowedFd<'a>, &'a str)],
    /// Limit of open files, soft and hard.
    pub nofile: u64,
}

/// The directories the confined worker works from.
#[derive(Debug)]
pub struct WorkerRoots {
    /// The root of each share, in the order of [`WorkerConfig::shares`], opened with O_PATH.
    pub shares: Vec<OwnedFd>,
    /// `/proc/self/fd`, opened with O_PATH: also the working directory, so that `AT_FDCWD` and a descriptor's decimal
    /// number name the inode behind an O_PATH descriptor.
    pub proc_self_fd: OwnedFd,
}

/// What the supervisor confines itself with.
#[derive(Debug)]
pub struct SupervisorPlan<'a> {
    /// What the command line turned on.
    pub features: &'a Features,
    /// Descriptors it holds, each with what it is. All others are closed; 0 and 1 become /dev/null and 2 stays, for
    /// the log. None may be a directory.
    pub expected: &'a [(BorrowedFd<'a>, &'a str)],
    /// User id to become when started as root.
    pub uid: u32,
    /// Group id to become when started as root.
    pub gid: u32,
    /// Limit of open files, soft and hard.
    pub nofile: u64,
}

/// A process that has given up everything but system calls. It starts its threads now (its log's runs), which inherit all of that, and
/// then has them all filtered: so the filter lets nothing through that only starting a thread takes.
#[must_use = "the system call filter is not in force yet"]
#[derive(Debug)]
pub struct Unfiltered {
    filter: Option<BpfProgram>,
    status: report::Status,
    ordered: Ordered,
    process: Process,
    seccomp: SeccompMode,
    report: ConfinementReport,
    /// What still takes its time.
    leaving: Option<Leaving>,
}

impl Unfiltered {
    /// Effective capabilities, by kernel number.
    pub fn capabilities(&self) -> u64 {
        self.report.capabilities
    }

    /// Installs the system call filter on all threads, for ever.
    ///
    /// # Errors
    /// The kernel refuses it, or something that was given up is still there; the process must then exit.
    pub fn filter(self) -> Result<(Confined, ConfinementReport), StartError> {
        if let Some(leaving) = self.leaving {
            leaving.finish()?;
        }
        log::await_writer();
        let sealed = sealed::seal(&self.report)?;
        if self.seccomp == SeccompMode::Trap {
            trap::report(self.process).map_err(|error| {
                StartError::new(ExitKind::OsError, format!("cannot handle SIGSYS: {error}"))
            })?;
        }
        // Most of what could be wrong is told before the filter, which ends the process over any other way to fail.
        let before = self.ordered.when_all_is_given_up(&self.status)?.filters;
        if let Some(filter) = &self.filter {
            seccomp::install(filter)?;
        }
        self.ordered.when_filtered(&self.status, self.seccomp, before)?;
        Ok((Confined { _report: sealed }, self.report))
    }

    fn new(
        profile: &Profile,
        filter: Option<BpfProgram>,
        (status, ordered): (report::Status, Ordered),
        mut report: ConfinementReport,
    ) -> Result<Self, StartError> {
        ordered.before_the_filter(profile)?;
        report.uid = ordered.uid;
        report.gid = ordered.gid;
        report.capabilities = ordered.capabilities;
        log::start_writer().map_err(|error| {
            let message = format!("cannot start a thread: {}", Advised(&error));
            StartError::new(ExitKind::OsError, message)
        })?;
        report.syscalls = filter.as_ref().map_or(0, |_| profile.syscall_count());
        let length = filter.as_ref().map_or(0, Vec::len);
        report.filter_instructions = u32::try_from(length).unwrap_or(u32::MAX);
        report.profile = profile.outline();
        Ok(Self {
            filter,
            status,
            ordered,
            process: profile.process,
            seccomp: profile.seccomp,
            report,
            leaving: None,
        })
    }
}

/// Confines the calling worker for ever, all but its system calls. It has one thread and has received its `Start`
/// message.
///
/// Every descriptor that `plan` does not name is closed, so nothing else may own one.
///
/// # Errors
/// What could not be given up, and what to do; the process must then exit.
pub fn confine_worker(plan: &WorkerPlan<'_>) -> Result<(Unfiltered, WorkerRoots), StartError> {
    let config = plan.config;
    let features = Features::of(config, !plan.namespaces.has(libc::CLONE_NEWUSER));
    let profile = worker_profile(&features);
    let filter = seccomp::compile(&profile)?;
    let mut weakened = Vec::new();

    // What it was born with.
    report::require_one_thread()?;
    sys::one_heap();
    sys::ignore_file_size_signal();
    descriptors::close_all_but(plan.expected)?;
    let status = report::Status::open()?;
    let outside = Outside::find(config.shares.iter().map(|share| share.path.as_slice()));
    // In a user namespace it was born as root there; otherwise it stays who it is.
    let (uid, gid) = match plan.namespaces.has(libc::CLONE_NEWUSER) {
        true => (0, 0),
        false => (geteuid().as_raw(), getegid().as_raw()),
    };
    prctl::set_name(c"airlockfs-worker").map_err(|error| failed("set its name", error))?;
    limits::apply(&profile.limits, plan.nofile)?;
    umask(Mode::empty());

    // Where it is: the share is the root directory, the working directory lists its descriptors.
    let namespaces = join_network(plan)?;
    let may_miss_namespaces =
        features.may_miss(Barrier::Namespaces) || features.may_miss(Barrier::UserNamespaces);
    if config.sandbox == Sandbox::Namespace && !namespaces.has(libc::CLONE_NEWNET) && !may_miss_namespaces {
        let message = "the worker was started without a network namespace";
        return Err(StartError::new(ExitKind::Software, message));
    }
    let own_mounts = namespaces.has(libc::CLONE_NEWNS);
    if own_mounts {
        mounts::follow_host()?;
    }
    let (proc_self_fd, weakness) = mounts::proc_self_fd()?;
    weakened.extend(weakness);
    let shares = match config.sandbox {
        Sandbox::Namespace if own_mounts => mounts::enter_shares(&config.shares, config.readonly)?,
        Sandbox::Namespace if !may_miss_namespaces => {
            let message = "the worker was started without a mount namespace";
            return Err(StartError::new(ExitKind::Software, message));
        }
        Sandbox::Chroot => {
            weakened.push("--sandbox chroot: the worker has no namespaces of its own".to_owned());
            mounts::chroot_to_share(&config.shares)?
        }
        Sandbox::Namespace | Sandbox::None => {
            weakened.push("the worker has no namespaces and no root directory of its own".to_owned());
            mounts::open_shares(&config.shares)?
        }
    };
    fchdir(&proc_self_fd).map_err(|error| failed("work from /proc/self/fd", error))?;
    mounts::is_at(proc_self_fd.as_fd(), &[c"."], "fchdir")?;
    forget_names(namespaces)?;

    // Who it is: no groups, the capabilities of a file server.
    let groups_kept = identity::drop_groups()?;
    let unlocked = capabilities::lock()?;
    let kept = capabilities::reduce(&profile.capabilities)?;
    prctl::set_no_new_privs().map_err(|error| failed("set no_new_privs", error))?;
    prctl::set_dumpable(false).map_err(|error| failed("stop being dumpable", error))?;
    sys::no_new_code()
        .map_err(|error| StartError::new(ExitKind::OsError, format!("cannot fix its code: {error}")))?;

    // What it may name and call.
    let beneath: Vec<_> = shares
        .iter()
        .zip(&config.shares)
        .map(|(fd, share)| (fd.as_fd(), config.readonly || share.readonly))
        .collect();
    let may_miss = features.may_miss(Barrier::Landlock);
    let abi = landlock::restrict(&profile.landlock, &beneath, may_miss, &outside)?;
    weakened.extend(landlock::shortfall(abi));
    weakened.extend(seccomp_weakness(config.seccomp));
    let ordered = Ordered {
        uid,
        gid,
        no_groups: groups_kept.is_none(),
        capabilities: kept,
        locked: unlocked.is_none(),
        umask: Some(0),
        nofile: plan.nofile,
    };
    weakened.extend(groups_kept);
    weakened.extend(unlocked);
    let report = ConfinementReport {
        namespaces: namespaces.names(),
        landlock_abi: abi,
        weakened,
        ..ConfinementReport::default()
    };
    let unfiltered = Unfiltered::new(&profile, filter, (status, ordered), report)?;
    Ok((unfiltered, WorkerRoots { shares, proc_self_fd }))
}

/// Confines the calling supervisor for ever, all but its system calls. It has one thread and has not read a guest byte.
///
/// Every descriptor that `plan` does not name is closed, so nothing else may own one.
///
/// # Errors
/// What could not be given up, and what to do; the process must then exit.
pub fn confine_supervisor(plan: &SupervisorPlan<'_>) -> Result<Unfiltered, StartError> {
    let features = plan.features;
    let profile = supervisor_profile(features);
    let filter = seccomp::compile(&profile)?;
    let mut weakened = Vec::new();

    // What it was born with.
    report::require_one_thread()?;
    let parent_death = identity::ParentDeath::now()?;
    sys::only_heap();
    sys::ignore_file_size_signal();
    descriptors::close_all_but(plan.expected)?;
    descriptors::close_standard_streams(plan.expected)?;
    let status = report::Status::open()?;
    let outside = Outside::find([]);
    limits::apply(&profile.limits, plan.nofile)?;

    // Where it is: an empty root directory, no network, nobody else's names.
    let privileged = capabilities::has(Capability::CAP_SYS_ADMIN);
    let own = match features.sandbox {
        Sandbox::Namespace => enter_namespaces(plan, privileged, &mut weakened)?,
        Sandbox::Chroot | Sandbox::None => Namespaces::NONE,
    };
    let leaving = match features.sandbox {
        Sandbox::Namespace if own.has(libc::CLONE_NEWNS) => {
            mounts::leave_host()?;
            Some(mounts::enter_nothing()?)
        }
        Sandbox::Chroot if privileged => {
            weakened.push("--sandbox chroot: the supervisor has no namespaces of its own".to_owned());
            mounts::chroot_to_nothing()?;
            None
        }
        _ => {
            weakened.push("the supervisor has no namespaces and no root directory of its own".to_owned());
            None
        }
    };
    forget_names(own)?;

    // Who it is: nobody else, without any capability.
    let groups_kept = identity::drop_groups()?;
    let unlocked = capabilities::lock()?;
    let ((uid, gid), stays) = identity::become_user(plan)?;
    weakened.extend(stays);
    let kept = capabilities::reduce(&profile.capabilities)?;
    prctl::set_no_new_privs().map_err(|error| failed("set no_new_privs", error))?;
    prctl::set_dumpable(false).map_err(|error| failed("stop being dumpable", error))?;
    parent_death.keep()?;
    sys::no_new_code()
        .map_err(|error| StartError::new(ExitKind::OsError, format!("cannot fix its code: {error}")))?;

    // What it may name and call: nothing, and little.
    let may_miss = features.may_miss(Barrier::Landlock);
    let abi = landlock::restrict(&profile.landlock, &[], may_miss, &outside)?;
    weakened.extend(landlock::shortfall(abi));
    weakened.extend(seccomp_weakness(features.seccomp));
    let ordered = Ordered {
        uid,
        gid,
        no_groups: groups_kept.is_none(),
        capabilities: kept,
        locked: unlocked.is_none(),
        umask: None,
        nofile: plan.nofile,
    };
    weakened.extend(groups_kept);
    weakened.extend(unlocked);
    let report = ConfinementReport {
        namespaces: own.names(),
        landlock_abi: abi,
        weakened,
        ..ConfinementReport::default()
    };
    Ok(Unfiltered {
        leaving,
        ..Unfiltered::new(&profile, filter, (status, ordered), report)?
    })
}

/// Moves the worker into the network namespace that was made for it. Returns all that it has of its own.
fn join_network(plan: &WorkerPlan<'_>) -> Result<Namespaces, StartError> {
    let Some(network) = plan.network else {
        return Ok(plan.namespaces);
    };
    setns(network, CloneFlags::CLONE_NEWNET).map_err(|error| failed("join its network namespace", error))?;
    proof::joined(network)?;
    Ok(plan.namespaces.with(libc::CLONE_NEWNET))
}

/// Moves the supervisor into namespaces of its own; without CAP_SYS_ADMIN that takes a user namespace, made as the
/// user it will be.
fn enter_namespaces(
    plan: &SupervisorPlan<'_>,
    privileged: bool,
    weakened: &mut Vec<String>,
) -> Result<Namespaces, StartError> {
    let allow_missing = &plan.features.allow_missing;
    let wanted = namespaces::of_this_kernel(!privileged, false, allow_missing, weakened)?;
    if !privileged {
        weakened.extend(identity::become_user(plan)?.1);
        // A change of ids took this away, and with it the right to write the id maps.
        prctl::set_dumpable(true).map_err(|error| failed("become dumpable", error))?;
    }
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let before = Places::now(wanted)?;
    match unshare(CloneFlags::from_bits_retain(wanted.flags())) {
        Ok(()) => {
            before.are_left(wanted)?;
            match privileged {
                true => Ok(wanted),
                false => idmap::map_self(uid, gid).map(|()| wanted),
            }
        }
        Err(error) if namespaces::may_do_without(wanted, allow_missing) => {
            weakened.push(format!("the supervisor may not have namespaces: {error}"));
            Ok(Namespaces::NONE)
        }
        Err(error) => Err(namespaces::refused(wanted, "the supervisor", &error.into())),
    }
}

/// A process in its own UTS namespace forgets the host's name.
fn forget_names(own: Namespaces) -> Result<(), StartError> {
    if !own.has(libc::CLONE_NEWUTS) {
        return Ok(());
    }
    sethostname("localhost").map_err(|error| failed("set the host name", error))?;
    sys::set_domain_name(c"(none)").map_err(|error| {
        StartError::new(ExitKind::OsError, format!("cannot set the domain name: {error}"))
    })?;
    proof::names_are("localhost", "(none)")
}

fn seccomp_weakness(mode: SeccompMode) -> Option<String> {
    match mode {
        SeccompMode::Kill | SeccompMode::Trap => None,
        SeccompMode::Log => {
            Some("--seccomp log: forbidden system calls are logged and carried out".to_owned())
        }
        SeccompMode::None => Some("--seccomp none: any system call may be made".to_owned()),
    }
}

fn failed(what: &str, error: Errno) -> StartError {
    StartError::new(ExitKind::OsError, format!("cannot {what}: {error}"))
}
