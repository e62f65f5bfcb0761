//! docs/SPEC.md is kept: every test it names is there, and every operation has its row.

use std::{collections::BTreeSet, fs, path::Path};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backticks in the rows of the tables.
fn references(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| {
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
    })
}

#[test]
fn every_test_that_a_promise_names_is_there() {
    let text = read("docs/SPEC.md");
    let missing: BTreeSet<String> = references(&text)
        .filter(|(file, test)| !read(file).contains(&format!("fn {test}(")))
        .map(|(file, test)| format!("{file}: {test}"))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/SPEC.md names tests that are not there: {missing:#?}"
    );
    assert!(references(&text).count() > 100);
}

#[test]
fn every_promise_names_a_test() {
    let text = read("docs/SPEC.md");
    for row in text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.contains("---"))
    {
        let header = row.ends_with("| test |");
        assert!(header || references(row).next().is_some(), "no test: {row}");
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
