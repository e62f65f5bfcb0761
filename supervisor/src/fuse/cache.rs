//! What the guest may cache and for how long (`--cache` and its timeouts).

use std::time::Duration;

use super::abi::flags;

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
    /// Setuid and setgid bits are cleared here (HANDLE_KILLPRIV_V2). The answers to WRITE, FALLOCATE and COPY_FILE_RANGE do
    /// not say that they were, and Linux goes on with the mode it knows (6.18), for execve(2) too.
    pub(crate) clears_modes: bool,
    /// Which session names and node ids are of. A file handle in the guest holds a node id and this.
    pub(crate) generation: u32,
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
            clears_modes: false,
            generation: 0,
        }
    }

    /// How long attributes stay valid of a file with this mode: none where a write may change it unseen.
    pub(crate) const fn attr_of(&self, mode: u32) -> Duration {
        let clears = self.clears_modes && mode & libc::S_IFMT == libc::S_IFREG;
        if clears && mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            return Duration::ZERO;
        }
        self.attr
    }

    /// File data goes through the guest's page cache.
    pub(crate) const fn caches_data(&self) -> bool {
        matches!(self.mode, CacheMode::Auto | CacheMode::Always)
    }

    /// `fuse_open_out.open_flags`. Direct writes may always run in parallel: the data path's writes carry their
    /// own offsets, and the guest serialises those that extend the file.
    pub(crate) const fn open_flags(&self, directory: bool) -> u32 {
        match (self.mode, directory) {
            (CacheMode::Never | CacheMode::Auto, true) => 0,
            (CacheMode::Metadata | CacheMode::Always, true) => {
                flags::FOPEN_CACHE_DIR | flags::FOPEN_KEEP_CACHE
            }
            (CacheMode::Never | CacheMode::Metadata, false) => {
                flags::FOPEN_DIRECT_IO | flags::FOPEN_PARALLEL_DIRECT_WRITES
            }
            (CacheMode::Auto, false) => flags::FOPEN_PARALLEL_DIRECT_WRITES,
            (CacheMode::Always, false) => flags::FOPEN_KEEP_CACHE | flags::FOPEN_PARALLEL_DIRECT_WRITES,
        }
    }
}
