//! Just enough of Rust's grammar to find a test in a file and to see what would keep it from
//! failing. What the compiler sees to (that it compiles, that its types fit) is left to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file's text with comments, and what strings and characters hold, replaced by blanks of the
/// same length.
pub(crate) struct Source(String);

/// A function.
pub(crate) struct Function<'a> {
    /// Attributes and qualifiers in front of it.
    head: &'a str,
    body: &'a str,
    /// Attributes and names of the blocks around it, from the outermost on.
    around: Vec<&'a str>,
}

impl Source {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::of(&text)
    }

    pub(crate) fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut out = bytes.to_vec();
        let mut blank = |from: usize, to: usize| {
            for byte in out.iter_mut().take(to).skip(from) {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        };
        let mut at = 0;
        while at < bytes.len() {
            let end = match &bytes[at..] {
                [b'/', b'/', ..] => {
                    let end = find(bytes, at, b"\n");
                    blank(at, end);
                    end
                }
                [b'/', b'*', ..] => {
                    let end = comment(bytes, at);
                    blank(at, end);
                    end
                }
                [b'r', b'"' | b'#', ..] if !is_word(bytes, at.wrapping_sub(1)) || prefixed(bytes, at) => {
                    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
                    match bytes.get(at + 1 + hashes) {
                        Some(b'"') => {
                            let mut close = vec![b'"'];
                            close.resize(1 + hashes, b'#');
                            let end = find(bytes, at + 2 + hashes, &close);
                            blank(at + 2 + hashes, end);
                            end + close.len()
                        }
                        // A raw identifier.
                        _ => at + 1,
                    }
                }
                [b'"', ..] => {
                    let end = quoted(bytes, at, b'"');
                    blank(at + 1, end - 1);
                    end
                }
                // A character; otherwise a lifetime.
                [b'\'', b'\\', ..] => {
                    let end = quoted(bytes, at, b'\'');
                    blank(at + 1, end - 1);
                    end
                }
                [b'\'', rest @ ..] => match character(rest) {
                    Some(length) => {
                        blank(at + 1, at + 1 + length);
                        at + 2 + length
                    }
                    None => at + 1,
                },
                _ => at + 1,
            };
            at = end;
        }
        Self(String::from_utf8_lossy(&out).into_owned())
    }

    /// All functions of a name.
    pub(crate) fn functions(&self, name: &str) -> Vec<Function<'_>> {
        let text = self.0.as_str();
        let mut found = Vec::new();
        for opening in ["(", "<"] {
            let wanted = format!("fn {name}{opening}");
            for (at, _) in text.match_indices(&wanted) {
                if is_word(text.as_bytes(), at.wrapping_sub(1)) {
                    continue;
                }
                let open = at + text[at..].find(['{', ';']).unwrap_or(text.len() - at);
                if !text[open..].starts_with('{') {
                    continue;
                }
                found.push(Function {
                    head: header(&text[..at]),
                    body: &text[open..block_end(text, open)],
                    around: around(&text[..at]),
                });
            }
        }
        found
    }

    /// Whether a list `TESTS` has it.
    pub(crate) fn lists(&self, name: &str) -> bool {
        let lists = self.0.match_indices(" TESTS: ").map(|(at, _)| {
            let list = &self.0[at..];
            list.split_once("];").map_or(list, |(list, _)| list)
        });
        let words = lists.flat_map(|list| list.split(|c: char| !c.is_alphanumeric() && c != '_'));
        words.into_iter().any(|word| word == name)
    }

    /// Whether a macro that makes tests of functions is given it.
    pub(crate) fn makes(&self, name: &str) -> bool {
        let text = self.0.as_str();
        text.match_indices("macro_rules! ").any(|(at, found)| {
            let rest = &text[at + found.len()..];
            let (Some(end), Some(open)) = (
                rest.find(|c: char| !c.is_alphanumeric() && c != '_'),
                rest.find('{'),
            ) else {
                return false;
            };
            let body = &rest[open..block_end(rest, open)];
            let uses = format!("\n{}! {{", &rest[..end]);
            let given = |(at, uses): (usize, &str)| {
                let open = at + uses.len() - 1;
                let block = &text[open..block_end(text, open)];
                block
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .any(|word| word == name)
            };
            body.contains("#[test]") && !body.contains("ignore") && text.match_indices(&uses).any(given)
        })
    }

    /// Attributes of a module that it declares in a file of its own.
    fn declares(&self, module: &str) -> Option<&str> {
        let wanted = format!("mod {module};");
        let at = self.0.find(&wanted)?;
        Some(header(&self.0[..at]))
    }
}

/// What is not as it should be with a test; `None` if all is.
pub(crate) fn fault(root: &Path, file: &str, test: &str) -> Option<String> {
    let path = root.join(file);
    if !path.is_file() {
        return Some("the file is not there".to_owned());
    }
    let source = Source::read(&path);
    let functions = source.functions(test);
    let [function] = functions.as_slice() else {
        return Some(format!("{} functions of that name", functions.len()));
    };
    let listed = source.lists(test);
    function
        .fault(listed || source.makes(test))
        .or_else(|| unreached(&path, listed))
        .or_else(|| {
            let neighbours = neighbours(&path);
            let asserts = asserts(function.body, &neighbours, &mut BTreeSet::new());
            (!asserts).then(|| "nothing in it can fail".to_owned())
        })
}

