//! Who the process is: user, group and supplementary groups (credentials(7)).

use airlockfs_ipc::message::Sandbox;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, geteuid, getgroups, setgroups, setresgid, setresuid};

use crate::confine::SupervisorPlan;
use crate::{ExitKind, StartError};

/// Drops the supplementary groups. A user namespace that maps one group only does not let them go.
pub(crate) fn drop_groups() -> Result<Option<String>, StartError> {
    match setgroups(&[]) {
        Ok(()) => Ok(None),
        Err(_) if getgroups().is_ok_and(|groups| groups.is_empty()) => Ok(None),
        Err(Errno::EPERM) => Ok(Some(
            "supplementary groups are kept: an ordinary user may not drop them".to_owned(),
        )),
        Err(error) => Err(StartError::new(
            ExitKind::OsError,
            format!("cannot drop supplementary groups: {error}"),
        )),
    }
}

/// Root becomes the plan's user; an ordinary user stays who he is.
pub(crate) fn become_user(plan: &SupervisorPlan<'_>) -> Result<Option<String>, StartError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    let done = setgroups(&[])
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid));
    match done {
        Ok(()) => Ok(None),
        Err(error) if plan.features.sandbox == Sandbox::None => {
            Ok(Some(format!("the supervisor stays root: {error}")))
        }
        Err(error) => Err(StartError::new(
            ExitKind::Permission,
            format!(
                "cannot become user {}: {error}; root needs CAP_SETUID and CAP_SETGID here, or start as an ordinary user",
                plan.uid
            ),
        )),
    }
}
