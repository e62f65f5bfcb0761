//! A policy as it is printed, saved and read back: the profiles of both processes with a digest each.

use std::fmt;

use airlockfs_ipc::message::SeccompMode;
use airlockfs_options::{Cli, profiles};
use airlockfs_policy::{Pin, Profile, Test, Width, digest};
use serde::{Deserialize, Serialize};

/// Both processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policy {
    /// Version of airlockfs that wrote it.
    pub(super) version: String,
    /// Architecture of the system call numbers.
    pub(super) architecture: String,
    pub(super) supervisor: Named,
    pub(super) worker: Named,
}

/// A profile with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    /// The name of exactly this profile ([`airlockfs_policy::digest`]).
    pub(super) digest: String,
    #[serde(flatten)]
    pub(super) profile: Document,
}

/// What one process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Document {
    /// What a system call does that is not listed: kill, log, trap, or allow where there is no filter.
    pub(super) default_action: String,
    pub(super) syscalls: Vec<Syscall>,
    /// Rights beneath the share; all others, the network and signals outwards are denied.
    pub(super) landlock: Vec<Grant>,
    /// Permitted and effective; the bounding, inheritable and ambient sets are empty.
    pub(super) capabilities: Vec<Grant>,
    pub(super) namespaces: Vec<Grant>,
    pub(super) limits: Vec<Limit>,
    /// What else holds: ids, sets, securebits, mounts, descriptors and what Landlock denies.
    pub(super) state: Vec<Held>,
}

/// A line of the system call table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Syscall {
    pub(super) name: String,
    pub(super) number: i64,
    /// Alternatives, one of which must hold whole; none: any arguments.
    pub(super) arguments: Vec<Vec<Argument>>,
    /// It is answered with this error number instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) errno: Option<i32>,
    pub(super) feature: String,
    pub(super) reason: String,
}

/// A pinned argument. Numbers are hexadecimal text: many JSON readers keep 53 bits only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Argument {
    pub(super) index: u8,
    /// How much of the register counts: 32 or 64.
    pub(super) bits: u8,
    /// Only these bits are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mask: Option<String>,
    /// The value is the one that does not pass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) not: bool,
    pub(super) value: String,
}

/// Something granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) feature: Option<String>,
    pub(super) reason: String,
}

/// Something that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) subject: String,
    pub(super) name: String,
    pub(super) reason: String,
}

/// A resource limit, soft and hard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) value: u64,
    pub(super) reason: String,
}

impl Policy {
    /// What serving with these options, started as root or not, is allowed.
    pub(super) fn of(cli: &Cli, as_root: bool) -> Self {
        let (supervisor, worker) = profiles(cli, as_root);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            supervisor: Named::new(&supervisor),
            worker: Named::new(&worker),
        }
    }

    /// Both, each with what it is called.
    pub(super) fn both(&self) -> [(&'static str, &Named); 2] {
        [("supervisor", &self.supervisor), ("worker", &self.worker)]
    }
}

impl Named {
    fn new(profile: &Profile) -> Self {
        Self {
            digest: digest(profile.outline()),
            profile: Document::of(profile),
        }
    }
}

impl Document {
    pub(super) fn of(profile: &Profile) -> Self {
        let default_action = match profile.seccomp {
            SeccompMode::Kill => "kill",
            SeccompMode::Log => "log",
            SeccompMode::Trap => "trap",
            SeccompMode::None => "allow",
        };
        let rights = profile.landlock.rights.iter();
        Self {
            default_action: default_action.to_owned(),
            syscalls: profile.syscalls.iter().map(syscall).collect(),
            landlock: rights
                .map(|right| Grant {
                    feature: Some(right.feature.name().to_owned()),
                    ..grant(right.name, right.reason)
                })
                .collect(),
            capabilities: profile
                .capabilities
                .iter()
                .map(|kept| grant(&kept.what.to_string(), kept.reason))
                .collect(),
            namespaces: profile
                .namespaces
                .iter()
                .map(|own| grant(own.what, own.reason))
                .collect(),
            limits: profile
                .limits
                .iter()
                .map(|limit| Limit {
                    name: limit.name.to_owned(),
                    value: limit.value,
                    reason: limit.reason.to_owned(),
                })
                .collect(),
            state: profile
                .state
                .iter()
                .map(|held| Held {
                    subject: held.subject.to_owned(),
                    name: held.what.to_owned(),
                    reason: held.reason.to_owned(),
                })
                .collect(),
        }
    }

