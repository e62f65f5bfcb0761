//! Work that runs in two places, and is compared.
#![allow(
    unsafe_code,
    reason = "system calls on the calling thread alone, which no library offers"
)]

use std::fmt::{Debug, Write};
use std::path::{Path, PathBuf};

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::ground::Ground;
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid};

/// A mounted share. Fields drop in this order: unmount first.
pub(crate) struct Mounted {
    pub(crate) bridge: Bridge,
    pub(crate) daemon: Daemon,
    mount: TempDir,
}

impl Mounted {
    pub(crate) fn new(options: &[&str]) -> Self {
        Self::launch(Launch::airlockfs().args(options))
    }

    pub(crate) fn launch(launch: Launch) -> Self {
        let daemon = launch.start();
        let mount = TempDir::new().expect("a mount point");
        let bridge = Bridge::mount(daemon.socket(), &mount, &BridgeConfig::default()).expect("mount");
        Self {
            bridge,
            daemon,
            mount,
        }
    }

    /// A path as programs of the guest name it.
    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount.join(name)
    }

    /// The same as the host names it.
    pub(crate) fn host(&self, name: impl AsRef<Path>) -> PathBuf {
        self.daemon.host(name)
    }
}

/// Does the same work in a plain directory and on a share with each set of options. The outcomes must be the same.
pub(crate) fn same_everywhere<T: Debug + PartialEq>(options: &[&[&str]], work: impl Fn(&Path) -> Vec<T>) {
    let plain = TempDir::new().expect("a directory");
    compare(options, work(&plain), Mounted::new, work);
}

/// As [`same_everywhere`], on fresh file systems of some kind.
pub(crate) fn same_on<T: Debug + PartialEq>(
    ground: impl Fn() -> Ground,
    options: &[&[&str]],
    work: impl Fn(&Path) -> Vec<T>,
) {
    let plain = ground();
    let expected = work(&plain.path());
    drop(plain);
    // They outlive the daemons that share them.
    let grounds = std::cell::RefCell::new(Vec::new());
    let start = |options: &[&str]| {
        let ground = ground();
        let mounted = Mounted::launch(Launch::airlockfs().share(&ground.path()).args(options));
        grounds.borrow_mut().push(ground);
        mounted
    };
    compare(options, expected, start, work);
}

fn compare<T: Debug + PartialEq>(
    options: &[&[&str]],
    expected: Vec<T>,
    start: impl Fn(&[&str]) -> Mounted,
    work: impl Fn(&Path) -> Vec<T>,
) {
    let mut differences = String::new();
    for options in options {
        let mounted = start(options);
        let found = work(mounted.bridge.path());
        assert_eq!(found.len(), expected.len(), "{options:?}");
        for (found, expected) in found.iter().zip(&expected) {
            if found != expected {
                let _ = writeln!(differences, "with {options:?}\n  {found:?}, not\n  {expected:?}");
            }
        }
    }
    assert!(
        differences.is_empty(),
        "not as in a plain directory:\n{differences}"
    );
}

/// An outcome that can be compared.
pub(crate) fn outcome<T: Debug>(result: nix::Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(errno) => format!("{errno:?}"),
    }
}

/// As [`outcome`], of the standard library's.
pub(crate) fn io_outcome<T: Debug>(result: std::io::Result<T>) -> String {
    outcome(result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0))))
}

/// Runs `work` on a thread with a user's ids for files and without root's capabilities over them.
pub(crate) fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                // SAFETY: takes a count and an array of as many.
                let set = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
                assert_eq!(set, 0);
                nix::unistd::setfsgid(Gid::from_raw(gid));
                nix::unistd::setfsuid(Uid::from_raw(uid));
                work()
            })
            .join()
            .expect("the user's work")
    })
}

/// Runs `work` on a thread with a umask of its own.
pub(crate) fn with_umask<T: Send>(umask: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).expect("unshare");
                nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
                work()
            })
            .join()
            .expect("the work")
    })
}

fn path_of(path: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes()).expect("a path without NUL")
}

/// setxattr(2).
pub(crate) fn set_xattr(path: &Path, name: &std::ffi::CStr, value: &[u8]) -> nix::Result<()> {
    // SAFETY: two strings, and as many bytes as said.
    Errno::result(unsafe {
        libc::setxattr(
            path_of(path).as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    })
    .map(drop)
}

/// getxattr(2).
pub(crate) fn get_xattr(path: &Path, name: &std::ffi::CStr) -> nix::Result<Vec<u8>> {
    let mut value = vec![0; 65_536];
    let length = get_xattr_sized(path, name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

/// getxattr(2) with so much room.
pub(crate) fn get_xattr_sized(path: &Path, name: &std::ffi::CStr, room: &mut [u8]) -> nix::Result<usize> {
    // SAFETY: two strings, and room for as many bytes as said.
    Errno::result(unsafe {
        libc::getxattr(
            path_of(path).as_ptr(),
            name.as_ptr(),
            room.as_mut_ptr().cast(),
            room.len(),
        )
    })
    .map(|length| length as usize)
}

/// removexattr(2).
pub(crate) fn remove_xattr(path: &Path, name: &std::ffi::CStr) -> nix::Result<()> {
    // SAFETY: two strings.
    Errno::result(unsafe { libc::removexattr(path_of(path).as_ptr(), name.as_ptr()) }).map(drop)
}

/// listxattr(2) with so much room; without room the length, as so many NULs.
pub(crate) fn list_xattrs(path: &Path, room: usize) -> nix::Result<Vec<u8>> {
    let mut list = vec![0; room];
    // SAFETY: a string, and room for as many bytes as said.
    let length =
        Errno::result(unsafe { libc::listxattr(path_of(path).as_ptr(), list.as_mut_ptr().cast(), room) })?;
    list.resize(length as usize, 0);
    Ok(list)
}

/// ioctl(2) with room for what it might write.
pub(crate) fn ioctl(file: &std::fs::File, request: u64) -> nix::Result<()> {
    use std::os::fd::AsRawFd;
    let mut room = [0u8; 4096];
    // SAFETY: the requests that are tried write less than the room there is.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), request as _, room.as_mut_ptr()) }).map(drop)
}
