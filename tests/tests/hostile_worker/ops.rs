//! Every operation that becomes a request, and every answer that exists.

use airlockfs_ipc::message::{Attr, Entry, FileLock, FsXattr, Reply, StatFs, Timestamp};
use airlockfs_ipc::{Bytes, Errno as GuestErrno, Handle, NodeId};
use airlockfs_tests::fuse::abi::{self, LkIn, SETLKW};
use airlockfs_tests::fuse::{Client, Opened, Outcome, SetAttr};
use nix::errno::Errno;
use zerocopy::IntoBytes;

/// A node and a handle of the guest's; the supervisor keeps no list.
const NODE: u64 = 5;
const FILE: Opened = Opened {
    node: NODE,
    fh: 7,
    open_flags: 0,
};
const LOCK: abi::FileLock = abi::FileLock {
    start: 0,
    end: 9,
    kind: libc::F_WRLCK as u32,
    pid: 1,
};
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

/// Bytes that data operations ask for.
pub(crate) const SIZE: u32 = 4096;

/// An operation.
pub(crate) struct Op {
    pub(crate) name: &'static str,
    /// The kind of answer it may have, of [`kind`].
    pub(crate) right: &'static str,
    pub(crate) call: fn(&Client) -> Result<(), Errno>,
}

macro_rules! ops {
    ($($name:ident $right:ident $call:expr;)*) => {
        &[$(Op { name: stringify!($name), right: stringify!($right), call: |fs| $call(fs).map(drop) },)*]
    };
}

/// All of them.
pub(crate) const OPS: &[Op] = ops! {
    LOOKUP Entry |fs: &Client| fs.lookup(NODE, "a");
    GETATTR Attr |fs: &Client| fs.getattr(NODE);
    STATX Attr |fs: &Client| fs.statx(NODE, None, libc::STATX_BASIC_STATS);
    SETATTR Attr |fs: &Client| fs.setattr(NODE, SetAttr::default().mode(0o6755));
    READLINK Target |fs: &Client| fs.readlink(NODE);
    SYMLINK Entry |fs: &Client| fs.symlink(NODE, "a", "target");
    MKNOD Entry |fs: &Client| fs.mknod(NODE, "a", libc::S_IFIFO | 0o600, 0);
    MKDIR Entry |fs: &Client| fs.mkdir(NODE, "a", 0o755);
    UNLINK Done |fs: &Client| fs.unlink(NODE, "a");
    RMDIR Done |fs: &Client| fs.rmdir(NODE, "a");
    RENAME Done |fs: &Client| fs.rename(NODE, "a", NODE, "b");
    RENAME2 Done |fs: &Client| fs.rename2(NODE, "a", NODE, "b", 1);
    LINK Entry |fs: &Client| fs.link(NODE, 1, "a");
    OPEN Opened |fs: &Client| fs.open(NODE, libc::O_RDWR);
    CREATE Created |fs: &Client| fs.create(NODE, "a", libc::O_RDWR, 0o600);
    TMPFILE Created |fs: &Client| fs.tmpfile(NODE, libc::O_RDWR, 0o600);
    READ Data |fs: &Client| fs.read(FILE, 0, SIZE);
    WRITE Written |fs: &Client| fs.write(FILE, 0, &[1; SIZE as usize]);
    RELEASE Done |fs: &Client| fs.release(FILE);
    FLUSH Done |fs: &Client| fs.flush(FILE);
    FSYNC Done |fs: &Client| fs.fsync(FILE, true);
    LSEEK Offset |fs: &Client| fs.lseek(FILE, 0, libc::SEEK_DATA);
    FALLOCATE Done |fs: &Client| fs.fallocate(FILE, 0, 0, 1);
    COPY_FILE_RANGE Copied |fs: &Client| fs.copy_file_range((FILE, 0), (FILE, 0), SIZE.into());
    COPY_FILE_RANGE_64 Copied |fs: &Client| fs.copy_file_range_64((FILE, 0), (FILE, 0), SIZE.into());
    OPENDIR Opened |fs: &Client| fs.opendir(NODE);
    READDIR Entries |fs: &Client| fs.readdir(FILE, 0, SIZE);
    READDIRPLUS Entries |fs: &Client| fs.readdirplus(FILE, 0, SIZE);
    RELEASEDIR Done |fs: &Client| fs.releasedir(FILE);
    FSYNCDIR Done |fs: &Client| fs.fsyncdir(FILE);
    STATFS StatFs |fs: &Client| fs.statfs(NODE);
    SYNCFS Done |fs: &Client| fs.syncfs(NODE);
    SETXATTR Done |fs: &Client| fs.setxattr(NODE, "user.a", b"value", 0);
    GETXATTR_SIZE Size |fs: &Client| fs.getxattr_size(NODE, "user.a");
    GETXATTR Data |fs: &Client| fs.getxattr(NODE, "user.a", SIZE);
    LISTXATTR_SIZE Size |fs: &Client| fs.listxattr_size(NODE);
    LISTXATTR Data |fs: &Client| fs.listxattr(NODE, SIZE);
    REMOVEXATTR Done |fs: &Client| fs.removexattr(NODE, "user.a");
    GETFLAGS FileFlags |fs: &Client| fs.ioctl(FILE, GETFLAGS, &[], 4);
    SETFLAGS Done |fs: &Client| fs.ioctl(FILE, SETFLAGS, &[0; 4], 0);
    FSGETXATTR FsXattr |fs: &Client| fs.ioctl(FILE, FSGETXATTR, &[], 28);
    FSSETXATTR Done |fs: &Client| fs.ioctl(FILE, FSSETXATTR, &[0; 28], 0);
    GETLK Lock |fs: &Client| fs.getlk(FILE, 1, LOCK);
    SETLK Done |fs: &Client| fs.setlk(FILE, 1, LOCK);
    SETLKW Done set_and_wait;
    DESTROY Done |fs: &Client| fs.destroy();
};

