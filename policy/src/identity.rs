//! Who the process is: user, group and supplementary groups (credentials(7)).

use airlockfs_ipc::message::Sandbox;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, raise};
use nix::unistd::{Pid, getegid, geteuid, getgroups, getppid};

use crate::confine::SupervisorPlan;
use crate::{ExitKind, StartError, sys};

/// Drops the supplementary groups. A user namespace that maps one group only does not let them go.
pub(crate) fn drop_groups() -> Result<Option<String>, StartError> {
    match sys::drop_own_groups() {
        Ok(()) => Ok(None),
        Err(_) if getgroups().is_ok_and(|groups| groups.is_empty()) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(Some(
            "supplementary groups are kept: an ordinary user may not drop them".to_owned(),
        )),
        Err(error) => Err(StartError::new(
            ExitKind::OsError,
            format!("cannot drop supplementary groups: {error}"),
        )),
    }
}

/// Root becomes the plan's user; an ordinary user stays who he is. Returns the ids that this gives, and what is weaker.
pub(crate) fn become_user(plan: &SupervisorPlan<'_>) -> Result<((u32, u32), Option<String>), StartError> {
    let own = (geteuid().as_raw(), getegid().as_raw());
    if own.0 != 0 {
        return Ok((own, None));
    }
    let done = sys::drop_own_groups().and_then(|()| sys::set_own_ids(plan.uid, plan.gid));
    let done = done.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()));
    match done {
        Ok(()) => Ok(((plan.uid, plan.gid), None)),
        Err(error) if plan.features.sandbox == Sandbox::None => {
            Ok((own, Some(format!("the supervisor stays root: {error}"))))
        }
        Err(error) => Err(StartError::new(
            ExitKind::Permission,
            format!(
                "cannot become user {}: {error}; root needs CAP_SETUID and CAP_SETGID here, and the id must \
                 exist (--supervisor-uid); or start as an ordinary user",
                plan.uid
            ),
        )),
    }
}

/// The signal that the launcher wants this process to get when its parent ends (PR_SET_PDEATHSIG; `setpriv --pdeathsig`,
/// `unshare --kill-child`). The kernel forgets it when ids change.
pub(crate) struct ParentDeath {
    signal: Option<Signal>,
    parent: Pid,
}

impl ParentDeath {
    /// As it is before ids change.
    pub(crate) fn now() -> Result<Self, StartError> {
        let signal = prctl::get_pdeathsig().map_err(|error| lost(&error))?;
        Ok(Self {
            signal,
            parent: getppid(),
        })
    }

    /// Sets it again. Its parent may have ended meanwhile.
    pub(crate) fn keep(self) -> Result<(), StartError> {
        let Some(signal) = self.signal else {
            return Ok(());
        };
        prctl::set_pdeathsig(signal)
            .and_then(|()| match getppid() == self.parent {
                true => Ok(()),
                false => raise(signal),
            })
            .map_err(|error| lost(&error))
    }
}

fn lost(error: &Errno) -> StartError {
    let message = format!("cannot keep the signal for its parent's end: {error}");
    StartError::new(ExitKind::OsError, message)
}
