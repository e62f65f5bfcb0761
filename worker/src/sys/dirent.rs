//! getdents64(2) and the records it writes.
#![expect(unsafe_code, reason = "the call takes a pointer")]

use std::os::fd::{AsFd, AsRawFd};

use airlockfs_ipc::Errno;

use super::check;

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dirent<'a> {
    /// Inode number.
    pub(crate) ino: u64,
    /// Offset of the next entry.
    pub(crate) next: u64,
    /// DT_*.
    pub(crate) kind: u8,
    /// Name, not terminated.
    pub(crate) name: &'a [u8],
    /// Length of the record in bytes.
    pub(crate) length: usize,
}

/// Reads records to `buffer`; how many bytes, 0 at the end.
pub(crate) fn read_entries(directory: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: `buffer` has the room that is said.
    check(unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_fd().as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })
}

/// The record at the start of `bytes`. `None` when there is no whole one.
pub(crate) fn parse(bytes: &[u8]) -> Option<Dirent<'_>> {
    let ino = u64::from_ne_bytes(*bytes.first_chunk()?);
    let next = u64::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let length = usize::from(u16::from_ne_bytes(*bytes.get(16..)?.first_chunk()?));
    let kind = *bytes.get(18)?;
    let name = bytes.get(19..length)?;
    let end = name.iter().position(|&byte| byte == 0)?;
    Some(Dirent {
        ino,
        next,
        kind,
        name: name.get(..end)?,
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_cut_ones_are_not() {
        let mut record = Vec::new();
        record.extend(7u64.to_ne_bytes());
        record.extend(9u64.to_ne_bytes());
        record.extend(24u16.to_ne_bytes());
        record.push(libc::DT_REG);
        record.extend(b"abc\0\0");
        let parsed = parse(&record).unwrap();
        let expected = Dirent {
            ino: 7,
            next: 9,
            kind: libc::DT_REG,
            name: b"abc",
            length: 24,
        };
        assert_eq!(parsed, expected);
        for cut in 0..24 {
            assert_eq!(parse(&record[..cut]), None);
        }
        record[16] = 3;
        assert_eq!(parse(&record), None);
    }

    #[test]
    fn a_directory_lists_its_dots() {
        let directory = std::fs::File::open("/proc/self/task").unwrap();
        let mut buffer = [0; 4096];
        let length = read_entries(&directory, &mut buffer).unwrap();
        assert_eq!(parse(&buffer[..length]).unwrap().name, b".");
    }
}
