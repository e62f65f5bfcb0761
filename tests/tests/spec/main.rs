//! docs/SPEC.md and docs/THREAT_MODEL.md are kept: every promise and every barrier names a test,
//! every test named runs and can fail, and every operation and attacker has its row.

mod counts;
mod form;
mod source;
mod steps;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backticks in the last column of a table's row: a file and a test.
fn references(row: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut file = "";
    let last = row.rsplit('|').nth(1).unwrap_or_default();
    last.split('`')
        .skip(1)
        .step_by(2)
        .map(move |quoted| match quoted.split_once(": ") {
            Some((path, test)) => {
                file = path;
                (path, test)
            }
            None => (file, quoted),
        })
}

/// Documents whose tables of a last column `test` are held to it.
const DOCUMENTS: [&str; 2] = ["docs/SPEC.md", "docs/THREAT_MODEL.md"];

/// The rows of those tables, one after another, without their headers.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    let (mut in_table, mut of_tests) = (false, false);
    text.lines().filter(move |line| {
        let row = line.starts_with('|');
        let header = row && !in_table;
        in_table = row;
        if header {
            of_tests = line.trim_end().ends_with("| test |");
        }
        row && !header && of_tests && !line.starts_with("|---")
    })
}

#[test]
fn every_test_that_a_promise_names_runs_and_can_fail() {
    for (document, at_least) in DOCUMENTS.into_iter().zip([100, 40]) {
        let text = read(document);
        let named: BTreeSet<_> = rows(&text).flat_map(references).collect();
        assert!(named.len() > at_least, "{document}");
        let root = root();
        let fault = |(file, test): &(&str, &str)| {
            let fault = source::fault(&root, file, test)?;
            Some(format!("{file}: {test}: {fault}"))
        };
        let faults: Vec<String> = named.iter().filter_map(fault).collect();
        assert!(
            faults.is_empty(),
            "{document} names tests that cannot hold it: {faults:#?}"
        );
    }
}

/// Beside the tables, in whatever document: `path.rs: name`.
#[test]
fn every_test_that_a_sentence_names_runs_and_can_fail() {
    let (root, mut seen) = (root(), 0);
    let mut faults = Vec::new();
    for entry in fs::read_dir(root.join("docs")).expect("documents") {
        let path = entry.expect("a document").path();
        if path.extension().is_none_or(|end| end != "md") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a text");
        for quoted in text.split('`').skip(1).step_by(2) {
            let Some((file, test)) = quoted.split_once(".rs: ") else {
                continue;
            };
            seen += 1;
            if let Some(fault) = source::fault(&root, &format!("{file}.rs"), test) {
                faults.push(format!("{}: {quoted}: {fault}", path.display()));
            }
        }
    }
    assert!(seen > 200, "{seen}");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_promise_names_a_test() {
    for document in DOCUMENTS {
        let text = read(document);
        for row in rows(&text) {
            assert!(references(row).next().is_some(), "{document}, no test: {row}");
        }
    }
}

#[test]
fn every_attacker_has_a_barrier_with_a_test() {
    let text = read("docs/THREAT_MODEL.md");
    for attacker in [
        "guest user",
        "guest kernel",
        "fallen supervisor",
        "fallen worker",
        "local user of the host",
        "launcher with injected options",
        "VMM",
    ] {
        let has_a_row = rows(&text).any(|row| row.starts_with(&format!("| {attacker}")));
        assert!(has_a_row, "{attacker}");
    }
}

#[test]
fn every_operation_has_its_row() {
    let (spec, table) = (read("docs/SPEC.md"), read("supervisor/src/fuse/opcode.rs"));
    let table = table
        .split("TABLE: &[Row] = &[")
        .nth(1)
        .expect("the table of operations");
    let table = table.split("];").next().unwrap_or_default();
    let names = table.lines().filter_map(|line| {
        line.split('"').nth(1).filter(|name| {
            name.chars()
                .all(|c| c.is_ascii_uppercase() || "_2346".contains(c))
        })
    });
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 50, "{names:?}");
    for name in names {
        assert!(
            spec.contains(&format!("| {name} | ")),
            "docs/SPEC.md has no row for {name}"
        );
    }
}
