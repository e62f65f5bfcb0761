//! `airlockfsctl policy diff`: what one policy allows and another does not. Reasons may change, that is no difference.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use airlockfs_options::{one_line, parse};
use airlockfs_policy::{ExitKind, StartError};

use super::{
    document::{Document, Policy},
    text,
};

/// The differences, a line each, and whether there is none.
pub(super) fn diff(old: &str, new: &str) -> Result<(String, bool), StartError> {
    let (old, new) = (read(old)?, read(new)?);
    if old.architecture != new.architecture {
        let message = format!("{} and {} do not compare", old.architecture, new.architecture);
        return Err(StartError::new(ExitKind::Usage, message));
    }
    let mut out = String::new();
    for ((name, old), (_, new)) in old.both().into_iter().zip(new.both()) {
        let (before, after) = (lines(&old.profile), lines(&new.profile));
        for line in before.difference(&after) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "- {name}: {line}");
        }
        for line in after.difference(&before) {
            let _ = writeln!(out, "+ {name}: {line}");
        }
    }
    let same = out.is_empty();
    Ok((out, same))
}

/// What is allowed, without reasons.
fn lines(profile: &Document) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    lines.insert(format!("default action {}", profile.default_action));
    for call in &profile.syscalls {
        let conditions = text::conditions(call);
        if conditions.is_empty() {
            lines.insert(format!("syscall {}", call.name));
        }
        for condition in conditions {
            lines.insert(format!("syscall {} {condition}", call.name));
        }
    }
    for (kind, grants) in [
        ("landlock", &profile.landlock),
        ("capability", &profile.capabilities),
        ("namespace", &profile.namespaces),
    ] {
        lines.extend(grants.iter().map(|grant| format!("{kind} {}", grant.name)));
    }
    let limits = profile.limits.iter();
    lines.extend(limits.map(|limit| format!("limit {} {}", limit.name, limit.value)));
    let state = profile.state.iter();
    lines.extend(state.map(|held| format!("{} {}", held.subject, held.name)));
    lines
}

/// A saved policy, or that of options separated by spaces.
fn read(argument: &str) -> Result<Policy, StartError> {
    let usage = |message: String| StartError::new(ExitKind::Usage, message);
    let options = argument.trim_start();
    if options.is_empty() || options.starts_with('-') {
        let words = std::iter::once("airlockfsd").chain(options.split_whitespace());
        let cli = parse(words.map(Into::into))
            .map_err(|error| usage(format!("'{argument}': {}", one_line(&error))))?;
        return Ok(Policy::of(&cli, nix::unistd::geteuid().is_root()));
    }
    let text = std::fs::read_to_string(Path::new(argument)).map_err(|error| {
        let message = format!(
            "{argument}: {error} (a file of `policy show --format json`, or options that begin with -)"
        );
        StartError::new(ExitKind::NoInput, message)
    })?;
    let policy: Policy = serde_json::from_str(&text)
        .map_err(|error| usage(format!("{argument}: not a saved policy: {error}")))?;
    for (name, named) in policy.both() {
        if named.profile.digest(name) != named.digest {
            return Err(usage(format!(
                "{argument}: the {name}'s digest is not that of its profile"
            )));
        }
    }
    Ok(policy)
}
