//! Shared mappings of files, in every cache mode: the file has what is written through a mapping,
//! and the reverse.
#![allow(unsafe_code, reason = "mmap(2), which is what is tested")]

use std::fs::{self, File};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};

const SIZE: usize = 8192;

/// A shared mapping of a file's first bytes.
struct Mapping(NonNull<libc::c_void>);

impl Mapping {
    fn of(file: &File) -> nix::Result<Self> {
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let size = NonZero::new(SIZE).expect("not zero");
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self(address))
    }

    fn write(&self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= SIZE);
        for (index, byte) in data.iter().enumerate() {
            // SAFETY: within the mapping.
            unsafe { self.0.cast::<u8>().add(at + index).write_volatile(*byte) };
        }
    }

    fn read(&self, at: usize, length: usize) -> Vec<u8> {
        assert!(at + length <= SIZE);
        // SAFETY: within the mapping.
        let byte = |index| unsafe { self.0.cast::<u8>().add(at + index).read_volatile() };
        (0..length).map(byte).collect()
    }

    fn sync(&self) {
        // SAFETY: the mapping is ours.
        unsafe { msync(self.0, SIZE, MsFlags::MS_SYNC) }.expect("msync");
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it any more.
        unsafe { munmap(self.0, SIZE) }.expect("munmap");
    }
}

fn mounted(options: &[&str]) -> (Daemon, TempDir, Bridge) {
    let daemon = Daemon::start(options);
    let mount = TempDir::new().expect("a mount point");
    let bridge = Bridge::mount(daemon.socket(), &mount, &BridgeConfig::default()).expect("mount");
    (daemon, mount, bridge)
}

fn open(mount: &TempDir) -> File {
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .open(mount.join("file"))
        .expect("open")
}

#[test]
fn files_are_mapped_shared_in_every_cache_mode() {
    for mode in ["never", "auto", "metadata", "always"] {
        let (daemon, mount, bridge) = mounted(&["--cache", mode]);
        fs::write(mount.join("file"), [b'.'; SIZE]).expect("write");
        let file = open(&mount);
        let mapping = Mapping::of(&file).unwrap_or_else(|error| panic!("{mode}: {error}"));
        mapping.write(4090, b"by mapping");
        mapping.sync();
        assert_eq!(
            &fs::read(daemon.host("file")).expect("read")[4088..4102],
            b"..by mapping.."
        );
        file.write_all_at(b"by write", 100).expect("write");
        assert_eq!(mapping.read(98, 12), b"..by write..", "{mode}");
        // Another program with the file open sees what is in the mapping.
        mapping.write(0, b"unsynced");
        let mut seen = [0; 8];
        open(&mount).read_exact_at(&mut seen, 0).expect("read");
        assert_eq!(&seen, b"unsynced", "{mode}");
        drop(mapping);
        drop(file);
        assert_eq!(
            &fs::read(daemon.host("file")).expect("read")[..8],
            b"unsynced",
            "{mode}"
        );
        bridge.unmount().expect("unmount");
    }
}

#[test]
fn without_the_option_what_bypasses_the_page_cache_is_not_mapped_shared() {
    for mode in ["never", "metadata"] {
        let (_daemon, mount, bridge) = mounted(&["--no-allow-mmap", "--cache", mode]);
        fs::write(mount.join("file"), [b'.'; SIZE]).expect("write");
        assert_eq!(Mapping::of(&open(&mount)).err(), Some(Errno::ENODEV), "{mode}");
        bridge.unmount().expect("unmount");
    }
}
