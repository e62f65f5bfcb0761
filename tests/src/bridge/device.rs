//! /dev/fuse: mounting, and one descriptor per reader.
#![allow(unsafe_code, reason = "an ioctl that nix does not wrap")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount as mount_call};

use super::BridgeConfig;

mod ioctl {
    //! FUSE_DEV_IOC_CLONE (uapi `linux/fuse.h`).
    nix::ioctl_read!(clone, 229, 0, u32);
}

/// Opens /dev/fuse and mounts it on a directory as the virtio-fs driver mounts: permissions are
/// checked by the kernel, all users are allowed unless it is private, and nothing limits the size
/// of reads.
pub(super) fn mount(directory: &Path, config: &BridgeConfig) -> Result<File> {
    let device = open()?;
    let others = if config.private { "" } else { ",allow_other" };
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions{others}",
        device.as_raw_fd()
    );
    mount_call(
        Some(config.source.as_deref().unwrap_or("airlockfs")),
        directory,
        Some("fuse.airlockfs"),
        config.flags.unwrap_or(MsFlags::empty()),
        Some(options.as_str()),
    )
    .with_context(|| format!("mount on {}", directory.display()))?;
    Ok(device)
}

/// Another descriptor for the same mount, with a list of its own for requests that wait for their
/// reply.
pub(super) fn clone(device: &File) -> Result<File> {
    let file = open()?;
    let mut source = device.as_raw_fd() as u32;
    // SAFETY: the ioctl reads one integer, which lives for the call.
    unsafe { ioctl::clone(file.as_raw_fd(), &mut source) }.context("FUSE_DEV_IOC_CLONE")?;
    Ok(file)
}

fn open() -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .context("open /dev/fuse")
}