impl Function<'_> {
    fn fault(&self, listed: bool) -> Option<String> {
        let attributes: String = self.head.split_whitespace().collect();
        let says = |what: &str| Some(what.to_owned());
        if !listed && !attributes.contains("#[test]") {
            return says("it is no test");
        }
        if attributes.contains("ignore") {
            return says("it is ignored");
        }
        if conditional(self.head) || self.around.iter().any(|head| conditional(head)) {
            return says("it is compiled under a condition");
        }
        let mut returns = self.body.match_indices("return").filter(|(at, word)| {
            !is_word(self.body.as_bytes(), at.wrapping_sub(1))
                && !is_word(self.body.as_bytes(), at + word.len())
        });
        let silent = |at: usize| {
            // With a value: a closure's, or an error of the test's.
            let rest = self.body[at + "return".len()..].trim_start();
            rest.starts_with([';', ',', '}']) || rest.starts_with("Ok(")
        };
        if returns.any(|(at, _)| silent(at)) {
            return says("it may return early without `skip`");
        }
        None
    }
}

/// Whether attributes compile something under another condition than being tested.
fn conditional(head: &str) -> bool {
    let head: String = head.split_whitespace().collect();
    // An inner attribute is the crate's, such as `no_main`, and not that of the item after it.
    let head = head.replace("#[cfg(test)]", "").replace("#![cfg_attr(", "");
    head.contains("cfg(") || head.contains("cfg_attr(")
}

/// Why no suite has the file's tests; `None` if one has. Looks at each declaration on the way from
/// the crate's root.
fn unreached(path: &Path, listed: bool) -> Option<String> {
    let (directory, stem) = (path.parent()?, path.file_stem()?.to_str()?);
    let is_root = matches!(stem, "main" | "lib")
        || (directory.ends_with("tests") && directory.join("../Cargo.toml").is_file());
    if is_root {
        return None;
    }
    // `mod.rs` is declared a directory further up.
    let (directory, module) = match stem {
        "mod" => (directory.parent()?, directory.file_name()?.to_str()?),
        _ => (directory, stem),
    };
    let declaring: Vec<PathBuf> = ["main.rs", "lib.rs", "mod.rs"]
        .iter()
        .map(|name| directory.join(name))
        .chain([directory.with_extension("rs")])
        .filter(|path| path.is_file())
        .collect();
    for parent in &declaring {
        let source = Source::read(parent);
        let Some(attributes) = source.declares(module) else {
            continue;
        };
        if conditional(attributes) {
            return Some(format!(
                "{} declares its module under a condition",
                parent.display()
            ));
        }
        let named = format!("{module}::TESTS");
        if listed && !source.0.contains(&named) {
            return Some(format!("{} does not run its TESTS", parent.display()));
        }
        return unreached(parent, false);
    }
    Some("no file declares its module".to_owned())
}

/// The files beside one, in which its helpers are.
fn neighbours(path: &Path) -> Vec<Source> {
    let directory = path.parent().expect("a directory");
    // Files straight in `tests/` are suites of their own.
    if directory.ends_with("tests") && directory.join("../Cargo.toml").is_file() {
        return vec![Source::read(path)];
    }
    let entries = fs::read_dir(directory).expect("a directory");
    let files = entries.map(|entry| entry.expect("an entry").path());
    files
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .map(|path| Source::read(&path))
        .collect()
}

/// What ends a test that fails.
const ENDS: [&str; 10] = [
    "assert!(",
    "assert_eq!(",
    "assert_ne!(",
    "panic!(",
    "unreachable!(",
    ".unwrap()",
    ".expect(",
    ".unwrap_err()",
    ".expect_err(",
    "?;",
];

/// Whether something in it can fail, itself or in a function beside it that it calls.
fn asserts(body: &str, neighbours: &[Source], seen: &mut BTreeSet<String>) -> bool {
    if ENDS.iter().any(|end| body.contains(end)) {
        return true;
    }
    let called = body
        .match_indices('(')
        .map(|(at, _)| last_word(&body[..at]).to_owned());
    called.filter(|name| !name.is_empty()).any(|name| {
        seen.insert(name.clone())
            && neighbours
                .iter()
                .flat_map(|source| source.functions(&name))
                .any(|function| asserts(function.body, neighbours, seen))
    })
}

fn last_word(text: &str) -> &str {
    let start = text.rfind(|c: char| !c.is_alphanumeric() && c != '_');
    &text[start.map_or(0, |at| at + 1)..]
}

