//! READDIR and READDIRPLUS.

use std::sync::{Mutex, PoisonError};

use airlockfs_ipc::{
    Bytes, DIR_ENTRY_MAX, Errno, Handle, Name, NodeId,
    message::{Attr, DirEntry, Entry, Reply, dirent_size},
    ring::{BULK_SIZE, BulkBuffer},
};
use nix::unistd::{Whence, lseek};

use super::lookup;
use crate::{
    handle::Open,
    sys::{CName, parse, read_entries, stat, stat_at},
    volume::Volume,
};

/// Bytes read from the kernel at once: some 800 entries.
const READ_AHEAD: usize = 32 << 10;

/// Buffers kept for the next directories.
const SPARE: usize = 8;

/// Buffers for what is read of directories, [`READ_AHEAD`] bytes each: a handle has one from its first entry to its last.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| vec![0; READ_AHEAD])
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(buffer);
        }
    }
}

/// What was read of a directory and not yet handed out.
#[derive(Default)]
pub(crate) struct Entries {
    records: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of the first record that was not handed out.
    next: u64,
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
        if offset != self.next {
            (self.start, self.end) = (0, 0);
            lseek(open, offset.cast_signed(), Whence::SeekSet)?;
            self.next = offset;
        }
        loop {
            if self.start >= self.end {
                (self.start, self.end) = (0, 0);
                if self.records.is_empty() {
                    self.records = volume.buffers.take();
                }
                self.end = read_entries(open, &mut self.records)?;
                if self.end == 0 {
                    volume.buffers.give_back(std::mem::take(&mut self.records));
                    return Ok(());
                }
            }
            let record = self.records.get(self.start..self.end).and_then(parse);
            let record = record.ok_or(Errno::EIO)?;
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
            self.next = record.next;
            self.start += record.length;
        }
    }
}

/// The inode of a name. `None` for the dots, and for what is not there any more.
fn look_up(volume: &Volume, open: &Open, name: &[u8]) -> Result<Option<Entry>, Errno> {
    let Ok(checked) = Name::new(name) else {
        return Ok(None);
    };
    let name = CName::new(checked);
    match stat_at(open, name.as_c_str()) {
        Ok(stat) => volume.listed(open, open.node, &name, &stat).map(Some),
        Err(_) => Ok(None),
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
