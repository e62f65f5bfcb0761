//! Data of files: offsets, holes, space, copies, and the flags of open(2).

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use airlockfs_tests::daemon::Launch;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::ground::Ground;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, copy_file_range, fallocate, posix_fadvise};
use nix::unistd::{Whence, ftruncate, lseek64, truncate};

use crate::common::{Mounted, io_outcome, outcome, same_everywhere, same_on};

const CACHES: &[&[&str]] = &[
    &[],
    &["--cache=never"],
    &["--cache=always"],
    &["--writeback"],
    &["--no-donate"],
    &["--no-donate", "--cache=never"],
];

const LAST: i64 = i64::MAX;

/// Around every limit that numbers have on the way.
const OFFSETS: &[i64] = &[
    0,
    1,
    4095,
    4096,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 44,
    1 << 62,
    LAST - 4096,
    LAST - 4095,
    LAST - 2,
    LAST - 1,
    LAST,
];

fn read_write(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .expect("open")
}

#[test]
fn offsets_go_to_the_end_of_the_number() {
    same_on(Ground::memory, CACHES, |directory| {
        let mut outcomes = Vec::new();
        let path = directory.join("file");
        for &offset in OFFSETS {
            let file = read_write(&path);
            let mut note = |what: &str, outcome: String| {
                let size = file.metadata().expect("fstat").len();
                outcomes.push(format!("{what} at {offset}: {outcome}, size {size}"));
            };
            note("write", io_outcome(file.write_at(b"ab", offset as u64)));
            let mut data = [9; 4];
            let read = file.read_at(&mut data, offset as u64);
            note("read", format!("{} {data:?}", io_outcome(read)));
            note("truncate", outcome(truncate(&path, offset)));
            note("ftruncate", outcome(ftruncate(&file, offset)));
            for whence in [Whence::SeekData, Whence::SeekHole] {
                note("lseek", outcome(lseek64(&file, offset, whence)));
            }
            let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            for length in [0, 1, 4096, LAST, -1] {
                note("punch", outcome(fallocate(&file, punch, offset, length)));
            }
            note(
                "allocate",
                outcome(fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, 1)),
            );
            let source = File::open(directory.join("file")).expect("open");
            let copied = copy_file_range(&source, Some(&mut (offset.clone())), &file, Some(&mut 0), 4);
            note("copy from", outcome(copied));
        }
        outcomes
    });
}

#[test]
fn data_and_holes_are_where_they_are() {
    let work = |directory: &Path| {
        let mut outcomes = Vec::new();
        let file = read_write(&directory.join("file"));
        let step = 1 << 20;
        for i in [1, 3, 4, 7] {
            file.write_at(&vec![i as u8; 70_000], i * step).expect("write");
        }
        ftruncate(&file, 9 << 20).expect("ftruncate");
        let mut at = 0;
        while let Ok(data) = lseek64(&file, at, Whence::SeekData) {
            let hole = lseek64(&file, data, Whence::SeekHole).expect("a hole");
            outcomes.push(format!("{data}..{hole}"));
            at = hole;
        }
        for at in [-1, 0, 5, 9 << 20, (9 << 20) + 1, (9 << 20) - 1] {
            for whence in [Whence::SeekData, Whence::SeekHole, Whence::SeekEnd] {
                outcomes.push(outcome(lseek64(&file, at, whence)));
            }
        }
        outcomes
    };
    // With --writeback a file is all data (docs/SPEC.md, Options): tests/tests/kernel_client.rs holds that.
    let through: Vec<&[&str]> = CACHES
        .iter()
        .copied()
        .filter(|options| !options.contains(&"--writeback"))
        .collect();
    same_everywhere(&through, work);
    same_on(Ground::memory, &through, work);
}

