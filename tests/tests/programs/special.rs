//! FIFOs, sockets and devices: the host keeps their names, the guest's kernel does the rest.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use airlockfs_tests::procfs::Process;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::common::{Mounted, io_outcome, outcome, same_everywhere};

#[test]
fn a_fifo_joins_two_processes_of_the_guest() {
    same_everywhere(&[&[], &["--cache=never"]], |directory| {
        let fifo = directory.join("fifo");
        let mut outcomes = vec![outcome(mkfifo(&fifo, Mode::from_bits_truncate(0o644)))];
        // Nobody reads yet.
        let alone = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&fifo);
        outcomes.push(io_outcome(alone.map(drop)));
        let mut writer = Command::new("sh")
            .args(["-c", "echo through the fifo > fifo"])
            .current_dir(directory)
            .spawn()
            .expect("start");
        let mut text = String::new();
        File::open(&fifo)
            .expect("open")
            .read_to_string(&mut text)
            .expect("read");
        outcomes.push(text);
        assert!(writer.wait().expect("wait").success());
        outcomes.push(io_outcome(fs::metadata(&fifo).map(|found| found.len())));
        outcomes
    });
}

#[test]
fn a_fifo_of_the_share_is_another_on_the_host() {
    let mounted = Mounted::new(&[]);
    mkfifo(&mounted.at("fifo"), Mode::from_bits_truncate(0o644)).expect("mkfifo");
    let mut reader = Command::new("cat")
        .arg(mounted.at("fifo"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut writer = File::options()
        .write(true)
        .open(mounted.at("fifo"))
        .expect("open");
    // On the host nobody has it open.
    let host = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(mounted.host("fifo"));
    assert_eq!(host.expect_err("nobody reads").raw_os_error(), Some(libc::ENXIO));
    writer.write_all(b"text").expect("write");
    drop(writer);
    let mut text = String::new();
    reader
        .stdout
        .take()
        .expect("stdout")
        .read_to_string(&mut text)
        .expect("read");
    assert_eq!(text, "text");
    reader.wait().expect("wait");
}

#[test]
fn a_socket_joins_two_processes_of_the_guest() {
    same_everywhere(&[&[], &["--cache=never"]], |directory| {
        let mut outcomes = Vec::new();
        let path = directory.join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        outcomes.push(io_outcome(UnixListener::bind(&path).map(drop)));
        let mut one = UnixStream::connect(&path).expect("connect");
        let (mut other, _) = listener.accept().expect("accept");
        one.write_all(b"text").expect("write");
        let mut data = [0; 4];
        other.read_exact(&mut data).expect("read");
        outcomes.push(format!("{data:?}"));
        outcomes.push(io_outcome(File::open(&path).map(drop)));
        drop(listener);
        outcomes.push(io_outcome(UnixStream::connect(&path).map(drop)));
        outcomes.push(io_outcome(fs::remove_file(&path)));
        outcomes
    });
}

/// Devices are the guest's: its null is not the host's terminal, and the worker opens none.
#[test]
fn devices_are_made_where_allowed_and_are_the_guests() {
    let allowed: &[&[&str]] = &[
        &["--allow-device-nodes"],
        &["--allow-device-nodes", "--cache=never"],
    ];
    same_everywhere(allowed, |directory| {
        let mut outcomes = Vec::new();
        let at = |name: &str| directory.join(name);
        for (name, kind, device) in [
            ("null", SFlag::S_IFCHR, makedev(1, 3)),
            ("high", SFlag::S_IFCHR, makedev(0xfff, 0xf_ffff)),
            ("block", SFlag::S_IFBLK, makedev(259, 300)),
            ("whiteout", SFlag::S_IFCHR, 0),
        ] {
            outcomes.push(outcome(mknod(
                &at(name),
                kind,
                Mode::from_bits_truncate(0o666),
                device,
            )));
            let found = fs::metadata(at(name)).expect("stat");
            outcomes.push(format!("{name} {:o} {:x}", found.mode(), found.rdev()));
        }
        outcomes.push(io_outcome(fs::write(at("null"), "nothing")));
        outcomes.push(io_outcome(fs::read(at("null"))));
        outcomes.push(io_outcome(File::open(at("whiteout")).map(drop)));
        let mut kinds: Vec<_> = fs::read_dir(directory)
            .expect("list")
            .map(|entry| {
                let entry = entry.expect("an entry");
                (
                    entry.file_name(),
                    entry.file_type().expect("a type").is_char_device(),
                )
            })
            .collect();
        kinds.sort();
        outcomes.push(format!("{kinds:?}"));
        outcomes
    });
}

/// Descriptors of a process that are FIFOs, sockets of the file system or devices beneath `share`.
fn special_descriptors(process: &Process, share: &Path) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", process.pid())).expect("descriptors");
    descriptors
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let target = fs::read_link(&path).ok()?;
            // The worker's root is the share.
            let name = target.file_name()?.to_owned();
            let found = fs::symlink_metadata(share.join(name)).ok()?;
            let kind = found.file_type();
            let info = fs::read_to_string(path.to_string_lossy().replace("/fd/", "/fdinfo/")).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t"))?;
            let flags = i32::from_str_radix(flags, 8).ok()?;
            let opened =
                (kind.is_fifo() || kind.is_socket() || kind.is_char_device()) && flags & libc::O_PATH == 0;
            opened.then(|| format!("{} {flags:o}", target.display()))
        })
        .collect()
}

#[test]
fn the_worker_opens_none_of_them() {
    let mounted = Mounted::new(&["--allow-device-nodes"]);
    let fifo = mounted.at("a-fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o666)).expect("mkfifo");
    mknod(
        &mounted.at("a-device"),
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o666),
        makedev(1, 5),
    )
    .expect("mknod");
    let _listener = UnixListener::bind(mounted.at("a-socket")).expect("bind");
    let _stream = UnixStream::connect(mounted.at("a-socket")).expect("connect");
    let _both = File::options().read(true).write(true).open(&fifo).expect("open");
    let mut zeros = [1; 10];
    File::open(mounted.at("a-device"))
        .expect("open")
        .read_exact(&mut zeros)
        .expect("read");
    assert_eq!(zeros, [0; 10]);
    for name in ["a-fifo", "a-device", "a-socket"] {
        fs::set_permissions(
            mounted.at(name),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .expect("chmod");
    }
    let worker = mounted.daemon.worker().expect("a worker");
    assert_eq!(
        special_descriptors(&worker, mounted.daemon.share()),
        Vec::<String>::new()
    );
}
