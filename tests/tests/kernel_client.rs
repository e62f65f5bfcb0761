//! How Linux's own FUSE client takes our answers: programs on a share that the bridge mounts on the
//! host.
#![allow(unsafe_code, reason = "mount_setattr(2) and its kin, which no library offers")]

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi;
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::unistd::{Gid, Uid, Whence, lseek};

/// A mounted share. Fields drop in this order: unmount first.
struct Mounted {
    bridge: Bridge,
    daemon: Daemon,
    mount: TempDir,
}

fn mounted(options: &[&str]) -> Mounted {
    let daemon = Daemon::start(options);
    let mount = TempDir::new().expect("a mount point");
    let bridge = Bridge::mount(daemon.socket(), &mount, &BridgeConfig::default()).expect("mount");
    Mounted {
        bridge,
        daemon,
        mount,
    }
}

/// Parts of a file that the kernel says are data.
fn data(file: &File) -> Vec<(i64, i64)> {
    let (mut parts, mut at) = (Vec::new(), 0);
    loop {
        match lseek(file, at, Whence::SeekData) {
            Ok(start) => {
                at = lseek(file, start, Whence::SeekHole).expect("SEEK_HOLE");
                parts.push((start, at));
            }
            Err(Errno::ENXIO) => return parts,
            Err(errno) => panic!("SEEK_DATA: {errno}"),
        }
    }
}

/// Pages that only the guest has are data, whatever the host's file has there: `cp` and `tar -S` wrote zeros for them.
#[test]
fn what_the_guest_has_not_written_back_is_no_hole() {
    const SIZE: usize = 1 << 20;
    for cache in ["--cache=auto", "--cache=always"] {
        let Mounted {
            bridge: _bridge,
            daemon,
            mount,
        } = mounted(&["--writeback", cache]);
        for at_end in [false, true] {
            let path = mount.join(format!("file-{at_end}"));
            let file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(&path);
            let file = file.expect("create");
            if !at_end {
                file.set_len(4 * SIZE as u64).expect("truncate");
            }
            let text: Vec<u8> = (0..SIZE).map(|index| (index % 251) as u8 + 1).collect();
            file.write_all_at(&text, SIZE as u64).expect("write");
            let parts = data(&file);
            let covers = |&(start, end): &(i64, i64)| start <= SIZE as i64 && end >= 2 * SIZE as i64;
            assert!(parts.iter().any(covers), "{cache} {at_end}: {parts:?}");
            // Another file beside it, still open for writing: so does the guest's own copy.
            for (name, how) in [("auto", "--sparse=auto"), ("always", "--sparse=always")] {
                let copy = mount.join(name);
                let done = Command::new("cp")
                    .arg(how)
                    .args([&path, &copy])
                    .status()
                    .expect("cp");
                assert!(done.success());
                let (copied, whole) = (fs::read(&copy).expect("read"), fs::read(&path).expect("read"));
                assert!(copied == whole, "{cache} {at_end} {how}");
                assert_eq!(&copied[SIZE..2 * SIZE], text, "{cache} {at_end} {how}");
            }
            drop(file);
            let host = fs::read(daemon.host(format!("file-{at_end}"))).expect("read");
            assert_eq!(&host[SIZE..2 * SIZE], text);
        }
    }
}

/// The mode alone, as `stat -c %a` asks for it: Linux then answers from its cache although it knows the times to be stale.
fn shown_mode(path: &Path) -> u32 {
    let out = Command::new("stat")
        .args(["-c", "%a"])
        .arg(path)
        .output()
        .expect("stat");
    let text = String::from_utf8(out.stdout).expect("text");
    u32::from_str_radix(text.trim(), 8).unwrap_or_else(|_| panic!("{text:?}"))
}

fn as_user<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            nix::unistd::setfsgid(Gid::from_raw(1000));
            nix::unistd::setfsuid(Uid::from_raw(1000));
            work()
        });
        user.join().expect("the user's work")
    })
}

