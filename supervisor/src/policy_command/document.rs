//! A policy as it is printed, saved and read back: the profiles of both processes with a digest each.

use airlockfs_ipc::message::SeccompMode;
use airlockfs_policy::{Pin, Profile, Test, Width};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{cli::Cli, settings};

/// Both processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// Version of airlockfs that wrote it.
    pub(crate) version: String,
    /// Architecture of the system call numbers.
    pub(crate) architecture: String,
    pub(crate) supervisor: Named,
    pub(crate) worker: Named,
}

/// A profile with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    /// `sha256:` and the SHA-256 of the profile as JSON without spaces and without this field.
    pub(crate) digest: String,
    #[serde(flatten)]
    pub(crate) profile: Document,
}

/// What one process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// What a system call does that is not listed: kill, log, trap, or allow where there is no filter.
    pub(crate) default_action: String,
    pub(crate) syscalls: Vec<Syscall>,
    /// Rights beneath the share; all others, the network and signals outwards are denied.
    pub(crate) landlock: Vec<Grant>,
    /// Permitted and effective; the bounding, inheritable and ambient sets are empty.
    pub(crate) capabilities: Vec<Grant>,
    pub(crate) namespaces: Vec<Grant>,
    pub(crate) limits: Vec<Limit>,
    /// What else holds: ids, sets, securebits, mounts, descriptors and what Landlock denies.
    pub(crate) state: Vec<Held>,
}

/// A line of the system call table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Syscall {
    pub(crate) name: String,
    pub(crate) number: i64,
    /// Alternatives, one of which must hold whole; none: any arguments.
    pub(crate) arguments: Vec<Vec<Argument>>,
    /// It is answered with this error number instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errno: Option<i32>,
    pub(crate) feature: String,
    pub(crate) reason: String,
}

/// A pinned argument. Numbers are hexadecimal text: many JSON readers keep 53 bits only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Argument {
    pub(crate) index: u8,
    /// How much of the register counts: 32 or 64.
    pub(crate) bits: u8,
    /// Only these bits are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mask: Option<String>,
    /// The value is the one that does not pass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) not: bool,
    pub(crate) value: String,
}

/// Something granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// Something that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) subject: String,
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// A resource limit, soft and hard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) value: u64,
    pub(crate) reason: String,
}

impl Policy {
    /// What serving with these options, started as root or not, is allowed.
    pub(crate) fn of(cli: &Cli, as_root: bool) -> Self {
        let (supervisor, worker) = settings::profiles(cli, as_root);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            supervisor: Named::new(Document::of(&supervisor)),
            worker: Named::new(Document::of(&worker)),
        }
    }

    /// Both, each with what it is called.
    pub(crate) fn both(&self) -> [(&'static str, &Named); 2] {
        [("supervisor", &self.supervisor), ("worker", &self.worker)]
    }
}

impl Named {
    fn new(profile: Document) -> Self {
        Self {
            digest: profile.digest(),
            profile,
        }
    }
}

impl Document {
    pub(crate) fn of(profile: &Profile) -> Self {
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
            landlock: rights.map(|right| grant(right.name, right.reason)).collect(),
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

    /// The name of exactly this profile.
    pub(crate) fn digest(&self) -> String {
        // Strings and numbers in structures and lists always have a form in JSON.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let hash = Sha256::digest(&text);
        let hexadecimal: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hexadecimal}")
    }
}

fn grant(name: &str, reason: &str) -> Grant {
    Grant {
        name: name.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A rule as it is printed.
pub(crate) fn syscall(rule: &airlockfs_policy::SyscallRule) -> Syscall {
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
