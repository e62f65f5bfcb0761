//! The vhost-user socket in a directory that others own, change and prepare. It belongs to its
//! owner or to the group, and nothing else is touched.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use airlockfs_tests::daemon::{Launch, bin_dir};
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::tempdir::TempDir;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::unistd::{Gid, Group, Uid, setgroups, setresgid, setresuid};
use std::os::fd::AsRawFd;

/// A group that every system has, and its id.
const GROUP: &str = "users";

fn group() -> u32 {
    let found = Group::from_name(GROUP).expect("groups");
    found.expect("a group 'users'").gid.as_raw()
}

fn facts(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).expect("stat");
    (found.mode() & 0o7777, found.gid())
}

/// An attacker who does something until this is dropped.
struct Attack(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Attack {
    fn start(mut step: impl FnMut() + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let thread = thread::spawn(move || {
            while !told.load(Relaxed) {
                step();
            }
        });
        Self(over, Some(thread))
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        self.1.take().expect("a thread").join().expect("its end");
    }
}

/// Who owns the directory puts a link to another file in the socket's place as soon as it is there.
#[test]
fn a_file_that_the_sockets_name_leads_to_later_is_not_given_to_the_group() {
    let home = TempDir::new().expect("a directory");
    let victim = home.join("victim");
    fs::write(&victim, "secret").expect("write");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("chmod");
    let before = facts(&victim);
    let (name, aside, link) = (home.join("socket"), home.join("aside"), home.join("link"));
    let _attack = Attack::start({
        let (name, victim) = (name.clone(), victim.clone());
        move || {
            // There is either the link, which the daemon refuses, or nothing, or a socket.
            if fs::rename(&name, &aside).is_ok() {
                let _ = symlink(&victim, &link);
                let _ = fs::rename(&link, &name);
                thread::yield_now();
                let _ = fs::remove_file(&name);
            }
        }
    });
    for _ in 0..40 {
        let launch = Launch::airlockfs().socket(&name).args(["--socket-group", GROUP]);
        // It may lose its socket, or find something in its place.
        drop(launch.try_start().expect("a program"));
        assert_eq!(facts(&victim), before);
    }
}

/// The directory's name leads elsewhere at another moment.
#[test]
fn a_stale_socket_is_removed_in_the_directory_where_it_was_found() {
    let home = TempDir::new().expect("a directory");
    let (ours, theirs) = (home.join("ours"), home.join("theirs"));
    for directory in [&ours, &theirs] {
        fs::create_dir(directory).expect("mkdir");
    }
    fs::write(theirs.join("socket"), "precious").expect("write");
    let (one, other) = (home.join("one"), home.join("other"));
    symlink(&ours, &one).expect("link");
    symlink(&theirs, &other).expect("link");
    let name = one.join("socket");
    let _attack = Attack::start(move || {
        renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).expect("exchange");
    });
    for _ in 0..40 {
        let stale = ours.join("socket");
        let _ = fs::remove_file(&stale);
        drop(UnixListener::bind(&stale).expect("bind"));
        drop(Launch::airlockfs().socket(&name).try_start().expect("a program"));
        let kept = fs::read(theirs.join("socket")).expect("what lies in the other directory");
        assert_eq!(kept, b"precious");
    }
}

