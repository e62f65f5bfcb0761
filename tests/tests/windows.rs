//! The Windows guest driver (virtio-win's viofs): its requests as it sends them, also the odd ones.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{
    CREATE, CreateIn, EntryOut, FLUSH, FORGET, FlushIn, ForgetIn, LOOKUP, OpenOut, READLINK, ROOT, SETATTR,
    SetattrIn, fattr, init_flags,
};
use airlockfs_tests::fuse::{Client, Outcome};
use nix::errno::Errno;
use zerocopy::{FromBytes, IntoBytes};

/// What it offers, at minor version 31: nothing else.
const OFFERED: u64 = init_flags::DO_READDIRPLUS | init_flags::MAX_PAGES;

fn connect(daemon: &Daemon) -> Client {
    let fs = daemon.connect();
    fs.init_version(7, 31, OFFERED).expect("INIT");
    fs
}

fn started(options: &[&str]) -> (Daemon, Client) {
    let daemon = Launch::airlockfs().args(options).start();
    let fs = connect(&daemon);
    (daemon, fs)
}

/// `\` is looked up as `.` in node 1, and counts one lookup as any other.
#[test]
fn the_root_is_opened_by_looking_itself_up() {
    let (daemon, fs) = started(&[]);
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    fs::write(daemon.host("dir/file"), "text").expect("write");
    let host = fs::metadata(daemon.share()).expect("stat");
    for name in [".", ".."] {
        let root = fs.lookup(ROOT, name).expect("LOOKUP");
        assert_eq!(
            (root.nodeid, root.attr.ino, root.generation),
            (ROOT, host.ino(), 0),
            "{name}"
        );
        assert_eq!(root.attr.mode, host.mode());
    }
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    assert_eq!(fs.readdirplus_all(dir, 65_536).expect("READDIRPLUS").len(), 3);
    // So are directories beneath it, which Linux finds again by that.
    let entry = fs.walk("dir").expect("LOOKUP");
    let file = fs.walk("dir/file").expect("LOOKUP");
    let same = |found: EntryOut, expected: &EntryOut| {
        assert_eq!(
            (found.nodeid, found.attr.ino),
            (expected.nodeid, expected.attr.ino)
        );
    };
    same(fs.lookup(entry.nodeid, ".").expect("LOOKUP"), &entry);
    same(fs.lookup(file.nodeid, ".").expect("LOOKUP"), &file);
    assert_eq!(fs.lookup(entry.nodeid, "..").expect("LOOKUP").nodeid, ROOT);
    assert_eq!(fs.lookup(file.nodeid, "..").map(drop), Err(Errno::ENOTDIR));
    assert_eq!(fs.lookup(777, ".").map(drop), Err(Errno::ESTALE));
    // Looked up by name and by itself; the directory also on the way to the file and by READDIRPLUS.
    fs.forget(file.nodeid, 2);
    assert!(fs.is_forgotten(file.nodeid));
    fs.forget(entry.nodeid, 3);
    assert!(fs.stays_known(entry.nodeid));
    fs.forget(entry.nodeid, 1);
    assert!(fs.is_forgotten(entry.nodeid));
    assert_eq!(fs.lookup(entry.nodeid, ".").map(drop), Err(Errno::ESTALE));
}

#[test]
fn the_directory_above_is_the_one_that_it_is_in() {
    let (daemon, fs) = started(&[]);
    fs::create_dir_all(daemon.host("one/below")).expect("mkdir");
    fs::create_dir(daemon.host("two")).expect("mkdir");
    let one = fs.walk("one").expect("LOOKUP").nodeid;
    let below = fs.walk("one/below").expect("LOOKUP").nodeid;
    assert_eq!(fs.lookup(below, "..").expect("LOOKUP").nodeid, one);
    let two = fs.walk("two").expect("LOOKUP").nodeid;
    fs.rename(one, "below", two, "moved").expect("RENAME");
    assert_eq!(fs.lookup(below, "..").expect("LOOKUP").nodeid, two);
    // The host moves it, even out of the share: what is above it is not what the guest knew, and never outside.
    fs::rename(daemon.host("two/moved"), daemon.share().with_extension("outside")).expect("rename");
    assert_eq!(fs.lookup(below, "..").map(drop), Err(Errno::ESTALE));
    fs::remove_dir(daemon.share().with_extension("outside")).expect("rmdir");
}

/// Several shares: above each is the directory over all of them, and above that itself.
#[test]
fn above_a_share_is_the_directory_over_all() {
    let home = airlockfs_tests::tempdir::TempDir::new().expect("a directory");
    fs::create_dir_all(home.join("inner")).expect("mkdir");
    let share = format!("--share=data={}", home.display());
    let daemon = Launch::airlockfs().by_name().args([share]).start();
    let fs = connect(&daemon);
    let data = fs.walk("data").expect("LOOKUP").nodeid;
    let inner = fs.walk("data/inner").expect("LOOKUP").nodeid;
    assert_eq!(fs.lookup(inner, "..").expect("LOOKUP").nodeid, data);
    assert_eq!(fs.lookup(data, "..").expect("LOOKUP").nodeid, ROOT);
    for name in [".", ".."] {
        let root = fs.lookup(ROOT, name).expect("LOOKUP");
        assert_eq!((root.nodeid, root.attr.mode), (ROOT, 0o40555));
    }
}

fn flush(fs: &Client, fh: u64) -> Option<Errno> {
    let body = FlushIn {
        fh,
        ..FlushIn::default()
    };
    match fs.raw(FLUSH, ROOT, body.as_bytes(), 0) {
        Outcome::Reply { error: 0, .. } => None,
        outcome => Some(outcome.errno().expect("an answer")),
    }
}

