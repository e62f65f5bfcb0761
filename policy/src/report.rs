//! What the kernel says of a process: `/proc/self/status`, read again after it confined itself.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use crate::{ExitKind, StartError, sys};

/// `/proc/self/status` (proc_pid_status(5)), opened while it can be and read later.
#[derive(Debug)]
pub(crate) struct Status(File);

/// What of it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Real, effective, saved and file system id.
    pub(crate) uids: Vec<u32>,
    /// The same of the group.
    pub(crate) gids: Vec<u32>,
    /// Supplementary groups.
    pub(crate) groups: usize,
    pub(crate) umask: u32,
    pub(crate) threads: u32,
    pub(crate) inheritable: u64,
    pub(crate) permitted: u64,
    pub(crate) effective: u64,
    pub(crate) ambient: u64,
    pub(crate) bounding: u64,
    pub(crate) no_new_privs: bool,
    pub(crate) filtered: bool,
    /// System call filters in force; `u32::MAX` where the kernel does not tell (before Linux 5.9).
    pub(crate) filters: u32,
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

    /// Reads it with preadv2(2) alone: both filters have that call anyway.
    pub(crate) fn read(&self) -> io::Result<Facts> {
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
    let ids = |name: &str| field(name).filter_map(|word| word.parse().ok()).collect();
    let octal = |name: &str| {
        field(name)
            .next()
            .and_then(|word| u32::from_str_radix(word, 8).ok())
            .unwrap_or(u32::MAX)
    };
    Facts {
        uids: ids("Uid"),
        gids: ids("Gid"),
        groups: field("Groups").count(),
        umask: octal("Umask"),
        threads: number("Threads"),
        inheritable: mask("CapInh"),
        permitted: mask("CapPrm"),
        effective: mask("CapEff"),
        ambient: mask("CapAmb"),
        bounding: mask("CapBnd"),
        no_new_privs: number("NoNewPrivs") == 1,
        // SECCOMP_MODE_FILTER
        filtered: number("Seccomp") == 2,
        filters: number("Seccomp_filters"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = "Name:\tx\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t4 24 \nThreads:\t3\nCapInh:\t0000000000000000\n\
                    CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000003\nCapBnd:\t0000000000000005\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n\
                    Seccomp:\t2\nSeccomp_filters:\t1\n";
        let facts = parse(text);
        assert_eq!((facts.uids, facts.gids), (vec![1, 2, 3, 4], vec![5, 6, 7, 8]));
        assert_eq!((facts.groups, facts.threads, facts.umask), (2, 3, 0o22));
        assert_eq!(
            (facts.permitted, facts.effective, facts.bounding),
            (0x1ff_ffff_ffff, 3, 5)
        );
        assert!(facts.no_new_privs && facts.filtered);
        assert_eq!(facts.filters, 1);
    }

    #[test]
    fn what_is_not_there_never_looks_confined() {
        let facts = parse("");
        assert_eq!((facts.uids, facts.effective), (Vec::new(), u64::MAX));
        assert_eq!((facts.bounding, facts.threads), (u64::MAX, u32::MAX));
        assert!(!facts.no_new_privs && !facts.filtered);
    }
}
