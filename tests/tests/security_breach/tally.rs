//! How many attempts were made, and what became of them. An attempt that is not denied fails its test.

use std::sync::Mutex;

use crate::pair::Who;

/// How an attempt was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// The filter killed the process, as in production.
    Killed,
    /// The same filter with `--seccomp trap`.
    Trapped,
    /// An error number, from another barrier.
    Refused,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    killed: u64,
    trapped: u64,
    refused: u64,
}

impl Tally {
    fn denied(&self) -> u64 {
        self.killed + self.trapped + self.refused
    }
}

static TALLIES: Mutex<[Tally; 2]> = Mutex::new(
    [Tally {
        killed: 0,
        trapped: 0,
        refused: 0,
    }; 2],
);

pub(crate) fn count(who: Who, how: How) {
    let mut tallies = TALLIES.lock().unwrap_or_else(|e| e.into_inner());
    let tally = &mut tallies[who as usize];
    *match how {
        How::Killed => &mut tally.killed,
        How::Trapped => &mut tally.trapped,
        How::Refused => &mut tally.refused,
    } += 1;
}

/// A line for each process.
pub(crate) fn report() -> String {
    let tallies = TALLIES.lock().unwrap_or_else(|e| e.into_inner());
    let lines = [Who::Supervisor, Who::Worker].map(|who| {
        let tally = &tallies[who as usize];
        let Tally { killed, trapped, refused } = tally;
        format!(
            "breach attempts from the {}: {} denied: {killed} killed by the filter, {trapped} trapped by it, {refused} \
             refused by other barriers",
            format!("{who:?}").to_lowercase(),
            tally.denied(),
        )
    });
    lines.join("\n")
}

/// What docs/THREAT_MODEL.md says of their number, which a whole run must reach from each process. How many there are
/// depends on the profiles and on what a process holds.
const PROMISED: u64 = 40_000;

pub(crate) fn as_many_as_promised() -> bool {
    let tallies = TALLIES.lock().unwrap_or_else(|e| e.into_inner());
    tallies.iter().all(|tally| tally.denied() >= PROMISED)
}
