//! Acting as the guest's caller: a thread makes new inodes with the caller's fsuid and fsgid, so that owner, group,
//! SGID directories and quotas come out as if the caller had made them here.

use airlockfs_ipc::{Errno, message::Caller};
use airlockfs_policy::ExitKind;

use crate::{
    ids::{IdMap, Mapped},
    sys::{CAP_DAC_OVERRIDE, CAP_FSETID, end, raise, say, set_groups, switch_gid, switch_uid},
};

/// The user who is nobody, on any host.
const NOBODY: u32 = 65_534;

/// The ids of this process, of its namespace and of the guest.
#[derive(Debug)]
pub(crate) struct Identities {
    /// Between the guest's user ids and ours.
    pub(crate) uids: IdMap,
    /// Between the guest's group ids and ours.
    pub(crate) gids: IdMap,
    /// Who this process is.
    pub(crate) own_uid: u32,
    /// Its group.
    pub(crate) own_gid: u32,
    /// User ids that it may become; none without CAP_SETUID.
    pub(crate) other_uids: Option<Mapped>,
    /// Group ids that it may become; none without CAP_SETGID.
    pub(crate) other_gids: Option<Mapped>,
    /// The guest is shown another owner anyway: who cannot be had makes files as this process.
    pub(crate) any_uid: bool,
    /// Likewise for groups.
    pub(crate) any_gid: bool,
}

impl Identities {
    /// Runs `make` as `caller`: EPERM if the caller's ids are forbidden, EOVERFLOW if they do not exist here.
    ///
    /// The guest's kernel has checked permissions with all of the caller's groups, of which we know one at most: if the
    /// host refuses for permissions, `make` runs again without that check, all else being the caller's.
    pub(crate) fn as_caller<T>(
        &self,
        caller: Caller,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let acting = self.act(caller)?;
        match make() {
            // Only leaving 0 took the capability away, and returning to it will set all of them right.
            Err(Errno::EACCES) if acting.uid == Some(0) && raise(CAP_DAC_OVERRIDE).is_ok() => make(),
            result => result,
        }
    }

    /// Runs `write` as a user who is nobody and keeps setuid and setgid bits, as this process does: as itself where it
    /// cannot become that user, who is not root then either.
    pub(crate) fn as_nobody<T>(&self, write: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        if !self
            .other_uids
            .as_ref()
            .is_some_and(|others| others.contains(NOBODY))
        {
            return write();
        }
        let _acting = Acting {
            group: false,
            gid: None,
            uid: Some(self.own_uid),
        };
        switch_uid(NOBODY)?;
        raise(CAP_FSETID)?;
        write()
    }

    fn act(&self, caller: Caller) -> Result<Acting, Errno> {
        let uid = become_id(
            self.uids.to_host(caller.uid)?,
            self.own_uid,
            self.other_uids.as_ref(),
        )
        .or_else(|error| if self.any_uid { Ok(None) } else { Err(error) })?;
        let gid = become_id(
            self.gids.to_host(caller.gid)?,
            self.own_gid,
            self.other_gids.as_ref(),
        )
        .or_else(|error| if self.any_gid { Ok(None) } else { Err(error) })?;
        let group = match caller.group {
            Some(group) => Some(self.gids.to_host(group)?),
            None => None,
        };
        let mut acting = Acting {
            group: false,
            gid: None,
            uid: None,
        };
        // The groups and the group first: without fsuid 0 there is no capability to change them (CVE-2022-0358).
        if group.is_some() && self.other_gids.is_some() {
            set_groups(group)?;
            acting.group = true;
        }
        if let Some(gid) = gid {
            acting.gid = Some(self.own_gid);
            switch_gid(gid)?;
        }
        if let Some(uid) = uid {
            acting.uid = Some(self.own_uid);
            switch_uid(uid)?;
        }
        Ok(acting)
    }
}

/// The id to switch to, or none if it is ours already. Without the capability, the guest's root is this process.
fn become_id(wanted: u32, own: u32, others: Option<&Mapped>) -> Result<Option<u32>, Errno> {
    match others {
        _ if wanted == own => Ok(None),
        Some(others) if others.contains(wanted) => Ok(Some(wanted)),
        None if wanted == 0 => Ok(None),
        _ => Err(Errno::EOVERFLOW),
    }
}

/// A thread that acts for a caller; it is itself again when this is dropped.
struct Acting {
    group: bool,
    gid: Option<u32>,
    uid: Option<u32>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        let restored = self.uid.map_or(Ok(()), switch_uid).is_ok()
            & self.gid.map_or(Ok(()), switch_gid).is_ok()
            & (!self.group || set_groups(None).is_ok());
        if !restored {
            // It can always go back to its own ids; if not, no later request may run with a guest user's.
            say(format_args!("cannot become itself again"));
            end(ExitKind::Software.code());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_cannot_be_had_are_refused() {
        let mapped = Mapped::parse("0 1000 1\n1 100000 10");
        assert_eq!(become_id(0, 0, Some(&mapped)), Ok(None));
        assert_eq!(become_id(10, 0, Some(&mapped)), Ok(Some(10)));
        assert_eq!(become_id(11, 0, Some(&mapped)), Err(Errno::EOVERFLOW));
        // Unprivileged: the guest's root is this process, others are nobody here.
        assert_eq!(become_id(0, 107, None), Ok(None));
        assert_eq!(become_id(107, 107, None), Ok(None));
        assert_eq!(become_id(1000, 107, None), Err(Errno::EOVERFLOW));
    }
}