fn is_word(bytes: &[u8], at: usize) -> bool {
    bytes
        .get(at)
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// Whether `r` follows the `b` or `c` of a string's prefix.
fn prefixed(bytes: &[u8], at: usize) -> bool {
    matches!(bytes.get(at.wrapping_sub(1)), Some(b'b' | b'c')) && !is_word(bytes, at.wrapping_sub(2))
}

/// Where something begins, from a place on; the end of the text if it does not come.
fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let at = rest.windows(what.len()).position(|window| window == what);
    at.map_or(bytes.len(), |at| from + at)
}

/// The end of a comment, which may hold others.
fn comment(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < bytes.len() {
        let step = match &bytes[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// Behind the closing quote.
fn quoted(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            byte if *byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Bytes of one character in front of a closing quote.
fn character(rest: &[u8]) -> Option<usize> {
    let length = match rest.first()? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    };
    (rest.get(length) == Some(&b'\'')).then_some(length)
}

/// What stands between the end of the thing before and here.
fn header(before: &str) -> &str {
    let start = before.rfind(['{', '}', ';']).map_or(0, |at| at + 1);
    &before[start..]
}

/// Behind the brace that closes the one at `open`.
fn block_end(text: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, c) in text[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    text.len()
}

/// Headers of the blocks that are open at the end of the text.
fn around(before: &str) -> Vec<&str> {
    let mut open = Vec::new();
    for (at, c) in before.char_indices() {
        match c {
            '{' => open.push(header(&before[..at])),
            '}' => {
                open.pop();
            }
            _ => {}
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with the test `t` in a file.
    fn fault_of(text: &str) -> Option<String> {
        let directory = airlockfs_tests::tempdir::TempDir::new().expect("a directory");
        fs::create_dir(directory.join("tests")).expect("mkdir");
        fs::write(directory.join("Cargo.toml"), "").expect("write");
        fs::write(directory.join("tests/suite.rs"), text).expect("write");
        fault(&directory, "tests/suite.rs", "t")
    }

    #[test]
    fn a_test_that_can_fail_is_a_test() {
        for text in [
            "#[test]\nfn t() { assert!(x()); }",
            "mod a { #[cfg(test)] mod tests { #[test] fn t() { let x = y.expect(\"z\"); } } }",
            "#[test]\nfn t() { helper(1) }\nfn helper(n: u8) { other::<u8>(); second() }\nfn second() { panic!() }",
            "#[test]\n#[expect(unsafe_code, reason = \"ignore; {\")]\nfn t() -> Result<()> { let c = '{'; x()?; Ok(()) }",
            "#[test] fn t() { run(|| { if a { return Err(b); } Ok(()) }).unwrap(); }",
            "#[test] fn t() { run(|| { if a { return Err(b); } Ok(()) }).unwrap(); }",
            "#[test] fn t() { if a { return skip(\"t\", \"no a here\"); } assert_eq!(r#\"}\"#, b'\"'); }",
            "macro_rules! cases { ($($c:ident,)*) => { $(#[test] fn $c() { super::$c(1); })* } }\ncases! {\n    s,\n    t,\n}\nfn t(n: u8) { assert!(n > 1); }",
            "const TESTS: &[Test] = &[test!(s), (\"name\", t)];\nfn t<'a>() {}\nfn s() {}"
                .replace("{}\nfn s", "{ x.unwrap(); }\nfn s")
                .as_str(),
        ] {
            assert_eq!(fault_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_test_that_cannot_fail_or_does_not_run_is_none() {
        for (text, why) in [
            ("fn other() {}", "0 functions"),
            ("// fn t() { assert!(true) }", "0 functions"),
            (
                "const A: &str = \"#[test] fn t() { assert!(x) }\";",
                "0 functions",
            ),
            ("fn t() { assert!(x); }", "no test"),
            ("const TESTS: &[Test] = &[s];\nfn t() { assert!(x); }", "no test"),
            ("#[test]\n#[ignore]\nfn t() { assert!(x); }", "ignored"),
            ("#[test]\n#[ignore = \"slow\"]\nfn t() { assert!(x); }", "ignored"),
            (
                "#[test]\n#[cfg(feature = \"x\")]\nfn t() { assert!(x); }",
                "condition",
            ),
            (
                "#[cfg(any())]\nmod a { #[test] fn t() { assert!(x); } }",
                "condition",
            ),
            (
                "#[test]\n#[cfg_attr(x, ignore)]\nfn t() { assert!(x); }",
                "ignored",
            ),
            ("#[test]\nfn t() {}", "nothing"),
            ("#[test]\nfn t() { /* assert!(x) */ // assert!(x)\n }", "nothing"),
            (
                "#[test]\nfn t() { let a = \"assert!(x)\"; let _ = f(a); }",
                "nothing",
            ),
            (
                "#[test]\nfn t() { helper() }\nfn helper() { helper() }",
                "nothing",
            ),
            ("#[test]\nfn t() { if a { return; } assert!(x); }", "return early"),
            (
                "#[test]\nfn t() { let Ok(a) = b else { eprintln!(\"no\"); return };\nassert!(a); }",
                "return early",
            ),
        ] {
            let found = fault_of(text).unwrap_or_else(|| panic!("a test: {text}"));
            assert!(found.contains(why), "{text}: {found}");
        }
    }
}