#[test]
fn space_is_allocated_punched_and_zeroed() {
    let work = |directory: &Path| {
        let mut outcomes = Vec::new();
        let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let file = read_write(&directory.join("file"));
        for flags in [
            FallocateFlags::empty(),
            keep,
            FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep,
            FallocateFlags::FALLOC_FL_PUNCH_HOLE,
            FallocateFlags::FALLOC_FL_ZERO_RANGE,
            FallocateFlags::FALLOC_FL_ZERO_RANGE | keep,
            FallocateFlags::from_bits_retain(0x4000),
        ] {
            for (offset, length) in [(0, 4096), (100, 5000), (8192, 1 << 20), (60_000, 10), (-1, 5)] {
                ftruncate(&file, 0).expect("ftruncate");
                file.write_at(&vec![7; 60_000], 0).expect("write");
                let done = fallocate(&file, flags, offset, length);
                let mut data = vec![1; 2 << 20];
                let read = file.read_at(&mut data, 0).expect("read");
                let sum: u64 = data[..read].iter().map(|&byte| u64::from(byte)).sum();
                let size = file.metadata().expect("fstat").len();
                outcomes.push(format!(
                    "{flags:?} {offset} {length}: {}, {read} {sum} {size}",
                    outcome(done)
                ));
            }
        }
        // Without the right to write there is nothing to allocate.
        let file = File::open(directory.join("file")).expect("open");
        outcomes.push(outcome(fallocate(&file, keep, 0, 1)));
        outcomes
    };
    same_everywhere(CACHES, work);
    same_on(Ground::xfs, &[&[], &["--no-donate"]], work);
}

/// The host's file system has more modes than Linux's FUSE client sends.
#[test]
fn every_mode_of_the_hosts_file_system_is_served() {
    let ground = Ground::xfs();
    for options in [&[][..], &["--no-donate"]] {
        let daemon = Launch::airlockfs().share(&ground.path()).args(options).start();
        let fs = daemon.client();
        let (entry, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o600).expect("CREATE");
        let blocks = |start: u8| -> Vec<u8> { (start..start + 8).flat_map(|i| [i; 65_536]).collect() };
        fs.write(file, 0, &blocks(1)).expect("WRITE");
        let first_of_each = || -> Vec<u8> {
            let size = fs.getattr(entry.nodeid).expect("GETATTR").size;
            (0..size / 65_536)
                .map(|i| fs.read(file, i * 65_536, 1).expect("READ")[0])
                .collect()
        };
        fs.fallocate(file, libc::FALLOC_FL_COLLAPSE_RANGE, 65_536, 65_536)
            .expect("collapse");
        assert_eq!(first_of_each(), [1, 3, 4, 5, 6, 7, 8]);
        fs.fallocate(file, libc::FALLOC_FL_INSERT_RANGE, 65_536, 131_072)
            .expect("insert");
        assert_eq!(first_of_each(), [1, 0, 0, 3, 4, 5, 6, 7, 8]);
        // Shared with another file, then not.
        let (_, other) = fs.create(ROOT, "other", libc::O_RDWR, 0o600).expect("CREATE");
        assert_eq!(fs.copy_file_range((file, 0), (other, 0), 65_536), Ok(65_536));
        fs.fallocate(file, libc::FALLOC_FL_UNSHARE_RANGE, 0, 65_536)
            .expect("unshare");
        assert_eq!(
            fs.fallocate(file, 4, 0, 1),
            Err(Errno::EOPNOTSUPP),
            "other files' old blocks are nobody's"
        );
        fs.unlink(ROOT, "file").expect("UNLINK");
        fs.unlink(ROOT, "other").expect("UNLINK");
    }
}

