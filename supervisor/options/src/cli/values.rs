//! How values on the command line are written.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    time::Duration,
};

use airlockfs_ipc::Name;
use clap::builder::{OsStringValueParser, TypedValueParser};

/// A path with the name it stands under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    /// One path component.
    pub name: OsString,
    /// On the host.
    pub path: PathBuf,
}

/// `NAME=PATH`. A name has no `=`, and a path is taken as it is: there is nothing in it that could be read as an option.
pub(super) fn named_path() -> impl TypedValueParser<Value = NamedPath> {
    OsStringValueParser::new()
        .try_map(|text| split_name(&text).ok_or("NAME=PATH, NAME being one path component"))
}

fn split_name(text: &OsStr) -> Option<NamedPath> {
    let bytes = text.as_bytes();
    let (name, path) = bytes.split_at_checked(bytes.iter().position(|byte| *byte == b'=')?)?;
    let path = path.get(1..).filter(|path| !path.is_empty())?;
    Name::new(name).ok()?;
    Some(NamedPath {
        name: OsStr::from_bytes(name).to_owned(),
        path: OsStr::from_bytes(path).into(),
    })
}

pub(super) fn tag(text: &str) -> Result<String, String> {
    match text.len() {
        1..=36 if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err("a tag has 1 to 36 bytes".to_owned()),
    }
}

/// Longest look that `auto` adapts up to.
const POLL_AUTO: Duration = Duration::from_micros(50);

pub(super) fn poll_time(text: &str) -> Result<Duration, String> {
    match text {
        "auto" => Ok(POLL_AUTO),
        number => match number.parse() {
            Ok(micros @ 0..=10_000) => Ok(Duration::from_micros(micros)),
            _ => Err("auto, or 0 to 10000 microseconds".to_owned()),
        },
    }
}

/// Least memory that it makes sense to serve a guest with.
const MEMORY_MIN: u64 = 16 << 20;

/// Bytes: a number, or one of KiB, MiB, GiB by its letter.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['K', 'k', 'M', 'm', 'G', 'g']) {
        Some(number) => (number, text.get(number.len()..).unwrap_or_default()),
        None => (text, ""),
    };
    let unit = match unit.to_ascii_uppercase().as_str() {
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => 1_u64,
    };
    let plain = number.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = number.parse().ok().filter(|_| plain);
    let bytes = bytes.and_then(|number: u64| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes >= MEMORY_MIN)
        .ok_or_else(|| "bytes, or a number with K, M or G, at least 16M".to_owned())
}

pub(super) fn log_level(text: &str) -> Result<log::LevelFilter, String> {
    text.parse()
        .map_err(|_| "error, warn, info, debug, trace or off".to_owned())
}

/// The uid and gid that mean 'none' to the kernel.
const NO_ID: u32 = u32::MAX;

/// A uid or gid, decimal digits only.
pub(super) fn id(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|id| *id != NO_ID && text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| "a number from 0 to 4294967294".to_owned())
}

/// Permissions to take off, in octal however they are written: 22, 022, 0o22.
pub(super) fn mask(text: &str) -> Result<u32, String> {
    octal(text, 0o7777).ok_or_else(|| "permissions in octal, 0 to 7777".to_owned())
}

/// Permissions of everything, likewise. Setuid and setgid would make every file a privileged program.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    octal(text, 0o1777).ok_or_else(|| "permissions in octal, 0 to 1777".to_owned())
}

fn octal(text: &str, most: u32) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    // from_str_radix would take a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = u32::from_str_radix(digits, 8).ok()?;
    (plain && value <= most).then_some(value)
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number).ok())
        .filter(|time| *time <= Duration::from_secs(u64::from(u32::MAX)))
        .ok_or_else(|| "seconds, such as 0, 1.5 or 86400".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_octal_however_they_are_written() {
        for text in ["755", "0755", "0o755", "00755"] {
            assert_eq!((mode(text), mask(text)), (Ok(0o755), Ok(0o755)), "{text}");
        }
        for bad in [
            "",
            "0o",
            "8",
            "9",
            "0x1ff",
            "+755",
            "-1",
            "755 ",
            "rwx",
            "0o0o7",
            "10000",
            "77777777777777",
        ] {
            assert!(mode(bad).is_err() && mask(bad).is_err(), "{bad}");
        }
        assert!(mode("1777").is_ok() && mode("2000").is_err() && mask("7777").is_ok());
    }

    #[test]
    fn a_path_is_what_follows_the_name_and_nothing_else() {
        let split = |text: &[u8]| {
            let named = split_name(OsStr::from_bytes(text))?;
            Some((named.name.as_bytes().to_vec(), named.path.into_os_string()))
        };
        for path in ["/srv", "/a=b", "/a:ro", "/a,ro", "relative", "=", "--readonly"] {
            let text = format!("name={path}");
            assert_eq!(
                split(text.as_bytes()),
                Some((b"name".to_vec(), path.into())),
                "{path}"
            );
        }
        assert!(split(b"\xff=/\xfe").is_some(), "names and paths are bytes");
        for bad in [
            &b"/srv"[..],
            b"=/srv",
            b"name=",
            b"a/b=/srv",
            b".=/srv",
            b"..=/srv",
            b"",
        ] {
            assert_eq!(split(bad), None, "{bad:?}");
        }
        assert_eq!(split(&[&[b'x'; 256][..], b"=/srv"].concat()), None);
    }

    #[test]
    fn ids_are_decimal_and_not_the_one_for_none() {
        assert_eq!((id("0"), id("4294967294")), (Ok(0), Ok(u32::MAX - 1)));
        for bad in ["", "-1", "+1", "4294967295", "0x10", "1000:1000", "root"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
