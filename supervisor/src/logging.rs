//! Lines for people, on their way to [`airlockfs_policy::log`]. The `log` facade is how rust-vmm's crates report too.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use airlockfs_policy::log::say;
use log::{LevelFilter, Log, Metadata, Record};

/// From now on lines of `level` and above appear, and a panic in any thread ends the process.
pub(crate) fn start(level: LevelFilter) {
    airlockfs_policy::log::start("airlockfsd");
    // Fails only when called twice, which leaves the first logger in place.
    let _ = log::set_logger(&SINK);
    log::set_max_level(level);
}

/// A line that launchers wait for, whatever the level.
pub(crate) fn announce(line: &str) {
    say(format_args!("{line}"));
}

struct Sink;

static SINK: Sink = Sink;
/// For lines of other crates: a guest can cause some of them as often as it likes.
static FOREIGN: Rate = Rate::new();

impl Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = record.level().as_str();
        if record.target().starts_with("airlockfs") {
            say(format_args!("airlockfsd: {level}: {}", record.args()));
        } else if let Some(more) = FOREIGN.admit() {
            say(format_args!(
                "airlockfsd: {level}: {}: {}{more}",
                record.target(),
                record.args()
            ));
        }
    }

    fn flush(&self) {}
}

/// Bounds how often a line appears that a guest can cause.
pub(crate) struct Rate {
    window: AtomicU64,
    lines: AtomicU32,
    held_back: AtomicU64,
}

/// Lines in a window, and its length in seconds.
const LINES: u32 = 10;
const WINDOW: u64 = 10;

impl Rate {
    /// Ten lines in ten seconds.
    pub(crate) const fn new() -> Self {
        Self {
            window: AtomicU64::new(0),
            lines: AtomicU32::new(0),
            held_back: AtomicU64::new(0),
        }
    }

    /// `None`: hold this line back. Otherwise write it, with the text given at its end.
    pub(crate) fn admit(&self) -> Option<HeldBack> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs() / WINDOW);
        if self.window.swap(now, Relaxed) != now {
            self.lines.store(0, Relaxed);
        }
        if self.lines.fetch_add(1, Relaxed) < LINES {
            Some(HeldBack(self.held_back.swap(0, Relaxed)))
        } else {
            self.lines.store(LINES, Relaxed);
            self.held_back.fetch_add(1, Relaxed);
            None
        }
    }
}

/// How many lines of a kind were held back before this one; empty if none was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HeldBack(u64);

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more like this not shown)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_held_back_and_counted() {
        let rate = Rate::new();
        let shown = (0..1000).filter(|_| rate.admit().is_some()).count();
        // The window may change once while this runs.
        assert!((10..=20).contains(&shown), "{shown}");
        rate.window.store(0, Relaxed);
        let HeldBack(count) = rate.admit().unwrap();
        assert!(count >= 980 - 10, "{count}");
    }
}
