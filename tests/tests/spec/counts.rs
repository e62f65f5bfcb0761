//! Numbers that documents state. Each stands in one document, and is compared with its source.

use std::process::Command;

use airlockfs_tests::daemon::bin_dir;
use serde_json::Value;

use super::{read, root};

/// The rows of the table that has this header, as trimmed cells.
fn table<'a>(text: &'a str, header: &str) -> Vec<Vec<&'a str>> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with(header));
    assert!(lines.next().is_some(), "no table begins with {header}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// How many system calls `airlockfsd policy show` lists for a process ("supervisor" or "worker")
/// with an option.
fn calls(process: &str, option: &str) -> usize {
    let program = bin_dir().expect("a place for binaries").join("airlockfsd");
    let mut command = Command::new(program);
    command.args(["policy", "show", "--format", "json"]);
    if !option.is_empty() {
        command.arg(option);
    }
    let output = command.output().expect("airlockfsd");
    assert!(output.status.success(), "{output:?}");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let calls = shown[process]["syscalls"].as_array().expect("a list").iter();
    // Those that musl's malloc takes beside glibc's.
    let musls = |name: &str| {
        cfg!(not(target_env = "gnu"))
            && (["mprotect", "madvise"].contains(&name) || name == "mremap" && process == "supervisor")
    };
    let calls = calls.filter(|call| call["errno"].is_null());
    let mut names: Vec<&str> = calls.map(|call| call["name"].as_str().expect("a name")).collect();
    names.sort_unstable();
    names.dedup();
    names.iter().filter(|name| !musls(name)).count()
}

#[test]
fn the_counts_of_system_calls_are_those_of_the_policy() {
    let text = read("docs/CONFINEMENT.md");
    let rows = table(&text, "| process | options | system calls |");
    assert!(rows.len() > 6, "{rows:?}");
    for row in rows {
        let [process, option, count] = row[..] else {
            panic!("three cells: {row:?}")
        };
        let process = match process {
            "airlockfsd" => "supervisor",
            "airlockfs-worker" => "worker",
            // Counted by `cargo xtask compare`.
            other => {
                assert!(other.starts_with("virtiofsd"), "{other}");
                continue;
            }
        };
        let measured = calls(process, option.trim_matches('`'));
        assert_eq!(measured.to_string(), count, "{process} {option}");
    }
}

/// The sample of the log. The numbers of instructions beside these counts differ by build.
#[test]
fn the_counts_in_the_log_are_those_of_the_policy() {
    let text = read("docs/CONFINEMENT.md");
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    for process in ["worker", "supervisor"] {
        let line = format!("INFO: {process} ");
        let line = text.split(&line).nth(1).expect("a line of the log");
        let filter = line.split("seccomp lets ").nth(1).expect("its filter");
        let count = filter.split(' ').next().unwrap_or_default();
        assert_eq!(count, calls(process, "").to_string(), "{process}");
    }
}

/// Passed, and neither: "6 of 7" has one that did not; so has "6, 1 skipped".
fn results(cell: &str) -> (u32, u32) {
    if cell == "not run" {
        return (0, 0);
    }
    let number = |text: &str| {
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits
            .parse::<u32>()
            .unwrap_or_else(|_| panic!("no number: {text:?} in {cell:?}"))
    };
    let passed = number(cell);
    if let Some((_, all)) = cell.split_once(" of ") {
        return (passed, number(all) - passed);
    }
    let rest = cell.split(", ").skip(1);
    let not = rest.filter(|part| part.contains("failed") || part.contains("skipped"));
    (passed, not.map(number).sum())
}

#[test]
fn every_conformance_suite_has_its_results_and_each_loss_its_excuse() {
    let text = read("docs/CONFORMANCE.md");
    let rows = table(&text, "| suite | host directory | airlockfs |");
    let suites = read("xtask/src/conformance/suites.rs");
    let suites = suites.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("name: \"")?.strip_suffix("\",")?;
        (!name.is_empty()).then_some(name)
    });
    let excuses = read("tests/conformance/excuses");
    let mut seen = 0;
    for suite in suites {
        seen += 1;
        let row = rows
            .iter()
            .find(|row| row.first() == Some(&suite))
            .unwrap_or_else(|| panic!("docs/CONFORMANCE.md has no results of {suite}"));
        let (host, airlockfs) = (results(row[1]), results(row[2]));
        assert_eq!(
            host.0 + host.1,
            airlockfs.0 + airlockfs.1,
            "{row:?}: as many tests"
        );
        let excused = excuses
            .lines()
            .filter(|line| {
                ["share", "bridge"]
                    .map(|place| format!("{place} {suite} "))
                    .iter()
                    .any(|begin| line.starts_with(begin))
            })
            .count();
        let excused = u32::try_from(excused).expect("a few");
        assert!(
            airlockfs.1 <= host.1 + excused,
            "{row:?}: {excused} have an excuse"
        );
    }
    assert!(seen > 10 && seen == rows.len(), "{seen} suites, {rows:?}");
}

#[test]
fn the_number_of_breach_attempts_is_the_one_that_a_run_must_reach() {
    let tally = read("tests/tests/security_breach/tally.rs");
    let promised = tally.split("PROMISED: u64 = ").nth(1).expect("a number");
    let promised = promised.split(';').next().unwrap_or_default().replace('_', ",");
    let text = read("docs/THREAT_MODEL.md");
    assert!(
        text.contains(&format!("More than {promised} attempts")),
        "{promised}"
    );
}

/// What stands in one document stands in no other, where nobody would mend it.
#[test]
fn no_other_document_counts() {
    let documents = std::fs::read_dir(root().join("docs")).expect("documents");
    let documents = documents.map(|entry| entry.expect("a document").file_name());
    let documents = documents.filter_map(|name| name.into_string().ok());
    let documents = documents
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"));
    let mut seen = 0;
    for document in documents.chain(["README.md".to_owned(), "SECURITY.md".to_owned()]) {
        seen += 1;
        let text = read(&document);
        let words: Vec<&str> = text.split_whitespace().collect();
        for three in words.windows(3) {
            let number = three[0].chars().all(|c| c.is_ascii_digit());
            let counted = number && three[1] == "system" && three[2].starts_with("calls");
            assert!(
                !counted || document == "docs/CONFINEMENT.md",
                "{document} counts: {three:?}"
            );
        }
    }
    assert!(seen > 7, "{seen}");
}
