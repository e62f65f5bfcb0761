//! Programs that a test makes and runs. Another process writes them. If a test wrote one itself, a
//! child that another test starts meanwhile would also have it open for writing, and nobody could
//! execute it (ETXTBSY, execve(2)).

use std::path::Path;
use std::process::Command;

fn run(command: &mut Command) {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A copy of a program, with its permissions.
///
/// # Panics
/// It cannot be made.
pub fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-p").args([from, to]));
}

/// A shell script, for anybody to execute.
///
/// # Panics
/// It cannot be made.
pub fn script(path: &Path, lines: &str) {
    let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
    run(Command::new("sh").args(["-c", write]).arg(path).arg(lines));
}