/// Sizes that do not fit 32 bits: shared extents make them cheap.
#[test]
fn more_than_four_gib_are_copied() {
    const SIZE: u64 = 5 << 30;
    let ground = Ground::xfs();
    let source = read_write(&ground.path().join("source"));
    source.set_len(SIZE).expect("truncate");
    for (at, text) in [(0, "start"), (1 << 32, "middle"), (SIZE - 4, "end.")] {
        source.write_at(text.as_bytes(), at).expect("write");
    }
    source.sync_all().expect("fsync");
    let check = |path: &Path| {
        let copy = File::open(path).expect("open");
        assert_eq!(copy.metadata().expect("fstat").len(), SIZE);
        for (at, text) in [(0, "start"), (1 << 32, "middle"), (SIZE - 4, "end.")] {
            let mut data = vec![0; text.len()];
            copy.read_exact_at(&mut data, at).expect("read");
            assert_eq!(data, text.as_bytes());
        }
    };
    let mounted = Mounted::launch(Launch::airlockfs().share(&ground.path()));
    let (from, to) = (
        File::open(mounted.at("source")).expect("open"),
        read_write(&mounted.at("copy")),
    );
    let (mut read, mut written) = (0, 0);
    while written < SIZE as i64 {
        let left = SIZE as usize - written as usize;
        let copied = copy_file_range(&from, Some(&mut read), &to, Some(&mut written), left).expect("copy");
        assert_ne!(copied, 0);
    }
    check(&mounted.host("copy"));
    check(&mounted.at("copy"));
    drop((from, to, mounted));
    // The 64-bit form takes any length; Linux copies 2 GiB at most for one call, and the guest asks for the rest.
    let daemon = Launch::airlockfs().share(&ground.path()).start();
    let fs = daemon.client();
    let node = fs.lookup(ROOT, "source").expect("LOOKUP").nodeid;
    let source = fs.open(node, libc::O_RDONLY).expect("OPEN");
    let (_, target) = fs.create(ROOT, "wide", libc::O_RDWR, 0o600).expect("CREATE");
    let mut at = 0;
    while at < SIZE {
        let copied = fs
            .copy_file_range_64((source, at), (target, at), SIZE)
            .expect("COPY_FILE_RANGE_64");
        assert_ne!(copied, 0);
        at += copied;
    }
    check(&ground.path().join("wide"));
}

#[test]
fn ranges_are_copied_as_on_a_local_file_system() {
    same_everywhere(CACHES, |directory| {
        let mut outcomes = Vec::new();
        let at = |name: &str| directory.join(name);
        fs::write(
            at("source"),
            (0..100_000u32).map(|i| i as u8).collect::<Vec<u8>>(),
        )
        .expect("write");
        let source = File::options()
            .read(true)
            .write(true)
            .open(at("source"))
            .expect("open");
        let target = read_write(&at("target"));
        for (from, to, length) in [
            (0, 0, 100_000),
            (0, 0, usize::MAX >> 1),
            (99_990, 5, 100),
            (100_000, 0, 1),
            (200_000, 0, 1),
            (10, 300_000, 50_000),
            (0, 0, 0),
            (-1, 0, 1),
        ] {
            let (mut read, mut written) = (from, to);
            let copied = copy_file_range(&source, Some(&mut read), &target, Some(&mut written), length);
            outcomes.push(format!(
                "{}: {} {read} {written}, {}",
                length,
                outcome(copied),
                target.metadata().expect("fstat").len()
            ));
        }
        // Within one file: apart or overlapping.
        for (from, to, length) in [(0, 50_000, 10_000), (0, 5_000, 10_000), (5_000, 0, 10_000)] {
            let copied = copy_file_range(
                &source,
                Some(&mut from.clone()),
                &source,
                Some(&mut to.clone()),
                length,
            );
            outcomes.push(outcome(copied));
        }
        let append = File::options().append(true).open(at("target")).expect("open");
        outcomes.push(outcome(copy_file_range(&source, Some(&mut 0), &append, None, 10)));
        let read_only = File::open(at("target")).expect("open");
        outcomes.push(outcome(copy_file_range(
            &source,
            Some(&mut 0),
            &read_only,
            None,
            10,
        )));
        let folder = File::open(directory).expect("open");
        outcomes.push(outcome(copy_file_range(&source, Some(&mut 0), &folder, None, 10)));
        outcomes.push(io_outcome(fs::read(at("target")).map(|data| {
            data.iter().fold(0u64, |sum, &byte| {
                sum.wrapping_mul(31).wrapping_add(u64::from(byte))
            })
        })));
        outcomes
    });
}

