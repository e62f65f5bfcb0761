//! The form of the documents: lines that fit a screen, links that lead somewhere.

use std::fs;

use super::{read, root};

/// Columns of a line.
const COLUMNS: usize = 100;

/// The documents, by path.
fn documents() -> Vec<String> {
    let names = fs::read_dir(root().join("docs")).expect("documents");
    let names = names.map(|entry| entry.expect("a document").file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    let docs = names
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"));
    let others = ["README.md", "SECURITY.md", "packaging/README.md"].map(str::to_owned);
    docs.chain(others).collect()
}

/// Only a row that names a test may be longer.
#[test]
fn every_line_fits_100_columns() {
    let mut long = Vec::new();
    for document in documents() {
        for (index, line) in read(&document).lines().enumerate() {
            let names_a_test = line.starts_with('|') && line.contains(".rs: ");
            if line.chars().count() > COLUMNS && !names_a_test {
                long.push(format!("{document}:{}", index + 1));
            }
        }
    }
    assert!(long.is_empty(), "longer than {COLUMNS} columns: {long:?}");
}

/// Between backticks, a path of the tree: `worker/src/ops/`, or the file of `policy/src/tests.rs: name`.
#[test]
fn every_path_exists() {
    const TREE: [&str; 8] = [
        "supervisor/",
        "worker/",
        "ipc/",
        "policy/",
        "tests/",
        "packaging/",
        "xtask/",
        "docs/",
    ];
    let mut seen = 0;
    let mut lost = Vec::new();
    for document in documents() {
        for quoted in read(&document).split('`').skip(1).step_by(2) {
            let path = quoted.split(':').next().unwrap_or_default();
            if !TREE.iter().any(|folder| path.starts_with(folder)) {
                continue;
            }
            seen += 1;
            if !root().join(path).exists() {
                lost.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(seen > 400, "{seen}");
    assert!(lost.is_empty(), "{lost:?}");
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    let mut lost = Vec::new();
    for document in documents() {
        let text = read(&document);
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            if link.contains("://") {
                continue;
            }
            seen += 1;
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                root().join(&document)
            } else {
                root().join(folder).join(path)
            };
            let found = match fs::read_to_string(&target) {
                _ if heading.is_empty() => target.exists(),
                Ok(text) => {
                    let mut headings = text.lines().filter(|line| line.starts_with('#'));
                    headings.any(|line| anchor(line) == heading)
                }
                Err(_) => false,
            };
            if !found {
                lost.push(format!("{document}: {link}"));
            }
        }
    }
    assert!(seen > 20, "{seen}");
    assert!(lost.is_empty(), "{lost:?}");
}
