//! User and group ids inside the values of extended attributes. The kernel of either side acts on them, so they are
//! translated as owners are (`--translate-uid`, `--translate-gid`): an entry for the guest's user 5 gives rights to the
//! host user that the guest's user 5 is, and to no other.
//!
//! What the host's kernel reads decides, so the host's name of an attribute counts, whatever `--xattrmap` shows it as.
//! Under any other name a value is the guest's own data, with the guest's ids in it.

use std::borrow::Cow;

use airlockfs_ipc::Errno;

use crate::ids::IdMap;

/// What an attribute's value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// No ids.
    Data,
    /// A POSIX ACL (uapi `linux/posix_acl_xattr.h`): version 2, then tag, permissions and id of each entry.
    Acl,
    /// `security.capability` (uapi `linux/capability.h`), of revision 3 with the id of the user that is root in the user
    /// namespace where the capabilities count; revision 2 stands for 0.
    Capability,
    /// ACLs of other kinds (`system.nfs4_acl`, `system.cifs_acl`, …): ids as text or as numbers of their own.
    Unknown,
}

/// Between the guest's ids and ours.
pub(crate) struct Ids<'a> {
    /// User ids.
    pub(crate) uids: &'a IdMap,
    /// Group ids.
    pub(crate) gids: &'a IdMap,
}

const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
const ACL_VERSION: u32 = 2;
const ACL_USER: u16 = 2;
const ACL_GROUP: u16 = 8;

const CAPABILITY_REVISION: u32 = 0xff00_0000;
const CAPABILITY_2: u32 = 0x0200_0000;
const CAPABILITY_3: u32 = 0x0300_0000;
/// Length of revision 2; the root's id follows in revision 3.
const CAPABILITY_LENGTH: usize = 20;

impl Holds {
    /// By the host's name.
    pub(crate) fn of(name: &[u8]) -> Self {
        match name {
            b"system.posix_acl_access" | b"system.posix_acl_default" => Self::Acl,
            b"security.capability" => Self::Capability,
            _ if name.starts_with(b"system.") => Self::Unknown,
            _ => Self::Data,
        }
    }
}

impl Ids<'_> {
    /// Whether any id is another one on the host.
    pub(crate) fn differ(&self) -> bool {
        !self.uids.is_empty() || !self.gids.is_empty()
    }

    /// A guest's value for the host. Errors as chown(2) to an id in it has them; EINVAL for what is not well-formed, and
    /// where two entries of an ACL would be one host id's: either alone would say something else.
    pub(crate) fn to_host<'v>(&self, holds: Holds, value: &'v [u8]) -> Result<Cow<'v, [u8]>, Errno> {
        match holds {
            Holds::Data => Ok(value.into()),
            _ if !self.differ() => Ok(value.into()),
            // Setting nothing removes it.
            Holds::Acl if value.is_empty() => Ok(value.into()),
            Holds::Acl => self.acl_to_host(value.to_vec()).map(Cow::Owned),
            Holds::Capability => {
                let (mut capability, root) = capability(value).ok_or(Errno::EINVAL)?;
                with_root(&mut capability, self.uids.to_host(root)?);
                Ok(capability.into())
            }
            Holds::Unknown => Err(Errno::ENOTSUP),
        }
    }

    /// Makes a host's value one for the guest, in place; its new length. None where the guest has no id for it: the
    /// attribute is not there.
    ///
    /// An entry of an ACL is left out where the guest's id for it, if there is one, acts as another id on the host: the
    /// host's kernel would not grant the guest's user what the entry says. So no two entries become one.
    pub(crate) fn to_guest(&self, holds: Holds, value: &mut [u8], length: usize) -> Option<usize> {
        match holds {
            Holds::Data => Some(length),
            Holds::Acl => Some(self.acl_to_guest(value, length)),
            _ if !self.differ() => Some(length),
            Holds::Capability => {
                let (mut capability, root) = capability(value.get(..length)?)?;
                with_root(&mut capability, same(self.uids, root)?);
                value.get_mut(..capability.len())?.copy_from_slice(&capability);
                Some(capability.len())
            }
            Holds::Unknown => None,
        }
    }

    fn of_tag(&self, tag: u16) -> Option<&IdMap> {
        match tag {
            ACL_USER => Some(self.uids),
            ACL_GROUP => Some(self.gids),
            _ => None,
        }
    }

    fn acl_to_host(&self, mut acl: Vec<u8>) -> Result<Vec<u8>, Errno> {
        let (header, entries) = acl.split_at_mut_checked(ACL_HEADER).ok_or(Errno::EINVAL)?;
        if number(header, 0) != Some(ACL_VERSION) || entries.len() % ACL_ENTRY != 0 {
            return Err(Errno::EINVAL);
        }
        let mut seen = Vec::new();
        for entry in entries.chunks_exact_mut(ACL_ENTRY) {
            let (tag, id) = tag_and_id(entry).ok_or(Errno::EINVAL)?;
            if let Some(map) = self.of_tag(tag) {
                let host = map.to_host(id)?;
                set_number(entry, 4, host);
                seen.push((tag, host));
            }
        }
        let entries = seen.len();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() < entries {
            return Err(Errno::EINVAL);
        }
        Ok(acl)
    }

    fn acl_to_guest(&self, acl: &mut [u8], length: usize) -> usize {
        let (mut read, mut written) = (ACL_HEADER, ACL_HEADER.min(length));
        while let Some((tag, id)) = acl.get(read..length).and_then(tag_and_id) {
            let shown = match self.of_tag(tag) {
                Some(map) => same(map, id),
                None => Some(id),
            };
            if let Some(id) = shown {
                acl.copy_within(read..read + ACL_ENTRY, written);
                set_number(acl, written + 4, id);
                written += ACL_ENTRY;
            }
            read += ACL_ENTRY;
        }
        written
    }
}

