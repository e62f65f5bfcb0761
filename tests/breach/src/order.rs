//! What the attacker is ordered to do.

use serde::{Deserialize, Serialize};

/// An order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Make a system call.
    Call(i64, Vec<Argument>),
    /// Make it on a thread of its own.
    CallOnThread(i64, Vec<Argument>),
    /// Make many, with registers as they stand; the answer's bytes are the results, each an `i64` of this machine.
    Calls(Vec<(i64, [u64; 6])>),
    /// Make a system call without arguments by the 32-bit entry (x86-64; elsewhere ENOSYS).
    Legacy(u32),
    /// Start a thread that allocates, hashes and ends.
    Thread,
    /// Place these bytes in memory, for ever; the result is their address.
    Place(Vec<u8>),
    /// Read so many bytes at an address.
    Look(u64, u32),
    /// Keep the descriptor that came beside the order; the result is its number.
    Keep,
}

/// An argument of a system call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Argument {
    /// A number.
    Number(u64),
    /// The address of a terminated string.
    Text(String),
    /// The address of a zeroed buffer of this size.
    Buffer(usize),
    /// The address of these bytes.
    Bytes(Vec<u8>),
}

impl From<i32> for Argument {
    fn from(number: i32) -> Self {
        Self::Number(i64::from(number).cast_unsigned())
    }
}

impl From<i64> for Argument {
    fn from(number: i64) -> Self {
        Self::Number(number.cast_unsigned())
    }
}

impl From<u64> for Argument {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Argument {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Argument {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl From<Vec<u8>> for Argument {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<&str> for Argument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// The result, `-errno` for an error, and what the last buffer holds.
pub type Answer = (i64, Vec<u8>);

/// What a trapped call returns: no error number of the kernel.
pub const TRAPPED: i64 = -4000;
