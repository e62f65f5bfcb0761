//! Owners and permissions as the guest sees them: the host's, but for what `--uid`, `--gid`, `--mode`, the masks and the
//! default ids say. What they change is seen alike by every operation and stays as it is on the host.

use airlockfs_ipc::{Errno, message::Attr};

use crate::ids::IdMap;

/// Permission bits of a mode.
pub(crate) const PERMISSIONS: u32 = 0o7777;

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Users.
    pub(crate) uid: Owner,
    /// Groups.
    pub(crate) gid: Owner,
    mode: Option<u32>,
    fmask: u32,
    dmask: u32,
    /// What the guest makes or changes has no set-user-ID and set-group-ID bit on the host.
    no_set_ids: bool,
}

/// How one kind of id is seen.
#[derive(Debug, Default)]
pub(crate) struct Owner {
    /// The id of everything.
    forced: Option<u32>,
    /// The id of what the guest has none for.
    fallback: Option<u32>,
    /// What the kernel shows for ids outside this process's user namespace.
    overflow: Option<u32>,
}

impl Owner {
    /// `overflow`: as its field; none where every id is inside.
    pub(crate) const fn new(forced: Option<u32>, fallback: Option<u32>, overflow: Option<u32>) -> Self {
        Self {
            forced,
            fallback,
            overflow,
        }
    }

    /// Whether owners on the host are not the guest's business.
    pub(crate) const fn is_forced(&self) -> bool {
        self.forced.is_some()
    }

    /// The guest's id for a host's, and whether it stands for that very one.
    fn of(&self, map: &IdMap, host: u32) -> (u32, bool) {
        if let Some(forced) = self.forced {
            return (forced, false);
        }
        match (map.known_to_guest(host), self.fallback) {
            (Some(guest), Some(_)) if self.overflow != Some(host) => (guest, true),
            (_, Some(fallback)) => (fallback, false),
            (known, None) => (known.unwrap_or(host), true),
        }
    }

    /// Whether every host id is seen as the guest's id for that very one.
    const fn shows_all(&self) -> bool {
        self.forced.is_none() && self.fallback.is_none()
    }

    /// What a change of the owner to `wanted` leaves to be done. EPERM for another than the one that everything has.
    pub(crate) fn change(&self, wanted: Option<u32>) -> Result<Option<u32>, Errno> {
        match (self.forced, wanted) {
            (Some(forced), Some(wanted)) if forced != wanted => Err(Errno::EPERM),
            (Some(_), _) => Ok(None),
            (None, wanted) => Ok(wanted),
        }
    }
}

impl View {
    /// As the command line says.
    pub(crate) const fn new(
        config: &airlockfs_ipc::message::View,
        no_set_ids: bool,
        uid: Owner,
        gid: Owner,
    ) -> Self {
        Self {
            uid,
            gid,
            mode: config.mode,
            fmask: config.fmask,
            dmask: config.dmask,
            no_set_ids,
        }
    }

    /// Turns attributes of the host's into the guest's.
    pub(crate) fn show(&self, attr: &mut Attr, uids: &IdMap, gids: &IdMap) {
        let (uid, own_uid) = self.uid.of(uids, attr.uid);
        let (gid, own_gid) = self.gid.of(gids, attr.gid);
        (attr.uid, attr.gid) = (uid, gid);
        attr.mode = self.mode(attr.mode, own_uid, own_gid);
    }

    fn mode(&self, host: u32, own_uid: bool, own_gid: bool) -> u32 {
        let kind = host & libc::S_IFMT;
        match self.mode {
            Some(mode) if kind != libc::S_IFLNK => kind | mode & !self.mask(kind),
            _ => host & !(self.mask(kind) | set_ids(kind, own_uid, own_gid)),
        }
    }

    fn mask(&self, kind: u32) -> u32 {
        match kind {
            libc::S_IFDIR => self.dmask,
            libc::S_IFLNK => 0,
            _ => self.fmask,
        }
    }

    /// The permissions on the host of a new inode of type `kind`: what is not seen is not set either.
    pub(crate) fn created(&self, kind: u32, asked: u32) -> u32 {
        asked
            & !(self.mask(kind)
                | set_ids(kind, !self.uid.is_forced(), !self.gid.is_forced())
                | self.never(kind))
    }

    /// Bits that nothing of this type gets on the host, whoever had them before.
    pub(crate) const fn never(&self, kind: u32) -> u32 {
        if self.no_set_ids {
            set_ids(kind, false, false)
        } else {
            0
        }
    }

    /// Whether the guest sees all permissions as they are, so that what [`Self::changed`] says does not depend on the host.
    pub(crate) const fn hides_no_permissions(&self) -> bool {
        self.mode.is_none()
            && self.fmask == 0
            && self.dmask == 0
            && self.uid.shows_all()
            && self.gid.shows_all()
    }

    /// The permissions to set on the host when the guest changes those of an inode to `asked`: what it does not see
    /// stays. None: nothing is to be done. EPERM for others than the ones that everything has.
    pub(crate) fn changed(
        &self,
        asked: u32,
        host: &Attr,
        uids: &IdMap,
        gids: &IdMap,
    ) -> Result<Option<u32>, Errno> {
        let kind = host.mode & libc::S_IFMT;
        if let Some(mode) = self.mode {
            let same = asked & PERMISSIONS == mode & !self.mask(kind);
            return if same { Ok(None) } else { Err(Errno::EPERM) };
        }
        let (_, own_uid) = self.uid.of(uids, host.uid);
        let (_, own_gid) = self.gid.of(gids, host.gid);
        let unseen = self.mask(kind) | set_ids(kind, own_uid, own_gid);
        Ok(Some(
            (asked & !unseen | host.mode & unseen) & PERMISSIONS & !self.never(kind),
        ))
    }
}

