//! Old spellings (`-o source=/srv,xattr`, `-d`) become the options of today before the command line is read, so that
//! an option given twice is an error however it is spelt.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// `arguments` with every `-o LIST` and `-d` spelt out. Unknown names in a list become unknown options, which the
/// parser then names.
pub fn modernise(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut modern = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_bytes() {
            b"-o" => match arguments.next() {
                Some(list) => spell_out(&list, &mut modern),
                None => modern.push(argument),
            },
            [b'-', b'o', list @ ..] => spell_out(OsStr::from_bytes(list), &mut modern),
            b"-d" => modern.push("--log-level=debug".into()),
            _ => modern.push(argument),
        }
    }
    modern
}

fn spell_out(list: &OsStr, modern: &mut Vec<OsString>) {
    for item in list
        .as_bytes()
        .split(|byte| *byte == b',')
        .filter(|item| !item.is_empty())
    {
        let (name, value) = match item.iter().position(|byte| *byte == b'=') {
            Some(at) => (
                item.get(..at).unwrap_or_default(),
                item.get(at..).unwrap_or_default(),
            ),
            None => (item, &b""[..]),
        };
        let name = match name {
            b"source" => b"shared-dir".to_vec(),
            b"no_posix_acl" | b"allow_root" | b"no_security_label" if value.is_empty() => continue,
            other => other
                .iter()
                .map(|byte| if *byte == b'_' { b'-' } else { *byte })
                .collect(),
        };
        modern.push(OsString::from_vec([b"--", name.as_slice(), value].concat()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelt(arguments: &[&str]) -> Vec<String> {
        modernise(arguments.iter().map(OsString::from))
            .into_iter()
            .map(|a| a.into_string().unwrap())
            .collect()
    }

    #[test]
    fn old_options_become_new_ones() {
        assert_eq!(
            spelt(&[
                "--fd=3",
                "-o",
                "source=/srv,cache=auto,no_posix_lock",
                "-oxattr",
                "-d"
            ]),
            [
                "--fd=3",
                "--shared-dir=/srv",
                "--cache=auto",
                "--no-posix-lock",
                "--xattr",
                "--log-level=debug"
            ]
        );
        assert_eq!(spelt(&["-o"]), ["-o"]);
    }
}
