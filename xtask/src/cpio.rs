//! Writes a cpio archive in the `newc` format, which is what the kernel unpacks as its first root
//! file system (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::HashSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written in memory. Paths are absolute in the guest; missing parents are made.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    names: HashSet<String>,
}

impl Archive {
    /// Adds a directory with mode 0755, unless it is there.
    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if !path.is_empty() && !self.names.contains(path) {
            self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
        }
    }

    /// Adds a regular file; `mode` is its permission bits. A second file of that name is left out.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_matches('/');
        if !self.names.contains(path) {
            self.entry(path, REGULAR | mode, (0, 0), content);
        }
    }

    /// Adds a character device with mode 0600.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(
            path.trim_matches('/'),
            CHARACTER_DEVICE | 0o600,
            (major, minor),
            &[],
        );
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.header("TRAILER!!!", 0, (0, 0), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.names.insert(path.to_owned());
        self.header(path, mode, device, content.len());
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn header(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), size: usize) {
        // Inode numbers tell hard links apart, and no entry here is one.
        let inode = self.names.len();
        let name_size = path.len() + 1;
        // magic, ino, mode, uid, gid, nlink, mtime, filesize, dev major and minor, rdev major and
        // minor, namesize, check
        self.bytes.extend_from_slice(
            format!(
                "070701{inode:08X}{mode:08X}{0:08X}{0:08X}{1:08X}{0:08X}{size:08X}{0:08X}{0:08X}{major:08X}{minor:08X}\
                 {name_size:08X}{0:08X}{path}\0",
                0, 1
            )
            .as_bytes(),
        );
        self.pad();
    }

    /// Names and contents end at a multiple of 4.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_starts_at_a_multiple_of_four_and_parents_come_first() {
        let mut archive = Archive::default();
        archive.file("/a/b/c", 0o644, b"12345");
        archive.file("/a/b/c", 0o644, b"twice");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 4, "a, a/b, a/b/c and the trailer");
        assert!(starts.iter().all(|at| at % 4 == 0));
        assert_eq!(
            text.get(starts[2] + 54..starts[2] + 62),
            Some("00000005"),
            "the size of c"
        );
        assert!(text.contains("TRAILER!!!"));
    }
}
