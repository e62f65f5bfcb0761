//! The shipped programs take no orders.

use std::fs;

use airlockfs_tests::daemon::bin_dir;

use crate::pair::{Filter, Pair};
use crate::{Test, test};

pub(crate) const TESTS: &[Test] = &[test!(the_shipped_programs_take_no_orders)];

/// Neither the variables that bring the channels nor the line that a breached process says are in them.
fn the_shipped_programs_take_no_orders() {
    // Builds the others, which say it aloud.
    drop(Pair::new(Filter::Kill, &[]));
    let directory = bin_dir().expect("a place for binaries");
    for program in ["airlockfsd", "airlockfs-worker"] {
        for (name, breached) in [(program.to_owned(), false), (format!("{program}-breach"), true)] {
            let bytes = fs::read(directory.join(&name)).expect("a program");
            let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert_eq!(has(": BREACHED: "), breached, "{name}");
            assert!(!has("AIRLOCKFS_BREACH_") || breached, "{name}");
        }
    }
}