fn set_and_wait(fs: &Client) -> Result<(), Errno> {
    let body = LkIn {
        fh: FILE.fh,
        owner: 1,
        lk: LOCK,
        ..LkIn::default()
    };
    match fs.raw(SETLKW, NODE, body.as_bytes(), 0) {
        Outcome::Reply { error: 0, .. } => Ok(()),
        other => Err(other.errno().unwrap_or_else(|| panic!("{other:?}"))),
    }
}

/// The operation of that name.
pub(crate) fn op(name: &str) -> &'static Op {
    let found = OPS.iter().find(|op| op.name == name);
    found.unwrap_or_else(|| panic!("no operation {name}"))
}

/// The name of an answer's kind.
pub(crate) fn kind(reply: &Reply<'_>) -> &'static str {
    match reply {
        Reply::Error(_) => "Error",
        Reply::Done => "Done",
        Reply::Entry(_) => "Entry",
        Reply::Attr(_) => "Attr",
        Reply::Target(_) => "Target",
        Reply::Opened { .. } => "Opened",
        Reply::Created { .. } => "Created",
        Reply::Data { .. } => "Data",
        Reply::Written { .. } => "Written",
        Reply::Donated => "Donated",
        Reply::NotDonated => "NotDonated",
        Reply::Entries { .. } => "Entries",
        Reply::StatFs(_) => "StatFs",
        Reply::Size(_) => "Size",
        Reply::Offset(_) => "Offset",
        Reply::Copied(_) => "Copied",
        Reply::FileFlags(_) => "FileFlags",
        Reply::FsXattr(_) => "FsXattr",
        Reply::Lock(_) => "Lock",
    }
}

/// Numbers at their edges.
const EDGES: [u64; 10] = [
    0,
    1,
    SIZE as u64,
    u32::MAX as u64 - 1,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Attributes with every number at the same edge, cut to its width.
fn attr(edge: u64) -> Attr {
    let (long, short) = (edge, edge as u32);
    let time = Timestamp {
        seconds: long as i64,
        nanoseconds: short,
    };
    Attr {
        ino: long,
        size: long,
        blocks: long,
        atime: time,
        mtime: time,
        ctime: time,
        btime: (edge % 2 == 1).then_some(time),
        mode: short,
        nlink: short,
        uid: short,
        gid: short,
        rdev: (short, short),
        blksize: short,
        attributes: long,
        attributes_mask: long,
        submount: edge % 2 == 1,
    }
}

/// An answer of each kind, `Error` excepted.
pub(crate) fn one_of_each() -> Vec<Reply<'static>> {
    let mut seen = Vec::new();
    let mut all = at_the_edges();
    all.retain(|reply| {
        let new = !seen.contains(&kind(reply));
        seen.push(kind(reply));
        new
    });
    assert_eq!(all.len(), 18);
    all
}

/// Answers of every kind with their fields at the edges, `Error` excepted.
pub(crate) fn at_the_edges() -> Vec<Reply<'static>> {
    static TARGET: [u8; 8000] = [b'/'; 8000];
    let mut all = vec![Reply::Done, Reply::Donated, Reply::NotDonated];
    for length in [1, 0, 4095, 4096, 8000] {
        all.push(Reply::Target(Bytes(&TARGET[..length])));
    }
    // Each bit of a mode alone, types that are none included.
    for bit in 0..32 {
        all.push(Reply::Attr(Attr {
            mode: 1 << bit,
            submount: true,
            ..attr(1)
        }));
    }
    for edge in EDGES.into_iter().skip(1).chain([0]) {
        let (handle, short) = (Handle(edge), edge as u32);
        let entry = Entry {
            node: NodeId(edge),
            attr: attr(edge),
        };
        let lock = FileLock {
            start: edge,
            end: edge,
            kind: short,
            pid: short,
        };
        all.extend([
            Reply::Entry(entry),
            Reply::Attr(attr(edge)),
            Reply::Opened { handle },
            Reply::Created { entry, handle },
            Reply::Data { size: short },
            Reply::Written { size: short },
            Reply::Entries { size: short },
            Reply::StatFs(StatFs {
                blocks: edge,
                bfree: edge,
                bavail: edge,
                files: edge,
                ffree: edge,
                bsize: short,
                namelen: short,
                frsize: short,
            }),
            Reply::Size(short),
            Reply::Offset(edge),
            Reply::Copied(edge),
            Reply::FileFlags(short),
            Reply::FsXattr(FsXattr {
                xflags: short,
                extsize: short,
                nextents: short,
                projid: short,
                cowextsize: short,
            }),
            Reply::Lock(lock),
        ]);
    }
    all
}

/// Errors at the edges, for each operation.
pub(crate) fn errors() -> impl Iterator<Item = GuestErrno> {
    [1, 2, 38, 511, 512, 513, 4094, 4095]
        .into_iter()
        .map(GuestErrno::raw)
}
