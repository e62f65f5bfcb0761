//! Extended attributes, with the size query of each call.

use nix::errno::Errno;

use super::terminated;
use crate::fuse::abi::{
    GETXATTR, GetxattrIn, GetxattrOut, LISTXATTR, REMOVEXATTR, SETXATTR, SetxattrIn, init_flags,
};
use crate::fuse::client::{Client, bytes};

impl Client {
    /// GETXATTR with room for `size` bytes (not 0).
    pub fn getxattr(&self, node: u64, name: impl AsRef<[u8]>, size: u32) -> Result<Vec<u8>, Errno> {
        let body = GetxattrIn { size, padding: 0 };
        self.call(GETXATTR, node, &[bytes(&body), &terminated(name)], size as usize)
    }

    /// GETXATTR that asks for the value's size.
    pub fn getxattr_size(&self, node: u64, name: impl AsRef<[u8]>) -> Result<u32, Errno> {
        let body = GetxattrIn::default();
        let out: GetxattrOut = self.call_struct(GETXATTR, node, &[bytes(&body), &terminated(name)])?;
        Ok(out.size)
    }

    /// LISTXATTR with room for `size` bytes (not 0): the names.
    pub fn listxattr(&self, node: u64, size: u32) -> Result<Vec<Vec<u8>>, Errno> {
        let body = GetxattrIn { size, padding: 0 };
        let list = self.call(LISTXATTR, node, &[bytes(&body)], size as usize)?;
        let names = list.split(|b| *b == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    /// LISTXATTR that asks for the list's size.
    pub fn listxattr_size(&self, node: u64) -> Result<u32, Errno> {
        let body = GetxattrIn::default();
        let out: GetxattrOut = self.call_struct(LISTXATTR, node, &[bytes(&body)])?;
        Ok(out.size)
    }

    /// SETXATTR with setxattr(2) flags, in the form that INIT agreed on.
    pub fn setxattr(&self, node: u64, name: impl AsRef<[u8]>, value: &[u8], flags: i32) -> Result<(), Errno> {
        let body = SetxattrIn {
            size: value.len() as u32,
            flags: flags as u32,
            ..SetxattrIn::default()
        };
        let head = if self.negotiated() & init_flags::SETXATTR_EXT != 0 {
            bytes(&body)
        } else {
            &bytes(&body)[..8]
        };
        self.call_empty(SETXATTR, node, &[head, &terminated(name), value])
    }

    /// REMOVEXATTR.
    pub fn removexattr(&self, node: u64, name: impl AsRef<[u8]>) -> Result<(), Errno> {
        self.call_empty(REMOVEXATTR, node, &[&terminated(name)])
    }
}