/// The bits with which a program would get an owner's rights whom the guest is only shown.
const fn set_ids(kind: u32, own_uid: bool, own_gid: bool) -> u32 {
    let uid = if own_uid { 0 } else { libc::S_ISUID };
    // A directory's says whose group new files get.
    let gid = if own_gid || kind == libc::S_IFDIR {
        0
    } else {
        libc::S_ISGID
    };
    uid | gid
}

#[cfg(test)]
mod tests {
    use airlockfs_ipc::message::{IdRange, IdRangeKind};

    use super::*;

    const FILE: u32 = libc::S_IFREG;
    const DIRECTORY: u32 = libc::S_IFDIR;

    fn shown(view: &View, mode: u32, uid: u32) -> (u32, u32) {
        let mut attr = Attr {
            mode,
            uid,
            gid: uid,
            ..Attr::default()
        };
        view.show(&mut attr, &IdMap::default(), &IdMap::default());
        (attr.mode, attr.uid)
    }

    #[test]
    fn nothing_is_changed_by_default() {
        let view = View::default();
        for mode in [FILE | 0o6755, DIRECTORY | 0o3777, libc::S_IFLNK | 0o777] {
            assert_eq!(shown(&view, mode, 65_534), (mode, 65_534));
            assert_eq!(view.created(mode & libc::S_IFMT, mode & 0o7777), mode & 0o7777);
        }
    }

    #[test]
    fn setuid_of_an_owner_that_is_only_shown_is_not() {
        let view = View {
            uid: Owner::new(Some(0), None, None),
            ..View::default()
        };
        assert_eq!(shown(&view, FILE | 0o6755, 7), (FILE | 0o2755, 0));
        assert_eq!(view.created(FILE, 0o6755), 0o2755);
        let host = Attr {
            mode: FILE | 0o4700,
            ..Attr::default()
        };
        let none = IdMap::default();
        assert_eq!(view.changed(0o4755, &host, &none, &none), Ok(Some(0o4755)));
        assert_eq!(
            view.changed(0o755, &host, &none, &none),
            Ok(Some(0o4755)),
            "unseen, so it stays"
        );
        let view = View {
            gid: Owner::new(Some(0), None, None),
            ..View::default()
        };
        assert_eq!(shown(&view, FILE | 0o2755, 7).0, FILE | 0o755);
        assert_eq!(shown(&view, DIRECTORY | 0o2755, 7).0, DIRECTORY | 0o2755);
    }

    #[test]
    fn no_file_gets_set_id_bits_or_keeps_them_where_none_may_have_any() {
        let view = View {
            no_set_ids: true,
            ..View::default()
        };
        assert!(view.hides_no_permissions());
        assert_eq!(view.created(FILE, 0o6755), 0o755);
        assert_eq!(view.created(DIRECTORY, 0o6775), 0o2775);
        assert_eq!(view.never(libc::S_IFIFO), 0o6000);
        // What the host gave a file shows, until the guest changes it.
        assert_eq!(shown(&view, FILE | 0o6755, 0).0, FILE | 0o6755);
        let masked = View {
            fmask: 0o4000,
            ..view
        };
        let host = Attr {
            mode: FILE | 0o4700,
            ..Attr::default()
        };
        let none = IdMap::default();
        assert_eq!(masked.changed(0o755, &host, &none, &none), Ok(Some(0o755)));
    }

    #[test]
    fn the_default_is_for_owners_without_an_id_in_the_guest() {
        let range = IdRange {
            kind: IdRangeKind::Map,
            from: 0,
            to: 1000,
            count: 10,
        };
        let map = IdMap::new(vec![range]);
        let owner = Owner::new(None, Some(99), None);
        assert_eq!(owner.of(&map, 1003), (3, true));
        assert_eq!(owner.of(&map, 3), (99, false));
        assert_eq!(owner.of(&IdMap::default(), 3), (3, true));
        let owner = Owner::new(None, Some(99), Some(65_534));
        assert_eq!(owner.of(&IdMap::default(), 65_534), (99, false));
        assert_eq!(Owner::default().of(&map, 3), (3, true));
    }

    #[test]
    fn masks_take_off_and_do_not_touch() {
        let view = View {
            fmask: 0o133,
            dmask: 0o022,
            ..View::default()
        };
        assert_eq!(shown(&view, FILE | 0o777, 0).0, FILE | 0o644);
        assert_eq!(shown(&view, DIRECTORY | 0o1777, 0).0, DIRECTORY | 0o1755);
        assert_eq!(shown(&view, libc::S_IFLNK | 0o777, 0).0, libc::S_IFLNK | 0o777);
        let host = Attr {
            mode: FILE | 0o751,
            ..Attr::default()
        };
        let none = IdMap::default();
        assert_eq!(view.changed(0o600, &host, &none, &none), Ok(Some(0o711)));
    }
}
