//! Bugs found in virtiofsd 1.14, by name. airlockfs has none of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{GETATTR, InHeader, LOOKUP, READ, ROOT, ReadIn, init_flags, open_out};
use airlockfs_tests::fuse::{Outcome, SetAttr};
use airlockfs_tests::procfs::Process;
use airlockfs_tests::tempdir::TempDir;
use airlockfs_tests::vmm::queue::Segment;
use nix::errno::Errno;
use zerocopy::IntoBytes;

#[test]
fn writes_beyond_the_largest_offset_are_errors() {
    let (_daemon, fs) = Daemon::with_client(["--tag", "bugs"]);
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    for offset in [1 << 63, (1 << 63) + 1, u64::MAX] {
        assert_eq!(fs.write(file, offset, b"text"), Err(Errno::EINVAL));
        assert_eq!(fs.read(file, offset, 4), Err(Errno::EINVAL));
    }
    assert_eq!(fs.write(file, 0, b"text"), Ok(4));
}

#[test]
fn absolute_names_and_dots_do_nothing_whatever_the_sandbox() {
    for sandbox in ["--sandbox=namespace", "--sandbox=chroot", "--sandbox=none"] {
        let outside = TempDir::new().expect("a directory");
        let (daemon, fs) = Daemon::with_client([sandbox]);
        fs::create_dir(daemon.host("dir")).expect("mkdir");
        let dir = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
        let absolute = outside.join("made").into_os_string().into_encoded_bytes();
        for name in [&absolute[..], b"../made", b"..", b"dir/../../made"] {
            for parent in [ROOT, dir] {
                assert_eq!(fs.mkdir(parent, name, 0o755).map(drop), Err(Errno::EINVAL));
                assert_eq!(fs.symlink(parent, name, "x").map(drop), Err(Errno::EINVAL));
                let created = fs.create(parent, name, libc::O_RDWR, 0o644);
                assert_eq!(created.map(drop), Err(Errno::EINVAL));
                // Above either is the root, which the guest has.
                let expected = if name == b".." {
                    Ok(ROOT)
                } else {
                    Err(Errno::EINVAL)
                };
                assert_eq!(fs.lookup(parent, name).map(|entry| entry.nodeid), expected);
                assert_eq!(fs.rename(ROOT, "dir", parent, name), Err(Errno::EINVAL));
                assert_eq!(fs.unlink(parent, name), Err(Errno::EINVAL));
            }
        }
        assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
        assert!(!daemon.share().parent().expect("a parent").join("made").exists());
    }
}

#[test]
fn a_security_context_at_creation_leaks_no_descriptor() {
    let (daemon, fs) = Daemon::with_client(["--security-label", "--xattr"]);
    // fuse_secctx_header and fuse_secctx, name and context, each padded as the kernel does.
    let mut context = Vec::new();
    for word in [48u32, 1, 9, 0] {
        context.extend_from_slice(&word.to_le_bytes());
    }
    context.extend_from_slice(b"security.selinux\0label_t\0");
    context.resize(48, 0);
    let labelled = fs.with_extensions(&context);
    let count = || {
        daemon
            .worker()
            .expect("a worker")
            .descriptors()
            .expect("descriptors")
            .len()
    };
    let round = |i: usize| {
        let name = format!("dir{i}");
        // Whether the host takes the label is its affair.
        if let Ok(entry) = labelled.mkdir(ROOT, &name, 0o755) {
            fs.rmdir(ROOT, &name).expect("RMDIR");
            fs.forget(entry.nodeid, 1);
            // FORGET has no answer: until it is done the node may keep its descriptor.
            assert!(fs.is_forgotten(entry.nodeid));
        }
    };
    round(0);
    let before = count();
    for i in 1..50 {
        round(i);
    }
    // The last one may still be closing; one per round would be 49.
    assert!(count() < before + 10, "{} descriptors after {before}", count());
}

#[test]
fn the_sockets_path_inside_the_share_is_not_unlinked() {
    let home = TempDir::new().expect("a directory");
    let (share, socket) = (home.join("share"), home.join("socket"));
    // The same path, as it is beneath a root directory that is the share.
    let inside = share.join(socket.strip_prefix("/").expect("absolute"));
    fs::create_dir_all(inside.parent().expect("a parent")).expect("mkdir");
    fs::write(&inside, "the guest's").expect("write");
    for abrupt in [false, true] {
        let mut daemon = Launch::airlockfs().share(&share).socket(&socket).start();
        let fs = daemon.client();
        if abrupt {
            // Some daemons take that for their end.
            drop(fs);
            daemon.supervisor().ended_within(300);
        }
        daemon.terminate();
        assert_eq!(fs::read_to_string(&inside).expect("still there"), "the guest's");
    }
}

