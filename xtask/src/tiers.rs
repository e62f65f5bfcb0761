//! `cargo xtask test`: runs every test, by tier. After a tier that fails, the next one still runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::{binaries, conformance, kernel, paths, provision};

/// The integration tests that boot guests; all others are the harness tier.
const GUEST: &str = "guest";

/// Tests that ran.
#[derive(Debug, Default)]
struct Count {
    passed: u64,
    failed: u64,
    /// What was not tried here, and why.
    skipped: Vec<String>,
}

/// Begins the line of a test that does not try something on this host (`tests/src/skip.rs`).
const SKIPPED: &str = "test skipped: ";

/// Runs everything; an error says how much failed.
pub fn run() -> Result<()> {
    if !geteuid().is_root() {
        bail!("run the tests as root: some mount, some start processes as other users");
    }
    provision::install(&[provision::GUEST, provision::TESTS])?;
    kernel::get()?;
    // The suites run the real binaries, which cargo does not build for them.
    binaries::debug()?;

    let mut count = Count::default();
    let mut broken = Vec::new();
    let mut tier = |name: &'static str, arguments: &[&str]| -> Result<()> {
        println!("== {name}");
        if !cargo_test(arguments, &mut count)? {
            broken.push(name);
        }
        Ok(())
    };
    tier("unit", &["--lib", "--bins"])?;
    tier("examples in the documentation", &["--doc"])?;
    let suites = suites()?;
    let harness: Vec<&str> = suites
        .iter()
        .filter(|name| *name != GUEST)
        .flat_map(|name| ["--test", name])
        .collect();
    tier("harness", &harness)?;
    tier("guest", &["--test", GUEST])?;
    println!("== conformance");
    let differences = conformance::quick().unwrap_or_else(|error| {
        eprintln!("conformance could not run: {error:#}");
        conformance::Count { passed: 0, failed: 1 }
    });
    count.passed += differences.passed;
    count.failed += differences.failed;
    if differences.failed > 0 {
        broken.push("conformance");
    }
    // Whether its suites pass is told above.
    println!("== coverage of the policy");
    let covered = crate::coverage::run();

    for skipped in &count.skipped {
        println!("SKIPPED {skipped}");
    }
    println!(
        "{} passed, {} failed, {} skipped",
        count.passed,
        count.failed,
        count.skipped.len()
    );
    if !broken.is_empty() {
        bail!("these tiers: {}", broken.join(", "));
    }
    covered
}

/// Runs `cargo test`, shows what it prints, adds up its results. False if it ended with another
/// status than 0.
fn cargo_test(arguments: &[&str], count: &mut Count) -> Result<bool> {
    // Always the whole workspace: with other features of a dependency cargo would build it anew.
    let mut child = binaries::cargo()
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some((passed, failed)) = result(&line) {
            count.passed += passed;
            count.failed += failed;
        }
        if let Some(skipped) = line.strip_prefix(SKIPPED) {
            count.skipped.push(skipped.to_owned());
        }
    }
    Ok(child.wait()?.success())
}

/// Passed and failed of a line like `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
fn result(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, counts) = rest.split_once(". ")?;
    let number = |word: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
    };
    Some((number("passed")?, number("failed")?))
}

/// The integration tests of all members: `MEMBER/tests/NAME.rs` and `MEMBER/tests/NAME/main.rs`.
fn suites() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for member in fs::read_dir(paths::workspace())? {
        let member = member?.path();
        if !member.join("Cargo.toml").is_file() || !member.join("tests").is_dir() {
            continue;
        }
        for entry in fs::read_dir(member.join("tests"))? {
            let path = entry?.path();
            let is_suite = path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").is_file();
            if let Some(name) = path.file_stem().filter(|_| is_suite) {
                names.push(name.to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_cargos_lines() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(result(line), Some((12, 3)));
        assert_eq!(result("test a ... ok"), None);
    }

    #[test]
    fn the_guest_suite_is_found() {
        assert!(suites().is_ok_and(|names| names.iter().any(|name| name == GUEST)));
    }
}
