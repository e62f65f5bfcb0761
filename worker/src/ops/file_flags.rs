//! FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR on open files.
//!
//! A guest sets what describes its file (chattr(1)). It does not set what the host bounds it by or lays files out by: the
//! project id, which the host's quotas count by, and whether new files inherit it; the realtime device; extent size
//! hints; DAX. Programs read these values and write them back with one flag changed, so a set that leaves them as they
//! are passes, and one that changes them is EPERM. `--allow-project-ids` allows project id and inheritance.
//!
//! The kernel checks less: any owner of a file may change all of these (fs/file_attr.c, `fileattr_set_prepare`). It
//! demands a capability, which this process lacks, for the immutable, append-only and journal-data flags.

use airlockfs_ipc::{
    Errno, Handle,
    message::{FsXattr, Reply},
};

use crate::{sys, volume::Volume};

/// A flag's bit for FS_IOC_SETFLAGS and for FS_IOC_FSSETXATTR (linux/fs.h).
struct Flag {
    short: u32,
    extended: u32,
}

const fn flag(short: u32, extended: u32) -> Flag {
    Flag { short, extended }
}

/// New files get their directory's project id.
const PROJECT_INHERIT: Flag = flag(0x2000_0000, 0x200);
/// File data is reached without the host's page cache.
const DAX: Flag = flag(0x0200_0000, 0x8000);
/// What FS_IOC_FSSETXATTR changes: sync, immutable, append-only, nodump, noatime. FS_IOC_SETFLAGS has them too.
const SETTABLE: [Flag; 5] = [
    flag(0x8, 0x20),
    flag(0x10, 0x8),
    flag(0x20, 0x10),
    flag(0x40, 0x80),
    flag(0x80, 0x40),
];
/// What FS_IOC_FSGETXATTR only reports and the kernel ignores on a set: preallocated space, fs-verity, attributes.
const REPORTED: u32 = 0x2 | 0x2_0000 | 0x8000_0000;

/// Flags, short or extended.
pub(crate) fn get(volume: &Volume, handle: Handle, extended: bool) -> Result<Reply<'static>, Errno> {
    let open = volume.open_file(handle)?;
    if extended {
        sys::fs_xattr(&*open).map(Reply::FsXattr)
    } else {
        sys::file_flags(&*open).map(Reply::FileFlags)
    }
}

/// Sets the short flags. EPERM for a change of one that is the host's.
///
/// No other request of this guest changes such a flag between the look at it and the set. Where a program of the host
/// does, the set undoes it, as chattr(1) there would.
pub(crate) fn set(volume: &Volume, handle: Handle, flags: u32) -> Result<Reply<'static>, Errno> {
    let open = volume.open_file(handle)?;
    volume.writable(open.node.share)?;
    let inherit = match volume.config.project_ids {
        true => 0,
        false => PROJECT_INHERIT.short,
    };
    if (sys::file_flags(&*open)? ^ flags) & (inherit | DAX.short) != 0 {
        return Err(Errno::EPERM);
    }
    sys::set_file_flags(&*open, flags)?;
    Ok(Reply::Done)
}

/// Sets the extended ones. EPERM for a change of what is the host's.
///
/// Where the guest may not set project ids, FS_IOC_SETFLAGS makes the change: that call carries none, and the kernel
/// keeps the file's under the inode's lock. So not even a change by the host in between is undone, and the filter has no
/// FS_IOC_FSSETXATTR.
pub(crate) fn set_extended(volume: &Volume, handle: Handle, value: FsXattr) -> Result<Reply<'static>, Errno> {
    let open = volume.open_file(handle)?;
    volume.writable(open.node.share)?;
    let now = sys::fs_xattr(&*open)?;
    let project_ids = volume.config.project_ids;
    let mut settable = SETTABLE.iter().fold(REPORTED, |all, flag| all | flag.extended);
    if project_ids {
        settable |= PROJECT_INHERIT.extended;
    }
    let changes_hosts = (now.xflags ^ value.xflags) & !settable != 0
        || (now.extsize, now.cowextsize) != (value.extsize, value.cowextsize)
        || now.projid != value.projid && !project_ids;
    if changes_hosts {
        return Err(Errno::EPERM);
    }
    if project_ids {
        sys::set_fs_xattr(&*open, value)?;
    } else {
        let mut flags = sys::file_flags(&*open)?;
        for flag in SETTABLE {
            flags &= !flag.short;
            if value.xflags & flag.extended != 0 {
                flags |= flag.short;
            }
        }
        sys::set_file_flags(&*open, flags)?;
    }
    Ok(Reply::Done)
}
