//! The operations, by family.

pub(super) mod attr;
pub(super) mod dir;
pub(super) mod file;
mod lock;
mod names;
mod session;
mod xattr;

/// A name as it travels: with its NUL.
fn terminated(name: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = name.as_ref().to_vec();
    bytes.push(0);
    bytes
}