#[test]
fn sigterm_ends_with_zero() {
    let mut waiting = Daemon::start(["--tag", "bugs"]);
    assert_eq!(waiting.terminate().code(), Some(0));
    let (mut serving, fs) = Daemon::with_client(["--tag", "bugs"]);
    fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    assert_eq!(serving.terminate().code(), Some(0));
}

#[test]
fn o_direct_is_taken_off_on_open_and_on_create() {
    let (daemon, fs) = Daemon::with_client(["--tag", "bugs"]);
    let flags = libc::O_RDWR | libc::O_DIRECT;
    let (entry, file) = fs.create(ROOT, "file", flags, 0o644).expect("CREATE");
    assert_eq!(fs.write(file, 3, b"an odd tail"), Ok(11));
    let file = fs.open(entry.nodeid, flags).expect("OPEN");
    assert_eq!(fs.write(file, 1, b"odd"), Ok(3));
    assert_eq!(fs.read(file, 1, 5).expect("READ"), b"oddn ");
    assert_eq!(fs::read(daemon.host("file")).expect("read").len(), 14);
}

#[test]
fn without_a_cache_files_may_still_be_mapped() {
    let daemon = Daemon::start(["--cache=never", "--allow-mmap"]);
    let fs = daemon.connect();
    let reply = fs.init().expect("INIT");
    assert!(reply.all_flags() & init_flags::DIRECT_IO_ALLOW_MMAP != 0);
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    assert!(file.open_flags & open_out::DIRECT_IO != 0);
}

#[test]
fn a_malformed_request_is_refused_and_the_next_one_served() {
    let (daemon, fs) = Daemon::with_client(["--tag=bugs"]);
    fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
    // A length that is not the request's.
    let header = InHeader {
        len: 4096,
        ..fs.header(GETATTR, ROOT)
    };
    let outcome = fs.send(&[header.as_bytes(), &[0; 16]].concat(), 128);
    assert!(
        !matches!(outcome, Outcome::Gone | Outcome::Reply { error: 0, .. }),
        "{outcome:?}"
    );
    // A name without its NUL.
    let outcome = fs.raw(LOOKUP, ROOT, b"file", 128);
    assert_eq!(outcome.errno(), Some(Errno::EINVAL));
    // A reply's buffer that is too short, for its header even.
    let read = ReadIn {
        fh: file.fh,
        size: 4096,
        ..ReadIn::default()
    };
    for room in [0, 1, 3] {
        let outcome = fs.raw(READ, node, read.as_bytes(), room);
        assert!(!matches!(outcome, Outcome::Gone), "room for {room}");
    }
    let request = [header.as_bytes(), &[0; 16]].concat();
    assert_eq!(fs.send(&request, 8), Outcome::Empty);
    // An address that is not in guest memory.
    {
        let session = fs.session();
        let mut lane = session.lane(1);
        let slot = lane.acquire().expect("a slot");
        let len = lane.write(slot, fs.header(GETATTR, ROOT), &[&[0; 16]]);
        let (at, _) = lane.addresses(slot);
        lane.submit_segments(slot, &[Segment::request(at, len), Segment::reply(0x10, 120)]);
        lane.flush();
        let done = lane.wait_for(slot, std::time::Duration::from_secs(30));
        assert!(matches!(done, airlockfs_tests::fuse::Wait::Done(_)), "{done:?}");
        lane.release(slot);
    }
    assert_eq!(fs.read(file, 0, 10).expect("READ"), b"text");
    assert!(daemon.is_alive());
}

#[test]
fn a_listing_whose_first_entry_vanished_shows_the_others() {
    let (daemon, fs) = Daemon::with_client(["--tag=bugs"]);
    for name in ["a", "b", "c"] {
        fs::write(daemon.host(name), name).expect("write");
    }
    // The first page reads ahead of what it gives; then what is first in the next is gone.
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let first = fs.readdirplus(dir, 0, 400).expect("READDIRPLUS");
    let seen: Vec<_> = first.iter().map(|item| item.dirent.name.clone()).collect();
    let offset = first[first.len() - 1].dirent.off;
    let left: Vec<_> = [&b"a"[..], b"b", b"c"]
        .into_iter()
        .filter(|name| !seen.contains(&name.to_vec()))
        .collect();
    assert!(left.len() >= 2, "{seen:?}");
    // Whichever comes next, remove one at a time: the rest is listed without an error.
    let next = fs.readdirplus(dir, offset, 4096).expect("READDIRPLUS")[0]
        .dirent
        .name
        .clone();
    fs::remove_file(daemon.host(std::str::from_utf8(&next).expect("a name"))).expect("remove");
    let rest = fs.readdirplus(dir, offset, 4096).expect("READDIRPLUS");
    let shown: Vec<_> = rest.iter().filter(|item| item.entry.nodeid != 0).collect();
    assert_eq!(shown.len(), left.len() - 1, "{rest:?}");
}