/// The guest's id that acts as this one of the host. -1 is what the kernel shows for an id outside the user namespace.
fn same(map: &IdMap, host: u32) -> Option<u32> {
    let guest = map.known_to_guest(host).filter(|_| host != u32::MAX)?;
    (map.to_host(guest) == Ok(host)).then_some(guest)
}

/// A capability with room for the root's id, and that id.
fn capability(value: &[u8]) -> Option<(Vec<u8>, u32)> {
    let root = match (number(value, 0)? & CAPABILITY_REVISION, value.len()) {
        (CAPABILITY_2, CAPABILITY_LENGTH) => 0,
        (CAPABILITY_3, length) if length == CAPABILITY_LENGTH + 4 => number(value, CAPABILITY_LENGTH)?,
        _ => return None,
    };
    Some((value.to_vec(), root))
}

/// Gives a capability this root, in the shorter form where it can be said so.
fn with_root(capability: &mut Vec<u8>, root: u32) {
    let revision = match root {
        0 => CAPABILITY_2,
        _ => CAPABILITY_3,
    };
    let flags = number(capability, 0).unwrap_or_default() & !CAPABILITY_REVISION;
    set_number(capability, 0, revision | flags);
    capability.truncate(CAPABILITY_LENGTH);
    if root != 0 {
        capability.extend(root.to_le_bytes());
    }
}