    /// The lines of [`Profile::outline`], of the process of this name.
    fn outline(&self, process: &str) -> Vec<String> {
        let mut lines = vec![
            format!("process {process}"),
            format!("forbidden {}", self.default_action),
        ];
        lines.extend(
            self.syscalls
                .iter()
                .map(|call| format!("call {}", call.outline())),
        );
        let rights = self.landlock.iter();
        lines.extend(rights.map(|right| {
            let feature = right.feature.as_deref().unwrap_or_default();
            format!("landlock {} {feature}", right.name)
        }));
        let kept = self.capabilities.iter();
        lines.extend(kept.map(|kept| format!("capability {}", kept.name)));
        let own = self.namespaces.iter();
        lines.extend(own.map(|own| format!("namespace {}", own.name)));
        let limits = self.limits.iter();
        lines.extend(limits.map(|limit| format!("limit {} {}", limit.name, limit.value)));
        let state = self.state.iter();
        lines.extend(state.map(|held| format!("{}: {}", held.subject, held.name)));
        lines
    }

    /// The name of exactly this profile, of the process of this name.
    pub(super) fn digest(&self, process: &str) -> String {
        digest(self.outline(process))
    }
}

impl Syscall {
    fn outline(&self) -> String {
        let pin = |pin: &Argument| match pin.bits {
            32 => format!("{pin} (int)"),
            _ => pin.to_string(),
        };
        let alternatives = self.arguments.iter();
        let alternatives = alternatives.map(|pins| pins.iter().map(pin).collect::<Vec<_>>().join(" and "));
        let alternatives: Vec<String> = alternatives.collect();
        let mut line = format!("{} {}", self.name, self.number);
        if !alternatives.is_empty() {
            line += &format!(" if {}", alternatives.join(" or "));
        }
        if let Some(errno) = self.errno {
            line += &format!(" is error {errno}");
        }
        line
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mask {
            None if self.not => write!(f, "arg{} != {}", self.index, self.value),
            None => write!(f, "arg{} == {}", self.index, self.value),
            Some(mask) => write!(f, "arg{} & {mask} == {}", self.index, self.value),
        }
    }
}

fn grant(name: &str, reason: &str) -> Grant {
    Grant {
        name: name.to_owned(),
        feature: None,
        reason: reason.to_owned(),
    }
}

/// A rule as it is printed.
pub(super) fn syscall(rule: &airlockfs_policy::SyscallRule) -> Syscall {
    Syscall {
        name: rule.name.to_owned(),
        number: rule.number,
        arguments: rule
            .pins
            .iter()
            .map(|pins| pins.iter().map(argument).collect())
            .collect(),
        errno: rule.errno,
        feature: rule.feature.name().to_owned(),
        reason: rule.reason.to_owned(),
    }
}

fn argument(pin: &Pin) -> Argument {
    let (mask, value) = match pin.test {
        Test::Is(value) => (None, value),
        Test::Bits(mask, value) => (Some(format!("{mask:#x}")), value),
        Test::Not(value) => (None, value),
    };
    Argument {
        index: pin.argument,
        bits: match pin.width {
            Width::Int => 32,
            Width::Long => 64,
        },
        mask,
        not: matches!(pin.test, Test::Not(_)),
        value: format!("{value:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_the_digest_of_the_profile_that_it_was_made_from() {
        for options in [
            "",
            "--readonly",
            "--xattr --allow-device-nodes --allow-project-ids --allow-immutable",
            "--no-donate --posix-lock --flock --seccomp=trap",
            "--sandbox=none --seccomp=none --uid=1 --gid=1 --no-setuid --xattr",
        ] {
            let words = ["airlockfsd"].into_iter().chain(options.split_whitespace());
            let cli = airlockfs_options::parse(words.map(Into::into)).unwrap();
            for as_root in [true, false] {
                let policy = Policy::of(&cli, as_root);
                for (name, named) in policy.both() {
                    assert_eq!(named.profile.digest(name), named.digest, "{options}: {name}");
                }
            }
        }
    }
}