#[test]
fn acls_are_set_after_a_new_session_as_before_it() {
    // Two entries less than the mode has: version 2, user rw, group r, mask rw, others none, a named user.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 4, 1000),
        (4, 4, u32::MAX),
        (0x10, 6, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let (daemon, fs) = Daemon::with_client(["--xattr", "--posix-acl=always"]);
    let key = "system.posix_acl_access";
    for _session in 0..3 {
        let (entry, _) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
        fs.setxattr(entry.nodeid, key, &acl, 0).expect("SETXATTR");
        assert_eq!(fs.getxattr(entry.nodeid, key, 200).expect("GETXATTR"), acl);
        assert_eq!(
            fs::metadata(daemon.host("file")).expect("stat").mode() & 0o777,
            0o660
        );
        fs.unlink(ROOT, "file").expect("UNLINK");
        fs.destroy().expect("DESTROY");
        fs.init().expect("INIT");
    }
    assert!(daemon.is_alive());
}

#[test]
fn what_it_lacks_is_here() {
    const GETFLAGS: u32 = 0x8008_6601;
    let (daemon, fs) = Daemon::with_client(["--tag=bugs"]);
    let (entry, file) = fs.tmpfile(ROOT, libc::O_RDWR, 0o600).expect("TMPFILE");
    assert_eq!(fs.write(file, 0, &[1; 8192]), Ok(8192));
    assert_eq!(fs.ioctl(file, GETFLAGS, &[], 4).expect("FS_IOC_GETFLAGS").0, 0);
    let times = fs.statx(entry.nodeid, None, libc::STATX_ALL).expect("STATX");
    assert!(
        times.mask & libc::STATX_BTIME != 0,
        "a birth time, as the host's file system has"
    );
    let (_, named) = fs.create(ROOT, "file", libc::O_RDWR, 0o600).expect("CREATE");
    fs.write(named, 0, &[1; 3 * 4096]).expect("WRITE");
    for (mode, size) in [
        (libc::FALLOC_FL_COLLAPSE_RANGE, 2 * 4096),
        (libc::FALLOC_FL_INSERT_RANGE, 3 * 4096),
    ] {
        let path = daemon.host("file");
        let host = fs::OpenOptions::new().write(true).open(&path).expect("open");
        // What the host's file system has not, nobody can have.
        let twin = daemon.host("twin");
        fs::copy(&path, &twin).expect("copy");
        let twin = fs::OpenOptions::new().write(true).open(twin).expect("open");
        let flags = nix::fcntl::FallocateFlags::from_bits_retain(mode);
        let here = nix::fcntl::fallocate(&twin, flags, 0, 4096);
        assert_eq!(fs.fallocate(named, mode, 0, 4096).err(), here.err());
        if here.is_ok() {
            assert_eq!(host.metadata().expect("stat").size(), size);
        }
    }
}

#[test]
fn without_a_cache_setuid_does_not_survive_a_users_write() {
    let (daemon, fs) = Daemon::with_client(["--cache=never"]);
    fs::write(daemon.host("program"), "text").expect("write");
    let path = daemon.host("program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).expect("chmod");
    let node = fs.lookup(ROOT, "program").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_RDWR).expect("OPEN");
    fs.as_user(1000, 1000)
        .write_killing(file, 0, b"x")
        .expect("WRITE");
    assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o755);
    // The guest's own chmod is the guest's.
    fs.setattr(node, SetAttr::default().mode(0o4755)).expect("chmod");
    assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o7777, 0o4755);
}

#[test]
fn no_process_of_the_daemon_stays_unfiltered_or_in_the_hosts_root() {
    let (daemon, fs) = Daemon::with_client(["--tag=bugs"]);
    fs.getattr(ROOT).expect("GETATTR");
    let host = fs::metadata("/").expect("stat");
    let tree = Process::open(daemon.supervisor().pid())
        .and_then(Process::tree)
        .expect("tree");
    assert_eq!(tree.len(), 2, "{tree:?}");
    for process in tree {
        assert_eq!(process.status("Seccomp").expect("Seccomp"), "2");
        assert_eq!(process.status("NoNewPrivs").expect("NoNewPrivs"), "1");
        for link in ["root", "cwd"] {
            let place = fs::metadata(format!("/proc/{}/{link}", process.pid())).expect("stat");
            assert_ne!((place.dev(), place.ino()), (host.dev(), host.ino()), "{link}");
        }
    }
}
