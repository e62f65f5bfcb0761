//! Times, owners, modes and flags.
