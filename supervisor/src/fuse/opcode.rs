//! The one table of operations: every opcode of FUSE up to 7.45 (Linux 6.18), whether served or not. A row holds all that
//! the supervisor knows of an operation before it looks at a request: nothing else asks which operation it is.

use airlockfs_ipc::Errno;

use super::abi::{BatchForgetIn, WriteIn};
use super::decode::{Decoder, attr, create, io, lock, misc, names, xattr};
use super::shape::ReplyShape::{
    self, Attr, Bytes, Copied, CopiedWide, Created, CreatedUnnamed, Dirents, DirentsPlus, Entry, Init, Ioctl,
    Lock, Lookup, Nothing, Offset, Opened, OpenedDirectory, Silent, SizeOrBytes, StatFs, Statx, Target,
    Written,
};

/// An operation.
pub(crate) struct Row {
    /// `FUSE_*` number.
    pub(super) number: u32,
    /// The name in the header, without `FUSE_`.
    pub(super) name: &'static str,
    /// What is done about it.
    pub(super) handling: Handling,
    /// How the answer is laid out.
    pub(crate) reply: ReplyShape,
    /// What of its bytes stays in guest memory.
    pub(super) data: Data,
    /// Whether the worker needs a bulk buffer for it.
    pub(crate) bulk: Bulk,
    /// What success means for the table of open files.
    pub(crate) follows: Follows,
    /// The worker has the answer in about the time that it takes to fall asleep: it opens and changes nothing. A long batch of
    /// slower ones is better given as a whole.
    pub(crate) quick: bool,
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

/// What of a request is no control data, and is not copied before it is decoded.
pub(super) enum Data {
    /// Nothing.
    None,
    /// What follows the header and a body of so many bytes.
    After(usize),
    /// The same, if the request is longer than [`super::decode::request::MAX_CONTROL`].
    AfterIfLong(usize),
}

/// Whether the worker needs a bulk buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bulk {
    /// Never.
    Never,
    /// Always.
    Always,
    /// If the guest asks for bytes, and not how many there are.
    IfAsked,
}

/// What follows from success besides the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// Nothing.
    Nothing,
    /// A regular file is open, with the access that the request's flags say.
    Opened,
    /// A directory is open.
    OpenedDirectory,
    /// Some file may have a setuid or setgid bit now, if the request's mode has one.
    ModeChanged,
}

impl Row {
    /// What a request has before its opcode is known.
    pub(crate) const NONE: &'static Self = &serve(0, "", misc::destroy, Nothing);

    /// The guest waits for an answer.
    pub(super) fn is_answered(&self) -> bool {
        self.reply != Silent
    }

    /// Whether the worker needs a bulk buffer for an answer of at most `limit` bytes.
    pub(crate) fn needs_bulk(&self, limit: u64) -> bool {
        match self.bulk {
            Bulk::Never => false,
            Bulk::Always => true,
            Bulk::IfAsked => limit > 0,
        }
    }

    const fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    const fn bulk(mut self, bulk: Bulk) -> Self {
        self.bulk = bulk;
        self
    }

    const fn then(mut self, follows: Follows) -> Self {
        self.follows = follows;
        self
    }

