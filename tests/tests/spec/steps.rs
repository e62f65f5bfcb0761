//! The walk of a request in docs/ARCHITECTURE.md, and the files that its steps are.

use std::{collections::BTreeMap, fs, path::Path};

use super::{read, root};

/// Files by step as the section names them: between backticks, in the parentheses that follow a step's name.
fn steps() -> BTreeMap<String, u32> {
    let text = read("docs/ARCHITECTURE.md");
    let section = text.split("## Life of a request\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut steps = BTreeMap::new();
    for number in 1..=7 {
        let item = section.split(&format!("\n{number}. **")).nth(1);
        let item = item.unwrap_or_else(|| panic!("no step {number}"));
        let (head, _) = item.split_once(')').expect("files in parentheses");
        for file in head.split('`').skip(1).step_by(2) {
            assert_eq!(steps.insert(file.into(), number), None, "{file} is named twice");
        }
    }
    steps
}

/// The step that a source says it is, by its first line: `//! 2 decode: …`, with the name of the file, or of its folder.
fn says(path: &Path) -> Option<u32> {
    let text = fs::read_to_string(path).expect("a source");
    let line = text.lines().next()?.strip_prefix("//! ")?;
    let (number, rest) = line.split_once(' ')?;
    let number = number.parse().ok()?;
    let name = match path.file_stem()?.to_str()? {
        "mod" => path.parent()?.file_name()?.to_str()?,
        stem => stem,
    };
    assert!(
        rest.starts_with(&format!("{name}: ")),
        "{}: {line}",
        path.display()
    );
    Some(number)
}

fn sources(folder: &Path, all: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
}

#[test]
fn each_step_of_a_request_is_a_file_that_begins_with_its_number() {
    let root = root();
    let mut all = Vec::new();
    for folder in ["supervisor/src", "worker/src", "ipc/src"] {
        sources(&root.join(folder), &mut all);
    }
    let mut found = BTreeMap::new();
    for path in all {
        if let Some(step) = says(&path) {
            let path = path.strip_prefix(&root).expect("below the root");
            found.insert(path.to_string_lossy().into_owned(), step);
        }
    }
    assert_eq!(found, steps());
}
