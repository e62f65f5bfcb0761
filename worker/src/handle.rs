//! Open files and directories: what the guest's handles stand for.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError, RwLock},
};

use airlockfs_ipc::{
    Errno, GENERATIONS, Handle, NodeId,
    recycle::{Recycler, Shared},
};

use crate::{inode::Located, ops::dir::Entries, session};

/// An open file or directory.
pub(crate) struct Open {
    file: OwnedFd,
    /// Whose it is.
    pub(crate) node: Located,
    /// Flags of open(2) it was opened with on the host.
    pub(crate) flags: i32,
    /// For a directory: what was read and not yet handed out.
    pub(crate) entries: Option<Mutex<Entries>>,
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Open {
    /// A regular file.
    pub(crate) const fn file(file: OwnedFd, node: Located, flags: i32) -> Self {
        Self {
            file,
            node,
            flags,
            entries: None,
        }
    }

    /// A directory.
    pub(crate) fn directory(file: OwnedFd, node: Located) -> Self {
        Self {
            file,
            node,
            flags: libc::O_RDONLY,
            entries: Some(Mutex::default()),
        }
    }

    /// Whether it may be written to.
    pub(crate) const fn is_writable(&self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }
}

/// The table of handles.
pub(crate) struct Handles {
    slots: RwLock<Slots>,
    max: usize,
    opens: Recycler<Open>,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Slot {
    /// How often this slot was given away before: the upper half of the handle.
    generation: u32,
    open: Option<Shared<Open>>,
}

impl Slot {
    /// Makes it ready for another file. A slot whose generations are used up is never used again.
    const fn renew(&mut self) -> bool {
        self.generation += 1;
        self.generation < GENERATIONS
    }
}

impl Slots {
    fn slot(&mut self, handle: Handle) -> Option<(u32, &mut Slot)> {
        let index = (handle.0 as u32).checked_sub(1)?;
        let slot = self.slots.get_mut(index as usize)?;
        (u64::from(slot.generation) == handle.0 >> 32).then_some((index, slot))
    }
}

impl Handles {
    /// No handles yet, and never more than `max`.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            slots: RwLock::default(),
            max,
            opens: Recycler::default(),
        }
    }

    /// Makes an open file one that several can use.
    pub(crate) fn share(&self, open: Open) -> Shared<Open> {
        self.opens.share(open)
    }

    /// Adds an open file. ENFILE if the guest has too many; EBADF if its session is over.
    pub(crate) fn insert(&self, open: Open) -> Result<Handle, Errno> {
        let open = Some(self.share(open));
        let mut table = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if session::is_over() {
            drop(table);
            return Err(Errno::EBADF);
        }
        let Slots { slots, free } = &mut *table;
        let index = match free.pop() {
            Some(index) => index,
            None if slots.len() < self.max => {
                slots.push(Slot::default());
                (slots.len() - 1) as u32
            }
            None => {
                drop(table);
                return Err(Errno::ENFILE);
            }
        };
        let slot = slots.get_mut(index as usize).ok_or(Errno::ENFILE)?;
        slot.open = open;
        Ok(Handle(
            (u64::from(slot.generation) << 32) | (u64::from(index) + 1),
        ))
    }

    /// The open file of a handle. EBADF if there is none; the guest may have made it up.
    pub(crate) fn get(&self, handle: Handle) -> Result<Shared<Open>, Errno> {
        let table = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let index = (handle.0 as u32).checked_sub(1).ok_or(Errno::EBADF)?;
        let slot = table.slots.get(index as usize).ok_or(Errno::EBADF)?;
        if u64::from(slot.generation) != handle.0 >> 32 {
            return Err(Errno::EBADF);
        }
        slot.open.clone().ok_or(Errno::EBADF)
    }

    /// Ends a handle; its file closes when its last user drops it. Whose it was.
    pub(crate) fn close(&self, handle: Handle) -> Result<Located, Errno> {
        let open = self.remove(handle)?;
        let node = open.node;
        self.opens.give_back(open);
        Ok(node)
    }

    fn remove(&self, handle: Handle) -> Result<Shared<Open>, Errno> {
        let mut table = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let (index, slot) = table.slot(handle).ok_or(Errno::EBADF)?;
        let open = slot.open.take().ok_or(Errno::EBADF)?;
        if slot.renew() {
            table.free.push(index);
        }
        Ok(open)
    }

    /// Takes all out.
    pub(crate) fn clear(&self) -> Vec<Shared<Open>> {
        let mut table = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let Slots { slots, free } = &mut *table;
        let mut all = Vec::new();
        for (index, slot) in slots.iter_mut().enumerate() {
            if let Some(open) = slot.open.take() {
                all.push(open);
                if slot.renew() {
                    free.push(index as u32);
                }
            }
        }
        all
    }

    /// Some open file of an inode. Goes through all: for inodes that can be reached in no other way.
    pub(crate) fn of_node(&self, node: NodeId) -> Option<Shared<Open>> {
        let table = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let mut opens = table.slots.iter().filter_map(|slot| slot.open.as_ref());
        opens.find(|open| open.node.id == node).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(node: u64) -> Open {
        let file = std::fs::File::open("/dev/null").unwrap();
        let node = Located {
            id: NodeId(node),
            share: 0,
            mount: 0,
            dev: 0,
        };
        Open::file(file.into(), node, libc::O_RDWR)
    }

    #[test]
    fn a_handle_is_never_used_again() {
        let handles = Handles::new(2);
        let first = handles.insert(open(1)).unwrap();
        assert!(handles.get(first).is_ok());
        assert!(handles.close(first).is_ok());
        let second = handles.insert(open(1)).unwrap();
        assert_ne!(first, second);
        assert_eq!(handles.get(first).err(), Some(Errno::EBADF));
        assert_eq!(handles.close(first).err(), Some(Errno::EBADF));
        handles.clear();
        assert_eq!(handles.get(second).err(), Some(Errno::EBADF));
    }

    #[test]
    fn there_are_never_more_than_the_limit() {
        let handles = Handles::new(2);
        let first = handles.insert(open(1)).unwrap();
        handles.insert(open(2)).unwrap();
        assert_eq!(handles.insert(open(3)).err(), Some(Errno::ENFILE));
        handles.close(first).unwrap();
        let third = handles.insert(open(3)).unwrap();
        assert_eq!(
            handles.of_node(NodeId(3)).unwrap().node.id,
            handles.get(third).unwrap().node.id
        );
        assert!(handles.of_node(NodeId(1)).is_none());
    }

    #[test]
    fn made_up_handles_are_refused() {
        let handles = Handles::new(2);
        handles.insert(open(1)).unwrap();
        for made_up in [0, 2, 1 << 32 | 1, u64::MAX, u64::from(u32::MAX)] {
            assert_eq!(
                handles.get(Handle(made_up)).err(),
                Some(Errno::EBADF),
                "{made_up}"
            );
            assert_eq!(
                handles.close(Handle(made_up)).err(),
                Some(Errno::EBADF),
                "{made_up}"
            );
        }
    }
}
