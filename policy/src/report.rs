//! What a process finds true of itself, read back from the kernel after it confined itself.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use airlockfs_ipc::message::{ConfinementReport, SeccompMode};

use crate::{ExitKind, StartError, sys};

/// `/proc/self/status` (proc_pid_status(5)), opened while it can be and read later.
#[derive(Debug)]
pub(crate) struct Status(File);

/// What of it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: usize,
    pub(crate) threads: u32,
    pub(crate) inheritable: u64,
    pub(crate) permitted: u64,
    pub(crate) effective: u64,
    pub(crate) ambient: u64,
    pub(crate) no_new_privs: bool,
    pub(crate) filtered: bool,
}

impl Status {
    /// Opens it.
    pub(crate) fn open() -> Result<Self, StartError> {
        File::open("/proc/self/status").map(Self).map_err(|error| {
            StartError::new(
                ExitKind::Unavailable,
                format!("cannot read /proc/self/status: {error}; mount /proc"),
            )
        })
    }

    /// Reads it, once, with preadv2(2) alone: both filters have that call anyway.
    pub(crate) fn read(self) -> io::Result<Facts> {
        let mut buffer = [0; 8192];
        let length = sys::read_at_start(self.0.as_fd(), &mut buffer)?;
        Ok(parse(&String::from_utf8_lossy(
            buffer.get(..length).unwrap_or_default(),
        )))
    }
}

/// Fails unless the process has one thread: what is given up by a thread holds for those it makes later only.
pub(crate) fn require_one_thread() -> Result<(), StartError> {
    match Status::open()?.read() {
        Ok(Facts { threads: 1, .. }) => Ok(()),
        Ok(facts) => Err(StartError::new(
            ExitKind::Software,
            format!("{} threads run already; confinement comes first", facts.threads),
        )),
        Err(error) => Err(StartError::new(
            ExitKind::OsError,
            format!("cannot read /proc/self/status: {error}"),
        )),
    }
}

/// Reads `status` now, when all is done, and compares it with what should hold.
///
/// # Errors
/// Something that was given up is still there.
pub(crate) fn verify(
    status: Status,
    report: &ConfinementReport,
    seccomp: SeccompMode,
) -> Result<(), StartError> {
    let facts = status.read().map_err(|error| {
        StartError::new(
            ExitKind::OsError,
            format!("cannot read /proc/self/status: {error}"),
        )
    })?;
    let checks = [
        ((facts.uid, facts.gid) == (report.uid, report.gid), "the ids"),
        (
            facts.permitted == report.capabilities,
            "the permitted capabilities",
        ),
        (
            facts.effective == report.capabilities,
            "the effective capabilities",
        ),
        (facts.inheritable == 0, "the inheritable capabilities"),
        (facts.ambient == 0, "the ambient capabilities"),
        (facts.no_new_privs, "no_new_privs"),
        (
            facts.filtered == (seccomp != SeccompMode::None),
            "the system call filter",
        ),
    ];
    match checks.iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, what)) => Err(StartError::new(
            ExitKind::Software,
            format!("after confinement {what} are not as they should be: {facts:?}"),
        )),
    }
}

fn parse(text: &str) -> Facts {
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace()
    };
    let number = |name: &str| {
        field(name)
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or(u32::MAX)
    };
    let mask = |name: &str| {
        field(name)
            .next()
            .and_then(|word| u64::from_str_radix(word, 16).ok())
            .unwrap_or(u64::MAX)
    };
    let effective_id = |name: &str| {
        field(name)
            .nth(1)
            .and_then(|word| word.parse().ok())
            .unwrap_or(u32::MAX)
    };
    Facts {
        uid: effective_id("Uid"),
        gid: effective_id("Gid"),
        groups: field("Groups").count(),
        threads: number("Threads"),
        inheritable: mask("CapInh"),
        permitted: mask("CapPrm"),
        effective: mask("CapEff"),
        ambient: mask("CapAmb"),
        no_new_privs: number("NoNewPrivs") == 1,
        // SECCOMP_MODE_FILTER
        filtered: number("Seccomp") == 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t4 24 \nThreads:\t3\nCapInh:\t0000000000000000\n\
                    CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000003\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n\
                    Seccomp:\t2\nSeccomp_filters:\t1\n";
        let facts = parse(text);
        assert_eq!((facts.uid, facts.gid, facts.groups, facts.threads), (2, 6, 2, 3));
        assert_eq!((facts.permitted, facts.effective), (0x1ff_ffff_ffff, 3));
        assert!(facts.no_new_privs && facts.filtered);
    }

    #[test]
    fn what_is_not_there_never_looks_confined() {
        let facts = parse("");
        assert_eq!(
            (facts.uid, facts.effective, facts.threads),
            (u32::MAX, u64::MAX, u32::MAX)
        );
        assert!(!facts.no_new_privs && !facts.filtered);
    }
}
