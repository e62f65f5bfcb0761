//! The bridge shows a daemon's share as a mounted file system of the host, and shuts down cleanly
//! in every case.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::{Daemon, bin_dir};
use airlockfs_tests::procfs::Process;
use airlockfs_tests::tempdir::TempDir;
use nix::sys::signal::Signal;

fn mounted(args: &[&str]) -> (Daemon, TempDir, Bridge) {
    let daemon = Daemon::start(args);
    let mount = TempDir::new().expect("a mount point");
    let bridge = Bridge::mount(daemon.socket(), &mount, &BridgeConfig::default()).expect("mount");
    (daemon, mount, bridge)
}

#[test]
fn a_program_works_on_the_mount_as_on_a_directory() {
    let (daemon, mount, bridge) = mounted(&["--xattr"]);
    let at = |name: &str| mount.join(name);

    fs::create_dir(at("dir")).expect("mkdir");
    let data: Vec<u8> = (0..5_000_000u32).map(|i| (i % 253) as u8).collect();
    fs::write(at("dir/file"), &data).expect("write");
    assert_eq!(fs::read(at("dir/file")).expect("read"), data);
    assert_eq!(fs::read(daemon.host("dir/file")).expect("on the host"), data);
    fs::rename(at("dir/file"), at("dir/other")).expect("rename");
    fs::hard_link(at("dir/other"), at("second")).expect("link");
    assert_eq!(fs::metadata(at("second")).expect("stat").nlink(), 2);
    symlink("dir/other", at("link")).expect("symlink");
    assert_eq!(
        fs::read_link(at("link")).expect("readlink"),
        PathBuf::from("dir/other")
    );
    assert_eq!(fs::metadata(at("link")).expect("stat").len(), data.len() as u64);

    let mut file = fs::File::options()
        .read(true)
        .write(true)
        .open(at("second"))
        .expect("open");
    file.seek(SeekFrom::Start(1_000_000)).expect("seek");
    file.write_all(b"written in the middle").expect("write");
    file.sync_all().expect("fsync");
    let mut read = [0; 21];
    file.read_exact_at(&mut read, 1_000_000).expect("pread");
    assert_eq!(&read, b"written in the middle");
    file.set_len(10).expect("truncate");
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("seek");
    file.read_to_end(&mut rest).expect("read");
    assert_eq!(rest, data[..10]);
    drop(file);

    for i in 0..1000 {
        fs::write(at(&format!("dir/{i}")), []).expect("write");
    }
    assert_eq!(fs::read_dir(at("dir")).expect("list").count(), 1001);
    fs::remove_dir_all(at("dir")).expect("remove");
    assert!(!daemon.host("dir").exists());
    bridge.unmount().expect("unmount");
    assert_eq!(fs::read_dir(&mount).expect("list").count(), 0);
}

#[test]
fn a_running_program_cannot_be_emptied() {
    let (daemon, mount, bridge) = mounted(&[]);
    let program = mount.join("sleep");
    airlockfs_tests::program::copy(Path::new("/usr/bin/sleep"), &program);
    let size = fs::metadata(&program).expect("stat").len();
    let mut running = Command::new(&program).arg("1000").spawn().expect("start");
    let empty = fs::File::options()
        .read(true)
        .custom_flags(libc::O_TRUNC)
        .open(&program);
    assert_eq!(empty.expect_err("it runs").raw_os_error(), Some(libc::ETXTBSY));
    assert_eq!(fs::metadata(daemon.host("sleep")).expect("stat").len(), size);
    running.kill().expect("kill");
    running.wait().expect("wait");
    bridge.unmount().expect("unmount");
}

#[test]
fn threads_work_in_parallel() {
    let (_daemon, mount, bridge) = mounted(&[]);
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let mount = &mount;
            scope.spawn(move || {
                for round in 0..30 {
                    let path = mount.join(format!("{thread}-{round}"));
                    let data = vec![thread; 10_000 * round];
                    fs::write(&path, &data).expect("write");
                    assert_eq!(fs::read(&path).expect("read"), data);
                    fs::remove_file(&path).expect("remove");
                }
            });
        }
    });
    bridge.unmount().expect("unmount");
}

#[test]
fn a_mount_in_use_is_taken_away() {
    let (_daemon, mount, bridge) = mounted(&[]);
    let file = fs::File::create(mount.join("file")).expect("create");
    bridge.unmount().expect("unmount");
    assert!(file.set_len(1).is_err());
    assert_eq!(fs::read_dir(&mount).expect("list").count(), 0);
}

#[test]
fn the_end_of_the_daemon_is_an_error_not_a_hang() {
    let (mut daemon, mount, bridge) = mounted(&[]);
    let mut file = fs::File::create(mount.join("file")).expect("create");
    for process in Process::open(daemon.supervisor().pid())
        .and_then(Process::tree)
        .expect("tree")
    {
        process.signal(Signal::SIGKILL).expect("kill");
    }
    daemon.wait();
    assert_eq!(
        file.write_all(b"x").expect_err("no daemon").raw_os_error(),
        Some(libc::EIO)
    );
    assert_eq!(
        fs::metadata(mount.join("new"))
            .expect_err("no daemon")
            .raw_os_error(),
        Some(libc::EIO)
    );
    drop(file);
    bridge.unmount().expect("unmount");
}

#[test]
fn the_program_mounts_and_ends_on_sigterm_and_on_umount() {
    for by_umount in [false, true] {
        let daemon = Daemon::start(["--tag", "bridge"]);
        let mount = TempDir::new().expect("a mount point");
        let mut child = Command::new(bin_dir().expect("binaries").join("airlockfs-bridge"))
            .arg("--socket")
            .arg(daemon.socket())
            .arg("--mount")
            .arg(&*mount)
            .args(["--queues", "1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the bridge");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout"))
            .read_line(&mut line)
            .expect("read");
        assert_eq!(line, "mounted\n");
        fs::write(mount.join("file"), "text").expect("write");
        assert_eq!(fs::read_to_string(daemon.host("file")).expect("read"), "text");
        if by_umount {
            nix::mount::umount(&*mount).expect("umount");
        } else {
            let process = Process::open(child.id() as i32).expect("the bridge");
            process.signal(Signal::SIGTERM).expect("SIGTERM");
        }
        assert!(child.wait().expect("wait").success());
        assert_eq!(fs::read_dir(&mount).expect("list").count(), 0);
    }
}
