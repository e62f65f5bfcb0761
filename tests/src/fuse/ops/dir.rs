//! Directories: OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.

use nix::errno::Errno;
use zerocopy::FromBytes;

use super::file::Opened;
use crate::fuse::abi::{
    Dirent, EntryOut, FSYNCDIR, FsyncIn, OPENDIR, OpenIn, OpenOut, READDIR, READDIRPLUS, RELEASEDIR, ReadIn,
    ReleaseIn,
};
use crate::fuse::client::{Client, bytes};

/// An entry of READDIR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Inode number.
    pub ino: u64,
    /// Position behind it.
    pub off: u64,
    /// `DT_*`.
    pub kind: u32,
    /// Name.
    pub name: Vec<u8>,
}

/// An entry of READDIRPLUS; a node id of 0 stands for 'not looked up'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntryPlus {
    /// What LOOKUP would have answered.
    pub entry: EntryOut,
    /// The entry.
    pub dirent: DirEntry,
}

impl Client {
    /// OPENDIR.
    pub fn opendir(&self, node: u64) -> Result<Opened, Errno> {
        let body = OpenIn {
            flags: (libc::O_RDONLY | libc::O_DIRECTORY) as u32,
            open_flags: 0,
        };
        let out: OpenOut = self.call_struct(OPENDIR, node, &[bytes(&body)])?;
        Ok(Opened {
            node,
            fh: out.fh,
            open_flags: out.open_flags,
        })
    }

    /// READDIR: what fits in `size` bytes, from a position on.
    pub fn readdir(&self, dir: Opened, offset: u64, size: u32) -> Result<Vec<DirEntry>, Errno> {
        let body = ReadIn {
            fh: dir.fh,
            offset,
            size,
            ..ReadIn::default()
        };
        let reply = self.call(READDIR, dir.node, &[bytes(&body)], size as usize)?;
        let mut rest = &reply[..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            entries.push(take_dirent(&mut rest));
        }
        Ok(entries)
    }

    /// READDIRPLUS: what fits in `size` bytes, from a position on.
    pub fn readdirplus(&self, dir: Opened, offset: u64, size: u32) -> Result<Vec<DirEntryPlus>, Errno> {
        let body = ReadIn {
            fh: dir.fh,
            offset,
            size,
            ..ReadIn::default()
        };
        let reply = self.call(READDIRPLUS, dir.node, &[bytes(&body)], size as usize)?;
        let mut rest = &reply[..];
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (entry, behind) = EntryOut::read_from_prefix(rest).expect("a whole entry");
            rest = behind;
            entries.push(DirEntryPlus {
                entry,
                dirent: take_dirent(&mut rest),
            });
        }
        Ok(entries)
    }

    /// All entries, by as many READDIRs of `size` bytes as that takes.
    pub fn readdir_all(&self, dir: Opened, size: u32) -> Result<Vec<DirEntry>, Errno> {
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let mut batch = self.readdir(dir, offset, size)?;
            let Some(last) = batch.last() else {
                return Ok(all);
            };
            offset = last.off;
            all.append(&mut batch);
        }
    }

    /// All entries, by as many READDIRPLUSs of `size` bytes as that takes.
    pub fn readdirplus_all(&self, dir: Opened, size: u32) -> Result<Vec<DirEntryPlus>, Errno> {
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let mut batch = self.readdirplus(dir, offset, size)?;
            let Some(last) = batch.last() else {
                return Ok(all);
            };
            offset = last.dirent.off;
            all.append(&mut batch);
        }
    }

    /// RELEASEDIR.
    pub fn releasedir(&self, dir: Opened) -> Result<(), Errno> {
        let body = ReleaseIn {
            fh: dir.fh,
            ..ReleaseIn::default()
        };
        self.call_empty(RELEASEDIR, dir.node, &[bytes(&body)])
    }

    /// FSYNCDIR.
    pub fn fsyncdir(&self, dir: Opened) -> Result<(), Errno> {
        let body = FsyncIn {
            fh: dir.fh,
            ..FsyncIn::default()
        };
        self.call_empty(FSYNCDIR, dir.node, &[bytes(&body)])
    }
}

/// Takes an entry with its name and padding.
///
/// # Panics
/// When the entry is cut short: the kernel would drop the rest of the listing.
fn take_dirent(rest: &mut &[u8]) -> DirEntry {
    let (head, behind) = Dirent::read_from_prefix(rest).expect("a whole entry");
    let len = head.namelen as usize;
    assert!(len > 0 && len <= 255, "a name of {len} bytes");
    let padded = (size_of::<Dirent>() + len).next_multiple_of(8) - size_of::<Dirent>();
    assert!(behind.len() >= padded, "an entry without its padding");
    let name = behind[..len].to_vec();
    assert!(!name.contains(&b'/') && !name.contains(&0), "a name {name:?}");
    *rest = &behind[padded..];
    DirEntry {
        ino: head.ino,
        off: head.off,
        kind: head.kind,
        name,
    }
}
