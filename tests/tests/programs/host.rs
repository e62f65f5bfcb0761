//! Changes that the host makes meanwhile: to files, and by mounts beneath the share.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use airlockfs_tests::daemon::Launch;
use airlockfs_tests::ground::Ground;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::common::{Mounted, io_outcome};

/// With nothing kept, what the host changed is seen at the next look.
#[test]
fn what_the_host_changes_is_seen_at_once_where_nothing_is_cached() {
    let mounted = Mounted::new(&["--cache=never"]);
    let (guest, host) = (mounted.at("file"), mounted.host("file"));
    assert!(!guest.exists());
    fs::write(&host, "one").expect("write");
    assert_eq!(fs::read_to_string(&guest).expect("read"), "one");
    let open = File::open(&guest).expect("open");
    for text in ["two", "a longer text", ""] {
        fs::write(&host, text).expect("write");
        assert_eq!(open.metadata().expect("fstat").len(), text.len() as u64);
        assert_eq!(fs::read_to_string(&guest).expect("read"), text);
        let mut data = [0; 20];
        assert_eq!(open.read_at(&mut data, 0).expect("read"), text.len());
    }
    fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o604)).expect("chmod");
    assert_eq!(fs::metadata(&guest).expect("stat").mode() & 0o777, 0o604);
    // Another file under the name, and none.
    fs::write(mounted.host("other"), "other").expect("write");
    fs::rename(mounted.host("other"), &host).expect("rename");
    assert_eq!(fs::read_to_string(&guest).expect("read"), "other");
    assert_eq!(
        fs::metadata(&guest).expect("stat").ino(),
        fs::metadata(&host).expect("stat").ino()
    );
    fs::remove_file(&host).expect("unlink");
    assert!(!guest.exists());
    // What a guest has open stays, whatever became of the name.
    assert_eq!(open.metadata().expect("fstat").nlink(), 0);
    fs::create_dir(&host).expect("mkdir");
    assert!(guest.is_dir());
}

/// Opening a file anew shows the host's data wherever the guest may cache it for a while only (close-to-open).
#[test]
fn a_file_opened_anew_is_the_hosts() {
    for options in [
        &["--cache=auto", "--attr-timeout=0", "--entry-timeout=0"][..],
        &["--cache=never"],
        &["--cache=metadata", "--attr-timeout=0", "--entry-timeout=0"],
    ] {
        let mounted = Mounted::new(options);
        for text in ["one", "two", "three", "something longer than before", "x"] {
            fs::write(mounted.host("file"), text).expect("write");
            assert_eq!(
                fs::read_to_string(mounted.at("file")).expect("read"),
                text,
                "{options:?}"
            );
            let listed = fs::read_dir(mounted.at(".")).expect("list").count();
            assert_eq!(listed, 1);
        }
    }
}

/// Volumes that come and go while a guest works, as container runtimes bind them.
#[test]
fn mounts_of_the_host_come_and_go_while_programs_work() {
    let ground = Ground::memory();
    let home = ground.path();
    mount(
        None::<&str>,
        &home,
        None::<&str>,
        MsFlags::MS_SHARED,
        None::<&str>,
    )
    .expect("shared");
    for name in ["volume", "source"] {
        fs::create_dir(home.join(name)).expect("mkdir");
    }
    fs::write(home.join("source/file"), "source").expect("write");
    let mounted = Mounted::launch(Launch::airlockfs().share(&home).args(["--cache=never"]));
    assert_eq!(fs::read_dir(mounted.at("volume")).expect("list").count(), 0);
    let volume = Ground::memory();
    fs::write(volume.path().join("file"), "volume").expect("write");
    let bind = |from: &Path| {
        mount(
            Some(from),
            &home.join("volume"),
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .expect("bind");
    };
    bind(&volume.path());
    assert_eq!(
        fs::read_to_string(mounted.at("volume/file")).expect("read"),
        "volume"
    );
    // Only over virtio-fs does Linux ask for mounts to be announced (FUSE_SUBMOUNTS), and show another st_dev: tests/mounts.rs.
    let across = fs::rename(mounted.at("volume/file"), mounted.at("file"));
    assert_eq!(
        across.expect_err("two file systems").raw_os_error(),
        Some(libc::EXDEV)
    );
    // It goes while a file of it is open: that goes on, and the name is the directory's.
    let open = File::options()
        .read(true)
        .write(true)
        .open(mounted.at("volume/file"))
        .expect("open");
    umount2(&home.join("volume"), MntFlags::MNT_DETACH).expect("umount");
    open.write_at(b"VOL", 0).expect("write");
    let mut data = [0; 6];
    open.read_exact_at(&mut data, 0).expect("read");
    assert_eq!(&data, b"VOLume");
    assert_eq!(
        io_outcome(fs::metadata(mounted.at("volume/file")).map(drop)),
        format!("{:?}", Errno::ENOENT)
    );
    drop(open);
    bind(&home.join("source"));
    assert_eq!(
        fs::read_to_string(mounted.at("volume/file")).expect("read"),
        "source"
    );
    umount2(&home.join("volume"), MntFlags::MNT_DETACH).expect("umount");
}
