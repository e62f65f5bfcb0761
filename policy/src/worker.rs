//! The worker's system calls.

use crate::rule::{SyscallRule, rule};

/// Every line.
pub(crate) const TABLE: &[SyscallRule] = &[rule!(Base, SYS_futex, "locks between threads")];
