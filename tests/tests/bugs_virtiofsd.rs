//! Bugs found in virtiofsd 1.14, by name: none of them is here. Its deaths by malformed requests are in
//! `hostile_requests.rs`, setuid after a write in `attributes.rs`, vanishing entries in `directories.rs`.

use std::fs;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::{ROOT, init_flags, open_out};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;

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
                assert_eq!(fs.lookup(parent, name).map(drop), Err(Errno::EINVAL));
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
