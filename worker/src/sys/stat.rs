//! statx(2), fstatfs(2) and readlinkat(2).
#![expect(unsafe_code, reason = "the calls fill what is pointed to")]

use std::{
    ffi::CStr,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd},
};

use airlockfs_ipc::{
    Errno,
    message::{Attr, StatFs, Timestamp},
};

use super::check;

/// What statx(2) said of an inode.
pub(crate) struct Stat(libc::statx);

/// The inode behind `descriptor`, O_PATH included.
pub(crate) fn stat(descriptor: impl AsFd) -> Result<Stat, Errno> {
    call(descriptor, c"", libc::AT_EMPTY_PATH)
}

/// The inode that `name` stands for in `directory`; a symbolic link itself, an automount point unmounted.
pub(crate) fn stat_at(directory: impl AsFd, name: &CStr) -> Result<Stat, Errno> {
    call(directory, name, libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT)
}

fn call(directory: impl AsFd, name: &CStr, flags: i32) -> Result<Stat, Errno> {
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID | libc::STATX_MNT_ID_UNIQUE;
    let mut buffer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `name` is terminated and `buffer` has room for the structure.
    check(unsafe {
        libc::statx(
            directory.as_fd().as_raw_fd(),
            name.as_ptr(),
            flags,
            mask,
            buffer.as_mut_ptr(),
        )
    })?;
    // SAFETY: plain numbers, zeroed before the kernel filled them.
    Ok(Stat(unsafe { buffer.assume_init() }))
}

impl Stat {
    /// Inode number.
    pub(crate) const fn ino(&self) -> u64 {
        self.0.stx_ino
    }

    /// Device number, packed as the kernel does (12 bits major, 20 bits minor).
    pub(crate) const fn dev(&self) -> u32 {
        self.0.stx_dev_major << 20 | self.0.stx_dev_minor & 0xf_ffff
    }

    /// Mount: unique since boot where the kernel says that (Linux 6.8), else reused after unmounting.
    pub(crate) const fn mount(&self) -> u64 {
        self.0.stx_mnt_id
    }

    /// Birth time: seconds, nanoseconds; zeros where the file system does not know.
    pub(crate) fn birth(&self) -> (i64, u32) {
        self.btime()
            .map_or((0, 0), |time| (time.seconds, time.nanoseconds))
    }

    /// File type and permissions.
    pub(crate) fn mode(&self) -> u32 {
        u32::from(self.0.stx_mode)
    }

    /// File type: the S_IFMT bits of the mode.
    pub(crate) fn kind(&self) -> u32 {
        self.mode() & libc::S_IFMT
    }

    fn btime(&self) -> Option<Timestamp> {
        (self.0.stx_mask & libc::STATX_BTIME != 0).then(|| time(&self.0.stx_btime))
    }

    /// As a message, with host ids.
    pub(crate) fn attr(&self, submount: bool) -> Attr {
        let raw = &self.0;
        Attr {
            ino: raw.stx_ino,
            size: raw.stx_size,
            blocks: raw.stx_blocks,
            atime: time(&raw.stx_atime),
            mtime: time(&raw.stx_mtime),
            ctime: time(&raw.stx_ctime),
            btime: self.btime(),
            mode: self.mode(),
            nlink: raw.stx_nlink,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            rdev: (raw.stx_rdev_major, raw.stx_rdev_minor),
            blksize: raw.stx_blksize,
            attributes: raw.stx_attributes,
            attributes_mask: raw.stx_attributes_mask,
            submount,
        }
    }
}

fn time(raw: &libc::statx_timestamp) -> Timestamp {
    Timestamp {
        seconds: raw.tv_sec,
        nanoseconds: raw.tv_nsec,
    }
}

/// File systems by what they keep of an inode's identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileSystem {
    /// Its inodes lie on a device or in memory: number and birth time are theirs for good.
    Local,
    /// Another machine numbers its inodes. Birth times may be missing from one answer and be in the next.
    Network,
    /// overlayfs.
    Overlay,
    /// Any other: it may number its inodes as they come (FUSE, FAT, CIFS).
    Other,
}

