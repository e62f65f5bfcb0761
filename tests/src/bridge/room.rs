//! How much room a reply gets. /dev/fuse leaves that to the server. Over virtio-fs, the driver
//! states it with each request, and daemons rely on it (virtiofsd reads a file while there is
//! room).

use zerocopy::FromBytes;

use crate::fuse::abi::*;

/// Bytes of the largest target of a symbolic link.
const PAGE: usize = 4096;
/// Room for the reply of an opcode that these definitions do not know.
const UNKNOWN: usize = 4096;

/// Most bytes of a reply's body, from the first bytes behind the request's header.
pub(super) fn reply_room(opcode: u32, body: &[u8]) -> usize {
    match opcode {
        LOOKUP | MKNOD | MKDIR | SYMLINK | LINK => size_of::<EntryOut>(),
        GETATTR | SETATTR => size_of::<AttrOut>(),
        STATX => size_of::<StatxOut>(),
        READLINK => PAGE,
        CREATE | TMPFILE => size_of::<EntryOut>() + size_of::<OpenOut>(),
        OPEN | OPENDIR => size_of::<OpenOut>(),
        READ | READDIR | READDIRPLUS => {
            ReadIn::read_from_prefix(body).map_or(0, |(read, _)| read.size as usize)
        }
        WRITE | COPY_FILE_RANGE => size_of::<WriteOut>(),
        COPY_FILE_RANGE_64 => size_of::<CopyFileRangeOut>(),
        STATFS => size_of::<Kstatfs>(),
        GETXATTR | LISTXATTR => match GetxattrIn::read_from_prefix(body) {
            Ok((GetxattrIn { size: 0, .. }, _)) => size_of::<GetxattrOut>(),
            Ok((get, _)) => get.size as usize,
            Err(_) => 0,
        },
        GETLK => size_of::<LkOut>(),
        LSEEK => size_of::<LseekOut>(),
        IOCTL => IoctlIn::read_from_prefix(body)
            .map_or(0, |(ioctl, _)| size_of::<IoctlOut>() + ioctl.out_size as usize),
        INIT => size_of::<InitOut>(),
        UNLINK | RMDIR | RENAME | RENAME2 | RELEASE | RELEASEDIR | FSYNC | FSYNCDIR | SETXATTR
        | REMOVEXATTR | FLUSH | SETLK | SETLKW | ACCESS | DESTROY | FALLOCATE | SYNCFS | INTERRUPT => 0,
        _ => UNKNOWN,
    }
}
