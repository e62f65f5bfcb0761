//! `airlockfsctl policy explain PATH`: who may touch what lies there, once both processes serve with these options.

use std::fmt::Write;
use std::path::{Component, Path, PathBuf};

use airlockfs_options::{Cli, SandboxArg, profiles};
use airlockfs_policy::Feature;

use crate::line::ExplainPolicy;

/// The explanation, and whether any process may.
pub(super) fn explain(asked: &ExplainPolicy) -> (String, bool) {
    let (name, cli) = (&asked.name, &asked.serve);
    let path = resolved(Path::new(name));
    let mut out = format!(
        "{name}: supervisor: no: it has no call that takes a path, its root is empty and Landlock allows nothing\n"
    );
    let Some((share, readonly)) = share(&path, cli) else {
        if let Some(special) = special(&path) {
            let _ = writeln!(out, "{name}: worker: {special}");
            return (out, false);
        }
        let why = match cli.confinement.sandbox {
            SandboxArg::Namespace => {
                "it is outside what is shared: not beneath its root, and Landlock allows nothing there"
            }
            SandboxArg::Chroot | SandboxArg::None => {
                "it is outside what is shared: --sandbox leaves it a path, and Landlock allows nothing there"
            }
        };
        let hint = match cli.share.paths().next() {
            Some(_) => "",
            None => " (say --shared-dir)",
        };
        let _ = writeln!(out, "{name}: worker: no: {why}{hint}");
        return (out, false);
    };
    let (_, worker) = profiles(cli, nix::unistd::geteuid().is_root());
    let _ = writeln!(
        out,
        "{name}: worker: yes: it is in {}, {}, one component at a time and never through a symbolic link, with",
        share.display(),
        if readonly {
            "which is read-only"
        } else {
            "which may be changed"
        },
    );
    for right in &worker.landlock.rights {
        if !readonly || right.feature == Feature::Base {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "    {:<12} {}", right.name, right.reason);
        }
    }
    if path
        .metadata()
        .is_ok_and(|found| !found.is_file() && !found.is_dir())
    {
        let _ = writeln!(
            out,
            "    it is neither a file nor a directory: named and never opened, it is the guest's kernel's"
        );
    }
    let _ = writeln!(
        out,
        "    and what the host's permissions give {}",
        match worker.capabilities.is_empty() {
            true => "its user",
            false => "its user and capabilities",
        }
    );
    (out, true)
}

/// Without symbolic links where it exists, as the worker would have to come to it.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    // What is not there yet lies where its directory is.
    match (
        clean.parent().and_then(|parent| parent.canonicalize().ok()),
        clean.file_name(),
    ) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => clean,
    }
}

/// What is shared and holds the path, the innermost, and whether it is read-only.
fn share(path: &Path, cli: &Cli) -> Option<(PathBuf, bool)> {
    let only = cli
        .share
        .shared_dir
        .iter()
        .map(|path| (path, cli.share.is_readonly()));
    let named = cli.share.named().map(|(named, readonly)| (&named.path, readonly));
    let shares = only.chain(named);
    let holding = shares
        .map(|(share, readonly)| (resolved(share), readonly))
        .filter(|(share, _)| path.starts_with(share));
    holding.max_by_key(|(share, _)| share.components().count())
}

/// Places that a process reaches by other means than its root.
fn special(path: &Path) -> Option<&'static str> {
    if path.starts_with("/proc") {
        return Some(
            "no, but for /proc/self/fd, its working directory, by which it opens again what it already holds (O_PATH): \
             a regular file or directory of the share; procfs is not mounted in its root",
        );
    }
    if path.starts_with("/sys") {
        return Some("no: it is not mounted in its root, and no call mounts");
    }
    if path.starts_with("/dev") {
        return Some("no: only /dev/null is open, as descriptors 0 and 1, and the share is mounted nodev");
    }
    None
}