/// Programs that append to one file, each with its own open file, lose nothing of each other.
#[test]
fn appended_lines_are_all_there() {
    for options in CACHES {
        let mounted = Mounted::new(options);
        fs::write(mounted.at("log"), "").expect("write");
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let path = mounted.at("log");
                scope.spawn(move || {
                    let mut file = File::options().append(true).open(path).expect("open");
                    for _ in 0..200 {
                        file.write_all(&[b'a' + thread; 100]).expect("write");
                    }
                });
            }
        });
        let file = File::options()
            .read(true)
            .append(true)
            .open(mounted.at("log"))
            .expect("open");
        // The offset of pwrite(2) does not matter to such a file.
        assert_eq!(file.write_at(b"end", 0).expect("write"), 3);
        drop(file);
        let data = fs::read(mounted.host("log")).expect("read");
        assert_eq!(data.len(), 80_003, "{options:?}");
        for thread in 0..4 {
            let letter = b'a' + thread;
            let of_end = b"end".iter().filter(|&&byte| byte == letter).count();
            let found = data.iter().filter(|&&byte| byte == letter).count();
            assert_eq!(found, 20_000 + of_end);
        }
    }
}

/// Two guests, whose kernels do not know of each other's appending.
#[test]
fn two_guests_append_to_one_file() {
    for options in [&[][..], &["--cache=never"], &["--no-donate"]] {
        let one = Mounted::new(options);
        let two = Mounted::launch(Launch::airlockfs().share(one.daemon.share()).args(options));
        fs::write(one.at("log"), "").expect("write");
        let open = |place: &Mounted| File::options().append(true).open(place.at("log")).expect("open");
        let (mut first, mut second) = (open(&one), open(&two));
        for _ in 0..50 {
            first.write_all(&[1; 1000]).expect("write");
            second.write_all(&[2; 1000]).expect("write");
        }
        let data = fs::read(one.host("log")).expect("read");
        assert_eq!(data.len(), 100_000, "{options:?}");
        assert_eq!(data.iter().filter(|&&byte| byte == 1).count(), 50_000);
    }
}

/// With a writeback cache the guest's kernel reads what surrounds a write, even of files that are open for writing only.
#[test]
fn files_open_for_writing_only_are_written_to_anywhere() {
    same_everywhere(CACHES, |directory| {
        let path = directory.join("file");
        fs::write(&path, vec![5; 20_000]).expect("write");
        let before = fs::metadata(&path).expect("stat");
        let file = File::options().write(true).open(&path).expect("open");
        // Drop what is cached, so that it has to be read.
        file.sync_all().expect("fsync");
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        let mut outcomes = Vec::new();
        for at in [1, 4090, 10_000, 19_999, 30_000] {
            outcomes.push(io_outcome(file.write_at(b"0123456789", at)));
        }
        outcomes.push(io_outcome(file.read_at(&mut [0; 10], 0)));
        outcomes.push(io_outcome(file.sync_all()));
        drop(file);
        outcomes.push(format!(
            "atime moved: {}",
            fs::metadata(&path).expect("stat").atime() != before.atime()
        ));
        let data = fs::read(&path).expect("read");
        outcomes.push(format!("{} {:?}", data.len(), &data[..12]));
        outcomes.push(format!(
            "{}",
            data.iter().fold(0u64, |sum, &byte| sum
                .wrapping_mul(31)
                .wrapping_add(u64::from(byte)))
        ));
        outcomes
    });
}

