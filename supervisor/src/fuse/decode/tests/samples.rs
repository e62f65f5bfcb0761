//! A valid request for every operation that is served, and what tests need to make others.

use std::time::Duration;

use zerocopy::IntoBytes;

use crate::fuse::abi::{self, InHeader, flags};
use crate::fuse::opcode::{Handling, TABLE};
use crate::fuse::{CacheMode, CachePolicy, Chain, Init, InitOutcome, Negotiated, Options, negotiate};

/// Everything a guest of Linux 6.18 offers.
pub(in crate::fuse) const EVERYTHING: u64 = u64::MAX;

/// Options with everything on but what takes operations away (`writeback`: LSEEK; `zero_open`: OPEN).
pub(in crate::fuse) fn options() -> Options {
    Options {
        cache: CachePolicy {
            negative: Duration::from_millis(1500),
            ..CachePolicy::new(CacheMode::Auto)
        },
        readdirplus: true,
        writeback: false,
        announce_submounts: true,
        xattr: true,
        posix_acl: true,
        security_label: true,
        posix_lock: true,
        flock: true,
        killpriv_v2: true,
        allow_mmap: true,
        zero_open: false,
        forward_flush: true,
        forward_access: true,
        idmapped_mounts: true,
        file_handles: true,
    }
}

/// The session these options make with a guest that offers `flags` at 7.`minor`.
pub(in crate::fuse) fn session_with(options: &Options, minor: u32, flags: u64) -> Negotiated {
    let init = Init {
        major: 7,
        minor,
        max_readahead: 1 << 17,
        flags,
    };
    match negotiate(&init, options) {
        InitOutcome::Accepted(session) => session,
        other => panic!("{other:?}"),
    }
}

/// The session with everything on.
pub(in crate::fuse) fn session() -> Negotiated {
    session_with(&options(), 45, EVERYTHING)
}

/// A request: its bytes as the guest puts them, and the room it leaves.
#[derive(Clone)]
pub(super) struct Sample {
    pub(super) bytes: Vec<u8>,
    pub(super) room: usize,
}

impl Sample {
    /// A request of uid 1000, gid 100, on node 7, with `body`.
    pub(super) fn new(opcode: u32, body: &[&[u8]]) -> Self {
        let body = body.concat();
        let header = InHeader {
            len: u32::try_from(40 + body.len()).unwrap(),
            opcode,
            unique: 0x1122_3344,
            nodeid: 7,
            uid: 1000,
            gid: 100,
            pid: 42,
            ..Default::default()
        };
        Self {
            bytes: [header.as_bytes(), &body].concat(),
            room: 8192,
        }
    }

    /// The same with `extension` behind it, told in the header.
    pub(super) fn extended(mut self, extension: &[u8]) -> Self {
        self.bytes.extend_from_slice(extension);
        self.header(|header| header.total_extlen = u16::try_from(extension.len() / 8).unwrap());
        self.resized()
    }

    /// The same with another header.
    pub(super) fn header(&mut self, change: impl FnOnce(&mut InHeader)) {
        let (front, _) = self.bytes.split_first_chunk_mut::<40>().unwrap();
        let mut header: InHeader = zerocopy::transmute!(*front);
        change(&mut header);
        *front = zerocopy::transmute!(header);
    }

    /// The same with the length in the header that it has.
    pub(super) fn resized(mut self) -> Self {
        let length = u32::try_from(self.bytes.len()).unwrap();
        if self.bytes.len() >= 4 {
            self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        }
        self
    }

    pub(super) fn opcode(&self) -> u32 {
        u32::from_ne_bytes(self.bytes[4..8].try_into().unwrap())
    }

    /// What the queue would give to `decode`.
    pub(super) fn parts(&self) -> (&[u8], Chain) {
        let control = match self.bytes.first_chunk() {
            Some(header) => super::control_len(header, self.bytes.len()),
            None => self.bytes.len(),
        };
        (
            &self.bytes[..control],
            Chain {
                readable: self.bytes.len(),
                writable: self.room,
            },
        )
    }
}

