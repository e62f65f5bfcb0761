//! Where the programs of one installation lie, seen from each other: in one directory, or those that nobody calls by name
//! in a directory for such programs.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{ExitKind, StartError};

/// A program that was found: its file, opened once, is what is executed.
#[derive(Debug)]
pub struct Program {
    /// Where it was found.
    pub path: PathBuf,
    /// Opened with O_PATH.
    pub file: File,
}

/// Where the programs that `airlockfsd` starts may lie, seen from its directory.
const COMPANIONS: [&str; 5] = [
    ".",
    "../libexec/airlockfs",
    "../libexec",
    "../lib/airlockfs",
    "../../libexec",
];

/// Where `airlockfsd` may lie, seen from the directory of a program that it starts.
const DAEMON: [&str; 5] = [".", "..", "../libexec", "../bin", "../../bin"];

/// The path of the running program.
///
/// # Errors
/// /proc does not tell.
pub fn own_path() -> Result<PathBuf, StartError> {
    std::env::current_exe().map_err(|error| {
        let message = format!("cannot tell where this program lies: {error}");
        StartError::new(ExitKind::OsError, message)
    })
}

/// Finds the program `name` that belongs to the `airlockfsd` at this path.
///
/// # Errors
/// It is not there.
pub fn companion(daemon: &Path, name: &str) -> Result<Program, StartError> {
    find(daemon, name, &COMPANIONS).ok_or_else(|| {
        let message = format!(
            "{name} is not there: it belongs beside {} or in ../libexec/airlockfs; reinstall airlockfs",
            daemon.display()
        );
        StartError::new(ExitKind::Unavailable, message)
    })
}

/// Finds the `airlockfsd` that the program at this path belongs to.
///
/// # Errors
/// It is not there.
pub fn daemon(companion: &Path) -> Result<Program, StartError> {
    find(companion, "airlockfsd", &DAEMON).ok_or_else(|| {
        let message = format!(
            "airlockfsd is not there: it belongs beside {}",
            companion.display()
        );
        StartError::new(ExitKind::Unavailable, message)
    })
}

fn find(own: &Path, name: &str, places: &[&str]) -> Option<Program> {
    let directory = own.parent().unwrap_or(Path::new("/"));
    places.iter().find_map(|place| {
        let path = directory.join(place).join(name);
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
            .open(&path)
            .ok()?;
        let found = file.metadata().ok()?;
        (found.is_file() && found.mode() & 0o111 != 0).then_some(Program { path, file })
    })
}