/// What file system `descriptor` lies on, O_PATH included.
pub(crate) fn file_system_kind(descriptor: impl AsFd) -> Result<FileSystem, Errno> {
    // Of linux/magic.h; ZFS, bcachefs and others of their own sources.
    const LOCAL: [i64; 20] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683e, // btrfs
        0x0102_1994, // tmpfs
        0x8584_58f6, // ramfs
        0xf2f5_2010, // F2FS
        0xe0f5_e1e2, // EROFS
        0x7371_7368, // squashfs
        0x2fc1_2fc1, // ZFS
        0xca45_1a4e, // bcachefs
        0x7461_636f, // OCFS2
        0x0116_1970, // GFS2
        0x3153_464a, // JFS
        0x3434,      // NILFS2
        0x1501_3346, // UDF
        0x9660,      // ISO 9660
        0x9584_58f6, // hugetlbfs
        0x5265_4973, // reiserfs
        0x7366_746e, // NTFS3
        0x2405_1905, // UBIFS
    ];
    // NFS, CephFS, 9P.
    const NETWORK: [i64; 3] = [0x6969, 0x00c3_6400, 0x0102_1997];
    const OVERLAY: i64 = 0x794c_7630;
    Ok(match statfs(descriptor)?.f_type {
        kind if LOCAL.contains(&kind) => FileSystem::Local,
        kind if NETWORK.contains(&kind) => FileSystem::Network,
        OVERLAY => FileSystem::Overlay,
        _ => FileSystem::Other,
    })
}

/// Whether `descriptor` lies on a file system that keeps its data in memory.
pub(crate) fn is_in_memory(descriptor: impl AsFd) -> Result<bool, Errno> {
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    let raw = statfs(descriptor)?;
    Ok(raw.f_type == libc::TMPFS_MAGIC || raw.f_type == RAMFS_MAGIC)
}

/// Whether `descriptor` lies on a file system that is known to be this host's own: no server or program that may not answer
/// is behind it. overlayfs is as its layers are, which are of this kind as a rule.
pub(crate) fn is_local(descriptor: impl AsFd) -> Result<bool, Errno> {
    let kind = file_system_kind(descriptor)?;
    Ok(matches!(kind, FileSystem::Local | FileSystem::Overlay))
}

/// The file system that `descriptor` lies on, O_PATH included.
pub(crate) fn file_system(descriptor: impl AsFd) -> Result<StatFs, Errno> {
    let raw = statfs(descriptor)?;
    Ok(StatFs {
        blocks: raw.f_blocks,
        bfree: raw.f_bfree,
        bavail: raw.f_bavail,
        files: raw.f_files,
        ffree: raw.f_ffree,
        bsize: u32::try_from(raw.f_bsize).unwrap_or(u32::MAX),
        namelen: u32::try_from(raw.f_namelen).unwrap_or(u32::MAX),
        frsize: u32::try_from(raw.f_frsize).unwrap_or(u32::MAX),
    })
}

fn statfs(descriptor: impl AsFd) -> Result<libc::statfs, Errno> {
    let mut buffer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: `buffer` has room for the structure.
    check(unsafe { libc::fstatfs(descriptor.as_fd().as_raw_fd(), buffer.as_mut_ptr()) })?;
    // SAFETY: plain numbers, zeroed before the kernel filled them.
    Ok(unsafe { buffer.assume_init() })
}

/// The target of the symbolic link behind an O_PATH descriptor; how long it is.
pub(crate) fn read_link(link: impl AsFd, target: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the path is terminated, `target` has the room that is said.
    check(unsafe {
        libc::readlinkat(
            link.as_fd().as_raw_fd(),
            c"".as_ptr(),
            target.as_mut_ptr().cast(),
            target.len(),
        )
    } as i64)
}
