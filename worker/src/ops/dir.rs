//! READDIR and READDIRPLUS.

use std::sync::PoisonError;

use airlockfs_ipc::{
    Bytes, DIR_ENTRY_MAX, Errno, Handle, Name, NodeId,
    message::{Attr, DirEntry, Entry, Reply, dirent_size},
    ring::{BULK_SIZE, BulkBuffer},
};
use nix::unistd::{Whence, lseek};

use super::lookup;
use crate::{
    handle::Open,
    listings::{Ticket, Unread},
    sys::{CName, parse, read_entries, stat, stat_at},
    volume::Volume,
};

/// Where a handle is in its directory.
pub(crate) struct Entries {
    /// Offset of the first record that was not handed out. None: the kernel must be told one first.
    next: Option<u64>,
    /// What was read and not yet handed out, if it is still kept.
    unread: Option<Ticket>,
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            next: Some(0),
            unread: None,
        }
    }
}

/// Entries on their way to a bulk buffer.
struct Page<'a> {
    buffer: &'a BulkBuffer,
    /// Bytes written.
    used: usize,
    /// Bytes that are left in the guest's buffer.
    left: usize,
    plus: bool,
}

impl Page<'_> {
    /// Whether an entry with such a name fits.
    fn fits(&self, name: &[u8]) -> bool {
        dirent_size(name.len(), self.plus) <= self.left && self.used + DIR_ENTRY_MAX <= BULK_SIZE
    }

    /// Adds an entry that fits.
    fn push(&mut self, entry: &DirEntry<'_>) {
        let mut encoded = [0; DIR_ENTRY_MAX];
        let length = entry.encode(&mut encoded).unwrap_or(0);
        let encoded = encoded.get(..length).unwrap_or_default();
        self.used += self.buffer.copy_from_slice(self.used, encoded);
        self.left = self
            .left
            .saturating_sub(dirent_size(entry.name.0.len(), self.plus));
    }

    fn reply(&self) -> Reply<'static> {
        Reply::Entries {
            size: u32::try_from(self.used).unwrap_or(u32::MAX),
        }
    }
}

/// Entries from `offset` on, as many as fit in `size` bytes for the guest. With `plus` each costs one statx(2) and counts
/// a lookup, and none is opened; what vanished meanwhile comes without its inode.
pub(crate) fn read(
    volume: &Volume,
    handle: Handle,
    offset: u64,
    size: usize,
    plus: bool,
    buffer: &BulkBuffer,
) -> Result<Reply<'static>, Errno> {
    let open = volume.open_file(handle)?;
    let mut page = Page {
        buffer,
        used: 0,
        left: size,
        plus,
    };
    if volume.is_synthetic(open.node.id) {
        read_shares(volume, offset, &mut page);
        return Ok(page.reply());
    }
    let entries = open.entries.as_ref().ok_or(Errno::ENOTDIR)?;
    // Held across system calls: it is this handle's alone, and its position in the directory is what it guards.
    let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    match entries.read(volume, &open, offset, &mut page) {
        Err(error) if page.used == 0 => Err(error),
        _ => Ok(page.reply()),
    }
}

impl Entries {
    fn read(&mut self, volume: &Volume, open: &Open, offset: u64, page: &mut Page<'_>) -> Result<(), Errno> {
        let kept = self.unread.take();
        let goes_on = self.next == Some(offset);
        let mut unread = match kept.map(|ticket| volume.listings.resume(ticket)) {
            Some(Some(unread)) if goes_on => unread,
            None if goes_on => volume.listings.begin(),
            // What was read is of no use, or others needed its place. The kernel is ahead of what was handed out.
            other => {
                let mut unread = other.flatten().unwrap_or_else(|| volume.listings.begin());
                unread.clear();
                self.next = None;
                if let Err(error) = go_to(open, &mut unread, offset) {
                    volume.listings.end(unread);
                    return Err(error);
                }
                self.next = Some(offset);
                unread
            }
        };
        let result = self.fill(volume, open, &mut unread, page);
        if unread.is_empty() {
            volume.listings.end(unread);
        } else {
            self.unread = Some(volume.listings.keep(unread));
        }
        result
    }