/// The extensions of a creating request: a security context and a supplementary group.
pub(super) fn extensions() -> Vec<u8> {
    let name = b"security.selinux\0";
    let label = b"system_u:object_r:tmp_t:s0\0";
    let size = 8 + 8 + name.len() + label.len();
    let padded = size.next_multiple_of(8);
    let mut bytes = Vec::new();
    bytes.extend_from_slice(
        abi::ExtHeader {
            size: padded as u32,
            kind: 1,
        }
        .as_bytes(),
    );
    bytes.extend_from_slice(
        abi::Secctx {
            size: label.len() as u32,
            padding: 0,
        }
        .as_bytes(),
    );
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(label);
    bytes.resize(padded, 0);
    bytes.extend_from_slice(
        abi::ExtHeader {
            size: 16,
            kind: flags::EXT_GROUPS,
        }
        .as_bytes(),
    );
    bytes.extend_from_slice(abi::SuppGroups { nr_groups: 1 }.as_bytes());
    bytes.extend_from_slice(33u32.as_bytes());
    bytes
}

/// A valid request for the operation called `name`.
pub(super) fn sample(name: &str) -> Sample {
    let opcode = TABLE.iter().find(|row| row.name == name).unwrap().number;
    let with = |body: &[&[u8]]| Sample::new(opcode, body);
    let lock = abi::LkIn {
        fh: 9,
        owner: 3,
        lk: abi::FileLock {
            start: 10,
            end: 19,
            kind: libc::F_WRLCK as u32,
            pid: 42,
        },
        ..Default::default()
    };
    let read = abi::ReadIn {
        fh: 9,
        offset: 4096,
        size: 4096,
        ..Default::default()
    };
    let copy = abi::CopyFileRangeIn {
        fh_in: 9,
        nodeid_out: 8,
        fh_out: 10,
        len: 1 << 40,
        ..Default::default()
    };
    match name {
        "LOOKUP" | "UNLINK" | "RMDIR" => with(&[b"file\0"]),
        "FORGET" => with(&[abi::ForgetIn { nlookup: 2 }.as_bytes()]),
        "GETATTR" => with(&[abi::GetattrIn {
            getattr_flags: 1,
            fh: 9,
            ..Default::default()
        }
        .as_bytes()]),
        "STATX" => with(&[abi::StatxIn {
            sx_mask: 0xfff,
            ..Default::default()
        }
        .as_bytes()]),
        "SETATTR" => {
            let valid = flags::FATTR_MODE | flags::FATTR_SIZE | flags::FATTR_MTIME;
            let body = abi::SetattrIn {
                valid,
                mode: 0o100_640,
                size: 5,
                mtime: 1,
                ..Default::default()
            };
            with(&[body.as_bytes()])
        }
        "READLINK" | "STATFS" | "DESTROY" => with(&[]),
        "SYMLINK" => with(&[b"link\0", b"/a/../target\0"]).extended(&extensions()),
        "MKNOD" => {
            let body = abi::MknodIn {
                mode: libc::S_IFIFO | 0o666,
                umask: 0o22,
                ..Default::default()
            };
            with(&[body.as_bytes(), b"fifo\0"]).extended(&extensions())
        }
        "MKDIR" => with(&[
            abi::MkdirIn {
                mode: 0o1777,
                umask: 0o22,
            }
            .as_bytes(),
            b"dir\0",
        ])
        .extended(&extensions()),
        "RENAME" => with(&[abi::RenameIn { newdir: 8 }.as_bytes(), b"old\0", b"new\0"]),
        "RENAME2" => {
            let body = abi::Rename2In {
                newdir: 8,
                flags: libc::RENAME_EXCHANGE,
                padding: 0,
            };
            with(&[body.as_bytes(), b"old\0", b"new\0"])
        }
        "LINK" => with(&[abi::LinkIn { oldnodeid: 8 }.as_bytes(), b"new\0"]),
        "OPEN" | "OPENDIR" => with(&[abi::OpenIn {
            flags: libc::O_RDWR as u32,
            open_flags: 0,
        }
        .as_bytes()]),
        "CREATE" => {
            let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u32;
            let body = abi::CreateIn {
                flags,
                mode: libc::S_IFREG | 0o666,
                umask: 0o27,
                open_flags: 1,
            };
            with(&[body.as_bytes(), b"file\0"]).extended(&extensions())
        }
        "TMPFILE" => {
            let flags = (libc::O_RDWR | libc::O_TMPFILE) as u32;
            let body = abi::CreateIn {
                flags,
                mode: libc::S_IFREG | 0o600,
                ..Default::default()
            };
            with(&[body.as_bytes(), b"/\0"]).extended(&extensions())
        }
        "READ" | "READDIR" | "READDIRPLUS" => with(&[read.as_bytes()]),
        "WRITE" => {
            let body = abi::WriteIn {
                fh: 9,
                offset: 4096,
                size: 11,
                write_flags: 4,
                ..Default::default()
            };
            with(&[body.as_bytes(), b"hello world"])
        }
        "RELEASE" | "RELEASEDIR" => {
            let body = abi::ReleaseIn {
                fh: 9,
                release_flags: 2,
                lock_owner: 3,
                ..Default::default()
            };
            with(&[body.as_bytes()])
        }
        "FLUSH" => with(&[abi::FlushIn {
            fh: 9,
            lock_owner: 3,
            ..Default::default()
        }
        .as_bytes()]),
        "FSYNC" | "FSYNCDIR" => with(&[abi::FsyncIn {
            fh: 9,
            fsync_flags: 1,
            padding: 0,
        }
        .as_bytes()]),
        "SETXATTR" => {
            let extension = abi::SetxattrInExt {
                setxattr_flags: 1,
                padding: 0,
            };
            with(&[
                abi::SetxattrIn { size: 5, flags: 1 }.as_bytes(),
                extension.as_bytes(),
                b"user.a\0",
                b"v\0lue",
            ])
        }
        "GETXATTR" => with(&[
            abi::GetxattrIn {
                size: 256,
                padding: 0,
            }
            .as_bytes(),
            b"user.a\0",
        ]),
        "LISTXATTR" => with(&[abi::GetxattrIn { size: 0, padding: 0 }.as_bytes()]),
        "REMOVEXATTR" => with(&[b"user.a\0"]),
        "GETLK" | "SETLK" | "SETLKW" => with(&[lock.as_bytes()]),
        "ACCESS" => with(&[abi::AccessIn { mask: 5, padding: 0 }.as_bytes()]),
        "INIT" => {
            let body = abi::InitIn {
                major: 7,
                minor: 45,
                max_readahead: 1 << 17,
                flags: u32::MAX,
            };
            with(&[
                body.as_bytes(),
                abi::InitInExt {
                    flags2: u32::MAX,
                    unused: [0; 11],
                }
                .as_bytes(),
            ])
        }
        "INTERRUPT" => with(&[abi::InterruptIn { unique: 77 }.as_bytes()]),
        "IOCTL" => {
            let body = abi::IoctlIn {
                fh: 9,
                cmd: flags::FS_IOC_SETFLAGS,
                in_size: 4,
                ..Default::default()
            };
            with(&[body.as_bytes(), 0x10u32.as_bytes()])
        }
        "BATCH_FORGET" => {
            let body = abi::BatchForgetIn { count: 2, dummy: 0 };
            with(&[body.as_bytes(), [5u64, 1, 6, 2].as_bytes()])
        }
        "FALLOCATE" => {
            let body = abi::FallocateIn {
                fh: 9,
                offset: 1,
                length: 2,
                mode: 3,
                padding: 0,
            };
            with(&[body.as_bytes()])
        }
        "LSEEK" => {
            let body = abi::LseekIn {
                fh: 9,
                offset: 1,
                whence: libc::SEEK_HOLE as u32,
                padding: 0,
            };
            with(&[body.as_bytes()])
        }
        "COPY_FILE_RANGE" | "COPY_FILE_RANGE_64" => with(&[copy.as_bytes()]),
        "SYNCFS" => with(&[abi::SyncfsIn::default().as_bytes()]),
        other => panic!("{other} has no sample"),
    }
}

/// A valid request for each operation that is served.
pub(super) fn samples() -> Vec<(&'static str, Sample)> {
    let served = TABLE
        .iter()
        .filter(|row| !matches!(row.handling, Handling::Refuse(..)));
    served.map(|row| (row.name, sample(row.name))).collect()
}
