//! Proof that what a process gave up is gone. A call that returns success proves nothing: a filter of the launcher's (a
//! container's seccomp profile, say) may answer in the kernel's place (SECCOMP_RET_ERRNO with error 0). So each process
//! compares what the kernel says afterwards with what it ordered, and tries what must fail now.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use airlockfs_ipc::message::SeccompMode;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::utsname::uname;

use crate::profile::Profile;
use crate::report::{Facts, Status};
use crate::{ExitKind, Namespaces, StartError, capabilities, sys};

/// An error that names what has no effect.
pub(crate) fn no_effect(call: &str, but: &str) -> StartError {
    StartError::new(
        ExitKind::Software,
        format!(
            "{call} returned success, but {but}; a system call filter of the launcher's (a container's seccomp profile?) \
             answers in the kernel's place"
        ),
    )
}

/// What was ordered of a process.
#[derive(Debug)]
pub(crate) struct Ordered {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups are dropped.
    pub(crate) no_groups: bool,
    /// Permitted and effective set.
    pub(crate) capabilities: u64,
    /// Securebits are set and the bounding set is empty.
    pub(crate) locked: bool,
    pub(crate) umask: Option<u32>,
    /// Soft and hard limit of open files.
    pub(crate) nofile: u64,
}

impl Ordered {
    /// Asks for what only a call tells, before the filter forbids the call.
    pub(crate) fn before_the_filter(&self, profile: &Profile) -> Result<(), StartError> {
        let bits = |option| sys::prctl(option, 0).unwrap_or(-1);
        if self.locked && bits(libc::PR_GET_SECUREBITS) != capabilities::SECUREBITS.cast_signed() {
            return Err(no_effect("prctl(PR_SET_SECUREBITS)", "the securebits are others"));
        }
        if bits(libc::PR_GET_DUMPABLE) != 0 {
            return Err(no_effect("prctl(PR_SET_DUMPABLE)", "the process is dumpable"));
        }
        match sys::prctl(libc::PR_GET_MDWE, 0) {
            Ok(set) if set & i64::from(libc::PR_MDWE_REFUSE_EXEC_GAIN) == 0 => {
                return Err(no_effect("prctl(PR_SET_MDWE)", "memory may become executable"));
            }
            // An older kernel leaves it to the filter.
            Ok(_) | Err(_) => {}
        }
        let nofile = (libc::RLIMIT_NOFILE, self.nofile);
        let limits = profile.limits.iter();
        let limits = limits.map(|limit| (limit.resource as libc::__rlimit_resource_t, limit.value));
        for (resource, value) in limits.chain([nofile]) {
            if sys::limit(resource).ok() != Some((value, value)) {
                let but = format!("resource limit {resource} is not {value}");
                return Err(no_effect("prlimit64", &but));
            }
        }
        Ok(())
    }

    /// Compares it with what the kernel says when all but the filter is done.
    pub(crate) fn when_all_is_given_up(&self, status: &Status) -> Result<Facts, StartError> {
        let facts = read(status)?;
        let all = |ids: &[u32], id: u32| ids.len() == 4 && ids.iter().all(|own| *own == id);
        let umask = self.umask.is_none_or(|umask| facts.umask == umask);
        let checks = [
            (all(&facts.uids, self.uid), "the user ids"),
            (all(&facts.gids, self.gid), "the group ids"),
            (!self.no_groups || facts.groups == 0, "the supplementary groups"),
            (facts.permitted == self.capabilities, "the permitted capabilities"),
            (facts.effective == self.capabilities, "the effective capabilities"),
            (facts.inheritable == 0, "the inheritable capabilities"),
            (facts.ambient == 0, "the ambient capabilities"),
            (!self.locked || facts.bounding == 0, "the bounding set"),
            (facts.no_new_privs, "no_new_privs"),
            (umask, "the umask"),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            None => Ok(facts),
            Some((_, what)) => Err(self.not_as_ordered(what, &facts)),
        }
    }

