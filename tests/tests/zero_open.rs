//! With `--readonly --cache always`, the guest opens and closes files without a message
//! (FUSE_NO_OPEN_SUPPORT, FUSE_NO_OPENDIR_SUPPORT). A request with handle 0 is about the node.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::Command;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{self, ROOT, init_flags};
use airlockfs_tests::fuse::{Client, Opened, SetAttr};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;

const OPTIONS: [&str; 2] = ["--readonly", "--cache=always"];
const BOTH: u64 = init_flags::NO_OPEN_SUPPORT | init_flags::NO_OPENDIR_SUPPORT;
const LARGE: usize = 300_000;

fn content() -> Vec<u8> {
    (0..LARGE).map(|i| (i % 251) as u8).collect()
}

/// A tree with one of each.
fn tree() -> TempDir {
    let home = TempDir::new().expect("a directory");
    fs::create_dir(home.join("dir")).expect("mkdir");
    for i in 0..100 {
        fs::write(home.join(format!("dir/{i}")), format!("file {i}")).expect("write");
    }
    fs::write(home.join("large"), content()).expect("write");
    symlink("large", home.join("link")).expect("symlink");
    nix::unistd::mkfifo(&home.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    home
}

fn started(home: &TempDir, more: &[&str]) -> (Daemon, Client) {
    let daemon = Launch::airlockfs().share(home).args(OPTIONS).args(more).start();
    let client = daemon.client();
    (daemon, client)
}

/// What a guest uses that has not opened it.
fn unopened(fs: &Client, path: &str) -> Opened {
    let node = fs.walk(path).expect("LOOKUP").nodeid;
    Opened {
        node,
        fh: 0,
        open_flags: 0,
    }
}

#[test]
fn what_nobody_opened_is_served_by_its_node() {
    let home = tree();
    for more in [&[][..], &["--no-donate"]] {
        let (_daemon, fs) = started(&home, more);
        assert_eq!(fs.negotiated() & BOTH, BOTH);
        let large = unopened(&fs, "large");
        let dir = unopened(&fs, "dir");
        assert_eq!(fs.open(large.node, libc::O_RDONLY).map(drop), Err(Errno::ENOSYS));
        assert_eq!(fs.opendir(dir.node).map(drop), Err(Errno::ENOSYS));

        // Small and large, first and again: through the ring and by the donated descriptor.
        for (offset, size) in [
            (0, 10),
            (5, 4096),
            (0, 200_000),
            (100_000, 150_000),
            (299_990, 4096),
            (400_000, 1),
        ] {
            let end = (offset + size).min(LARGE);
            let expected = content().get(offset..end).unwrap_or_default().to_vec();
            let read = fs.read(large, offset as u64, size as u32).expect("READ");
            assert!(read == expected, "{offset} {size}: {} bytes", read.len());
        }
        assert_eq!(fs.lseek(large, 0, libc::SEEK_HOLE), Ok(LARGE as u64));
        assert_eq!(fs.fsync(large, false), Ok(()));
        assert_eq!(fs.fsyncdir(dir), Ok(()));
        assert_eq!(fs.getattr_fh(large.node, 0).expect("GETATTR").size, LARGE as u64);
        let stat = fs
            .statx(large.node, Some(0), libc::STATX_BASIC_STATS)
            .expect("STATX");
        assert_eq!(stat.size, LARGE as u64);
        // FS_IOC_GETFLAGS.
        assert_eq!(
            fs.ioctl(large, 0x8008_6601, &[], 4).map(|(result, _)| result),
            Ok(0)
        );

        for size in [512, 4096, 65_536] {
            assert_eq!(fs.readdir_all(dir, size).expect("READDIR").len(), 102, "{size}");
            assert_eq!(
                fs.readdirplus_all(dir, size).expect("READDIRPLUS").len(),
                102,
                "{size}"
            );
        }
        // Two that list it at once do not disturb each other.
        let half = fs.readdir(dir, 0, 1024).expect("READDIR");
        fs.readdir(dir, 0, 4096).expect("READDIR");
        let next = fs
            .readdir(dir, half.last().expect("some").off, 1024)
            .expect("READDIR");
        assert!(
            next.iter()
                .all(|entry| !half.iter().any(|before| before.name == entry.name))
        );
    }
}

#[test]
fn what_is_no_file_or_changes_one_is_refused() {
    let home = tree();
    let (daemon, fs) = started(&home, &[]);
    let (large, dir) = (unopened(&fs, "large"), unopened(&fs, "dir"));
    assert_eq!(fs.read(dir, 0, 10), Err(Errno::EISDIR));
    assert_eq!(fs.readdir(large, 0, 4096), Err(Errno::ENOTDIR));
    assert_eq!(fs.read(unopened(&fs, "link"), 0, 10), Err(Errno::ELOOP));
    assert_eq!(fs.read(unopened(&fs, "fifo"), 0, 10), Err(Errno::ENXIO));
    for node in [77, u64::MAX, 1 << 63, 0x7fff_ffff_0000_0001] {
        let made_up = Opened {
            node,
            fh: 0,
            open_flags: 0,
        };
        assert_eq!(fs.read(made_up, 0, 10), Err(Errno::ESTALE), "{node:x}");
        assert_eq!(fs.readdir(made_up, 0, 4096), Err(Errno::ESTALE), "{node:x}");
    }
    assert_eq!(fs.write(large, 0, b"x"), Err(Errno::EROFS));
    assert_eq!(fs.fallocate(large, 0, 0, 10), Err(Errno::EROFS));
    assert_eq!(
        fs.copy_file_range((large, 0), (large, 200_000), 10),
        Err(Errno::EROFS)
    );
    assert_eq!(
        fs.setattr(large.node, SetAttr::default().size(0).handle(0))
            .map(drop),
        Err(Errno::EROFS)
    );
    assert_eq!(fs::read(daemon.host("large")).expect("read"), content());
    // Handles of other numbers are still what somebody opened, and nobody did.
    for fh in [1, 7, large.node | 1 << 62] {
        assert_eq!(fs.read(Opened { fh, ..large }, 0, 10), Err(Errno::EBADF));
    }
}

#[test]
fn a_guest_that_cannot_do_without_opens_as_ever() {
    let home = tree();
    let daemon = Launch::airlockfs().share(&home).args(OPTIONS).start();
    let fs = daemon.connect();
    for (version, offered, unasked) in [
        (27, init_flags::LINUX_VIRTIOFS & !BOTH, (false, false)),
        (27, init_flags::NO_OPEN_SUPPORT, (true, false)),
        (45, init_flags::LINUX_VIRTIOFS, (true, true)),
        (
            45,
            init_flags::LINUX_VIRTIOFS & !init_flags::NO_OPEN_SUPPORT,
            (false, true),
        ),
    ] {
        fs.init_version(7, version, offered).expect("INIT");
        let (large, dir) = (unopened(&fs, "large"), unopened(&fs, "dir"));
        match fs.open(large.node, libc::O_RDONLY) {
            Ok(open) => {
                assert!(!unasked.0);
                assert_eq!(fs.read(open, 0, 10).expect("READ"), content()[..10]);
                assert_eq!(fs.release(open), Ok(()));
                assert_eq!(fs.read(large, 0, 10), Err(Errno::EBADF));
            }
            Err(error) => {
                assert_eq!((error, unasked.0), (Errno::ENOSYS, true));
                assert_eq!(fs.read(large, 0, 10).expect("READ"), content()[..10]);
            }
        }
        match fs.opendir(dir.node) {
            Ok(open) => {
                assert!(!unasked.1);
                assert_eq!(fs.readdir_all(open, 4096).expect("READDIR").len(), 102);
                assert_eq!(fs.readdir(dir, 0, 4096), Err(Errno::EBADF));
            }
            Err(error) => {
                assert_eq!((error, unasked.1), (Errno::ENOSYS, true));
                assert_eq!(fs.readdir_all(dir, 4096).expect("READDIR").len(), 102);
            }
        }
        fs.destroy().expect("DESTROY");
    }
}

#[test]
fn it_is_for_both_options_together_and_nothing_that_needs_an_open_file() {
    for options in [
        &["--readonly"][..],
        &["--cache=always"],
        &["--readonly", "--cache=metadata"],
        &["--readonly", "--cache=always", "--posix-lock"],
        &["--readonly", "--cache=always", "--flock"],
        &["--readonly", "--cache=always", "--allow-direct-io"],
        &["--readonly", "--cache=always", "--preserve-noatime"],
    ] {
        let (_daemon, fs) = Daemon::with_client(options);
        assert_eq!(fs.negotiated() & BOTH, 0, "{options:?}");
        // There is no file without a handle then.
        let root = Opened {
            node: ROOT,
            fh: 0,
            open_flags: 0,
        };
        assert_eq!(fs.readdir(root, 0, 4096), Err(Errno::EBADF));
        assert_eq!(
            fs.readdir(
                Opened {
                    fh: ROOT | 1 << 63,
                    ..root
                },
                0,
                4096
            ),
            Err(Errno::EBADF)
        );
    }
}

#[test]
fn descriptors_go_with_their_nodes_and_never_run_out() {
    let home = TempDir::new().expect("a directory");
    for i in 0..400 {
        fs::write(home.join(format!("{i}")), vec![i as u8; 50_000]).expect("write");
    }
    let daemon = Launch::airlockfs()
        .share(&home)
        .args(OPTIONS)
        .args(["--rlimit-nofile=300"])
        .start();
    let fs = daemon.client();
    let count = || {
        let worker = daemon
            .worker()
            .expect("a worker")
            .descriptors()
            .expect("descriptors");
        let supervisor = daemon.supervisor().descriptors().expect("descriptors");
        (supervisor.len(), worker.len())
    };
    let before = count();
    let mut nodes = Vec::new();
    for round in 0..2 {
        for i in 0..400 {
            let file = unopened(&fs, &format!("{i}"));
            let read = fs.read(file, 0, 50_000).expect("READ");
            assert!(read == vec![i as u8; 50_000], "{round} {i}");
            nodes.push((file.node, 1));
        }
    }
    let full = count();
    assert!(full.0 > before.0 + 10, "some were donated: {full:?}");
    assert!(full.0 < before.0 + 100, "and not all are kept: {full:?}");
    for chunk in nodes.chunks(100) {
        fs.batch_forget(chunk);
    }
    for (node, _) in nodes.iter().step_by(97).chain(nodes.last()) {
        assert!(fs.is_forgotten(*node));
    }
    let after = count();
    assert_eq!(after.0, before.0, "{after:?}");
    assert!(after.1 <= before.1 + 1, "{after:?} after {before:?}");
}

#[test]
fn the_kernel_opens_and_closes_without_asking() {
    let home = tree();
    fs::copy("/usr/bin/true", home.join("program")).expect("copy");
    fs::set_permissions(home.join("program"), fs::Permissions::from_mode(0o755)).expect("chmod");
    let daemon = Launch::airlockfs().share(&home).args(OPTIONS).start();
    let mount = TempDir::new().expect("a mount point");
    let bridge = Bridge::mount(daemon.socket(), &mount, &BridgeConfig::default()).expect("mount");
    for _ in 0..3 {
        assert_eq!(fs::read(mount.join("large")).expect("read"), content());
        assert_eq!(fs::read_dir(mount.join("dir")).expect("list").count(), 100);
        for i in 0..100 {
            let text = fs::read_to_string(mount.join(format!("dir/{i}"))).expect("read");
            assert_eq!(text, format!("file {i}"));
        }
        assert!(
            Command::new(mount.join("program"))
                .status()
                .expect("run")
                .success()
        );
    }
    let file = fs::File::open(mount.join("large")).expect("open");
    file.sync_all().expect("fsync");
    assert_eq!(file.metadata().expect("stat").len(), LARGE as u64);
    assert_eq!(
        nix::unistd::lseek64(&file, 0, nix::unistd::Whence::SeekHole),
        Ok(LARGE as i64)
    );
    let attributes = Command::new("lsattr")
        .arg(mount.join("large"))
        .output()
        .expect("lsattr");
    assert!(attributes.status.success(), "{attributes:?}");
    let tar = Command::new("tar")
        .arg("-cf-")
        .arg("-C")
        .arg(&*mount)
        .arg(".")
        .output()
        .expect("tar");
    assert!(tar.status.success() && tar.stdout.len() > LARGE);

    // Each kind was asked for once, and the kernel took the hint.
    assert_eq!(
        (bridge.requests(abi::OPEN), bridge.requests(abi::OPENDIR)),
        (1, 1)
    );
    assert_eq!(
        (bridge.requests(abi::RELEASE), bridge.requests(abi::RELEASEDIR)),
        (0, 0)
    );
    assert!(bridge.requests(abi::READ) > 100);

    // The price: nobody asked whether it may be written to. Nothing is.
    let writable = fs::File::options()
        .write(true)
        .open(mount.join("dir/1"))
        .expect("open");
    let refused = writable
        .write_at(b"x", 0)
        .and_then(|_| writable.sync_all())
        .expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read(home.join("dir/1")).expect("read"), b"file 1");
    assert_eq!(
        fs::write(mount.join("dir/1"), "x")
            .expect_err("read-only")
            .raw_os_error(),
        Some(libc::EROFS)
    );
    assert_eq!(
        fs::write(mount.join("new"), "x")
            .expect_err("read-only")
            .raw_os_error(),
        Some(libc::EROFS)
    );
    drop(file);
    drop(writable);
    bridge.unmount().expect("unmount");
}
