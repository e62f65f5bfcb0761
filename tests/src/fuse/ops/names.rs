//! Operations on names: looking up, creating, linking, renaming, removing.

use nix::errno::Errno;

use super::terminated;
use crate::fuse::abi::{
    EntryOut, LINK, LOOKUP, LinkIn, MKDIR, MKNOD, MkdirIn, MknodIn, READLINK, RENAME, RENAME2, RMDIR,
    Rename2In, RenameIn, SYMLINK, UNLINK,
};
use crate::fuse::client::{Client, bytes, exact};

impl Client {
    /// LOOKUP.
    pub fn lookup(&self, parent: u64, name: impl AsRef<[u8]>) -> Result<EntryOut, Errno> {
        self.call_struct(LOOKUP, parent, &[&terminated(name)])
    }

    /// LOOKUP of each component of a relative path, from the root.
    pub fn walk(&self, path: impl AsRef<[u8]>) -> Result<EntryOut, Errno> {
        let mut entry = EntryOut {
            nodeid: crate::fuse::abi::ROOT,
            ..EntryOut::default()
        };
        for name in path.as_ref().split(|b| *b == b'/') {
            entry = self.lookup(entry.nodeid, name)?;
        }
        Ok(entry)
    }

    /// MKDIR.
    pub fn mkdir(&self, parent: u64, name: impl AsRef<[u8]>, mode: u32) -> Result<EntryOut, Errno> {
        let (mode, umask) = self.creation(mode);
        let body = MkdirIn { mode, umask };
        self.call_entry(MKDIR, parent, &[bytes(&body), &terminated(name)])
    }

    /// MKNOD; the mode holds the type.
    pub fn mknod(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        mode: u32,
        rdev: u32,
    ) -> Result<EntryOut, Errno> {
        let (mode, umask) = self.creation(mode);
        let body = MknodIn {
            mode,
            rdev,
            umask,
            padding: 0,
        };
        self.call_entry(MKNOD, parent, &[bytes(&body), &terminated(name)])
    }

    /// SYMLINK.
    pub fn symlink(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
    ) -> Result<EntryOut, Errno> {
        self.call_entry(SYMLINK, parent, &[&terminated(name), &terminated(target)])
    }

    /// LINK of a node under a new name.
    pub fn link(&self, node: u64, parent: u64, name: impl AsRef<[u8]>) -> Result<EntryOut, Errno> {
        self.call_struct(
            LINK,
            parent,
            &[bytes(&LinkIn { oldnodeid: node }), &terminated(name)],
        )
    }

    /// READLINK.
    pub fn readlink(&self, node: u64) -> Result<Vec<u8>, Errno> {
        self.call(READLINK, node, &[], 4096)
    }

    /// UNLINK.
    pub fn unlink(&self, parent: u64, name: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.call_empty(UNLINK, parent, &[&terminated(name)])
    }

    /// RMDIR.
    pub fn rmdir(&self, parent: u64, name: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.call_empty(RMDIR, parent, &[&terminated(name)])
    }

    /// RENAME.
    pub fn rename(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        newdir: u64,
        newname: impl AsRef<[u8]>,
    ) -> Result<(), Errno> {
        let body = RenameIn { newdir };
        self.call_empty(
            RENAME,
            parent,
            &[bytes(&body), &terminated(name), &terminated(newname)],
        )
    }

    /// RENAME2 with renameat2(2) flags.
    pub fn rename2(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        newdir: u64,
        newname: impl AsRef<[u8]>,
        flags: u32,
    ) -> Result<(), Errno> {
        let body = Rename2In {
            newdir,
            flags,
            padding: 0,
        };
        self.call_empty(
            RENAME2,
            parent,
            &[bytes(&body), &terminated(name), &terminated(newname)],
        )
    }

    fn call_entry(&self, opcode: u32, parent: u64, parts: &[&[u8]]) -> Result<EntryOut, Errno> {
        self.call_creating(opcode, parent, parts, size_of::<EntryOut>())
            .map(|body| exact(&body))
    }
}
