//! Options about what is shared and how the guest sees it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use airlockfs_ipc::message;
use clap::{Args, ValueEnum};

use super::values::{NamedPath, id, mask, mode, named_path, seconds};

/// Options about what is shared and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Share")]
#[expect(missing_docs, reason = "hidden opposites of documented options")]
pub struct Share {
    /// The directory to share
    #[arg(long, value_name = "DIR")]
    pub shared_dir: Option<PathBuf>,
    /// Instead of --shared-dir: show this directory or regular file as NAME in the tag's root. The
    /// path is all after the first =. May be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = named_path())]
    pub share: Vec<NamedPath>,
    /// The same, read-only
    #[arg(long, value_name = "NAME=PATH", value_parser = named_path())]
    pub share_ro: Vec<NamedPath>,
    /// Make the share read-only; the kernel enforces it too. With --cache always, the guest opens
    /// and closes files without a message: mount it with -o ro, or an open for writing succeeds and
    /// only the write fails
    #[arg(long)]
    pub readonly: bool,
    /// What the guest may cache: never, auto (1 s), metadata or always (a day)
    #[arg(long, value_enum, default_value = "auto", value_name = "MODE")]
    pub cache: Cache,
    /// How long names stay valid in the guest, in seconds [default: by --cache]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub entry_timeout: Option<Duration>,
    /// How long attributes stay valid in the guest, in seconds [default: by --cache]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub attr_timeout: Option<Duration>,
    /// How long the absence of a name stays valid in the guest, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0")]
    pub negative_timeout: Duration,
    /// Let the guest keep writes in its page cache and write them back later
    #[arg(long, overrides_with = "no_writeback")]
    pub writeback: bool,
    #[arg(long, hide = true, overrides_with = "writeback")]
    pub no_writeback: bool,
    /// Pass O_DIRECT on to the host's file system
    #[arg(long)]
    pub allow_direct_io: bool,
    /// Allow shared mappings of files with --cache never and metadata, too [default: on]
    #[arg(long, overrides_with = "no_allow_mmap")]
    pub allow_mmap: bool,
    /// Refuse such mappings (ENODEV): a mapping is a cache in the guest
    #[arg(long, overrides_with = "allow_mmap")]
    pub no_allow_mmap: bool,
    /// Pass O_NOATIME on to the host's file system
    #[arg(long)]
    pub preserve_noatime: bool,
    /// Do not offer READDIRPLUS
    #[arg(long)]
    pub no_readdirplus: bool,
    /// Show mounts beneath the share as mounts in the guest [default: on]
    #[arg(long, overrides_with = "no_announce_submounts")]
    pub announce_submounts: bool,
    /// Do not tell the guest which directories are mount points
    #[arg(long, overrides_with = "announce_submounts")]
    pub no_announce_submounts: bool,
    /// Serve extended attributes
    #[arg(long, overrides_with = "no_xattr")]
    pub xattr: bool,
    #[arg(long, hide = true, overrides_with = "xattr")]
    pub no_xattr: bool,
    /// Rules for attribute names, in virtiofsd's syntax, such as ':map:trusted.:user.virtiofs.:'
    /// for an overlay in the guest (container engines); implies --xattr
    #[arg(long, value_name = "RULES")]
    pub xattrmap: Option<String>,
    /// Serve POSIX ACLs; implies --xattr
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_value = "never", default_missing_value = "always")]
    pub posix_acl: When,
    /// Give new files the security context that the guest computed; implies --xattr
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_value = "never", default_missing_value = "always")]
    pub security_label: When,
    /// Clear setuid, setgid and file capabilities here instead of in the guest
    #[arg(long, overrides_with = "no_killpriv_v2")]
    pub killpriv_v2: bool,
    #[arg(long, hide = true, overrides_with = "killpriv_v2")]
    pub no_killpriv_v2: bool,
    /// Keep set-user-ID and set-group-ID bits and capabilities off files that the guest makes or
    /// changes. The bits are left out without an error
    #[arg(long)]
    pub no_setuid: bool,
    /// Take POSIX record locks on the host, so that they work between guests
    #[arg(long, overrides_with = "no_posix_lock")]
    pub posix_lock: bool,
    #[arg(long, hide = true, overrides_with = "posix_lock")]
    pub no_posix_lock: bool,
    /// Take flock(2) locks on the host, so that they work between guests
    #[arg(long, overrides_with = "no_flock")]
    pub flock: bool,
    #[arg(long, hide = true, overrides_with = "flock")]
    pub no_flock: bool,
    /// Longest wait for a lock of --posix-lock or --flock, in seconds; 0 waits without end. Then
    /// the program gets EDEADLK. A guest cannot end a wait itself, not even by killing the program
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "300")]
    pub lock_wait: Duration,
    /// Let file handles in the guest (name_to_handle_at(2), its kernel's NFS server) find the latest 65536 inodes that its
    /// kernel forgot
    #[arg(long)]
    pub file_handles: bool,
    /// Translate user ids: KIND:FROM:TO:COUNT. KIND is guest, host, squash-guest, squash-host,
    /// forbid-guest (FROM:COUNT) or map
    #[arg(long, value_name = "RANGE", value_parser = crate::ids::translation)]
    pub translate_uid: Vec<airlockfs_ipc::message::IdRange>,
    /// Translate group ids in the same way
    #[arg(long, value_name = "RANGE", value_parser = crate::ids::translation)]
    pub translate_gid: Vec<airlockfs_ipc::message::IdRange>,
    #[command(flatten)]
    pub view: View,
}

