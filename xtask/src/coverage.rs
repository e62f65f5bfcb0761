//! `cargo xtask coverage`: lists policy rules that no suite exercises. Such a rule is a right
//! without a need. Remove it, or let it say in the table what needs it.
//!
//! The suites run the real binaries, confined as in production, under `trace-tool`. It sees the
//! calls of every process once its filter is in force. `cargo xtask test` judges whether the suites
//! pass.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use airlockfs_policy::{Process, SyscallRule, all_rules};
use anyhow::{Context, Result, bail};

use crate::{binaries, command, paths, provision};

/// Suites of `tests/` that start daemons and need no guest.
const SUITES: &[&str] = &[
    "acls",
    "attributes",
    "bugs_openvmm",
    "bugs_virtiofsd",
    "caching",
    "data_path",
    "directories",
    "files",
    "hostile_requests",
    "hostile_rings",
    "hostile_vmm",
    "launch",
    "lifecycle",
    "locks",
    "names",
    "no_setuid",
    "outlived",
    "project_ids",
    "readonly",
    "reserved_blocks",
    "session",
    "smoke",
    "xattrs",
];
/// The suite of `worker/`, which starts workers itself.
const WORKER: &str = "operations";
/// How long daemons may take to end after the suites did.
const LAST: Duration = Duration::from_secs(60);

/// A rule's alternative: process, index of the rule, index of the alternative.
type Used = (String, usize, usize);

/// Runs the suites; an error lists what they do not use.
pub fn run() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("run it as root: the suites mount and start processes as other users");
    }
    provision::install(&[provision::TESTS])?;
    let real = binaries::debug()?;
    let home = paths::target().join("coverage");
    let (notes, bin) = (home.join("notes"), home.join("bin"));
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::create_dir_all(&notes)?;
    wrap(&real, &bin, &notes)?;

    let tracer = format!("{} {}", real.join("trace-tool").display(), notes.display());
    let harness: Vec<&str> = SUITES.iter().flat_map(|name| ["--test", name]).collect();
    suite(&harness, "AIRLOCKFS_BIN_DIR", &bin.to_string_lossy())?;
    suite(&["--test", WORKER], &runner_variable()?, &tracer)?;

    let used = read(&notes)?;
    let unused = unused(&used);
    for (line, needed_by) in unused
        .iter()
        .filter_map(|(line, unseen)| Some((line, (*unseen)?)))
    {
        println!("not used: {line}: {needed_by}");
    }
    let missing: Vec<&str> = unused
        .iter()
        .filter(|(_, unseen)| unseen.is_none())
        .map(|(line, _)| line.as_str())
        .collect();
    println!("{} alternatives of rules are used", used.len());
    if !missing.is_empty() {
        bail!(
            "no suite uses these rules, and they do not say what needs them (`unseen`):\n  {}",
            missing.join("\n  ")
        );
    }
    Ok(())
}

/// Alternatives of rules that no suite used, each with what needs it according to its rule.
fn unused(used: &BTreeSet<Used>) -> Vec<(String, Option<&'static str>)> {
    let mut found = Vec::new();
    for (name, process) in [("supervisor", Process::Supervisor), ("worker", Process::Worker)] {
        for (index, rule) in all_rules(process).enumerate() {
            for alternative in 0..rule.pins.len().max(1) {
                if !used.contains(&(name.to_owned(), index, alternative)) {
                    found.push((format!("{name}: {}", shown(rule, alternative)), rule.unseen));
                }
            }
        }
    }
    found
}

/// A directory of programs like the real ones, with the daemon beneath the tracer.
fn wrap(real: &Path, bin: &Path, notes: &Path) -> Result<()> {
    fs::create_dir_all(bin)?;
    for entry in fs::read_dir(real)? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?;
        if path.is_file() && path.metadata()?.permissions().mode() & 0o111 != 0 && name != "airlockfsd" {
            symlink(&path, bin.join(name))?;
        }
    }
    let script = format!(
        "#!/bin/sh\nexec '{}' '{}' '{}' \"$@\"\n",
        real.join("trace-tool").display(),
        notes.display(),
        real.join("airlockfsd").display()
    );
    let path = bin.join("airlockfsd");
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Runs suites with a variable set.
fn suite(arguments: &[&str], variable: &str, value: &str) -> Result<()> {
    let test = || {
        let mut cargo = binaries::cargo();
        cargo.args(["test", "--workspace"]).args(arguments);
        cargo
    };
    // What does not compile uses nothing.
    command::run(test().arg("--no-run"))?;
    let mut cargo = test();
    cargo
        .arg("--no-fail-fast")
        .env(variable, value)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = cargo.status().context("cannot run cargo test")?;
    // A test that traces its daemon itself fails here and passes in `cargo xtask test`.
    println!("the suites ended with {status}");
    Ok(())
}

/// `CARGO_TARGET_TRIPLE_RUNNER`.
fn runner_variable() -> Result<String> {
    let said = command::output(std::process::Command::new("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say its host")?;
    Ok(format!(
        "CARGO_TARGET_{}_RUNNER",
        host.to_uppercase().replace('-', "_")
    ))
}

/// What all tracers noted, once the last has ended.
fn read(notes: &Path) -> Result<BTreeSet<Used>> {
    let deadline = Instant::now() + LAST;
    let files = || -> Result<Vec<PathBuf>> {
        Ok(fs::read_dir(notes)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<_>>()?)
    };
    while files()?.iter().any(|path| path.extension().is_some()) {
        if Instant::now() > deadline {
            bail!("a traced process does not end; see {}", notes.display());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut used = BTreeSet::new();
    for file in files()? {
        for line in fs::read_to_string(&file)?.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                [process, rule, alternative] => {
                    used.insert(((*process).to_owned(), rule.parse()?, alternative.parse()?));
                }
                _ => bail!("{}: {line}", file.display()),
            }
        }
    }
    if used.is_empty() {
        bail!("nothing was traced: is ptrace(2) allowed here?");
    }
    Ok(used)
}

fn shown(rule: &SyscallRule, alternative: usize) -> String {
    let pins = rule.pins.get(alternative).copied().unwrap_or_default();
    let pins: Vec<String> = pins.iter().map(ToString::to_string).collect();
    format!("{} ({}) {}", rule.name, rule.feature, pins.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_nobody_used_is_missing_unless_it_says_what_needs_it() {
        // Without any use every alternative is missing, or says what needs it.
        let all = unused(&BTreeSet::new());
        let rules = || {
            [Process::Supervisor, Process::Worker]
                .into_iter()
                .flat_map(all_rules)
        };
        let alternatives: usize = rules().map(|rule| rule.pins.len().max(1)).sum();
        assert_eq!(all.len(), alternatives);
        let silent: usize = rules()
            .filter(|rule| rule.unseen.is_none())
            .map(|rule| rule.pins.len().max(1))
            .sum();
        assert_eq!(all.iter().filter(|(_, unseen)| unseen.is_none()).count(), silent);
        assert!(silent > 50, "{silent}");
        // One use makes one of them less.
        let one = BTreeSet::from([("worker".to_owned(), 0, 0)]);
        let rest = unused(&one);
        assert_eq!(rest.len(), alternatives - 1);
        let first = format!("worker: {}", shown(all_rules(Process::Worker).next().unwrap(), 0));
        assert!(all.iter().any(|(line, _)| *line == first) && rest.iter().all(|(line, _)| *line != first));
    }
}
