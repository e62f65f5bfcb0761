//! Blocks that a file system keeps for the host's root. ext4 lets whoever has its reserve's user (resuid=, ext4(5)), root
//! by default, as fsuid take them, whatever his capabilities (fs/ext4/balloc.c, `ext4_has_free_clusters`). This process
//! is root where it writes for a guest, which is not.
//!
//! So where room gets scarce, data is written as nobody. How much is left is asked now and then, not at each write: until
//! a sixteenth of it is written, 16 MiB at most. What others take meanwhile can cost the reserve that much.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use airlockfs_ipc::Errno;

use crate::sys::file_system;

/// Most bytes between two looks.
const MOST: u64 = 16 << 20;

/// What is known of the file system that was written to last.
#[derive(Default)]
pub(crate) struct Reserve {
    /// The mount it is on.
    mount: AtomicU64,
    /// Bytes that may be written as root before the next look.
    left: AtomicU64,
}

impl Reserve {
    /// Whether `bytes` of a file on a mount may be written as root without taking what is root's.
    pub(crate) fn spares(&self, file: impl AsFd, mount: u64, bytes: u64) -> Result<bool, Errno> {
        let spend = |left: u64| left.checked_sub(bytes);
        if self.mount.load(Relaxed) == mount && self.left.fetch_update(Relaxed, Relaxed, spend).is_ok() {
            return Ok(true);
        }
        let found = file_system(file)?;
        let free = found.bavail.saturating_mul(found.frsize.into());
        let left = match found.bfree > found.bavail {
            true => (free / 16).min(MOST),
            // Nothing is kept for anybody.
            false => u64::MAX,
        };
        self.left.store(left.saturating_sub(bytes), Relaxed);
        self.mount.store(mount, Relaxed);
        Ok(bytes <= left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_kept_one_look_is_enough() {
        let reserve = Reserve::default();
        let file = std::fs::File::open("/dev/shm").unwrap();
        for bytes in [1, MOST + 1, u64::MAX / 4] {
            assert_eq!(reserve.spares(&file, 7, bytes), Ok(true));
        }
        assert!(reserve.left.load(Relaxed) > u64::MAX / 4);
    }

    #[test]
    fn a_look_is_for_one_mount() {
        let reserve = Reserve::default();
        let file = std::fs::File::open("/dev/shm").unwrap();
        reserve.spares(&file, 7, 1).unwrap();
        reserve.left.store(10, Relaxed);
        assert_eq!(reserve.spares(&file, 7, 4), Ok(true));
        assert_eq!(reserve.left.load(Relaxed), 6);
        reserve.spares(&file, 8, 4).unwrap();
        assert_eq!(reserve.mount.load(Relaxed), 8);
    }
}