impl Share {
    /// What stands by name under the tag, each with whether nothing changes in it.
    pub fn named(&self) -> impl Iterator<Item = (&NamedPath, bool)> {
        let writable = self.share.iter().map(|named| (named, self.readonly));
        writable.chain(self.share_ro.iter().map(|named| (named, true)))
    }

    /// Nothing at all may be changed.
    pub fn is_readonly(&self) -> bool {
        self.readonly || self.share.is_empty() && !self.share_ro.is_empty()
    }

    /// The paths that are shared.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let only = self.shared_dir.as_deref().into_iter();
        only.chain(self.named().map(|(named, _)| named.path.as_path()))
    }
}

/// What the guest sees instead of what the host has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Owners and permissions as the guest sees them")]
pub struct View {
    /// User that everything belongs to; chown to another is EPERM, and setuid is neither shown nor set
    #[arg(long, value_name = "N", value_parser = id)]
    pub uid: Option<u32>,
    /// Group that everything belongs to, in the same way
    #[arg(long, value_name = "N", value_parser = id)]
    pub gid: Option<u32>,
    /// Permissions of everything, in octal; chmod to others is EPERM
    #[arg(long, value_name = "OCTAL", value_parser = mode)]
    pub mode: Option<u32>,
    /// Permissions to remove from everything, in octal: neither shown nor set
    #[arg(long, value_name = "OCTAL", value_parser = mask)]
    pub umask: Option<u32>,
    /// The same for everything but directories, in place of --umask
    #[arg(long, value_name = "OCTAL", value_parser = mask)]
    pub fmask: Option<u32>,
    /// The same for directories, in place of --umask
    #[arg(long, value_name = "OCTAL", value_parser = mask)]
    pub dmask: Option<u32>,
    /// User shown for host users that have no id in the guest (--translate-uid, --uid-map)
    #[arg(long, value_name = "N", value_parser = id)]
    pub default_uid: Option<u32>,
    /// Group shown for host groups that have no id in the guest
    #[arg(long, value_name = "N", value_parser = id)]
    pub default_gid: Option<u32>,
}

impl View {
    /// For the worker.
    pub fn message(&self) -> message::View {
        let mask = |own: Option<u32>| own.or(self.umask).unwrap_or(0);
        message::View {
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
            fmask: mask(self.fmask),
            dmask: mask(self.dmask),
            default_uid: self.default_uid,
            default_gid: self.default_gid,
        }
    }
}

/// `--cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the help would show it: --cache says it")]
pub enum Cache {
    Never,
    #[value(alias = "none")]
    Auto,
    Metadata,
    Always,
}

/// Whether the guest must take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the help would show it: virtiofsd's names")]
pub enum When {
    Never,
    Auto,
    Always,
}
