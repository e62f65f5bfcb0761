//! The process's end.

/// Ends the process at once, all threads with it, when its log is written.
pub(crate) use airlockfs_policy::log::end;
