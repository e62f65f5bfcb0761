//! A profile in short lines without reasons. Each process seals them with its report, so that `audit` can tell a pair
//! that runs under another profile than its command line means, and in what (another version of a program, say).
//! The digest of these lines names the profile.

use airlockfs_ipc::message::SeccompMode;

use crate::Profile;
use crate::profile::Process;
use crate::rule::{Pin, SyscallRule, Width};

impl Profile {
    /// All of it that confines, a grant to a line. The same lines are the same profile.
    pub fn outline(&self) -> Vec<String> {
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
        let mut lines = vec![format!("process {process}"), format!("forbidden {forbidden}")];
        lines.extend(self.syscalls.iter().map(|rule| format!("call {}", call(rule))));
        let rights = self.landlock.rights.iter();
        lines.extend(rights.map(|right| format!("landlock {} {}", right.name, right.feature)));
        let kept = self.capabilities.iter();
        lines.extend(kept.map(|kept| format!("capability {}", kept.what)));
        let own = self.namespaces.iter();
        lines.extend(own.map(|own| format!("namespace {}", own.what)));
        let limits = self.limits.iter();
        lines.extend(limits.map(|limit| format!("limit {} {}", limit.name, limit.value)));
        let state = self.state.iter();
        lines.extend(state.map(|held| format!("{}: {}", held.subject, held.what)));
        lines
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

/// The name of exactly the profile with this outline: `sha256:` and the SHA-256 of its lines, each with a line feed.
/// Two that differ never share it, also where somebody tries.
#[cfg(feature = "digest")]
pub fn digest<S: AsRef<str>>(outline: impl IntoIterator<Item = S>) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for line in outline {
        hash.update(line.as_ref());
        hash.update("\n");
    }
    let hexadecimal: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hexadecimal}")
}
