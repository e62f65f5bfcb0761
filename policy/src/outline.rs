//! A profile in short lines without reasons: what each process seals with its report, so that `audit` can tell a pair
//! that runs under another profile than its command line means, and in what (another version of a program, say).

use std::fmt::Write as _;

use airlockfs_ipc::message::SeccompMode;

use crate::Profile;
use crate::profile::Process;
use crate::rule::{Pin, SyscallRule, Width};

impl Profile {
    /// All of it that confines, a grant to a line. The same lines are the same profile.
    pub fn outline(&self) -> String {
        let process = match self.process {
            Process::Supervisor => "supervisor",
            Process::Worker => "worker",
        };
        let forbidden = match self.seccomp {
            SeccompMode::Kill => "kill",
            SeccompMode::Log => "log",
            SeccompMode::Trap => "trap",
            SeccompMode::None => "allow",
        };
        let mut out = format!("process {process}\nforbidden {forbidden}\n");
        // Writing to a String cannot fail.
        for rule in &self.syscalls {
            let _ = writeln!(out, "call {}", call(rule));
        }
        for right in &self.landlock.rights {
            let _ = writeln!(out, "landlock {} {}", right.name, right.feature);
        }
        for kept in &self.capabilities {
            let _ = writeln!(out, "capability {}", kept.what);
        }
        for own in &self.namespaces {
            let _ = writeln!(out, "namespace {}", own.what);
        }
        for limit in &self.limits {
            let _ = writeln!(out, "limit {} {}", limit.name, limit.value);
        }
        for held in &self.state {
            let _ = writeln!(out, "{}: {}", held.subject, held.what);
        }
        out
    }
}

fn call(rule: &SyscallRule) -> String {
    let pin = |pin: &Pin| match pin.width {
        Width::Int => format!("{pin} (int)"),
        Width::Long => pin.to_string(),
    };
    let alternatives = rule.pins.iter();
    let alternatives = alternatives.map(|pins| pins.iter().map(pin).collect::<Vec<_>>().join(" and "));
    let mut line = format!("{} {}", rule.name, rule.number);
    if !rule.pins.is_empty() {
        line += &format!(" if {}", alternatives.collect::<Vec<_>>().join(" or "));
    }
    if let Some(errno) = rule.errno {
        line += &format!(" is error {errno}");
    }
    line
}