/// FLUSH is FlushFileBuffers there, and an error goes to the program. Linux, which sends it at each close, keeps doing
/// without.
#[test]
fn flush_is_served_where_its_error_would_reach_a_program() {
    let (_daemon, fs) = started(&[]);
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    assert_eq!(fs.write(file, 0, b"text"), Ok(4));
    assert_eq!(flush(&fs, file.fh), None);
    assert_eq!(flush(&fs, 999), Some(Errno::EBADF));
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    assert_eq!(flush(&fs, dir.fh), None);
    // Also where data stays with the worker, and on a share that cannot change.
    let (_daemon, fs) = started(&["--no-donate"]);
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    assert_eq!(flush(&fs, file.fh), None);
    let (daemon, fs) = started(&["--readonly"]);
    fs::write(daemon.host("file"), "text").expect("write");
    let file = fs
        .open(fs.walk("file").expect("LOOKUP").nodeid, libc::O_RDONLY)
        .expect("OPEN");
    assert_eq!(flush(&fs, file.fh), None);
    let (_daemon, linux) = Daemon::with_client(["--tag=linux"]);
    let (_, file) = linux.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    assert_eq!(flush(&linux, file.fh), Some(Errno::ENOSYS));
}

/// Its READLINK counts the 256 bytes of its answer's buffer among the request's, whatever they hold.
#[test]
fn bytes_behind_readlinks_header_mean_nothing() {
    let (daemon, fs) = started(&[]);
    symlink("target", daemon.host("link")).expect("symlink");
    let link = fs.walk("link").expect("LOOKUP").nodeid;
    for junk in [&[0xff; 256][..], &[0; 256], b""] {
        let outcome = fs.raw(READLINK, link, junk, 256);
        let body = b"target".to_vec();
        assert_eq!(outcome, Outcome::Reply { error: 0, body });
    }
}

/// CREATE says O_EXCL and no O_CREAT; its other fields are what lay on the stack.
#[test]
fn create_needs_no_o_creat_and_reads_no_padding() {
    let (daemon, fs) = started(&[]);
    let create = |name: &[u8], flags: i32| {
        let body = CreateIn {
            flags: flags as u32,
            mode: 0o664,
            umask: 0,
            open_flags: u32::MAX,
        };
        fs.raw(CREATE, ROOT, &[body.as_bytes(), name, b"\0"].concat(), 144)
    };
    let Outcome::Reply { error: 0, body } = create(b"new", libc::O_RDWR | libc::O_EXCL) else {
        panic!("CREATE failed");
    };
    let (_, open) = OpenOut::read_from_suffix(&body).expect("an open file");
    assert_ne!(open.fh, 0);
    assert_eq!(fs::metadata(daemon.host("new")).expect("stat").mode(), 0o100_664);
    assert_eq!(
        create(b"new", libc::O_RDWR | libc::O_EXCL).errno(),
        Some(Errno::EEXIST)
    );
    // What would clear setuid is padding to it.
    fs::write(daemon.host("program"), "text").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    fs::set_permissions(daemon.host("program"), mode).expect("chmod");
    assert!(matches!(
        create(b"program", libc::O_WRONLY | libc::O_TRUNC),
        Outcome::Reply { error: 0, .. }
    ));
    assert_eq!(
        fs::metadata(daemon.host("program")).expect("stat").mode(),
        0o104_755
    );
}

/// SETATTR brings a time of creation, which cannot be set, and the file's type among its permissions; for a symbolic
/// link, which it never opened, the handle 0.
#[test]
fn attributes_are_set_with_ctime_and_type_and_no_handle() {
    let (daemon, fs) = started(&[]);
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    symlink("dir", daemon.host("link")).expect("symlink");
    let set = |name: &str, valid: u32, mode: u32| {
        let body = SetattrIn {
            valid,
            mode,
            mtime: 77,
            ctime: 5,
            ..SetattrIn::default()
        };
        fs.raw(
            SETATTR,
            fs.walk(name).expect("LOOKUP").nodeid,
            body.as_bytes(),
            104,
        )
    };
    let served = |outcome| assert!(matches!(outcome, Outcome::Reply { error: 0, .. }), "{outcome:?}");
    served(set("dir", fattr::MODE | fattr::MTIME | fattr::CTIME, 0o40775));
    let found = fs::metadata(daemon.host("dir")).expect("stat");
    assert_eq!((found.mode(), found.mtime()), (0o40775, 77));
    served(set("dir", fattr::CTIME, 0));
    served(set("link", fattr::FH | fattr::MTIME | fattr::CTIME, 0));
    assert_eq!(
        fs::symlink_metadata(daemon.host("link")).expect("stat").mtime(),
        77
    );
}

/// FORGET comes by a request queue, with room for an answer that there is none to.
#[test]
fn forget_with_room_for_an_answer_is_not_answered() {
    let (daemon, fs) = started(&[]);
    fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.walk("file").expect("LOOKUP").nodeid;
    let header = fs.header(FORGET, node);
    let body = ForgetIn { nlookup: 1 };
    let outcome = fs.session().call(1, header, &[body.as_bytes()], 16);
    assert_eq!(outcome, Outcome::Empty);
    assert!(fs.is_forgotten(node));
    let outcome = fs.raw(LOOKUP, ROOT, b"file\0", 128);
    assert!(matches!(outcome, Outcome::Reply { error: 0, .. }));
}
