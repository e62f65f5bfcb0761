//! Numbers that use all 64 bits: directory positions and inode numbers beyond 2^63, as NFS,
//! overlayfs and cloud file systems have them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::Launch;
use airlockfs_tests::fuse::abi::{
    Attr, AttrOut, EntryOut, GETATTR, INIT, InHeader, InitOut, LOOKUP, OPENDIR, OpenOut, OutHeader, READDIR,
    ROOT, ReadIn,
};
use airlockfs_tests::mount::Mount;
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use zerocopy::{FromBytes, IntoBytes};

const STATFS: u32 = 17;
const RELEASEDIR: u32 = 29;
const FORGETS: [u32; 2] = [2, 42];
const FILES: u64 = 200;
const HIGH: u64 = 1 << 63;

/// The position behind an entry: beyond 2^63, and in no order.
fn position(number: u64) -> u64 {
    HIGH | number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1
}

fn ino(number: u64) -> u64 {
    HIGH + number
}

/// A file system on the host: a directory of empty files.
struct HostFs {
    at: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl HostFs {
    fn mount(at: &Path) -> Self {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("/dev/fuse");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        mount(
            Some("numbers"),
            at,
            Some("fuse.numbers"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mount");
        let server = std::thread::spawn(move || serve(device));
        Self {
            at: at.to_owned(),
            server: Some(server),
        }
    }
}

impl Drop for HostFs {
    fn drop(&mut self) {
        umount2(&self.at, MntFlags::MNT_DETACH).expect("umount");
        self.server.take().map(JoinHandle::join);
    }
}

fn attr(number: u64) -> Attr {
    Attr {
        ino: ino(number),
        mode: if number == 0 { 0o40755 } else { 0o100_644 },
        nlink: 1,
        blksize: 4096,
        ..Attr::default()
    }
}

/// Answers until it is unmounted. Node ids are the entries' numbers, and 1 is the directory.
fn serve(mut device: File) {
    let mut request = vec![0; 1 << 17];
    while let Ok(length) = device.read(&mut request) {
        let (header, body) = InHeader::read_from_prefix(&request[..length]).expect("a header");
        let number = |node: u64| if node == ROOT { 0 } else { node - ROOT };
        let answer = match header.opcode {
            opcode if FORGETS.contains(&opcode) => continue,
            INIT => Ok(InitOut {
                major: 7,
                minor: 31,
                max_write: 4096,
                ..InitOut::default()
            }
            .as_bytes()
            .to_vec()),
            GETATTR => Ok(AttrOut {
                attr: attr(number(header.nodeid)),
                ..AttrOut::default()
            }
            .as_bytes()
            .to_vec()),
            LOOKUP => {
                let name = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
                match name.strip_prefix("file").and_then(|number| number.parse().ok()) {
                    Some(number @ 1..=FILES) => Ok(EntryOut {
                        nodeid: number + ROOT,
                        attr: attr(number),
                        ..EntryOut::default()
                    }
                    .as_bytes()
                    .to_vec()),
                    _ => Err(Errno::ENOENT),
                }
            }
            OPENDIR => Ok(OpenOut::default().as_bytes().to_vec()),
            READDIR => Ok(listing(&ReadIn::read_from_prefix(body).expect("READDIR").0)),
            STATFS => Ok(vec![0; 80]),
            RELEASEDIR => Ok(Vec::new()),
            _ => Err(Errno::ENOSYS),
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-(errno as i32), Vec::new()),
        };
        let out = OutHeader {
            len: (size_of::<OutHeader>() + body.len()) as u32,
            error,
            unique: header.unique,
        };
        // Unmounted meanwhile.
        let _ = device.write(&[out.as_bytes(), &body].concat());
    }
}

/// `struct fuse_dirent`s from a position on.
fn listing(read: &ReadIn) -> Vec<u8> {
    let first = match read.offset {
        0 => 1,
        offset => {
            (1..=FILES)
                .find(|&number| position(number) == offset)
                .expect("a position that was given")
                + 1
        }
    };
    let mut all = Vec::new();
    for number in first..=FILES {
        let name = format!("file{number}");
        let mut record = [ino(number), position(number)].as_bytes().to_vec();
        record.extend([name.len() as u32, u32::from(libc::DT_REG)].as_bytes());
        record.extend(name.as_bytes());
        record.resize(record.len().next_multiple_of(8), 0);
        if all.len() + record.len() > read.size as usize {
            break;
        }
        all.extend(record);
    }
    all
}

#[test]
fn positions_and_inode_numbers_beyond_two_to_the_63_pass_through() {
    let at = TempDir::new().expect("a mount point");
    let _host = HostFs::mount(&at);
    let expected: Vec<(Vec<u8>, u64, u64)> = (1..=FILES)
        .map(|number| {
            (
                format!("file{number}").into_bytes(),
                ino(number),
                position(number),
            )
        })
        .collect();
    for options in [&[][..], &["--no-readdirplus"], &["--readonly", "--cache=always"]] {
        let daemon = Launch::airlockfs().share(&at).args(options).start();
        let fs = daemon.client();
        for number in [1, FILES] {
            let entry = fs.lookup(ROOT, format!("file{number}")).expect("LOOKUP");
            assert_eq!(entry.attr.ino, ino(number));
        }
        let dir = match fs.opendir(ROOT) {
            Err(Errno::ENOSYS) => airlockfs_tests::fuse::Opened {
                node: ROOT,
                fh: 0,
                open_flags: 0,
            },
            opened => opened.expect("OPENDIR"),
        };
        for size in [512, 4096, 65_536] {
            let all = fs.readdir_all(dir, size).expect("READDIR");
            let all: Vec<_> = all
                .into_iter()
                .map(|entry| (entry.name, entry.ino, entry.off))
                .collect();
            assert_eq!(all, expected, "{options:?} {size}");
        }
        // From anywhere, in any order (telldir(3), seekdir(3), an NFS server's client).
        for number in [150, 3, FILES - 1, 77, 76, 1] {
            let next = fs.readdir(dir, position(number), 4096).expect("READDIR");
            let next = next.first().expect("an entry");
            assert_eq!(
                (next.name.clone(), next.ino),
                (format!("file{}", number + 1).into_bytes(), ino(number + 1))
            );
        }
        assert!(
            fs.readdir(dir, position(FILES), 4096)
                .expect("READDIR")
                .is_empty()
        );
        assert_eq!(fs.readdir(dir, HIGH | 12_345, 4096), Err(Errno::EINVAL));
        assert_eq!(
            fs.readdir(dir, 0, 4096)
                .expect("READDIR")
                .first()
                .map(|entry| entry.ino),
            Some(ino(1))
        );
        drop(fs);

        // And Linux's own client takes them.
        let mount_point = TempDir::new().expect("a mount point");
        let again = Launch::airlockfs().share(&at).args(options).start();
        let _bridge = Bridge::mount(again.socket(), &mount_point, &BridgeConfig::default()).expect("mount");
        let entries = fs::read_dir(&mount_point).expect("list");
        let mut found: Vec<u64> = entries
            .map(|entry| std::os::unix::fs::DirEntryExt::ino(&entry.expect("an entry")))
            .collect();
        found.sort_unstable();
        assert_eq!(found, (1..=FILES).map(ino).collect::<Vec<_>>());
        assert_eq!(
            fs::metadata(mount_point.join("file7")).expect("stat").ino(),
            ino(7)
        );
    }
}

/// overlayfs tells the files of two file systems apart by the highest bits of their numbers (xino).
#[test]
fn an_overlays_inode_numbers_are_the_guests() {
    let [layers, second, at] = [0; 3].map(|_| TempDir::new().expect("a directory"));
    let _second = Mount::tmpfs(&second).expect("tmpfs");
    for dir in ["upper", "work"] {
        fs::create_dir(layers.join(dir)).expect("mkdir");
    }
    fs::write(second.join("lower"), "lower").expect("write");
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    let _overlay = Mount::overlay(&at, &second, &upper, &work, "xino=on").expect("an overlay");
    fs::write(at.join("made"), "upper").expect("write");
    let host = |name: &str| fs::metadata(at.join(name)).expect("stat").ino();
    assert!(host("lower") >= HIGH, "{:x}", host("lower"));
    let daemon = Launch::airlockfs().share(&at).start();
    let fs = daemon.client();
    let dir = fs.opendir(ROOT).expect("OPENDIR");
    let listed = fs.readdirplus_all(dir, 4096).expect("READDIRPLUS");
    for name in ["lower", "made"] {
        let expected = host(name);
        assert_eq!(
            fs.lookup(ROOT, name).expect("LOOKUP").attr.ino,
            expected,
            "{name}"
        );
        let item = listed
            .iter()
            .find(|item| item.dirent.name == name.as_bytes())
            .expect("an entry");
        assert_eq!(
            (item.dirent.ino, item.entry.attr.ino),
            (expected, expected),
            "{name}"
        );
    }
}
