//! A guest that tries every operation on everything it ever saw.

use airlockfs_tests::boundary::Numbers;
use airlockfs_tests::fuse::abi::{EntryOut, ROOT};
use airlockfs_tests::fuse::{Client, SetAttr};
use nix::errno::Errno;

use crate::canary::{Canary, MARK};

const NAMES: &[&str] = &[
    "swap", "other", "parent", "mount", "source", "file", "dir", "sub", "many", "0", "1", "link", "new",
];
/// Of these the host makes use by name: the guest must not make links of them.
const HOSTS: &[&str] = &["mount", "source"];

/// The guest.
pub(crate) struct Guest<'a> {
    fs: Client,
    canary: &'a Canary,
    numbers: Numbers,
    /// Nodes it ever saw.
    nodes: Vec<u64>,
    pub(crate) fine: u64,
    pub(crate) errors: u64,
}

impl<'a> Guest<'a> {
    pub(crate) fn new(fs: Client, canary: &'a Canary, seed: u64) -> Self {
        Self {
            fs,
            canary,
            numbers: Numbers::new(seed),
            nodes: vec![ROOT],
            fine: 0,
            errors: 0,
        }
    }

    fn node(&mut self) -> u64 {
        let count = self.nodes.len() as u64;
        // Old ones and new ones.
        let at = if self.numbers.below(2) == 0 {
            self.numbers.below(count)
        } else {
            self.numbers.below(count.min(8))
        };
        self.nodes[at as usize]
    }

    fn name(&mut self) -> &'static str {
        NAMES[self.numbers.below(NAMES.len() as u64) as usize]
    }

    fn change_name(&mut self, parent: u64) -> &'static str {
        loop {
            let name = self.name();
            if parent != ROOT || !HOSTS.contains(&name) {
                return name;
            }
        }
    }

    fn bytes(&self, what: &str, bytes: &[u8]) {
        let found = bytes.windows(MARK.len()).any(|part| part == MARK);
        assert!(
            !found,
            "{what} gave the guest what lies outside: {}",
            bytes.escape_ascii()
        );
    }

    fn inode(&self, what: &str, ino: u64) {
        assert!(
            !self.canary.inodes.contains(&ino),
            "{what} gave the guest inode {ino} outside"
        );
    }

    fn seen(&mut self, what: &str, entry: &EntryOut) {
        self.inode(what, entry.attr.ino);
        if entry.nodeid != 0 && self.nodes.len() < 2000 {
            self.nodes.push(entry.nodeid);
        }
    }

    /// So many operations.
    pub(crate) fn walk(mut self, steps: u64) -> Self {
        for _ in 0..steps {
            match self.step() {
                Ok(()) => self.fine += 1,
                Err(_) => self.errors += 1,
            }
        }
        self
    }

    fn step(&mut self) -> Result<(), Errno> {
        let fs = self.fs.clone();
        let (node, parent) = (self.node(), self.node());
        match self.numbers.below(24) {
            0..=4 => {
                let name = self.name();
                let entry = fs.lookup(parent, name)?;
                self.seen("LOOKUP", &entry);
            }
            5 => self.inode("GETATTR", fs.getattr(node)?.ino),
            6 => {
                let change = SetAttr::default().mode(0o777).mtime(7, 7).atime(7, 7);
                self.inode("SETATTR", fs.setattr(node, change)?.ino);
            }
            7 => self.inode("SETATTR", fs.setattr(node, SetAttr::default().size(3))?.ino),
            8 => self.inode("SETATTR", fs.setattr(node, SetAttr::default().uid(1).gid(1))?.ino),
            9 | 10 => {
                let flags = [libc::O_RDONLY, libc::O_RDWR, libc::O_RDWR | libc::O_TRUNC];
                let file = fs.open(node, flags[self.numbers.below(3) as usize])?;
                let read = fs.read(file, 0, 4096);
                self.bytes("READ", read.as_deref().unwrap_or_default());
                let _ = fs.write(file, 0, b"GUEST");
                let _ = fs.read(file, 0, 64 << 10).map(|bytes| self.bytes("READ", &bytes));
                let _ = fs.write(file, 5, b"GUEST");
                let _ = fs.fsync(file, true);
                self.inode("GETATTR", fs.getattr_fh(node, file.fh)?.ino);
                fs.release(file)?;
            }
            11 => {
                let name = self.change_name(parent);
                let (entry, file) = fs.create(parent, name, libc::O_RDWR, 0o666)?;
                self.seen("CREATE", &entry);
                let _ = fs.read(file, 0, 4096).map(|bytes| self.bytes("READ", &bytes));
                let _ = fs.write(file, 0, b"GUEST");
                fs.release(file)?;
            }
            12 => {
                let name = self.change_name(parent);
                let entry = fs.mkdir(parent, name, 0o777)?;
                self.seen("MKDIR", &entry);
            }
            13 => {
                let name = self.change_name(parent);
                let target = self
                    .canary
                    .path
                    .join("file")
                    .into_os_string()
                    .into_encoded_bytes();
                let entry = fs.symlink(parent, name, target)?;
                self.seen("SYMLINK", &entry);
            }
            14 => {
                let name = self.change_name(parent);
                let entry = fs.link(node, parent, name)?;
                self.seen("LINK", &entry);
            }
            15 => {
                let name = self.change_name(parent);
                fs.unlink(parent, name)?;
            }
            16 => {
                let name = self.change_name(parent);
                fs.rmdir(parent, name)?;
            }
            17 => {
                let other = self.node();
                let (name, new) = (self.change_name(parent), self.change_name(other));
                let flags = [0, libc::RENAME_EXCHANGE, libc::RENAME_NOREPLACE];
                fs.rename2(parent, name, other, new, flags[self.numbers.below(3) as usize])?;
            }
            18 => {
                let target = fs.readlink(node)?;
                self.bytes("READLINK", &target);
            }
            19 | 20 => {
                let dir = fs.opendir(node)?;
                if let Ok(entries) = fs.readdirplus_all(dir, 8192) {
                    for item in &entries {
                        self.bytes("READDIRPLUS", &item.dirent.name);
                        self.inode("READDIRPLUS's entry", item.dirent.ino);
                        if item.entry.nodeid != 0 {
                            self.seen("READDIRPLUS", &item.entry);
                        }
                    }
                }
                fs.releasedir(dir)?;
            }
            21 => {
                let _ = fs.setxattr(node, "user.guest", b"GUEST", 0);
                let _ = fs.removexattr(node, "user.mark");
                let value = fs.getxattr(node, "user.mark", 4096);
                self.bytes("GETXATTR", value.as_deref().unwrap_or_default());
                for name in fs.listxattr(node, 4096)? {
                    self.bytes("LISTXATTR", &name);
                }
            }
            22 => {
                let (entry, file) = fs.tmpfile(parent, libc::O_RDWR, 0o600)?;
                self.seen("TMPFILE", &entry);
                fs.release(file)?;
            }
            _ => {
                let name = self.change_name(parent);
                let entry = fs.mknod(parent, name, libc::S_IFIFO | 0o666, 0)?;
                self.seen("MKNOD", &entry);
            }
        }
        Ok(())
    }
}
