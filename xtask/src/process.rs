//! What /proc says about a process's rights, next to ours.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

/// The lines of /proc/PID/status that matter, in the order to show them (proc_pid_status(5)).
const STATUS: &[&str] = &[
    "Name",
    "Threads",
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
];

/// The namespaces in /proc/PID/ns (namespaces(7)).
const NAMESPACES: &[&str] = &["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// A process's rights as the kernel reports them.
#[derive(Debug)]
pub struct Rights {
    /// The lines of `status`, by key.
    pub status: BTreeMap<String, String>,
    /// Each namespace and whether it differs from this process's; none where that may not be read.
    pub own_namespace: BTreeMap<&'static str, Option<bool>>,
    /// Threads whose seccomp mode is not 2, a filter.
    pub unfiltered_threads: usize,
}

impl Rights {
    /// What a confined process must have, by name: a filter on every thread, and no way to gain
    /// rights.
    pub fn unconfined(&self) -> Vec<&'static str> {
        let mut lacks = Vec::new();
        if self.unfiltered_threads != 0 {
            lacks.push("a system call filter on every thread");
        }
        if self.status.get("NoNewPrivs").map(String::as_str) != Some("1") {
            lacks.push("no_new_privs");
        }
        lacks
    }

    /// Whether every capability set is empty, the bounding set too.
    pub fn without_capabilities(&self) -> bool {
        let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
        let empty = |set| {
            self.status
                .get(set)
                .is_some_and(|bits| bits.bytes().all(|digit| digit == b'0'))
        };
        sets.into_iter().all(empty)
    }
}

/// Reads the rights of `pid`.
pub fn rights(pid: u32) -> Result<Rights> {
    let status = status(&format!("/proc/{pid}/status"))?;
    let own_namespace = NAMESPACES
        .iter()
        .map(|name| {
            let link = |who: &str| fs::read_link(format!("/proc/{who}/ns/{name}")).ok();
            let differs = link(&pid.to_string())
                .zip(link("self"))
                .map(|(its, ours)| its != ours);
            (*name, differs)
        })
        .collect();
    let mut unfiltered_threads = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = self::status(&thread?.path().join("status").to_string_lossy())?;
        if thread.get("Seccomp").map(String::as_str) != Some("2") {
            unfiltered_threads += 1;
        }
    }
    Ok(Rights {
        status,
        own_namespace,
        unfiltered_threads,
    })
}

/// The lines of a `status` file by key, white space made single.
fn status(path: &str) -> Result<BTreeMap<String, String>> {
    Ok(fs::read_to_string(path)
        .with_context(|| format!("cannot read {path}"))?
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| {
            (
                key.to_owned(),
                value.split_whitespace().collect::<Vec<_>>().join(" "),
            )
        })
        .collect())
}

/// A table with one row per right and one column per process.
pub fn table(columns: &[(String, Rights)]) -> String {
    let mut rows: Vec<(String, Vec<String>)> = vec![(
        String::new(),
        columns.iter().map(|(name, _)| name.clone()).collect(),
    )];
    for key in STATUS {
        let value = |rights: &Rights| rights.status.get(*key).cloned().unwrap_or_else(|| "-".to_owned());
        rows.push((
            (*key).to_owned(),
            columns.iter().map(|(_, rights)| value(rights)).collect(),
        ));
    }
    let count = |rights: &Rights| rights.unfiltered_threads.to_string();
    rows.push((
        "Unfiltered threads".to_owned(),
        columns.iter().map(|(_, rights)| count(rights)).collect(),
    ));
    for name in NAMESPACES {
        let word = |rights: &Rights| match rights.own_namespace.get(name) {
            Some(Some(true)) => "own",
            Some(Some(false)) => "the host's",
            _ => "not readable",
        };
        let cells = columns
            .iter()
            .map(|(_, rights)| word(rights).to_owned())
            .collect();
        rows.push((format!("Namespace {name}"), cells));
    }
    let mut text = String::new();
    for (head, cells) in rows {
        text.push_str(&format!("  {head:<18}"));
        for cell in cells {
            text.push_str(&format!("  {cell:<24}"));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
