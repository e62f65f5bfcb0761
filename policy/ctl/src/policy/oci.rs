//! A policy as a seccomp profile of the OCI runtime specification (config-linux.md, `linux.seccomp`): what a container
//! that holds both processes must let through once they are confined.

use std::collections::BTreeMap;

use airlockfs_options::{Cli, profiles};
use airlockfs_policy::{Pin, Test, Width};
use serde::Serialize;

/// `linux.seccomp`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Filter {
    default_action: &'static str,
    architectures: Vec<&'static str>,
    syscalls: Vec<Rule>,
}

/// An entry of `syscalls`; `args` must all hold.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<&'static str>,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Arg>,
}

/// A condition on an argument.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: u8,
    value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_two: Option<u64>,
    op: &'static str,
}

/// What either process may call, served with these options.
pub(super) fn filter(cli: &Cli) -> Filter {
    let (supervisor, worker) = profiles(cli, nix::unistd::geteuid().is_root());
    let mut syscalls: Vec<Rule> = Vec::new();
    for rule in supervisor.syscalls.iter().chain(&worker.syscalls) {
        let alternatives: &[&[Pin]] = if rule.pins.is_empty() { &[&[]] } else { rule.pins };
        for pins in alternatives {
            let entry = Rule {
                names: vec![rule.name],
                action: match rule.errno {
                    None => "SCMP_ACT_ALLOW",
                    Some(_) => "SCMP_ACT_ERRNO",
                },
                errno_ret: rule.errno,
                args: args(pins),
            };
            if !syscalls.contains(&entry) {
                syscalls.push(entry);
            }
        }
    }
    Filter {
        default_action: "SCMP_ACT_KILL_PROCESS",
        architectures: match std::env::consts::ARCH {
            "x86_64" => vec!["SCMP_ARCH_X86_64"],
            "aarch64" => vec!["SCMP_ARCH_AARCH64"],
            _ => Vec::new(),
        },
        syscalls,
    }
}

/// Conditions, one for each argument at most: container runtimes take several of one argument as alternatives. Of an
/// `int` argument the upper half of the register does not count, so it is masked away; but where a value is forbidden there
/// is no condition for that, and libseccomp compares the whole register: what has that value in its lower half alone passes
/// here, and not the processes' own filters.
fn args(pins: &[Pin]) -> Vec<Arg> {
    let mut unequal = Vec::new();
    let mut by_argument: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
    for pin in pins {
        let (mask, value) = match (pin.test, pin.width) {
            (Test::Bits(mask, value), _) => (mask, value),
            (Test::Is(value), Width::Int) => (0xffff_ffff, value),
            (Test::Is(value), Width::Long) => (u64::MAX, value),
            (Test::Not(value), _) => {
                unequal.push(Arg {
                    index: pin.argument,
                    value,
                    value_two: None,
                    op: "SCMP_CMP_NE",
                });
                continue;
            }
        };
        let both = by_argument.entry(pin.argument).or_default();
        *both = (both.0 | mask, both.1 | value);
    }
    let equal = by_argument.into_iter().map(|(index, (mask, value))| match mask {
        u64::MAX => Arg {
            index,
            value,
            value_two: None,
            op: "SCMP_CMP_EQ",
        },
        _ => Arg {
            index,
            value: mask,
            value_two: Some(value),
            op: "SCMP_CMP_MASKED_EQ",
        },
    });
    unequal.into_iter().chain(equal).collect()
}