/// Sets a default ACL (acl(5)) that lets another user and everybody in.
fn open_by_default(directory: &Path) {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (0x01_u16, 7_u16, u32::MAX),
        (0x02, 7, 1000),
        (0x04, 7, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 7, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let path = CString::new(directory.as_os_str().as_bytes()).expect("a path");
    // SAFETY: terminated strings, and a value with its length.
    #[expect(unsafe_code, reason = "setxattr(2)")]
    let set = unsafe {
        let name = c"system.posix_acl_default".as_ptr();
        libc::setxattr(path.as_ptr(), name, acl.as_ptr().cast(), acl.len(), 0)
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Whether an ACL lets somebody do something whom the permissions do not.
fn has_acl(path: &Path) -> bool {
    let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
    // SAFETY: terminated strings, and no room for a value.
    #[expect(unsafe_code, reason = "getxattr(2)")]
    let length = unsafe {
        let name = c"system.posix_acl_access".as_ptr();
        libc::getxattr(path.as_ptr(), name, std::ptr::null_mut(), 0)
    };
    length > 0
}

#[test]
fn a_directorys_default_acl_lets_nobody_in() {
    let home = TempDir::new().expect("a directory");
    open_by_default(&home);
    let alone = Launch::airlockfs().socket(&home.join("alone")).start();
    // What the ACL names, the mask (shown as the group's permissions) forbids.
    assert_eq!(facts(alone.socket()).0 & 0o077, 0);
    let shared = Launch::airlockfs()
        .socket(&home.join("shared"))
        .args(["--socket-group", GROUP])
        .start();
    assert_eq!(facts(shared.socket()), (0o660, group()));
    assert!(!has_acl(shared.socket()));
}

#[test]
fn a_socket_for_a_group_is_the_groups_wherever_it_stands() {
    let home = TempDir::new().expect("a directory");
    let others = home.join("others");
    fs::create_dir(&others).expect("mkdir");
    chown(&others, None, Some(4)).expect("chown");
    fs::set_permissions(&others, fs::Permissions::from_mode(0o2777)).expect("chmod");
    for umask in [0, 0o777] {
        let name = others.join(format!("socket-{umask:o}"));
        let options = ["--socket-group", GROUP];
        let daemon = Launch::airlockfs()
            .socket(&name)
            .umask(umask)
            .args(options)
            .start();
        assert_eq!(facts(&name), (0o660, group()));
        daemon.client().getattr(ROOT).expect("GETATTR");
    }
    // Nothing else is left, and a stale one is replaced.
    assert_eq!(fs::read_dir(&others).expect("a list").count(), 2);
    let again = Launch::airlockfs()
        .socket(&others.join("socket-0"))
        .args(["--socket-group", GROUP]);
    again.start().client().getattr(ROOT).expect("GETATTR");
    assert_eq!(fs::read_dir(&others).expect("a list").count(), 2);
}

#[test]
fn an_ordinary_user_gives_it_to_a_group_of_his() {
    let home = TempDir::new().expect("a directory");
    chown(&*home, Some(1000), Some(1000)).expect("chown");
    // The binaries, where that user can read them.
    for name in ["airlockfsd", "airlockfs-worker"] {
        fs::copy(bin_dir().expect("binaries").join(name), home.join(name)).expect("copy");
    }
    let share = home.join("share");
    fs::create_dir(&share).expect("mkdir");
    chown(&share, Some(1000), Some(1000)).expect("chown");
    let group = group();
    let daemon = Launch::program(&home.join("airlockfsd"))
        .share(&share)
        .socket(&home.join("socket"))
        .args(["--socket-group", GROUP])
        .before(move || {
            let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(1000));
            setgroups(&[Gid::from_raw(group)])?;
            setresgid(gid, gid, gid)?;
            Ok(setresuid(uid, uid, uid)?)
        })
        .start();
    assert_eq!(facts(daemon.socket()), (0o660, group));
    let failure = Launch::program(&home.join("airlockfsd"))
        .share(&share)
        .socket(&home.join("foreign"))
        .args(["--socket-group", "root"])
        .before(move || {
            let (uid, gid) = (Uid::from_raw(1000), Gid::from_raw(1000));
            setgroups(&[])?;
            setresgid(gid, gid, gid)?;
            Ok(setresuid(uid, uid, uid)?)
        })
        .try_start()
        .expect("a program")
        .expect_err("a foreign group");
    assert!(
        failure.log.iter().any(|line| line.contains("group root")),
        "{failure:?}"
    );
    assert!(!home.join("foreign").exists());
    let left = fs::read_dir(&*home)
        .expect("a list")
        .map(|entry| entry.expect("an entry").file_name());
    assert!(
        left.into_iter()
            .all(|name| !name.to_string_lossy().starts_with('.'))
    );
}

/// A socket whose queue of connections is full would let a visitor wait for ever.
#[test]
fn a_socket_in_use_that_takes_nobody_is_in_use() {
    let home = TempDir::new().expect("a directory");
    let name = home.join("socket");
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let open = || socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
    let address = UnixAddr::new(&name).expect("an address");
    let listener = open();
    bind(listener.as_raw_fd(), &address).expect("bind");
    listen(&listener, Backlog::new(1).expect("a number")).expect("listen");
    let mut visitors = vec![open()];
    while connect(visitors.last().expect("one").as_raw_fd(), &address).is_ok() {
        visitors.push(open());
    }
    let failure = Launch::airlockfs().socket(&name).try_start();
    let failure = failure.expect("a program").expect_err("the socket is another's");
    assert!(
        failure.log.iter().any(|line| line.contains("in use")),
        "{failure:?}"
    );
}

#[test]
fn a_socket_of_another_kind_is_left_alone_while_it_is_used() {
    let home = TempDir::new().expect("a directory");
    let name = home.join("socket");
    let used = UnixDatagram::bind(&name).expect("bind");
    let failure = Launch::airlockfs().socket(&name).try_start();
    let failure = failure.expect("a program").expect_err("the socket is another's");
    assert!(
        failure.log.iter().any(|line| line.contains("in use")),
        "{failure:?}"
    );
    let client = UnixDatagram::unbound().expect("a socket");
    client.send_to(b"x", &name).expect("it is still there");
    drop(used);
    // Nobody has it: nothing tells its kind any more.
    let daemon = Launch::airlockfs().socket(&name).start();
    daemon.client().getattr(ROOT).expect("GETATTR");
}
