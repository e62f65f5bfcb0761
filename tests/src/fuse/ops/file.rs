//! Open files: OPEN, CREATE, TMPFILE and what is done with their handles.

use nix::errno::Errno;
use zerocopy::FromBytes;

use super::terminated;
use crate::fuse::abi::{
    COPY_FILE_RANGE, COPY_FILE_RANGE_64, CREATE, CopyFileRangeIn, CopyFileRangeOut, CreateIn, EntryOut,
    FALLOCATE, FLUSH, FSYNC, FallocateIn, FlushIn, FsyncIn, IOCTL, IoctlIn, IoctlOut, LSEEK, LseekIn,
    LseekOut, OPEN, OpenIn, OpenOut, READ, RELEASE, ReadIn, ReleaseIn, SYNCFS, SyncfsIn, TMPFILE, WRITE,
    WriteIn, WriteOut, fsync_flags, write_flags,
};
use crate::fuse::client::{Client, bytes, exact};

/// An open file.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its node.
    pub node: u64,
    /// Its handle.
    pub fh: u64,
    /// `FOPEN_*` ([`crate::fuse::abi::open_out`]).
    pub open_flags: u32,
}

impl Client {
    /// OPEN with open(2) flags.
    pub fn open(&self, node: u64, flags: i32) -> Result<Opened, Errno> {
        self.open_with(node, flags, 0)
    }

    /// OPEN with open(2) flags and FUSE's own.
    pub fn open_with(&self, node: u64, flags: i32, open_flags: u32) -> Result<Opened, Errno> {
        let body = OpenIn {
            flags: flags as u32,
            open_flags,
        };
        let out: OpenOut = self.call_struct(OPEN, node, &[bytes(&body)])?;
        Ok(Opened {
            node,
            fh: out.fh,
            open_flags: out.open_flags,
        })
    }

    /// CREATE with open(2) flags (O_CREAT is implied).
    pub fn create(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        flags: i32,
        mode: u32,
    ) -> Result<(EntryOut, Opened), Errno> {
        self.create_call(CREATE, parent, &terminated(name), flags | libc::O_CREAT, mode)
    }

    /// TMPFILE; the kernel sends a name of `/`.
    pub fn tmpfile(&self, parent: u64, flags: i32, mode: u32) -> Result<(EntryOut, Opened), Errno> {
        self.create_call(TMPFILE, parent, b"/\0", flags | libc::O_TMPFILE, mode)
    }

    fn create_call(
        &self,
        opcode: u32,
        parent: u64,
        name: &[u8],
        flags: i32,
        mode: u32,
    ) -> Result<(EntryOut, Opened), Errno> {
        let (mode, umask) = self.creation(mode | libc::S_IFREG);
        let body = CreateIn {
            flags: flags as u32,
            mode,
            umask,
            open_flags: 0,
        };
        let room = size_of::<EntryOut>() + size_of::<OpenOut>();
        let reply = self.call_creating(opcode, parent, &[bytes(&body), name], room)?;
        let (entry, rest) = EntryOut::read_from_prefix(&reply).expect("an entry");
        let out: OpenOut = exact(rest);
        let opened = Opened {
            node: entry.nodeid,
            fh: out.fh,
            open_flags: out.open_flags,
        };
        Ok((entry, opened))
    }

    /// READ.
    pub fn read(&self, file: Opened, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let body = ReadIn {
            fh: file.fh,
            offset,
            size,
            ..ReadIn::default()
        };
        self.call(READ, file.node, &[bytes(&body)], size as usize)
    }

    /// WRITE; returns how many bytes were written.
    pub fn write(&self, file: Opened, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        self.write_with(file, offset, data, 0)
    }

    /// WRITE of a caller without CAP_FSETID: setuid and setgid are to be cleared.
    pub fn write_killing(&self, file: Opened, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        self.write_with(file, offset, data, write_flags::KILL_SUIDGID)
    }