/// What a user does to a file, by a name for it.
type Change = (&'static str, fn(&Path));

/// A user's change takes setuid from the file; the guest must not go on with the mode that it remembers.
#[test]
fn what_a_change_takes_of_the_mode_shows_at_once() {
    let changes: [Change; 4] = [
        ("write", |path| {
            let file = File::options().write(true).open(path).expect("open");
            file.write_all_at(b"new", 0).expect("write");
        }),
        ("direct write", |path| {
            let file = File::options()
                .write(true)
                .custom_flags(libc::O_DIRECT)
                .open(path);
            let file = file.expect("open");
            let _ = file.write_at(&[1; 4096], 0).expect("write");
        }),
        ("fallocate", |path| {
            let file = File::options().write(true).open(path).expect("open");
            fallocate(&file, FallocateFlags::empty(), 0, 8192).expect("fallocate");
        }),
        ("copy", |path| {
            let file = File::options().write(true).open(path).expect("open");
            let source = File::open(path.with_file_name("source")).expect("open");
            copy_file_range(&source, Some(&mut 0), &file, Some(&mut 0), 4).expect("copy");
        }),
    ];
    for cache in ["--cache=auto", "--cache=always"] {
        for killpriv in ["--no-killpriv-v2", "--killpriv-v2"] {
            let share = mounted(&[cache, killpriv, "--attr-timeout=3600"]);
            let mount = &share.mount;
            fs::write(mount.join("source"), "text").expect("write");
            for (what, change) in changes {
                let path = mount.join("program");
                let _ = fs::remove_file(&path);
                fs::write(&path, "old").expect("write");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).expect("chmod");
                assert_eq!(shown_mode(&path), 0o6777);
                as_user(|| change(&path));
                assert_eq!(shown_mode(&path), 0o777, "{cache} {killpriv} {what}");
                let host = fs::metadata(share.daemon.host("program")).expect("stat");
                assert_eq!(host.mode() & 0o7777, 0o777, "{cache} {killpriv} {what}");
            }
            // Nobody asks again and again for what no write changes.
            let before = share.bridge.requests(abi::GETATTR) + share.bridge.requests(abi::STATX);
            for _ in 0..10 {
                assert_eq!(shown_mode(&mount.join("source")), 0o644);
            }
            let after = share.bridge.requests(abi::GETATTR) + share.bridge.requests(abi::STATX);
            assert_eq!(after, before, "{cache} {killpriv}");
        }
    }
}

/// A user namespace with these maps, held by a process that waits for its end.
struct Namespace(Child);

impl Namespace {
    fn new(map: &str) -> Self {
        // Ready once it wrote a line; it ends with its standard input.
        let child = Command::new("unshare")
            .args(["--user", "sh", "-c", "echo; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.expect("unshare");
        let mut line = [0];
        let out = child.stdout.as_mut().expect("a pipe");
        std::io::Read::read_exact(out, &mut line).expect("a line");
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{file}", child.id()), map).expect("a map");
        }
        Self(child)
    }

    fn file(&self) -> File {
        File::open(format!("/proc/{}/ns/user", self.0.id())).expect("a namespace")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    namespace: u64,
}

/// Mounts `from` on `to` once more, with ids as `namespace` maps them.
fn map_ids(from: &Path, to: &Path, namespace: &File) -> nix::Result<Detached> {
    let c_path = |path: &Path| std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("a path");
    let (from, target) = (c_path(from), c_path(to));
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: a terminated string and numbers.
    let tree =
        Errno::result(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, from.as_ptr(), flags) })?;
    // SAFETY: a new descriptor, which nobody else has.
    let tree = unsafe { OwnedFd::from_raw_fd(tree as i32) };
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        namespace: namespace.as_raw_fd() as u64,
    };
    // SAFETY: an empty string, a structure of the size that is said.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    // SAFETY: terminated strings and numbers.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    })?;
    Ok(Detached(to.to_owned()))
}

