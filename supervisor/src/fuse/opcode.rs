//! The one table of operations: every opcode of FUSE up to 7.45 (Linux 6.18), whether served or not.

use airlockfs_ipc::Errno;

use super::decode::{Decoder, attr, create, io, lock, misc, names, xattr};

/// FORGET.
pub(super) const FORGET: u32 = 2;
/// WRITE, whose data follows its body and stays in guest memory.
pub(super) const WRITE: u32 = 16;
/// BATCH_FORGET, whose records stay there where they are many.
pub(super) const BATCH_FORGET: u32 = 42;
/// INIT, the only operation outside a session.
pub(super) const INIT: u32 = 26;

/// An operation.
pub(super) struct Row {
    /// `FUSE_*` number.
    pub(super) number: u32,
    /// The name in the header, without `FUSE_`.
    pub(super) name: &'static str,
    /// The guest waits for an answer.
    pub(super) answered: bool,
    /// What is done about it.
    pub(super) handling: Handling,
}

/// What is done about an operation.
pub(super) enum Handling {
    /// Decoded by this function, named after the family of operations it belongs to.
    Serve(Decoder),
    /// Decoded on its own: it begins the session.
    Begin,
    /// Answered with an errno, because.
    Refuse(Errno, &'static str),
}

/// The operation with this number.
pub(super) fn row(number: u32) -> Option<&'static Row> {
    TABLE
        .binary_search_by_key(&number, |row| row.number)
        .ok()
        .and_then(|at| TABLE.get(at))
}

const fn serve(number: u32, name: &'static str, decoder: Decoder) -> Row {
    Row {
        number,
        name,
        answered: true,
        handling: Handling::Serve(decoder),
    }
}

const fn silent(number: u32, name: &'static str, decoder: Decoder) -> Row {
    Row {
        number,
        name,
        answered: false,
        handling: Handling::Serve(decoder),
    }
}

const fn refuse(number: u32, name: &'static str, why: &'static str) -> Row {
    Row {
        number,
        name,
        answered: true,
        handling: Handling::Refuse(Errno::ENOSYS, why),
    }
}

/// Sorted by number. 7 and 19 were never given.
#[rustfmt::skip]
pub(super) const TABLE: &[Row] = &[
    serve(  1, "LOOKUP",             names::lookup),
    silent(FORGET, "FORGET",         misc::forget),
    serve(  3, "GETATTR",            attr::getattr),
    serve(  4, "SETATTR",            attr::setattr),
    serve(  5, "READLINK",           names::readlink),
    serve(  6, "SYMLINK",            create::symlink),
    serve(  8, "MKNOD",              create::mknod),
    serve(  9, "MKDIR",              create::mkdir),
    serve( 10, "UNLINK",             names::unlink),
    serve( 11, "RMDIR",              names::rmdir),
    serve( 12, "RENAME",             names::rename),
    serve( 13, "LINK",               names::link),
    serve( 14, "OPEN",               io::open),
    serve( 15, "READ",               io::read),
    serve(WRITE, "WRITE",            io::write),
    serve( 17, "STATFS",             misc::statfs),
    serve( 18, "RELEASE",            io::release),
    serve( 20, "FSYNC",              io::fsync),
    serve( 21, "SETXATTR",           xattr::set),
    serve( 22, "GETXATTR",           xattr::get),
    serve( 23, "LISTXATTR",          xattr::list),
    serve( 24, "REMOVEXATTR",        xattr::remove),
    serve( 25, "FLUSH",              io::flush),
    Row { number: INIT, name: "INIT", answered: true, handling: Handling::Begin },
    serve( 27, "OPENDIR",            io::opendir),
    serve( 28, "READDIR",            io::readdir),
    serve( 29, "RELEASEDIR",         io::releasedir),
    serve( 30, "FSYNCDIR",           io::fsyncdir),
    serve( 31, "GETLK",              lock::getlk),
    serve( 32, "SETLK",              lock::setlk),
    serve( 33, "SETLKW",             lock::setlkw),
    serve( 34, "ACCESS",             attr::access),
    serve( 35, "CREATE",             create::create),
    silent(36, "INTERRUPT",          misc::interrupt),
    refuse(37, "BMAP",               "blocks of a file are found for block devices only (fuseblk)"),
    serve( 38, "DESTROY",            misc::destroy),
    serve( 39, "IOCTL",              misc::ioctl),
    refuse(40, "POLL",               "regular files are always ready, which the guest then assumes"),
    Row { number: 41, name: "NOTIFY_REPLY", answered: false,
          handling: Handling::Refuse(Errno::ENOSYS, "no notification was sent") },
    silent(42, "BATCH_FORGET",       misc::batch_forget),
    serve( 43, "FALLOCATE",          io::fallocate),
    serve( 44, "READDIRPLUS",        io::readdirplus),
    serve( 45, "RENAME2",            names::rename2),
    serve( 46, "LSEEK",              io::lseek),
    serve( 47, "COPY_FILE_RANGE",    io::copy_file_range),
    refuse(48, "SETUPMAPPING",       "there is no DAX window"),
    refuse(49, "REMOVEMAPPING",      "there is no DAX window"),
    serve( 50, "SYNCFS",             misc::syncfs),
    serve( 51, "TMPFILE",            create::tmpfile),
    serve( 52, "STATX",              attr::statx),
    serve( 53, "COPY_FILE_RANGE_64", io::copy_file_range_64),
    refuse(4096, "CUSE_INIT",        "a share is no character device"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opcode_of_linux_6_18_has_one_row() {
        let numbers: Vec<u32> = TABLE.iter().map(|row| row.number).collect();
        let expected: Vec<u32> = (1..=53).filter(|n| ![7, 19].contains(n)).chain([4096]).collect();
        assert_eq!(numbers, expected);
        for number in expected {
            assert_eq!(row(number).map(|row| row.number), Some(number));
        }
        assert!(row(0).is_none() && row(7).is_none() && row(54).is_none() && row(u32::MAX).is_none());
    }
}
