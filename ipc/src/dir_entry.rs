//! Directory entries in a bulk buffer: postcard messages back to back.

use crate::{ProtocolError, message::DirEntry};

/// Longest encoded entry in bytes: the name, and every number at its widest.
pub const DIR_ENTRY_MAX: usize = 640;

impl<'a> DirEntry<'a> {
    /// Writes the entry at the start of `buffer`. How long it is, or `None` if it does not fit.
    pub fn encode(&self, buffer: &mut [u8]) -> Option<usize> {
        postcard::to_slice(self, buffer).ok().map(|used| used.len())
    }

    /// Reads the entry at the start of `bytes`, which were copied out of shared memory. The entry and what follows.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), ProtocolError> {
        postcard::take_from_bytes(bytes).map_err(|_| ProtocolError("a directory entry that does not decode"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Bytes, NodeId,
        message::{Attr, Entry, Timestamp},
    };

    #[test]
    fn entries_stand_back_to_back() {
        let wide = Timestamp {
            seconds: i64::MIN,
            nanoseconds: u32::MAX,
        };
        let attr = Attr {
            ino: u64::MAX,
            size: u64::MAX,
            blocks: u64::MAX,
            atime: wide,
            mtime: wide,
            ctime: wide,
            btime: Some(wide),
            mode: u32::MAX,
            nlink: u32::MAX,
            uid: u32::MAX,
            gid: u32::MAX,
            rdev: (u32::MAX, u32::MAX),
            blksize: u32::MAX,
            attributes: u64::MAX,
            attributes_mask: u64::MAX,
            submount: true,
        };
        let name = [0xff; 255];
        let entry = DirEntry {
            ino: u64::MAX,
            next: u64::MAX,
            kind: u8::MAX,
            name: Bytes(&name),
            entry: Some(Entry {
                node: NodeId(u64::MAX),
                attr,
            }),
        };
        let mut buffer = [0; 2 * DIR_ENTRY_MAX];
        let first = entry.encode(&mut buffer).unwrap();
        assert!(first <= DIR_ENTRY_MAX, "{first}");
        let second = entry.encode(&mut buffer[first..]).unwrap();
        let (one, rest) = DirEntry::decode(&buffer[..first + second]).unwrap();
        let (two, rest) = DirEntry::decode(rest).unwrap();
        assert_eq!((one, two, rest), (entry, entry, &[][..]));
        assert!(DirEntry::decode(&buffer[..first - 1]).is_err());
    }
}
