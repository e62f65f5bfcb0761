//! Attributes: GETATTR, STATX, SETATTR, ACCESS, STATFS.

use nix::errno::Errno;

use crate::fuse::abi::{
    ACCESS, AccessIn, Attr, AttrOut, GETATTR, GetattrIn, Kstatfs, SETATTR, STATFS, STATX, SetattrIn, Statx,
    StatxIn, StatxOut, fattr, getattr_flags,
};
use crate::fuse::client::{Client, bytes};

/// What SETATTR changes; everything else stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr(SetattrIn);

impl SetAttr {
    /// chmod.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.0.valid |= fattr::MODE;
        self.0.mode = mode;
        self
    }

    /// chown.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.0.valid |= fattr::UID;
        self.0.uid = uid;
        self
    }

    /// chgrp.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.0.valid |= fattr::GID;
        self.0.gid = gid;
        self
    }

    /// truncate.
    #[must_use]
    pub fn size(mut self, size: u64) -> Self {
        self.0.valid |= fattr::SIZE;
        self.0.size = size;
        self
    }

    /// Access time, in seconds (two's complement) and nanoseconds.
    #[must_use]
    pub fn atime(mut self, seconds: i64, nanos: u32) -> Self {
        self.0.valid |= fattr::ATIME;
        self.0.atime = seconds as u64;
        self.0.atimensec = nanos;
        self
    }

    /// Modification time, in seconds (two's complement) and nanoseconds.
    #[must_use]
    pub fn mtime(mut self, seconds: i64, nanos: u32) -> Self {
        self.0.valid |= fattr::MTIME;
        self.0.mtime = seconds as u64;
        self.0.mtimensec = nanos;
        self
    }

    /// Modification time: now.
    #[must_use]
    pub fn mtime_now(mut self) -> Self {
        self.0.valid |= fattr::MTIME | fattr::MTIME_NOW;
        self
    }

    /// By this handle.
    #[must_use]
    pub fn handle(mut self, fh: u64) -> Self {
        self.0.valid |= fattr::FH;
        self.0.fh = fh;
        self
    }

    /// With setuid and setgid to be cleared (KILLPRIV_V2).
    #[must_use]
    pub fn kill_suidgid(mut self) -> Self {
        self.0.valid |= fattr::KILL_SUIDGID;
        self
    }
}

impl Client {
    /// GETATTR by node.
    pub fn getattr(&self, node: u64) -> Result<Attr, Errno> {
        self.getattr_out(node, None).map(|out| out.attr)
    }

    /// GETATTR by handle.
    pub fn getattr_fh(&self, node: u64, fh: u64) -> Result<Attr, Errno> {
        self.getattr_out(node, Some(fh)).map(|out| out.attr)
    }

    /// GETATTR with its timeouts.
    pub fn getattr_out(&self, node: u64, fh: Option<u64>) -> Result<AttrOut, Errno> {
        let body = GetattrIn {
            flags: if fh.is_some() { getattr_flags::FH } else { 0 },
            dummy: 0,
            fh: fh.unwrap_or(0),
        };
        self.call_struct(GETATTR, node, &[bytes(&body)])
    }

    /// STATX with a statx(2) mask.
    pub fn statx(&self, node: u64, fh: Option<u64>, mask: u32) -> Result<Statx, Errno> {
        let body = StatxIn {
            getattr_flags: if fh.is_some() { getattr_flags::FH } else { 0 },
            fh: fh.unwrap_or(0),
            sx_mask: mask,
            ..StatxIn::default()
        };
        let out: StatxOut = self.call_struct(STATX, node, &[bytes(&body)])?;
        Ok(out.stat)
    }

    /// SETATTR.
    pub fn setattr(&self, node: u64, change: SetAttr) -> Result<Attr, Errno> {
        let out: AttrOut = self.call_struct(SETATTR, node, &[bytes(&change.0)])?;
        Ok(out.attr)
    }

    /// ACCESS.
    pub fn access(&self, node: u64, mask: u32) -> Result<(), Errno> {
        self.call_empty(ACCESS, node, &[bytes(&AccessIn { mask, padding: 0 })])
    }

    /// STATFS.
    pub fn statfs(&self, node: u64) -> Result<Kstatfs, Errno> {
        self.call_struct(STATFS, node, &[])
    }
}
