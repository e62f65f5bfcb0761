//! Follows the processes and notes which rules they use.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use airlockfs_policy::{Feature, Process, SyscallRule, all_rules};

use super::ptrace::{self, Stop};

/// Has another process trace this one and its children from now on.
pub(crate) fn attach(directory: PathBuf, options: Options) -> io::Result<()> {
    let process = std::process::id();
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let notes = directory.join(format!("{process}-{}", begun.as_nanos()));
    // Whoever reads the notes waits for those that are still open.
    let open = notes.with_extension("open");
    fs::write(&open, "")?;
    ptrace::aside(move |attached| {
        let traced = ptrace::seize(process as i32);
        drop(attached);
        let text = traced.and_then(|()| Tracer::new(options).follow());
        let text = text.unwrap_or_else(|error| format!("failed {error}\n"));
        // Nobody to tell; the one who reads the files misses them.
        let _ = fs::write(&open, text);
        let _ = fs::rename(open, notes);
    })
}

/// What is known of a process.
struct Known {
    process: Option<Process>,
    /// It has installed a filter: what it calls before is not the policy's business.
    filtered: bool,
}

/// Options of the daemon that choose between rules for one call.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// Nothing of the share changes.
    pub(crate) readonly: bool,
    /// Files may have set-user-ID and set-group-ID bits.
    pub(crate) set_ids: bool,
}

struct Tracer {
    options: Options,
    rules: [Vec<&'static SyscallRule>; 2],
    /// Thread to process.
    process_of: HashMap<i32, i32>,
    known: HashMap<i32, Known>,
    used: BTreeSet<(usize, usize, usize)>,
}

const NAMES: [&str; 2] = ["supervisor", "worker"];

impl Tracer {
    fn new(options: Options) -> Self {
        Self {
            options,
            rules: [Process::Supervisor, Process::Worker].map(|process| all_rules(process).collect()),
            process_of: HashMap::new(),
            known: HashMap::new(),
            used: BTreeSet::new(),
        }
    }

    /// Until all have ended.
    fn follow(mut self) -> io::Result<String> {
        while let Some((thread, stop)) = ptrace::wait()? {
            // These fail for a thread that was killed meanwhile; its end comes next.
            let _ = match stop {
                Stop::Ended => {
                    self.process_of.remove(&thread);
                    self.known.remove(&thread);
                    continue;
                }
                Stop::Call => {
                    if let Some((number, arguments)) = ptrace::entered(thread) {
                        self.note(thread, number, &arguments);
                    }
                    ptrace::go_on(thread, 0)
                }
                Stop::Signal(signal) => ptrace::go_on(thread, signal),
                Stop::Group => ptrace::listen(thread),
                Stop::Event => ptrace::go_on(thread, 0),
            };
        }
        let mut text = String::new();
        for (process, rule, alternative) in self.used {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} {rule} {alternative}", NAMES[process]);
        }
        Ok(text)
    }

    fn note(&mut self, thread: i32, number: i64, arguments: &[u64; 6]) {
        let process = *self.process_of.entry(thread).or_insert_with(|| leader(thread));
        if number == libc::SYS_execve || number == libc::SYS_execveat {
            self.known.remove(&process);
            return;
        }
        let known = self.known.entry(process).or_insert_with(|| Known {
            process: program(process),
            filtered: false,
        });
        if !known.filtered {
            known.filtered = number == libc::SYS_seccomp && known.process.is_some();
            return;
        }
        let index = match known.process {
            Some(Process::Supervisor) => 0,
            Some(Process::Worker) => 1,
            None => return,
        };
        let counts = |rule: &SyscallRule| match rule.feature {
            Feature::ReadOnly => self.options.readonly,
            Feature::Write => !self.options.readonly,
            Feature::SetId => !self.options.readonly && self.options.set_ids,
            Feature::NoSetId => !self.options.readonly && !self.options.set_ids,
            _ => true,
        };
        // The first: what a later one allows besides is what it is there for.
        let rules = self.rules[index].iter().enumerate();
        let mut found = rules.filter(|(_, rule)| rule.number == number && counts(rule));
        if let Some((rule, alternative)) =
            found.find_map(|(index, rule)| Some((index, rule.matching(arguments)?)))
        {
            self.used.insert((index, rule, alternative));
        }
    }
}

/// The process of a thread.
fn leader(thread: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or(thread)
}

/// Which of ours it executes.
fn program(process: i32) -> Option<Process> {
    let link = fs::read_link(Path::new("/proc").join(process.to_string()).join("exe")).ok()?;
    match link.file_name()?.to_str()? {
        "airlockfsd" => Some(Process::Supervisor),
        "airlockfs-worker" => Some(Process::Worker),
        _ => None,
    }
}
