//! Open files: handles that outlive names, access modes, offsets up to the largest one, holes and
//! copies.

use std::fs;
use std::os::unix::fs::MetadataExt;

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::fuse::{Client, Opened};
use nix::errno::Errno;

fn started(options: &[&str]) -> (Daemon, Client) {
    Daemon::with_client(options)
}

/// Each case for data that passes by the worker and for data that passes through it.
macro_rules! cases {
    ($($case:ident,)*) => {
        mod donated {
            $(#[test] fn $case() { super::$case(&["--tag=files"]); })*
        }

        mod through_the_ring {
            $(#[test] fn $case() { super::$case(&["--no-donate"]); })*
        }
    };
}

cases! {
    data_arrives_whole_at_every_size_and_offset,
    the_hosts_changes_are_read_at_once,
    a_handle_does_what_it_was_opened_for,
    truncating_and_appending_opens,
    only_regular_files_are_opened_as_files_and_directories_as_directories,
    a_file_without_a_name_lives_while_it_is_open_or_known,
    handles_survive_renames_and_replacement,
    unknown_and_released_handles_are_bad,
    a_handle_is_of_one_kind,
    offsets_go_to_the_end_of_the_number,
    data_and_holes_are_found,
    space_is_allocated_punched_zeroed_collapsed_and_inserted,
    ranges_are_copied_on_the_host,
    syncing_and_flushing_succeed,
    a_file_made_without_a_name_may_get_one,
    ioctls_are_the_file_attribute_calls_only,
}

fn created(fs: &Client, name: &str) -> Opened {
    fs.create(ROOT, name, libc::O_RDWR, 0o644).expect("CREATE").1
}

fn data_arrives_whole_at_every_size_and_offset(options: &[&str]) {
    let (daemon, fs) = started(options);
    let file = created(&fs, "file");
    let mut expected = Vec::new();
    let mut seed = 1u32;
    for size in [
        0usize,
        1,
        511,
        4095,
        4096,
        4097,
        65_535,
        131_072,
        1_000_000,
        1 << 20,
    ] {
        let data: Vec<u8> = (0..size)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        let at = expected.len() as u64;
        assert_eq!(fs.write(file, at, &data), Ok(size as u32));
        assert_eq!(fs.read(file, at, size as u32), Ok(data.clone()));
        expected.extend_from_slice(&data);
    }
    assert!(fs::read(daemon.host("file")).expect("read") == expected);
    for (at, size) in [(1usize, 3usize), (4095, 2), (100_001, 99_999), (0, 1 << 20)] {
        let found = fs.read(file, at as u64, size as u32).expect("READ");
        assert!(found == expected[at..at + size], "{size} bytes at {at}");
    }
    let end = expected.len() as u64;
    assert_eq!(fs.read(file, end - 2, 100).expect("READ").len(), 2);
    assert_eq!(fs.read(file, end, 100), Ok(vec![]));
    assert_eq!(fs.read(file, end + (1 << 30), 100), Ok(vec![]));
}

fn the_hosts_changes_are_read_at_once(options: &[&str]) {
    let (daemon, fs) = started(options);
    fs::write(daemon.host("file"), "before").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
    assert_eq!(fs.read(file, 0, 100).expect("READ"), b"before");
    fs::write(daemon.host("file"), "behind").expect("write");
    assert_eq!(fs.read(file, 0, 100).expect("READ"), b"behind");
}

fn a_handle_does_what_it_was_opened_for(options: &[&str]) {
    let (daemon, fs) = started(options);
    fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let read_only = fs.open(node, libc::O_RDONLY).expect("OPEN");
    let write_only = fs.open(node, libc::O_WRONLY).expect("OPEN");
    assert_eq!(fs.write(read_only, 0, b"x"), Err(Errno::EBADF));
    assert_eq!(fs.read(write_only, 0, 1), Err(Errno::EBADF));
    assert_eq!(fs.write(write_only, 1, b"E"), Ok(1));
    assert_eq!(fs.read(read_only, 0, 10).expect("READ"), b"tExt");
    assert!(fs.fallocate(read_only, 0, 0, 10).is_err());
    // The access mode that Linux has for ioctl alone; it takes the right to read and to write.
    assert!(fs.open(node, libc::O_ACCMODE).is_ok());
}

fn truncating_and_appending_opens(options: &[&str]) {
    let (daemon, fs) = started(options);
    fs::write(daemon.host("file"), "text").expect("write");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let append = fs.open(node, libc::O_RDWR | libc::O_APPEND).expect("OPEN");
    assert_eq!(fs.write(append, 0, b" more"), Ok(5));
    assert_eq!(
        fs::read_to_string(daemon.host("file")).expect("read"),
        "text more"
    );
    fs.open(node, libc::O_WRONLY | libc::O_TRUNC).expect("OPEN");
    assert_eq!(fs::metadata(daemon.host("file")).expect("stat").size(), 0);
}

fn only_regular_files_are_opened_as_files_and_directories_as_directories(options: &[&str]) {
    let (daemon, fs) = started(options);
    fs::create_dir(daemon.host("dir")).expect("mkdir");
    fs::write(daemon.host("file"), "text").expect("write");
    std::os::unix::fs::symlink("file", daemon.host("link")).expect("symlink");
    let node = |name: &str| fs.lookup(ROOT, name).expect("LOOKUP").nodeid;
    assert_eq!(fs.open(node("dir"), libc::O_RDONLY).map(drop), Err(Errno::EISDIR));
    assert_eq!(fs.open(ROOT, libc::O_RDWR).map(drop), Err(Errno::EISDIR));
    assert_eq!(fs.opendir(node("file")).map(drop), Err(Errno::ENOTDIR));
    assert_eq!(fs.opendir(node("link")).map(drop), Err(Errno::ENOTDIR));
    assert!(fs.open(node("link"), libc::O_RDONLY).is_err());
}

fn a_file_without_a_name_lives_while_it_is_open_or_known(options: &[&str]) {
    let (daemon, fs) = started(options);
    let file = created(&fs, "file");
    fs.write(file, 0, b"text").expect("WRITE");
    fs.unlink(ROOT, "file").expect("UNLINK");
    assert!(!daemon.host("file").exists());
    assert_eq!(fs.read(file, 0, 10).expect("READ"), b"text");
    assert_eq!(fs.write(file, 4, b" more"), Ok(5));
    let attr = fs.getattr(file.node).expect("GETATTR by node");
    assert_eq!((attr.size, attr.nlink), (9, 0));
    assert_eq!(
        fs.getattr_fh(file.node, file.fh).expect("GETATTR by handle").size,
        9
    );
    let second = fs.open(file.node, libc::O_RDONLY).expect("OPEN by node");
    fs.release(file).expect("RELEASE");
    assert_eq!(fs.read(second, 0, 20).expect("READ"), b"text more");
    fs.release(second).expect("RELEASE");
}

fn handles_survive_renames_and_replacement(options: &[&str]) {
    let (daemon, fs) = started(options);
    let dir = fs.mkdir(ROOT, "dir", 0o755).expect("MKDIR").nodeid;
    let (file, other) = (created(&fs, "file"), created(&fs, "other"));
    fs.write(file, 0, b"file").expect("WRITE");
    fs.write(other, 0, b"other").expect("WRITE");
    fs.rename(ROOT, "file", dir, "moved").expect("RENAME");
    fs.rename(ROOT, "other", dir, "moved").expect("RENAME");
    assert_eq!(fs.read(file, 0, 10).expect("READ"), b"file");
    assert_eq!(fs.read(other, 0, 10).expect("READ"), b"other");
    fs.write(other, 0, b"OTHER").expect("WRITE");
    assert_eq!(fs::read(daemon.host("dir/moved")).expect("read"), b"OTHER");
    assert_eq!(fs.getattr(file.node).expect("GETATTR").nlink, 0);
    assert_eq!(fs.getattr(other.node).expect("GETATTR").nlink, 1);
}

fn unknown_and_released_handles_are_bad(options: &[&str]) {
    let (_daemon, fs) = started(options);
    let file = created(&fs, "file");
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    fs.release(file).expect("RELEASE");
    fs.releasedir(dir).expect("RELEASEDIR");
    let unknown = [file.fh, dir.fh, 0, 1 << 50, u64::MAX];
    for fh in unknown {
        let file = Opened { fh, ..file };
        let dir = Opened { fh, ..dir };
        assert_eq!(fs.read(file, 0, 1), Err(Errno::EBADF), "{fh}");
        assert_eq!(fs.write(file, 0, b"x"), Err(Errno::EBADF));
        assert_eq!(fs.fsync(file, false), Err(Errno::EBADF));
        assert_eq!(fs.release(file), Err(Errno::EBADF));
        assert_eq!(fs.lseek(file, 0, libc::SEEK_DATA), Err(Errno::EBADF));
        assert_eq!(fs.fallocate(file, 0, 0, 1), Err(Errno::EBADF));
        assert_eq!(fs.copy_file_range((file, 0), (file, 10), 1), Err(Errno::EBADF));
        assert_eq!(fs.getattr_fh(file.node, fh).map(drop), Err(Errno::EBADF));
        assert_eq!(fs.readdir(dir, 0, 4096), Err(Errno::EBADF));
        assert_eq!(fs.readdirplus(dir, 0, 4096), Err(Errno::EBADF));
        assert_eq!(fs.fsyncdir(dir), Err(Errno::EBADF));
        assert_eq!(fs.releasedir(dir), Err(Errno::EBADF));
    }
}

fn a_handle_is_of_one_kind(options: &[&str]) {
    let (_daemon, fs) = started(options);
    let file = created(&fs, "file");
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let crossed_file = Opened { fh: dir.fh, ..file };
    let crossed_dir = Opened { fh: file.fh, ..dir };
    // read(2) of a directory is EISDIR.
    assert!(matches!(
        fs.read(crossed_file, 0, 1),
        Err(Errno::EBADF | Errno::EISDIR)
    ));
    assert!(matches!(
        fs.write(crossed_file, 0, b"x"),
        Err(Errno::EBADF | Errno::EISDIR)
    ));
    assert!(matches!(
        fs.readdir(crossed_dir, 0, 4096),
        Err(Errno::EBADF | Errno::ENOTDIR)
    ));
    // And both are what they were.
    assert_eq!(fs.write(file, 0, b"x"), Ok(1));
    assert!(!fs.readdir(dir, 0, 4096).expect("READDIR").is_empty());
}

fn offsets_go_to_the_end_of_the_number(options: &[&str]) {
    let (daemon, fs) = started(options);
    let file = created(&fs, "file");
    let max = i64::MAX as u64;
    for offset in [1 << 63, u64::MAX, u64::MAX - 4] {
        assert_eq!(fs.write(file, offset, b"text"), Err(Errno::EINVAL), "{offset:#x}");
        assert_eq!(fs.read(file, offset, 4), Err(Errno::EINVAL), "{offset:#x}");
        assert!(fs.fallocate(file, 0, offset, 4).is_err());
        assert!(fs.fallocate(file, 0, 0, offset).is_err());
        assert!(fs.lseek(file, offset, libc::SEEK_DATA).is_err());
        assert!(fs.copy_file_range((file, offset), (file, 0), 4).is_err());
        assert!(fs.copy_file_range((file, 0), (file, offset), 4).is_err());
    }
    for offset in [max, max - 1, max - 4] {
        let errno = fs.write(file, offset, b"text").expect_err("WRITE");
        assert!(
            matches!(errno, Errno::EFBIG | Errno::EINVAL),
            "{offset:#x}: {errno}"
        );
        assert!(
            matches!(fs.read(file, offset, 4), Ok(data) if data.is_empty())
                || fs.read(file, offset, 4) == Err(Errno::EINVAL)
        );
    }
    assert_eq!(fs::metadata(daemon.host("file")).expect("stat").size(), 0);
    let far = 1 << 43;
    assert_eq!(fs.write(file, far, b"far"), Ok(3));
    assert_eq!(fs.read(file, far - 1, 10).expect("READ"), b"\0far");
}

fn data_and_holes_are_found(options: &[&str]) {
    let (_daemon, fs) = started(options);
    let file = created(&fs, "file");
    fs.write(file, 1 << 20, b"data").expect("WRITE");
    fs.fallocate(
        file,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        0,
        1 << 20,
    )
    .expect("punch");
    assert_eq!(fs.lseek(file, 0, libc::SEEK_DATA), Ok(1 << 20));
    assert_eq!(fs.lseek(file, 0, libc::SEEK_HOLE), Ok(0));
    assert_eq!(fs.lseek(file, 1 << 20, libc::SEEK_HOLE), Ok((1 << 20) + 4));
    assert_eq!(fs.lseek(file, 1 << 21, libc::SEEK_DATA), Err(Errno::ENXIO));
    assert_eq!(fs.lseek(file, 0, 99), Err(Errno::EINVAL));
}

fn space_is_allocated_punched_zeroed_collapsed_and_inserted(options: &[&str]) {
    let (daemon, fs) = started(options);
    let file = created(&fs, "file");
    let size = || fs::metadata(daemon.host("file")).expect("stat").size();
    let block = 4096u64;
    let data: Vec<u8> = (1..=4u8).flat_map(|i| vec![i; block as usize]).collect();
    fs.write(file, 0, &data).expect("WRITE");
    let all = |fs: &Client| fs.read(file, 0, 1 << 20).expect("READ");

    fs.fallocate(file, 0, 0, 5 * block).expect("allocate");
    assert_eq!(size(), 5 * block);
    fs.fallocate(file, libc::FALLOC_FL_KEEP_SIZE, 0, 9 * block)
        .expect("keep size");
    assert_eq!(size(), 5 * block);
    fs.fallocate(
        file,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        block,
        block,
    )
    .expect("punch");
    assert!(all(&fs)[4096..8192].iter().all(|b| *b == 0));
    fs.fallocate(file, libc::FALLOC_FL_ZERO_RANGE, 2 * block, block)
        .expect("zero");
    assert!(all(&fs)[8192..12288].iter().all(|b| *b == 0));
    fs.fallocate(file, libc::FALLOC_FL_COLLAPSE_RANGE, block, 2 * block)
        .expect("collapse");
    assert_eq!(size(), 3 * block);
    assert_eq!(all(&fs)[4096], 4);
    fs.fallocate(file, libc::FALLOC_FL_INSERT_RANGE, block, block)
        .expect("insert");
    assert_eq!(size(), 4 * block);
    assert_eq!((all(&fs)[4096], all(&fs)[8192]), (0, 4));
    assert!(fs.fallocate(file, 0x4000_0000, 0, block).is_err());
    assert_eq!(fs.fallocate(file, 0, 0, 0), Err(Errno::EINVAL));
}

fn ranges_are_copied_on_the_host(options: &[&str]) {
    let (daemon, fs) = started(options);
    let (from, to) = (created(&fs, "from"), created(&fs, "to"));
    let data: Vec<u8> = (0..300_000u32).map(|i| (i % 249) as u8).collect();
    fs.write(from, 0, &data).expect("WRITE");
    assert_eq!(fs.copy_file_range((from, 100), (to, 50), 1000), Ok(1000));
    assert_eq!(fs.read(to, 50, 1000).expect("READ"), data[100..1100]);
    assert_eq!(fs.copy_file_range_64((from, 0), (to, 0), 1 << 40), Ok(300_000));
    assert_eq!(fs::read(daemon.host("to")).expect("read"), data);
    assert_eq!(fs.copy_file_range((from, 300_000), (to, 0), 10), Ok(0));
    assert_eq!(fs.copy_file_range((from, 0), (from, 1), 10), Err(Errno::EINVAL));
}

fn syncing_and_flushing_succeed(options: &[&str]) {
    let (_daemon, fs) = started(options);
    let file = created(&fs, "file");
    fs.write(file, 0, b"text").expect("WRITE");
    fs.fsync(file, true).expect("FSYNC of data");
    fs.fsync(file, false).expect("FSYNC");
    fs.syncfs(ROOT).expect("SYNCFS");
    // The kernel takes ENOSYS for 'never ask again'.
    assert!(matches!(fs.flush(file), Ok(()) | Err(Errno::ENOSYS)));
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    fs.fsyncdir(dir).expect("FSYNCDIR");
}

fn a_file_made_without_a_name_may_get_one(options: &[&str]) {
    let (daemon, fs) = started(options);
    let (entry, file) = fs.tmpfile(ROOT, libc::O_RDWR, 0o640).expect("TMPFILE");
    assert_eq!((entry.attr.nlink, entry.attr.perm()), (0, 0o640));
    // There is no name to ask for again, in whatever cache mode.
    assert!(entry.entry_valid > 1_000_000_000, "{entry:?}");
    fs.write(file, 0, b"text").expect("WRITE");
    assert_eq!(fs::read_dir(daemon.share()).expect("list").count(), 0);
    assert_eq!(
        fs.link(entry.nodeid, ROOT, "named").expect("LINK").nodeid,
        entry.nodeid
    );
    assert_eq!(fs::read(daemon.host("named")).expect("read"), b"text");
}

fn ioctls_are_the_file_attribute_calls_only(options: &[&str]) {
    /// FS_IOC_GETFLAGS, FS_IOC_SETFLAGS (uapi `linux/fs.h`).
    const GETFLAGS: u32 = 0x8008_6601;
    const SETFLAGS: u32 = 0x4008_6602;
    /// FS_NODUMP_FL.
    const NODUMP: u32 = 0x40;
    let (_daemon, fs) = started(options);
    let file = created(&fs, "file");
    let flags = |fs: &Client| {
        let (result, out) = fs.ioctl(file, GETFLAGS, &[], 4).expect("FS_IOC_GETFLAGS");
        assert_eq!(result, 0);
        u32::from_le_bytes(out.try_into().expect("four bytes"))
    };
    let before = flags(&fs);
    fs.ioctl(file, SETFLAGS, &(before | NODUMP).to_le_bytes(), 0)
        .expect("FS_IOC_SETFLAGS");
    assert_eq!(flags(&fs), before | NODUMP);
    // FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR: the same flag is FS_XFLAG_NODUMP in `struct fsxattr`.
    let (_, mut extended) = fs.ioctl(file, 0x801c_581f, &[], 28).expect("FS_IOC_FSGETXATTR");
    assert_eq!(extended[0] & 0x80, 0x80);
    extended[0] &= !0x80;
    fs.ioctl(file, 0x401c_5820, &extended, 0)
        .expect("FS_IOC_FSSETXATTR");
    assert_eq!(flags(&fs), before);
    for cmd in [
        libc::FIONREAD as u32,
        libc::TIOCGWINSZ as u32,
        0,
        u32::MAX,
        0xc020_660b,
    ] {
        assert_eq!(
            fs.ioctl(file, cmd, &[0; 32], 64).map(drop),
            Err(Errno::ENOTTY),
            "{cmd:#x}"
        );
    }
}
