//! The process's last words and its end.

pub(crate) use airlockfs_policy::log::end;

/// A line of the log.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    airlockfs_policy::log::say(format_args!("airlockfs-worker: {line}"));
}
