//! What the guest may cache and for how long (`--cache` and its timeouts).

use std::time::Duration;

/// `--cache`: how far the guest may trust what it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheMode {
    /// Nothing is cached; file data bypasses the guest's page cache.
    Never,
    /// Names and attributes for a second; data from open to open.
    Auto,
    /// Names, attributes and directories for a day; file data bypasses the page cache.
    Metadata,
    /// Everything, for a day: only the guest changes the share.
    Always,
}

/// A cache mode with its timeouts, each of which can be set on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CachePolicy {
    /// The mode.
    pub(crate) mode: CacheMode,
    /// How long a name stays valid (`entry_valid`).
    pub(crate) entry: Duration,
    /// How long attributes stay valid (`attr_valid`).
    pub(crate) attr: Duration,
    /// How long the absence of a name stays valid; zero answers ENOENT, which the guest does not cache.
    pub(crate) negative: Duration,
}

impl CachePolicy {
    /// The mode's own timeouts.
    pub(crate) const fn new(mode: CacheMode) -> Self {
        let seconds = match mode {
            CacheMode::Never => 0,
            CacheMode::Auto => 1,
            CacheMode::Metadata | CacheMode::Always => 86_400,
        };
        let valid = Duration::from_secs(seconds);
        Self {
            mode,
            entry: valid,
            attr: valid,
            negative: Duration::ZERO,
        }
    }
}