/// A mount that goes with this.
struct Detached(PathBuf);

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// What can be mounted with other ids in the guest, and each operation there. xfstests' generic/644 and 645 need it.
#[test]
fn the_share_can_be_mounted_with_ids_mapped() {
    // Ids 0 to 999 of the file system are 10000 to 10999 in the mount.
    let namespace = Namespace::new("0 10000 1000");
    for options in [
        &["--xattr"][..],
        &["--posix-acl", "--cache=always"],
        &["--no-donate", "--cache=never"],
    ] {
        let share = mounted(options);
        let mapped = TempDir::new().expect("a mount point");
        // The kernel has INIT's answer once it lets a request through. Before, it takes no ids for this file system.
        fs::read_dir(&share.mount).expect("a listing");
        let _mapped = map_ids(&share.mount, &mapped, &namespace.file()).expect("an id-mapped mount");
        let owner = |path: &Path| {
            let found = fs::symlink_metadata(path).expect("stat");
            (found.uid(), found.gid())
        };
        fs::write(share.mount.join("roots"), "text").expect("write");
        fs::set_permissions(share.mount.join(""), fs::Permissions::from_mode(0o777)).expect("chmod");
        assert_eq!(owner(&mapped.join("roots")), (10_000, 10_000));
        // Every operation that creates, by a user who is 5 in the file system.
        let user = |work: &(dyn Fn() + Sync)| {
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    nix::unistd::setfsgid(Gid::from_raw(10_005));
                    nix::unistd::setfsuid(Uid::from_raw(10_005));
                    work();
                });
                thread.join().expect("the user's work");
            });
        };
        user(&|| {
            fs::write(mapped.join("file"), "text").expect("create");
            fs::create_dir(mapped.join("dir")).expect("mkdir");
            std::os::unix::fs::symlink("file", mapped.join("link")).expect("symlink");
            nix::unistd::mkfifo(&mapped.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
            fs::hard_link(mapped.join("file"), mapped.join("hard")).expect("link");
            fs::rename(mapped.join("hard"), mapped.join("renamed")).expect("rename");
            assert_eq!(fs::read(mapped.join("file")).expect("read"), b"text");
            fs::set_permissions(mapped.join("file"), fs::Permissions::from_mode(0o640)).expect("chmod");
            assert!(fs::write(mapped.join("roots"), "no").is_err());
            let file = File::options()
                .write(true)
                .open(mapped.join("file"))
                .expect("open");
            file.set_len(100).expect("truncate");
            fallocate(&file, FallocateFlags::empty(), 0, 4096).expect("fallocate");
            file.sync_all().expect("fsync");
        });
        for name in ["file", "dir", "link", "fifo", "renamed"] {
            assert_eq!(owner(&share.daemon.host(name)), (5, 5), "{options:?} {name}");
            assert_eq!(owner(&mapped.join(name)), (10_005, 10_005), "{options:?} {name}");
        }
        // Owners go both ways, and one that the mount has no number for is refused before it is asked for here.
        chown(mapped.join("file"), Some(10_007), Some(10_008)).expect("chown");
        assert_eq!(owner(&share.daemon.host("file")), (7, 8));
        assert_eq!(
            chown(mapped.join("file"), Some(7), None).map_err(|error| error.raw_os_error()),
            Err(Some(libc::EOVERFLOW))
        );
        fs::remove_file(mapped.join("renamed")).expect("unlink");
        fs::remove_dir(mapped.join("dir")).expect("rmdir");
    }
    // Where a request must say who makes it, the mount is refused.
    let share = mounted(&["--killpriv-v2"]);
    let mapped = TempDir::new().expect("a mount point");
    let refused = map_ids(&share.mount, &mapped, &namespace.file()).map(drop);
    assert_eq!(refused, Err(Errno::EINVAL));
}
