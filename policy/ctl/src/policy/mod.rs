//! `airlockfsctl policy show`, `explain` and `diff`: what each process may do, for people and for tools.

mod diff;
mod document;
mod explain;
mod oci;
mod path;
mod text;

use std::io::Write;

use airlockfs_policy::{ExitKind, StartError};
use nix::unistd::geteuid;

use crate::line::{Format, PolicyCommand};
use document::Policy;

/// Exit code of `diff` for policies that differ, and of `explain` for what no process may.
const OTHERWISE: u8 = 1;

/// Does it, and gives the exit code.
pub(crate) fn run(command: &PolicyCommand) -> u8 {
    let done = match command {
        PolicyCommand::Show(show) => match show.format {
            Format::Text => Ok((text::policy(&Policy::of(&show.serve, geteuid().is_root())), true)),
            Format::Json => json(&Policy::of(&show.serve, geteuid().is_root())).map(|text| (text, true)),
            Format::Oci => json(&oci::filter(&show.serve)).map(|text| (text, true)),
        },
        PolicyCommand::Explain(asked) if asked.name.starts_with('/') => Ok(path::explain(asked)),
        PolicyCommand::Explain(asked) => Ok(explain::explain(&asked.name)),
        PolicyCommand::Diff { old, new } => diff::diff(old, new),
    };
    match done {
        Ok((text, as_asked)) => {
            // Nobody to tell if stdout is closed.
            let _ = std::io::stdout().write_all(text.as_bytes());
            if as_asked { 0 } else { OTHERWISE }
        }
        Err(error) => {
            eprintln!("airlockfsctl: {error}");
            error.kind.code()
        }
    }
}

/// A value as JSON for files, with a line's end.
fn json(value: &impl serde::Serialize) -> Result<String, StartError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| StartError::new(ExitKind::Software, format!("cannot write JSON: {error}")))?;
    Ok(text + "\n")
}