    /// WRITE with flags.
    pub fn write_with(&self, file: Opened, offset: u64, data: &[u8], write_flags: u32) -> Result<u32, Errno> {
        let body = WriteIn {
            fh: file.fh,
            offset,
            size: data.len() as u32,
            write_flags,
            ..WriteIn::default()
        };
        let out: WriteOut = self.call_struct(WRITE, file.node, &[bytes(&body), data])?;
        Ok(out.size)
    }

    /// FLUSH.
    pub fn flush(&self, file: Opened) -> Result<(), Errno> {
        let body = FlushIn {
            fh: file.fh,
            ..FlushIn::default()
        };
        self.call_empty(FLUSH, file.node, &[bytes(&body)])
    }

    /// RELEASE.
    pub fn release(&self, file: Opened) -> Result<(), Errno> {
        let body = ReleaseIn {
            fh: file.fh,
            ..ReleaseIn::default()
        };
        self.call_empty(RELEASE, file.node, &[bytes(&body)])
    }

    /// FSYNC, of data only or of everything.
    pub fn fsync(&self, file: Opened, data_only: bool) -> Result<(), Errno> {
        let flags = if data_only { fsync_flags::DATASYNC } else { 0 };
        let body = FsyncIn {
            fh: file.fh,
            flags,
            padding: 0,
        };
        self.call_empty(FSYNC, file.node, &[bytes(&body)])
    }

    /// LSEEK.
    pub fn lseek(&self, file: Opened, offset: u64, whence: i32) -> Result<u64, Errno> {
        let body = LseekIn {
            fh: file.fh,
            offset,
            whence: whence as u32,
            padding: 0,
        };
        let out: LseekOut = self.call_struct(LSEEK, file.node, &[bytes(&body)])?;
        Ok(out.offset)
    }

    /// FALLOCATE with a fallocate(2) mode.
    pub fn fallocate(&self, file: Opened, mode: i32, offset: u64, length: u64) -> Result<(), Errno> {
        let body = FallocateIn {
            fh: file.fh,
            offset,
            length,
            mode: mode as u32,
            padding: 0,
        };
        self.call_empty(FALLOCATE, file.node, &[bytes(&body)])
    }

    /// COPY_FILE_RANGE; returns how many bytes were copied.
    pub fn copy_file_range(&self, from: (Opened, u64), to: (Opened, u64), len: u64) -> Result<u32, Errno> {
        let body = copy_range(from, to, len);
        let out: WriteOut = self.call_struct(COPY_FILE_RANGE, from.0.node, &[bytes(&body)])?;
        Ok(out.size)
    }

    /// COPY_FILE_RANGE_64; returns how many bytes were copied.
    pub fn copy_file_range_64(&self, from: (Opened, u64), to: (Opened, u64), len: u64) -> Result<u64, Errno> {
        let body = copy_range(from, to, len);
        let out: CopyFileRangeOut = self.call_struct(COPY_FILE_RANGE_64, from.0.node, &[bytes(&body)])?;
        Ok(out.bytes_copied)
    }

    /// SYNCFS.
    pub fn syncfs(&self, node: u64) -> Result<(), Errno> {
        self.call_empty(SYNCFS, node, &[bytes(&SyncfsIn::default())])
    }

    /// IOCTL with input, and room for output; returns the call's result and the output.
    pub fn ioctl(
        &self,
        file: Opened,
        cmd: u32,
        input: &[u8],
        out_size: u32,
    ) -> Result<(i32, Vec<u8>), Errno> {
        let body = IoctlIn {
            fh: file.fh,
            cmd,
            in_size: input.len() as u32,
            out_size,
            ..IoctlIn::default()
        };
        let room = size_of::<IoctlOut>() + out_size as usize;
        let reply = self.call(IOCTL, file.node, &[bytes(&body), input], room)?;
        let (out, data) = IoctlOut::read_from_prefix(&reply).expect("a result");
        Ok((out.result, data.to_vec()))
    }
}

fn copy_range(from: (Opened, u64), to: (Opened, u64), len: u64) -> CopyFileRangeIn {
    CopyFileRangeIn {
        fh_in: from.0.fh,
        off_in: from.1,
        nodeid_out: to.0.node,
        fh_out: to.0.fh,
        off_out: to.1,
        len,
        flags: 0,
    }
}
