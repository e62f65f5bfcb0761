//! LOOKUP, FORGET and DESTROY.

use airlockfs_ipc::{
    Errno, Name, NodeId,
    message::{Entry, Reply, Request},
};

use super::{attr, lock, open};
use crate::{
    crew::Errand,
    locks::Session,
    session,
    sys::{CName, stat},
    volume::Volume,
};

/// One component beneath a directory. One system call where the directory is hot, none of which opens the name.
pub(crate) fn lookup(volume: &Volume, parent: NodeId, name: Name<'_>) -> Result<Reply<'static>, Errno> {
    if volume.is_synthetic(parent) {
        return share(volume, name).map(Reply::Entry);
    }
    let directory = volume.directory(parent)?;
    volume.entry_at(&directory, &CName::new(name)).map(Reply::Entry)
}

/// An inode that the guest knows, or the directory that it was last seen in and still is in.
pub(crate) fn known(volume: &Volume, node: NodeId, above: bool) -> Result<Reply<'static>, Errno> {
    let node = if above { volume.inodes.above(node)? } else { node };
    let attr = attr::attributes(volume, node, None)?;
    volume.inodes.look_up(node)?;
    Ok(Reply::Entry(Entry { node, attr }))
}

/// A share beneath the directory over all of them.
pub(crate) fn share(volume: &Volume, name: Name<'_>) -> Result<Entry, Errno> {
    let named = |share: &&airlockfs_ipc::message::Share| share.name.as_deref() == Some(name.as_bytes());
    let mut shares = volume.config.shares.iter().zip(&volume.roots);
    let (_, &root) = shares.find(|(share, _)| named(share)).ok_or(Errno::ENOENT)?;
    let held = volume.held(root)?;
    let attr = volume.attr(&stat(&held)?, held.share, true);
    volume.inodes.look_up(root)?;
    Ok(Entry { node: root, attr })
}

/// Drops lookups: 16 bytes for each, node id then count.
pub(crate) fn forget(volume: &Volume, records: &[u8]) -> Reply<'static> {
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
    let records = records.chunks_exact(16).map(|record| {
        let (id, count) = record.split_at(8);
        (NodeId(number(id)), number(count))
    });
    if volume.config.zero_open {
        volume.by_node.forget(records.clone().map(|(id, _)| id));
    }
    volume.inodes.forget(records);
    Reply::Done
}

/// Drops everything the guest holds. The session whose locks may still be tried, and what is left to be closed, which may
/// take time or hang.
#[must_use]
pub(crate) fn reset(volume: &Volume) -> (Session, Box<dyn Send>) {
    session::end();
    let (session, records) = volume.locks.clear();
    let remains = Box::new((
        records,
        volume.handles.clear(),
        volume.by_node.clear(),
        volume.listings.clear(),
        volume.inodes.reset(),
    ));
    (session, remains)
}

/// What a request does that must be done even if nobody waits for it any more: what is let go of would stay for ever else.
pub(crate) fn not_to_be_lost(request: &Request<'_>) -> Option<Errand> {
    Some(match *request {
        Request::Forget(records) => {
            let records = records.0.to_vec();
            Box::new(move |volume| {
                forget(volume, &records);
            })
        }
        Request::Release { handle, flock_owner } => Box::new(move |volume| {
            // One that is not open any more is released.
            let _ = open::release(volume, handle, flock_owner);
        }),
        Request::ReleaseDir { handle } => Box::new(move |volume| {
            let _ = open::release(volume, handle, None);
        }),
        Request::Flush { handle, lock_owner } => Box::new(move |volume| {
            let _ = lock::flush(volume, handle, lock_owner);
        }),
        Request::Interrupt { wait } => Box::new(move |volume| volume.locks.interrupt(wait)),
        _ => return None,
    })
}
