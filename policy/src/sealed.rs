//! The report of a confined process in a file that nobody can change any more: made before the first guest byte, sealed
//! (memfd_create(2), F_ADD_SEALS in fcntl(2)), held open for `audit` to read by /proc. It shows what /proc does not.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use airlockfs_ipc::message::ConfinementReport;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::{ExitKind, StartError};

/// Where the link of the report's descriptor in /proc/PID/fd leads.
pub const REPORT: &str = "/memfd:airlockfs-report (deleted)";

/// All that can be forbidden, further seals included.
const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Longest report that is believed.
const LIMIT: u64 = 64 << 10;

/// Writes it and seals it.
pub(crate) fn seal(report: &ConfinementReport) -> Result<OwnedFd, StartError> {
    let failed = |error: String| {
        StartError::new(
            ExitKind::OsError,
            format!("cannot seal the report of confinement (memfd): {error}"),
        )
    };
    // Not executable either, where the kernel knows that (Linux 6.3).
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let not_executable = flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let made = memfd_create(c"airlockfs-report", not_executable);
    let made = match made {
        Err(Errno::EINVAL) => memfd_create(c"airlockfs-report", flags),
        made => made,
    };
    let mut file = File::from(made.map_err(|error| failed(error.to_string()))?);
    file.write_all(text(report).as_bytes())
        .map_err(|error| failed(error.to_string()))?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS)).map_err(|error| failed(error.to_string()))?;
    Ok(file.into())
}

fn text(report: &ConfinementReport) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "uid {}\ngid {}\ncapabilities {:#x}\nnamespaces {}\nlandlock {}\nsyscalls {}\ninstructions {}\n",
        report.uid,
        report.gid,
        report.capabilities,
        report.namespaces.join(" "),
        report.landlock_abi,
        report.syscalls,
        report.filter_instructions,
    );
    for line in &report.weakened {
        let _ = writeln!(out, "weakened {}", line.replace('\n', " "));
    }
    for line in &report.profile {
        let _ = writeln!(out, "profile {line}");
    }
    out
}

/// Reads the report behind an open file, if it is one that nobody can change.
///
/// # Errors
/// It is not sealed, or not a report.
pub fn read_report(file: &File) -> Result<ConfinementReport, String> {
    let seals = fcntl(file.as_fd(), FcntlArg::F_GET_SEALS).map_err(|error| error.to_string())?;
    if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
        return Err("it is not sealed".to_owned());
    }
    let mut text = String::new();
    file.take(LIMIT)
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    parse(&text).ok_or_else(|| "it is not understood".to_owned())
}

fn parse(text: &str) -> Option<ConfinementReport> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    let number = |name: &str| field(name)?.parse().ok();
    let weakened = text.lines().filter_map(|line| line.strip_prefix("weakened "));
    let profile = text.lines().filter_map(|line| line.strip_prefix("profile "));
    Some(ConfinementReport {
        uid: number("uid")?,
        gid: number("gid")?,
        capabilities: u64::from_str_radix(field("capabilities")?.strip_prefix("0x")?, 16).ok()?,
        namespaces: field("namespaces")?
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        landlock_abi: number("landlock")?,
        syscalls: number("syscalls")?,
        filter_instructions: number("instructions")?,
        weakened: weakened.map(str::to_owned).collect(),
        profile: profile.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ConfinementReport {
        ConfinementReport {
            uid: 65_534,
            gid: 7,
            capabilities: 0xdb,
            namespaces: vec!["mnt".to_owned(), "net".to_owned()],
            landlock_abi: 7,
            syscalls: 44,
            filter_instructions: 300,
            weakened: vec!["one thing".to_owned(), "another".to_owned()],
            profile: vec!["process worker".to_owned(), "call read 0".to_owned()],
        }
    }

    #[test]
    fn a_sealed_report_is_read_back_and_cannot_be_changed() {
        let mut file = File::from(seal(&report()).unwrap());
        let again = File::open(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&file)
        ))
        .unwrap();
        assert_eq!(read_report(&again), Ok(report()));
        assert_eq!(
            file.write(b"x").unwrap_err().kind(),
            std::io::ErrorKind::PermissionDenied
        );
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn what_is_not_sealed_is_not_believed() {
        let loose = memfd_create(c"airlockfs-report", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let mut file = File::from(loose);
        file.write_all(text(&report()).as_bytes()).unwrap();
        assert_eq!(read_report(&file), Err("it is not sealed".to_owned()));
        assert!(read_report(&File::open("/dev/null").unwrap()).is_err());
        assert_eq!(parse("uid 1\n"), None);
    }
}
