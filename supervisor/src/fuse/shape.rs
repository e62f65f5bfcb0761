//! How answers are laid out.

use super::abi;

/// How an answer is laid out for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyShape {
    /// There is none.
    Silent,
    /// A bare header.
    Nothing,
    /// `fuse_init_out`: [`super::reply::init`].
    Init,
    /// `fuse_entry_out`; ENOENT may be an entry without a node.
    Lookup,
    /// `fuse_entry_out`.
    Entry,
    /// `fuse_entry_out` and `fuse_open_out`.
    Created,
    /// The same of a file without a name (TMPFILE).
    CreatedUnnamed,
    /// `fuse_open_out`.
    Opened,
    /// The same of a directory.
    OpenedDirectory,
    /// `fuse_attr_out`.
    Attr,
    /// `fuse_statx_out`.
    Statx,
    /// A symbolic link's target, as many bytes as the chain has room for.
    Target,
    /// Opaque bytes, from the bulk buffer or in guest memory already.
    Bytes,
    /// The same if the guest asked for some, else `fuse_getxattr_out`.
    SizeOrBytes,
    /// `fuse_write_out`.
    Written,
    /// Bytes copied: `fuse_write_out`.
    Copied,
    /// Bytes copied: `fuse_copy_file_range_out`.
    CopiedWide,
    /// `fuse_lseek_out`.
    Offset,
    /// `fuse_statfs_out`.
    StatFs,
    /// `fuse_lk_out`.
    Lock,
    /// `fuse_dirent` records: [`super::dirent::encode`].
    Dirents,
    /// `fuse_direntplus` records.
    DirentsPlus,
    /// `fuse_ioctl_out`, and as many bytes as the call reads: flags, `struct fsxattr`, or none.
    Ioctl,
}

impl ReplyShape {
    /// Bytes of the shortest successful answer of this shape after its header, where it is at most `limit` bytes.
    pub(super) const fn least(self, limit: u64) -> usize {
        match self {
            Self::Silent | Self::Nothing | Self::Target | Self::Bytes | Self::Dirents | Self::DirentsPlus => {
                0
            }
            Self::Init => size_of::<abi::InitOut>(),
            Self::Lookup | Self::Entry => size_of::<abi::EntryOut>(),
            Self::Created | Self::CreatedUnnamed => size_of::<abi::EntryOut>() + size_of::<abi::OpenOut>(),
            Self::Opened | Self::OpenedDirectory => size_of::<abi::OpenOut>(),
            Self::Attr => size_of::<abi::AttrOut>(),
            Self::Statx => size_of::<abi::StatxOut>(),
            Self::SizeOrBytes if limit > 0 => 0,
            Self::SizeOrBytes => size_of::<abi::GetxattrOut>(),
            Self::Written | Self::Copied => size_of::<abi::WriteOut>(),
            Self::CopiedWide => size_of::<abi::CopyFileRangeOut>(),
            Self::Offset => size_of::<abi::LseekOut>(),
            Self::StatFs => size_of::<abi::StatfsOut>(),
            Self::Lock => size_of::<abi::LkOut>(),
            // A structure's size: it has 32 bits.
            Self::Ioctl => size_of::<abi::IoctlOut>() + limit as usize,
        }
    }
}
