//! `airlockfsd policy …` and `airlockfsd audit …`: commands of `airlockfsctl`, which takes this process's place. What they
//! need (JSON, saved files, the /proc of others) is not in the program that reads guest bytes.

use std::{
    convert::Infallible,
    ffi::{CString, OsString},
    os::unix::ffi::OsStringExt,
    path::Path,
};

use airlockfs_policy::{ExitKind, StartError, installed};
use nix::{errno::Errno, unistd::fexecve};

/// The commands, by the first word.
const COMMANDS: [&str; 2] = ["policy", "audit"];
const EXECUTABLE: &str = "airlockfsctl";

/// Whether this command line, the program's name first, is one of a command.
pub(crate) fn are_asked_for(arguments: &[OsString]) -> bool {
    let first = arguments.get(1);
    first.is_some_and(|first| COMMANDS.iter().any(|command| first == command))
}

/// Executes `airlockfsctl` with these arguments. It is found once, opened, and executed by that descriptor.
///
/// It returns only where it failed: why.
pub(crate) fn execute(arguments: Vec<OsString>) -> StartError {
    let own = match installed::own_path() {
        Ok(own) => own,
        Err(error) => return error,
    };
    let program = match installed::companion(&own, EXECUTABLE) {
        Ok(program) => program,
        Err(error) => return error,
    };
    let Err(error) = replace_with(&program, &own, arguments);
    let message = format!("cannot execute {}: {error}", program.path.display());
    StartError::new(ExitKind::OsError, message)
}

fn replace_with(
    program: &installed::Program,
    own: &Path,
    arguments: Vec<OsString>,
) -> Result<Infallible, Errno> {
    // A pair is audited by the installation of this program.
    let named = [
        EXECUTABLE.into(),
        "--airlockfsd".into(),
        own.as_os_str().to_owned(),
    ];
    let words = named.into_iter().chain(arguments.into_iter().skip(1));
    let environment =
        std::env::vars_os().map(|(name, value)| [name, "=".into(), value].into_iter().collect());
    fexecve(&program.file, &strings(words)?, &strings(environment)?)
}

fn strings(words: impl Iterator<Item = OsString>) -> Result<Vec<CString>, Errno> {
    // The kernel gave them, so none holds a NUL.
    let strings = words.map(|word| CString::new(word.into_vec()));
    strings.collect::<Result<_, _>>().map_err(|_| Errno::EINVAL)
}
