//! What a test does where a host lacks what it needs. It does not pass silently: `cargo xtask test`
//! counts and lists what was skipped, with the reason.

use std::io::Write;

/// How the line begins that tells it.
pub const SKIPPED: &str = "test skipped: ";

/// Reports that a test, by its name, does not try something here, and why. The test returns it.
pub fn skip(test: &str, reason: &str) {
    // Past the test harness, which would keep the output of a test that passes. A line of its own:
    // the harness may have begun one.
    let line = format!("\n{SKIPPED}{test}: {reason}\n");
    std::io::stdout()
        .write_all(line.as_bytes())
        .expect("standard output");
}
