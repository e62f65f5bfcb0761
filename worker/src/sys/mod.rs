//! The system calls that `nix` lacks or makes needlessly dear, behind safe functions. All `unsafe` of the worker.
//!
//! Names are C strings on the stack ([`CName`], [`ProcPath`]), so that no call allocates.

mod creds;
mod data;
mod dirent;
mod end;
mod inherited;
mod ioctl;
mod lock;
mod names;
mod rename;
mod stat;
mod xattr;

pub(crate) use creds::{CAP_DAC_OVERRIDE, CAP_FSETID, raise, set_groups, switch_gid, switch_uid};
pub(crate) use data::{Placed, read, write};
pub(crate) use dirent::{parse, read_entries};
pub(crate) use end::{end, say};
pub(crate) use inherited::control;
pub(crate) use ioctl::{file_flags, fs_xattr, set_file_flags, set_fs_xattr};
pub(crate) use lock::{find_lock, set_lock, set_whole_lock};
pub(crate) use names::{CName, ProcPath};
pub(crate) use rename::rename;
pub(crate) use stat::{
    FileSystem, Stat, file_system, file_system_kind, is_in_memory, is_local, read_link, stat, stat_at,
};
pub(crate) use xattr::{get_xattr, list_xattrs, remove_xattr, set_xattr};

use airlockfs_ipc::Errno;

/// The result of a call that says -1 for an error.
fn check(result: impl Into<i64>) -> Result<usize, Errno> {
    usize::try_from(result.into()).map_err(|_| Errno::last())
}