    const fn data(mut self, data: Data) -> Self {
        self.data = data;
        self
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The operation with this number.
pub(super) fn row(number: u32) -> Option<&'static Row> {
    TABLE
        .binary_search_by_key(&number, |row| row.number)
        .ok()
        .and_then(|at| TABLE.get(at))
}

const fn new(number: u32, name: &'static str, handling: Handling, reply: ReplyShape) -> Row {
    Row {
        number,
        name,
        handling,
        reply,
        data: Data::None,
        bulk: Bulk::Never,
        follows: Follows::Nothing,
        quick: false,
    }
}

const fn serve(number: u32, name: &'static str, decoder: Decoder, reply: ReplyShape) -> Row {
    new(number, name, Handling::Serve(decoder), reply)
}

const fn refuse(number: u32, name: &'static str, why: &'static str) -> Row {
    new(number, name, Handling::Refuse(Errno::ENOSYS, why), Nothing)
}

const WRITE_DATA: Data = Data::After(size_of::<WriteIn>());
const RECORDS: Data = Data::AfterIfLong(size_of::<BatchForgetIn>());

/// Sorted by number. 7 and 19 were never given.
#[rustfmt::skip]
pub(super) const TABLE: &[Row] = &[
    serve( 1, "LOOKUP",             names::lookup,           Lookup).quick(),
    serve( 2, "FORGET",             misc::forget,            Silent),
    serve( 3, "GETATTR",            attr::getattr,           Attr).quick(),
    serve( 4, "SETATTR",            attr::setattr,           Attr).then(Follows::ModeChanged),
    serve( 5, "READLINK",           names::readlink,         Target).quick(),
    serve( 6, "SYMLINK",            create::symlink,         Entry),
    serve( 8, "MKNOD",              create::mknod,           Entry),
    serve( 9, "MKDIR",              create::mkdir,           Entry),
    serve(10, "UNLINK",             names::unlink,           Nothing),
    serve(11, "RMDIR",              names::rmdir,            Nothing),
    serve(12, "RENAME",             names::rename,           Nothing),
    serve(13, "LINK",               names::link,             Entry),
    serve(14, "OPEN",               io::open,                Opened).then(Follows::Opened),
    serve(15, "READ",               io::read,                Bytes).bulk(Bulk::Always).quick(),
    serve(16, "WRITE",              io::write,               Written).bulk(Bulk::Always).data(WRITE_DATA),
    serve(17, "STATFS",             misc::statfs,            StatFs).quick(),
    serve(18, "RELEASE",            io::release,             Nothing),
    serve(20, "FSYNC",              io::fsync,               Nothing),
    serve(21, "SETXATTR",           xattr::set,              Nothing).bulk(Bulk::Always),
    serve(22, "GETXATTR",           xattr::get,              SizeOrBytes).bulk(Bulk::IfAsked).quick(),
    serve(23, "LISTXATTR",          xattr::list,             SizeOrBytes).bulk(Bulk::IfAsked).quick(),
    serve(24, "REMOVEXATTR",        xattr::remove,           Nothing),
    serve(25, "FLUSH",              io::flush,               Nothing),
    new(  26, "INIT",               Handling::Begin,         Init),
    serve(27, "OPENDIR",            io::opendir,             OpenedDirectory).then(Follows::OpenedDirectory),
    serve(28, "READDIR",            io::readdir,             Dirents).bulk(Bulk::Always),
    serve(29, "RELEASEDIR",         io::releasedir,          Nothing),
    serve(30, "FSYNCDIR",           io::fsyncdir,            Nothing),
    serve(31, "GETLK",              lock::getlk,             Lock),
    serve(32, "SETLK",              lock::setlk,             Nothing),
    serve(33, "SETLKW",             lock::setlkw,            Nothing),
    serve(34, "ACCESS",             attr::access,            Nothing).quick(),
    serve(35, "CREATE",             create::create,          Created).then(Follows::Opened),
    serve(36, "INTERRUPT",          misc::interrupt,         Silent),
    refuse(37, "BMAP",              "blocks of a file are found for block devices only (fuseblk)"),
    serve(38, "DESTROY",            misc::destroy,           Nothing),
    serve(39, "IOCTL",              misc::ioctl,             Ioctl),
    refuse(40, "POLL",              "regular files are always ready, which the guest then assumes"),
    new(  41, "NOTIFY_REPLY",       Handling::Refuse(Errno::ENOSYS, "no notification was sent"), Silent),
    serve(42, "BATCH_FORGET",       misc::batch_forget,      Silent).data(RECORDS),
    serve(43, "FALLOCATE",          io::fallocate,           Nothing),
    serve(44, "READDIRPLUS",        io::readdirplus,         DirentsPlus).bulk(Bulk::Always),
    serve(45, "RENAME2",            names::rename2,          Nothing),
    serve(46, "LSEEK",              io::lseek,               Offset),
    serve(47, "COPY_FILE_RANGE",    io::copy_file_range,     Copied),
    refuse(48, "SETUPMAPPING",      "there is no DAX window"),
    refuse(49, "REMOVEMAPPING",     "there is no DAX window"),
    serve(50, "SYNCFS",             misc::syncfs,            Nothing),
    serve(51, "TMPFILE",            create::tmpfile,         CreatedUnnamed).then(Follows::Opened),
    serve(52, "STATX",              attr::statx,             Statx).quick(),
    serve(53, "COPY_FILE_RANGE_64", io::copy_file_range_64,  CopiedWide),
    refuse(4096, "CUSE_INIT",       "a share is no character device"),
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