fn unaligned_direct(directory: &Path) -> Vec<String> {
    let mut outcomes = Vec::new();
    let path = directory.join("file");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .expect("open");
    let buffer = vec![3u8; 20_000];
    let skew = buffer.as_ptr().align_offset(4096);
    for (start, length, offset) in [
        (skew, 8192, 0),
        (skew, 4096, 4096),
        (skew, 4096, 1),
        (skew, 100, 0),
        (skew, 100, 50),
    ] {
        let data = &buffer[start..start + length];
        outcomes.push(io_outcome(file.write_at(data, offset)));
        let mut room = vec![0u8; 20_000];
        let skew = room.as_ptr().align_offset(4096);
        let read = file.read_at(&mut room[skew..skew + length], offset);
        outcomes.push(io_outcome(read));
    }
    outcomes.push(io_outcome(file.metadata().map(|found| found.len())));
    outcomes
}

/// Opt-in: the host's file system says what it takes. Otherwise anything goes.
#[test]
fn direct_io_is_the_hosts_when_it_is_allowed() {
    same_everywhere(
        &[
            &["--allow-direct-io"],
            &["--allow-direct-io", "--no-donate"],
            &["--allow-direct-io", "--cache=never"],
        ],
        unaligned_direct,
    );
    let mounted = Mounted::new(&[]);
    for outcome in &unaligned_direct(mounted.bridge.path())[..10] {
        assert!(outcome.parse::<usize>().is_ok(), "{outcome}");
    }
}

#[test]
fn reading_without_a_trace_is_passed_on_when_asked_for() {
    let old = nix::sys::time::TimeSpec::new(1000, 0);
    for (options, kept) in [(&["--preserve-noatime"][..], true), (&[], false)] {
        let mounted = Mounted::new(options);
        let path = mounted.at("file");
        fs::write(&path, "text").expect("write");
        fs::create_dir(mounted.at("dir")).expect("mkdir");
        for name in ["file", "dir"] {
            let path = mounted.at(name);
            nix::sys::stat::utimensat(
                nix::fcntl::AT_FDCWD,
                &path,
                &old,
                &nix::sys::time::TimeSpec::new(2000, 0),
                nix::sys::stat::UtimensatFlags::FollowSymlink,
            )
            .expect("utimensat");
            let file = File::options()
                .read(true)
                .custom_flags(libc::O_NOATIME)
                .open(&path)
                .expect("open");
            match name {
                "file" => assert_eq!(file.read_at(&mut [0; 10], 0).expect("read"), 4),
                _ => {
                    use std::os::fd::AsRawFd;
                    let listed = fs::read_dir(format!("/proc/self/fd/{}", file.as_raw_fd()));
                    drop(listed.expect("list"));
                }
            }
            let after = fs::metadata(mounted.host(name)).expect("stat").atime();
            if kept || name == "dir" {
                assert_eq!(after, if kept { 1000 } else { after }, "{name}, {options:?}");
            } else {
                assert_ne!(after, 1000, "{name}, {options:?}");
            }
        }
    }
}

#[test]
fn o_trunc_empties_what_may_be_written_and_nothing_else() {
    same_everywhere(CACHES, |directory| {
        let mut outcomes = Vec::new();
        let path = directory.join("file");
        for (uid, mode) in [
            (0, 0o600),
            (1001, 0o644),
            (1001, 0o666),
            (1001, 0o444),
            (1001, 0o222),
        ] {
            for access in [
                libc::O_RDONLY,
                libc::O_WRONLY,
                libc::O_RDWR,
                libc::O_APPEND | libc::O_WRONLY,
            ] {
                let _ = fs::remove_file(&path);
                fs::write(&path, "some text").expect("write");
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                    .expect("chmod");
                let work = || {
                    let flags = nix::fcntl::OFlag::from_bits_truncate(access) | nix::fcntl::OFlag::O_TRUNC;
                    outcome(nix::fcntl::open(&path, flags, nix::sys::stat::Mode::empty()).map(drop))
                };
                let opened = if uid == 0 {
                    work()
                } else {
                    crate::common::as_user(uid, uid, &[], work)
                };
                outcomes.push(format!(
                    "{uid} {mode:o} {access:o}: {opened} {}",
                    io_outcome(fs::read_to_string(&path))
                ));
            }
        }
        outcomes
    });
}
