//! Where a node keeps its name: most are short enough to need no memory of their own.

use std::ops::Deref;

/// Longest name that is kept in place, in bytes.
pub(super) const SHORT: usize = 22;

/// At most 255 bytes.
pub(super) enum NodeName {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<NodeName>() <= 24);

impl Default for NodeName {
    fn default() -> Self {
        Self::Short {
            length: 0,
            bytes: [0; SHORT],
        }
    }
}

impl From<&[u8]> for NodeName {
    fn from(name: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..name.len()) {
            Some(room) => {
                room.copy_from_slice(name);
                Self::Short {
                    length: room.len() as u8,
                    bytes,
                }
            }
            None => Self::Long(name.into()),
        }
    }
}

impl Deref for NodeName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_come_back() {
        for length in 0..=255 {
            let name = vec![b'x'; length];
            let kept = NodeName::from(&name[..]);
            assert_eq!(*kept, *name);
            assert_eq!(matches!(kept, NodeName::Short { .. }), length <= SHORT);
        }
        assert!(NodeName::default().is_empty());
    }
}
