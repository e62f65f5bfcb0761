//! `cargo xtask bench --guest`: fio and traces in a Linux guest, on airlockfs and on virtiofsd in
//! turn.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::daemon::Daemon;
use crate::image::Program;
use crate::paths::Scratch;
use crate::qemu::{Machine, Vm};
use crate::{command, kernel, paths, provision};

/// Time for a guest to boot and work.
const LIMIT: Duration = Duration::from_secs(900);
const TAG: &str = "bench";
/// Files of the repository and of the archive.
const FILES: usize = 300;
/// Their names in the report; the second is what the first is compared with.
const DAEMONS: [&str; 2] = ["airlockfs", "virtiofsd"];

/// What one job took.
#[derive(Clone, Copy, Debug)]
struct Took {
    /// By the guest's clock.
    seconds: f64,
    /// CPU time of the daemon's processes.
    cpu: f64,
}

/// Boots a guest for each daemon in every round, and writes `guest.md` to `output`.
pub(super) fn run(airlockfsd: &Path, virtiofsd: &Path, rounds: usize, output: &Path) -> Result<()> {
    provision::install(&[provision::GUEST, provision::TESTS])?;
    let kernel = kernel::get()?;
    let mut took: BTreeMap<(String, &str), Vec<Took>> = BTreeMap::new();
    for round in 0..rounds {
        // Alternate the order: the first daemon may leave something behind for the second.
        for at in 0..DAEMONS.len() {
            let which = (at + round) % DAEMONS.len();
            let name = DAEMONS[which];
            let program = [airlockfsd, virtiofsd][which];
            let share = Scratch::new()?;
            prepare(share.path())?;
            let mut daemon = Daemon::start(program, share.path(), TAG, &[])?;
            println!("== round {}, {name}", round + 1);
            for (job, result) in guest(&mut daemon, &kernel)? {
                println!("{job:18} {:8.2} s {:8.3} s CPU", result.seconds, result.cpu);
                took.entry((job, name)).or_default().push(result);
            }
        }
    }
    let report = report(&took, rounds);
    fs::create_dir_all(output)?;
    fs::write(output.join("guest.md"), &report)?;
    println!("{report}");
    Ok(())
}

/// Puts into the share what the jobs need.
fn prepare(share: &Path) -> Result<()> {
    for root in ["repo", "archive"] {
        for i in 0..FILES {
            let dir = share.join(root).join(format!("dir{}", i / 20));
            fs::create_dir_all(&dir)?;
            fs::write(
                dir.join(format!("file{i}")),
                format!("file {i}\n").repeat(100 + i * 37 % 400),
            )?;
        }
    }
    fs::create_dir(share.join("work"))?;
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(share.join("repo")).args(arguments);
        git.env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        command::run(&mut git)
    };
    git(&["init", "--quiet"])?;
    git(&["add", "."])?;
    git(&[
        "-c",
        "user.name=bench",
        "-c",
        "user.email=bench@example.org",
        "commit",
        "--quiet",
        "-m",
        "files",
    ])?;
    let mut tar = Command::new("tar");
    tar.arg("-cf")
        .arg(share.join("archive.tar"))
        .arg("-C")
        .arg(share)
        .arg("archive");
    command::run(&mut tar)
}

/// Runs all jobs in one guest.
fn guest(daemon: &mut Daemon, kernel: &kernel::Kernel) -> Result<Vec<(String, Took)>> {
    let path = paths::guest_script("bench.sh");
    let script = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut program = Program::new(TAG, &script);
    program.tools = vec![paths::require("fio")?, paths::require("git")?];
    let machine = Machine {
        memory: 1024,
        share: Some((daemon.socket().to_path_buf(), TAG.to_owned())),
        ..Machine::default()
    };
    let mut vm = Vm::boot(kernel, &program, &machine, || daemon.restart())?;
    let pids = processes(daemon.supervisor())?;
    let mut jobs = Vec::new();
    let mut begun = 0.0;
    let status = vm.follow(LIMIT, |line| {
        if line.starts_with("BEGIN ") {
            begun = cpu(&pids)?;
        } else if let Some(rest) = line.strip_prefix("END ") {
            let words: Vec<&str> = rest.split(' ').collect();
            let &[job, begin, end] = &words[..] else {
                bail!("the guest said '{line}'");
            };
            let seconds = end.parse::<f64>()? - begin.parse::<f64>()?;
            jobs.push((
                job.to_owned(),
                Took {
                    seconds,
                    cpu: cpu(&pids)? - begun,
                },
            ));
        }
        Ok(())
    })?;
    ensure!(
        status == 0,
        "the guest's work ended with status {status}:\n{}",
        vm.console()
    );
    Ok(jobs)
}

/// A process and its children.
fn processes(pid: u32) -> Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut all = vec![pid];
    for child in children.split_whitespace() {
        all.extend(processes(child.parse()?)?);
    }
    Ok(all)
}

/// CPU time of all threads so far, in seconds: the first number of their schedstat, in nanoseconds.
fn cpu(pids: &[u32]) -> Result<f64> {
    let mut sum = 0u64;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path: PathBuf = task?.path().join("schedstat");
            // A thread that ended meanwhile is not there.
            let Ok(text) = fs::read_to_string(path) else {
                continue;
            };
            sum += text.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
        }
    }
    Ok(sum as f64 / 1e9)
}

fn report(took: &BTreeMap<(String, &str), Vec<Took>>, rounds: usize) -> String {
    let mut out = format!(
        "# In a guest\n\n{rounds} rounds, a fresh guest and daemon each; medians. The guest is emulated where there is no \
         KVM: then its own time drowns the daemon's, and the daemon's CPU time says more.\n\n\
         | job | airlockfs, s | virtiofsd, s | ratio of time | CPU s | virtiofsd | ratio |\n|---|---:|---:|---:|---:|---:|---:|\n"
    );
    let jobs: Vec<&String> = took
        .keys()
        .filter(|(_, name)| *name == DAEMONS[0])
        .map(|(job, _)| job)
        .collect();
    for job in jobs {
        let of = |name, field: fn(&Took) -> f64| {
            let mut values: Vec<f64> = took
                .get(&(job.clone(), name))
                .into_iter()
                .flatten()
                .map(field)
                .collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let [ours, peers] = DAEMONS.map(|name| (of(name, |t| t.seconds), of(name, |t| t.cpu)));
        let _ = writeln!(
            out,
            "| {job} | {:.2} | {:.2} | {:.2} | {:.3} | {:.3} | {:.2} |",
            ours.0,
            peers.0,
            ours.0 / peers.0,
            ours.1,
            peers.1,
            ours.1 / peers.1
        );
    }
    out
}