    /// The same when the filter is in force, and the filter is: one more than the `before` that a launcher installed.
    pub(crate) fn when_filtered(
        &self,
        status: &Status,
        seccomp: SeccompMode,
        before: u32,
    ) -> Result<(), StartError> {
        let facts = self.when_all_is_given_up(status)?;
        let holds = match seccomp {
            SeccompMode::None => facts.filters == before,
            SeccompMode::Kill | SeccompMode::Log | SeccompMode::Trap => {
                // Before Linux 5.9 the kernel does not say how many.
                facts.filtered && (before == u32::MAX || facts.filters == before.saturating_add(1))
            }
        };
        match holds {
            true => Ok(()),
            false => Err(self.not_as_ordered("the system call filter", &facts)),
        }
    }

    fn not_as_ordered(&self, what: &str, facts: &Facts) -> StartError {
        let message = format!(
            "confinement had no effect on {what}: ordered {self:?}, found {facts:?}; a system call filter of the \
             launcher's (a container's seccomp profile?) answers in the kernel's place"
        );
        StartError::new(ExitKind::Software, message)
    }
}

/// The kernel's word on this process.
fn read(status: &Status) -> Result<Facts, StartError> {
    status.read().map_err(|error| {
        StartError::new(
            ExitKind::OsError,
            format!("cannot read /proc/self/status: {error}"),
        )
    })
}

/// Device and inode number of each namespace among `which`, of this process now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Places(Vec<(String, u64, u64)>);

impl Places {
    pub(crate) fn now(which: Namespaces) -> Result<Self, StartError> {
        let one = |name: String| {
            let found = fs::metadata(format!("/proc/self/ns/{name}"))?;
            Ok((name, found.dev(), found.ino()))
        };
        let all: io::Result<Vec<_>> = which.names().into_iter().map(one).collect();
        all.map(Self).map_err(|error| {
            let message = format!("cannot look at own namespaces: {error}; mount /proc");
            StartError::new(ExitKind::Unavailable, message)
        })
    }

    /// This process has left all of them.
    pub(crate) fn are_left(&self, which: Namespaces) -> Result<(), StartError> {
        let now = Self::now(which)?;
        match now.0.iter().find(|own| self.0.contains(own)) {
            None => Ok(()),
            Some((name, ..)) => Err(no_effect(
                "unshare",
                &format!("the {name} namespace is the launcher's"),
            )),
        }
    }
}

/// This process has joined that network namespace.
pub(crate) fn joined(network: BorrowedFd<'_>) -> Result<(), StartError> {
    let wanted = fstat(network).map_err(|error| StartError::new(ExitKind::OsError, error.to_string()))?;
    let Places(own) = Places::now(Namespaces::NONE.with(libc::CLONE_NEWNET))?;
    match own.as_slice() {
        [(_, dev, ino)] if (*dev, *ino) == (wanted.st_dev, wanted.st_ino) => Ok(()),
        _ => Err(no_effect("setns", "the network namespace is another one")),
    }
}

/// The names of the host are forgotten.
pub(crate) fn names_are(host: &str, domain: &str) -> Result<(), StartError> {
    let found = uname().map_err(|error| StartError::new(ExitKind::OsError, error.to_string()))?;
    match found.nodename() == host && found.domainname() == domain {
        true => Ok(()),
        false => Err(no_effect(
            "sethostname or setdomainname",
            "the host's name is seen",
        )),
    }
}

/// A directory outside of every share, to try Landlock on.
#[derive(Debug)]
pub(crate) struct Outside(Option<OwnedFd>);

impl Outside {
    /// `/proc`, which anybody may list, as long as it can be named; none where it lies beneath a share.
    pub(crate) fn find<'a>(shares: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let above = |share: &[u8]| share == b"/" || share == b"/proc" || share.starts_with(b"/proc/");
        if shares.into_iter().any(above) {
            return Self(None);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Self(open("/proc", flags, Mode::empty()).ok())
    }

    /// Its descriptor, if there is one.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }

    /// Whether it can be listed.
    pub(crate) fn listed(&self) -> Option<Result<(), Errno>> {
        let directory = self.as_fd()?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Some(openat(directory, ".", flags, Mode::empty()).map(drop))
    }
}