fn tag_and_id(entry: &[u8]) -> Option<(u16, u32)> {
    Some((u16::from_le_bytes(*entry.first_chunk()?), number(entry, 4)?))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn set_number(bytes: &mut [u8], at: usize, number: u32) {
    if let Some(place) = bytes.get_mut(at..at + 4) {
        place.copy_from_slice(&number.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use airlockfs_ipc::message::{IdRange, IdRangeKind};

    use super::*;

    fn map(kind: IdRangeKind, from: u32, to: u32, count: u32) -> IdMap {
        IdMap::new(vec![IdRange {
            kind,
            from,
            to,
            count,
        }])
    }

    fn acl(entries: &[(u16, u32)]) -> Vec<u8> {
        let mut acl = ACL_VERSION.to_le_bytes().to_vec();
        for (tag, id) in entries {
            acl.extend(tag.to_le_bytes());
            acl.extend(7u16.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    fn guest(ids: &Ids<'_>, holds: Holds, value: &[u8]) -> Option<Vec<u8>> {
        let mut room = [value, &[0; 8]].concat();
        let length = ids.to_guest(holds, &mut room, value.len())?;
        room.truncate(length);
        Some(room)
    }

    #[test]
    fn entries_are_translated_both_ways_each_by_its_kind() {
        let (uids, gids) = (
            map(IdRangeKind::Map, 0, 1000, 10),
            map(IdRangeKind::Map, 0, 2000, 10),
        );
        let ids = Ids {
            uids: &uids,
            gids: &gids,
        };
        let rest = (1, u32::MAX);
        let here = acl(&[rest, (ACL_USER, 5), (ACL_GROUP, 5), (16, 3)]);
        let there = acl(&[rest, (ACL_USER, 1005), (ACL_GROUP, 2005), (16, 3)]);
        assert_eq!(ids.to_host(Holds::Acl, &here).as_deref(), Ok(&there[..]));
        assert_eq!(guest(&ids, Holds::Acl, &there), Some(here));
        // Nobody in the guest is host user 5, nor one that does not exist here.
        let hidden = acl(&[rest, (ACL_USER, 5), (ACL_USER, u32::MAX), (ACL_GROUP, 5), (16, 3)]);
        assert_eq!(guest(&ids, Holds::Acl, &hidden), Some(acl(&[rest, (16, 3)])));
    }

    #[test]
    fn what_cannot_be_translated_is_refused_as_chown_refuses_it() {
        let none = IdMap::default();
        let set = |uids: &IdMap, entries: &[(u16, u32)]| {
            let ids = Ids { uids, gids: &none };
            ids.to_host(Holds::Acl, &acl(entries)).map(Cow::into_owned)
        };
        let forbidden = map(IdRangeKind::ForbidGuest, 0, 0, 10);
        assert_eq!(set(&forbidden, &[(ACL_USER, 5)]), Err(Errno::EPERM));
        assert_eq!(set(&forbidden, &[(ACL_USER, u32::MAX)]), Err(Errno::EINVAL));
        let squashed = map(IdRangeKind::SquashGuest, 0, 1000, 10);
        assert_eq!(set(&squashed, &[(ACL_USER, 5)]), Ok(acl(&[(ACL_USER, 1000)])));
        assert_eq!(
            set(&squashed, &[(ACL_USER, 5), (ACL_USER, 6)]),
            Err(Errno::EINVAL)
        );
        let both = set(&squashed, &[(ACL_USER, 5), (ACL_GROUP, 1000)]);
        assert!(both.is_ok(), "a user and a group are two");
        let ids = Ids {
            uids: &squashed,
            gids: &none,
        };
        for cut in [1, 3, 5, 11] {
            let whole = acl(&[(ACL_USER, 5)]);
            assert_eq!(ids.to_host(Holds::Acl, &whole[..cut]).err(), Some(Errno::EINVAL));
        }
        assert_eq!(ids.to_host(Holds::Acl, b"").as_deref(), Ok(&b""[..]));
        assert_eq!(ids.to_host(Holds::Unknown, b"").err(), Some(Errno::ENOTSUP));
    }

    #[test]
    fn the_root_of_a_capability_is_an_id_too() {
        let capability = |revision: u32, root: Option<u32>| {
            let mut value = (revision | 1).to_le_bytes().to_vec();
            value.extend([3; 16]);
            value.extend(root.map(u32::to_le_bytes).into_iter().flatten());
            value
        };
        let none = IdMap::default();
        let uids = map(IdRangeKind::Map, 0, 1000, 10);
        let ids = Ids {
            uids: &uids,
            gids: &none,
        };
        for (here, there) in [
            (
                capability(CAPABILITY_2, None),
                capability(CAPABILITY_3, Some(1000)),
            ),
            (
                capability(CAPABILITY_3, Some(4)),
                capability(CAPABILITY_3, Some(1004)),
            ),
        ] {
            assert_eq!(ids.to_host(Holds::Capability, &here).as_deref(), Ok(&there[..]));
            assert_eq!(guest(&ids, Holds::Capability, &there), Some(here));
        }
        let hosts = capability(CAPABILITY_2, None);
        assert_eq!(
            guest(&ids, Holds::Capability, &hosts),
            None,
            "the host's root is nobody"
        );
        for cut in [0, 3, 19] {
            assert_eq!(
                ids.to_host(Holds::Capability, &hosts[..cut]).err(),
                Some(Errno::EINVAL)
            );
        }
        let ids = Ids {
            uids: &none,
            gids: &none,
        };
        assert_eq!(guest(&ids, Holds::Capability, &hosts), Some(hosts));
    }

    #[test]
    fn where_ids_are_squashed_only_what_acts_as_the_hosts_is_shown() {
        let none = IdMap::default();
        for (uids, shown) in [
            (map(IdRangeKind::SquashGuest, 0, 1000, 2000), &[1000][..]),
            (map(IdRangeKind::SquashHost, 0, 99, 2000), &[99][..]),
            (map(IdRangeKind::ForbidGuest, 0, 0, 50), &[99, 1000]),
            (map(IdRangeKind::Guest, 0, 5000, 50), &[99, 1000]),
            (map(IdRangeKind::Host, 5, 6, 1), &[][..]),
        ] {
            let ids = Ids {
                uids: &uids,
                gids: &none,
            };
            let all = acl(&[(ACL_USER, 5), (ACL_USER, 99), (ACL_USER, 1000)]);
            let expected: Vec<_> = shown.iter().map(|id| (ACL_USER, *id)).collect();
            assert_eq!(guest(&ids, Holds::Acl, &all), Some(acl(&expected)), "{uids:?}");
        }
    }
}
