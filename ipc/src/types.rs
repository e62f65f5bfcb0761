//! Checked types that both processes speak in; after decoding there are no others.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::Errno;

/// Longest file name in bytes (NAME_MAX, limits.h).
pub const NAME_MAX: usize = 255;

/// A node id of the FUSE protocol: names one inode of the share for as long as the guest holds a lookup on it.
/// 64 bits, chosen by the worker, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The share's root (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);
}

/// An open file or directory (`fh` in the FUSE protocol). 64 bits, chosen by the worker, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Handle(pub u64);

/// Node ids and handles use at most this many generations of a place in their tables, so that their highest bit is 0.
pub const GENERATIONS: u32 = 1 << 31;

impl Handle {
    /// The bit that the worker's own handles do not have.
    const BY_NODE: u64 = 1 << 63;

    /// The handle of a file or directory that is used without having been opened (FUSE_NO_OPEN_SUPPORT,
    /// FUSE_NO_OPENDIR_SUPPORT): the worker opens it for reading. None for an id that the worker never gave.
    pub const fn of_node(node: NodeId) -> Option<Self> {
        match node.0 & Self::BY_NODE {
            0 => Some(Self(node.0 | Self::BY_NODE)),
            _ => None,
        }
    }

    /// The node of such a handle.
    pub const fn node(self) -> Option<NodeId> {
        match self.0 & Self::BY_NODE {
            0 => None,
            _ => Some(NodeId(self.0 & !Self::BY_NODE)),
        }
    }
}

/// One component of a path: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
/// The only way a name reaches a system call; the check is made where it is decoded, in both processes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks `bytes`. EINVAL for what is not a single component, ENAMETOOLONG past [`NAME_MAX`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, Errno> {
        if bytes.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let single = !matches!(bytes, b"" | b"." | b"..") && !bytes.iter().any(|b| matches!(b, b'/' | 0));
        if single {
            Ok(Self(bytes))
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// The bytes, without a terminating NUL.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl std::fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Serialize for Name<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&'de [u8]>::deserialize(deserializer)?;
        Name::new(bytes).map_err(|_| D::Error::custom("not a one-component name"))
    }
}

/// Opaque bytes of the guest's or the file system's: a symlink's target, an extended attribute's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'de [u8]>::deserialize(deserializer).map(Bytes)
    }
}

/// The other process broke the boundary's rules. Ends the session; the text is for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolError(pub &'static str);

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "boundary violation: {}", self.0)
    }
}

impl std::error::Error for ProtocolError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_nodes_are_no_others() {
        let node = NodeId(u64::from(GENERATIONS - 1) << 32 | 7);
        let handle = Handle::of_node(node);
        assert_eq!(handle.and_then(Handle::node), Some(node));
        assert_eq!(Handle(node.0).node(), None);
        assert_eq!(Handle::of_node(NodeId(u64::MAX)), None);
    }

    #[test]
    fn a_name_is_one_component() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"/etc", b"a\0", b"\0"] {
            assert_eq!(Name::new(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(Name::new(&[b'x'; 256]), Err(Errno::ENAMETOOLONG));
        for good in [&b"..."[..], b".a", b"\xff\xfe", &[b'x'; 255]] {
            assert!(Name::new(good).is_ok());
        }
    }
}
