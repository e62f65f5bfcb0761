//! `cargo xtask compare`: compares what airlockfs and virtiofsd may do as they run by default. It
//! reads the running processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::daemon::Daemon;
use crate::{binaries, filter, paths, peer, process};

/// Number of timed starts, of which the median counts. Variants take turns, so that other load of
/// the machine meets all of them.
const STARTS: usize = 51;
/// Options that leave confinement out, in both programs.
const UNCONFINED: [&str; 4] = ["--sandbox", "none", "--seccomp", "none"];

/// Prints the table.
pub fn run() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("run it as root: it reads filters and starts both as root");
    }
    let ours = match std::env::var_os("AIRLOCKFS_BIN_DIR") {
        Some(directory) => PathBuf::from(directory).join("airlockfsd"),
        None => binaries::release(&["airlockfsd", "airlockfs-worker"])?.join("airlockfsd"),
    };
    let virtiofsd = peer::get()?;
    let mut columns = Vec::new();
    for (program, ours) in [(&ours, true), (&virtiofsd, false)] {
        let scratch = paths::Scratch::new()?;
        let daemon = Daemon::start_untagged(program, scratch.path(), &[])?;
        if ours {
            columns.push(column("airlockfsd (reads guest bytes)", daemon.supervisor())?);
            columns.push(column("airlockfs-worker", daemon.worker()?)?);
        } else {
            // Its parent waits for it.
            columns.push(column("virtiofsd (reads guest bytes)", daemon.worker()?)?);
        }
    }
    let rows: Vec<&str> = columns[0].1.iter().map(|(name, _)| *name).collect();
    println!(
        "| | {} |",
        columns
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(" | ")
    );
    println!("|{}", "---|".repeat(columns.len() + 1));
    for (index, row) in rows.iter().enumerate() {
        let cells = columns.iter().map(|(_, cells)| cells[index].1.as_str());
        println!("| {row} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    println!();
    let programs = [&ours, &virtiofsd];
    let mut times = [const { (Vec::new(), Vec::new()) }; 2];
    for _ in 0..STARTS {
        for (program, (with, without)) in programs.iter().zip(&mut times) {
            with.push(start(program, &[])?);
            without.push(start(program, &UNCONFINED)?);
        }
    }
    for (name, (with, without)) in ["airlockfs", "virtiofsd"].iter().zip(times) {
        let (with, without) = (median(with)?, median(without)?);
        println!(
            "{name}: start {:.1} ms, with {} {:.1} ms: confinement costs {:.1} ms (median of {STARTS})",
            with,
            UNCONFINED.join(" "),
            without,
            with - without
        );
    }
    Ok(())
}

type Column = (&'static str, Vec<(&'static str, String)>);

fn column(name: &'static str, pid: u32) -> Result<Column> {
    let rights = process::rights(pid)?;
    let status = |key: &str| rights.status.get(key).cloned().unwrap_or_default();
    let allowed = filter::allowed(pid.try_into()?)?;
    let lets = |number: i64| match &allowed {
        None => true,
        Some(numbers) => numbers.iter().any(|allowed| i64::from(*allowed) == number),
    };
    let capabilities = u64::from_str_radix(&status("CapEff"), 16)?;
    let own: Vec<&str> = rights
        .own_namespace
        .iter()
        .filter(|(_, own)| **own == Some(true))
        .map(|(name, _)| *name)
        .collect();
    let handles = lets(libc::SYS_open_by_handle_at) && capabilities & 1 << CAP_DAC_READ_SEARCH != 0;
    let opens = [libc::SYS_openat, libc::SYS_openat2].into_iter().any(lets);
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?
        .lines()
        .count();
    let reach = match (handles, opens, own.contains(&"mnt")) {
        (true, _, _) => "any file of every file system it holds a descriptor of (open_by_handle_at)",
        (_, true, true) => "what is mounted in its namespace: the share",
        (_, true, false) => "every path of the host, as its user",
        (_, false, _) => "none: no call opens a file",
    };
    Ok((
        name,
        vec![
            (
                "user, group",
                format!("{} {}", id(&status("Uid")), id(&status("Gid"))),
            ),
            (
                "system calls that its filter lets through",
                match &allowed {
                    None => "all: no filter".to_owned(),
                    Some(numbers) => numbers.len().to_string(),
                },
            ),
            (
                "capabilities in force",
                format!("{} ({capabilities:#x})", capabilities.count_ones()),
            ),
            ("capabilities it could get (bounding set)", {
                let mask = u64::from_str_radix(&status("CapBnd"), 16)?;
                mask.count_ones().to_string()
            }),
            ("no_new_privs", status("NoNewPrivs")),
            (
                "namespaces of its own",
                match own.is_empty() {
                    true => "none".to_owned(),
                    false => own.join(" "),
                },
            ),
            ("mounts it sees", mounts.to_string()),
            (
                "Landlock",
                landlock(pid).unwrap_or_else(|| "none reported".to_owned()),
            ),
            ("descriptors", descriptors(pid)?),
            ("reach beyond its descriptors", reach.to_owned()),
        ],
    ))
}

const CAP_DAC_READ_SEARCH: u32 = 2;

/// The effective id.
fn id(ids: &str) -> &str {
    ids.split_whitespace().nth(1).unwrap_or("?")
}

/// What an airlockfs process sealed of itself.
fn landlock(pid: u32) -> Option<String> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()? {
        let path = entry.ok()?.path();
        if fs::read_link(&path).is_ok_and(|target| target.as_os_str() == airlockfs_policy::REPORT) {
            let report = airlockfs_policy::read_report(&fs::File::open(path).ok()?).ok()?;
            return Some(format!("ABI {}", report.landlock_abi));
        }
    }
    None
}

fn descriptors(pid: u32) -> Result<String> {
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let target = fs::read_link(&path)?.to_string_lossy().into_owned();
        let kind = match target.as_str() {
            "/dev/null" => "/dev/null",
            target if target.starts_with("socket:") => "sockets",
            target if target.starts_with("pipe:") => "pipes",
            target if target.starts_with("anon_inode:") => "events",
            target if target.starts_with("/memfd:") => "shared memory",
            _ if fs::metadata(&path).is_ok_and(|found| found.is_dir()) => "DIRECTORIES",
            _ => "other files",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    Ok(kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect::<Vec<_>>()
        .join(", "))
}

/// Time from the start to listening.
fn start(program: &Path, options: &[&str]) -> Result<Duration> {
    let scratch = paths::Scratch::new()?;
    let begun = Instant::now();
    let _daemon = Daemon::start_untagged(program, scratch.path(), options)?;
    Ok(begun.elapsed())
}

/// In milliseconds.
fn median(mut times: Vec<Duration>) -> Result<f64> {
    times.sort_unstable();
    let median = times.get(times.len() / 2).context("starts")?;
    Ok(median.as_secs_f64() * 1000.0)
}
