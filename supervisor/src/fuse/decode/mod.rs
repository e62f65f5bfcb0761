//! Guest bytes → a checked operation. Nothing here indexes, wraps or allocates.

pub(super) mod attr;
pub(super) mod create;
mod input;
pub(super) mod io;
pub(super) mod lock;
pub(super) mod misc;
pub(super) mod names;
pub(super) mod request;
#[cfg(test)]
pub(super) mod tests;
pub(super) mod xattr;

use super::Operation;
use input::{Fault, Input};

/// Decodes the body of an operation.
pub(super) type Decoder = for<'a> fn(&mut Input<'a, '_>) -> Result<Operation<'a>, Fault>;