    fn fill(
        &mut self,
        volume: &Volume,
        open: &Open,
        unread: &mut Unread,
        page: &mut Page<'_>,
    ) -> Result<(), Errno> {
        loop {
            if unread.is_empty() && !unread.refill(|room| read_entries(open, room))? {
                return Ok(());
            }
            let record = parse(unread.bytes()).ok_or(Errno::EIO)?;
            if !page.fits(record.name) {
                return Ok(());
            }
            let ino = match record.name {
                // As the guest knows it: above a share, a mount or a directory that the host took out of the share lies
                // what is nobody's business.
                b".." => match volume.inodes.parent_ino(open.node.id) {
                    Some(ino) => ino,
                    None => stat(open)?.ino(),
                },
                _ => record.ino,
            };
            let ino = volume.ino(ino, open.node.share);
            let entry = if page.plus {
                look_up(volume, open, record.name)?
            } else {
                None
            };
            page.push(&DirEntry {
                ino,
                next: record.next,
                kind: record.kind,
                name: Bytes(record.name),
                entry,
            });
            self.next = Some(record.next);
            let length = record.length;
            unread.take(length);
        }
    }
}

/// Goes to a position. One beyond 2^63, which some file systems (NFS, FUSE) give and lseek(2) takes for a negative one, is
/// looked for from the start: it is behind the entry that says so.
fn go_to(open: &Open, unread: &mut Unread, position: u64) -> Result<(), Errno> {
    match lseek(open, position.cast_signed(), Whence::SeekSet) {
        Err(nix::errno::Errno::EINVAL) if position > i64::MAX.unsigned_abs() => {}
        result => return Ok(result.map(drop)?),
    }
    lseek(open, 0, Whence::SeekSet)?;
    while unread.refill(|room| read_entries(open, room))? {
        while !unread.is_empty() {
            let record = parse(unread.bytes()).ok_or(Errno::EIO)?;
            let (next, length) = (record.next, record.length);
            unread.take(length);
            if next == position {
                return Ok(());
            }
        }
    }
    Err(Errno::EINVAL)
}

/// The inode of a name. `None` for the dots, for what is not there any more, and where the guest knows too many inodes:
/// it may still know the name.
fn look_up(volume: &Volume, open: &Open, name: &[u8]) -> Result<Option<Entry>, Errno> {
    let Ok(checked) = Name::new(name) else {
        return Ok(None);
    };
    let name = CName::new(checked);
    let Ok(stat) = stat_at(open, name.as_c_str()) else {
        return Ok(None);
    };
    match volume.listed(open, open.node, &name, &stat) {
        Err(Errno::ENOMEM) => Ok(None),
        result => result.map(Some),
    }
}

/// Attributes of the directory over several shares.
pub(crate) fn synthetic_attr(volume: &Volume) -> Attr {
    let links = u32::try_from(volume.roots.len()).unwrap_or(u32::MAX);
    Attr {
        ino: NodeId::ROOT.0,
        mode: libc::S_IFDIR | 0o555,
        nlink: links.saturating_add(2),
        blksize: 4096,
        uid: volume.config.view.uid.unwrap_or(0),
        gid: volume.config.view.gid.unwrap_or(0),
        ..Attr::default()
    }
}

fn read_shares(volume: &Volume, offset: u64, page: &mut Page<'_>) {
    let dots = [(&b"."[..], None), (b"..", None)].into_iter();
    let names = volume
        .config
        .shares
        .iter()
        .filter_map(|share| share.name.as_deref());
    let shares = names.zip(volume.roots.iter().map(Some));
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    for (position, (name, root)) in dots.chain(shares).enumerate().skip(from) {
        if !page.fits(name) {
            return;
        }
        let found = root.and_then(|&root| {
            let held = volume.held(root).ok()?;
            let stat = stat(&held).ok()?;
            Some((volume.ino(stat.ino(), held.share), held.kind))
        });
        let entry = match (root, Name::new(name)) {
            (Some(_), Ok(name)) if page.plus => lookup::share(volume, name).ok(),
            _ => None,
        };
        page.push(&DirEntry {
            ino: found.map_or(NodeId::ROOT.0, |(ino, _)| ino),
            next: position as u64 + 1,
            kind: found.map_or(libc::DT_DIR, |(_, kind)| (kind >> 12) as u8),
            name: Bytes(name),
            entry,
        });
    }
}
